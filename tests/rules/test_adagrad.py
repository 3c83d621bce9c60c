"""Adagrad: PyTorch's steps, the equations in float64, and steps that shrink."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from adamoffload.rules import Adagrad

from plain_rules import TORCH, Array, assert_agrees_with_paper, assert_agrees_with_torch, step


@pytest.mark.parametrize("name", [name for name in TORCH if name.startswith("adagrad")])
def test_steps_are_those_of_torch(name: str) -> None:
    assert_agrees_with_torch(name, Adagrad)


def test_steps_are_those_of_the_paper() -> None:
    # Without decay: where it cancels the gradient, the quotient of what is left is all rounding.
    def paper(w: Array, v: Array, g: Array, lr: float, decay: float, t: int) -> Mapping[str, Array]:
        v = v + g**2
        return {"w": w - lr * g / (np.sqrt(v) + 1e-10), "v": v}

    assert_agrees_with_paper(Adagrad(), paper)


def test_equal_gradients_take_steps_of_the_rate_over_the_root_of_t() -> None:
    rule, state = Adagrad(learning_rate=1.0), {"w": np.zeros(2, "f4"), "v": np.zeros(2, "f4")}
    for index in range(25):
        before = state["w"]
        state = step(rule, before, np.array([3, -300], np.float32), state, index)
        size = (index + 1) ** -0.5  # of w around 10: two ULP are 2e-6
        np.testing.assert_allclose(state["w"] - before, [-size, size], atol=2e-6)


def test_no_gradient_no_step() -> None:
    zero = np.zeros(3, np.float32)
    result = step(Adagrad(), zero, zero, {"v": zero}, 0)
    np.testing.assert_array_equal(result["w"], zero)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"learning_rate": -0.1}, ValueError, "Adagrad: learning_rate must be >= 0, got -0.1"),
        ({"eps": 0.0}, ValueError, "Adagrad: eps must be > 0, got 0.0"),
        ({"eps": 1e-50}, ValueError, "eps must be > 0, also in float32"),
        ({"eps": 1}, TypeError, "Adagrad: eps must be a float"),
        ({"weight_decay": "no"}, TypeError, "Adagrad: weight_decay must be a real number"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Adagrad(**arguments)
