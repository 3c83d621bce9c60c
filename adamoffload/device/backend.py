"""`Backend`: the whole contract of a device.

A backend owns memory on a device and knows the way between that memory and the host. The optimizer
asks for nothing else, and computes on device arrays with plain ``np.*`` calls.

What a plug-in implements:

==================  ==========================================================================
``owns``            is this array mine?
``memory``          bytes used, peak and limit
``_empty``          allocate on the device
``_address``        where a contiguous array begins
``_d2h``, ``_h2d``  copy between a device array and a host array, and return a `Ticket`
==================  ==========================================================================

and, when it runs asynchronously or keeps its own time, any of ``now``, ``synchronize``,
``_empty_pinned``, ``run_on_device`` and ``run_on_host``; when its time is simulated, ``simulated``,
``fused``, ``_read`` and ``_write``; when it needs hardware, ``unavailable``.
What it gets: `Backend.asarray`, `Backend.asnumpy`, `Backend.d2h` and `Backend.h2d`, and for disks
`Backend.read` and `Backend.write`, which are final, check their operands and count every byte. A
plug-in cannot move one uncounted.

Ordering is explicit. An operation starts when all tickets in its ``after`` are done, of whichever
device they are, and its own `Ticket` says when it is done itself. After one that failed it does not
start, and fails as well: an error travels along the tickets until the host waits for one. One thing
needs no ticket: the device computes in the order of issue, through `Backend.run_on_device` or as
plain ``np.*``, so the ticket of the work issued last stands for all of it. Nothing else may be
assumed about what has happened already.

`adamoffload.testing.BackendContract` tests all of this on any backend.
"""

from __future__ import annotations

import math
import operator
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple, NoReturn, Protocol, TypeAlias, final

import numpy as np

__all__ = [
    "Array",
    "Backend",
    "DeviceMemoryError",
    "Done",
    "HostArray",
    "Memory",
    "ResidencyError",
    "Stored",
    "Ticket",
    "Traffic",
    "backend_of",
]

Array: TypeAlias = Any
"""An array of a device library, which dispatches ``np.*`` by NEP 13 and NEP 18.

No narrower type than Any will do: NumPy's stubs take no other array than its own for ``out=``, in
``np.copyto`` and as the result of ``np.*``, so that they would refuse programs that are right.
"""

HostArray: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[Any]]


class ResidencyError(TypeError):
    """An array is on the wrong side of the link, or on the wrong device.

    Nothing is ever copied between host and device silently; the message names the explicit call.
    """


class DeviceMemoryError(MemoryError):
    """An allocation would take a device past its memory limit.

    Parameters
    ----------
    device : str
        The device's name, for the message.
    requested_bytes, used_bytes, limit_bytes : int
        Size of the refused allocation, bytes in use before it, and the limit; kept as attributes.
    """

    def __init__(
        self, device: str, requested_bytes: int, used_bytes: int, limit_bytes: int
    ) -> None:
        super().__init__(device, requested_bytes, used_bytes, limit_bytes)
        self.device = device
        self.requested_bytes = requested_bytes
        self.used_bytes = used_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"device {self.device!r} is out of memory: {self.requested_bytes:,} bytes requested "
            f"with {self.used_bytes:,} of {self.limit_bytes:,} in use; free arrays, use smaller "
            f"batches or chunks, or create the device with a larger memory_bytes"
        )


class Memory(NamedTuple):
    """Bytes of device memory: in use now, at most so far, and at most allowed (None: no limit)."""

    used: int
    peak: int
    limit: int | None


class Traffic(NamedTuple):
    """Bytes that have crossed the link since the device was created, by direction."""

    d2h: int
    h2d: int


class Ticket(ABC):
    """A claim on an operation that may still be running."""

    __slots__ = ()

    @abstractmethod
    def wait(self) -> None:
        """Block the host until the operation is done; raise what it raised, at every call."""

    @property
    @abstractmethod
    def start_s(self) -> float:
        """When it began, in seconds on the backend's clock; waits, and raises, as `wait` does."""

    @property
    @abstractmethod
    def stop_s(self) -> float:
        """When it ended, in seconds on the backend's clock; waits, and raises, as `wait` does."""

    @property
    def seconds(self) -> float:
        """How long it took; waits, and raises, as `wait` does."""
        return self.stop_s - self.start_s


