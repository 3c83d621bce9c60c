"""SGD: PyTorch's steps, the equations in float64, and what momentum does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from adamoffload.rules import SGD

from plain_rules import TORCH, Array, assert_agrees_with_paper, assert_agrees_with_torch, step


@pytest.mark.parametrize("name", [name for name in TORCH if name.startswith("sgd")])
def test_steps_are_those_of_torch(name: str) -> None:
    assert_agrees_with_torch(name, SGD)


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_are_those_of_the_paper(nesterov: bool) -> None:
    def paper(w: Array, m: Array, g: Array, lr: float, decay: float, t: int) -> Mapping[str, Array]:
        velocity = -lr * m  # of Sutskever et al., where the rate is inside
        gradient = g + decay * w
        velocity = 0.75 * velocity - lr * gradient
        w = w + 0.75 * velocity - lr * gradient if nesterov else w + velocity
        return {"w": w, "m": -velocity / lr}

    # 0.75 is a float32: five roundings are enough.
    assert_agrees_with_paper(SGD(0.03, momentum=0.75, nesterov=nesterov, weight_decay=0.1), paper)


def test_without_momentum_it_keeps_nothing_and_follows_the_gradient() -> None:
    rule = SGD(learning_rate=0.5)
    w, g = np.array([1, 2], np.float32), np.array([2, -2], np.float32)
    result = step(rule, w, g, {}, 0)
    assert rule.slots == ()
    assert list(result) == ["w"]
    np.testing.assert_array_equal(result["w"], [0, 3])


def test_first_sum_is_the_first_gradient() -> None:
    g = np.array([3e38, 1e-45, -7], np.float32)
    result = step(SGD(0.0, momentum=0.9), np.zeros_like(g), g, {"m": np.zeros_like(g)}, 0)
    np.testing.assert_array_equal(result["m"], g)


def test_sum_of_equal_gradients_grows_to_one_over_one_minus_momentum() -> None:
    rule, state = SGD(0.0, momentum=0.75), {"w": np.zeros(1, np.float32), "m": np.zeros(1, "f4")}
    for index in range(100):
        state = step(rule, state["w"], np.ones(1, np.float32), state, index)
    np.testing.assert_allclose(state["m"], [4], rtol=1.2e-7)  # an ULP


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, TypeError, "learning_rate"),
        ({"learning_rate": -0.1}, ValueError, "SGD: learning_rate must be >= 0, got -0.1"),
        ({"learning_rate": 1, "momentum": 1.0}, ValueError, "SGD: momentum must be < 1.* got 1.0"),
        ({"learning_rate": 1, "momentum": 1 - 1e-12}, ValueError, "also in float32"),
        ({"learning_rate": 1, "momentum": -0.5}, ValueError, "momentum must be >= 0, got -0.5"),
        ({"learning_rate": 1, "momentum": float("nan")}, ValueError, "momentum must be finite"),
        ({"learning_rate": 1, "momentum": "0.9"}, TypeError, "momentum must be a real number"),
        ({"learning_rate": 1, "nesterov": True}, ValueError, "nesterov=True needs a momentum"),
        ({"learning_rate": 1, "nesterov": 1}, TypeError, "nesterov must be True or False"),
        ({"learning_rate": 1, "weight_decay": -1}, ValueError, "SGD: weight_decay must be >= 0"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        SGD(**arguments)
