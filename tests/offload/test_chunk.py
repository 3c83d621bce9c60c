"""Chunks in time, on a simulated device: what leaves during backward overlaps it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload_sim import Device, Link

LAYERS, SLOTS, SIZE = 8, 3, 10_000
BACKWARD_S, COPY_S, HOST_S = 4e-4, 1e-4, 1.5e-4


def step_seconds(submit: bool, **times: float) -> float:
    """Return how long backward and update of equal layers take, in the second of two steps."""
    copy_s, host_s = times.get("copy_s", COPY_S), times.get("host_s", HOST_S)
    device = ao.get_backend(
        "sim",
        link=Link(4 * SIZE / copy_s),
        device=Device(1e15, 1e15),
        host_ns_per_parameter=host_s / SIZE * 1e9,
    )
    params = [
        ao.Parameter(device.asarray(np.zeros(SIZE, np.float32)), f"p{i}") for i in range(LAYERS)
    ]
    optimizer = ao.Optimizer(params, ao.rules.Adam(), strategy="adam-offload", chunk_bytes=4 * SIZE)
    given = [device.asarray(np.ones(SIZE, np.float32)) for _ in params]
    for _ in range(2):
        device.synchronize()
        start_s = device.now()
        for p, g in zip(params, given, strict=True):
            device.run_on_device(lambda: _busy(device))  # a layer's backward pass
            if submit:
                optimizer.submit(p, g)
        optimizer.step() if submit else optimizer(given)
        device.synchronize()
    return float(device.now() - start_s)


def _busy(device: Any) -> None:
    with device.fused(round(BACKWARD_S * 1e15)):
        pass


@pytest.mark.parametrize(("copy_s", "host_s"), [(1e-4, 8e-4), (3e-4, 5e-4)])
def test_the_host_begins_when_a_rings_worth_of_gradients_is_still_to_leave(
    copy_s: float, host_s: float
) -> None:
    """So that no more of them is on the device. Then it is the longest lane, and drains."""
    begins_s = (LAYERS - SLOTS) * BACKWARD_S + copy_s
    expected = begins_s + LAYERS * host_s + copy_s
    assert step_seconds(True, copy_s=copy_s, host_s=host_s) == pytest.approx(expected, rel=0.02)


def test_without_submit_nothing_overlaps_backward() -> None:
    together = step_seconds(False)
    update = COPY_S + LAYERS * HOST_S + COPY_S  # the host is the longest lane
    assert together == pytest.approx(LAYERS * BACKWARD_S + update, rel=0.02)
    assert step_seconds(True) < together - (LAYERS - SLOTS - 1) * HOST_S * 0.9
