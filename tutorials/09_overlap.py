r"""
Overlap on a timeline
=====================

A step takes longer than its longest part and less than the sum of its parts. Where between the two
it comes to lie is decided by who waits for whom. We look at that, lane by lane.

You need :ref:`sphx_glr_tutorials_08_the_link.py`. At the end you can read a timeline, name the
lane that limits a step, and say what the three slots of the ring are for.
"""

# %%
# Four lanes
# ----------
# The device, the link downwards, the host and the link upwards can all work at the same time, as
# long as they work on different chunks. A simulated device shows it without noise: times are
# virtual, the same everywhere.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao

plt.rcParams.update(ao.plots.STYLE)


def one_step(n, *, chunk_bytes, host_ns, link="pcie4x16", slots=3):
    """Make a step on a new device; return its ledger."""
    device = ao.get_backend(
        "sim",
        link=link,
        device="a100",
        host_ns_per_parameter=host_ns,
    )
    w = ao.Parameter(device.asarray(np.zeros(n, np.float32)), name="w")
    gradient = device.asarray(np.ones(n, np.float32))
    device.synchronize()
    ledger = ao.Ledger()
    ao.AdamOffload([w], ledger=ledger, chunk_bytes=chunk_bytes, slots=slots)([gradient])
    device.synchronize()
    return ledger


def draw(ledger):
    _, ax = plt.subplots(figsize=(11, 4.2), layout="constrained")
    ao.plots.timeline(ledger, ax=ax)
    plt.show()


n = 8 << 20

# %%
# One chunk
# ---------
# First everything in one piece. **Predict.** What will the picture look like?

whole = one_step(n, chunk_bytes=4 * n, host_ns=0.15)
draw(whole)

# %%
# A staircase: each waits for the one before. The step takes the sum of its parts.
#
# Eight chunks
# ------------
# Now in eight. While the host updates chunk 0, chunk 1 can come down; while chunk 0 goes up, the
# host updates chunk 1. **Predict.** The host needs 0.15 ns for each of the 8 million parameters,
# and a chunk of 4 MiB takes 143 microseconds over the link. How long does the step take now,
# about? Which lane has no gaps?

chunked = one_step(n, chunk_bytes=n // 2, host_ns=0.15)
draw(chunked)

# %%
# The host has no gaps, from its first chunk to its last. All the others are hidden behind it, but
# for the two ends: the first chunk has to come down before the host can begin (*fill*), and the
# last one has to go up after it has finished (*drain*).


def step_s(ledger):
    begin, end = ledger.step_times()[0]
    return end - begin


host_s = 0.15e-9 * n
link_s = chunked.seconds("d2h") / 8
apply_s = chunked.events[-1].seconds
predicted_s = link_s + host_s + link_s + apply_s  # first down, host, last up, add
print(f"predicted: {predicted_s * 1e3:.4f} ms")
print(f"measured:  {step_s(chunked) * 1e3:.4f} ms")
print(f"in one piece: {step_s(whole) * 1e3:.4f} ms")

# %%
# Why three slots?
# ----------------
# A chunk needs a place in memory on its way, a *slot*, on the device and on the host. It keeps the
# slot until its update has been added; then another chunk may have it. Look at the picture again:
# the link downwards pauses after chunk 2, because chunk 3 takes the slot of chunk 0.
#
# The ring has three slots. **Predict.** What would the same step take with one slot, with two, with
# four? Which lanes can work at the same time, if there are only two chunks on their way?

for slots in (1, 2, 3, 4):
    ring = one_step(n, chunk_bytes=n // 2, host_ns=0.15, slots=slots)
    print(f"slots: {slots}, step: {step_s(ring) * 1e3:.4f} ms")

# %%
# With one slot nothing overlaps, although there are eight chunks: the time is the one *in sequence*
# of the picture. With two, only two of the three lanes work at a time. Three suffice: one chunk is
# coming down, one is being updated, one is going up. A fourth slot gains nothing, since the host,
# which is the limit, has no gap that it could fill. So the ring has three, whatever the size of the
# model.
#
# When the link is the longest
# ----------------------------
# The same step with an older link and a host five times as fast. **Predict.** Which lane has no
# gaps now? And what does the host do most of the time?

narrow = one_step(n, chunk_bytes=n // 2, host_ns=0.03, link="pcie3x16")
draw(narrow)

# %%
# The link, in both directions; the host waits, where it is hatched. **Predict.** You may make the
# host twice as fast, or the link. What does the step gain from the one, and from the other?

fast_host = one_step(n, chunk_bytes=n // 2, host_ns=0.015, link="pcie3x16")
fast_link = one_step(n, chunk_bytes=n // 2, host_ns=0.03, link="pcie4x16")
print(f"as it is:           {step_s(narrow) * 1e3:.4f} ms")
print(f"host twice as fast: {step_s(fast_host) * 1e3:.4f} ms")
print(f"link twice as fast: {step_s(fast_link) * 1e3:.4f} ms")

# %%
# The faster host saves its part of the last chunk and nothing else; the faster link nearly halves
# the step. Reading off which lane is full is the whole art of it. Improve that lane, and only that
# one, until another is full.
#
# Smaller and smaller chunks
# --------------------------
# Back to the link and the host of the first pictures. Fill and drain shrink with the chunk, so why
# not use very small ones? **Predict.** What will limit a step of 64 chunks of 512 KiB?

small = one_step(n, chunk_bytes=n // 16, host_ns=0.15)
draw(small)

# %%
# The ends have all but gone, and yet the step takes longer than with eight chunks. Every copy pays
# its latency of 10 microseconds, and with 64 of them the link takes longer than the host. It has
# become the full lane. The best size lies between. By the formula of
# :ref:`sphx_glr_tutorials_08_the_link.py` it is where a copy and an update of a chunk take equally
# long:

bandwidth = 128 / 130 * 16 * 16e9 / 8  # bytes a second: 16 lanes, 16e9 bits each
host_s_per_byte = 0.15e-9 / 4
balanced = 10e-6 / (host_s_per_byte - 1 / bandwidth)
print(f"chunks of {balanced / 2**20:.2f} MiB")
for factor in (0.5, 1, 2):
    ledger = one_step(n, chunk_bytes=int(factor * balanced), host_ns=0.15)
    print(f"{factor:>3g} times that: {step_s(ledger) * 1e3:.4f} ms")

# %%
# Try it
# ------
# - Find the host speed at which the host and the link of ``chunked`` take equally long. What does
#   the timeline look like then?
# - Make ten steps, one after the other, with the same gradient. Do the ends of one step overlap
#   with the beginning of the next?
# - ``ao.write_trace("trace.json", chunked)`` writes a file that https://ui.perfetto.dev opens. Zoom
#   in, and follow the arrows of one chunk.
