"""Whatever a student's code answers, a grader says a sentence: it never fails itself."""

from __future__ import annotations

import copy
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adamoffload.labs.compare import (
    close_to,
    equal,
    near,
    number,
    prediction,
    predictions,
    shown,
)
from adamoffload.labs.grading import NUMBERS, graded, lab
from adamoffload.labs.predictions import Answer, predicted
from adamoffload.labs.reasons import Mistake

LABS = Path(__file__).parent

ODD: list[Any] = [
    None,
    True,
    "x",
    -3,
    2.5,
    float("nan"),
    float("-inf"),
    10**400,
    [],
    [1],
    [[1, 2], "x"],
    (1, None),
    {},
    {"d2h": "x", "h2d": None},
    {"a": 1},
    np.float32(7),
    np.complex128(1j),
    np.array([1, 2]),
    np.zeros((2, 2), np.float32),
    np.array([], np.float32),
    np.array([True]),
    np.array(2.0),
]


class InProcess:
    """The solution of a lab, in this process; it remembers what it answered, by name."""

    seed = 0

    def __init__(self, number: int) -> None:
        self.module = types.ModuleType("student")
        sys.modules["student"] = self.module
        source = (LABS / f"lab{number}" / "solution.py").read_text()
        exec(compile(source, f"lab{number}", "exec"), self.module.__dict__)
        self.scenarios = importlib.import_module(f"adamoffload.labs.lab{number}.scenarios")
        self.asked: dict[str, list[Any]] = {}

    def _answer(self, name: str, answer: Any) -> Any:
        self.asked.setdefault(name, []).append(answer)
        return answer

    def value(self, name: str) -> Any:
        return self._answer(name, getattr(self.module, name))

    def call(self, name: str, *args: Any, may_change: bool = False, **kwargs: Any) -> Any:
        args, kwargs = copy.deepcopy((args, kwargs))
        try:
            answer = getattr(self.module, name)(*args, **kwargs)
        except Exception as error:
            answer = Mistake(f"it raised {type(error).__name__}: {error}")
        self._answer(name, answer)
        if isinstance(answer, Mistake):
            raise answer
        return answer

    def scenario(self, name: str, *args: Any) -> Any:
        return self._answer(name, getattr(self.scenarios, name)(self.module, *args))


class Replay:
    """Gives the answers once more, with one of them replaced."""

    seed = 0

    def __init__(
        self, asked: dict[str, list[Any]], name: str, replace: Callable[[Any], Any]
    ) -> None:
        self.answers = {key: iter(answers) for key, answers in asked.items()}
        self.name, self.replace = name, replace

    def value(self, name: str, *_: Any, **__: Any) -> Any:
        answer = next(self.answers[name])
        if isinstance(answer, Mistake):
            raise answer
        return self.replace(answer) if name == self.name else answer

    call = scenario = value


def replacements(answer: Any, *, ours: bool) -> Iterator[Callable[[Any], Any]]:
    def by(odd: Any, key: str | None) -> Callable[[Any], Any]:
        return lambda right: odd if key is None else {**right, key: odd}

    items = answer.items() if isinstance(answer, dict) else ()
    keys: list[str | None] = [
        key for key, value in items if not (ours and isinstance(value, bool | int | str))
    ]
    for odd in ODD:
        for key in (*keys, *(() if ours else (None,))):
            yield by(odd, key)


@pytest.mark.parametrize("number", NUMBERS)
def test_an_odd_answer_has_a_reason_of_its_own(number: int) -> None:
    fallback = "nothing that can be graded"  # there is a score even so
    for task in lab(number).tasks:
        untouched: Any = InProcess(number)
        task.check(untouched)
        for name, (answer, *_) in untouched.asked.items():
            # A dict that a scenario has made is ours, and so are what it has counted and seen.
            ours = isinstance(answer, dict) and hasattr(untouched.scenarios, name)
            for replace in replacements(answer, ours=ours):
                odd: Any = Replay(untouched.asked, name, replace)
                result = graded(task, odd)
                assert result.score == task.points or len(result.reason) > 10
                assert ours or fallback not in result.reason


def test_a_number_is_no_word_no_truth_value_and_finite() -> None:
    assert number("x", np.float32(2)) == number("x", np.array(2)) == number("x", 2) == 2
    for odd, words in (
        ("2", "of type str; expected a number"),
        (True, "of type bool"),
        (None, "did you forget `return`"),
        (float("nan"), "expected a finite number"),
        (np.array([1.0, 2.0]), "of type ndarray"),
    ):
        with pytest.raises(Mistake, match=words):
            number("x", odd)


