"""What a copy leaves behind: the same bits, in memory of its own, and its bytes in the ledger."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from adamoffload.device.backend import Backend, HostArray
from adamoffload.observe.ledger import Ledger
from adamoffload.testing.promises import (
    CONTIGUOUS,
    ELEMENT,
    FLOAT32,
    INT8,
    SHAPES,
    Layout,
    NewDevice,
    Promises,
    counted,
    layouts,
    on_device,
    on_host,
    poisoned,
    same,
)


class Copies(Promises):
    """Copies are exact, complete, no aliases, and counted."""

    def test_a_round_trip_returns_the_same_bits(self, new_device: NewDevice) -> None:
        """Every dtype and shape, and every pattern of bits: also NaN's payload and -0."""
        device, random = new_device(), np.random.default_rng(0)
        for code in self.dtypes:
            for shape in SHAPES:
                host = _any_bits(random, shape, np.dtype(code))
                x = device.asarray(host)
                back = device.asnumpy(x)
                what = f"a round trip of {host.dtype}{list(shape)}"
                kept = (x.shape, x.dtype, back.shape, back.dtype)
                assert kept == (shape, host.dtype) * 2, f"{what} changes shape or dtype: {kept}"
                assert back.tobytes() == host.tobytes(), f"{what} changes bits"

    def test_long_arrays_keep_their_bits(self, new_device: NewDevice) -> None:
        """Denormals, -0 and NaN's payloads arrive unchanged also where copies are cut or packed."""
        device, random = new_device(), np.random.default_rng(1)
        for code in set("efdFD") & set(self.dtypes):
            dtype = np.dtype(code)
            for size in (5000, (1 << 20) // dtype.itemsize + 7):
                host = _any_bits(random, (size,), dtype)
                host[::5] = _denormals(host[::5])
                same(device.asnumpy(device.asarray(host)), host, f"{size} elements of {dtype}")

    def test_copies_of_more_than_16_mib_are_whole(self, new_device: NewDevice) -> None:
        """No two of a hundred neighbouring pieces are equal, and the last is not a whole one."""
        piece = _any_bits(np.random.default_rng(2), (65_521,), FLOAT32)
        host = np.resize(piece, (1 << 22) + 12_345)
        device, back = new_device(), np.zeros(host.size, np.float32)
        x = device._empty(host.shape, FLOAT32)
        device.h2d(host, x).wait()
        device.d2h(x, back).wait()
        same(back, host, "a copy of more than 16 MiB differs")

    def test_a_round_trip_keeps_any_layout(self, new_device: NewDevice) -> None:
        """Sources may be strided, reversed, transposed or broadcast, on either side."""
        device = new_device()
        for shape in ((7,), (4, 5), (2, 3, 4), (3, 0, 2)):
            values = counted(shape, FLOAT32)
            for layout in layouts(device):
                view = on_device(device, layout, values)[1]
                down = device.asnumpy(view)
                assert down.flags.c_contiguous, f"asnumpy of {layout.name} is not C-contiguous"
                same(down, values, f"asnumpy of a {layout.name} array of {len(shape)} axes")
            for layout in layouts():
                up = device.asarray(on_host(layout, values)[1])
                assert up.flags.c_contiguous, f"asarray of {layout.name} is not C-contiguous"
                same(device.asnumpy(up), values, f"asarray of {layout.name}, {len(shape)} axes")
        wide = np.broadcast_to(np.float32(3), (2, 3))
        same(device.asnumpy(device.asarray(wide)), wide, "asarray of a broadcast array differs")

    def test_copies_go_between_any_two_layouts(self, new_device: NewDevice) -> None:
        """Elements keep their places from any view to any view, and no neighbour is written."""
        device = new_device()
        for shape in ((6,), (3, 4), (2, 3, 4)):
            for here in layouts(device):
                for there in layouts():
                    _check_both_ways(device, counted(shape, FLOAT32), here, there)
        wide = np.broadcast_to(counted((3,), FLOAT32), (2, 3))
        x = device.asarray(poisoned((2, 3), FLOAT32))
        device.h2d(wide, x).wait()
        same(device.asnumpy(x), wide, "h2d of a broadcast array differs")

    def test_layouts_do_not_depend_on_dtype_or_length(self, new_device: NewDevice) -> None:
        """Each element type, single elements, and arrays of some 64 KiB, in every layout."""
        device = new_device()
        for code in self.dtypes:
            one = counted((), np.dtype(code))
            for here, there in product((CONTIGUOUS, ELEMENT), repeat=2):
                _check_both_ways(device, one, here, there)
            for layout in layouts(device):
                _check_both_ways(device, counted((3, 4), np.dtype(code)), layout, layout)
        for layout in layouts(device):
            for here, there in ((layout, CONTIGUOUS), (CONTIGUOUS, layout)):
                _check_both_ways(device, counted((33, 16, 32), FLOAT32), here, there)

    def test_a_copy_overwrites_every_element(self, new_device: NewDevice) -> None:
        """No element of a poisoned target is left, however odd its number of bytes."""
        device = new_device()
        for size in (1, 3, 63, 1021, self.elements + 1):
            for dtype in (FLOAT32, INT8):
                good, poison = np.ones(size, dtype), poisoned(size, dtype)
                x, host = device.asarray(poison), poison.copy()
                device.h2d(good, x).wait()
                what = f"of {size} elements of {dtype} leaves some of them poisoned"
                same(device.asnumpy(x), good, f"h2d {what}")
                device.d2h(x, host).wait()
                same(host, good, f"d2h {what}")

    def test_new_memory_is_as_it_was_asked_for(self, new_device: NewDevice) -> None:
        """`_empty` gives owned C-contiguous arrays of any shape and dtype."""
        device = new_device()
        for shape in SHAPES:
            x = device._empty(shape, FLOAT32)
            assert device.owns(x), "_empty returns an array that the device does not own"
            assert (x.shape, x.dtype) == (shape, FLOAT32), f"_empty({shape}) has shape {x.shape}"
            assert x.flags.c_contiguous, f"_empty({shape}) is not C-contiguous"
        for code in self.dtypes:
            x = device._empty((3,), np.dtype(code))
            assert x.dtype == np.dtype(code), f"_empty of {np.dtype(code)} has dtype {x.dtype}"

    def test_pinned_memory_is_as_it_was_asked_for(self, new_device: NewDevice) -> None:
        """`_empty_pinned` gives host arrays that may be written and share memory with nothing."""
        device = new_device()
        asked = [(size, np.dtype(code)) for size in (0, 1, 7, 5000) for code in self.dtypes * 2]
        slots = []
        for size, dtype in asked:
            slot = device._empty_pinned(size, dtype)
            assert isinstance(slot, np.ndarray), "_empty_pinned returns no host array"
            got = (slot.shape, slot.dtype)
            assert got == ((size,), dtype), f"_empty_pinned({size}, {dtype}) has {got}"
            assert slot.flags.c_contiguous, "_empty_pinned returns a strided array"
            assert slot.flags.writeable, "_empty_pinned returns an array that cannot be written"
            slots.append(slot)
        spans = sorted(byte_bounds(slot) for slot in slots if slot.size)
        for (_, stop), (start, _) in pairwise(spans):
            assert stop <= start, "_empty_pinned gives out the same memory twice"
        x = device.asarray(np.zeros(7, np.float32))
        slot = device._empty_pinned(7, FLOAT32)
        device.d2h(x, slot).wait()
        np.add(x, 1, out=x)
        device.synchronize()
        assert not slot.any(), "a page-locked array shares memory with one on the device"

    # -- aliasing -------------------------------------------------------------------------------

    def test_asarray_never_aliases_the_host(self, new_device: NewDevice) -> None:
        """What becomes of the host array afterwards does not show on the device."""
        device, host = new_device(), np.zeros(self.elements, np.float32)
        x, y = device.asarray(host), device.asarray(host)
        host[...] = np.nan
        assert not device.asnumpy(x).any(), "asarray returns an alias of host memory"
        np.add(x, 1, out=x)
        assert not device.asnumpy(y).any(), "two copies of one host array share memory"

    def test_asnumpy_never_aliases_the_device(self, new_device: NewDevice) -> None:
        """What becomes of the device array afterwards does not show on the host."""
        device = new_device()
        x = device.asarray(np.zeros(self.elements, np.float32))
        back = device.asnumpy(x)
        np.add(x, 1, out=x)
        device.synchronize()
        assert not back.any(), "asnumpy returns an alias of device memory"
        assert (device.asnumpy(x) == 1).all(), "an operation in place was lost"

    def test_asarray_of_its_own_array_returns_it(self, new_device: NewDevice) -> None:
        """What is on the device already is neither copied nor counted."""
        device = new_device()
        x = device.asarray(np.zeros(3))
        before = device.traffic()
        assert device.asarray(x) is x, "asarray copies an array that is on the device already"
        assert device.traffic() == before, "asarray counts a copy that it need not make"

    def test_allocations_do_not_overlap(self, new_device: NewDevice) -> None:
        """Arrays that are alive have memory of their own, by address and by content."""
        device = new_device()
        arrays = [device._empty((n,), INT8) for n in (1, 100, 7, 100, 4096)]
        spans = sorted((device._address(x), x.nbytes) for x in arrays)
        for (start, nbytes), (following, _) in pairwise(spans):
            assert start + nbytes <= following, "two allocations overlap by address"
        for i, x in enumerate(arrays):
            device.h2d(np.full(x.shape, i, INT8), x).wait()
        for i, x in enumerate(arrays):
            assert (device.asnumpy(x) == i).all(), "two allocations overlap in memory"

    def test_addresses_count_bytes(self, new_device: NewDevice) -> None:
        """A view's address is its array's plus the bytes before it: how overlap is found."""
        device = new_device()
        x = device.asarray(np.zeros((4, 8), np.float32))
        start = device._address(x)
        fault = "_address() of a view is not where its first byte is"
        assert device._address(x[1]) - start == 32, fault
        assert device._address(x.reshape(-1)[5:]) - start == 20, fault
        assert device._address(x.reshape(32)) == start, fault

    # -- the ledger -----------------------------------------------------------------------------

    def test_every_copy_is_counted_to_the_byte(self, new_device: NewDevice) -> None:
        """Traffic and ledger know each copy once, with its elements and bytes."""
        device, ledger, expected = new_device(), Ledger(), []
        for shape in SHAPES:
            for dtype in (INT8, FLOAT32):
                host = np.ones(shape, dtype)
                for source in (host, host.T, host[..., ::-1] if shape else host):
                    before = device.traffic()
                    x = device._empty(source.shape, dtype)
                    device.h2d(source, x, record=ledger.at(1, 2)).wait()
                    device.asnumpy(x.T, record=ledger.at(1, 2))
                    moved = tuple(np.subtract(device.traffic(), before).tolist())
                    assert moved == (host.nbytes,) * 2, (
                        f"traffic() counts {moved[0]} bytes d2h and {moved[1]} bytes h2d for "
                        f"copies of {host.nbytes} bytes"
                    )
                    expected += [(hop, host.size, host.nbytes) for hop in ("h2d", "d2h")]
        found = [(event.hop, event.elements, event.nbytes) for event in ledger.events]
        assert found == expected, "the ledger's events are not the copies that were made"

    def test_nothing_else_is_counted(self, new_device: NewDevice) -> None:
        """Work on the device, allocations and questions move nothing over the link."""
        device = new_device()
        x = device.asarray(np.ones((3, 4), np.float32))
        before = device.traffic()
        device.run_on_device(lambda: np.add(x, x, out=x)).wait()
        np.sum(x.T @ x)
        device._empty((3,), FLOAT32)
        device._address(x[1])
        device.memory()
        device.owns(x)
        device.synchronize()
        assert device.traffic() == before, "traffic() counts what is no copy over the link"


def _any_bits(
    random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> HostArray:
    """Return an array with bits at random: for floats, NaN's of all kinds among them."""
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    nbytes = int(np.prod(shape)) * dtype.itemsize
    bits = np.frombuffer(bytearray(random.bytes(nbytes)), dtype)
    if dtype.kind in "fc":
        bits[1::7] = -0.0  # nearly no pattern at random
    return bits.reshape(shape)


def _denormals(numbers: HostArray) -> HostArray:
    """Return the smallest numbers that there are in this dtype, positive and negative."""
    tiny = np.finfo(numbers.dtype).smallest_subnormal
    places = np.arange(numbers.size)
    found: HostArray = (tiny * (1 + places % 9) * (1 - 2 * (places % 2))).astype(numbers.dtype)
    return found


def _check_both_ways(device: Backend, values: HostArray, here: Layout, there: Layout) -> None:
    """Copy between a view on the device and one on the host; look also at what lies around."""
    fault = f"of {values.dtype}{list(values.shape)}, {here.name} on the device and {there.name} on "
    fault += "the host, "
    around, target = on_device(device, here, np.zeros_like(values))
    expected, (room, source) = on_host(here, values)[0], on_host(there, values)
    before = room.copy()
    device.h2d(source, target).wait()
    same(room, before, f"h2d {fault}writes its source")
    same(device.asnumpy(around), expected, f"h2d {fault}writes wrong elements")
    room, host = on_host(there, np.zeros_like(values))
    device.d2h(target, host).wait()
    same(room, before, f"d2h {fault}writes wrong elements")
    same(device.asnumpy(around), expected, f"d2h {fault}writes its source")
