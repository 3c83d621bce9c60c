r"""
The link: pageable, pinned, latency, chunk size
===============================================

Between host and device lies a link that is far slower than the device's own memory. We find its two
numbers by timing copies, see what pinned memory is good for, and find the best size of what crosses
it at once: first by a formula, then by trying, and then by a better formula.

You need :ref:`sphx_glr_tutorials_05_first_offloaded_step.py`. At the end you can predict the time
of a copy, and choose a chunk size for a link that you have never seen.
"""

# %%
# A link that can be measured
# ---------------------------
# A laptop has no such link, so we simulate one. A simulator discovers nothing about hardware: what
# we put in, we shall find again. That is the point. A method that finds two numbers which we know
# can be trusted with a link whose numbers we don't.
#
# What we put in, and from where:
#
# - the link: PCI Express 4.0 with 16 lanes promises 31.5 GB/s in each direction; 24.8 GB/s is what
#   `one user measured <https://forums.developer.nvidia.com/t/352186>`_ with NVIDIA's
#   ``nvbandwidth`` on an A100, one direction at a time. A copy takes 5 to 7 microseconds before its
#   first byte (`DualPath, 2026 <https://arxiv.org/abs/2602.21548>`_, section 5.2): we take 6;
# - the device: an A100 by its data sheet, 1,555 GB/s and 19.5 TFLOPS in float32, and one
#   microsecond for each operation (`Gray, 2019 <https://developer.nvidia.com/blog/cuda-graphs/>`_);
# - the host: Adam moves 24 bytes per parameter through the host's memory
#   (:ref:`sphx_glr_tutorials_22_one_equation_three_engines.py`), here at 100 GB/s. That is a server
#   with two processors (`Ren et al., 2021 <https://arxiv.org/abs/2101.06840>`_, table 4, implies 93
#   to 127); a desktop has half of it or less, and cards that share a host share this number, too.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload_sim import Device, Link

plt.rcParams.update(ao.plots.STYLE)

LINK = Link(bandwidth_bytes_per_s=24.8e9, latency_s=6e-6, pageable_penalty=2.4)
GPU = Device(bandwidth_bytes_per_s=1555e9, flops_per_s=19.5e12, launch_s=1e-6)
HOST_NS = 24 / 100  # bytes per parameter over bytes per nanosecond
device = ao.get_backend("sim", link=LINK, device=GPU, host_ns_per_parameter=HOST_NS)

ratio = GPU.bandwidth_bytes_per_s / LINK.bandwidth_bytes_per_s
print(f"the device's own memory is {ratio:.0f} times as fast as the link")

# %%
# To time a copy, we ask the device for its memory, and for pinned memory, as only the optimizer
# does otherwise: the names with an underscore are what a backend's author writes
# (:ref:`sphx_glr_tutorials_24_write_your_own_backend.py`). What *pinned* means comes below.


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
# bandwidth of the link, and which share does the small one reach? What would a copy of no bytes
# cost?

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
# the *bandwidth*. Both numbers can be read off the points, and they are the two that we put in.

