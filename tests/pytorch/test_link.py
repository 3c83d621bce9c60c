"""The way to a GPU, on a stand-in for CUDA that reorders what is not ordered."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.testing import BackendContract, NewDevice

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'adamoffload[torch]'")

from fake_cuda import device as stand_in  # noqa: E402
from fake_cupy import Cuda  # noqa: E402


class TestOnStandIn(BackendContract):
    dtypes = "?bBhiqefdFD"
    clock_resolution_s = 1e-3
    test_a_ticket_knows_its_times = None  # type: ignore[assignment]  # its clock is not the host's
    # torch.sqrt of the CPU is not rounded correctly; a GPU's is. See ON_THE_CPU.
    test_training_on_the_device_equals_the_numpy_backend = None  # type: ignore[assignment]

    @pytest.fixture
    def new_device(self) -> NewDevice:
        return partial(stand_in, Cuda(eagerness=0))


def train(device: Any, strategy: str) -> list[Any]:
    rng = np.random.default_rng(0)
    parameters = [
        ao.Parameter(device.asarray(rng.standard_normal(n, np.float32)), f"p{n}") for n in (50, 7)
    ]
    optimizer = ao.Optimizer(
        parameters, ao.rules.Lion(0.01), strategy=strategy, chunk_bytes=64, slots=2
    )
    for _ in range(3):
        optimizer([p.data * np.float32(3) for p in parameters])
    return [device.asnumpy(p.data).tobytes() for p in parameters]


@pytest.mark.parametrize("eagerness", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("strategy", ["adam-offload", "zero-offload", "state-shuttle"])
def test_training_is_that_of_the_numpy_backend_in_any_order(
    strategy: str, eagerness: float
) -> None:
    expected = train(ao.get_backend("numpy"), strategy)
    for seed in range(3):
        assert train(stand_in(Cuda(seed, eagerness)), strategy) == expected


def test_copies_are_on_streams_of_their_own_and_the_host_goes_on() -> None:
    cuda = Cuda(eagerness=0)
    device = stand_in(cuda)
    x, y = (device.empty(5) for _ in range(2))
    host = device.empty_pinned(5)
    device.run_on_device(lambda: None).wait()  # the clock's anchor
    cuda.log.clear()
    device.d2h(x, host)
    device.h2d(host, y)
    device.run_on_device(lambda: np.add(x, y, out=x))
    assert [len(cuda.on(what)) for what in ("copy", "kernel")] == [2, 1]
    assert not cuda.on("copy") & cuda.on("kernel")
    assert not cuda.blocked()
    device.synchronize()


def test_memory_in_flight_is_kept_and_then_let_go() -> None:
    cuda = Cuda(eagerness=0)
    device = stand_in(cuda)
    before = device.memory().used
    host = np.ones((3, 4), np.float32)
    x = device.asarray(host)
    tickets = [device.d2h(x[:, ::2], np.empty((3, 2), np.float32)), device.h2d(host * 2, x + 0)]
    del x, host
    gc.collect()
    device.synchronize()
    del tickets
    gc.collect()
    assert device.memory().used == before


def test_a_missing_wait_is_seen_by_the_stand_in() -> None:
    device = stand_in(Cuda(eagerness=0))
    x, host = device.zeros(1000), device.empty_pinned(1000)
    device.d2h(x, host)
    assert not (host == 0).all()
    up = device.h2d(np.ones(1000, np.float32), x)
    late = device.run_on_device(lambda: np.add(x, 1, out=x))  # it does not come after `up`
    late.wait()
    up.wait()
    assert not (device.asnumpy(x) == 2).all()
