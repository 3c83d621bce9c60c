r"""
Write your own backend
======================

A backend is a device: memory of its own, and the way between it and the host. We write one in forty
lines, train on it, and give it to the tests that every backend must pass. Then we make a mistake on
purpose and see which tests name it.

You need :ref:`sphx_glr_tutorials_05_first_offloaded_step.py`, and pytest for the tests
(``pip install pytest``). At the end you know the whole contract between the optimizer and a device,
and have a backend of your own that keeps it.
"""

# %%
# What a device must do
# ---------------------
# Six things: say which arrays are its own and how much memory is in use, allocate, tell where an
# array begins, and copy in both directions. All else, such as checking operands and counting
# bytes, is done by `adamoffload.Backend` itself, in methods that cannot be overridden.
#
# Our device has a peculiarity: a slow link, and a clock of its own that moves only while something
# is copied. Arrays that live apart from the host's and refuse to mix come from
# `adamoffload.device.array`: a ``DeviceArray`` is NumPy memory in a ``MemoryPool`` that counts it,
# ``storage`` is the NumPy array within, and ``address`` says where it begins. A copy returns a
# *ticket*, which says when it began and when it is done; ``after`` holds the tickets of what must
# be done before it.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload.device.array import DeviceArray, MemoryPool, address, storage
from adamoffload.device.backend import Done

plt.rcParams.update(ao.plots.STYLE)


class SlowLink(ao.Backend):
    """A device behind a link of 1 GB/s; its clock moves only during copies."""

    name = "slow"
    simulated = True  # the clock: figures say so beside its times

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
# `adamoffload.device.backend.Done`; a device that copies in the background would return a ticket to
# wait for.
#
# Train on it
# -----------
# Ten thousand weights, in two chunks of 20,000 bytes, so that the ring of staging slots has two
# slots to fill and not three. **Predict.** How many bytes of the device are in use between two
# steps? And at most, when the gradient is there as well?

device = SlowLink(memory_bytes=1_000_000)
w = ao.Parameter(device.asarray(np.full(10_000, 3.0, np.float32)), name="w")
ledger = ao.Ledger()
optimizer = ao.AdamOffload([w], 0.1, ledger=ledger, chunk_bytes=20_000)
for _ in range(100):
    optimizer([2 * w.data])  # the gradient of the sum of squares

print("largest weight:", np.abs(device.asnumpy(w.data)).max())
print(device.memory())

# %%
# Weights and two slots are 40,000 + 2 x 20,000 bytes, and a gradient is 40,000 more.
#
# **Predict.** A gradient of 10,000 parameters goes down and an update comes up, at 1 GB/s, one copy
# after the other. How long does a step take on the device's clock? Is there any overlap?

begin_s, end_s = ledger.step_times()[0]
print(f"predicted: {2 * 4 * 10_000 / 1e9 * 1e6:.1f} µs")
print(f"measured:  {(end_s - begin_s) * 1e6:.1f} µs")
assert np.isclose(end_s - begin_s, 2 * 4 * 10_000 / 1e9)

figure, ax = plt.subplots(figsize=(10, 3.6), layout="constrained")
ao.plots.timeline(ledger, 1, ax=ax)
plt.show()

# %%
# None: one link, one copy at a time, and each returns only when it is done. Device and host seem to
# take no time at all, since the clock does not run for them.
#
# The same bits as elsewhere
# --------------------------
# Where the parameters live must not change what is computed.


def trained(device):
    start = np.linspace(-1, 1, 1000, dtype=np.float32)
    w = ao.Parameter(device.asarray(start), name="w")
    optimizer = ao.AdamOffload([w], learning_rate=0.01, chunk_bytes=512)
    for _ in range(20):
        optimizer([2 * w.data])
    return device.asnumpy(w.data)


same = np.array_equal(trained(SlowLink()), trained(ao.get_backend("numpy")))
print("bit by bit equal to the numpy backend:", same)
assert same