@final
class Done(Ticket):
    """The ticket of an operation that was finished when its call returned."""

    __slots__ = ("_start_s", "_stop_s")

    def __init__(self, start_s: float, stop_s: float) -> None:
        self._start_s = start_s
        self._stop_s = stop_s

    def wait(self) -> None:
        """Return at once."""

    @property
    def start_s(self) -> float:
        """When the operation began, in seconds on the backend's clock."""
        return self._start_s

    @property
    def stop_s(self) -> float:
        """When the operation ended, in seconds on the backend's clock."""
        return self._stop_s


class Stored(ABC):
    """A float32 array on a disk, as `Backend.read` and `Backend.write` know it.

    Attributes
    ----------
    shape : tuple of int
        Of the array.
    dtype : dtype
        float32.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    @abstractmethod
    def span(self) -> tuple[int, int]:
        """Its first byte and the one after its last; no memory is there, nor another file."""

    @abstractmethod
    def read(self, out: HostArray | None = None) -> HostArray:
        """Return what is there when nothing is under way any more: a new array, or `out`."""

    @abstractmethod
    def write(self, source: HostArray) -> None:
        """Write `source` when nothing is under way any more."""

    @abstractmethod
    def start_read(
        self, target: HostArray, after: tuple[Ticket, ...], now: Callable[[], float]
    ) -> Ticket:
        """Fill `target` once `after` is done; times are those of `now`."""

    @abstractmethod
    def start_write(
        self, source: HostArray, after: tuple[Ticket, ...], now: Callable[[], float]
    ) -> Ticket:
        """Write `source` once `after` is done; times are those of `now`."""


class _Record(Protocol):
    # `Record` of the ledger, spelled out: the contract imports nothing of ours.
    def __call__(self, hop: Any, elements: int, nbytes: int, ticket: Ticket, /) -> None: ...


def _ignore(hop: Any, elements: int, nbytes: int, ticket: Ticket, /) -> None:
    """Record nothing."""


def _nothing() -> None:
    """Only be a place in the device's queue."""


