"""AMSGrad: PyTorch's steps, the equations in float64, and a maximum that does not forget."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from adamoffload.rules import AdamW, AMSGrad

from plain_rules import TORCH, Array, assert_agrees_with_paper, assert_agrees_with_torch, step


@pytest.mark.parametrize("name", [name for name in TORCH if name.startswith("amsgrad")])
def test_steps_are_those_of_torch(name: str) -> None:
    assert_agrees_with_torch(name, AMSGrad)


def test_steps_are_those_of_the_paper_with_the_corrections_of_adamw() -> None:
    def paper(
        w: Array, m: Array, v: Array, v_max: Array, g: Array, lr: float, decay: float, t: int
    ) -> Mapping[str, Array]:
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.6 * v + (1 - 0.6) * g**2
        v_max = np.where(v > v_max, v, v_max)
        w = w - lr / (1 - 0.9**t) * m / (np.sqrt(v_max / (1 - 0.6**t)) + 1e-8) - lr * decay * w
        return {"w": w, "m": m, "v": v, "v_max": v_max}

    assert_agrees_with_paper(AMSGrad(0.01, beta2=0.6, weight_decay=0.3), paper)


def zero(rule: AdamW) -> dict[str, Array]:
    return {name: np.zeros(1, np.float32) for name in ("w", *rule.slots)}


def test_on_the_problem_of_the_paper_it_goes_the_right_way_and_adam_the_wrong() -> None:
    # Section 3: of three gradients one is C and the others are -1. With C > 2 their mean is
    # positive, so that w should fall; Adam has forgotten the large one when the others come.
    c = 3.0
    ends = []
    for kind in (AdamW, AMSGrad):
        rule = kind(0.01, beta1=1e-9, beta2=1 / (1 + c**2), weight_decay=0.0)
        state = zero(rule)
        for index in range(300):
            g = np.array([c if index % 3 == 0 else -1], np.float32)
            state = step(rule, state["w"], g, state, index)
        ends.append(float(state["w"][0]))
    adam, amsgrad = ends
    assert adam > 0.3
    assert amsgrad < -0.3


def test_it_is_adamw_as_long_as_the_second_moment_grows() -> None:
    states = {rule: zero(rule) for rule in (AdamW(0.1), AMSGrad(0.1))}
    for index in range(9):
        g = np.array([2.0**index], np.float32)
        states = {rule: step(rule, s["w"], g, s, index) for rule, s in states.items()}
    adamw, amsgrad = states.values()
    np.testing.assert_array_equal(adamw["w"], amsgrad["w"])


def test_a_nan_stays_in_the_maximum() -> None:
    rule = AMSGrad()
    state = step(rule, np.ones(1, "f4"), np.full(1, np.nan, np.float32), zero(rule), 0)
    state = step(rule, np.ones(1, "f4"), np.ones(1, np.float32), state, 1)
    assert np.isnan(state["v_max"])
