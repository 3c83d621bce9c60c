"""What the contract's tests share: the fixture, the attributes, and how a fault is told."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import numpy as np
import pytest

from adamoffload.device.backend import Backend, HostArray

FLOAT32 = np.dtype(np.float32)
INT8 = np.dtype(np.int8)
SHAPES = ((), (1,), (3,), (1023,), (4, 5), (2, 3, 4), (0,), (3, 0, 2), (1, 1, 1, 7))


class NewDevice(Protocol):
    """Makes a device: a new one at every call, or the only one again, under the new limit."""

    def __call__(self, memory_bytes: int | None = None) -> Backend:
        """Return a device with this memory limit; None for no limit, or the hardware's."""


class Promises:
    """What every group of tests begins with; `BackendContract` says what the attributes mean."""

    allocation_bytes: ClassVar[int] = 1
    clock_resolution_s: ClassVar[float] = 0.0
    exact_peak: ClassVar[bool] = True
    several_devices: ClassVar[bool] = True
    dtypes: ClassVar[str] = "?bBhHiIqQefdFD"
    elements: ClassVar[int] = 1 << 18

    @pytest.fixture
    def new_device(self) -> NewDevice:
        """Return what makes a device; every subclass defines it."""
        raise NotImplementedError(
            f"{type(self).__name__} must define the fixture new_device, which returns a function "
            f"new_device(memory_bytes=None) -> Backend"
        )

    def numbers(self) -> HostArray:
        """Return numbers to be copied: whole, and small enough that sums are exact."""
        return np.arange(self.elements, dtype=np.float32) % 1024

    def taken(self, nbytes: int) -> int:
        """Return what an allocation of `nbytes` takes."""
        return -(-nbytes // self.allocation_bytes) * self.allocation_bytes

    def settle(self, device: Backend) -> None:
        """Let the dead be dead: what is in flight may hold arrays."""
        device.synchronize()
        gc.collect()


def poisoned(size: int, dtype: np.dtype[Any]) -> HostArray:
    """Return what no test expects to see: NaN, or -1 where there is none."""
    return np.full(size, np.nan if dtype.kind == "f" else -1, dtype)


def same(found: HostArray, expected: HostArray, fault: str) -> None:
    """Fail, naming the fault, unless both are equal to the bit."""
    assert found.shape == expected.shape, f"{fault}: shape {found.shape}, not {expected.shape}"
    if found.tobytes() != expected.tobytes():
        wrong = ~((found == expected) | ((found != found) & (expected != expected)))
        raise AssertionError(f"{fault} ({wrong.sum():,} of {wrong.size:,} elements)")


@contextmanager
def refused(
    expected: type[Exception], fault: str, caught: list[Any] | None = None
) -> Iterator[None]:
    """Fail, naming the fault, unless the block raises what is expected; keep that in `caught`."""
    try:
        yield
    except expected as error:
        if caught is not None:
            caught.append(error)
        return
    except Exception as error:
        raise AssertionError(
            f"{fault}, or the error is a wrong one: expected {expected.__name__}, got {error!r}"
        ) from error
    raise AssertionError(f"{fault}: no {expected.__name__} was raised")
