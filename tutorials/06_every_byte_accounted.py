r"""
Every byte accounted: predict, then read the ledger
===================================================

What crosses the link in a training run is not a matter of measurement errors. It can be predicted
exactly, and if the prediction is off by a single byte, something happened that we did not know of.
We predict, read the ledger, and hunt down a difference.

You need :ref:`sphx_glr_tutorials_05_first_offloaded_step.py`. At the end you can read a ledger,
and find out who moved a byte, when, and on whose account.
"""

# %%
# A model and its ledger
# ----------------------
# Three layers of different size, on the simulated device of
# :ref:`sphx_glr_tutorials_09_the_link.py`: its clock makes times that are the same on every
# machine, and its bytes are counted like any other device's.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload_sim import Device, Link

plt.rcParams.update(ao.plots.STYLE)

rng = np.random.default_rng(0)
device = ao.get_backend(
    "sim",
    link=Link(bandwidth_bytes_per_s=24.8e9, latency_s=6e-6),
    device=Device(bandwidth_bytes_per_s=1555e9, flops_per_s=19.5e12, launch_s=1e-6),
    host_ns_per_parameter=0.24,
)
shapes = {"embedding": (2000, 64), "hidden": (64, 256), "head": (256, 10)}


def normal(shape):
    """Return random numbers on the device."""
    return device.asarray(rng.standard_normal(shape).astype(np.float32))


parameters = [ao.Parameter(normal(shape), name) for name, shape in shapes.items()]
gradients = [normal(shape) for shape in shapes.values()]
size = sum(p.size for p in parameters)

ledger = ao.Ledger()
optimizer = ao.AdamOffload(parameters, ledger=ledger, chunk_bytes=128 << 10)
STEPS = 20
for _ in range(STEPS):
    optimizer(gradients)

# %%
# **Predict.** The model has 2000 x 64 + 64 x 256 + 256 x 10 parameters. How many bytes go down in
# 20 steps, and how many come up?

print(f"predicted: 4 x {size:,} x {STEPS} = {4 * size * STEPS:,} bytes each way")
print(f"d2h:       {ledger.bytes('d2h'):,}")
print(f"h2d:       {ledger.bytes('h2d'):,}")
assert ledger.bytes("d2h") == ledger.bytes("h2d") == 4 * size * STEPS

# %%
# To the byte. The ledger can be asked more narrowly: by step, by parameter, by hop.

print("in step 7:     ", f"{ledger.bytes(step=7):,} bytes, both ways")
for name, moved in ledger.bytes_by_parameter("d2h").items():
    print(f"{name:<15} {moved:>10,} bytes down, {moved / ledger.bytes('d2h'):4.0%}")

# %%
# The embedding has most of the parameters, and so most of the traffic. It has it in every step: its
# gradient is an array of all 2000 rows, however few of them a batch has used. If this run were too
# slow, look there first.
#
# Hop by hop
# ----------
# An event is one hop of one chunk. A chunk is what crosses the link at once; we have asked for 128
# KiB. **Predict.** How many chunks does a step have? The parameters fill them in order, without
# gaps: which chunks hold parts of two layers?

chunks = {event.chunk for event in ledger.events}
full = 4 * size / (128 << 10)
print(f"{4 * size:,} / {128 << 10:,} = {full:.2f}, so {len(chunks)} chunks\n")

print(f"{'hop':<8} {'chunk':>5} {'bytes':>8} {'microseconds':>13}  in the chunk")
for event in ledger.events:
    if event.step == 20 and event.chunk in (0, 3) and event.hop != "wait":
        inside = ", ".join(f"{name}: {count:,}" for name, count in event.parts)
        where = f"{event.hop:<8} {event.chunk:>5} {event.nbytes:>8,}"
        print(f"{where} {event.seconds * 1e6:>13.1f}  {inside}")

# %%
# Chunk 0 is a piece of the embedding and nothing else. Its gradient goes down from where it lies,
# so *prepare* has nothing to do. In chunk 3 the embedding ends and the next layer begins: *prepare*
# puts the two pieces side by side first, on the device. That takes time, but moves no byte over the
# link.
#
# All chunks at a glance:

colors = dict(zip(shapes, ao.plots.LINES, strict=False))
figure, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
for event in ledger.events:
    if event.step == 20 and event.hop == "d2h":
        left = 0
        for name, count in event.parts:
            kib = 4 * count / 1024
            ax.barh(f"chunk {event.chunk}", kib, left=left, color=colors[name], label=name)
            left += kib
