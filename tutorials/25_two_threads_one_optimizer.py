r"""
Locking: what two threads do to one optimizer
=============================================

An optimizer is a state that is read, changed and written back. Two threads that do so at the same
time can lose an update, and nobody is told. We make that happen every time, look at what is
missing, and switch the lock on. An appendix for those who call one optimizer from several threads.

You need :ref:`sphx_glr_tutorials_05_first_offloaded_step.py`, and to know what a thread is. At the
end you can say what exactly is lost, and what ``use_locking=True`` promises and what it does not.
"""

# %%
# A race on purpose
# -----------------
# A race shows when two threads happen to meet. To show it every time, we need a place in the middle
# of a step at which a thread can be held up. A learning-rate schedule is such a place: the
# optimizer asks it in every step, after it has read the step's number. This one lets the first that
# asks first wait until somebody else has finished a whole step. It also notes who asked, and for
# which step.

import threading

import numpy as np

import adamoffload as ao


class HoldUp(ao.LearningRateSchedule):
    """A rate of 0.1; the first to ask waits for the other, not for ever."""

    def __init__(self, patience_s):
        super().__init__()
        self.patience_s = patience_s
        self.asked = []
        self.in_the_middle = threading.Event()
        self.other_is_done = threading.Event()

    def __call__(self, step):
        self.asked.append((threading.current_thread().name, step))
        if len(self.asked) == 1:
            self.in_the_middle.set()
            self.other_is_done.wait(self.patience_s)
        return 0.1


device = ao.get_backend("numpy")


def on_device(value):
    return device.asarray(np.full(1, value, np.float32))


def race(use_locking):
    """Let two threads make a step each, and print what comes of it."""
    w = ao.Parameter(on_device(0.0), name="w")
    schedule = HoldUp(patience_s=0.5 if use_locking else 60)  # without a lock, the other comes
    optimizer = ao.AdamOffload([w], schedule, use_locking=use_locking)

    def slow():
        optimizer([on_device(1.0)])

    def quick():
        schedule.in_the_middle.wait()
        optimizer([on_device(2.0)])
        schedule.other_is_done.set()

    threads = [threading.Thread(target=f, name=f.__name__) for f in (slow, quick)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, step in schedule.asked:
        print(f"{name:<5} asks for the rate of step {step}")
    print("steps counted:", optimizer.global_step)
    print("beta1_power:  ", optimizer.beta1_power)
    print("first moment: ", optimizer.moment1["w"][0])
    print("weight:       ", weight := device.asnumpy(w.data)[0])
    return weight


# %%
# Without the lock
# ----------------
# **Predict.** The first thread has read the step's number, 0, and is held up. The second makes its
# whole step meanwhile. Which number does it read? When both are done, what is ``global_step``, and
# what should it be? How many gradients are in the moments?

unlocked = race(use_locking=False)

# %%
# Two gradients went in, as the first moment shows: 0.1 x 2 from the quick thread, then 0.9 x 0.2 +
# 0.1 x 1 from the slow one, 0.28. But one step was counted. Both computed their step size for step
# 1; so the second update, whose moments have seen two gradients, got the bias correction of a
# first, and the weight has gone too far. The product of the betas, from which all later
# corrections follow, stays one factor behind. And nothing complained.
#
# With the lock
# -------------
# ``use_locking=True`` lets one call in at a time. **Predict.** The slow thread still waits, in the
# middle of its step, for the quick one to finish. Will the two wait for each other for ever?

locked = race(use_locking=True)

# %%
# No, but only because our schedule loses its patience after half a second: the quick thread stands
# in front of the door until then, and after that the steps follow each other. (A schedule that
# waits for another thread without a limit is a deadlock.)
#
# Is that the right result? It must be that of *some* order of the two, made by one thread:


def in_order(*gradients):
    """Make the steps one after the other; return the weight."""
    w = ao.Parameter(on_device(0.0), name="w")
    optimizer = ao.AdamOffload([w], learning_rate=0.1)
    for g in gradients:
        optimizer([on_device(g)])
    return device.asnumpy(w.data)[0]


orders = {"1, then 2": in_order(1.0, 2.0), "2, then 1": in_order(2.0, 1.0)}
for order, weight in orders.items():
    mark = "<- with the lock" if weight == locked else ""
    print(f"gradient {order}: {weight:.7f} {mark}")
print(f"without the lock:   {unlocked:.7f}")
print("is it one of them? ", unlocked in orders.values())
assert locked in orders.values()
assert unlocked not in orders.values()

# %%
# In the wild
# -----------
# Without a trick, it is chance that lets two threads meet. Python lets one run for a few
# milliseconds before another gets its turn, unless the first has to wait for something. Two threads
# make 300 steps each, with a gradient that is always 1, so that the order does not matter.
#
# **Predict.** With a gradient that never changes, every step of Adam is as long as the learning
# rate, 0.001 (:ref:`sphx_glr_tutorials_21_step_sizes_bias_epsilon.py`). Where is the weight after
# 600 steps?


def at_once(use_locking):
    """Let two threads make 300 steps each; return steps counted, weight."""
    w = ao.Parameter(on_device(0.0), name="w")
    optimizer = ao.AdamOffload([w], learning_rate=0.001, use_locking=use_locking)
    gradient = on_device(1.0)

    def work():
        for _ in range(300):
            optimizer([gradient])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return optimizer.global_step, float(device.asnumpy(w.data)[0])


for use_locking in (True, False):
    print("with the lock:" if use_locking else "without, three runs:")
    for _ in range(1 if use_locking else 3):
        steps, weight = at_once(use_locking)
        print(f"  {steps} steps counted, weight {weight:.4f}")
        if use_locking:
            assert steps == 600
            assert np.isclose(weight, -0.6, atol=1e-3)

# %%
# With the lock every run ends there: the build of this page asserts it. Without it the result is
# not defined, so nothing is asserted: what you see above is what happened this time. Fewer steps
# may be counted than were made. A weight above zero, if there is one, has gone *uphill*, which no
# lost count explains: the two threads share the staging slots, too, and where a second gradient
# arrives before the first update has gone up, the *gradient* is added to the weight.
#
# What the lock does not promise
# ------------------------------
# *Which* order it is. If the gradients differ, two runs of one program may end with different
# weights, both of them right. If every run must give the same bits, let one thread make the steps.
#
# The default is ``False``, as in the reference implementation, MindSpore: with one thread you need
# no lock, and with several you should decide what you want.
#
# Inside a step there are threads, too, which share the arithmetic. They never touch the same
# element, so they need no lock and leave no trace in the result: :doc:`/concepts/threads` shows it.
#
# **In one line:** a lock makes calls take turns; it does not say whose turn it is.
#
# Try it
# ------
# - Make the gradient 1,000. Adam's steps are as long as before; where do the weights end, if what
#   was said of the staging slots is right?
# - Where could a step be held up, other than in a schedule? Look for what the optimizer asks you
#   for in each step, and for what you may have made yourself: `adamoffload.AdamOffload`.
# - A gradient is computed from weights that another thread is just changing. Does the lock help
#   against that?
