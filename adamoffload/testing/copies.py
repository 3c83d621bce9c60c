"""What a copy leaves behind: the same bits, in memory of its own, and its bytes in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from adamoffload.device.backend import HostArray
from adamoffload.observe.ledger import Ledger
from adamoffload.testing.promises import (
    FLOAT32,
    INT8,
    SHAPES,
    NewDevice,
    Promises,
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

    def test_a_round_trip_keeps_any_layout(self, new_device: NewDevice) -> None:
        """Sources may be strided, reversed, transposed or broadcast, on either side."""
        device, host = new_device(), np.arange(60, dtype=np.float32).reshape(3, 4, 5)
        layouts: dict[str, Callable[[Any], Any]] = {
            "a transposed array": lambda a: a.T,
            "a strided array": lambda a: a[::2, :, 1::3],
            "a reversed array": lambda a: a[::-1, ::-1],
            "one element": lambda a: a[1, 2, 3:4],
            "an empty slice": lambda a: a[:, 4:],
        }
        x = device.asarray(host)
        for what, view in layouts.items():
            up, down = device.asarray(view(host)), device.asnumpy(view(x))
            assert up.flags.c_contiguous, f"asarray of {what} is not C-contiguous"
            assert down.flags.c_contiguous, f"asnumpy of {what} is not C-contiguous"
            same(device.asnumpy(up), view(host), f"h2d of {what} moves elements")
            same(down, view(host), f"d2h of {what} moves elements")
        wide = np.broadcast_to(np.float32(3), (2, 3))
        same(device.asnumpy(device.asarray(wide)), wide, "h2d of a broadcast array differs")

    def test_a_copy_reaches_through_views_and_no_further(self, new_device: NewDevice) -> None:
        """A target may be any view: its elements are written, their neighbours are not."""
        device, before = new_device(), np.arange(48, dtype=np.float32).reshape(6, 8)
        views = (np.s_[1], np.s_[2:4], np.s_[:, 2:5], np.s_[::2, ::-1], np.s_[5, 7:])
        for view in views:
            after = before.copy()
            after[view] = -before[view]
            x, host = device.asarray(before), before.copy()
            device.h2d(-before[view], x[view]).wait()
            same(device.asnumpy(x), after, f"h2d into the view {view} writes the wrong elements")
            device.d2h(x[view], host[view]).wait()
            same(host, after, f"d2h into the view {view} writes the wrong elements")

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
        """`_empty` gives owned C-contiguous arrays, `_empty_pinned` ordinary host arrays."""
        device = new_device()
        for shape in SHAPES:
            x = device._empty(shape, FLOAT32)
            assert device.owns(x), "_empty returns an array that the device does not own"
            assert (x.shape, x.dtype) == (shape, FLOAT32), f"_empty({shape}) has shape {x.shape}"
            assert x.flags.c_contiguous, f"_empty({shape}) is not C-contiguous"
        for size in (1, 7, 5000):
            slot, other = (device._empty_pinned(size, FLOAT32) for _ in range(2))
            assert isinstance(slot, np.ndarray), "_empty_pinned returns no host array"
            asked = (slot.shape, slot.dtype) == ((size,), FLOAT32)
            assert asked, f"_empty_pinned({size}) has shape {slot.shape} and dtype {slot.dtype}"
            slot[...], other[...] = 1, 2
            assert (slot == 1).all(), "_empty_pinned gives out the same memory twice"

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
    return np.frombuffer(random.bytes(nbytes), dtype).reshape(shape)
