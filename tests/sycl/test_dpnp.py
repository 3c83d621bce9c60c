"""The dpnp backend: the contract on queues that are asynchronous, and lost waits, seen there.

It runs where dpnp is installed and SYCL finds a device: on a processor, once ``OCL_ICD_FILENAMES``
names the ``libintelocl.so`` of the environment. ``ADAMOFFLOAD_REQUIRE_SYCL=1`` makes its absence a
failure.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.device.backend import Done
from adamoffload.testing import BackendContract, NewDevice
from adamoffload_dpnp import DpnpBackend

REASON = DpnpBackend.unavailable()
if REASON and os.environ.get("ADAMOFFLOAD_REQUIRE_SYCL") != "1":
    pytest.skip(REASON, allow_module_level=True)


class TestDpnpBackend(BackendContract):
    clock_resolution_s = 1e-3

    @pytest.fixture
    def new_device(self) -> NewDevice:
        return partial(ao.get_backend, "dpnp")


@pytest.fixture
def device() -> Any:
    return ao.get_backend("dpnp")


def test_work_is_issued_long_before_it_is_done(device: Any) -> None:
    x = device.asarray(np.ones(1 << 22, np.float32))
    np.add(x, x, out=x)
    device.synchronize()  # compiled

    def add() -> None:
        for _ in range(50):
            np.add(x, 1, out=x)

    tickets = [device.run_on_device(add) for _ in range(4)]
    assert not tickets[-1].done
    tickets[-1].wait()
    assert all(ticket.done for ticket in tickets)
    assert (device.asnumpy(x) == 202).all()


def train(device: Any, **options: Any) -> list[bytes]:
    rng = np.random.default_rng(0)
    parameters = [
        ao.Parameter(device.asarray(rng.standard_normal(n, np.float32)), f"p{n}")
        for n in (50_000, 70)
    ]
    optimizer = ao.Optimizer(
        parameters, ao.rules.AdamW(0.01), chunk_bytes=40_000, slots=2, **options
    )
    for _ in range(4):
        optimizer([p.data * np.float32(3) for p in parameters])
    arrays = [p.data for p in parameters] + [*optimizer.state["m"].values()]
    return [(device.asnumpy(x) if device.owns(x) else x).tobytes() for x in arrays]


@pytest.mark.parametrize("strategy", ["resident", "adam-offload", "zero-offload", "state-shuttle"])
def test_every_strategy_has_the_bits_of_the_numpy_backend(device: Any, strategy: str) -> None:
    expected = train(ao.get_backend("numpy"), strategy=strategy)
    for _ in range(5):  # each time in another order
        assert train(device, strategy=strategy) == expected


# -- two waits that are missing on purpose ---------------------------------------------------------

NOTHING = (Done(0.0, 0.0),)


class CopiesDownTooEarly(DpnpBackend):
    """Its copies down do not wait for what computes their source."""

    def _d2h(self, source: Any, target: Any, after: Any) -> Any:
        return super()._d2h(source, target, NOTHING)


class ComputesTooEarly(DpnpBackend):
    """Its computations do not wait for the copy that brings their operand."""

    def run_on_device(self, function: Any, *, after: Any = ()) -> Any:
        return super().run_on_device(function, after=NOTHING if after else ())


def copied_after_work(device: Any) -> bool:
    """Whether a copy down brings what 50 additions, which it comes after, have made."""
    x, back = device.zeros(1 << 22), device.empty_pinned(1 << 22)

    def add() -> None:
        for _ in range(50):
            np.add(x, 1, out=x)

    work = device.run_on_device(add)
    device.d2h(x, back, after=(work,)).wait()
    work.wait()
    return bool((back == 50).all())


def computed_after_copy(device: Any) -> bool:
    """Whether a computation sees the end of a copy up of 64 MB, which it comes after."""
    host = np.ones(1 << 24, np.float32)
    x, y = device.zeros(host.size), device.zeros(1000)
    copied = device.h2d(host, x)
    work = device.run_on_device(lambda: np.multiply(x[-1000:], 2, out=y), after=(copied,))
    work.wait()
    copied.wait()
    return bool((device.asnumpy(y) == 2).all())


@pytest.mark.parametrize(
    ("broken", "is_ordered"),
    [(CopiesDownTooEarly, copied_after_work), (ComputesTooEarly, computed_after_copy)],
)
def test_a_missing_wait_is_seen_on_a_real_queue(broken: Any, is_ordered: Any) -> None:
    right, wrong = DpnpBackend(), broken()
    assert all(is_ordered(right) for _ in range(5))
    assert not all(is_ordered(wrong) for _ in range(5))  # a race, which may be won now and then
