"""Mistakes of memory: what is counted, given, refused and given back; and of threads."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.device.array import DeviceArray, MemoryPool
from adamoffload.device.backend import Array, DeviceMemoryError, HostArray, Memory, Ticket

from broken_backends import PlainBackend, broken

_RESULTS = "Arrays and results take their bytes, views take none"
_PEAK = "The peak is what was in use at most."
_FITS = "What fits is given, to the last byte, and an array without elements always fits."
_REFUSED = "What does not fit is refused, also where threads ask at once, and leaves"
_SAYS = "An allocation would take a device past its memory limit."


class Pooled(PlainBackend):
    """Its memory is counted by a pool of its own kind."""

    kind: type[MemoryPool] = MemoryPool

    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(memory_bytes)
        self.pool = self.kind(self.name, memory_bytes)


@broken(
    _RESULTS,
    "memory_is_counted_to_the_byte",
    "memory is counted in elements of four bytes",
    "memory() counts 4 bytes for 1",
)
class CountsWords(Pooled):
    class kind(MemoryPool):  # noqa: N801
        def reserve(self, nbytes: int) -> int:
            return super().reserve(-(-nbytes // 4) * 4)

        def release(self, nbytes: int) -> None:
            super().release(-(-nbytes // 4) * 4)


@broken(
    _RESULTS,
    "memory_is_counted_to_the_byte",
    "arrays without elements take a byte",
    "memory() counts 1 bytes for 0",
)
class CountsEmptyArrays(Pooled):
    class kind(MemoryPool):  # noqa: N801
        def reserve(self, nbytes: int) -> int:
            return super().reserve(nbytes or 1)


@broken(
    _RESULTS,
    "memory_is_counted_to_the_byte",
    "arrays of eight bytes per element are counted as if of four",
    "memory() counts 4 bytes for 8",
)
class CountsHalf(PlainBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        array = super()._empty(shape, dtype)
        if dtype == np.int64:
            half = array._block._nbytes // 2
            array._block._nbytes -= half
            self.pool.release(half)
        return array


@broken(
    _RESULTS,
    "memory_is_counted_to_the_byte",
    "only `_empty` is counted, not the results of operations",
    "memory() does not count a result, or counts a view",
)
class ForgetsResults(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(memory_bytes)
        self.uncounted = MemoryPool(self.name, None)

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        array = super()._empty(shape, dtype)
        array._pool = self.uncounted  # where its results will be counted
        return array


@broken(
    "the last view gives the memory back",
    "memory_returns_when_arrays_die",
    "dead arrays are never given back",
    "memory() keeps what dead arrays took",
)
class LeaksMemory(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(memory_bytes)
        self.pool.release = lambda nbytes: None  # type: ignore[method-assign]


@broken(
    "the last view gives the memory back",
    "memory_returns_when_arrays_die",
    "an array gives its memory back although a view is alive",
    "memory() forgets an array that a view still holds",
)
class ForgetsViews(PlainBackend):
    def memory(self) -> Memory:
        used, peak, limit = super().memory()
        return Memory(used if used != 4000 else 40, peak, limit)


@broken(
    _PEAK,
    "the_peak_is_remembered",
    "the peak is what is in use now",
    "the peak is 0, not 6002",
)
class ForgetsThePeak(PlainBackend):
    def memory(self) -> Memory:
        used, _, limit = super().memory()
        return Memory(used, used, limit)


@broken(
    _PEAK,
    "the_peak_is_remembered",
    "the peak is noted when somebody asks for it",
    "the peak is 0, not 6002",
)
class NotesThePeakLate(PlainBackend):
    seen = 0

    def memory(self) -> Memory:
        used, _, limit = super().memory()
        self.seen = max(self.seen, used)
        return Memory(used, self.seen, limit)


@broken(
    _PEAK,
    "the_peak_is_remembered",
    "the peak is the sum of all that was ever allocated",
    "the peak is",
)
class AddsUpThePeak(Pooled):
    class kind(MemoryPool):  # noqa: N801
        total = 0

        def reserve(self, nbytes: int) -> int:
            self.total += nbytes
            return super().reserve(nbytes)

        def memory(self) -> Memory:
            return super().memory()._replace(peak=self.total)


@broken(
    _PEAK,
    "the_peak_is_remembered",
    "the peak is that of the arrays asked for, not of results",
    "the peak is 6002, not 10006",
)
class PeakWithoutResults(PlainBackend):
    most = 0

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        array = super()._empty(shape, dtype)
        self.most = max(self.most, super().memory().used)
        return array

    def memory(self) -> Memory:
        return super().memory()._replace(peak=self.most)


# -- limits ---------------------------------------------------------------------------------------


@broken(
    _REFUSED,
    "the_limit_is_kept",
    "the limit is noted and ignored",
    "one byte more than the limit was allocated",
)
class IgnoresTheLimit(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__()
        self.limit = memory_bytes

    def memory(self) -> Memory:
        return super().memory()._replace(limit=self.limit)


@broken(
    "Return the bytes of device memory used, at peak, and allowed.",
    "the_limit_is_kept",
    "the limit is kept, but not told",
    "the limit is None, not 1048576",
)
class HidesTheLimit(PlainBackend):
    def memory(self) -> Memory:
        return super().memory()._replace(limit=None)


class Limited(PlainBackend):
    """Decides itself what fits."""

    slack = 0

    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(None if memory_bytes is None else memory_bytes + 4096)
        self.limit = memory_bytes

    def memory(self) -> Memory:
        return super().memory()._replace(limit=self.limit)

    def allowed(self, dtype: np.dtype[Any]) -> int:
        assert self.limit is not None
        return self.limit

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        nbytes, used = int(np.prod(shape)) * dtype.itemsize, super().memory().used
        if self.limit is not None and used + nbytes > self.allowed(dtype):
            raise DeviceMemoryError(self.name, nbytes, used, self.limit)
        return super()._empty(shape, dtype)


@broken(
    _FITS,
    "the_limit_is_kept",
    "the last byte is never given",
    "an allocation that fits was refused",
)
class KeepsTheLastByte(Limited):
    def allowed(self, dtype: np.dtype[Any]) -> int:
        return super().allowed(dtype) - 1


@broken(
    _REFUSED,
    "the_limit_is_exact_for_any_dtype",
    "the limit of four-byte types is rounded up to whole elements",
    "was given where a byte was missing",
)
class RoundsTheLimitUp(Limited):
    def allowed(self, dtype: np.dtype[Any]) -> int:
        return super().allowed(dtype) + (3 if dtype.itemsize == 4 else 0)


@broken(
    _FITS,
    "the_limit_is_exact_for_any_dtype",
    "the last element of a four-byte type is never given",
    "that fits was refused",
)
class KeepsTheLastElement(Limited):
    def allowed(self, dtype: np.dtype[Any]) -> int:
        return super().allowed(dtype) - (1 if dtype.itemsize == 4 else 0)


@broken(
    _REFUSED,
    "the_limit_is_kept",
    "the limit holds for new arrays, not for results",
    "a result went past the limit",
)
class LimitsNoResults(Limited):
    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(memory_bytes)
        self.pool = MemoryPool(self.name, None)


@broken(
    _FITS,
    "a_full_device_still_works",
    "a full device refuses arrays without elements",
    "what needs no memory was refused",
)
class RefusesNothing(Limited):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        if self.limit is not None and self.memory().used >= self.limit:
            raise DeviceMemoryError(self.name, 0, self.limit, self.limit)
        return super()._empty(shape, dtype)


@broken(
    _FITS,
    "a_full_device_still_works",
    "h2d stages what it copies in device memory",
    "what needs no memory was refused",
)
class StagesOnTheDevice(PlainBackend):
    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        staged = self._empty(source.shape, source.dtype)
        super()._h2d(source, staged, after).wait()
        np.copyto(target, staged)
        return super()._h2d(source, target, ())


@broken(
    _REFUSED,
    "threads_share_the_limit",
    "between the look at the limit and the allocation, another thread may come",
    "of 3 threads were given the last memory",
)
class LooksThenTakes(Limited):
    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(memory_bytes)
        self.pool = MemoryPool(self.name, None)


@broken(
    _REFUSED,
    "threads_share_the_limit",
    "each thread has a limit of its own",
    "3 of 3 threads were given the last memory",
)
class LimitsEachThread(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(memory_bytes)
        self.limit, self.pools = memory_bytes, threading.local()

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        if not hasattr(self.pools, "own"):
            self.pools.own = MemoryPool(self.name, self.limit)
        return DeviceArray(np.empty(shape, dtype), self, self.pools.own)


@broken(
    "or raise `DeviceMemoryError`",
    "the_limit_is_kept",
    "what does not fit raises the library's own error",
    "expected DeviceMemoryError, got MemoryError('cudaErrorMemoryAllocation')",
)
class RaisesItsOwnError(PlainBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        try:
            return super()._empty(shape, dtype)
        except ao.DeviceMemoryError as error:
            raise MemoryError("cudaErrorMemoryAllocation") from error


def _saying(mistake: str, message: str, change: Any) -> None:
    @broken(_SAYS, "the_memory_error_says_what_was_asked", mistake, message)
    class Says(PlainBackend):
        def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
            try:
                return super()._empty(shape, dtype)
            except DeviceMemoryError as error:
                said = [error.device, error.requested_bytes, error.used_bytes, error.limit_bytes]
                raise DeviceMemoryError(*change(said, dtype)) from None


_saying(
    "the memory error counts elements",
    "2097152 bytes requested",
    lambda said, dtype: (said[0], said[1] // dtype.itemsize, *said[2:]),
)
_saying(
    "the memory error names the model of the device",
    "the memory error says ('A100', 5000, 1048576)",
    lambda said, dtype: ("A100", *said[1:]),
)
_saying(
    "the memory error tells what is free for what is in use",
    "the memory error says ('plain', 1043576, 1048576)",
    lambda said, dtype: (*said[:2], said[3] - said[2], said[3]),
)
_saying(
    "the memory error tells what was asked for as the limit",
    "the memory error says ('plain', 5000, 2097152)",
    lambda said, dtype: (*said[:3], said[1]),
)


@broken(
    _REFUSED,
    "a_refused_allocation_changes_nothing",
    "a refused allocation stays counted",
    "a refused array was counted",
)
class CountsTheRefused(PlainBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        try:
            return super()._empty(shape, dtype)
        except ao.DeviceMemoryError:
            self.pool._used += 1
            raise


@broken(
    _REFUSED,
    "a_refused_allocation_changes_nothing",
    "a refused allocation counts for the peak",
    "a refused array was counted",
)
class PeakOfTheRefused(PlainBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        self.pool._peak = max(self.pool._peak, int(np.prod(shape)) * dtype.itemsize)
        return super()._empty(shape, dtype)


@broken(
    "Every bit arrives, and nothing but `target` is written.",
    "threads_do_not_disturb_each_other",
    "all threads copy through one staging buffer without a lock",
    "threads got each other's numbers",
)
class SharesAStagingBuffer(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        self.staging = np.empty(1 << 16, np.uint8)
        super().__init__(memory_bytes)

    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        for ticket in after:
            ticket.wait()
        staged = self.staging[: source.nbytes].view(source.dtype).reshape(source.shape)
        staged[...] = source
        time.sleep(1e-4)  # the link takes its time
        return super()._h2d(staged, target, ())


@broken(
    _RESULTS,
    "threads_do_not_disturb_each_other",
    "what is in use is counted without a lock",
    "memory() is wrong after many threads",
)
class CountsWithoutALock(PlainBackend):
    counted = 0

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        before = self.counted
        time.sleep(1e-5)
        self.counted = before + 1
        array: DeviceArray = super()._empty(shape, dtype)
        calls = self.__dict__.setdefault("calls", [])
        calls.append(1)
        return array

    def memory(self) -> Memory:
        used, peak, limit = super().memory()
        lost = len(self.__dict__.get("calls", [])) - self.counted
        return Memory(used + lost, peak, limit)