ax.set(title="What each chunk carries", xlabel="KiB over the link, in each direction")
ax.invert_yaxis()
ax.grid(visible=False, axis="y")
entries = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
figure.legend(entries.values(), entries.keys(), loc="outside upper right", ncols=3)
plt.show()

# %%
# The same as arrays, for what else you want to know. How fast was the link, by the size of the
# copy?

table = ledger.to_array()
copies = table[(table["hop"] == "d2h") & (table["step"] == 1)]
for row in copies:
    seconds = row["stop_s"] - row["start_s"]
    print(f"{row['nbytes']:>8,} bytes at {row['nbytes'] / seconds / 1e9:5.2f} GB/s")

# %%
# The link has 24.8 GB/s. A copy of 128 KiB gets less than half of it, and the last, smaller one
# less still: most of the time goes into starting the copy. That is the subject of
# :ref:`sphx_glr_tutorials_09_the_link.py`.
#
# Find the difference
# -------------------
# Now a training loop like many. The device counts, too, all that crosses its link, no matter who
# asked for it. We compare the two counts after each step.

log, rows = [], []
for step in range(9):
    before, in_ledger = device.traffic().d2h, ledger.bytes("d2h")
    optimizer(gradients)
    # to see that all is well:
    log.append(max(float(np.max(np.abs(g))) for g in gradients))
    if step % 3 == 2:  # to draw a histogram, later, perhaps:
        weights = device.asnumpy(parameters[0].data)
    rows.append((device.traffic().d2h - before, ledger.bytes("d2h") - in_ledger))

sent, accounted = np.array(rows).T
figure, ax = plt.subplots(figsize=(9, 3.4), layout="constrained")
steps = np.arange(1, 10)
d2h, grey = ao.plots.COLORS["d2h"], "#999999"
ax.bar(steps, accounted / 1e3, color=d2h, label="by the optimizer: in the ledger")
ax.bar(steps, (sent - accounted) / 1e3, bottom=accounted / 1e3, color=grey, label="by others")
ax.set(title="What went down in each step", xlabel="step", ylabel="kB down", xticks=steps)
ax.set_ylim(0, 1.35 * sent.max() / 1e3)
ax.legend(loc="upper left", ncols=2)
plt.show()
print(f"by others: {np.sum(sent - accounted):,} bytes; in step 1: {sent[0] - accounted[0]}")

# %%
# **Predict.** Who moved these bytes? There are two suspects in the loop. Account for all of them.

scalars = 9 * len(parameters) * 4
w = parameters[0]
histogram = 3 * w.size * 4
print(f"float:    9 steps x 4 bytes x {len(parameters):>7,} scalars: {scalars:>9,}")
print(f"asnumpy:  3 steps x 4 bytes x {w.size:>7,} weights: {histogram:>9,}")
print(f"together: {scalars + histogram:>46,}")
assert scalars + histogram == np.sum(sent - accounted)

# %%
# The innocent-looking histogram nearly doubles what goes down in its step. The scalars are only 12
# bytes per step, too few to be seen. Are they harmless, then? **Predict.** The device computes one
# thing after another, and the host need not wait for any of it, until it wants to see a number. We
# give the device a product of large matrices to compute, and ask for one number of something else.
# How long does the host wait?

large = device.asarray(np.ones((2000, 2000), np.float32))
device.synchronize()


def microseconds(since_s):
    return f"{(device.now() - since_s) * 1e6:6.1f} microseconds of the host's time"


begin_s = device.now()
largest = np.max(np.abs(gradients[0]))
float(largest)
print("nothing else to compute:", microseconds(begin_s))

begin_s = device.now()
product = large @ large
largest = np.max(np.abs(gradients[0]))
print("product, only asked for:", microseconds(begin_s))
float(largest)
print("and the number looked at:", microseconds(begin_s)[1:])

# %%
# To ask costs the host nothing; to look makes it wait for everything that was asked before. A
# number to print costs few bytes and much time. No count of bytes shows that. Who waits for
# whom is the subject of :ref:`sphx_glr_tutorials_10_overlap.py`.
#
# **In one line:** bytes are counted, not measured; a byte that you cannot account for is a finding.
#
# Try it
# ------
# - Save the ledger, ``ledger.save("ledger.csv")``, and open it in a spreadsheet. Which hop takes
#   longest?
# - Give the optimizer ``weight_decay=0.01``. Do the bytes change? Which hop takes longer?
# - How many bytes would this run move in DeepSpeed, or in PyTorch's FSDP? See :doc:`/peers`.
