"""Numbers that a student predicts: what is wrong is said with a hint, not with the number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adamoffload.labs.predictions import Answer, predicted
from adamoffload.labs.reasons import Mistake

ANSWERS = (
    Answer("the bytes down", 4000.0, "count the gradient", {8000.0: "float32 has four bytes"}),
    Answer("the ratio", 0.25, "compare the moments"),
)


class File:
    """A student's file that defines one list."""

    def __init__(self, found: object) -> None:
        self.found = found

    def value(self, name: str) -> object:
        assert name == "NUMBERS"
        return self.found


def told(found: object, **options: float) -> str:
    student: Any = File(found)
    try:
        predicted(student, "NUMBERS", ANSWERS, **options)
    except Mistake as mistake:
        return str(mistake)
    return ""


@pytest.mark.parametrize(
    "found", [[4000, 0.25], (4000.0, 0.25), np.array([4000, 0.25]), [4001.0, 0.2501]]
)
def test_the_right_numbers_are_no_mistake(found: object) -> None:
    assert told(found) == ""


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([4000, 0.5], "in NUMBERS, the ratio is not 0.5: compare the moments"),
        ([8000, 0.25], "in NUMBERS, the bytes down is not 8000: float32 has four bytes"),
        ([4000, None], "not done yet: in NUMBERS, the ratio is None"),
        ([4000], "NUMBERS should be a list of 2 numbers"),
        (4000, "NUMBERS should be a list of 2 numbers"),
    ],
)
def test_what_is_wrong_is_said_without_the_number(found: object, reason: str) -> None:
    assert told(found) == reason
    assert "4000" not in reason
    assert "0.25" not in reason


def test_without_a_tolerance_the_number_is_exact() -> None:
    assert "the bytes down is not 4001" in told([4001, 0.25], rtol=0)
