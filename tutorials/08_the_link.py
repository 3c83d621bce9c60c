r"""
The link: pageable, pinned, latency, chunk size
===============================================

Between host and device lies a link that is far slower than the device's own memory. We find its two
numbers by measurement, see what pinned memory is good for, and find the best size of what crosses
it at once, first by a formula and then by trying.

You need :ref:`sphx_glr_tutorials_03_first_offloaded_step.py`. At the end you can predict the time
of a copy, and choose a chunk size for a link that you have never seen.
"""

# %%
# A link that can be measured
# ---------------------------
# A laptop has no such link, so we simulate one: PCI Express 4.0 with 16 lanes, at its nominal
# bandwidth, to a device as large as NVIDIA's A100. The sources of all figures are in
# ``backends/adamoffload_sim/presets.py``. The clock is virtual; whoever runs this page gets the
# same numbers.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload_sim import DEVICES, LINKS

plt.rcParams.update(ao.plots.STYLE)

HOST_NS = 0.6  # what Adam takes on the host for a parameter
device = ao.get_backend(
    "sim",
    link="pcie4x16",
    device="a100",
    host_ns_per_parameter=HOST_NS,
)
over = LINKS["pcie4x16"].bandwidth_bytes_per_s
inside = DEVICES["a100"].bandwidth_bytes_per_s
print(f"over the link:          {over / 1e9:7,.1f} GB/s")
print(f"in the device's memory: {inside / 1e9:7,.1f} GB/s", end=", ")
print(f"{inside / over:.0f} times as much")

# %%
# To time a copy, we ask the device for its memory, and for pinned memory, as only the optimizer
# does otherwise: the names with an underscore are what a backend's author writes
# (:ref:`sphx_glr_tutorials_13_write_your_own_backend.py`). What *pinned* means comes below.


