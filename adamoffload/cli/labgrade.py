"""``adamoffload lab grade``: grade all files of a class into one table."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from adamoffload.cli.text import UsageError

__all__ = ["add"]


def add(labs: Any) -> None:
    """Add the command to those of ``lab``."""
    grade = labs.add_parser(
        "grade",
        help="grade a folder of files into a table",
        description="Grades every Python file and notebook in a folder. Names are read as Canvas "
        "and Moodle write them; otherwise they are those of the files.",
    )
    grade.add_argument("number", type=int, metavar="N", help="which lab")
    grade.add_argument("folder", type=Path, metavar="FOLDER", help="what was handed in")
    grade.add_argument("--csv", type=Path, metavar="FILE", required=True, help="the table to write")
    grade.add_argument("--feedback", type=Path, metavar="DIR", help="a text file for each student")
    grade.add_argument("--jobs", type=int, metavar="J", help="files at a time (one for each core)")
    grade.add_argument("--seed", type=int, default=0, metavar="S", help="which tests (0)")
    grade.add_argument(
        "--format",
        choices=("text", "gradescope"),
        default="text",
        help="what feedback is: text, or Gradescope's results.json",
    )
    grade.set_defaults(run=_grade)


def _grade(arguments: argparse.Namespace) -> int:
    import adamoffload as ao
    from adamoffload.labs import gradebook, grading
    from adamoffload.labs.roster import submissions

    jobs = (os.cpu_count() or 1) if arguments.jobs is None else arguments.jobs
    if jobs < 1 or arguments.seed < 0:
        raise UsageError("--jobs takes a whole number of at least 1, --seed one of at least 0")
    try:
        lab = grading.lab(arguments.number)
        found = submissions(arguments.folder)
    except ValueError as error:
        raise UsageError(error) from None
    except NotADirectoryError:
        raise UsageError(f"{arguments.folder} is no folder; expected one with files") from None
    if not found:
        raise UsageError(f"there is no .py or .ipynb file in {arguments.folder}; nothing was done")
    rows: list[gradebook.Row] = []
    try:
        if arguments.feedback is not None:
            arguments.feedback.mkdir(parents=True, exist_ok=True)
        for row in gradebook.grade(arguments.number, found, seed=arguments.seed, jobs=jobs):
            rows.append(row)  # written after each: whatever happens, there is a table
            text = gradebook.table(rows, lab, version=ao.__version__, seed=arguments.seed)
            gradebook.write(arguments.csv, text)
            if arguments.feedback is not None:
                _give_feedback(arguments, row)
            print(f"{len(rows)}/{len(found)}  {_points(row)}  {row.submission.student}", flush=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {error.filename or arguments.csv} ({error.strerror}); the table has the "
            f"files that were graded before"
        ) from None
    _summarise(rows)
    print(f"Table: {arguments.csv}")
    return 0


def _give_feedback(arguments: argparse.Namespace, row: Any) -> None:
    from adamoffload.labs import gradebook

    said, end = gradebook.feedback(row), "txt"
    if arguments.format == "gradescope":
        said, end = gradebook.gradescope(row), "json"
    name = re.sub(r"[^\w() -]", "_", f"{row.submission.student} {row.submission.path.stem}")
    gradebook.write(arguments.feedback / f"{name[:100]}.{end}", said)


def _points(row: Any) -> str:
    return f"{row.score.score:>2} of {row.score.points}" if row.score else "error   "


def _summarise(rows: list[Any]) -> None:
    from adamoffload.labs.gradebook import common_reasons

    reasons = common_reasons(rows)
    if reasons:
        print("\nWhat most of them lost points for:")
    for times, task, reason in reasons:
        print(f"{times:>4}  {task}: {reason}")
