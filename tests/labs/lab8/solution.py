"""Lab 8: Write a backend. The solution.

The statement is in lab8.rst. Check your work, as often as you like, with

    adamoffload lab check 8 lab8.py

The contract is in adamoffload/device/backend.py: read its first page. `print(adamoffload.__file__)`
says where that is.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from adamoffload.device.array import DeviceArray, address, storage
from adamoffload.device.backend import Backend, DeviceMemoryError, Memory, Ticket

# Task 1: predict four numbers of bytes. The device has held nothing before, and its arrays are
# float32. x = device.asarray(a) has 1,000 elements. Replace each None.
PREDICTED = [
    12000,  # device.memory().peak after y = 2 * x + 1
    4000,  # device.memory().used after view = x[:10]; del x (and no y)
    40,  # device.traffic().d2h after device.asnumpy(x[:10])
    4000,  # device.traffic().d2h after one step of AdamOffload on x, with a gradient of its size
]


# Task 2
class Pool:
    """Counts the bytes of a device."""

    observe = None  # DeviceArray asks for it; leave it as it is

    def __init__(self, limit_bytes):
        """Begin with nothing in use. limit_bytes is an int, or None for no limit; 0 allows none."""
        self.used = self.peak = self.next = 0
        self.limit = limit_bytes

    def reserve(self, nbytes):
        """Take nbytes, and return the address where they begin, an int.

        The first is at 0, and each begins where the one before it ended, whatever was released. If
        more than the limit would be in use, raise DeviceMemoryError("mine", nbytes, used, limit),
        and change nothing.
        """
        if self.limit is not None and self.used + nbytes > self.limit:
            raise DeviceMemoryError("mine", nbytes, self.used, self.limit)
        begin = self.next
        self.next += nbytes
        self.used += nbytes
        self.peak = max(self.peak, self.used)
        return begin

    def release(self, nbytes):
        """Give nbytes back."""
        self.used -= nbytes

    def memory(self):
        """Return Memory(used, peak, limit): bytes in use, in use at most so far, and allowed."""
        return Memory(self.used, self.peak, self.limit)


class MyBackend(Backend):
    """A device in host memory, which does everything at once."""

    name = "mine"

    def __init__(self, memory_bytes=None):
        super().__init__()
        self.pool = Pool(memory_bytes)

    # Task 3
    def owns(self, array):
        """Return whether array, any object at all, is a DeviceArray of this very device.

        A DeviceArray knows its device: array.device.
        """
        return isinstance(array, DeviceArray) and array.device is self

    # Task 4
    def memory(self):
        """Return the bytes of device memory used, at peak, and allowed: a Memory."""
        return self.pool.memory()

    def _empty(self, shape, dtype):
        """Return a new DeviceArray, uninitialised: DeviceArray(host_array, device, pool)."""
        return DeviceArray(np.empty(shape, dtype), self, self.pool)

    def _address(self, array):
        """Return where a contiguous DeviceArray begins; adamoffload.device.array knows."""
        return address(array)

    # Tasks 5 and 6
    def _d2h(self, source, target, after):
        """Wait for the tickets in after, copy source (device) to target (host), return a Ticket.

        Both have one shape and one dtype, and any layout. storage(x) is the NumPy array behind a
        DeviceArray x.
        """
        return self._run(lambda: np.copyto(target, storage(source)), after)

    def _h2d(self, source, target, after):
        """Wait for the tickets in after, copy source (host) to target (device), return a Ticket."""
        return self._run(lambda: np.copyto(storage(target), source), after)


# Tasks 7 and 8
class Copy(Ticket):
    """The ticket of a copy that a thread makes; give it the __init__ that you need."""

    def __init__(self, times):
        self._times = times

    def wait(self):
        """Block until the copy is made; raise what it raised."""
        self._times.result()

    @property
    def start_s(self):
        """When the copy began, after all that it had to wait for: device.now(). Waits."""
        return self._times.result()[0]

    @property
    def stop_s(self):
        """When the copy ended: device.now(). Waits."""
        return self._times.result()[1]


class Background(MyBackend):
    """A device whose copies are made by a thread, while the host goes on."""

    name = "background"

    def __init__(self, memory_bytes=None):
        super().__init__(memory_bytes)
        self._link = ThreadPoolExecutor(max_workers=1)

    def synchronize(self):
        """Block until every copy that was issued is made. It raises nothing that a copy raised."""
        self._link.submit(int).result()

    def _d2h(self, source, target, after):
        """Return a Copy at once; the thread waits for after, and copies."""
        return Copy(self._link.submit(self._copy, storage(source), target, after))

    def _h2d(self, source, target, after):
        """Return a Copy at once; the thread waits for after, and copies."""
        return Copy(self._link.submit(self._copy, source, storage(target), after))

    def _copy(self, source, target, after):
        for ticket in after:
            ticket.wait()
        start_s = self.now()
        np.copyto(target, source)
        return start_s, self.now()