def test_a_near_number_is_right_and_a_known_one_is_named() -> None:
    near("x", 1.0 + 1e-9, 1.0)
    with pytest.raises(Mistake, match="x is wrong: it is twice as much"):
        near("x", 2, 1.0, known={"it is twice as much": 2.0})
    with pytest.raises(Mistake, match="x is 3, expected 1"):
        near("x", 3, 1.0)
    with pytest.raises(Mistake, match=r"^x is 3: think again$"):
        near("x", 3, 1.0, otherwise="think again")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0**26, "67108864"),
        (-3, "-3"),
        (2 / 3, "0.666667"),
        (1e-9, "1e-09"),
        (2.0**90, "1.23794e+27"),
    ],
)
def test_a_whole_number_is_shown_with_all_its_digits(value: float, text: str) -> None:
    assert shown(value) == text


def test_a_mistake_that_is_not_finite_is_told_from_others() -> None:
    right = np.ones(3, np.float32)
    for odd in (np.inf, np.nan):
        known = {"it divides by 0": odd * right}
        with pytest.raises(Mistake, match="it divides by 0"):
            close_to("x", odd * right, right, known=known)
        with pytest.raises(Mistake, match=r"element 0 is 2\.0, expected 1\.0"):
            close_to("x", 2 * right, right, known=known)


def test_what_is_no_array_where_a_number_belongs_is_told_so() -> None:
    with pytest.raises(Mistake, match="is of type float; expected a float32 number"):
        close_to("x", 1.0, np.array(1, np.float32))


def test_lists_are_compared_to_the_last_entry() -> None:
    equal("x", [(1, np.int64(2)), np.array([3.0])], [[1, 2], (3,)])
    for found, words in (
        ([(1, 2), [4]], r"x\[1\]\[0\] is 4, expected 3"),
        ([(1, 2)], "x has length 1, expected 2"),
        ([(1, 2), 3], r"x\[1\] is of type int; expected a list of 1"),
        (None, "did you forget `return`"),
        ([[1, 2], [3, 4]], r"x\[1\] has length 2, expected 1"),
    ):
        with pytest.raises(Mistake, match=words):
            equal("x", found, [(1, 2), (3,)])
    with pytest.raises(Mistake, match="x is wrong: the wrong way round"):
        equal("x", [2, 1], (1, 2), known={"the wrong way round": (2, 1)})


def test_a_gap_is_not_done_yet_and_a_lost_key_is_missed() -> None:
    class Gaps:
        def value(self, name: str) -> Any:
            return {"NONE": None, "SOME": {"a": 1, "b": None}, "LESS": {"a": 1}, "LIST": [1]}[name]

    gaps: Any = Gaps()
    assert predictions(gaps, "SOME", ("a",)) == {"a": 1}
    with pytest.raises(Mistake, match="not done yet: NONE is None"):
        prediction(gaps, "NONE")
    with pytest.raises(Mistake, match=r"not done yet: SOME\['b'\] is None"):
        predictions(gaps, "SOME", ("a", "b"))
    with pytest.raises(Mistake, match="LESS has lost its key 'b'"):
        predictions(gaps, "LESS", ("a", "b"))
    with pytest.raises(Mistake, match="LIST should stay a dict"):
        predictions(gaps, "LIST", ("a",))


def test_a_predicted_number_is_right_or_has_a_hint() -> None:
    answers = (
        Answer("the first", 0, "nothing moves"),
        Answer("the second", 20, "think again", {10: "that is half of it"}),
    )

    def judged(found: Any) -> str:
        class Guess:
            def value(self, name: str) -> Any:
                return found

        guess: Any = Guess()
        try:
            predicted(guess, "X", answers)
        except Mistake as mistake:
            return str(mistake)
        return "right"

    assert judged([0, 20]) == judged((0.0, np.float64(20.001))) == "right"
    assert judged(np.array([0, 20])) == "right"
    assert judged(None) == "not done yet: X is None"
    assert judged([0, None]) == "not done yet: in X, the second is None"
    assert judged([0, 10]) == "in X, the second is not 10: that is half of it"
    assert judged([0, 11]) == "in X, the second is not 11: think again"
    assert judged([1e-9, 20]) == "in X, the first is not 1e-09: nothing moves"
    assert judged([0]) == judged(7) == "X should be a list of 2 numbers"
    assert judged(["0", 20]) == "in X, the first is of type str; expected a number"
