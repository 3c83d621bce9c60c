"""Names that are missing or not expected are named, with those that come closest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao
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


def optimized() -> Any:
    device = ao.get_backend("numpy")
    return [ao.Parameter(device.asarray(np.ones(3, np.float32)), "w")]


def make(kind: Any, **arguments: Any) -> Any:
    return kind(**arguments)


def new(**arguments: Any) -> Any:
    return ao.AdamOffload(optimized(), **arguments)


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: new(lr=1), "AdamOffload has no argument 'lr': it is called learning_rate"),
        (lambda: new(betas=(0, 1)), "'betas': it is called beta1 and beta2"),
        (lambda: make(ao.Adam, parameters=1), "Adam .* 'parameters': it is called params"),
        (lambda: new(weight_decy=3), r"'weight_decy' \(near 'weight_decay'"),
        (lambda: make(ao.Optimizer, optimizer=1), "'optimizer': it is called rule"),
        (lambda: make(ao.Optimizer, params=1, zzz=3), "'zzz'; it takes params, rule,"),
        (
            lambda: make(ao.rules.AdamW, lr=1),
            "AdamW has no argument 'lr': it is called learning_rate",
        ),
        (
            lambda: make(ao.rules.SGD, betas=2),
            "SGD has no argument 'betas'; it takes learning_rate, ",
        ),
        (
            lambda: make(ao.rules.Adam, momentum=0.9),
            "Adam has no argument 'momentum': it is called beta1",
        ),
    ],
)
def test_an_argument_that_is_none_comes_with_the_one_that_is_meant(
    construct: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        construct()


def test_an_error_of_the_constructors_own_is_left_alone() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'rule'"):
        ao.Optimizer(optimized())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="params must be an iterable"):
        ao.AdamOffload(3)


def test_a_slot_says_which_names_it_has() -> None:
    with pytest.raises(KeyError, match=r"there is none for 'ww' \(near 'w'\)"):
        ao.AdamOffload(optimized()).state["m"]["ww"]
