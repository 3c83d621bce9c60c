r"""
Write your own backend
======================

A backend is a device: memory of its own, and the way between it and the host. We write one in forty
lines, train on it, and give it to the tests that every backend must pass. Then we make a mistake on
purpose and see which test names it.

You need :ref:`sphx_glr_tutorials_03_first_offloaded_step.py`. At the end you know the whole
contract between the optimizer and a device.
"""

# %%
# What a device must do
# ---------------------
# Six things: say which arrays are its own and how much memory is in use, allocate, tell where an
# array begins, and copy in both directions. All else, such as checking operands and counting
# bytes, is done by `adamoffload.Backend` itself, in methods that cannot be overridden.
#
# Our device has a peculiarity: its link is slow, and tells how long each copy takes on a clock of
# its own. `adamoffload.device_array` provides arrays that live apart from the host's and refuse to
# mix.

import numpy as np

import adamoffload as ao
from adamoffload.backend import Done
from adamoffload.device_array import DeviceArray, MemoryPool, address, storage
from adamoffload.timeline import timeline_text


class SlowLink(ao.Backend):
    """A device behind a link of 1 GB/s, whose clock stands still but for the copies."""

    name = "slow"

    def __init__(self, memory_bytes=None):
        super().__init__()
        self._pool = MemoryPool(self.name, memory_bytes)
        self._seconds = 0.0

    def owns(self, array):
        return isinstance(array, DeviceArray) and array.device is self

    def memory(self):
        return self._pool.memory()

    def now(self):
        return self._seconds

    def _empty(self, shape, dtype):
        return DeviceArray(np.empty(shape, dtype), self, self._pool)

    def _address(self, array):
        return address(array)

    def _d2h(self, source, target, after):
        return self._copy(storage(source), target, after)

    def _h2d(self, source, target, after):
        return self._copy(source, storage(target), after)

    def _copy(self, source, target, after):
        for ticket in after:
            ticket.wait()
        start_s = self._seconds
        np.copyto(target, source)
        self._seconds += source.nbytes / 1e9
        return Done(start_s, self._seconds)


# %%
# That is all. The copy is finished when the method returns, so its ticket is a
# `adamoffload.backend.Done`; a device that copies in the background would return a ticket to wait
# for.
#
# Train on it
# -----------

device = SlowLink(memory_bytes=1_000_000)
w = ao.Parameter(device.asarray(np.full(10_000, 3.0, np.float32)), name="w")
ledger = ao.Ledger()
optimizer = ao.AdamOffload([w], learning_rate=0.1, ledger=ledger, chunk_bytes=20_000)
for _ in range(100):
    optimizer([2 * w.data])  # the gradient of the sum of squares

print("largest weight:", np.abs(device.asnumpy(w.data)).max())
print(device.memory())

# %%
# **Predict.** A gradient of 10,000 parameters goes down and an update comes up, at 1 GB/s, one copy
# after the other. How long does a step take on the device's clock?

print("predicted:", 2 * 4 * 10_000 / 1e9, "s")
print(timeline_text(ledger, 1, width=48))

# %%
# The same bits as elsewhere
# --------------------------
# Where the parameters live must not change what is computed.


def trained(device):
    w = ao.Parameter(device.asarray(np.linspace(-1, 1, 1000, dtype=np.float32)), name="w")
    optimizer = ao.AdamOffload([w], learning_rate=0.01, chunk_bytes=512)
    for _ in range(20):
        optimizer([2 * w.data])
    return device.asnumpy(w.data)


same = np.array_equal(trained(SlowLink()), trained(ao.get_backend("numpy")))
print("bit by bit equal to the numpy backend:", same)

# %%
# The contract
# ------------
# One training run is not a proof. `adamoffload.testing.BackendContract` is: forty tests or so of
# ownership, copies of every shape, order, memory accounting, threads. In a project of your own it
# takes these lines, and ``pytest``:
#
# .. code-block:: python
#
#    class TestSlowLink(BackendContract):
#        @pytest.fixture
#        def new_device(self):
#            return SlowLink
#
# Here we look at one promise by hand: what does not fit must be refused, and must change nothing.

device = SlowLink(memory_bytes=1000)
keep = device.asarray(np.zeros(200, np.float32))
try:
    device.asarray(np.zeros(100, np.float32))
except ao.DeviceMemoryError as error:
    print(error)
print(device.memory())

# %%
# A mistake
# ---------
# A backend that answers a copy with a view instead of a copy seems to work, and is even faster.
# What goes wrong?


class Careless(SlowLink):
    """Gives away its own memory where a copy was asked for."""

    name = "careless"

    def _empty(self, shape, dtype):
        self._last = np.empty(shape, dtype)
        return DeviceArray(self._last, self, self._pool)


device = Careless()
x = device.asarray(np.zeros(3, np.float32))
device._last[:] = 7  # somebody on the host still holds the device's memory
print(device.asnumpy(x))

# %%
# The device's array changed, and nobody copied anything: its memory has an alias on the host. Such
# mistakes give right results until the day when something else writes there first. The contract
# has a test for it, whose message says so.
#
# Try it
# ------
# - Register the class as an entry point in the group ``adamoffload.backends``, as
#   ``backends/README.md`` shows, and ``ao.get_backend("slow")`` finds it.
# - Let the copies run in a thread. What must ``synchronize`` do then, and what the tickets?
# - Give the device a latency of 10 microseconds a copy. How does the best chunk size change?
