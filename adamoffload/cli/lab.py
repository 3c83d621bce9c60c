"""``adamoffload lab``: list the labs of the course, hand out one, or grade one."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from adamoffload.cli import labgrade
from adamoffload.cli.text import UsageError

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to the command line."""
    lab = commands.add_parser(
        "lab",
        help="list, start or check the labs of the course",
        description="Labs that grade themselves: start one, fill the gaps in its file, and check "
        "it as often as you like.",
    )
    labs = lab.add_subparsers(required=True, metavar="COMMAND")
    every = labs.add_parser("list", help="what there is, and how long it takes")
    every.set_defaults(run=_list_labs)
    begin = labs.add_parser("start", help="put a lab's statement and the file with gaps somewhere")
    begin.add_argument(
        "number", type=int, metavar="N", help="which lab; see 'adamoffload lab list'"
    )
    begin.add_argument("directory", type=Path, metavar="DIR", help="folder for the files")
    begin.set_defaults(run=_start_lab)
    check = labs.add_parser("check", help="grade a file: points, and a reason for each one lost")
    check.add_argument(
        "number", type=int, metavar="N", help="which lab; see 'adamoffload lab list'"
    )
    check.add_argument(
        "file", type=Path, metavar="FILE", help="your file or notebook, or its folder"
    )
    check.add_argument("--json", action="store_true", help="print the score as JSON")
    check.add_argument(
        "--seed", type=int, default=0, metavar="S", help="another one makes other tests (0)"
    )
    check.set_defaults(run=_check_lab)
    labgrade.add(labs)


def _list_labs(_: argparse.Namespace) -> int:
    from adamoffload.labs import grading

    for number in grading.NUMBERS:
        print(f"{number}  {grading.lab(number).title:<28}{grading.duration(number)}")
    return 0


def _start_lab(arguments: argparse.Namespace) -> int:
    from adamoffload.labs import grading

    try:
        work, statement = grading.start(arguments.number, arguments.directory)
    except (FileExistsError, ValueError) as error:
        raise UsageError(error) from None
    except OSError as error:
        raise UsageError(
            f"cannot write into {arguments.directory} ({error.strerror}); choose another folder"
        ) from None
    print(f"Read:  {statement}")
    print(f"Fill:  {work}")
    print(f"Check: adamoffload lab check {arguments.number} {shlex.quote(str(work))}")
    return 0


def _check_lab(arguments: argparse.Namespace) -> int:
    from adamoffload.labs import grading

    number, path = arguments.number, arguments.file
    try:
        if path.is_dir():
            path /= f"lab{number}.py"
        score = grading.check(number, path, arguments.seed)
    except FileNotFoundError:
        raise UsageError(
            f"there is no file {path}; adamoffload lab start {number} DIR makes one to fill in"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(error) from None
    print(json.dumps(score.as_dict(), indent=2) if arguments.json else score)
    return 0 if score.score == score.points else 1
