"""Mistakes of copies: bits, places, neighbours, aliases, and what is counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from adamoffload.device.array import DeviceArray, address, storage
from adamoffload.device.backend import Array, HostArray, Ticket

from broken_backends import DONE, PlainBackend, PlainHooks, broken

_BITS = "Every bit arrives, and nothing but `target` is written."
_LAYOUT = "Both may be views in any layout."
_UP = "Copy `source`, on the host, into `target`, once `after` is done"
_SIXTEEN = 1 << 24  # bytes


@broken(
    _BITS,
    "a_copy_overwrites_every_element",
    "d2h copies whole words: up to three bytes at the end are lost",
    " of 1 elements of int8 leaves some of them poisoned",
)
class LosesTheTail(PlainHooks):
    def down(self, source: HostArray, target: HostArray) -> None:
        if source.nbytes % 4 == 0 or not target.flags.c_contiguous:
            return super().down(source, target)
        bytes_ = np.ascontiguousarray(source).reshape(-1).view(np.uint8)
        whole = source.nbytes // 4 * 4
        target.reshape(-1).view(np.uint8)[:whole] = bytes_[:whole]
        return None


@broken(
    _BITS,
    "copies_of_more_than_16_mib_are_whole",
    "a copy ends after 16 MiB",
    "a copy of more than 16 MiB differs",
)
class EndsAfter16MiB(PlainHooks):
    def move(self, source: HostArray, target: HostArray) -> None:
        if source.nbytes <= _SIXTEEN:
            return super().move(source, target)
        size = _SIXTEEN // source.itemsize
        return super().move(source[:size], target[:size])


@broken(
    _BITS,
    "copies_of_more_than_16_mib_are_whole",
    "what lies behind 16 MiB is copied from the beginning",
    "a copy of more than 16 MiB differs",
)
class BeginsAgainAfter16MiB(PlainHooks):
    def move(self, source: HostArray, target: HostArray) -> None:
        super().move(source, target)
        if source.nbytes > _SIXTEEN:
            size = _SIXTEEN // source.itemsize
            target[size:] = source[: source.size - size]


@broken(
    _BITS,
    "long_arrays_keep_their_bits",
    "denormals become zero where the copy is vectorised",
    "5000 elements of float",
)
class FlushesDenormals(PlainHooks):
    def move(self, source: HostArray, target: HostArray) -> None:
        super().move(source, target)
        if source.size > 2000 and source.dtype.kind == "f":
            target[np.abs(source) < np.finfo(source.dtype).smallest_normal] = 0


@broken(
    _BITS,
    "long_arrays_keep_their_bits",
    "all NaN become the same one where the copy is vectorised",
    "5000 elements of float",
)
class LosesPayloads(PlainHooks):
    def move(self, source: HostArray, target: HostArray) -> None:
        super().move(source, target)
        if source.size > 2000 and source.dtype.kind == "f":
            target[np.isnan(source)] = np.nan


@broken(
    _BITS,
    "a_round_trip_returns_the_same_bits",
    "-0 becomes 0",
    "changes bits",
)
class LosesTheSignOfZero(PlainHooks):
    def up(self, source: HostArray, target: HostArray) -> None:
        super().up(source, target)
        if source.dtype == np.float16:
            target[target == 0] = 0


@broken(
    _BITS,
    "a_round_trip_returns_the_same_bits",
    "float64 goes over the link as float32",
    "a round trip of float64[] changes bits",
)
class SendsFloat32(PlainHooks):
    def move(self, source: HostArray, target: HostArray) -> None:
        with np.errstate(all="ignore"):
            super().move(source.astype("f") if source.dtype == np.float64 else source, target)


@broken(
    _BITS,
    "a_round_trip_returns_the_same_bits",
    "complex numbers lose their imaginary part",
    "a round trip of complex64[] changes bits",
)
class LosesImaginaryParts(PlainHooks):
    def move(self, source: HostArray, target: HostArray) -> None:
        super().move(source.real if source.dtype.kind == "c" else source, target)


@broken(
    _BITS,
    "a_round_trip_returns_the_same_bits",
    "large integers go over the link as float64",
    "a round trip of int64[] changes bits",
)
class SendsIntegersAsFloats(PlainHooks):
    def up(self, source: HostArray, target: HostArray) -> None:
        with np.errstate(all="ignore"):
            super().up(
                source if source.dtype != np.int64 else source.astype("d").astype("q"), target
            )


@broken(
    _BITS,
    "copies_go_between_any_two_layouts",
    "h2d into a view writes all that lies between its first and last byte",
    "writes wrong elements",
)
class WritesBetween(PlainHooks):
    def up(self, source: HostArray, target: HostArray) -> None:
        if target.ndim == 1 and target.strides[0] > target.itemsize and target.size > 1:
            size = (target.size - 1) * target.strides[0] // target.itemsize
            np.lib.stride_tricks.as_strided(target, (size,), (target.itemsize,))[...] = 0
        super().up(source, target)


@broken(
    _BITS,
    "copies_go_between_any_two_layouts",
    "d2h packs its source in place",
    "d2h of float32[3, 4], sliced on the device",
)
class PacksInPlace(PlainHooks):
    def down(self, source: HostArray, target: HostArray) -> None:
        super().down(source, target)
        if source.ndim == 2 and source.base is not None and source.strides[-1] == source.itemsize:
            flat = np.lib.stride_tricks.as_strided(source, (source.size,), (source.itemsize,))
            flat[...] = source.copy().reshape(-1)


@broken(
    _LAYOUT,
    "a_round_trip_keeps_any_layout",
    "d2h of a Fortran-ordered array copies its elements in the order of memory",
    "asnumpy of a Fortran-ordered array of 2 axes",
)
class ForgetsTheOrder(PlainHooks):
    def down(self, source: HostArray, target: HostArray) -> None:
        if source.flags.f_contiguous and source.ndim > 1:
            source = source.ravel(order="K").reshape(source.shape)
        super().down(source, target)


@broken(
    _LAYOUT,
    "copies_go_between_any_two_layouts",
    "h2d into a Fortran-ordered array writes in the order of memory",
    "Fortran-ordered on the device and contiguous on the host, writes wrong elements",
)
class WritesInTheOrderOfMemory(PlainHooks):
    def up(self, source: HostArray, target: HostArray) -> None:
        if target.flags.f_contiguous and target.ndim == 3:
            source = source.reshape(-1).reshape(target.shape, order="F")
        super().up(source, target)


def _turned(name: str, direction: str, reverse: bool, mistake: str) -> None:
    """Note a backend that takes reversed arrays, of one side, for arrays that run forwards."""

    @broken(_LAYOUT, "copies_go_between_any_two_layouts", mistake, f"{direction} of float32[6]")
    class Turns(PlainHooks):
        def up(self, source: HostArray, target: HostArray) -> None:
            self.turned(source, target, "h2d")

        def down(self, source: HostArray, target: HostArray) -> None:
            self.turned(source, target, "d2h")

        def turned(self, source: HostArray, target: HostArray, own: str) -> None:
            looked_at = source if reverse else target
            if own == direction and looked_at.ndim and looked_at.strides[0] < 0:
                source = source[::-1]
            self.move(source, target)


_turned("up, source", "h2d", True, "h2d reads a reversed source forwards")
_turned("up, target", "h2d", False, "h2d writes a reversed target forwards")
_turned("down, source", "d2h", True, "d2h reads a reversed source forwards")
_turned("down, target", "d2h", False, "d2h writes a reversed target forwards")


@broken(
    _LAYOUT,
    "copies_go_between_any_two_layouts",
    "copies from one strided array into another know two axes only",
    "of float32[2, 3, 4]",
)
class KnowsTwoAxes(PlainHooks):
    def move(self, source: HostArray, target: HostArray) -> None:
        if source.ndim == 3 and not source.flags.forc and not target.flags.forc:
            source = np.broadcast_to(source[:1], source.shape)
        super().move(source, target)


@broken(
    _LAYOUT,
    "layouts_do_not_depend_on_dtype_or_length",
    "strided copies of more than 64 KiB forget the rest",
    "of float32[33, 16, 32]",
)
class StridedCopiesEnd(PlainHooks):
    def move(self, source: HostArray, target: HostArray) -> None:
        if source.nbytes > 1 << 16 and not (
            source.flags.c_contiguous and target.flags.c_contiguous
        ):
            source, target = source[:-1], target[:-1]
        super().move(source, target)


@broken(
    _LAYOUT,
    "layouts_do_not_depend_on_dtype_or_length",
    "strides are counted in words of four bytes",
    "of int8[3, 4]",
)
class CountsStridesInWords(PlainHooks):
    def up(self, source: HostArray, target: HostArray) -> None:
        if source.itemsize == 1 and not source.flags.c_contiguous:
            source = np.broadcast_to(source[:1], source.shape)
        super().up(source, target)


@broken(
    _UP,
    "copies_go_between_any_two_layouts",
    "of a broadcast array only the first element arrives",
    "h2d of a broadcast array differs",
)
class IgnoresBroadcasting(PlainHooks):
    def up(self, source: HostArray, target: HostArray) -> None:
        if source.size > 1 and 0 in source.strides:
            source = np.broadcast_to(source.flat[0], source.shape)
        super().up(source, target)


@broken(
    _LAYOUT,
    "copies_go_between_any_two_layouts",
    "a copy of a view copies the memory that begins there",
    "strided on the device and contiguous on the host, writes wrong elements",
)
class IgnoresStrides(PlainHooks):
    def up(self, source: HostArray, target: HostArray) -> None:
        if target.flags.c_contiguous or min(target.strides) < 0 or target.ndim > 1:
            return super().up(source, target)
        flat = np.lib.stride_tricks.as_strided(target, (target.size,), (target.itemsize,))
        return super().up(source.reshape(-1), flat)


@broken(
    "When the ticket is done, neither is used any more.",
    "asarray_never_aliases_the_host",
    "h2d takes over the host's memory instead of copying it",
    "asarray returns an alias of host memory",
)
class AliasesTheHost(PlainBackend):
    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        whole = storage(target).base is None and source.flags.writeable
        if whole and source.flags.c_contiguous:
            target._array = target._block.root = source
            return DONE
        return super()._h2d(source, target, after)


@broken(
    "When the ticket is done, neither is used any more.",
    "asnumpy_never_aliases_the_device",
    "d2h lends out the device's memory until the next copy",
    "asnumpy returns an alias of device memory",
)
class LendsItsMemory(PlainBackend):
    def _d2h(self, source: Array, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        self.lent = [*getattr(self, "lent", []), (source, target)]
        return super()._d2h(source, target, after)

    def synchronize(self) -> None:
        for source, target in getattr(self, "lent", []):
            np.copyto(target, storage(source))


@broken(
    "computes on device arrays with plain ``np.*`` calls",
    "training_equals_the_numpy_backend",
    "the update is rounded to float16 on its way up",
    "w0 after training differs from numpy's",
)
class RoundsOnTheWay(PlainBackend):
    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        if not after or source.dtype != np.float32:
            return super()._h2d(source, target, after)
        return super()._h2d(source.astype(np.float16).astype(np.float32), target, after)


# -- what is counted ------------------------------------------------------------------------------

_TRAFFIC = "Return the bytes copied in each direction since the device was created."


@broken(
    _TRAFFIC,
    "every_copy_is_counted_to_the_byte",
    "the ledger loses the bytes of an odd end",
    "traffic() counts 0 bytes d2h and 0 bytes h2d for copies of 1 bytes",
)
class CountsWholeWords(PlainBackend):
    def _check_copy(self, hop: str, device: Array, host: HostArray) -> int:
        return super()._check_copy(hop, device, host) // 4 * 4


@broken(
    _TRAFFIC,
    "every_copy_is_counted_to_the_byte",
    "a strided source is first made contiguous by a counted copy of its own",
    "traffic() counts 3 bytes d2h and 6 bytes h2d for copies of 3 bytes",
)
class CountsTwice(PlainBackend):
    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        if not source.flags.c_contiguous:
            return self.h2d(np.ascontiguousarray(source), target, after=after)
        return super()._h2d(source, target, after)


@broken(
    _TRAFFIC,
    "nothing_else_is_counted",
    "work on the device is counted as if it had crossed the link",
    "traffic() counts what is no copy over the link",
)
class CountsWork(PlainBackend):
    def run_on_device(self, function: Any, *, after: tuple[Ticket, ...] = ()) -> Ticket:
        self._d2h_bytes += 4
        return super().run_on_device(function, after=after)


# -- new memory -----------------------------------------------------------------------------------

_EMPTY = "Allocate a C-contiguous device array, uninitialised, or raise `DeviceMemoryError`."
_PINNED = "Allocate a 1-D host array that the link reaches directly (page-locked memory)."
_ALONE = "It shares memory with nothing else."


@broken(
    _EMPTY,
    "new_memory_is_as_it_was_asked_for",
    "new arrays of two axes are Fortran-ordered",
    "_empty((4, 5)) is not C-contiguous",
)
class AllocatesColumns(PlainBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return DeviceArray(np.empty(shape, dtype, "F"), self, self.pool)


@broken(
    _EMPTY,
    "new_memory_is_as_it_was_asked_for",
    "half precision is allocated as single",
    "_empty of float16 has dtype float32",
)
class AllocatesSingles(PlainBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return super()._empty(shape, np.dtype("f") if dtype == np.float16 else dtype)


@broken(
    "Arrays share no memory.",
    "allocations_do_not_overlap",
    "small allocations of one size share their memory",
    "two allocations overlap in memory",
)
class SharesAllocations(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        self.cache: dict[int, HostArray] = {}
        super().__init__(memory_bytes)

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        array = super()._empty(shape, dtype)
        if 0 < array.nbytes <= 128:
            memory = self.cache.setdefault(array.nbytes, np.empty(array.nbytes, np.uint8))
            array._array = array._block.root = memory.view(dtype).reshape(shape)
        return array


@broken(
    "Return the address of a contiguous array's first byte; addresses are only compared.",
    "addresses_count_bytes",
    "addresses count elements",
    "_address() of a view is not where its first byte is",
)
class AddressesInElements(PlainBackend):
    def _address(self, array: Array) -> int:
        return address(array) // int(array.itemsize)


@broken(
    "Return the address of a contiguous array's first byte; addresses are only compared.",
    "addresses_count_bytes",
    "the address of a view is that of its array",
    "_address() of a view is not where its first byte is",
)
class AddressesOfTheWhole(PlainBackend):
    def _address(self, array: Array) -> int:
        return int(array._block.address)


@broken(
    _ALONE,
    "pinned_memory_is_as_it_was_asked_for",
    "one page-locked buffer serves every slot",
    "_empty_pinned gives out the same memory twice",
)
class SharesPinnedMemory(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        self.pinned = np.empty(1 << 20, np.uint8)
        super().__init__(memory_bytes)

    def _empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        return self.pinned[: size * dtype.itemsize].view(dtype)


@broken(
    _ALONE,
    "pinned_memory_is_as_it_was_asked_for",
    "page-locked arrays of one length and dtype are the same one",
    "_empty_pinned gives out the same memory twice",
)
class KeepsPinnedMemory(PlainBackend):
    def _empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        kept: dict[Any, HostArray] = self.__dict__.setdefault("kept", {})
        return kept.setdefault((size, dtype), np.empty(size, dtype))


@broken(
    _ALONE,
    "pinned_memory_is_as_it_was_asked_for",
    "page-locked arrays overlap by their last element",
    "_empty_pinned gives out the same memory twice",
)
class OverlapsPinnedMemory(PlainBackend):
    def _empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        heap: HostArray = self.__dict__.setdefault("heap", np.empty(1 << 20, np.uint8))
        start = self.__dict__.get("start", 0)
        stop = start + size * dtype.itemsize
        self.start = -(-max(start, stop - dtype.itemsize) // 16) * 16
        return heap[start:stop].view(dtype)


@broken(
    _PINNED,
    "pinned_memory_is_as_it_was_asked_for",
    "page-locked arrays are of float32, whatever was asked for",
    "_empty_pinned(0, bool) has",
)
class PinsFloats(PlainBackend):
    def _empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        return np.empty(size, np.float32)


@broken(
    _PINNED,
    "pinned_memory_is_as_it_was_asked_for",
    "page-locked arrays come in whole pages",
    "_empty_pinned(1, bool) has",
)
class PinsPages(PlainBackend):
    def _empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        return np.empty(-(-size // 4096) * 4096, dtype)


@broken(
    _PINNED,
    "pinned_memory_is_as_it_was_asked_for",
    "page-locked arrays cannot be written",
    "_empty_pinned returns an array that cannot be written",
)
class PinsReadOnly(PlainBackend):
    def _empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        slot = np.empty(size, dtype)
        slot.flags.writeable = False
        return slot
