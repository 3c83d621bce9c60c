"""Adam: the equations in float64, the reference's way with its numbers, and the next step size.

Whole runs of the reference implementation are replayed in tests/offload/test_reference.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from adamoffload.rules import Adam
from adamoffload.rules.adam import beta_power

from plain_rules import Array, assert_agrees_with_paper


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_are_those_of_the_paper(nesterov: bool) -> None:
    beta1, beta2 = 0.25, 0.5  # so that their powers, which it takes in float32, are exact

    def paper(
        w: Array, m: Array, v: Array, g: Array, lr: float, decay: float, t: int
    ) -> Mapping[str, Array]:
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        alpha = lr * np.sqrt(1 - beta2**t) / (1 - beta1**t)
        u = beta1 * m + (1 - beta1) * g if nesterov else m
        return {"w": w - alpha * u / (np.sqrt(v) + 1e-8), "m": m, "v": v}

    assert_agrees_with_paper(Adam(0.01, beta1, beta2, nesterov=nesterov), paper)


def test_numbers_of_the_betas_are_computed_in_float32() -> None:
    scalars = Adam(beta2=0.999).scalars(np.float32(0.5), 3)
    beta1, beta2 = np.float32(0.9), np.float32(0.999)
    assert (scalars["beta1"], scalars["beta2"]) == (beta1, beta2)
    root = np.sqrt(1 - beta2 * beta2 * beta2)
    assert scalars["lr_t"] == np.float32(0.5) * root / (1 - beta1 * beta1 * beta1)
    assert {value.dtype for value in scalars.values()} == {np.dtype(np.float32)}


def test_a_power_is_the_product_of_all_steps_in_whatever_order_it_is_asked_for() -> None:
    beta, power, powers = np.float32(0.97), np.float32(1), [np.float32(1)]
    for _ in range(300):
        power = power * beta
        powers.append(power)
    for t in (300, 1, 2, 0, 150, 299, 151):
        assert beta_power(beta, t) == powers[t]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"learning_rate": -1.0}, ValueError, "Adam: learning_rate must be >= 0"),
        ({"beta1": 1}, TypeError, r"Adam: beta1 must be a float in \(0, 1\), got 1"),
        ({"beta2": 1.0}, ValueError, r"Adam: beta2 must be in \(0, 1\), got 1.0"),
        ({"eps": 0.0}, ValueError, "Adam: eps must be > 0, got 0.0"),
        ({"nesterov": 0}, TypeError, "Adam: nesterov must be True or False"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Adam(**arguments)