# %%
# The contract
# ------------
# One training run is not a proof. `adamoffload.testing.BackendContract` comes nearer: a test for
# every promise, of ownership, array operations, copies of every shape, order, errors, memory and
# threads. One of them by hand: what does not fit must be refused, and must change nothing.

device = SlowLink(memory_bytes=1000)
keep = device.asarray(np.zeros(200, np.float32))
try:
    device.asarray(np.zeros(100, np.float32))
except ao.DeviceMemoryError as error:
    print(error)
print(device.memory())

# %%
# For all of them, save the imports and the class above as ``slow_link.py``, and beside it, as
# ``test_slow_link.py``,
#
# .. code-block:: python
#
#    import pytest
#    from adamoffload.testing import BackendContract
#    from slow_link import SlowLink
#
#
#    class TestSlowLink(BackendContract):
#        @pytest.fixture
#        def new_device(self):
#            return SlowLink
#
# Then ``python -m pytest`` in that folder runs them. This page does the same, with a file that it
# writes and throws away; a few lines collect what pytest has to say.

import tempfile
from pathlib import Path

try:
    import pytest
except ImportError:
    pytest = None

TESTS = """
import pytest
from adamoffload.testing import BackendContract
from __main__ import {name}


class Test{name}(BackendContract):
    @pytest.fixture
    def new_device(self):
        return {name}
"""


class Verdict:
    """Counts the promises that are kept, and prints the others."""

    kept = 0

    def pytest_runtest_logreport(self, report):
        if report.failed:
            print(report.nodeid.rpartition("::")[2])
            print("   ", report.longrepr.reprcrash.message.splitlines()[0])
        elif report.when == "call":
            self.kept += 1


def check(name):
    """Run the contract on a backend that is defined on this page."""
    if pytest is None:
        print("pytest is not installed here; pip install pytest")
        return
    verdict = Verdict()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"test_{name}.py")
        file.write_text(TESTS.format(name=name))
        silent = ["-p", "no:terminal", "-p", "no:cacheprovider"]
        pytest.main([*silent, "--rootdir", folder, str(file)], plugins=[verdict])
    print(f"{name}: {verdict.kept} promises kept")


check("SlowLink")

# %%
# A mistake
# ---------
# Let us make it a little too simple: what if ``__init__`` did not bother with the limit?


class Generous(SlowLink):
    """Takes a limit, and forgets it."""

    name = "generous"

    def __init__(self, memory_bytes=None):
        super().__init__()


limited = Generous(memory_bytes=1_000_000)
same = np.array_equal(trained(limited), trained(ao.get_backend("numpy")))
print("bit by bit equal to the numpy backend:", same)

# %%
# It trains, to the same bits. **Predict.** What is wrong with it, who would notice, and when? How
# many of the tests will?

check("Generous")
large = limited.asarray(np.zeros(1_000_000, np.float32))
print("four million bytes on a device of one million:", limited.memory())

# %%
# With memory to spare, nobody would notice; a model that was tried on this device fails on a real
# one of that size.
#
# The test's name is the promise, its message the fault. :doc:`/backends` lists the mistakes that
# each finds.
#
# **In one line:** a backend is six methods, and a test for each of its promises.
#
# Try it
# ------
# - Make a mistake of your own, in the files. Let ``owns`` return True for every ``DeviceArray``, or
#   forget to wait for ``after``. Which tests notice? Why does the second make no difference to
#   *this* device?
# - Register the class as an entry point in the group ``adamoffload.backends``, as
#   ``backends/README.md`` shows, and ``ao.get_backend("slow")`` finds it.
# - Let the copies run in a thread. What must ``synchronize`` do then, and what the tickets? The
#   same file has such a backend, to compare with.
# - Give the device a latency of 10 microseconds per copy. Which chunk size is the best one now, and
#   why is it not in the middle, as in :ref:`sphx_glr_tutorials_09_the_link.py`?
