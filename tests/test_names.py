"""Names that are missing or not expected are named, with those that come closest."""

from __future__ import annotations

import numpy as np
import pytest

from adamoffload.names import check_keys, check_names, listed, short, spelled


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (["a"], "x lacks 'fc.weight'"),
        (["a", "fc.weigth"], r"x lacks 'fc.weight' \(there is 'fc.weigth'\)"),
        (["a", "fc.weight", "b"], "x has the unexpected 'b'"),
        (["a", 3], r"x lacks 'fc.weight' and has the unexpected 3"),
    ],
)
def test_what_differs_is_named(found: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^f: {message}"):
        check_names("f", "x", found, ["a", "fc.weight"])


def test_what_is_right_or_optional_passes() -> None:
    check_names("f", "x", ["b", "a"], ["a", "b"])
    check_keys("f", "x", {"a": 1}, ("a", "b"), optional=("b",))
    with pytest.raises(TypeError, match="f: x must be a dict, got 3"):
        check_keys("f", "x", 3, ("a",))


def test_of_many_names_a_few_are_shown_and_of_a_long_one_a_part() -> None:
    assert listed(["a", "b", "c", "d", "e", "f"]) == "'a', 'b', 'c', 'd' and 2 more"
    assert short("x" * 300) == f"'{'x' * 59}... (302 characters)"


def test_a_function_is_spelled_as_in_a_program() -> None:
    assert [spelled(f) for f in (np.add, np.sum, np.linalg.norm)] == [
        "np.add",
        "np.sum",
        "np.linalg.norm",
    ]
