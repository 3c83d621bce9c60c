"""What memory is counted, given and refused; and that threads may share a device."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import numpy as np

from adamoffload.device.backend import Array, Backend, DeviceMemoryError
from adamoffload.testing.promises import (
    FLOAT32,
    INT8,
    NewDevice,
    Promises,
    counted,
    overtaken,
    refused,
    same,
    together,
)


class Capacity(Promises):
    """Memory is counted to the byte, limited, and given back."""

    def test_memory_is_counted_to_the_byte(self, new_device: NewDevice) -> None:
        """Arrays and results take their bytes, views take none."""
        device = new_device()
        for size in (0, 1, 513, 4099):
            for code in self.dtypes:
                before, host = device.memory().used, np.zeros(size, code)
                x = device.asarray(host)
                used = device.memory().used - before
                assert used == self.taken(x.nbytes), f"memory() counts {used} bytes for {x.nbytes}"
                view, result = x[: size // 2], x + x
                device.synchronize()
                used = device.memory().used - before
                both = self.taken(x.nbytes) + self.taken(result.nbytes)
                assert used == both, "memory() does not count a result, or counts a view"
                del x, view, result

    def test_memory_returns_when_arrays_die(self, new_device: NewDevice) -> None:
        """The last view gives the memory back, and not before."""
        device = new_device()
        before = device.memory().used
        x = device.asarray(np.ones(1000, np.float32))
        view = x[10:20]
        del x
        self.settle(device, before)
        held = device.memory().used - before
        assert held == self.taken(4000), "memory() forgets an array that a view still holds"
        assert (device.asnumpy(view) == 1).all(), "a view lost the memory of its array"
        del view
        self.settle(device, before)
        assert device.memory().used == before, "memory() keeps what dead arrays took"

    def test_the_peak_is_remembered(self, new_device: NewDevice) -> None:
        """It is what was in use at most, not what is in use, nor what was ever allocated."""
        device = new_device()
        at_first = device.memory()
        assert at_first.peak >= at_first.used, "the peak is below what is in use"
        for size in (1000, 3001, 10):
            pair = [device._empty((size,), INT8) for _ in range(2)]
            del pair
            self.settle(device, at_first.used)
        self._check_peak(device, max(at_first.peak, at_first.used + 2 * self.taken(3001)))
        x = device.asarray(np.zeros(5003, np.int8))
        y = x + x  # for a moment there are three
        del x, y
        self.settle(device, at_first.used)
        peak = max(at_first.peak, at_first.used + 2 * self.taken(5003))
        self._check_peak(device, peak)
        device.asarray(np.zeros(7, np.int8))
        self._check_peak(device, peak)

    def _check_peak(self, device: Backend, peak: int) -> None:
        found = device.memory().peak
        assert found == peak or (found > peak and not self.exact_peak), (
            f"the peak is {found}, not {peak}"
        )

    def test_the_limit_is_kept(self, new_device: NewDevice) -> None:
        """What fits is given, to the last byte; what does not is refused."""
        limit = 1 << 20
        device = new_device(memory_bytes=limit)
        assert device.memory().limit == limit, f"the limit is {device.memory().limit}, not {limit}"
        room = (limit - device.memory().used) // self.allocation_bytes * self.allocation_bytes
        part = room // 2 // self.allocation_bytes * self.allocation_bytes
        for _ in range(2):
            try:
                first, second = (device._empty((n,), INT8) for n in (part, room - part))
            except MemoryError as error:
                raise AssertionError(f"an allocation that fits was refused: {error}") from error
            with refused(DeviceMemoryError, "one byte more than the limit was allocated"):
                device._empty((1,), INT8)
            with refused(DeviceMemoryError, "asarray went past the limit"):
                device.asarray(np.zeros(1, np.int8))
            with refused(MemoryError, "a result went past the limit"):
                first + first
            assert device.memory().peak <= limit, "the peak is above the limit"
            del first, second
            self.settle(device, limit - room)

    def test_the_limit_is_exact_for_any_dtype(self, new_device: NewDevice) -> None:
        """An element of any size fits into the bytes it takes, and not into one byte less."""
        limit = 1 << 16
        device = new_device(memory_bytes=limit)
        room = limit - device.memory().used
        for code in self.dtypes:
            one = np.zeros(1, code)
            filler = device._empty((room - self.taken(one.nbytes),), INT8)
            try:
                device._empty(one.shape, one.dtype)
                device.asarray(one)
            except MemoryError as error:
                raise AssertionError(f"a {one.dtype} that fits was refused: {error}") from error
            del filler
            device.synchronize()
            filler = device._empty((room - self.taken(one.nbytes) + 1,), INT8)
            with refused(DeviceMemoryError, f"a {one.dtype} was given where a byte was missing"):
                device._empty(one.shape, one.dtype)
            del filler
            device.synchronize()

    def test_a_full_device_still_works(self, new_device: NewDevice) -> None:
        """Arrays without elements, views, copies and work in place need no memory."""
        device = new_device(memory_bytes=1 << 16)
        room = (1 << 16) - device.memory().used
        x = device._empty((room // 4,), FLOAT32)
        good = counted(x.shape, FLOAT32)
        try:
            for dtype in (INT8, FLOAT32):
                device._empty((0,), dtype)
                device._empty((3, 0, 2), dtype)
                device.asarray(np.zeros((0, 5), dtype))
            device.h2d(good, x).wait()
            np.add(x, 1, out=x)
            same(device.asnumpy(x[1:]), good[1:] + 1, "a full device computes wrongly")
        except MemoryError as error:
            raise AssertionError(f"what needs no memory was refused: {error}") from error

    def test_threads_share_the_limit(self, new_device: NewDevice) -> None:
        """Where two ask at once and one fits, one is given: the limit is kept, and used."""
        limit = 1 << 16
        device = new_device(memory_bytes=limit)
        size, given = (limit - device.memory().used) * 2 // 3, list[Array]()

        def take() -> None:
            with suppress(DeviceMemoryError), overtaken():
                given.append(device._empty((size,), INT8))

        for _ in range(5):
            together(take, take, take)
            assert len(given) == 1, f"{len(given)} of 3 threads were given the last memory"
            given.clear()
            device.synchronize()

    def test_the_memory_error_says_what_was_asked(self, new_device: NewDevice) -> None:
        """It names the device and carries the bytes asked for, in use and allowed."""
        device = new_device(memory_bytes=1 << 20)
        kept = device.asarray(np.zeros(5000, np.int8))
        used = device.memory().used
        for dtype in (INT8, FLOAT32):
            asked, caught = (2 << 20) * dtype.itemsize, list[DeviceMemoryError]()
            with refused(DeviceMemoryError, "an array of twice the limit was not refused", caught):
                device._empty((2 << 20,), dtype)
            said = (caught[0].device, caught[0].used_bytes, caught[0].limit_bytes)
            assert said == (device.name, used, 1 << 20), f"the memory error says {said}"
            requested = caught[0].requested_bytes
            assert asked <= requested <= self.taken(asked), (
                f"the memory error says {requested} bytes requested"
            )
        del kept

    def test_a_refused_allocation_changes_nothing(self, new_device: NewDevice) -> None:
        """Memory, traffic and the arrays there are stay as they were, and work goes on."""
        device = new_device(memory_bytes=1 << 20)
        x = device.asarray(np.ones(1000, np.float32))
        before = device.memory(), device.traffic()
        with refused(DeviceMemoryError, "an array of twice the limit was not refused"):
            device.asarray(np.zeros(2 << 20, np.int8))
        self.settle(device, before[0].used)
        assert (device.memory(), device.traffic()) == before, "a refused array was counted"
        assert (device.asnumpy(x + 1) == 2).all(), "the device does not work after a refusal"

    # -- threads --------------------------------------------------------------------------------

    def test_threads_do_not_disturb_each_other(self, new_device: NewDevice) -> None:
        """Eight threads copy and compute; their numbers, the bytes and the memory are right."""
        device, rounds, size = new_device(), 20, 257
        used, before = device.memory().used, device.traffic()

        def work(number: int) -> None:
            for i in range(rounds):
                host = np.full(size, 100 * number + i, np.float32)
                back = device.asnumpy(device.asarray(host) + 1)
                same(back, host + 1, "threads got each other's numbers")

        together(*(partial(work, number) for number in range(8)))
        moved = tuple(np.subtract(device.traffic(), before).tolist())
        assert moved == (8 * rounds * 4 * size,) * 2, "traffic() is wrong after many threads"
        self.settle(device, used)
        assert device.memory().used == used, "memory() is wrong after many threads"
