"""Why points are lost: the exceptions that carry a reason to the student."""

from __future__ import annotations

__all__ = ["Cheating", "Mistake", "printable"]


class Mistake(Exception):
    """What is wrong with a student's code, in a sentence for the student.

    Parameters
    ----------
    reason : str
        The sentence.
    kept : int
        How many of the task's points are due nevertheless.
    """

    def __init__(self, reason: str, kept: int = 0) -> None:
        super().__init__(reason)
        self.kept = kept


class Cheating(Exception):
    """The student's code tried to read the grader."""


def printable(text: str) -> str:
    r"""Return text in which no character controls a terminal.

    Examples
    --------
    >>> print(printable("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )
