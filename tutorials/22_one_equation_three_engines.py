r"""
One equation, three engines
===========================

The same four lines of Adam are run in three ways: as they stand, as a program of in-place
operations on blocks that fit the cache, and as one compiled loop. The bits are equal; the speed is
not. We find out where the time goes by counting bytes, and by taking away one cost after the other.

You need :ref:`sphx_glr_tutorials_03_adam_by_hand.py`. At the end you can estimate the time of an
optimizer step from its bytes and one measured number, and say when that estimate holds.
"""

# %%
# As it stands
# ------------
# The rule is ordinary NumPy, in `adamoffload.rules.adam.adam`. Each operation reads its operands
# and writes a new array.

import inspect
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from adamoffload import plots
from adamoffload.engine.kernel import NumpyKernel, kernel_type
from adamoffload.engine.program import trace
from adamoffload.rules.adam import adam, step_size

plt.rcParams.update(plots.STYLE)

source = inspect.getsource(adam)
print(source[source.index("    m = beta1") : source.index("    return delta")])

# %%
# As a program
# ------------
# The step compiler runs the rule once, with symbols for arrays, and writes down what is done to
# them. What depends on scalars alone is taken out, and each result goes into an array that is
# there already.

program = trace(adam, ("g", "m", "v"), ("lr_t", "beta1", "beta2", "eps"))
print(program)
assert program.passes == 11

# %%
# **Predict.** Each of the eleven operations goes over whole arrays of 4 bytes per element. How many
# bytes does it move: for ``m = multiply(beta1, m)``, for ``m = add(m, s0)``, and for ``s0 =
# sqrt(v)``? Memory is read and written in lines of 64 bytes, and a processor that is to write a
# line reads it first, unless it has it already.
#
# So the first one reads *m* and writes it, 8 bytes. The second reads *s0* as well, 12. The third
# reads *v*, writes *s0*, and has to read *s0* first: 12 again. And how many bytes *must* be moved,
# if nothing but *g*, *m*, *v* is read once and written once?


def traffic(program):
    """Return the bytes per element, if each operation finds nothing in the cache."""
    arrays = {i for i, r in enumerate(program.registers) if r.kind in ("array", "scratch")}
    lines = [({*line.operands} & arrays) | {line.result} for line in program.body]
    return sum(4 * len(read) + 4 for read in lines)  # all are read, one is written


whole_bytes, least_bytes = traffic(program), program.bytes_per_element
print(f"operation by operation: {whole_bytes} bytes per parameter; at the least: {least_bytes}")
assert (whole_bytes, least_bytes) == (120, 24)

# %%
# Four fifths of the traffic are results on their way to the next operation. So the engine runs the
# program on *blocks*, small enough that a block stays in the cache from the first operation to the
# last. Memory then sees the 24 bytes and little else.
#
# As one loop
# -----------
# With the extra ``fast``, Numba compiles the same program: one loop that reads *g*, *m*, *v* once,
# does everything in registers, and writes. Nothing of the mathematics is written a second time.

engines = {"numpy": NumpyKernel}
try:
    engines["numba"] = kernel_type("tutorial", "numba")
except ImportError:
    print("not installed: pip install 'adamoffload[fast]' adds the third engine")
print("engines:", *engines)

# %%
# The same bits
# -------------
# The arrays must be far larger than any cache, or memory is not what we measure. Where the system
# tells the size of the last-level cache, we take four times that for *g*, *m* and *v*, and at least
# 192 MiB.

cache = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
last_level = int(cache.read_text().rstrip("K\n")) << 10 if cache.exists() else 0
n = min(max(16 << 20, last_level // 3), 64 << 20)
print(f"{n:,} parameters: g, m and v are {12 * n >> 20} MiB")
if last_level:
    print(f"that is {12 * n / last_level:.0f} times the last-level cache, {last_level >> 20} MiB")

rng = np.random.default_rng(0)
g = rng.standard_normal(n, np.float32)
beta1, beta2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
lr_t = step_size(np.float32(1e-3), beta1, beta2)  # of the first step
scalars = {"lr_t": lr_t, "beta1": beta1, "beta2": beta2, "eps": eps}

few = g[: 1 << 20].copy()
zero = np.zeros_like(few)
expected = adam(few, zero, zero, **scalars)
for name, kernel_of in engines.items():
    kernel = kernel_of(program)
    got = few.copy(), zero.copy(), zero.copy()
    for i in range(0, few.size, kernel.block_size):
        block = [array[i : i + kernel.block_size] for array in got]
        kernel(block, program.bind(scalars), kernel.scratch())
    equal = all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
    print(f"{name}: equal bit by bit: {equal}")
    assert equal

# %%
# Where the time goes
# -------------------
# From the textbook to a loop that only moves the bytes, we take away one cost at a time. All use
# one thread and the same arrays:
#
# 1. *textbook*: each operation makes a new array, for which the system finds memory and clears it;
# 2. *in place*: the program, on whole arrays: nothing is allocated;
# 3. *engine "numpy"*: the same operations, on blocks;
# 4. *in the cache*: the same operations, always on the same block, so that no memory is needed;
# 5. *engine "numba"*: one loop;
# 6. *24 bytes alone*: the compiler is given a rule that reads and writes *g*, *m*, *v* and only
#    changes their signs. It is the bare traffic.
#
# **Predict.** If memory is what takes the time of *in place*, what should its time be, in units of
# the bare traffic? And what should *in the cache* be, next to *in place*?

m, v, scratch = (np.zeros(n, np.float32) for _ in range(3))
values = program.bind(scalars)
signs = trace(lambda g, m, v: (-g, -m, -v), ("g", "m", "v"), ())
other = [np.ones(n, np.float32) for _ in range(3)]


def textbook():
    adam(g, m, v, **scalars)


def in_place():
    NumpyKernel(program)([g, m, v], values, [scratch])


def in_cache():
    kernel = NumpyKernel(program)
    size, buffer = 1 << 15, kernel.scratch()
    for _ in range(n // (16 * size)):  # afresh, before the gradients fade into the denormals
        block = few[:size].copy(), zero[:size].copy(), zero[:size].copy()
        for _ in range(16):
            kernel(block, values, buffer)


def on_blocks(kernel, arrays, values):
    """Return a function that runs a program, block by block."""
    buffer, size = kernel.scratch(), kernel.block_size

    def run():
        for i in range(0, n, size):
            kernel([array[i : i + size] for array in arrays], values, buffer)

    return run


contenders = {"textbook": textbook, "in place": in_place}
contenders["engine 'numpy'"] = on_blocks(NumpyKernel(program), [g, m, v], values)
contenders["in the cache"] = in_cache
if "numba" in engines:
    contenders["engine 'numba'"] = on_blocks(engines["numba"](program), [g, m, v], values)
fastest = list(engines.values())[-1]
contenders["24 bytes alone"] = on_blocks(fastest(signs), other, signs.bind({}))

# %%
# We measure in turns, since machines are noisy, and keep the fastest of each: what the machine can
# do when nobody disturbs it.

best = dict.fromkeys(contenders, np.inf)
for _ in range(6):
    for name, function in contenders.items():
        begin = time.perf_counter()
        function()
        best[name] = min(best[name], (time.perf_counter() - begin) / n * 1e9)
for name, ns in best.items():
    print(f"{name:<16} {ns:6.2f} ns per parameter")

# %%

figure, ax = plt.subplots(figsize=(9, 3.6), layout="constrained")
names = list(best)[::-1]
reference = ("in the cache", "24 bytes alone")  # these are no ways to do a step
colors = ["#999999" if name in reference else plots.COLORS["host"] for name in names]
bars = ax.barh(names, [best[name] for name in names], color=colors)
ax.bar_label(bars, fmt="%.2f", padding=4)
ax.set(title="Time of one host update, one thread", xlabel="ns per parameter (less is better)")
ax.margins(x=0.12)
ax.grid(visible=False, axis="y")
plt.show()

# %%
# What these bars say depends on the machine, so the page computes it where it is built:

bandwidth = least_bytes / best["24 bytes alone"]  # bytes per ns, or GB/s
arithmetic = best["in the cache"]
memory = whole_bytes / bandwidth
print(f"memory gives one thread about {bandwidth:.0f} GB/s")
print(f"in place, predicted by its {whole_bytes} bytes: {memory:.2f} ns")
print(f"in place, measured:                   {best['in place']:.2f} ns")
print("of the textbook's time:")
costs = {
    "new arrays": best["textbook"] - best["in place"],
    "traffic to memory": best["in place"] - arithmetic,
    "arithmetic, and calls of NumPy": arithmetic,
}
for cost, ns in costs.items():
    print(f"  {ns / best['textbook']:4.0%} {cost}")
for name in engines:
    ratio = best[f"engine '{name}'"] / best["24 bytes alone"]
    print(f"engine {name!r} takes {ratio:.1f} times as long as its bytes alone")

# %%
# Read it from the last line up. A ratio near 1 says that the compiled loop hides its arithmetic
# behind the memory, so that its time is that of its bytes: only for such a loop is an optimizer
# step "limited by memory". (Two fastest runs of a few may differ by some per cent.) NumPy's
# operations cost their arithmetic and their calls even if everything is in the cache, so blocks
# cannot do better than that. And a textbook step pays for memory and for new arrays; the
# percentages say how much.
#
# The build of this page asserts what is true on every machine: the bits, the operations, and the
# bytes. The times are shown, and the sentences with percentages are computed from them.
#
# **In one line:** to speed up the optimizer, move fewer bytes, and allocate nothing. That is why
# the update is written over the gradient, in the slot where it arrived.
#
# Try it
# ------
# - What does a new array cost? Time ``np.add(g, g)`` and ``np.add(g, g, out=scratch)``.
# - Make ``n`` as small as 100,000. Which two bars become one, and why?
# - `adamoffload.engine.team.Workers` shares the blocks among threads. How much faster are two
#   threads, with each engine? And the 24 bytes alone?
# - ``adamoffload bench`` measures your machine beside PyTorch, DeepSpeed and optax, if they are
#   installed, each in a process of its own.
