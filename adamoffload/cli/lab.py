"""``adamoffload lab``: hand out a lab of the course, or grade one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from adamoffload.cli.text import UsageError

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to the command line."""
    lab = commands.add_parser("lab", help="start or check a lab of the course")
    labs = lab.add_subparsers(required=True, metavar="COMMAND")
    begin = labs.add_parser("start", help="put a lab's statement and the file with gaps somewhere")
    begin.add_argument("number", type=int, metavar="N", help="which lab, from 1")
    begin.add_argument("directory", type=Path, metavar="DIR", help="folder for the files")
    begin.set_defaults(run=_start_lab)
    check = labs.add_parser("check", help="grade a file: points, and a reason for each one lost")
    check.add_argument("number", type=int, metavar="N", help="which lab, from 1")
    check.add_argument("file", type=Path, metavar="FILE", help="your file")
    check.add_argument("--json", action="store_true", help="print the score as JSON")
    check.set_defaults(run=_check_lab)


def _start_lab(arguments: argparse.Namespace) -> int:
    from adamoffload.labs import grading

    try:
        files = grading.start(arguments.number, arguments.directory)
    except (OSError, ValueError) as error:
        raise UsageError(error) from None
    for path in files:
        print(path)
    return 0


def _check_lab(arguments: argparse.Namespace) -> int:
    from adamoffload.labs import grading

    try:
        score = grading.check(arguments.number, arguments.file)
    except (OSError, ValueError) as error:
        raise UsageError(error) from None
    print(json.dumps(score.as_dict(), indent=2) if arguments.json else score)
    return 0 if score.score == score.points else 1
