r"""
One equation, three engines
===========================

The same five lines of Adam are run in three ways: as they stand, as a program of in-place
operations on blocks that fit the cache, and as one compiled loop. The bits are equal; the speed is
not. We find out why by counting bytes.

You need :ref:`sphx_glr_tutorials_01_adam_by_hand.py`. At the end you can say why an optimizer step
is limited by memory and not by arithmetic, and estimate its time from a formula and two numbers.
"""

# %%
# As it stands
# ------------
# The rule is ordinary NumPy, in `adamoffload.adam.adam`. Each operation reads its operands and
# writes a new array.

import inspect
import time

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload.adam import adam, step_size

plt.rcParams.update(ao.plots.STYLE)

source = inspect.getsource(adam)
print(source[source.index("    m = beta1") : source.index("    if flush")])

# %%
# **Predict.** Count the operations on whole arrays: additions, multiplications, a root, a
# division. Each reads one or two arrays and writes one, 4 bytes an element each. About how many
# bytes does that move for a parameter? And how many *must* be moved: which arrays does the update
# read and write at the least?
#
# There are 11: three for *m*, four for *v*, four for the update. Seven of them have one array as
# an operand and four have two, and each writes one: 7 x 8 + 4 x 12 = 104 bytes. At the least the
# update must read *g*, *m* and *v*, and write *m*, *v* and itself: 24 bytes.
#
# As a program
# ------------
# The step compiler runs the rule once, with symbols for arrays, and writes down what is done to
# them. What depends on scalars alone is taken out, and each result goes into an array that is
# there already.

device = ao.get_backend("numpy")
n = 2_000_000
w = ao.Parameter(device.asarray(np.zeros(n, np.float32)), name="w")
optimizer = ao.AdamOffload([w], engine="numpy")
print(optimizer.program)

# %%
# That alone saves the new arrays, but not the traffic: with millions of parameters, each operation
# still finds its operands evicted from the cache by the one before. So the program is run on
# *blocks*, small enough that a block's *g*, *m*, *v* and scratch stay in the cache from the first
# operation to the last. Memory then sees the 24 bytes and little else.
#
# As one loop
# -----------
# With the extra ``fast``, Numba compiles the same program: one loop that reads *g*, *m*, *v* once,
# does everything in registers, and writes. Nothing of the mathematics is written a second time.

engines = ["numpy"]
try:
    import numba
except ImportError:
    print("Numba is not installed here; pip install 'adamoffload[fast]' adds the third engine")
else:
    print("Numba", numba.__version__)
    engines.append("numba")

# %%
# The same bits
# -------------

rng = np.random.default_rng(0)
g = rng.standard_normal(n).astype(np.float32)
gradient = device.asarray(g)

constants = {"beta1": np.float32(0.9), "beta2": np.float32(0.999), "eps": np.float32(1e-8)}
lr_t = step_size(np.float32(1e-3), constants["beta1"], constants["beta2"])
zero = np.zeros(n, np.float32)
delta, _, _ = adam(g, zero, zero, lr_t=lr_t, **constants)

for engine in engines:
    w = ao.Parameter(device.asarray(zero), name="w")
    ao.AdamOffload([w], engine=engine)([gradient])
    print(f"{engine}: equal bit by bit:", np.array_equal(device.asnumpy(w.data), delta))

# %%
# The speed
# ---------
# We measure in turns, since machines are noisy, and keep the fastest of each: what the machine can
# do when nobody disturbs it. The floor does no arithmetic at all. It only copies as many bytes as
# the update must read and write.


def textbook():
    """Run the rule as it stands."""
    state["m"], state["v"] = adam(g, state["m"], state["v"], lr_t=lr_t, **constants)[1:]


def floor():
    """Read three arrays and write three."""
    for array, copy in zip(arrays, copies, strict=True):
        np.copyto(copy, array)


def host_update(engine):
    """Return a function that times the update on the host, as the ledger has it."""
    w = ao.Parameter(device.asarray(zero), name="w")
    ledger = ao.Ledger()
    optimizer = ao.AdamOffload([w], engine=engine, ledger=ledger)

    def seconds():
        ledger.clear()
        optimizer([gradient])
        return ledger.seconds("update")

    return seconds


def timed(function):
    """Return a function that times another."""

    def seconds():
        begin = time.perf_counter()
        function()
        return time.perf_counter() - begin

    return seconds


state = {"m": zero, "v": zero}
arrays = [np.zeros(n, np.float32) for _ in range(3)]
copies = [np.zeros(n, np.float32) for _ in range(3)]
contenders = {"memory floor": timed(floor), "textbook": timed(textbook)}
contenders |= {f"engine {name!r}": host_update(name) for name in engines}
best = dict.fromkeys(contenders, np.inf)
for _ in range(9):
    for name, seconds in contenders.items():
        best[name] = min(best[name], seconds() / n * 1e9)
for name, ns in best.items():
    print(f"{name:<15} {ns:6.2f} ns a parameter, {24 / ns:5.1f} GB/s if it moved 24 bytes")

# %%

figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
names = list(best)[::-1]
bars = ax.barh(names, [best[name] for name in names], color=ao.plots.LINES[0])
ax.bar_label(bars, fmt="%.2f", padding=4)
ax.set(title="Time of one host update", xlabel="ns a parameter (less is better)")
ax.margins(x=0.12)
ax.grid(visible=False, axis="y")
plt.show()

# %%
# The floor uses one thread and the engines use all cores that they are given, which is how a loop
# that also computes can come close to a copy that does not. What counts is the ratio to the
# textbook.
#
# The arithmetic is a dozen operations a parameter; one core can do some ten thousand million of
# them a second. It is not what takes the time. Whoever wants a faster optimizer must move fewer
# bytes: that is why the update is written over the gradient, in the slot where it arrived, and not
# into an array of its own.
#
# Try it
# ------
# - ``n = 20_000``: everything fits the cache. Which of the three loses most of its disadvantage?
# - ``adamoffload bench`` measures your machine beside PyTorch, DeepSpeed and optax, if they are
#   installed, each in a process of its own.
# - Pass ``threads=1`` to the optimizers. Which engine gains more from the second thread, and why?
