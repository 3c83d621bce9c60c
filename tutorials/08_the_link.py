r"""
The link: pageable, pinned, latency, chunk size
===============================================

Between host and device lies a link that is ten to a hundred times slower than the memory at either
end. We find its two numbers by measurement, see what pinned memory is good for, and find the best
size of what crosses it at once, first by a formula and then by trying.

You need :ref:`sphx_glr_tutorials_03_first_offloaded_step.py`. At the end you can predict the time
of a copy, and choose a chunk size for a link that you have never seen.
"""

# %%
# A link that can be measured
# ---------------------------
# A laptop has no such link, so we simulate one: PCI Express 4.0 with 16 lanes, at its nominal
# bandwidth. The sources of all figures are in ``backends/adamoffload_sim/presets.py``. The clock
# is virtual; whoever runs this page gets the same numbers.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao

plt.rcParams.update(ao.plots.STYLE)

device = ao.get_backend("sim", link="pcie4x16", device="a100", host_ns_per_parameter=0.6)


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
figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
for (kind, t), color, marker in zip(times.items(), ao.plots.LINES, "os", strict=False):
    axes[0].loglog(sizes / 1024, t * 1e6, color=color, marker=marker, label=kind)
    axes[1].semilogx(sizes / 1024, sizes / t / 1e9, color=color, marker=marker, label=kind)
axes[0].set(title="Time of a copy", xlabel="size (KiB)", ylabel="simulated time (µs)")
axes[1].set(title="Bandwidth reached", xlabel="size (KiB)", ylabel="GB/s (simulated)")
axes[0].legend()
axes[1].legend()
plt.show()

# %%
# Two regimes. On the left every copy takes the same time, however small: that is the *latency*. On
# the right time is proportional to size: that is the *bandwidth*. Both numbers can be read off two
# points.

t = times["pinned"]
bandwidth = (sizes[-1] - sizes[-2]) / (t[-1] - t[-2])
latency = t[0] - sizes[0] / bandwidth
print(f"bandwidth {bandwidth / 1e9:.2f} GB/s, latency {latency * 1e6:.1f} µs")
print(f"half of the bandwidth is reached at {latency * bandwidth / 1024:.0f} KiB")

# %%
# Pinned and pageable
# -------------------
# The operating system may move ordinary memory about, even to disk. A device cannot copy from
# memory that may move, so the driver first copies it into a place of its own that may not, and the
# host waits meanwhile. Memory that is *pinned* stays where it is, and the device takes it by
# itself.
#
# **Predict.** From the two curves: by which factor is a large copy slower from pageable memory?
# And a very small one? Why are the factors different?

ratio = times["pageable"] / times["pinned"]
print(f"64 MiB: {ratio[-1]:.2f}; 1 KiB: {ratio[0]:.2f}")

# %%
# The bytes take 2.4 times as long, the latency is the same: small copies hardly notice. (The
# factor is one that was measured on a real card; on yours it will be another, but not one.)
#
# Why not pin everything, then? Pinned memory is lost to the rest of the machine. The optimizer
# pins its three staging slots and nothing else, however large the model.
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
# if nothing is left to do on the device. **Predict.** For which :math:`c` is that smallest, if the
# host is the longest lane? Take the derivative: what is left that depends on :math:`c`?

n = 32 << 20  # bytes of gradients
host_s_per_byte = 0.6e-9 / 4
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
    copy_s = latency + c / bandwidth
    return max(copy_s, host_s_per_byte * c) * n / c + 2 * copy_s


chunks = 2 ** np.arange(14, 26)
measured_s = np.array([step_seconds(int(c)) for c in chunks])
predicted_s = np.array([predicted(c) for c in chunks])

figure, ax = plt.subplots(figsize=(8, 4.4), layout="constrained")
ax.loglog(chunks / 1024, predicted_s * 1e3, color="black", linestyle=":", label="formula")
ax.loglog(chunks / 1024, measured_s * 1e3, color=ao.plots.LINES[0], marker="o", label="measured")
ax.axhline(host_s_per_byte * n * 1e3, color=ao.plots.LINES[1], linestyle="--", label="host alone")
ax.set(title="A step of 8 million parameters", xlabel="chunk (KiB)", ylabel="simulated time (ms)")
ax.legend()
plt.show()
best = int(np.argmin(measured_s))
print(f"best: chunks of {chunks[best] / 1024:g} KiB, {measured_s[best] * 1e3:.3f} ms")
for factor in (-2, -1, 1, 2, 5):
    slower = measured_s[best + factor] / measured_s[best] - 1
    print(f"{2.0**factor:>5g} times that: {slower:4.0%} slower")

# %%
# As long as the host is the longest lane, smaller chunks are better, since less of the two ends
# sticks out; until the latency of so many copies makes the link the longest lane, and the time
# shoots up. On that side there is a cliff, on the other a wide valley: chunks that are 32 times too
# large cost a few per cent. So one errs on the large side, and the default, 4 MiB, does.
#
# Try it
# ------
# - ``link="nvlink-c2c"``: which of the two numbers changes, and where does the best chunk go?
# - A host three times as fast: ``host_ns_per_parameter=0.2``. Which lane is the longest then?
# - Describe a link of your own, ``adamoffload_sim.Link(bandwidth_bytes_per_s=...,
#   latency_s=...)``, such as a network, and predict its best chunk before you measure.
