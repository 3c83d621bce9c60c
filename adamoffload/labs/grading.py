"""How a lab is graded: tasks with points, and a reason for every point lost."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamoffload.files import replacing
from adamoffload.labs.source import refuse
from adamoffload.labs.student import Cheating, Mistake, Student

__all__ = [
    "NUMBERS",
    "Lab",
    "Result",
    "Score",
    "Task",
    "check",
    "duration",
    "graded",
    "lab",
    "start",
]

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
    """

    name: str
    points: int
    check: Callable[[Student], None]


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
    """

    title: str
    tasks: tuple[Task, ...]
    limit_s: float = 10.0
    forbidden: tuple[str, ...] = ()


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
    """

    lab: int
    title: str
    results: tuple[Result, ...]
    output: str

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
            "score": self.score,
            "points": self.points,
            "tasks": tasks,
            "output": self.output,
        }

    def __str__(self) -> str:
        lines = [f"Lab {self.lab}: {self.title}", ""]
        if self.output:
            lines += ["Your code printed:", self.output.rstrip("\n"), ""]
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


def check(number: int, path: Path) -> Score:
    """Grade a student's file.

    Parameters
    ----------
    number : int
        Which lab, from 1.
    path : Path
        The file.

    Returns
    -------
    Score
        Whatever the file holds and does, there is a score.

    Raises
    ------
    ValueError
        If there is no such lab.
    FileNotFoundError
        If there is no such file.
    OSError
        If the file cannot be read.
    """
    found = lab(number)
    if not path.is_file():  # a pipe or a device need never end
        raise FileNotFoundError(path)
    source = path.read_bytes()
    scenarios = f"adamoffload.labs.lab{number}.scenarios"
    with Student(path, found.limit_s, scenarios) as student:
        try:
            refuse(source, number, NUMBERS, (*found.forbidden, "adamoffload.labs"))
            results = [graded(task, student) for task in found.tasks]
        except (Cheating, Mistake) as reason:
            results = [Result(task.name, 0, task.points, str(reason)) for task in found.tasks]
    return Score(number, found.title, tuple(results), student.output)


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
        return Result(task.name, 0, task.points, str(mistake))
    except Cheating:
        raise
    except Exception as error:  # it came from the student's code, whatever it is
        reason = (
            f"the result is nothing that can be graded ({type(error).__name__}: {error}); is it of "
            f"the types and shapes that the docstring asks for?"
        )
        return Result(task.name, 0, task.points, reason)
    return Result(task.name, task.points, task.points, "")


def _folder(number: int) -> Path:
    if number not in NUMBERS:
        raise ValueError(f"there is no lab {number}; there are {', '.join(map(str, NUMBERS))}")
    return Path(__file__).parent / f"lab{number}"
