"""Lab 8: Write a backend. Your file: replace each gap by your solution.

The statement is in lab8.rst. Check your work, as often as you like, with

    adamoffload lab check 8 lab8.py

The contract is in adamoffload/device/backend.py: read its first page. `print(adamoffload.__file__)`
says where that is.
"""

import numpy as np

from adamoffload.device.array import DeviceArray, address, storage
from adamoffload.device.backend import Backend, DeviceMemoryError, Memory, Ticket

# Task 1: predict four numbers of bytes. The device has held nothing before, and its arrays are
# float32. x = device.asarray(a) has 1,000 elements. Replace each None.
PREDICTED = [
    None,  # device.memory().peak after y = 2 * x + 1
    None,  # device.memory().used after view = x[:10]; del x (and no y)
    None,  # device.traffic().d2h after device.asnumpy(x[:10])
    None,  # device.traffic().d2h after one step of AdamOffload on x, with a gradient of its size
]


# Task 2
class Pool:
    """Counts the bytes of a device."""

    observe = None  # DeviceArray asks for it; leave it as it is

    def __init__(self, limit_bytes):
        """Begin with nothing in use. limit_bytes is an int, or None for no limit; 0 allows none."""
        raise NotImplementedError

    def reserve(self, nbytes):
        """Take nbytes, and return the address where they begin, an int.

        The first is at 0, and each begins where the one before it ended, whatever was released. If
        more than the limit would be in use, raise DeviceMemoryError("mine", nbytes, used, limit),
        and change nothing.
        """
        raise NotImplementedError

    def release(self, nbytes):
        """Give nbytes back."""
        raise NotImplementedError

    def memory(self):
        """Return Memory(used, peak, limit): bytes in use, in use at most so far, and allowed."""
        raise NotImplementedError


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
        raise NotImplementedError

    # Task 4
    def memory(self):
        """Return the bytes of device memory used, at peak, and allowed: a Memory."""
        raise NotImplementedError

    def _empty(self, shape, dtype):
        """Return a new DeviceArray, uninitialised: DeviceArray(host_array, device, pool)."""
        raise NotImplementedError

    def _address(self, array):
        """Return where a contiguous DeviceArray begins; adamoffload.device.array knows."""
        raise NotImplementedError

    # Tasks 5 and 6
    def _d2h(self, source, target, after):
        """Wait for the tickets in after, copy source (device) to target (host), return a Ticket.

        Both have one shape and one dtype, and any layout. storage(x) is the NumPy array behind a
        DeviceArray x.
        """
        raise NotImplementedError

    def _h2d(self, source, target, after):
        """Wait for the tickets in after, copy source (host) to target (device), return a Ticket."""
        raise NotImplementedError


# Tasks 7 and 8
class Copy(Ticket):
    """The ticket of a copy that a thread makes; give it the __init__ that you need."""

    def wait(self):
        """Block until the copy is made; raise what it raised."""
        raise NotImplementedError

    @property
    def start_s(self):
        """When the copy began, after all that it had to wait for: device.now(). Waits."""
        raise NotImplementedError

    @property
    def stop_s(self):
        """When the copy ended: device.now(). Waits."""
        raise NotImplementedError


class Background(MyBackend):
    """A device whose copies are made by a thread, while the host goes on."""

    name = "background"

    def __init__(self, memory_bytes=None):
        super().__init__(memory_bytes)

    def synchronize(self):
        """Block until every copy that was issued is made. It raises nothing that a copy raised."""
        raise NotImplementedError

    def _d2h(self, source, target, after):
        """Return a Copy at once; the thread waits for after, and copies."""
        raise NotImplementedError

    def _h2d(self, source, target, after):
        """Return a Copy at once; the thread waits for after, and copies."""
        raise NotImplementedError
