"""Rates and decays: what may be one, what it is at a step, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.rules.rates import Decay, FixedRate, FunctionRate, TableRate, read_decay, read_rate


@pytest.mark.parametrize(
    ("value", "kind", "at_one"),
    [
        (0.1, FixedRate, 0.1),
        (1, FixedRate, 1),
        (np.array(0.1), FixedRate, 0.1),
        ([0.5, 0.1], TableRate, 0.1),
        (np.array([0.5, 0.1], np.float16), TableRate, np.float16(0.1)),
        ((x for x in (0.5, 0.1)), TableRate, 0.1),
        (lambda step: 0.1 * step, FunctionRate, 0.1),
        (ao.ExponentialDecayLR(0.5, 0.5, 1), FunctionRate, 0.25),
    ],
)
def test_a_rate_is_a_number_a_table_or_a_function(value: Any, kind: type, at_one: float) -> None:
    rate = read_rate("SGD", value)
    assert isinstance(rate, kind)
    assert rate.at(1) == np.float32(at_one)
    assert rate.at(1).dtype == np.float32
    assert read_rate("other", rate) is rate


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (-1, ValueError, "SGD: learning_rate must be >= 0, got -1"),
        (1e39, ValueError, "finite in float32"),
        ([], ValueError, "empty table"),
        ([[1.0]], ValueError, "one dimension"),
        (np.ones((1, 1)), ValueError, "one dimension"),
        ([1.0, -1.0], ValueError, r"learning_rate\[1\] must be >= 0"),
        (None, TypeError, "learning_rate must be a real number, a sequence"),
    ],
)
def test_what_is_no_rate_is_refused(value: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read_rate("SGD", value)


@pytest.mark.parametrize("returned", [float("nan"), "fast", None, np.ones(2)])
def test_what_a_function_returns_must_be_a_finite_number(returned: Any) -> None:
    for read in (read_rate, read_decay):
        with pytest.raises((TypeError, ValueError), match=r"SGD: \w+\(3\) must be"):
            read("SGD", lambda step: returned).at(3)


def test_a_table_that_is_used_up_says_how_long_it_was() -> None:
    with pytest.raises(RuntimeError, match=r"SGD: .* 2 entries, all used; step 3 needs one more"):
        read_rate("SGD", [1.0, 0.5]).at(2)


def test_tables_are_equal_if_their_numbers_are() -> None:
    one, same, other = (read_rate("SGD", values) for values in ([1.0, 0.5], (1, 0.5), [1.0, 0.25]))
    assert one == same
    assert one not in (other, 1.0)
    assert hash(one) == hash(same)


@pytest.mark.parametrize(("count", "shown"), [(1, "0"), (4, "0, 1, 2, 3"), (5, "0, 1, ..., 4")])
def test_a_table_is_shown_short(count: int, shown: str) -> None:
    assert repr(read_rate("SGD", range(count))) == f"<{count} learning rates: {shown}>"


def test_a_decay_is_a_number_or_a_function() -> None:
    assert read_decay("SGD", 0.1).at(5) == np.float32(0.1)
    assert read_decay("SGD", lambda step: step / 2).at(5) == 2.5
    decay = read_decay("SGD", 1)
    assert isinstance(decay, Decay)
    assert read_decay("other", decay) is decay
    with pytest.raises(TypeError, match="weight_decay must be a real number"):
        read_decay("SGD", [0.1])
