"""AdamW: PyTorch's steps, the equations in float64, and decay beside the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from adamoffload.rules import Adam, AdamW, AMSGrad

from plain_rules import TORCH, Array, assert_agrees_with_paper, assert_agrees_with_torch, step

ZERO = {"m": np.zeros(2, np.float32), "v": np.zeros(2, np.float32)}


@pytest.mark.parametrize("name", [name for name in TORCH if name.startswith("adamw")])
def test_steps_are_those_of_torch(name: str) -> None:
    assert_agrees_with_torch(name, AdamW)


@pytest.mark.parametrize(("beta1", "beta2", "eps"), [(0.9, 0.999, 1e-8), (0.5, 0.6, 1e-3)])
def test_steps_are_those_of_the_paper(beta1: float, beta2: float, eps: float) -> None:
    def paper(
        w: Array, m: Array, v: Array, g: Array, lr: float, decay: float, t: int
    ) -> Mapping[str, Array]:
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        corrected_m, corrected_v = m / (1 - beta1**t), v / (1 - beta2**t)
        w = w - lr * corrected_m / (np.sqrt(corrected_v) + eps) - lr * decay * w
        return {"w": w, "m": m, "v": v}

    assert_agrees_with_paper(AdamW(0.01, beta1, beta2, eps, weight_decay=0.3), paper)


def test_decay_does_not_depend_on_the_gradient() -> None:
    w, g = np.array([8, 8], np.float32), np.array([0, 1e-30], np.float32)
    decoupled = step(AdamW(0.5, weight_decay=0.25), w, g, ZERO, 0)
    l2 = step(Adam(0.5, weight_decay=0.25), w, g, ZERO, 0)
    np.testing.assert_array_equal(decoupled["w"], [7, 7])  # 8 * (1 - 0.5 * 0.25)
    np.testing.assert_allclose(l2["w"], [7.5, 7.5])  # a step of the learning rate


def test_numbers_of_the_betas_are_computed_in_float64() -> None:
    scalars = AdamW(beta2=0.999).scalars(np.float32(0.25), 3)
    assert scalars["new2"] == 1 - 0.999
    assert scalars["root"] == (1 - 0.999**3) ** 0.5
    assert scalars["lr_t"] == 0.25 / (1 - 0.9**3)
    tenth: Any = np.float32(0.1)
    assert AdamW(beta1=tenth).scalars(1, 1)["new1"] == 1 - float(tenth)


def test_scalars_exist_after_as_many_steps_as_one_likes() -> None:
    scalars = AdamW().scalars(0.5, 10**12)
    assert (scalars["lr_t"], scalars["root"]) == (0.5, 1.0)


@pytest.mark.parametrize("kind", [AdamW, AMSGrad])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be finite"),
        ({"learning_rate": "fast"}, ValueError, "could not convert string"),
        ({"beta1": 1.0}, ValueError, r"beta1 must be in \(0, 1\), got 1.0"),
        ({"beta1": -0.1}, ValueError, r"beta1 must be in \(0, 1\), got -0.1"),
        ({"beta2": 1 - 1e-12}, ValueError, "beta2 must be < 1, also in float32"),
        ({"beta2": None}, TypeError, "beta2 must be a float"),
        ({"eps": -1e-8}, ValueError, "eps must be > 0, got -1e-08"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be >= 0, got -0.1"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    kind: type[AdamW], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"{kind.__name__}: .*{message}"):
        kind(**arguments)
