"""Checks of arguments: the value as a plain Python number, or an error that names the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adamoffload as ao
from adamoffload.arguments import (
    describe,
    flag,
    floating,
    floating_type,
    integer,
    number,
    positive_integer,
    table,
)

many = settings(deadline=None, derandomize=True, max_examples=50)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
NO_NUMBERS: list[Any] = [
    None,
    "1",
    b"1",
    1j,
    [1.0],
    Decimal(1),
    Fraction(1),
    np.array(1.0),
    object(),
]


@many
@given(FINITE)
def test_floating_returns_the_float(value: float) -> None:
    assert floating("f", "x", value) == value
    assert type(floating("f", "x", np.float64(value))) is float


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1, True, np.int64(1), np.bool_(True)])
def test_floating_refuses_what_is_no_float(value: Any) -> None:
    for check in (floating, floating_type):
        with pytest.raises(TypeError, match=r"^f: x must be a float, got"):
            check("f", "x", value)


def test_an_integer_too_long_to_print_is_still_described() -> None:
    with pytest.raises(TypeError, match=r"must be a float, got an object of type int$"):
        floating("f", "x", 10**5000)


@pytest.mark.parametrize("check", [floating, number])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_number_is_finite(check: Callable[..., float], value: Any) -> None:
    with pytest.raises(ValueError, match=r"^f: x must be finite, got"):
        check("f", "x", value)


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "text"),
    [
        ({"above": 0.0}, [1e-300, 5.0], [0.0, -1.0], "> 0"),
        ({"at_least": 0.0}, [0.0, -0.0, 2.0], [-1e-300], ">= 0"),
        ({"above": 0, "below": 1}, [0.5, 1e-9], [0.0, 1.0, 2.0, -1.0], r"in \(0, 1\)"),
    ],
)
def test_bounds_are_kept(
    bounds: dict[str, float], good: list[float], bad: list[float], text: str
) -> None:
    for value in good:
        assert floating("f", "x", value, **bounds) == value
    for value in bad:
        with pytest.raises(ValueError, match=f"^f: x must be {text}"):
            floating("f", "x", value, **bounds)


@pytest.mark.parametrize("value", [2, 2.0, np.float16(2), np.int8(2), np.uint64(2)])
def test_number_takes_every_real_scalar(value: Any) -> None:
    assert number("f", "x", value) == 2.0
    assert type(number("f", "x", value)) is float


@pytest.mark.parametrize("value", [True, np.True_])
def test_number_takes_a_bool(value: Any) -> None:
    assert number("f", "x", value) == 1.0


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_number_refuses_what_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^f: x must be a real number, got"):
        number("f", "x", value)


def test_an_integer_beyond_every_float_is_not_finite() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        number("f", "x", 10**400)


@many
@given(st.integers(-(2**70), 2**70))
def test_integer_returns_the_integer(value: int) -> None:
    assert integer("f", "n", value, at_least=value) == value
    with pytest.raises(ValueError, match="must be at least"):
        integer("f", "n", value, at_least=value + 1)


@pytest.mark.parametrize("value", [np.int8(3), np.uint64(3)])
def test_integer_takes_numpys(value: Any) -> None:
    assert type(integer("f", "n", value, at_least=0)) is int


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1.0, True, np.True_, np.float32(1)])
def test_integer_refuses_what_is_none(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^f: n must be an integer, got"):
        integer("f", "n", value, at_least=0)


def test_positive_integer_starts_at_one() -> None:
    assert positive_integer("f", "n", 1) == 1
    with pytest.raises(ValueError, match=r"^f: n must be at least 1, got 0"):
        positive_integer("f", "n", 0)


@pytest.mark.parametrize("value", [True, False])
def test_flag_returns_the_bool(value: bool) -> None:
    assert flag("f", "b", value) is value


@pytest.mark.parametrize("value", [0, 1, None, "True", np.True_])
def test_flag_refuses_what_is_no_bool(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^f: b must be True or False, got"):
        flag("f", "b", value)


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.5],
        (1, 2.5),
        np.array([1, 2.5]),
        np.array([1, 2.5], np.float16),
        (x for x in (1, 2.5)),
        [np.float32(1), np.array(2.5)],
        range(1, 3),
    ],
)
def test_table_copies_any_sequence_of_numbers(value: Any) -> None:
    numbers = table("f", "lr", value)
    assert numbers.dtype == np.float64
    assert numbers[0] == 1
    assert numbers.shape == (2,)
    assert numbers is not value


@pytest.mark.parametrize("value", [None, 3, 1.5, b"12", bytearray(2), {1: 2}, {1, 2}, object()])
def test_table_refuses_what_is_no_sequence(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^f: lr must be a real number, a sequence"):
        table("f", "lr", value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "empty table"),
        (np.zeros(0), "empty table"),
        ("123", "could not convert string"),
        ([1, "2"], r"lr\[1\] is '2'"),
        ([[1], [2]], "one dimension"),
        ([[1], [2, 3]], "one dimension"),
        ([[[1], [2, 3]]], "one dimension"),
        ([()], "one dimension"),
        (np.zeros((2, 2)), "one dimension"),
        ([0.1, -0.1], r"lr\[1\] must be >= 0"),
        ([math.inf], r"lr\[0\] must be finite"),
        ([0, math.nan], r"lr\[1\] must be finite"),
    ],
)
def test_table_refuses_a_bad_entry_by_its_place(value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^f: .*{text}"):
        table("f", "lr", value)


@pytest.mark.parametrize("entry", [None, 1j, b"1", object(), np.array("x")])
def test_table_refuses_an_entry_that_is_no_number(entry: Any) -> None:
    with pytest.raises(TypeError, match=r"lr\[1\] must be a real number"):
        table("f", "lr", [1, entry])


def test_table_tells_how_to_pass_a_function() -> None:
    with pytest.raises(TypeError, match=r"; subclass LearningRateSchedule and define __call__$"):
        table("AdamOffload", "learning_rate", lambda step: 0.1)


def test_table_refuses_a_device_array() -> None:
    device = ao.get_backend("numpy")
    with pytest.raises(TypeError, match=r"lr\[0\] must be a real number, got"):
        table("f", "lr", device.asarray(np.ones(3)))
    with pytest.raises(TypeError, match="lr must be a real number, a sequence"):
        table("f", "lr", device.asarray(np.float64(1)))
    assert device.traffic().d2h == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1 (int)"),
        ("a", "'a' (str)"),
        (np.float32(2), "np.float32(2.0) (float32)"),
        ("x" * 100, "an object of type str"),
        (np.zeros((2, 2)), "an object of type ndarray"),
    ],
)
def test_describe_shows_a_short_value_and_its_type(value: Any, text: str) -> None:
    assert describe(value) == text


def test_describe_survives_a_broken_repr() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert describe(Broken()) == "an object of type Broken"
