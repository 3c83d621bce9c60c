"""What memory is counted, given and refused; and that threads may share a device."""

from __future__ import annotations

import threading

import numpy as np

from adamoffload.device.backend import DeviceMemoryError
from adamoffload.testing.promises import (
    INT8,
    NewDevice,
    Promises,
    refused,
)


class Capacity(Promises):
    """Memory is counted to the byte, limited, and given back."""

    def test_memory_is_counted_to_the_byte(self, new_device: NewDevice) -> None:
        """Arrays and results take their bytes, views take none."""
        device = new_device()
        for size in (0, 1, 513, 4099):
            before = device.memory().used
            x = device.asarray(np.zeros(size, np.int8))
            used = device.memory().used - before
            assert used == self.taken(size), f"memory() counts {used} bytes for {size}"
            view, result = x[: size // 2], x + x
            device.synchronize()
            used = device.memory().used - before
            assert used == 2 * self.taken(size), "memory() does not count a result, or a view"
            del x, view, result

    def test_memory_returns_when_arrays_die(self, new_device: NewDevice) -> None:
        """The last view gives the memory back, and not before."""
        device = new_device()
        before = device.memory().used
        x = device.asarray(np.ones(1000, np.float32))
        view = x[10:20]
        del x
        self.settle(device)
        held = device.memory().used - before
        assert held == self.taken(4000), "memory() forgets an array that a view still holds"
        assert (device.asnumpy(view) == 1).all(), "a view lost the memory of its array"
        del view
        self.settle(device)
        assert device.memory().used == before, "memory() keeps what dead arrays took"

    def test_the_peak_is_remembered(self, new_device: NewDevice) -> None:
        """It is what was in use at most, not what is in use, nor what was ever allocated."""
        device = new_device()
        at_first = device.memory()
        for size in (1000, 3001, 10):
            pair = [device._empty((size,), INT8) for _ in range(2)]
            del pair
            self.settle(device)
        peak = max(at_first.peak, at_first.used + 2 * self.taken(3001))
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
            self.settle(device)

    def test_the_memory_error_says_what_was_asked(self, new_device: NewDevice) -> None:
        """It names the device and carries the bytes asked for, in use and allowed."""
        device = new_device(memory_bytes=1 << 20)
        kept = device.asarray(np.zeros(5000, np.int8))
        used = device.memory().used
        caught: list[DeviceMemoryError] = []
        with refused(DeviceMemoryError, "an array of twice the limit was not refused", caught):
            device._empty((2 << 20,), INT8)
        said = (caught[0].device, caught[0].used_bytes, caught[0].limit_bytes)
        assert said == (device.name, used, 1 << 20), f"the memory error says {said}"
        requested, most = caught[0].requested_bytes, self.taken(2 << 20)
        assert 2 << 20 <= requested <= most, f"the memory error says {requested} bytes requested"
        del kept

    def test_a_refused_allocation_changes_nothing(self, new_device: NewDevice) -> None:
        """Memory, traffic and the arrays there are stay as they were, and work goes on."""
        device = new_device(memory_bytes=1 << 20)
        x = device.asarray(np.ones(1000, np.float32))
        before = device.memory(), device.traffic()
        with refused(DeviceMemoryError, "an array of twice the limit was not refused"):
            device.asarray(np.zeros(2 << 20, np.int8))
        self.settle(device)
        assert (device.memory(), device.traffic()) == before, "a refused array was counted"
        assert (device.asnumpy(x + 1) == 2).all(), "the device does not work after a refusal"

    # -- threads --------------------------------------------------------------------------------

    def test_threads_do_not_disturb_each_other(self, new_device: NewDevice) -> None:
        """Eight threads copy and compute; their numbers, the bytes and the memory are right."""
        device, rounds, size = new_device(), 20, 257
        used, before = device.memory().used, device.traffic()
        faults: list[str] = []

        def work(number: int) -> None:
            try:
                for i in range(rounds):
                    host = np.full(size, 100 * number + i, np.float32)
                    if not np.array_equal(device.asnumpy(device.asarray(host) + 1), host + 1):
                        faults.append("threads got each other's numbers")
            except Exception as error:
                faults.append(f"a thread met {error!r}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults, faults[0]
        moved = tuple(np.subtract(device.traffic(), before).tolist())
        assert moved == (8 * rounds * 4 * size,) * 2, "traffic() is wrong after many threads"
        self.settle(device)
        assert device.memory().used == used, "memory() is wrong after many threads"
