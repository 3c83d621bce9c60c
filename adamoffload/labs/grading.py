"""How a lab is graded: tasks with points, and a reason for every point lost."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adamoffload.files import replacing
from adamoffload.labs.reasons import Cheating, Mistake, printable
from adamoffload.labs.source import Source, read, refuse, without_unused
from adamoffload.labs.student import Student

__all__ = [
    "NUMBERS",
    "Lab",
    "Result",
    "Score",
    "Task",
    "check",
    "duration",
    "graded",
    "halves",
    "lab",
    "start",
]

_LONGEST_REASON = 1000
NUMBERS = (1, 2, 3, 4, 5, 6, 7, 8)
"""The labs there are."""


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to get right.

    Attributes
    ----------
    name : str
        What it is called in the statement.
    points : int
        What it is worth.
    check : callable
        Takes a `Student` and raises `Mistake`, with the reason, if the task is not solved.
    defines : tuple of str
        The functions that the student writes here.
    needs : tuple of str
        The functions of earlier tasks that it builds on: where one of those has lost points, the
        task is graded with the grader's own in its place.
    most : int or None
        In how many tasks such functions may have lost points; None for any number. A limit is for
        tasks in which nothing is written, or they would be solved by the grader alone.
    """

    name: str
    points: int
    check: Callable[[Student], None]
    defines: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab's tasks and rules.

    Attributes
    ----------
    title : str
        Its title.
    tasks : tuple of Task
        What is graded, in the statement's order.
    limit_s : float
        Seconds that loading the student's file, or one call into it, may take.
    forbidden : tuple of str
        Modules that would solve the lab by themselves, which the file may not import.
    parts : mapping from str to callable
        The grader's own version of functions that tasks build on.
    """

    title: str
    tasks: tuple[Task, ...]
    limit_s: float = 10.0
    forbidden: tuple[str, ...] = ()
    parts: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """How one task went: the points got and possible, and the reason if some are missing."""

    task: str
    score: int
    points: int
    reason: str


@dataclass(frozen=True, slots=True)
class Score:
    """How a lab went.

    Attributes
    ----------
    lab : int
        The lab's number.
    title : str
        Its title.
    results : tuple of Result
        One for each task.
    output : str
        What the student's code printed, shortened.
    seed : int
        What the graders' numbers were drawn from.
    """

    lab: int
    title: str
    results: tuple[Result, ...]
    output: str
    seed: int = 0

    @property
    def score(self) -> int:
        """Points got."""
        return sum(result.score for result in self.results)

    @property
    def points(self) -> int:
        """Points possible."""
        return sum(result.points for result in self.results)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain data, for JSON."""
        tasks = [
            {"task": r.task, "score": r.score, "points": r.points, "reason": r.reason}
            for r in self.results
        ]
        return {
            "lab": self.lab,
            "title": self.title,
            "seed": self.seed,
            "score": self.score,
            "points": self.points,
            "tasks": tasks,
            "output": self.output,
        }

    def __str__(self) -> str:
        lines = [f"Lab {self.lab}: {self.title}", ""]
        if self.output:
            printed = (f"  | {line}" for line in self.output.rstrip("\n").split("\n"))
            lines += ["Your code printed:", *printed, ""]
        shared = {result.reason for result in self.results}
        for result in self.results:
            mark = "ok  " if result.score == result.points else "    "
            lines.append(f"  {mark}{result.score:>2}/{result.points:<2}  {result.task}")
            if result.reason and len(shared) > 1:
                lines.append(f"               {result.reason}")
        if len(shared) == 1 and shared != {""}:
            lines += ["", f"In every task: {shared.pop()}"]
        lines += ["", f"{self.score} of {self.points} points"]
        return "\n".join(lines)


def lab(number: int) -> Lab:
    """Return a lab.

    Parameters
    ----------
    number : int
        Which one, from 1.

    Raises
    ------
    ValueError
        If there is no such lab.
    """
    _folder(number)
    grader = importlib.import_module(f"adamoffload.labs.lab{number}.grader")
    found: Lab = grader.LAB
    return found


def duration(number: int) -> str:
    """Return how long a lab takes, as its statement says.

    Parameters
    ----------
    number : int
        Which lab, from 1.

    Raises
    ------
    ValueError
        If there is no such lab.

    Examples
    --------
    >>> duration(3)
    '75 to 90 minutes'
    """
    field = ":Time:"
    statement = (_folder(number) / "statement.rst").read_text("utf-8")
    (line,) = (line for line in statement.splitlines() if line.startswith(field))
    return line.removeprefix(field).strip()