class Backend(ABC):
    """One device: an instance owns its memory, its clock and its counters.

    Subclasses call ``super().__init__()``, set `name`, and are found through the entry-point group
    ``adamoffload.backends``.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy", memory_bytes=1024)
    >>> x = device.asarray(np.arange(4, dtype=np.float32))
    >>> device.asnumpy(np.square(x) + 1)
    array([ 1.,  2.,  5., 10.], dtype=float32)
    >>> device.memory(), device.traffic()
    (Memory(used=16, peak=48, limit=1024), Traffic(d2h=16, h2d=16))
    """

    name: ClassVar[str]
    simulated: ClassVar[bool] = False
    """Whether `now` is a simulated time; whoever shows such times says so."""
    negative_strides: ClassVar[bool] = True
    """Whether arrays have views in reverse order, as ``x[::-1]``; if not, that is a ValueError."""

    def __init__(self) -> None:
        self._d2h_bytes = 0
        self._h2d_bytes = 0
        self._counting = threading.RLock()  # a signal handler may copy, and ask, in between
        key, forget = id(self), _live.pop
        _live[key] = weakref.ref(self, lambda _: forget(key, None))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in vars(Backend).items():
            if getattr(value, "__final__", False) and getattr(cls, name) is not value:
                raise TypeError(
                    f"{cls.__name__} overrides Backend.{name}, which is final, so that every byte "
                    f"is checked and counted; implement _d2h and _h2d instead"
                )

    # -- what a plug-in implements ------------------------------------------------------------

    @abstractmethod
    def owns(self, array: object) -> bool:
        """Return whether `array` lives in this device's memory.

        Arrays, their views and the results of ``np.*`` do; a `Parameter`, a list of arrays, and
        arrays of the host or of another device do not. Any object may be asked about, from any
        thread, and as soon as ``Backend.__init__`` returned.
        """

    @abstractmethod
    def memory(self) -> Memory:
        """Return the bytes of device memory used, at peak, and allowed.

        Arrays and results take their bytes, views take none, and the last view gives the memory
        back. The peak is what was in use at most.
        """

    @abstractmethod
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Allocate a C-contiguous device array, uninitialised, or raise `DeviceMemoryError`.

        Arrays share no memory. What fits is given, to the last byte, and an array without elements
        always fits. What does not fit is refused, also where threads ask at once, and leaves
        everything as it was.
        """

    @abstractmethod
    def _address(self, array: Array) -> int:
        """Return the address of a contiguous array's first byte; addresses are only compared."""

    @abstractmethod
    def _d2h(self, source: Array, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        """Copy `source`, on the device, into `target`, once `after` is done.

        Both may be views in any layout. Every bit arrives, and nothing but `target` is written.
        When the ticket is done, neither is used any more.
        """

    @abstractmethod
    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        """Copy `source`, on the host, into `target`, once `after` is done; see `_d2h`."""

    # -- what a plug-in may replace: hardware, queues, a clock of its own ---------------------

    @classmethod
    def unavailable(cls) -> str:
        """Return why this backend cannot run here, and the remedy; empty if it can."""
        return ""

    def now(self) -> float:
        """Return the time in seconds on this backend's clock.

        It advances while operations run, and never runs backwards.
        """
        return time.perf_counter()

    def synchronize(self) -> None:
        """Block the host until everything issued to the device is done, or has failed.

        This includes what other threads have issued. What failed is for its ticket to raise, before
        and after. An error here says that the device itself cannot be relied upon.
        """

    def _empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        """Allocate a 1-D host array that the link reaches directly (page-locked memory).

        It shares memory with nothing else.
        """
        return np.empty(size, dtype)

    def run_on_device(
        self, function: Callable[[], object], *, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        """Run `function`, which computes on device arrays, in the device's queue.

        Parameters
        ----------
        function : callable without arguments
            Issues ``np.*`` operations on arrays of this device.
        after : tuple of Ticket
            What must be done before it starts.
        """
        return self._run(function, after)

    def fused(self, nbytes: int) -> AbstractContextManager[object]:  # noqa: ARG002
        """Return a context whose operations on the device are one kernel to a simulated clock.

        Parameters
        ----------
        nbytes : int
            Bytes of device memory that it reads and writes.
        """
        return nullcontext()

    def run_on_host(
        self,
        function: Callable[[], object],
        *,
        elements: int,  # noqa: ARG002  (a simulated host charges by it)
        after: tuple[Ticket, ...] = (),
    ) -> Ticket:
        """Run `function`, which computes on host arrays, and return when it is done.

        Parameters
        ----------
        function : callable without arguments
            The host's part of a step.
        elements : int
            How many parameters it updates: what a simulated host is charged by.
        after : tuple of Ticket
            What must be done before it starts.
        """
        return self._run(function, after)

    def _read(self, source: Stored, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        """Read `source`, on a disk, into `target`, once `after` is done: in another thread."""
        return source.start_read(target, after, self.now)

    def _write(self, source: HostArray, target: Stored, after: tuple[Ticket, ...]) -> Ticket:
        """Write `source` to `target`, on a disk, once `after` is done: in another thread."""
        return target.start_write(source, after, self.now)

    def _run(self, function: Callable[[], object], after: tuple[Ticket, ...]) -> Ticket:
        for ticket in after:
            ticket.wait()
        start_s = self.now()
        function()
        return Done(start_s, self.now())

    # -- what every backend gets --------------------------------------------------------------

    @final
    def empty(self, shape: int | tuple[int, ...], dtype: Any = np.float32) -> Array:
        """Return a new array on this device, uninitialised and C-contiguous.

        Parameters
        ----------
        shape : int or tuple of int, >= 0
            Length of each dimension.
        dtype : dtype or "bfloat16"
            Numbers or bools.

        Raises
        ------
        TypeError
            If `shape` holds no integers, or `dtype` no numbers.
        ValueError
            If a length is negative.
        DeviceMemoryError
            If it does not fit.

        Examples
        --------
        >>> import adamoffload as ao
        >>> ao.get_backend("numpy").empty((2, 3))
        DeviceArray(shape=(2, 3), dtype=float32, device='numpy')
        """
        return self._empty(_lengths("empty", shape), _numbers("empty", dtype))

    @final
    def zeros(self, shape: int | tuple[int, ...], dtype: Any = np.float32) -> Array:
        """Return a new array of zeros on this device: nothing crosses the link.

        Parameters, and what is raised, are those of `empty`.
        """
        array = self._empty(_lengths("zeros", shape), _numbers("zeros", dtype))
        self.run_on_device(lambda: array.__setitem__(..., 0))
        return array

    @final
    def empty_pinned(self, shape: int | tuple[int, ...], dtype: Any = np.float32) -> HostArray:
        """Return a new host array, uninitialised, that the link reaches directly.

        On a real device that is page-locked memory, which copies faster and beside computation,
        and of which there should be no more than a part of the host's. Parameters, and what is
        raised, are those of `empty`.
        """
        lengths, numbers = _lengths("empty_pinned", shape), _numbers("empty_pinned", dtype)
        return self._empty_pinned(math.prod(lengths), numbers).reshape(lengths)

    @final
    def asarray(self, host: object, dtype: Any = None, *, record: _Record = _ignore) -> Array:
        """Copy a host array to the device.

        Parameters
        ----------
        host : array_like
            Numbers or bools; an array that is on this device already is returned as it is.
        dtype : dtype or "bfloat16", optional
            What they become first, on the host; their own type if left out.
        record : callable
            From `Ledger.at`; the copy is counted in `traffic` in any case.

        Returns
        -------
        device array
            C-contiguous, of the same shape; never an alias of host memory.

        Raises
        ------
        ResidencyError
            If `host` is on another device.
        TypeError
            If it does not hold numbers, or `dtype` is no type of numbers.
        ValueError
            If it is a ragged list.
        DeviceMemoryError
            If it does not fit.

        Examples
        --------
        >>> import adamoffload as ao
        >>> ao.get_backend("numpy").asarray([1.5, 2], "bfloat16")
        DeviceArray(shape=(2,), dtype=bfloat16, device='numpy')
        """
        wanted = None if dtype is None else _numbers("asarray", dtype)
        if self.owns(host):
            there: Array = host
            return there if wanted in (None, there.dtype) else there.astype(wanted)
        if not isinstance(host, np.ndarray) and backend_of(host) is not None:
            raise ResidencyError(f"asarray: expected an array on the host, got {_place(host)}")
        source = np.asarray(host, wanted, order="C")
        target = self._empty(source.shape, _numbers("asarray", source.dtype))
        self.h2d(source, target, record=record).wait()
        return target

    @final
    def asnumpy(self, array: Array, *, record: _Record = _ignore) -> HostArray:
        """Copy a device array to the host.

        Parameters
        ----------
        array : device array
            On this device.
        record : callable
            From `Ledger.at`; the copy is counted in `traffic` in any case.

        Returns
        -------
        ndarray
            New, C-contiguous, of the same shape and dtype; never an alias of device memory.

        Raises
        ------
        ResidencyError
            If `array` is not on this device.
        """
        if not self.owns(array):
            raise ResidencyError(f"asnumpy: expected an array on {self!r}, got {_place(array)}")
        target = np.empty(array.shape, array.dtype)
        self.d2h(array, target, record=record).wait()
        return target

    @final
    def d2h(
        self,
        source: Array,
        target: HostArray,
        *,
        after: tuple[Ticket, ...] | None = None,
        record: _Record = _ignore,
    ) -> Ticket:
        """Start copying `source`, on this device, into `target`, on the host.

        Until the ticket is done, keep both alive, write neither, and do not read `target`.

        Parameters
        ----------
        source, target : array, any shape
            Of equal shape and dtype.
        after : tuple of Ticket, optional
            What must be done before the copy starts; if left out, what the device has been asked to
            compute so far, which may write `source`. ``()`` waits for nothing.
        record : callable
            From `Ledger.at`; the copy is counted in `traffic` in any case.

        Returns
        -------
        Ticket
            Done when the copy is.

        Raises
        ------
        ResidencyError
            If `source` is not on this device, or `target` not on the host.
        ValueError
            If their shapes or dtypes differ, or `target` is read-only.
        """
        nbytes = self._check_copy("d2h", source, target)
        if not target.flags.writeable:  # memory is written whatever NumPy's flag says
            raise ValueError("d2h: target is read-only; pass an array that may be written")
        if after is None:
            after = (self.run_on_device(_nothing),)
        ticket = self._d2h(source, target, after)
        with self._counting:
            self._d2h_bytes += nbytes
        record("d2h", target.size, nbytes, ticket)
        return ticket

    @final
    def h2d(
        self,
        source: HostArray,
        target: Array,
        *,
        after: tuple[Ticket, ...] = (),
        record: _Record = _ignore,
    ) -> Ticket:
        """Start copying `source`, on the host, into `target`, on this device.

        Until the ticket is done, keep both alive, write neither, and do not read `target`.

        Parameters
        ----------
        source, target : array, any shape
            Of equal shape and dtype.
        after : tuple of Ticket
            What must be done before the copy starts.
        record : callable
            From `Ledger.at`; the copy is counted in `traffic` in any case.

        Returns
        -------
        Ticket
            Done when the copy is.

        Raises
        ------
        ResidencyError
            If `source` is not on the host, or `target` not on this device.
        ValueError
            If their shapes or dtypes differ.
        """
        nbytes = self._check_copy("h2d", target, source)
        ticket = self._h2d(source, target, after)
        with self._counting:
            self._h2d_bytes += nbytes
        record("h2d", source.size, nbytes, ticket)
        return ticket

    @final
    def read(
        self,
        source: Stored,
        target: HostArray,
        *,
        after: tuple[Ticket, ...] = (),
        record: _Record = _ignore,
    ) -> Ticket:
        """Start reading `source`, on a disk, into `target`, on the host.

        Until the ticket is done, write neither, and do not read `target`.

        Parameters
        ----------
        source : DiskArray
            What is read.
        target : ndarray, of its shape, float32, C-contiguous
            Where to.
        after : tuple of Ticket
            What must be done before it starts.
        record : callable
            From `Ledger.at`.

        Returns
        -------
        Ticket
            Done when `target` is filled. What fails, as a disk does, is raised by each wait.

        Raises
        ------
        ResidencyError
            If `source` is not on a disk, or `target` not on the host.
        ValueError
            If their shapes or dtypes differ, `target` is read-only or not contiguous, or the file
            was closed.
        """
        _check_stored("read", source, target)
        if not target.flags.writeable:
            raise ValueError("read: target is read-only; pass an array that may be written")
        ticket = self._read(source, target, after)
        record("read", target.size, target.nbytes, ticket)
        return ticket

    @final
    def write(
        self,
        source: HostArray,
        target: Stored,
        *,
        after: tuple[Ticket, ...] = (),
        record: _Record = _ignore,
    ) -> Ticket:
        """Start writing `source`, on the host, to `target`, on a disk.

        Until the ticket is done, do not write `source`. It is done when the system has taken the
        bytes, which is before they are safe from a power failure.

        Parameters
        ----------
        source : ndarray, of the shape of `target`, float32, C-contiguous
            What is written.
        target : DiskArray
            Where to.
        after : tuple of Ticket
            What must be done before it starts.
        record : callable
            From `Ledger.at`.

        Returns
        -------
        Ticket
            Done when all is written. What fails, as a full disk does, is raised by each wait.

        Raises
        ------
        ResidencyError
            If `source` is not on the host, or `target` not on a disk.
        ValueError
            If their shapes or dtypes differ, `source` is not contiguous, or the file was closed.
        """
        _check_stored("write", target, source)
        ticket = self._write(source, target, after)
        record("write", source.size, source.nbytes, ticket)
        return ticket

    @final
    def traffic(self) -> Traffic:
        """Return the bytes copied in each direction since the device was created."""
        with self._counting:
            return Traffic(self._d2h_bytes, self._h2d_bytes)

    def _check_copy(self, hop: str, device: Array, host: HostArray) -> int:
        if not self.owns(device):
            raise ResidencyError(f"{hop}: expected an array on {self!r}, got {_place(device)}")
        if not isinstance(host, np.ndarray):
            raise ResidencyError(f"{hop}: expected an array on the host, got {_place(host)}")
        if host.shape != device.shape or host.dtype != device.dtype:
            raise ValueError(
                f"{hop}: shapes and dtypes must be equal, got {device.shape} {device.dtype} on "
                f"the device and {host.shape} {host.dtype} on the host"
            )
        return host.nbytes

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} is a device, which can be neither copied nor pickled")

    def __repr__(self) -> str:
        return f"device {self.name!r}"


# By id. A lock would be held where the garbage collector, or a signal, runs code of others that may
# ask `backend_of`; an operation on a dict with numbers for keys is done in one go.
_live: dict[int, weakref.ref[Backend]] = {}


def backend_of(array: object) -> Backend | None:
    """Return the backend whose memory holds `array`, or None for anything else.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> backend_of(device.asarray(np.zeros(3))) is device, backend_of(np.zeros(3))
    (True, None)
    """
    # The youngest first: where a broken one claims too much, the answer is always the same.
    for reference in list(_live.values())[::-1]:
        backend = reference()
        if backend is not None and backend.owns(array):
            return backend
    return None


def _numbers(caller: str, dtype: Any) -> np.dtype[Any]:
    if isinstance(dtype, str) and dtype == "bfloat16":  # NumPy knows it once it was imported
        from ml_dtypes import bfloat16 as dtype
    found: np.dtype[Any] = np.dtype(dtype)
    if found.kind not in "biufc" and found.type.__name__ != "bfloat16":
        raise TypeError(f"{caller}: expected numbers, got an array of dtype {found}")
    return found


def _lengths(caller: str, shape: object) -> tuple[int, ...]:
    try:
        lengths = tuple(map(operator.index, shape if isinstance(shape, tuple | list) else (shape,)))
    except TypeError:
        raise TypeError(
            f"{caller}: shape must be an integer or a tuple of integers, got {shape!r}"
        ) from None
    if any(length < 0 for length in lengths):
        raise ValueError(f"{caller}: shape must not be negative, got {shape!r}")
    return lengths


def _check_stored(hop: str, stored: object, host: object) -> None:
    if not isinstance(stored, Stored):
        raise ResidencyError(f"{hop}: expected an array on a disk, got {_place(stored)}")
    if not isinstance(host, np.ndarray):
        raise ResidencyError(f"{hop}: expected an array on the host, got {_place(host)}")
    if host.shape != stored.shape or host.dtype != stored.dtype:
        raise ValueError(
            f"{hop}: shapes and dtypes must be equal, got {stored.shape} {stored.dtype} on the "
            f"disk and {host.shape} {host.dtype} on the host"
        )
    if not host.flags.c_contiguous:
        raise ValueError(f"{hop}: the array on the host must be C-contiguous")


def _place(array: object) -> str:
    if isinstance(array, Stored):
        return "an array on a disk"
    if isinstance(array, np.ndarray):
        return "a host ndarray; copy it with device.asarray(x)"
    backend = backend_of(array)
    if backend is not None:
        return (
            f"an array on another device, {backend!r} (each instance is one); copy it over "
            f"the host: target.asarray(source.asnumpy(x))"
        )
    kind = type(array).__name__
    if backend_of(getattr(array, "data", None)) is not None:
        return f"an object of type {kind}; pass its .data"
    return f"an object of type {kind}"
