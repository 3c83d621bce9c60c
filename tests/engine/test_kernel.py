"""A kernel runs a program on one block, on the host or on a device, and an engine has a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.engine.kernel import NumpyKernel, kernel_type
from adamoffload.engine.program import trace


def scaled_sum(x: Any, y: Any, *, a: Any) -> Any:
    return a * x + y, y - x


PROGRAM = trace(scaled_sum, ["x", "y"], ["a"])


def test_it_runs_in_place_on_arrays_of_a_device_too() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 30)).astype(np.float32)
    expected = scaled_sum(x, y, a=np.float32(3))
    values = PROGRAM.bind({"a": np.float32(3)})
    kernel = NumpyKernel(PROGRAM)
    device = ao.get_backend("numpy")
    arrays = [device.asarray(x), device.asarray(y)]
    scratch = [device._empty((30,), buffer.dtype) for buffer in kernel.scratch()]
    kernel(arrays, values, scratch)
    for found, right in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(device.asnumpy(found), right)


def test_engines_are_found_by_name() -> None:
    assert kernel_type("test", "numpy") is NumpyKernel
    with pytest.raises(ValueError, match="engine must be one of"):
        kernel_type("test", "cuda")