def seconds(nbytes, *, pinned):
    """Return how long a copy from the host to the device takes."""
    if pinned:
        source = device._empty_pinned(nbytes // 4, np.dtype(np.float32))
    else:
        source = np.empty(nbytes // 4, np.float32)
    source[:] = 0
    target = device._empty((nbytes // 4,), np.dtype(np.float32))
    return device.h2d(source, target).seconds


# %%
# **Predict.** A copy of 4 KiB and one of 64 MiB: which of the two reaches a larger part of the
# bandwidth of the link? What would a copy of no bytes cost?

sizes = 4 ** np.arange(5, 14)  # 1 KiB to 64 MiB
times = {
    "pinned": np.array([seconds(int(size), pinned=True) for size in sizes]),
    "pageable": np.array([seconds(int(size), pinned=False) for size in sizes]),
}


def size_axis(ax, what):
    """Write powers of two as one says them."""
    ax.set_xscale("log", base=2)
    ticks = [1 << 10, 1 << 15, 1 << 20, 1 << 25]
    ax.set_xticks(ticks, ["1 KiB", "32 KiB", "1 MiB", "32 MiB"])
    ax.set_xlabel(what)


figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
for kind, color, marker in zip(times, ao.plots.LINES, "os", strict=False):
    t = times[kind]
    style = {"color": color, "marker": marker, "label": kind}
    axes[0].plot(sizes, t * 1e6, **style)
    axes[1].plot(sizes, sizes / t / 1e9, **style)
axes[0].set(title="Time of a copy", ylabel="simulated time (µs)", yscale="log")
axes[1].set(title="Bandwidth reached", ylabel="GB/s (simulated)")
for ax in axes:
    size_axis(ax, "size of the copy")
    ax.legend()
plt.show()

# %%
# The large copy comes close to the link's bandwidth, the small one gets next to nothing of it.
# There are two regimes. On the left every copy takes about the same time, however small, and so
# would one of no bytes: that is the *latency*. On the right time is proportional to size: that is
# the *bandwidth*. Both numbers can be read off the points.

t = times["pinned"]
bandwidth = (sizes[-1] - sizes[-2]) / (t[-1] - t[-2])
latency = t[0] - sizes[0] / bandwidth
print(f"bandwidth {bandwidth / 1e9:.2f} GB/s, latency {latency * 1e6:.1f} µs")
print(f"half of the bandwidth is reached at {latency * bandwidth / 1024:.0f} KiB")

# %%
# Pinned and pageable
# -------------------
# The operating system may move ordinary memory about, even to disk. A device cannot copy from
# memory that may move, so the driver first copies it into a place of its own that may not (`Harris,
# 2012 <https://developer.nvidia.com/blog/how-optimize-data-transfers-cuda-cc/>`_). Memory that is
# *pinned* stays where it is, and the device takes it by itself.
#
# **Predict.** From the two curves: by which factor is a large copy slower from pageable memory?
# And a very small one? Why are the factors different?

ratio = times["pageable"] / times["pinned"]
print(f"64 MiB: {ratio[-1]:.2f}; 1 KiB: {ratio[0]:.2f}")

# %%
# The bytes take 2.4 times as long, the latency is the same: small copies hardly notice. (The factor
# was measured on a real card; yours has another one. Where a device can read the host's pageable
# memory by itself, as behind the link ``"nvlink-c2c"``, it is 1.)
#
# Why not pin everything, then? Pinned memory is lost to the rest of the machine. The optimizer pins
# :doc:`its three staging slots </concepts/staging>` and nothing else, however large the model.
#
# How large should a chunk be?
# ----------------------------
# A step sends all gradients down and all updates up, in chunks. Small chunks pay the latency
# often. Large ones leave the host idle while the first is on its way, and the link idle when the
# last is being updated. With :math:`n` bytes in chunks of :math:`c`, bandwidth :math:`B`, latency
# :math:`t_0` and a host that takes :math:`h` seconds a byte, one step takes about
#
# .. math::
#
#    \underbrace{\max\bigl(t_0 + c/B,\ h c\bigr) \cdot n/c}_{\text{the longest lane}}
#    + \underbrace{2\,(t_0 + c/B)}_{\text{first down, last up}}
#
# if next to nothing is left to do on the device.
#
# **Predict.** For which :math:`c` is that smallest? Begin with a host that takes longer than the
# link: what is left that depends on :math:`c`? How small can :math:`c` become before the other
# branch of the maximum takes over?
#
# - *The host is the longest lane*, :math:`hc > t_0 + c/B`. The first term is :math:`hn`, whatever
#   the chunk. Only the ends depend on it, and smaller is better, down to where the lanes are equal:
#
#   .. math:: c = \frac{t_0}{h - 1/B}
#
# - *The link is the longest lane*. What depends on :math:`c` is :math:`t_0 n/c + 2c/B`. Its
#   derivative is zero at
#
#   .. math:: c = \sqrt{t_0\, n B / 2}
#
# Small chunks belong to the second branch, large ones to the first, if :math:`h > 1/B`; so the best
# chunk is the smaller of the two. Otherwise the link is always the longest lane, and it is the
# second.
#
# Now the numbers. The host of our device takes 0.6 ns for a parameter of 4 bytes.

n = 32 << 20  # bytes of gradients
host_s_per_byte = HOST_NS * 1e-9 / 4
w = ao.Parameter(device.asarray(np.zeros(n // 4, np.float32)), name="w")
gradient = device.asarray(np.ones(n // 4, np.float32))


def step_seconds(chunk_bytes):
    """Return the simulated time of a step."""
    optimizer = ao.AdamOffload([w], chunk_bytes=chunk_bytes)
    device.synchronize()
    begin = device.now()
    optimizer([gradient])
    device.synchronize()
    return device.now() - begin


def predicted(c):
    """Return the formula's time of a step."""
    copy_s = latency + c / bandwidth
    return np.maximum(copy_s, host_s_per_byte * c) * n / c + 2 * copy_s


best = np.sqrt(latency * n * bandwidth / 2)
if host_s_per_byte > 1 / bandwidth:
    best = min(best, latency / (host_s_per_byte - 1 / bandwidth))
print(f"predicted best: {best / 1024:.0f} KiB, {predicted(best) * 1e3:.3f} ms")

# %%
# Is it? We try all powers of two from 16 KiB to the whole of it in one chunk.

chunks = 2 ** np.arange(14, 26)
measured_s = np.array([step_seconds(int(c)) for c in chunks])

host_s = host_s_per_byte * n
blue, red = ao.plots.LINES[:2]
curve = np.geomspace(chunks[0], chunks[-1], 300)
figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
ax.plot(curve, predicted(curve) * 1e3, ":", color="black", label="formula")
ax.plot(chunks, measured_s * 1e3, "o", color=blue, label="measured")
ax.axhline(host_s * 1e3, color=red, linestyle="--", label="host alone")
ax.axvline(best, color="grey", linewidth=1.2, label="predicted best chunk")
ax.set(title="A step of 8 million parameters", ylabel="simulated time (ms)")
ax.set_ylim(0, None)
size_axis(ax, "size of a chunk")
ax.set_xlim(chunks[0] / 2, None)
ax.legend()
plt.show()

least = int(np.argmin(measured_s))
print(f"best tried: {chunks[least] / 1024:g} KiB, {measured_s[least] * 1e3:.3f} ms")
for factor in (1 / 4, 1 / 2, 2, 4, 32):
    slower = step_seconds(int(chunks[least] * factor)) / measured_s[least] - 1
    print(f"{factor:>5g} times that: {slower:6.1%} slower")

# %%
# The formula was right: the best of the sizes tried is the first power of two above the predicted
# one. To its left is a cliff, where the latency of so many copies makes the link the longest lane.
# To its right is a wide valley: chunks that are 32 times too large cost a few per cent. So one errs
# on the large side, and the default, 4 MiB, does.
#
# Try it
# ------
# - ``link="nvlink-c2c"``: which of the two numbers changes, and where does the best chunk go?
# - A host five times as fast, ``HOST_NS = 0.12``: which lane is the longest then, and which of the
#   two formulas holds?
# - Describe a link of your own, ``adamoffload_sim.Link(bandwidth_bytes_per_s=..., latency_s=...)``,
#   such as a network, and predict its best chunk before you measure.
