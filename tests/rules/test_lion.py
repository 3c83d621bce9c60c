"""Lion: the paper's Program 1 in float64, and steps of one size.

PyTorch has no Lion, so the paper is the oracle. A sign is not continuous: where the sum that it is
taken of is within rounding of 0, float32 and float64 may differ by two steps, so those elements are
told apart, and there must be few.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adamoffload.rules import Lion

from plain_rules import Array, step, ulps


def interp(x: Array, y: Array, a: float) -> Array:
    return (1 - a) * x + a * y


def train(w: Array, g: Array, m: Array, lr: float, decay: float) -> tuple[Array, Array, Array]:
    """The listing in the paper: the update, weight decay in it, is taken off the weight."""
    mixed = interp(g, m, 0.9)
    update = (np.sign(mixed) + decay * w) * lr
    return w - update, interp(g, m, 0.99), mixed


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_steps_are_those_of_the_paper(decay: float) -> None:
    rng = np.random.default_rng(7)
    w = (rng.standard_normal(500) * 10.0 ** rng.uniform(-6, 3, 500)).astype(np.float32)
    rule, state, unclear = Lion(0.01, weight_decay=decay), {"w": w, "m": np.zeros_like(w)}, 0
    lr = float(np.float32(0.01))
    for index in range(30):
        g = (rng.standard_normal(500) * 10.0 ** rng.uniform(-10, 4, 500)).astype(np.float32)
        before = {name: array.astype(np.float64) for name, array in state.items()}
        after, m, mixed = train(before["w"], g.astype(np.float64), before["m"], lr, decay)
        state = step(rule, state["w"], g, state, index)
        added = np.maximum(np.abs(before["m"]), np.abs(g))
        clear = np.abs(mixed) > 2 * np.spacing(added.astype(np.float32))
        largest = np.maximum(np.maximum(np.abs(before["w"]), np.abs(after)), lr)
        assert ulps(state["w"][clear], after[clear], largest[clear]) <= 4
        assert ulps(state["m"], m, added) <= 4
        unclear += int(np.sum(~clear))
    assert unclear < 5


def test_all_steps_have_the_size_of_the_rate() -> None:
    g = np.array([1e30, -1e-30, 7], np.float32)
    result = step(Lion(0.25), np.zeros(3, "f4"), g, {"m": np.zeros(3, "f4")}, 0)
    np.testing.assert_array_equal(result["w"], [-0.25, 0.25, -0.25])


def test_where_nothing_was_nothing_moves() -> None:
    zero = np.zeros(2, np.float32)
    np.testing.assert_array_equal(step(Lion(), zero, -zero, {"m": zero}, 0)["w"], zero)


def test_direction_looks_more_at_the_new_gradient_than_what_is_kept() -> None:
    rule, m = Lion(1.0, beta1=0.5, beta2=0.75), np.array([1], np.float32)
    result = step(rule, np.zeros(1, "f4"), np.array([-2], np.float32), {"m": m}, 0)
    assert result["w"] == 1  # against the gradient, 0.5 - 1 < 0
    assert result["m"] == 0.25  # 0.75 - 0.5: it still points the other way


@pytest.mark.parametrize("position", ["m", "g"])
def test_a_nan_is_not_hidden(position: str) -> None:
    values = {"m": np.ones(1, np.float32), "g": np.ones(1, np.float32)}
    values[position][:] = np.nan
    result = step(Lion(), np.ones(1, np.float32), values["g"], {"m": values["m"]}, 0)
    assert np.isnan(result["w"])
    assert np.isnan(result["m"])


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"learning_rate": -1.0}, ValueError, "Lion: learning_rate must be >= 0"),
        ({"beta1": 1.0}, ValueError, r"Lion: beta1 must be in \(0, 1\), got 1.0"),
        ({"beta2": 1}, TypeError, r"Lion: beta2 must be a float"),
        ({"weight_decay": float("inf")}, ValueError, "Lion: weight_decay must be finite"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Lion(**arguments)