t = times["pinned"]
bandwidth = (sizes[-1] - sizes[-2]) / (t[-1] - t[-2])
latency = t[0] - sizes[0] / bandwidth
print(f"bandwidth {bandwidth / 1e9:.2f} GB/s, latency {latency * 1e6:.1f} µs")
print(f"half of the bandwidth is reached at {latency * bandwidth / 1024:.0f} KiB")
assert np.isclose(bandwidth, LINK.bandwidth_bytes_per_s)
assert np.isclose(latency, LINK.latency_s)

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
# The bytes take 2.4 times as long, the latency is the same: small copies hardly notice. That factor
# is an input, too, `measured on a card of 2008 <boyer_>`_. It varies more than any other number on
# this page, since it depends on how fast one core copies: measure your own. Where a device can read
# the host's pageable memory by itself, as on NVIDIA's Grace Hopper, it is 1.
#
# .. _boyer: https://www.cs.virginia.edu/~mwb7w/cuda_support/memory_transfer_overhead.html
#
# Why not pin everything, then? Pinned memory is lost to the rest of the machine. Here the optimizer
# pins :doc:`its three staging slots </concepts/staging>` and nothing else, however large the model.
#
# How large should a chunk be?
# ----------------------------
# A step sends all gradients down and all updates up, in chunks. Small chunks pay the latency
# often. Large ones leave the host idle while the first is on its way, and the link idle while the
# last is updated. With :math:`n` bytes in chunks of :math:`c`, bandwidth :math:`B`, latency
# :math:`t_0` and a host that takes :math:`h` seconds a byte, one step takes about
#
# .. math::
#
#    \underbrace{\max(\ell,\ h c) \cdot n/c}_{\text{the longest lane}}
#    + \underbrace{2\,\ell}_{\text{first down, last up}}
#    \qquad\text{with}\quad \ell = t_0 + c/B,
#
# if next to nothing is left to do on the device.
#
# **Predict.** For which :math:`c` is that smallest? Begin with a host that takes longer than the
# link: what is left that depends on :math:`c`? How small can :math:`c` become before the other
# branch of the maximum takes over?
#
# - *The host is the longest lane*, :math:`hc > \ell`. The first term is :math:`hn`, whatever
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
# Now the numbers, for 32 MiB of gradients.

