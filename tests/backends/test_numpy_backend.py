"""The numpy backend: separate memory with a limit, nothing left running."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao


def test_each_device_has_memory_of_its_own() -> None:
    one, other = ao.get_backend("numpy", memory_bytes=100), ao.get_backend("numpy")
    array = one.asarray(np.zeros(10, np.float32))
    assert one.memory() == (40, 40, 100)
    assert other.memory() == (0, 0, None)
    assert one.owns(array)
    assert not other.owns(array)


@pytest.mark.parametrize("stranger", [None, 1.0, np.zeros(3), [1], "x", ao.Backend])
def test_it_owns_nothing_else(stranger: Any) -> None:
    assert not ao.get_backend("numpy").owns(stranger)


@pytest.mark.parametrize(
    ("memory_bytes", "error"),
    [(0, ValueError), (-5, ValueError), (1e9, TypeError), (True, TypeError)],
)
def test_a_memory_limit_is_a_positive_integer(memory_bytes: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="numpy: memory_bytes must be"):
        ao.get_backend("numpy", memory_bytes=memory_bytes)


def test_a_memory_limit_may_be_a_numpy_integer() -> None:
    assert ao.get_backend("numpy", memory_bytes=np.int64(64)).memory().limit == 64


def test_an_address_is_that_of_the_first_byte() -> None:
    device = ao.get_backend("numpy")
    array = device.asarray(np.zeros((4, 8), np.float32))
    assert device._address(array[1]) - device._address(array) == 32
    assert device._address(array.reshape(-1)[5:]) - device._address(array) == 20
    assert device._address(array.reshape(32)) == device._address(array)


def test_an_address_is_not_given_out_again() -> None:
    device = ao.get_backend("numpy")
    addresses = {device._address(device.asarray(np.zeros(8))) for _ in range(10)}
    assert len(addresses) == 10


def test_allocations_do_not_overlap() -> None:
    device = ao.get_backend("numpy")
    a, b = device._empty((100,), np.dtype(np.float32)), device._empty((100,), np.dtype(np.float32))
    assert abs(device._address(a) - device._address(b)) >= 400


def test_everything_is_done_when_its_call_returns() -> None:
    device = ao.get_backend("numpy")
    array, host = device.asarray(np.ones(3)), np.zeros(3)
    device.d2h(array, host)
    assert host.all()
    device.synchronize()


def test_its_clock_is_the_walls() -> None:
    device = ao.get_backend("numpy")
    assert not device.simulated
    assert device.now() <= device.now()


def test_its_memory_comes_back_when_the_arrays_die() -> None:
    device = ao.get_backend("numpy", memory_bytes=400)
    for _ in range(10):
        device.asarray(np.zeros(100, np.float32))
    assert device.memory() == (0, 400, 400)
