"""An array goes from any place to any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.device.disk import Directory
from adamoffload.offload import transfer as module
from adamoffload.offload.transfer import on_host, transfer

from lazy_backend import LazyBackend

PLACES = ("device", "host", "disk")


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (0,)])
@pytest.mark.parametrize("target", PLACES)
@pytest.mark.parametrize("source", PLACES)
@pytest.mark.parametrize("backend", ["numpy", "sim", "lazy"])
def test_from_any_place_to_any_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    source: str,
    target: str,
    shape: tuple[int, ...],
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 5)
    device = LazyBackend() if backend == "lazy" else ao.get_backend(backend)
    directory = Directory("Optimizer", tmp_path)
    values = np.random.default_rng(0).standard_normal(shape, np.float32)

    def made(place: str, name: str) -> Any:
        if place == "disk":
            return directory.create(name, values.size).reshape(shape)
        return np.zeros_like(values) if place == "host" else device.asarray(np.zeros_like(values))

    one, other = made(source, "one"), made(target, "other")
    transfer(device, values, one)
    moved: list[tuple[str, int]] = []
    transfer(device, one, other, lambda hop, elements, nbytes, ticket: moved.append((hop, nbytes)))
    np.testing.assert_array_equal(on_host(device, other), values)
    if source == target == "host":
        assert not moved
    for hop in {hop for hop, _ in moved}:
        assert sum(nbytes for name, nbytes in moved if name == hop) == values.nbytes
    directory.close()


def test_what_the_device_still_computes_is_not_overtaken() -> None:
    device = ao.get_backend("sim")
    target = device.empty(5)
    np.copyto(target, np.float32(0))  # in the queue, and the host does not wait
    transfer(device, np.ones(5, np.float32), target)
    assert device.asnumpy(target).tolist() == [1] * 5


def test_a_state_that_moves_to_a_device_arrives() -> None:
    device = ao.get_backend("sim")
    w = ao.Parameter(device.asarray(np.ones(3, np.float32)), "w")
    optimizer = ao.Optimizer([w], ao.rules.Adam(), strategy="adam-offload")
    optimizer([2 * w.data])
    before = optimizer.state["m"]["w"].tolist()
    optimizer.to("resident")
    assert device.asnumpy(optimizer.state["m"]["w"]).tolist() == before
