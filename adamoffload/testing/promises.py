"""What the contract's tests share: the fixture, the attributes, and how a fault is told."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import pytest

from adamoffload.device.backend import Array, Backend, HostArray, Ticket

FLOAT32 = np.dtype(np.float32)
INT8 = np.dtype(np.int8)
SHAPES = ((), (1,), (3,), (1023,), (4, 5), (2, 3, 4), (0,), (3, 0, 2), (1, 1, 1, 7))


class NewDevice(Protocol):
    """Makes a device: a new one at every call, or the only one again, under the new limit."""

    def __call__(self, memory_bytes: int | None = None) -> Backend:
        """Return a device with this memory limit; None for no limit, or the hardware's."""


class Layout(NamedTuple):
    """A way for an array to lie in the memory of a larger one."""

    name: str
    around: Callable[[tuple[int, ...]], tuple[int, ...]]
    """Takes a shape, and returns that of an array that has room for it."""
    view: Callable[[Any], Any]
    """Takes an array with room, on either side, and returns the view of the shape asked for."""


CONTIGUOUS = Layout("contiguous", lambda s: s, lambda a: a)
_FORWARD = (
    CONTIGUOUS,
    Layout("sliced", lambda s: (*s[:-1], s[-1] + 3), lambda a: a[..., 1:-2]),
    Layout("strided", lambda s: (2 * s[0], *s[1:]), lambda a: a[::2]),
    Layout("strided in the last axis", lambda s: (*s[:-1], 3 * s[-1]), lambda a: a[..., 1::3]),
    Layout("Fortran-ordered", lambda s: s[::-1], lambda a: a.T),
    Layout("strided and Fortran-ordered", lambda s: (*s[:0:-1], 2 * s[0]), lambda a: a[..., ::2].T),
)
_REVERSED = (
    Layout("reversed", lambda s: s, lambda a: a[::-1]),
    Layout("reversed in the last axis", lambda s: s, lambda a: a[..., ::-1]),
    Layout("reversed and strided", lambda s: (2 * s[0], *s[1:]), lambda a: a[::-2]),
    Layout("reversed and Fortran-ordered", lambda s: s[::-1], lambda a: a.T[::-1]),
)
ELEMENT = Layout("an element of an array", lambda _: (5,), lambda a: a[2, ...])
"""For 0-d arrays."""


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

    def settle(self, device: Backend, used: int) -> None:
        """Let the dead be dead: what is in flight, or in a cycle, may hold arrays."""
        device.synchronize()
        if device.memory().used > used:
            gc.collect()


class Elsewhere(Ticket):
    """A ticket of no device: what it stands for is done by the first who waits for it.

    Whoever forgets it finds nothing done, on any device and in every run.
    """

    def __init__(self, action: Callable[[], object]) -> None:
        self._action: Callable[[], object] | None = action
        self._error: Exception | None = None
        self._lock = threading.RLock()

    def wait(self) -> None:
        """Do it, or raise again what it raised."""
        with self._lock:
            action, self._action = self._action, None
            if action is not None:
                try:
                    action()
                except Exception as error:
                    self._error = error
        if self._error is not None:
            raise self._error

    @property
    def start_s(self) -> float:
        """Zero, on a clock of its own."""
        self.wait()
        return 0.0

    stop_s = start_s


class Mine(Exception):
    """What fails on purpose."""


def fail(*_: object) -> None:
    """Fail, on purpose."""
    raise Mine("mine")


def error_of(issue: Callable[[], Ticket]) -> Exception | None:
    """Return what an operation raises: at its issue, as a device without a queue, or later."""
    try:
        issue().wait()
    except Exception as error:
        return error
    return None


def failed(device: Backend) -> Ticket:
    """Return the device's own ticket of work that fails, or another if it has no such tickets."""
    try:
        return device.run_on_device(fail)
    except Mine:
        return Elsewhere(fail)


def layouts(device: Backend | None = None) -> tuple[Layout, ...]:
    """Return the layouts of arrays of at least one axis, that a device has, or else the host."""
    return _FORWARD + (_REVERSED if device is None or device.negative_strides else ())


def poisoned(shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
    """Return what no test expects to see: NaN, or -1, or 1 where there is neither."""
    return np.full(shape, np.nan if dtype.kind in "fc" else np.array(-1).astype(dtype), dtype)


def counted(shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
    """Return 1, 2, 3, ... in any shape and dtype: no two neighbours are equal, and none poison."""
    size = int(np.prod(shape))
    return (np.arange(1, size + 1) % (2 if dtype.kind == "b" else 100)).astype(dtype).reshape(shape)


def on_device(device: Backend, layout: Layout, values: HostArray) -> tuple[Array, Array]:
    """Return the poisoned array around a view, and the view, which holds `values`."""
    host = on_host(layout, values)[0]
    around = device.asarray(host)
    return around, layout.view(around)


def on_host(layout: Layout, values: HostArray) -> tuple[HostArray, HostArray]:
    """Return the poisoned array around a view, and the view, which holds `values`."""
    around = poisoned(layout.around(values.shape), values.dtype)
    view = layout.view(around)
    view[...] = values
    return around, view


def same(found: HostArray, expected: HostArray, fault: str) -> None:
    """Fail, naming the fault, unless both are equal to the bit."""
    assert found.shape == expected.shape, f"{fault}: shape {found.shape}, not {expected.shape}"
    assert found.dtype == expected.dtype, f"{fault}: dtype {found.dtype}, not {expected.dtype}"
    if not np.array_equal(_bytes(found), _bytes(expected)):
        wrong = ~((found == expected) | ((found != found) & (expected != expected)))
        raise AssertionError(f"{fault} ({wrong.sum():,} of {wrong.size:,} elements)")


def _bytes(array: HostArray) -> HostArray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


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


@contextmanager
def overtaken() -> Iterator[None]:
    """Let other threads in after each line of Python that is called, so that every race shows."""

    def pause(*_: object) -> Any:
        time.sleep(1e-6)
        return pause

    tracer = sys.gettrace()
    sys.settrace(pause)
    try:
        yield
    finally:
        sys.settrace(tracer)


def together(*functions: Callable[[], object]) -> None:
    """Run functions in threads of their own, begun at once; raise what one of them raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> None:
        try:
            barrier.wait()
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