n = 32 << 20  # bytes of gradients
host_s_per_byte = HOST_NS * 1e-9 / 4
w = ao.Parameter(device.asarray(np.zeros(n // 4, np.float32)), name="w")
gradient = device.asarray(np.ones(n // 4, np.float32))


def step_seconds(chunk_bytes, slots=3):
    """Return the simulated time of a step."""
    optimizer = ao.AdamOffload([w], chunk_bytes=int(chunk_bytes), slots=slots)
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
print(f"there, the simulator says:    {step_seconds(best) * 1e3:.3f} ms")

# %%
# Is it the best? We try powers of two from 16 KiB to the whole in one chunk; and then, since the
# best need not be a power of two, every number of equal chunks around the prediction.

chunks = 2 ** np.arange(14, 26)
tried_s = np.array([step_seconds(c) for c in chunks])
finer = np.array([4 * -(-n // (4 * count)) for count in range(60, 141, 2)])  # rounded up
finer_s = np.array([step_seconds(c) for c in finer])

host_s = host_s_per_byte * n
blue = ao.plots.LINES[0]
curve = np.geomspace(chunks[0], chunks[-1], 500)
figure, axes = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
for ax, sizes, y in zip(axes, (chunks, finer), (tried_s, finer_s), strict=True):
    ax.plot(curve, predicted(curve) * 1e3, ":", color="black", label="formula")
    ax.plot(sizes, y * 1e3, "o", ms=4, color=blue, label="simulated")
    ax.axhline(host_s * 1e3, color=ao.plots.COLORS["host"], ls="--", label="host alone")
    ax.axvline(best, color="grey", linewidth=1.2, label="formula's best")
axes[0].set(title="A step of 8 million parameters", ylabel="simulated time (ms)")
size_axis(axes[0], "size of a chunk")
axes[0].set(xlim=(chunks[0] / 2, None), ylim=(0, None))
axes[0].legend()
ticks = [256, 320, 384, 448, 512]
axes[1].set_xticks([tick << 10 for tick in ticks], [str(tick) for tick in ticks])
axes[1].set(title="The same, from near by", xlabel="size of a chunk (KiB)")
axes[1].set(xlim=(finer[-1], finer[0]), ylim=(1.98, 2.3))
plt.show()

least = np.argmin(finer_s)
print(f"best tried: {finer[least] / 1024:.0f} KiB, {finer_s[least] * 1e3:.3f} ms")
assert finer_s[least] < step_seconds(best) / 1.02  # the formula's best is not the best
assert finer[least] > 1.1 * best

# %%
# The formula has the right shape and misses the bottom of it. On the left of its own best chunk it
# is close, on the right as well; just there the step takes longer than it says, and larger chunks
# are better.
#
# What the formula forgot
# -----------------------
# **Predict.** The optimizer has three slots, and each chunk keeps one from its way down until its
# update has been added on the device. How often can a slot be used again, at the most? Which time
# is missing from the maximum?
#
# A chunk comes down, is updated, goes up and is added: :math:`2\ell + hc + a`, with :math:`a` for
# the addition on the device. Three slots can start a chunk every third part of that, and no faster:
#
# .. math::
#
#    \max\Bigl(\ell,\ h c,\ \frac{2\ell + hc + a}{3}\Bigr) \cdot n/c + 2\ell + a
#
# Where the host is the longest lane, the new term is smaller if :math:`hc > \ell + a/2`. At the
# chunk that we predicted, :math:`hc` just equals :math:`\ell`, so it is not. Solve for the chunk at
# which it is, with an addition that takes one launch and three times the chunk's bytes (read the
# weights, read the update, write the weights):

launch, per_byte = GPU.launch_s, 3 / GPU.bandwidth_bytes_per_s


def with_ring(c, slots=3):
    """Return the better formula's time of a step."""
    copy_s, update_s, add_s = latency + c / bandwidth, host_s_per_byte * c, launch + per_byte * c
    ring_s = (2 * copy_s + update_s + add_s) / slots
    longest = np.maximum(np.maximum(copy_s, update_s), ring_s)
    return longest * n / c + 2 * copy_s + add_s


better = (latency + launch / 2) / (host_s_per_byte - 1 / bandwidth - per_byte / 2)
error = np.abs(with_ring(finer) / finer_s - 1).max()
print(f"predicted now: {better / 1024:.0f} KiB, {with_ring(better) * 1e3:.3f} ms")
print(f"best tried:    {finer[least] / 1024:.0f} KiB, {finer_s[least] * 1e3:.3f} ms")
print(f"over all {len(finer)} sizes, the new formula is off by at most {error:.1%}")
assert error < 0.005
assert abs(finer[least] / better - 1) < 0.05
for factor in (1 / 4, 1 / 2, 2, 4, 32):
    slower = step_seconds(better * factor) / step_seconds(better) - 1
    print(f"{factor:>5g} times that chunk: {slower:6.1%} slower")

# %%
# To its left is a cliff, where the latency of so many copies makes the link the longest lane. To
# its right is a wide valley. **In one line:** err on the large side; the default, 4 MiB, does.
# (This step is a short one. For a model of billions, first down and last up are a small part of the
# step.)
#
# Try it
# ------
# - *Easy.* A fourth slot: ``step_seconds(best, slots=4)``. What does it gain at the first
#   prediction, and what at the second?
# - *Medium.* ``Link(450e9, 6e-6)``, NVLink-C2C by its data sheet: where does the best chunk go?
# - *Medium.* A host five times as fast, ``HOST_NS = 0.048``: which lane is the longest then, and
#   which of the two formulas for :math:`c` holds?
# - *Hard.* Describe a link of your own, such as a network, and predict its best chunk before you
#   try.
#
# .. raw:: html
#
#    <details><summary>Hints and answers</summary>
#
# 1. *Hint: which term of the maximum has the slots in it?* About 3 % at the first, where the ring
#    is the limit; next to nothing at the second, where it no longer is. The next page shows why.
# 2. *Hint: put it into* ``better``. To about 112 KiB: with so much bandwidth, only the latency is
#    left to weigh against the host.
# 3. *Hint: compare h with 1/B.* The link, at any chunk. So the second: the root of :math:`t_0 n B /
#    2`, 1.5 MiB. The valley is flat there: 1 MiB costs 3 % more.
# 4. *Hint: two numbers are enough.* For 10 Gbit/s, 1.25 GB/s, and 50 microseconds, the link is the
#    longest lane, and the best chunk for 32 MiB is the root of 50e-6 x 33.6e6 x 1.25e9 / 2, 1 MiB.
#
# .. raw:: html
#
#    </details>
