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


def one_step(n, *, chunk_bytes, host_ns, link="pcie4x16"):
    """Make a step on a new device; return its ledger."""
    device = ao.get_backend("sim", link=link, device="a100", host_ns_per_parameter=host_ns)
    w = ao.Parameter(device.asarray(np.zeros(n, np.float32)), name="w")
    gradient = device.asarray(np.ones(n, np.float32))
    device.synchronize()
    ledger = ao.Ledger()
    ao.AdamOffload([w], ledger=ledger, chunk_bytes=chunk_bytes)([gradient])
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
# A chunk needs a place in memory on its way, a *slot*. At any time, one chunk is coming down, one
# is being updated, one is going up: three slots. With fewer, somebody would have to wait for a
# place; a fourth would stay empty. So the ring has three, on either side, whatever the size of the
# model.
#
# When the link is the longest
# ----------------------------
# The same step with an older link and a host five times as fast. **Predict.** Which lane has no
# gaps now? And what does the host do most of the time?

narrow = one_step(n, chunk_bytes=n // 2, host_ns=0.03, link="pcie3x16")
draw(narrow)

# %%
# It waits: the hatched parts. A faster host would gain nothing here; a faster link would. Reading
# off which lane is full is the whole art of it. Improve that lane, and only that one, until
# another is full.
#
# Smaller and smaller chunks
# --------------------------
# Fill and drain shrink with the chunk, so why not use very small ones?

tiny = one_step(n, chunk_bytes=n // 64, host_ns=0.15)
print(f"256 chunks: {step_s(tiny) * 1e3:.4f} ms; 8 chunks: {step_s(chunked) * 1e3:.4f} ms")
draw(tiny)

# %%
# The ends have all but gone, and yet the step takes longer: every copy pays its latency of 10
# microseconds, and 256 of them in a row are now longer than what the host does. The link has
# become the full lane. The best size lies between, and :ref:`sphx_glr_tutorials_08_the_link.py`
# has a formula for it.
#
# Try it
# ------
# - Find the host speed at which the host and the link of ``chunked`` take equally long. What does
#   the timeline look like then?
# - Make ten steps, one after the other, with the same gradient. Do the ends of one step overlap
#   with the beginning of the next?
# - ``ao.write_trace("trace.json", ledger)`` writes a file that https://ui.perfetto.dev opens: zoom
#   in.
