"""How a state is taken away, brought back, and moved elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao


def make(strategy: str, **options: Any) -> Any:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.arange(6, dtype=np.float32)), "w")
    return ao.Optimizer([w], ao.rules.Adam(learning_rate=0.1), strategy=strategy, **options)


def step(optimizer: Any) -> None:
    optimizer([optimizer.backend.asarray(np.ones(6, np.float32))])


@pytest.mark.parametrize("strategy", ["zero-offload", "state-shuttle-master"])
def test_weights_that_were_edited_reach_the_master_when_asked(strategy: str) -> None:
    optimizer = make(strategy)
    step(optimizer)
    w = optimizer.parameters[0]
    optimizer.backend.h2d(np.full(6, 5, np.float32), w.data).wait()
    optimizer.reload_master()
    np.testing.assert_array_equal(optimizer.master["w"], np.full(6, 5))
    step(optimizer)
    assert np.all(optimizer.backend.asnumpy(w.data) > 4)


@pytest.mark.parametrize("other", ["adam-offload", "zero-offload", "resident"])
def test_a_file_of_one_strategy_goes_on_in_another(other: str, tmp_path: Any) -> None:
    first, second = make("zero-offload"), make(other)
    step(first)
    ao.save(tmp_path / "x", first)
    ao.load(tmp_path / "x", second)
    for optimizer in (first, second):
        step(optimizer)
    found = [o.backend.asnumpy(o.parameters[0].data).tobytes() for o in (first, second)]
    assert found[0] == found[1]
    for name, master in second.master.items():
        assert master.tobytes() == found[1], name


def test_a_file_without_a_master_makes_one(tmp_path: Any) -> None:
    first, second = make("resident"), make("zero-offload")
    step(first)
    ao.save(tmp_path / "x", first)
    ao.load(tmp_path / "x", second)
    assert second.master["w"].tobytes() == first.backend.asnumpy(first.parameters[0].data).tobytes()


def test_moving_what_a_probe_watches_is_refused() -> None:
    optimizer = make("adam-offload", probe=ao.Probe())
    with pytest.raises(ValueError, match="cannot move what a probe watches"):
        optimizer.to("resident")


def test_moving_needs_room_for_both_and_says_so() -> None:
    device = ao.get_backend("numpy", memory_bytes=200)
    w = ao.Parameter(device.asarray(np.ones(25, np.float32)), "w")
    optimizer = ao.Optimizer([w], ao.rules.Adam(), strategy="adam-offload", chunk_bytes=4)
    before = optimizer.state_dict()
    with pytest.raises(ao.DeviceMemoryError):
        optimizer.to("resident")
    assert optimizer.strategy.name == "adam-offload"
    assert str(optimizer.state_dict()) == str(before)