def start(number: int, directory: Path) -> tuple[Path, ...]:
    """Hand out a lab: its statement and the file with gaps.

    Parameters
    ----------
    number : int
        Which lab, from 1.
    directory : Path
        Where to put the files; made if it does not exist.

    Returns
    -------
    tuple of Path
        The files written.

    Raises
    ------
    ValueError
        If there is no such lab.
    FileExistsError
        If one of the files is there already, nothing is overwritten; or if a file has the
        directory's name.
    OSError
        If the directory cannot be made or written.
    """
    folder = _folder(number)
    given = {f"lab{number}.py": folder / "student.py", f"lab{number}.rst": folder / "statement.rst"}
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise FileExistsError(
            f"{directory} cannot be a folder: a file has that name, or one above it"
        ) from None
    for name in given:
        if (directory / name).exists():
            raise FileExistsError(
                f"{directory / name} exists already; it was not overwritten. Choose another "
                f"folder, or move it away to begin again"
            )
    files = tuple(directory / name for name in given)
    try:
        for file, source in zip(files, given.values(), strict=True):
            with replacing(file) as copy:
                copy.write(source.read_bytes())
    except OSError:
        for file in files:  # none of them was there: one alone would be in the way of the next try
            file.unlink(missing_ok=True)
        raise
    return files


def check(number: int, path: Path, seed: int = 0) -> Score:
    """Grade a student's file.

    Parameters
    ----------
    number : int
        Which lab, from 1.
    path : Path
        The file: Python, or a notebook.
    seed : int
        What the graders draw their numbers from, >= 0; another one makes other tests.

    Returns
    -------
    Score
        Whatever the file holds and does, there is a score, within a minute.

    Raises
    ------
    ValueError
        If there is no such lab, or the seed is negative.
    FileNotFoundError
        If there is no such file.
    OSError
        If the file cannot be read.
    """
    found = lab(number)
    if seed < 0:
        raise ValueError(f"the seed is {seed}; expected a whole number of at least 0")
    if not path.is_file():  # a pipe or a device need never end
        raise FileNotFoundError(path)
    output = ""
    try:
        source = read(path)
        refuse(source.code, number, NUMBERS, found.forbidden)
        source = Source(source.name, without_unused(source.code, found.forbidden), source.begins)
        scenarios = f"adamoffload.labs.lab{number}.scenarios"
        with Student(source, found.limit_s, scenarios, seed=seed, parts=found.parts) as student:
            results = _results(found, student)
        output = student.output
    except (Cheating, Mistake) as reason:
        results = [_result(task, 0, str(reason)) for task in found.tasks]
    return Score(number, found.title, tuple(results), output, seed)


def _results(found: Lab, student: Student) -> list[Result]:
    results: list[Result] = []
    wrong: list[tuple[str, ...]] = []
    for task in found.tasks:
        missing = [{*task.needs} & {*names} for names in wrong if {*task.needs} & {*names}]
        result = None
        if missing and (task.most is None or len(missing) <= task.most):
            with student.standing_in(sorted(set().union(*missing), key=task.needs.index)):
                result = graded(task, student)
        if result is None or result.score < result.points:
            own = graded(task, student)  # it may work with its own parts, whatever they are
            result = own if result is None or own.score > result.score else result
        if result.score < result.points:
            wrong.append(task.defines)
        results.append(result)
    return results


def _result(task: Task, score: int, reason: str) -> Result:
    return Result(task.name, score, task.points, printable(reason)[:_LONGEST_REASON])


def graded(task: Task, student: Student) -> Result:
    """Grade one task: whatever comes of it is a result.

    Parameters
    ----------
    task : Task
        Which one.
    student : Student
        Whose work.

    Raises
    ------
    Cheating
        If the code reads the grader.
    """
    try:
        task.check(student)
    except Mistake as mistake:
        return _result(task, min(mistake.kept, task.points - 1), str(mistake))
    except Cheating:
        raise
    except Exception as error:  # it came from the student's code, whatever it is
        reason = (
            f"the result is nothing that can be graded ({type(error).__name__}: {error}); is it of "
            f"the types and shapes that the docstring asks for?"
        )
        return _result(task, 0, reason)
    return _result(task, task.points, "")


def halves(*parts: tuple[int, Callable[[Student], None]]) -> Callable[[Student], None]:
    """Return a check of several parts, each of which has points of its own.

    Parameters
    ----------
    *parts : tuple of int and callable
        The points of each part, and its check; the first reason is given.
    """

    def check(student: Student) -> None:
        kept, first = 0, None
        for points, part in parts:
            try:
                part(student)
                kept += points
            except Mistake as mistake:
                first = first or mistake
        if first is not None:
            raise Mistake(str(first), kept)

    return check


def _folder(number: int) -> Path:
    if number not in NUMBERS:
        raise ValueError(f"there is no lab {number}; there are {', '.join(map(str, NUMBERS))}")
    return Path(__file__).parent / f"lab{number}"
