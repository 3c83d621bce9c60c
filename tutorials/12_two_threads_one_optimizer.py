r"""
Locking: what two threads do to one optimizer
=============================================

An optimizer is a state that is read, changed and written back. Two threads that do so at the same
time can lose an update, with no error and a loss curve that looks almost right. We make that happen
every time, look at what is missing, and switch the lock on.

You need :ref:`sphx_glr_tutorials_03_first_offloaded_step.py`, and to know what a thread is. At the
end you can say what exactly is lost, and what ``use_locking=True`` promises and what it does not.
"""

# %%
# A race on purpose
# -----------------
# A race shows when two threads happen to meet. To show it every time, we need a place in the
# middle of a step at which a thread can be held up. A learning-rate schedule is such a place: the
# optimizer asks it in every step, after it has read the step's number. This one lets whoever asks
# first wait until somebody else has finished a whole step.

import threading

import numpy as np

import adamoffload as ao


class HoldUp(ao.LearningRateSchedule):
    """A rate of 0.1; the first one to ask waits for the other, though not for ever."""

    def __init__(self):
        super().__init__()
        self.first = threading.Lock()
        self.in_the_middle = threading.Event()
        self.other_is_done = threading.Event()

    def __call__(self, step):
        if self.first.acquire(blocking=False):
            self.in_the_middle.set()
            self.other_is_done.wait(timeout=0.5)
        return 0.1


def race(use_locking):
    """Let a slow and a quick thread make a step each; return optimizer and parameter."""
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.zeros(1, np.float32)), name="w")
    schedule = HoldUp()
    optimizer = ao.AdamOffload([w], schedule, use_locking=use_locking)
    one, two = (device.asarray(np.full(1, g, np.float32)) for g in (1.0, 2.0))

    def slow():
        optimizer([one])

    def quick():
        schedule.in_the_middle.wait()
        optimizer([two])
        schedule.other_is_done.set()

    threads = [threading.Thread(target=slow), threading.Thread(target=quick)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return optimizer, float(device.asnumpy(w.data)[0])


# %%
# Without the lock
# ----------------
# **Predict.** Two threads have made one step each. What should ``global_step`` be? And what will
# it be, if both threads read 0 before either has written 1?

optimizer, w = race(use_locking=False)
print("steps counted:", optimizer.global_step)
print("beta1_power:  ", optimizer.beta1_power)
print("weight:       ", w)

# %%
# Two gradients went in and one step was counted. Both threads computed their learning rate for
# step 1, so that the second update has the bias correction of a first one; and the product of the
# betas, from which the next corrections follow, lags behind from now on. The parameter has moved
# twice. Nothing complained, and nothing ever will.
#
# With the lock
# -------------
# ``use_locking=True`` lets one call in at a time. The quick thread has to wait in front of the
# door, so the slow one waits in vain until its patience ends; then both steps follow each other.

optimizer, locked = race(use_locking=True)
print("steps counted:", optimizer.global_step)
print("beta1_power:  ", optimizer.beta1_power)
print("weight:       ", locked)

# %%
# Is that the right result? It must be that of *some* order of the two. There are two orders:


def in_order(*gradients):
    """Make the steps one after the other, in one thread."""
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.zeros(1, np.float32)), name="w")
    optimizer = ao.AdamOffload([w], learning_rate=0.1)
    for g in gradients:
        optimizer([device.asarray(np.full(1, g, np.float32))])
    return float(device.asnumpy(w.data)[0])


orders = {(1.0, 2.0): in_order(1.0, 2.0), (2.0, 1.0): in_order(2.0, 1.0)}
for order, result in orders.items():
    print(f"gradients {order}: {result!r}", "<- this one" if result == locked else "")
print("without the lock:    ", repr(w), "is it one of them?", w in orders.values())

# %%
# What the lock does not promise
# ------------------------------
# *Which* order it is. Two runs of the same program may end with different weights, both of them
# right. If every run must give the same bits, let one thread make the steps.
#
# The default is ``False``, as in the reference implementation: whoever has one thread should not
# think about locks, and whoever has several should think about what they want.
#
# Inside a step there are threads, too, which share the arithmetic. They never touch the same
# element, so they need no lock and leave no trace in the result.
#
# Try it
# ------
# - Let both threads use a plain number as learning rate, without the lock, and make a thousand
#   steps each. How many are counted? Does it change from run to run?
# - Where could a step be held up, other than in a schedule? Look at
#   :meth:`adamoffload.AdamOffload.__call__`.
# - A gradient is computed from weights that another thread is just changing. Does the lock help
#   against that?
