"""The norm of all gradients: right where float32 is not, and PyTorch's factor."""

from __future__ import annotations

import math

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.offload.norm import GlobalNorm, clip_factor, sum_of_squares

import faults


def norm_of(device: ao.Backend, arrays: list[object], scale: float = 1.0) -> float:
    norm = GlobalNorm(device, len(arrays))
    squares = {i: norm.of(device.asarray(x)) for i, x in enumerate(arrays)}
    return norm.total(squares, scale, lambda *_: None)


@pytest.mark.parametrize("backend", ["numpy", "sim"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_it_is_that_of_all_together_unscaled(backend: str, dtype: str) -> None:
    device, rng = ao.get_backend(backend), np.random.default_rng(0)
    arrays = [device.asarray(rng.standard_normal(n), dtype) for n in (5, 1 << 19, 1)]
    exact = [device.asnumpy(x).astype(np.float64) for x in arrays]
    expected = np.sqrt(sum(np.sum(x * x) for x in exact)) / 8
    assert norm_of(device, arrays, 8.0) == pytest.approx(expected, rel=1e-14)


def test_squares_neither_overflow_nor_vanish() -> None:
    device = ao.get_backend("numpy")
    for size in (3e38, 1e-40):
        x = np.full(4, size, np.float32)
        assert norm_of(device, [x]) == pytest.approx(2 * float(x[0]))


@pytest.mark.parametrize(("x", "expected"), [(np.nan, math.nan), (np.inf, math.inf)])
def test_what_is_not_finite_is_told(x: float, expected: float) -> None:
    device = ao.get_backend("numpy")
    found = norm_of(device, [np.ones(3, np.float32), np.array([1, x], np.float32)])
    assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_one_number_a_tensor_comes_down() -> None:
    device = ao.get_backend("numpy")
    given = [device.asarray(np.ones(100_000, np.float32)) for _ in range(3)]
    before = device.traffic().d2h
    norm_of(device, given)
    assert device.traffic().d2h - before == 3 * 8


def test_the_factor_is_that_of_pytorch() -> None:
    assert clip_factor(3.0, 3.0 + 1e-6) == 1.0
    assert clip_factor(2.0, 1.0) == 1.0 / 2.000001
    assert clip_factor(0.0, 1.0) == 1.0
    assert clip_factor(math.inf, 1.0) == 0.0
    assert sum_of_squares(np.ones(10, np.float32)).tolist() == [10.0]


def test_a_look_that_fails_late_is_no_norm() -> None:
    options = (("max_norm", 0.5), ("engine", "numpy"))
    subject = faults.Setting(faults.Shuttled, "lazy", options=options).build()
    before = subject.state()
    with faults.Broken("run_on_device", "wait", 1, subject).armed(), pytest.raises(faults.Fault):
        subject.step(0)
    assert subject.state() == before
    subject.step(0)
