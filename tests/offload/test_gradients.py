"""Gradients are checked before anything changes: also those that overlap a parameter by a hair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.offload.gradients import Gradients


def make(*sizes: int) -> tuple[ao.Backend, Any, Gradients]:
    """Return a device, an array that holds everything, and parameters one after the other in it."""
    device = ao.get_backend("numpy")
    whole = device.asarray(np.zeros(3 * sum(sizes), np.float32))
    parameters, start = [], sum(sizes)
    for i, size in enumerate(sizes):
        parameters.append(ao.Parameter(whole[start : start + size], f"p{i}"))
        start += size
    return device, whole, Gradients("test", parameters)


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_a_gradient_that_shares_one_element_with_a_parameter_is_refused(shift: int) -> None:
    _, whole, gradients = make(4, 4)  # the parameters are elements 8 to 15
    assert gradients.flat([None, whole[4:8]])[1] is not None  # it ends where they begin
    assert gradients.flat([None, whole[16:20]])[1] is not None
    for start in (8 - 4 + shift, 16 - shift):
        with pytest.raises(ValueError, match="shares memory with parameter"):
            gradients.flat([None, whole[start : start + 4]])


def test_a_name_that_is_missing_is_a_gradient_that_is_none() -> None:
    device, _, gradients = make(2, 3)
    given = device.asarray(np.ones(3, np.float32))
    first, second = gradients.flat({"p1": given})
    assert first is None
    assert second is given


def test_what_value_and_grad_returns_as_a_whole_is_answered_with_a_hint() -> None:
    device, _, gradients = make(2, 3, 4)
    given = [device.asarray(np.ones(n, np.float32)) for n in (2, 3, 4)]
    with pytest.raises(ValueError, match="value, gradients = f"):
        gradients.flat((device.asarray(np.float32(1)), given))
