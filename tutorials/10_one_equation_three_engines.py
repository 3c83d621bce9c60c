r"""
One equation, three engines
===========================

The same four lines of Adam are run in three ways: as they stand, as a program of in-place
operations on blocks that fit the cache, and as one compiled loop. The bits are equal; the speed is
not. We find out why by counting bytes.

You need :ref:`sphx_glr_tutorials_01_adam_by_hand.py`. At the end you can say why an optimizer step
is limited by memory and not by arithmetic, and estimate its time from a formula and two numbers.
"""

# %%
# As it stands
# ------------
# The rule is ordinary NumPy, in `adamoffload.rules.adam.adam`. Each operation reads its operands
# and writes a new array.

import inspect
import time

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload.rules.adam import adam, step_size

plt.rcParams.update(ao.plots.STYLE)

source = inspect.getsource(adam)
print(source[source.index("    m = beta1") : source.index("    return delta")])

# %%
# **Predict.** Count the operations on whole arrays: additions, multiplications, a root, a
# division. Each reads one or two arrays and writes one, 4 bytes an element each. About how many
# bytes does that move for a parameter? And how many *must* be moved: which arrays does the update
# read and write at the least?

one_operand, two_operands = 7, 4  # of 3 operations for m, 4 for v, 4 for the update
textbook_bytes = one_operand * (4 + 4) + two_operands * (4 + 4 + 4)
least_bytes = (4 + 4 + 4) + (4 + 4 + 4)  # read g, m, v; write the update, m, v
print(f"textbook: {textbook_bytes} bytes a parameter; at the least: {least_bytes}")

# %%
# Scalars do not count, and neither does what is computed of scalars alone. More than three quarters
# of the traffic are results on their way to the next operation.
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
# Eleven operations, as we counted. That alone saves the new arrays, but not the traffic: with
# millions of parameters, each operation still finds its operands evicted from the cache by the one
# before. So the program is run on *blocks*, small enough that a block's *g*, *m*, *v* and scratch
# stay in the cache from the first operation to the last. Memory then sees the 24 bytes and little
# else.
#
# As one loop
# -----------
# With the extra ``fast``, Numba compiles the same program: one loop that reads *g*, *m*, *v* once,
# does everything in registers, and writes. Nothing of the mathematics is written a second time.

engines = ["numpy"]
try:
    import numba
except ImportError:
    print("not installed: pip install 'adamoffload[fast]' adds the third engine")
else:
    print("Numba", numba.__version__)
    engines.append("numba")

# %%
# The same bits
# -------------

rng = np.random.default_rng(0)
g = rng.standard_normal(n).astype(np.float32)
gradient = device.asarray(g)

beta1, beta2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
constants = {"beta1": beta1, "beta2": beta2, "eps": eps}
lr_t = step_size(np.float32(1e-3), beta1, beta2)  # of the first step
zero = np.zeros(n, np.float32)
delta, _, _ = adam(g, zero, zero, lr_t=lr_t, **constants)

for engine in engines:
    w = ao.Parameter(device.asarray(zero), name="w")
    ao.AdamOffload([w], engine=engine)([gradient])
    updated = device.asnumpy(w.data)  # it began at zero
    print(f"{engine}: equal bit by bit:", np.array_equal(updated, delta))

# %%
# The speed
# ---------
# We measure in turns, since machines are noisy, and keep the fastest of each: what the machine can
# do when nobody disturbs it. Two more take part, to see what the time goes into. The *floor* does
# no arithmetic at all. It only copies as many bytes as the update must read and write. And *in
# cache* is the textbook again, the same code, on so few parameters that everything stays in the
# cache: as much arithmetic a parameter, but no traffic to memory.
#
# **Predict.** If arithmetic is what takes the time, how will *in cache* compare with the textbook?
# And if it is memory?


def textbook(size):
    """Return a function that times the rule as it stands, on pieces of a size."""
    few, state = g[:size], {"m": zero[:size], "v": zero[:size]}

    def run():
        for _ in range(n // size):
            result = adam(few, state["m"], state["v"], lr_t=lr_t, **constants)
            state["m"], state["v"] = result[1:]

    return timed(run)


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


# %%
# Nine rounds, in each of them everybody once:

arrays = [np.zeros(n, np.float32) for _ in range(3)]
copies = [np.zeros(n, np.float32) for _ in range(3)]
contenders = {"textbook": textbook(n)}
contenders |= {f"engine {name!r}": host_update(name) for name in engines}
contenders |= {"memory floor": timed(floor), "textbook in cache": textbook(8_000)}
best = dict.fromkeys(contenders, np.inf)
for _ in range(9):
    for name, seconds in contenders.items():
        best[name] = min(best[name], seconds() / n * 1e9)
for name, ns in best.items():
    faster = best["textbook"] / ns
    print(f"{name:<18} {ns:6.2f} ns a parameter, {faster:4.1f} times as fast")

# %%

colors = dict.fromkeys(best, ao.plots.LINES[0])
colors["memory floor"] = colors["textbook in cache"] = "grey"
figure, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
names = list(best)[::-1]
bars = ax.barh(names, [best[x] for x in names], color=[colors[x] for x in names])
ax.bar_label(bars, fmt="%.2f", padding=4)
ax.set(title="Time of one host update", xlabel="ns a parameter (less is better)")
ax.margins(x=0.12)
ax.grid(visible=False, axis="y")
plt.show()

# %%
# Look at the grey bars, which are no contenders. The textbook and the textbook in the cache are the
# same code on as many numbers; what lies between them is memory and nothing else. So it is the
# traffic of intermediate results that an engine has to save, and that a block in the cache, or a
# loop that keeps them in registers, does save. An estimate needs no more than the bytes, and the
# bandwidth that the floor has reached:

bandwidth = least_bytes / best["memory floor"]  # bytes per ns, or GB/s
print(f"the floor reaches {bandwidth:.1f} GB/s")
print(f"textbook, predicted: {textbook_bytes / bandwidth:.2f} ns a parameter")
print(f"textbook, measured:  {best['textbook']:.2f}")

# %%
# It is an estimate. The formula leaves out that each result of the textbook is a new array, for
# which the operating system has to find memory and clear it, which takes longer; and that some of a
# result is still in the cache when it is used, which saves time. Which of the two prevails depends
# on the machine.
#
# The floor and the textbook use one thread, and the engines use all cores that they are given. That
# is how a loop that also computes can come close to a copy that does not.
#
# Whoever wants a faster optimizer must move fewer bytes. That is why the update is written over the
# gradient, in the slot where it arrived, and not into an array of its own.
#
# Try it
# ------
# - What does a new array cost? Time ``np.add(g, g)`` and ``np.add(g, g, out=copies[0])``.
# - ``adamoffload bench`` measures your machine beside PyTorch, DeepSpeed and optax, if they are
#   installed, each in a process of its own.
# - Pass ``threads=1`` to the optimizers. Which engine loses more, and why?
