r"""
Overlap on a timeline
=====================

A step takes longer than its longest part and less than the sum of its parts. Where between the two
it comes to lie is decided by who waits for whom. We look at that, lane by lane.

You need :ref:`sphx_glr_tutorials_09_the_link.py`. At the end you can read a timeline, name the
lane that limits a step, and say how many slots the ring must have.
"""

# %%
# Four lanes
# ----------
# The device, the link downwards, the host and the link upwards can all work at the same time, as
# long as they work on different chunks. A simulated device shows it without noise: times are
# virtual, the same everywhere. It is the one of the last page, with its sources: a link of 24.8
# GB/s and 6 microseconds, an A100, and a host whose memory gives Adam 100 GB/s.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload_sim import Device, Link

plt.rcParams.update(ao.plots.STYLE)

LINK = Link(bandwidth_bytes_per_s=24.8e9, latency_s=6e-6)
GPU = Device(bandwidth_bytes_per_s=1555e9, flops_per_s=19.5e12, launch_s=1e-6)
HOST_NS = 24 / 100  # bytes per parameter over bytes per nanosecond

n = 2 << 20  # parameters
CHUNK = 1 << 20  # bytes: eight chunks


def one_step(chunk_bytes=CHUNK, *, slots=3, host_ns=HOST_NS, link=LINK):
    """Make a step on a new device; return its ledger."""
    device = ao.get_backend("sim", link=link, device=GPU, host_ns_per_parameter=host_ns)
    w = ao.Parameter(device.asarray(np.zeros(n, np.float32)), name="w")
    gradient = device.asarray(np.ones(n, np.float32))
    device.synchronize()
    ledger = ao.Ledger()
    ao.AdamOffload([w], ledger=ledger, chunk_bytes=chunk_bytes, slots=slots)([gradient])
    device.synchronize()
    return ledger


def step_ms(ledger):
    begin, end = ledger.step_times()[0]
    return (end - begin) * 1e3


def draw(ledger):
    _, ax = plt.subplots(figsize=(11, 4.2), layout="constrained")
    ao.plots.timeline(ledger, ax=ax)
    plt.show()


# %%
# One chunk
# ---------
# First everything in one piece. **Predict.** What will the picture look like?

whole = one_step(4 * n)
draw(whole)

# %%
# A staircase: each waits for the one before. The step takes the sum of its parts.
#
# Eight chunks
# ------------
# Now in eight. While the host updates chunk 0, chunk 1 can come down; while chunk 0 goes up, the
# host updates chunk 1. **Predict.** The host needs 0.24 ns for each of the 2 million parameters,
# and a chunk of 1 MiB takes 48 microseconds over the link. How long does the step take now, about?
# Which lane has no gaps?

chunked = one_step()
draw(chunked)

# %%
# The host has no gaps, from its first chunk to its last. All the others are hidden behind it, but
# for the two ends: the first chunk has to come down before the host can begin (*fill*), and the
# last one has to go up and be added after it has finished (*drain*).

host_ms = HOST_NS * n * 1e-6
copy_ms = chunked.seconds("d2h") / 8 * 1e3
add_ms = chunked.events[-1].seconds * 1e3
predicted = copy_ms + host_ms + copy_ms + add_ms  # first down, host, last up, add
print(f"predicted:    {predicted:.4f} ms")
print(f"simulated:    {step_ms(chunked):.4f} ms")
print(f"in one piece: {step_ms(whole):.4f} ms")
assert np.isclose(predicted, step_ms(chunked), rtol=1e-3)

# %%
# How many slots?
# ---------------
# A chunk needs a place in memory on its way, a *slot*, on the device and on the host. It keeps the
# slot until its update has been added; then another chunk may have it.
#
# **Predict.** The ring has three slots. What would the same step take with one slot, with two, with
# four? Which lanes can work at the same time if only two chunks are on their way?

for slots in (1, 2, 3, 4):
    print(f"slots: {slots}, step: {step_ms(one_step(slots=slots)):.4f} ms")
assert step_ms(one_step(slots=2)) > 1.15 * step_ms(one_step(slots=3))
assert np.isclose(step_ms(one_step(slots=3)), step_ms(one_step(slots=4)))

# %%
# With one slot nothing overlaps, although there are eight chunks: the time is the one *in sequence*
# of the picture. With two, only two of the three lanes work at a time. With three, one chunk comes
# down, one is updated, one goes up, and a fourth slot gains nothing. So three suffice?
#
# **Predict.** The last page found that a chunk of 298 KiB makes link and host equally long. Which
# lane limits the step there, with three slots? Does a fourth one help?

balanced = int(LINK.latency_s / (HOST_NS * 1e-9 / 4 - 1 / LINK.bandwidth_bytes_per_s))
for slots in (2, 3, 4, 5):
    ledger = one_step(balanced, slots=slots)
    print(f"slots: {slots}, step of {balanced / 1024:.0f} KiB chunks: {step_ms(ledger):.4f} ms")
draw(one_step(balanced))

