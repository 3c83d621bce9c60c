"""A long run: the numbers stay right, and nothing grows."""

from __future__ import annotations

import gc
import os
import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.rules.rule import FLUSH_INTERVAL

from reference import PlainAdam

STEPS = int(os.environ.get("ADAMOFFLOAD_LONG_RUN", "4000"))
"""Steps to take; the 100,000 of a release take half a minute for both optimizers."""

SIZE = 24


class Model(PlainAdam):
    """Plain Adam in float32 with weights of its own, whose moments lose their denormals."""

    def __init__(self, w: Any, lr: float) -> None:
        super().__init__(w.shape, lr, dtype=np.float32)
        self.w = w.copy()

    def train(self, number: int, g: Any) -> None:
        self.w = self.w + self.step(g)
        if number % FLUSH_INTERVAL == 0:
            tiny = np.finfo(np.float32).smallest_normal
            self.m[np.abs(self.m) < tiny] = 0
            self.v[self.v < tiny] = 0


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


@pytest.mark.parametrize("kind", [ao.AdamOffload, ao.Adam])
def test_a_long_run_equals_the_model_bitwise_and_nothing_grows(kind: Any) -> None:
    device = ao.get_backend("numpy")
    rng = np.random.default_rng(0)
    goal = rng.standard_normal(SIZE).astype(np.float32)
    slope = np.geomspace(1, 1e-3, SIZE).astype(np.float32)
    slope[-2:] = 0  # two elements that never get a gradient
    start = rng.standard_normal(SIZE).astype(np.float32)
    w = ao.Parameter(device.asarray(start), "w")
    on_device = device.asarray(goal), device.asarray(slope)
    optimizer, model = kind([w], learning_rate=0.01), Model(start, 0.01)

    def train(first: int, last: int) -> None:
        for number in range(first, last):
            optimizer([(w.data - on_device[0]) * on_device[1]])
            model.train(number, (model.w - goal) * slope)

    def held() -> tuple[int, ...]:
        gc.collect()
        return device.memory().used, open_files(), threading.active_count()

    train(1, 500)
    before = held()
    tracemalloc.start()
    train(500, STEPS // 2)
    gc.collect()  # also what Python keeps of tuples, for the next ones
    half, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    train(STEPS // 2, STEPS + 1)
    assert held() == before
    assert half < 20_000  # bytes of objects that come and go
    assert optimizer.global_step == STEPS
    for ours, theirs in (
        (w.data, model.w),
        (optimizer.moment1["w"], model.m),
        (optimizer.moment2["w"], model.v),
    ):
        host = device.asnumpy(ours) if device.owns(ours) else ours
        assert host.tobytes() == theirs.tobytes()
    assert (optimizer.beta1_power, optimizer.beta2_power) == (model.power1, model.power2)


def test_powers_fade_away_and_the_correction_becomes_one() -> None:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.zeros(1, np.float32)), "w")
    optimizer = ao.AdamOffload([w], learning_rate=0.5, beta1=0.5, beta2=0.25)
    one = device.asarray(np.ones(1, np.float32))
    for _ in range(200):
        optimizer([one])
    assert optimizer.beta1_power == optimizer.beta2_power == 0
    before = device.asnumpy(w.data)
    optimizer([one])
    assert optimizer.moment1["w"] == optimizer.moment2["w"] == 1
    assert device.asnumpy(w.data) - before == -0.5  # the rate itself: no correction is left
