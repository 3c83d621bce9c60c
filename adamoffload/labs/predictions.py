"""Numbers that a student predicts, in a list: each with a hint, which does not tell the number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from adamoffload.labs.compare import number, prediction, shown
from adamoffload.labs.reasons import Mistake
from adamoffload.labs.student import Student

__all__ = ["Answer", "predicted"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One number to predict.

    Attributes
    ----------
    what : str
        What it is the number of, as the subject of a sentence.
    value : float
        What is right.
    hint : str
        What to think about; it does not tell the number.
    known : mapping from float to str
        What plausible mistakes give, and the sentence that names the mistake.
    """

    what: str
    value: float
    hint: str
    known: Mapping[float, str] = field(default_factory=dict)


def predicted(
    student: Student, name: str, answers: Sequence[Answer], *, rtol: float = 1e-3
) -> None:
    """Require a list of numbers.

    Parameters
    ----------
    student : Student
        Whose file defines it.
    name : str
        What it is called there; None stands for no answer yet.
    answers : sequence of Answer
        What is right, in the list's order.
    rtol : float
        Relative difference allowed; 0 for exact numbers.

    Raises
    ------
    Mistake
        If a number is wrong or missing, with the hint to the first such.
    """
    found = prediction(student, name)
    if isinstance(found, np.ndarray):
        found = found.tolist()
    if not isinstance(found, list | tuple) or len(found) != len(answers):
        raise Mistake(f"{name} should be a list of {len(answers)} numbers")
    for given, answer in zip(found, answers, strict=True):
        what = f"in {name}, {answer.what}"
        if given is None:
            raise Mistake(f"not done yet: {what} is None")
        value = number(what, given)
        if not _close(value, answer.value, rtol):
            known = [text for wrong, text in answer.known.items() if _close(value, wrong, rtol)]
            raise Mistake(f"{what} is not {shown(value)}: {known[0] if known else answer.hint}")


def _close(a: float, b: float, rtol: float) -> bool:
    return abs(a - b) <= rtol * max(abs(a), abs(b))