# %%
# No lane is full! Every one has gaps, and a fourth slot closes them. When chunk 3 could come down,
# chunk 0 is back on the device, but not yet *added*: its slot is still taken, and the link pauses
# for the few microseconds of the addition.
#
# In numbers: with a copy of :math:`\ell`, an update of :math:`u` and an addition of :math:`a`, a
# slot is taken for :math:`2\ell + u + a`, so :math:`k` slots take in a chunk every :math:`(2\ell +
# u + a)/k`. They suffice if that is no longer than the longest lane:
#
# .. math:: k \cdot \max(\ell, u) \ge 2\ell + u + a
#
# With three slots, a host that is the longest lane must be longer than the link by
# :math:`a/2`; a link that is the longest must be longer than the host by :math:`a`. Where link and
# host are *equal*, three are never enough, and four are.


def enough(slots, chunk_bytes):
    """Return whether so many slots keep the longest lane full."""
    copy_s = LINK.seconds(chunk_bytes, pinned=True)
    update_s = HOST_NS * 1e-9 * chunk_bytes / 4
    add_s = GPU.seconds(nbytes=3 * chunk_bytes, flops=chunk_bytes // 4)
    return slots * max(copy_s, update_s) >= 2 * copy_s + update_s + add_s


print("chunk     the rule says     step, with three and four slots")
for chunk in (balanced // 2, balanced, int(1.2 * balanced), CHUNK):
    says = "three suffice" if enough(3, chunk) else "four needed"
    three, four = (step_ms(one_step(chunk, slots=slots)) for slots in (3, 4))
    print(f"{chunk / 1024:5.0f} KiB {says:>17}    {three:.4f} ms, {four:.4f} ms")
    assert enough(3, chunk) == (three < 1.005 * four)
    assert enough(4, chunk)

# %%
# **In one line:** the longest lane rules, if the slots suffice. The default is three slots, since
# its chunks of 4 MiB are far from the balance, and a fourth costs memory on both sides.
#
# When the link is the longest
# ----------------------------
# The same step with a link of half the speed, 12 GB/s, as PCI Express 3.0 reaches, and a host with
# memory twice as fast. **Predict.** Which lane has no gaps now? And what does the host do most of
# the time?

SLOW = Link(bandwidth_bytes_per_s=12e9, latency_s=6e-6)
narrow = one_step(host_ns=HOST_NS / 2, link=SLOW)
draw(narrow)

# %%
# The link, in both directions; the host waits, where it is hatched. **Predict.** You may make the
# host twice as fast, or the link. What does the step gain from the one, and from the other?

fast_host = step_ms(one_step(host_ns=HOST_NS / 4, link=SLOW))
fast_link = step_ms(one_step(host_ns=HOST_NS / 2, link=Link(24e9, 6e-6)))
print(f"as it is:           {step_ms(narrow):.4f} ms")
print(f"host twice as fast: {fast_host:.4f} ms")
print(f"link twice as fast: {fast_link:.4f} ms")
assert fast_host > 0.95 * step_ms(narrow)
assert fast_link < 0.6 * step_ms(narrow)

# %%
# The faster host saves its part of the last chunk and nothing else; the faster link nearly halves
# the step. Reading off which lane is full is the whole art of it. Improve that lane, and only that
# one, until another is full.
#
# Smaller and smaller chunks
# --------------------------
# Back to the link and the host of the first pictures. Fill and drain shrink with the chunk, so why
# not use very small ones? **Predict.** What will limit a step of 64 chunks of 128 KiB?

small = one_step(CHUNK // 8)
draw(small)
print(f"8 chunks: {step_ms(chunked):.4f} ms; 64 chunks: {step_ms(small):.4f} ms")
assert step_ms(small) > step_ms(chunked)

# %%
# The ends have all but gone, and yet the step takes longer than with eight chunks. Every copy pays
# its latency of 6 microseconds, and with 64 of them the link takes longer than the host. It has
# become the full lane.
#
# What the picture leaves out
# ---------------------------
# The lanes of this simulator do not disturb each other. In a real machine they meet in the host's
# memory: Adam moves 24 bytes per parameter through it, and the copies, which read and write the
# same memory, 8 more. If all of that overlaps, a host that gives 100 GB/s has only three quarters
# of it left for Adam. A card's neighbours share that memory, too. So take the host's time from a
# measurement on a busy machine (``adamoffload bench`` gives yours), not from a data sheet.
#
# Try it
# ------
# - *Easy.* Make ten steps, one after the other, with the same gradient. Do the ends of one step
#   overlap with the beginning of the next?
# - *Medium.* Find the host speed at which the host and the link of ``chunked`` take equally long.
#   What does the timeline look like then? And with four slots?
# - *Medium.* ``ao.write_trace("trace.json", chunked)`` writes a file that https://ui.perfetto.dev
#   opens. Zoom in, and follow the arrows of one chunk.
#
# .. raw:: html
#
#    <details><summary>Hints and answers</summary>
#
# 1. *Hint: compare with ten times one step.* No: 6.029 ms are ten times 0.603. A step ends when its
#    last update has been added, and the weights are needed for what comes next.
# 2. *Hint: 1 MiB over the link takes 48.3 microseconds.* 0.184 ns per parameter. Both lanes have
#    small gaps, 0.492 ms in all; with four slots they close, 0.486 ms.
# 3. *Hint: W and S zoom.* Down, through Adam, up, and to the device, where the update is added.
#
# .. raw:: html
#
#    </details>
