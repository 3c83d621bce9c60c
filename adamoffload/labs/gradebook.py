"""Grades a class: a row for every file, whatever is in it, and what to talk about afterwards."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamoffload.files import replacing
from adamoffload.labs.grading import Lab, Score, check
from adamoffload.labs.roster import Submission

__all__ = ["Row", "common_reasons", "feedback", "grade", "gradescope", "table", "write"]


_BEFORE = ("student", "score", "points")
_AFTER = ("reasons", "error", "seconds", "file", "sha256", "version", "seed")


@dataclass(frozen=True, slots=True)
class Row:
    """How one file did.

    Attributes
    ----------
    submission : Submission
        Which file.
    score : Score or None
        Its points; None if it could not be graded.
    error : str
        Why it could not, or nothing.
    seconds : float
        How long that took.
    sha256 : str
        The digest of the file that was graded, in hexadecimal.
    """

    submission: Submission
    score: Score | None
    error: str
    seconds: float
    sha256: str


def grade(
    number: int, found: Sequence[Submission], *, seed: int = 0, jobs: int = 1
) -> Iterator[Row]:
    """Grade files, several at a time; yield a row for each, in their order.

    Scores are what `check` returns in this process; nothing that a file prints is read.

    Parameters
    ----------
    number : int
        Which lab, from 1.
    found : sequence of Submission
        The files.
    seed : int
        What the graders draw their numbers from.
    jobs : int
        How many files are graded at a time.
    """

    def one(submission: Submission) -> Row:
        begin_s = time.monotonic()
        digest, score, error = "", None, ""
        try:
            digest = hashlib.sha256(submission.path.read_bytes()).hexdigest()
            score = check(number, submission.path, seed)
        except Exception as failure:  # a row for whatever happens
            error = f"not graded ({type(failure).__name__}: {failure})"
        return Row(submission, score, error, time.monotonic() - begin_s, digest)

    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(one, found)


def table(rows: Sequence[Row], lab: Lab, *, version: str, seed: int) -> str:
    """Return a table as text, in CSV: a line for each file, its tasks and the reasons.

    Parameters
    ----------
    rows : sequence of Row
        What was graded.
    lab : Lab
        Which lab.
    version, seed : str, int
        With which graders, and which numbers.
    """
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    tasks = [task.name for task in lab.tasks]
    out.writerow([*_BEFORE, *tasks, *_AFTER])
    for row in rows:
        results = row.score.results if row.score else ()
        points = [str(result.score) for result in results] or [""] * len(tasks)
        reasons = "\n".join(f"{r.task}: {r.reason}" for r in results if r.reason)
        error = "; ".join(filter(None, [row.error, row.submission.note]))
        out.writerow(
            [
                _cell(row.submission.student),
                row.score.score if row.score else 0,
                sum(task.points for task in lab.tasks),
                *points,
                _cell(reasons),
                _cell(error),
                f"{row.seconds:.1f}",
                _cell(row.submission.path.name),
                row.sha256,
                version,
                seed,
            ]
        )
    return text.getvalue()


def _cell(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    text = text.encode(errors="backslashreplace").decode()
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def write(path: Path, text: str) -> None:
    """Write a file whole, or leave the one that is there; raises OSError."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def feedback(row: Row) -> str:
    """Return what a student is told."""
    said = str(row.score) if row.score else row.error
    return f"{row.submission.path.name}\n\n{said}\n".encode(errors="backslashreplace").decode()


def gradescope(row: Row) -> str:
    """Return a result as Gradescope takes it, in JSON: the file ``results.json``.

    References
    ----------
    Gradescope, "Autograder Specifications", output format.
    """
    results = row.score.results if row.score else ()
    return json.dumps(
        {
            "score": row.score.score if row.score else 0,
            "execution_time": round(row.seconds),
            "output": row.error or (row.score.output if row.score else ""),
            "tests": [
                {
                    "name": result.task,
                    "score": result.score,
                    "max_score": result.points,
                    "status": "passed" if result.score == result.points else "failed",
                    "output": result.reason,
                }
                for result in results
            ],
            "extra_data": {"sha256": row.sha256, "seed": row.score.seed if row.score else None},
        },
        indent=2,
    )


def common_reasons(rows: Sequence[Row], most: int = 5) -> list[tuple[int, str, str]]:
    """Return what most files lost points for: how many did, the task, and the reason.

    Parameters
    ----------
    rows : sequence of Row
        What was graded.
    most : int
        How many reasons.
    """
    count: Counter[Any] = Counter(
        (result.task, result.reason)
        for row in rows
        if row.score
        for result in row.score.results
        if result.reason
    )
    return [(times, *which) for which, times in count.most_common(most)]
