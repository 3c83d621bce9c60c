"""What a step computes with: one class for equal numbers, read before anything changes."""

from __future__ import annotations

from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.offload.decide import StepDecays, decide
from adamoffload.offload.integrity import StepUnderway


def decided(optimizer: Any, absent: tuple[int, ...] = ()) -> Any:
    flat = [None if i in absent else p.data * 1 for i, p in enumerate(optimizer.parameters)]
    own = optimizer.settings, optimizer.counters, optimizer.parameters
    decays = StepDecays(optimizer.settings, optimizer.global_step)
    return decide(*own, flat, StepUnderway(1), np.float32(1), decays)


def build(params: Any = None, **options: Any) -> Any:
    device = ao.get_backend("numpy")
    parameters = [ao.Parameter(device.asarray(np.ones((2, 2), np.float32)), n) for n in "abc"]
    return ao.Optimizer(
        params(parameters) if params else parameters, ao.rules.Adam(**options), strategy="resident"
    )


def test_parameters_with_equal_numbers_are_of_one_class() -> None:
    step = decided(build())
    assert step.classes == [0, 0, 0]
    assert len(step.coefficients) == 1


def test_a_rate_a_group_or_a_missed_step_makes_another() -> None:
    optimizer = build(lambda p: [{"params": p[:1], "weight_decay": 0.5}, {"params": p[1:]}])
    assert decided(optimizer).classes == [0, 1, 1]
    optimizer.set_learning_rate(0.5, "c")
    assert decided(optimizer).classes == [0, 1, 2]
    optimizer({"a": optimizer.parameters[0].data * 1, "c": optimizer.parameters[2].data * 1})
    step = decided(optimizer)
    assert [step.of(i).t for i in range(3)] == [2, 1, 2]


def test_constants_of_its_own_make_another_and_weigh_in() -> None:
    optimizer = build()
    optimizer.set_constants("c", beta1=0.5, weight_decay=0.25)
    step = decided(optimizer)
    assert step.classes == [0, 0, 1]
    assert step.of(2).scalars["beta1"] == np.float32(0.5)
    assert (step.of(0).l2, step.of(2).l2) == (0, 0.25)


def test_a_function_is_called_once_a_step() -> None:
    calls: list[int] = []

    def rate(step: int) -> float:
        calls.append(step)
        return 0.1

    decided(build(learning_rate=rate))
    assert calls == [0]


def test_centralized_gradients_have_their_decay_in_them() -> None:
    optimizer = build(lambda p: [{"params": p, "grad_centralization": True, "weight_decay": 0.5}])
    step = decided(optimizer, absent=(1,))
    assert step.of(0).l2 == 0
    assert step.gradients[1] is None
    np.testing.assert_array_equal(optimizer.backend.asnumpy(step.gradients[0]), np.zeros(4))
