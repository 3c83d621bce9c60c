"""The order of hops, what overlaps, and what a step leaves behind."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload_sim import Device, Link


def make(device: ao.Backend, *sizes: int, **options: Any) -> Any:
    parameters = [
        ao.Parameter(device.asarray(np.ones(n, np.float32)), f"p{i}") for i, n in enumerate(sizes)
    ]
    return ao.Optimizer(parameters, ao.rules.Adam(), **options)


@pytest.mark.parametrize(
    ("strategy", "hops"),
    [
        ("adam-offload", ["prepare", "d2h", "wait", "update", "h2d", "apply"]),
        ("zero-offload", ["prepare", "d2h", "wait", "update", "h2d", "apply"]),
        ("state-shuttle", ["h2d", "h2d", "apply", "d2h", "d2h"]),
        ("resident", ["apply"]),
    ],
)
def test_a_chunk_goes_through_the_hops_that_were_declared(strategy: str, hops: list[str]) -> None:
    device, ledger = ao.get_backend("numpy"), ao.Ledger()
    optimizer = make(device, 10, strategy=strategy, ledger=ledger)
    optimizer([device.asarray(np.ones(10, np.float32))])
    assert [event.hop for event in ledger.events if event.step] == hops


def test_state_comes_and_goes_while_other_chunks_are_updated() -> None:
    """Of 8 chunks, copies of one byte a second; the links work at the same time."""
    device = ao.get_backend("sim", link=Link(4), device=Device(1e9, 1e9))
    ledger = ao.Ledger()
    optimizer = make(device, 32, strategy="state-shuttle", ledger=ledger, chunk_bytes=16)
    gradient = device.asarray(np.ones(32, np.float32))
    device.synchronize()
    optimizer([gradient])
    device.synchronize()
    begin, end = ledger.step_times()[0]
    busy = 2 * 32  # m and v: one second for each element, in each direction
    assert ledger.seconds("h2d", step=1) == pytest.approx(busy)
    assert ledger.seconds("d2h", step=1) == pytest.approx(busy)
    assert end - begin == pytest.approx(busy + busy / 8, abs=1)  # the last chunk goes home alone


@pytest.mark.parametrize("strategy", ["resident", "adam-offload", "state-shuttle"])
def test_what_is_not_needed_any_more_is_freed_without_being_looked_for(strategy: str) -> None:
    device = ao.get_backend("numpy")
    before = device.memory().used
    gc.disable()
    try:
        optimizer = make(device, 50, 7, strategy=strategy, chunk_bytes=64)
        gradients = [device.asarray(np.ones(n, np.float32)) for n in (50, 7)]
        optimizer(gradients)
        gradient = weakref.ref(gradients[0])
        del gradients
        assert gradient() is None
        del optimizer
        assert device.memory().used == before
    finally:
        gc.enable()
