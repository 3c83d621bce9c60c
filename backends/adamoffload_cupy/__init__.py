"""The ``cupy`` backend: an NVIDIA GPU, through CuPy.

What it requires of a GPU, and how it asks:

- Copies run beside computation: each direction has a stream of its own. ``run_on_device`` uses the
  caller's current stream, so what the caller issues before and after it is in order with it.
- Streams are ordered by events alone. A copy without tickets to wait for comes after whatever the
  caller's stream holds so far; one with tickets comes after these.
- The host waits in `Ticket.wait` and `CupyBackend.synchronize`; no copy and no computation waits in
  secret. Memory in flight is kept alive until its event is done.
- Allocations come from CuPy's default pool, in which each GPU has its own limit. Refusals become
  `DeviceMemoryError`, also in the caller's own expressions.

The module imports where CuPy is not installed: ``unavailable`` then says what to install.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, final

import numpy as np

from adamoffload.device.backend import Backend, DeviceMemoryError, HostArray, Memory, Ticket
from adamoffload.device.events import Events, Streams, arriving

__all__ = ["CupyBackend"]

_OLDEST = 13  # ndarray.get(blocking=False)
_HAS_BFLOAT16 = 14


@final
class CupyBackend(Backend):
    """The GPU that is current in the calling thread.

    A GPU is one device: as long as the instance is in use, asking for it again returns the same
    one, under the new limit. Memory is that of CuPy's default pool, which rounds allocations up to
    512 bytes and keeps what is freed for the next one: `Memory.used` counts live arrays,
    `Memory.peak` what was taken from the GPU, and that is what the limit applies to.

    Parameters
    ----------
    memory_bytes : int, optional
        Bytes that CuPy may take from this GPU, in this whole process; no limit of ours if left out.

    Raises
    ------
    TypeError, ValueError
        If `memory_bytes` is no whole number of at least 1.
    ImportError
        If CuPy is not installed.
    RuntimeError
        If CuPy allocates by something other than its default pool (RMM, managed memory,
        ``using_allocator``): that would be neither counted nor limited.

    Notes
    -----
    *Times* come from CUDA events and are placed on the host's clock by an event whose time is known
    and that is at most a second older. A duration is exact to about 1e-7 of itself, a `start_s` to
    some 20 microseconds.

    *Order* is that of a stream. Threads that compute on streams of their own, as all do with
    ``CUPY_CUDA_PER_THREAD_DEFAULT_STREAM=1``, are not in order with each other: let one wait for
    the other's `Ticket`.

    *Memory that is not counted*: what other libraries allocate, also when it came here by DLPack
    (such arrays are owned all the same), and what is made inside ``using_allocator``. CuPy rounds
    *pinned* host memory up to a power of two: a ring of 40 MiB takes 64.

    *Bits*: where elements are added up by index (the gradient of ``w[ids]``), CuPy adds them in
    whatever order the GPU's threads come. Such gradients differ in the last places from run to
    run; all else is reproducible, and elementwise float32 arithmetic is that of the host.

    ``float(x)`` of a CuPy array is CuPy's own copy: it waits, and no ledger counts it.

    Examples
    --------
    >>> import adamoffload as ao
    >>> device = ao.get_backend("cupy", memory_bytes=1 << 30)  # doctest: +SKIP
    """

    name = "cupy"
    _open_devices: ClassVar[weakref.WeakValueDictionary[int, CupyBackend]] = (
        weakref.WeakValueDictionary()
    )
    _opening: ClassVar[threading.Lock] = threading.Lock()

    def __new__(cls, memory_bytes: int | None = None) -> CupyBackend:
        """Return the current GPU's device, a new one if there is none yet."""
        import cupy

        _whole_bytes(memory_bytes)  # before anything is changed
        number = cupy.cuda.runtime.getDevice()
        with cls._opening:
            allocator = _allocator(cupy)
            device = cls._open_devices.get(number)
            if device is None:
                device = super().__new__(cls)
                device._open(cupy, number, allocator)
                cls._open_devices[number] = device
        return device

    def __init__(self, memory_bytes: int | None = None) -> None:
        limit = _whole_bytes(memory_bytes)
        with self._gpu:
            self._allocator.free()  # the limit counts what is kept as well
            self._pool.set_limit(size=self._preset_limit if limit is None else limit)

    def _open(self, cupy: Any, number: int, allocator: _Allocator) -> None:
        self._cupy = cupy
        self._number = number
        self._gpu = cupy.cuda.Device(number)
        self._allocator = allocator
        self._pool = allocator.pool
        self._preset_limit: int = self._pool.get_limit()  # CUPY_GPU_MEMORY_LIMIT
        # Not ordered with the default stream, with which blocking streams take turns.
        new_stream = partial(cupy.cuda.Stream, non_blocking=True)
        self._streams = Streams(_CudaEvents(cupy), new_stream, self.now)
        super().__init__()

    @classmethod
    def unavailable(cls) -> str:
        """Return why there is no GPU to use, and the remedy; empty if there is one."""
        try:
            import cupy
        except ImportError as error:
            return (
                f"CuPy cannot be imported ({error}); for a GPU with CUDA 12 or 13, "
                f"pip install 'adamoffload[cuda12x]' or 'adamoffload[cuda13x]'"
            )
        if int(cupy.__version__.split(".")[0]) < _OLDEST:
            return f"CuPy {cupy.__version__} is too old; pip install --upgrade 'cupy>={_OLDEST}'"
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            return f"CuPy finds no GPU ({error}); check the driver with nvidia-smi"
        return "" if count else "CuPy finds no GPU; check the driver with nvidia-smi"

    def owns(self, array: object) -> bool:
        """Return whether `array` is a CuPy array on this GPU."""
        return isinstance(array, self._cupy.ndarray) and array.data.device_id == self._number

    def memory(self) -> Memory:
        """Return the bytes in live arrays, taken from the GPU, and allowed to be taken."""
        with self._gpu:
            peak = self._allocator.peak()
            return Memory(self._pool.used_bytes(), peak, self._pool.get_limit() or None)

    def synchronize(self) -> None:
        """Block the host until everything issued to the GPU, on any stream, is done."""
        self._gpu.synchronize()
        self._streams.finish()

    def run_on_device(
        self, function: Callable[[], object], *, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        """Issue what `function` computes to the caller's current stream.

        Parameters
        ----------
        function : callable without arguments
            Issues ``np.*`` operations on arrays of this device.
        after : tuple of Ticket
            What must be done before it starts.
        """
        with self._gpu:
            stream = self._cupy.cuda.get_current_stream()
            return self._streams.compute(stream, function, after)

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        with self._gpu:
            try:
                return self._cupy.empty(shape, dtype)
            except (TypeError, ValueError) as error:
                if dtype.type.__name__ != "bfloat16":
                    raise
                raise TypeError(
                    f"cupy: CuPy {self._cupy.__version__} has no bfloat16 ({error}); "
                    f"pip install --upgrade 'cupy>={_HAS_BFLOAT16}'"
                ) from None

    def _empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        import cupyx

        pinned: HostArray = cupyx.empty_pinned(size, dtype)
        return pinned

    def _address(self, array: Any) -> int:
        return int(array.data.ptr)

    def _d2h(self, source: Any, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        stream = self._streams.down
        with self._gpu:
            start = self._begin(stream, after)
            packed = source
            if not source.flags.c_contiguous:
                with stream:  # CuPy would pack it on the caller's stream, out of order with ours
                    packed = self._cupy.ascontiguousarray(source)
            arrived, finish = arriving(target, packed=target.flags.c_contiguous)
            packed.get(stream=stream, out=arrived, blocking=False)
            return self._streams.end(stream, start, (source, packed, target, arrived), finish)

    def _h2d(self, source: HostArray, target: Any, after: tuple[Ticket, ...]) -> Ticket:
        stream = self._streams.up
        if not source.flags.c_contiguous:  # the host packs it, and must not before it is complete
            for ticket in after:
                ticket.wait()
        packed = np.asarray(source, order="C")
        with self._gpu:
            start = self._begin(stream, after)
            if target.flags.c_contiguous:
                target.set(packed, stream=stream)
            else:
                with stream:
                    staged = self._cupy.empty(target.shape, target.dtype)
                    staged.set(packed, stream=stream)
                    target[...] = staged
            return self._streams.end(stream, start, (packed, target))

    def _begin(self, stream: Any, after: tuple[Ticket, ...]) -> Any:
        return self._streams.begin(stream, self._cupy.cuda.get_current_stream(), after)


class _CudaEvents(Events):
    """CuPy's events."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy

    def record(self, stream: Any, *, timed: bool = True) -> Any:
        return stream.record(self._cupy.cuda.Event(disable_timing=not timed))

    def done(self, event: Any) -> bool:
        return bool(event.done)

    def seconds(self, start: Any, stop: Any) -> float:
        return float(self._cupy.cuda.get_elapsed_time(start, stop)) / 1e3  # from milliseconds


class _Allocator:
    """CuPy's allocator, for all GPUs: the default pool's, with errors that are the contract's.

    CuPy keeps it, and not the backends, when they are forgotten.
    """

    def __init__(self, cupy: Any, name: str) -> None:
        self.pool = cupy.get_default_memory_pool()
        self._cupy = cupy
        self._name = name
        self._peaks: dict[int, int] = {}  # by number of the GPU

    def __call__(self, nbytes: int) -> Any:
        refusal = self._cupy.cuda.memory.OutOfMemoryError
        try:
            return self.pool.malloc(nbytes)
        except refusal:
            pass
        # What the pool keeps for reuse, in other sizes or for other streams, counts as taken.
        # Giving it back makes the GPU finish its work, which is better than to fail.
        self.free()
        try:
            return self.pool.malloc(nbytes)
        except refusal:
            limit = self.pool.get_limit() or self._cupy.cuda.runtime.memGetInfo()[1]
            used = self.pool.used_bytes()
        raise DeviceMemoryError(self._name, nbytes, used, limit)

    def free(self) -> None:
        """Give back to the current GPU what no array uses."""
        self.peak()
        self.pool.free_all_blocks()

    def peak(self) -> int:
        """Return the most that was taken from the current GPU: it grows but for `free`."""
        number = self._cupy.cuda.runtime.getDevice()
        peak = max(self._peaks.get(number, 0), self.pool.total_bytes())
        self._peaks[number] = peak
        return int(peak)


def _allocator(cupy: Any) -> _Allocator:
    """Return our allocator; put it in the place of CuPy's own, but of no one else's."""
    found = cupy.cuda.get_allocator()
    if isinstance(found, _Allocator):
        return found
    if found != cupy.get_default_memory_pool().malloc:
        raise RuntimeError(
            "cupy: CuPy allocates by another allocator than its default pool, which could be "
            "neither counted nor limited; call "
            "cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc) first, outside of "
            "using_allocator"
        )
    allocator = _Allocator(cupy, CupyBackend.name)
    cupy.cuda.set_allocator(allocator)
    return allocator


def _whole_bytes(value: object) -> int | None:
    if value is None:
        return None
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        size = operator.index(value)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        raise TypeError(
            f"cupy: memory_bytes must be a whole number, got {type(value).__name__}"
        ) from None
    if size < 1:
        raise ValueError(f"cupy: memory_bytes must be at least 1, got {size}")
    return size
