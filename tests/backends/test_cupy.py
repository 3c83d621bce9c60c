"""The cupy backend on a real GPU: numbers, overlap and memory; skipped where there is none.

``ADAMOFFLOAD_REQUIRE_GPU=1`` makes the absence of a GPU a failure.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.testing import BackendContract, NewDevice

pytestmark = pytest.mark.gpu

REQUIRED = os.environ.get("ADAMOFFLOAD_REQUIRE_GPU") == "1"


def gpu(memory_bytes: int | None = None) -> ao.Backend:
    """Return the GPU, or skip with the reason."""
    reason = ao.available_backends()["cupy"].reason
    if reason and not REQUIRED:
        pytest.skip(reason)
    return ao.get_backend("cupy", memory_bytes=memory_bytes)


@pytest.fixture
def device() -> ao.Backend:
    return gpu()


class TestCupyBackend(BackendContract):
    allocation_bytes = 512
    clock_resolution_s = 1e-3
    exact_peak = False
    several_devices = False
    elements = 1 << 24

    @pytest.fixture
    def new_device(self) -> NewDevice:
        return gpu


def train(device: ao.Backend, kind: Any, **arguments: Any) -> list[Any]:
    """Take some steps on parameters of awkward sizes; return parameters and moments."""
    rng = np.random.default_rng(0)
    shapes = [(1000, 333), (7,), (), (64, 3, 3, 3)]
    parameters = [
        ao.Parameter(device.asarray(rng.standard_normal(shape, np.float32)), f"p{i}")
        for i, shape in enumerate(shapes)
    ]
    noise = [device.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]
    optimizer = kind(parameters, **arguments)
    for _ in range(70):  # beyond a flush of denormals
        optimizer([p.data * np.float32(3) + x for p, x in zip(parameters, noise, strict=True)])
    arrays = [
        *(p.data for p in parameters),
        *optimizer.moment1.values(),
        *optimizer.moment2.values(),
    ]
    return [device.asnumpy(x) if device.owns(x) else x for x in arrays]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"weight_decay": 0.01, "loss_scale": 3.0},
        {"use_nesterov": True, "learning_rate": ao.CosineDecayLR(0.0, 0.1, 50)},
    ],
    ids=["plain", "decay and scale", "Nesterov and schedule"],
)
@pytest.mark.parametrize("kind", [ao.AdamOffload, ao.Adam])
def test_training_is_bitwise_that_of_the_numpy_backend(
    device: ao.Backend, kind: Any, arguments: dict[str, Any]
) -> None:
    options = {"chunk_bytes": 100_000} if kind is ao.AdamOffload else {}
    expected = train(ao.get_backend("numpy"), kind, **arguments, **options)
    for a, b in zip(train(device, kind, **arguments, **options), expected, strict=True):
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


def test_copies_keep_the_bits_whatever_the_layout(device: ao.Backend) -> None:
    host = np.random.default_rng(0).standard_normal((300, 200), np.float32)
    x = device.asarray(host)
    np.testing.assert_array_equal(device.asnumpy(x.T), host.T)
    device.h2d(host[:, 0], x[:, 5]).wait()
    np.testing.assert_array_equal(device.asnumpy(x[:, 5]), host[:, 0])
    back = np.zeros((200, 300), np.float32)
    device.d2h(x, back.T).wait()
    np.testing.assert_array_equal(back, device.asnumpy(x).T)


def test_nothing_is_copied_implicitly(device: ao.Backend) -> None:
    x = device.asarray(np.ones(3, np.float32))
    with pytest.raises(TypeError):
        np.asarray(x)
    with pytest.raises(TypeError):
        x + np.ones(3, np.float32)


def test_copies_in_both_directions_overlap(device: ao.Backend) -> None:
    size = 16 << 20
    x, y = (device._empty((size,), np.dtype(np.float32)) for _ in range(2))
    down, up = (device._empty_pinned(size, np.dtype(np.float32)) for _ in range(2))
    up[...] = 0
    device.synchronize()
    sent, fetched = device.h2d(up, y), device.d2h(x, down)
    assert max(sent.start_s, fetched.start_s) < min(sent.stop_s, fetched.stop_s)


def test_a_ledger_gets_plausible_times(device: ao.Backend) -> None:
    ledger = ao.Ledger()
    before_s = device.now()
    train(device, ao.AdamOffload, ledger=ledger, chunk_bytes=100_000)
    device.synchronize()
    after_s = device.now()
    for event in ledger.events:
        assert before_s - 1e-3 <= event.start_s <= event.stop_s <= after_s + 1e-3


def test_a_limit_is_kept_by_copies_and_by_expressions(device: ao.Backend) -> None:
    taken = device.memory().peak
    assert ao.get_backend("cupy", memory_bytes=taken + (8 << 20)) is device
    x = device.asarray(np.zeros(1 << 20, np.float32))
    try:
        with pytest.raises(ao.DeviceMemoryError):
            device.asarray(np.zeros(1 << 21, np.float32))
        with pytest.raises(ao.DeviceMemoryError):
            np.concatenate([x, x])
    finally:
        ao.get_backend("cupy")
