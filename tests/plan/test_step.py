"""A step's numbers, by parameter."""

from __future__ import annotations

import numpy as np

from adamoffload.plan.step import Coefficients, Step


def test_each_parameter_has_the_coefficients_of_its_class() -> None:
    one, two = (Coefficients(np.float32(lr), np.float32(0), np.float32(1), 1, {}) for lr in (1, 2))
    step = Step(1, [None, None, None], [1, 0, 1], [one, two], np.float32(1), False, 0, [])
    assert [step.of(i) for i in range(3)] == [two, one, two]


def test_denormals_go_in_every_64th_step() -> None:
    flushing = [n for n in range(1, 200) if Step(n, [], [], [], np.float32(1), False, 0, []).flush]
    assert flushing == [64, 128, 192]
