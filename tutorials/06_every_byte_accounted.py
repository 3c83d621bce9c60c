r"""
Every byte accounted: predict, then read the ledger
===================================================

What crosses the link in a training run is not a matter of measurement errors. It can be predicted
exactly, and if the prediction is off by a single byte, something happened that we did not know of.
We predict, read the ledger, and hunt down a difference.

You need :ref:`sphx_glr_tutorials_03_first_offloaded_step.py`. At the end you can read a ledger,
and find out who moved a byte, when, and on whose account.
"""

# %%
# A model and its ledger
# ----------------------
# Three layers of different size, on a simulated device: its clock makes times that are the same on
# every machine, while its bytes are as real as anybody's.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao

plt.rcParams.update(ao.plots.STYLE)

rng = np.random.default_rng(0)
device = ao.get_backend(
    "sim",
    link="pcie4x16",
    device="a100",
    host_ns_per_parameter=0.6,
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

# %%
# To the byte. The ledger can be asked more narrowly: by step, by parameter, by hop.

print("in step 7:     ", f"{ledger.bytes(step=7):,} bytes, both ways")
for name, moved in ledger.bytes_by_parameter("d2h").items():
    print(f"{name:<15} {moved:>10,} bytes down, {moved / ledger.bytes('d2h'):4.0%}")

# %%
# The embedding has most of the parameters, and so most of the traffic. It has it in every step: its
# gradient is an array of all 2000 rows, however few of them a batch has used. If this run were too
# slow, that is where one would look first.
#
# Hop by hop
# ----------
# An event is one hop of one chunk. A chunk is what crosses the link at once; we have asked for 128
# KiB. **Predict.** How many chunks does a step have? The parameters fill them in order, without
# gaps: which chunk holds parts of two layers?

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
# The same as arrays, for whatever you want to do with them. Let us see how fast the link was, by
# the size of the copy:

table = ledger.to_array()
copies = table[(table["hop"] == "d2h") & (table["step"] == 1)]
for row in copies:
    seconds = row["stop_s"] - row["start_s"]
    print(f"{row['nbytes']:>8,} bytes at {row['nbytes'] / seconds / 1e9:5.2f} GB/s")

# %%
# The link promises 31.5 GB/s. A copy of 128 KiB gets less than a third of it, and the last,
# smaller one less still: most of the time goes into starting the copy. That is the subject of
# :ref:`sphx_glr_tutorials_08_the_link.py`.
#
# The picture
# -----------

figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
ao.plots.transfers(ledger, size, ax=axes[0])
ao.plots.transfers(ledger, size, show="per_step", ax=axes[1])
plt.show()

# %%
# One line on the other is how it should look: what was moved, and what was predicted.
#
# Find the difference
# -------------------
# Now a training loop as one finds it in the wild. The device counts, too, all that crosses its
# link, whoever asked for it:

before, in_ledger = device.traffic(), ledger.bytes("d2h")
log = []
for _ in range(5):
    optimizer(gradients)
    # to see that all is well:
    log.append(max(float(np.max(np.abs(g))) for g in gradients))
    # to draw a histogram, later, perhaps:
    weights = device.asnumpy(parameters[0].data)

down = device.traffic().d2h - before.d2h
accounted = ledger.bytes("d2h") - in_ledger
print(f"sent down by the device:    {down:>9,} bytes")
print(f"  of them by the optimizer: {accounted:>9,}")
print(f"  unaccounted for:          {down - accounted:>9,}")

# %%
# **Predict.** Who moved these bytes? There are two suspects in the loop. Account for all of them.

scalars = 5 * len(parameters) * 4
w = parameters[0]
histogram = 5 * w.size * 4
print(f"float:    5 steps x 4 bytes x {len(parameters):>7,} scalars: {scalars:>9,}")
print(f"asnumpy:  5 steps x 4 bytes x {w.size:>7,} weights: {histogram:>9,}")
print(f"together: {scalars + histogram:>46,}")

# %%
# The innocent-looking histogram nearly doubles what goes down in a step. The scalars are only 60
# bytes. Are they harmless, then? **Predict.** The device computes one thing after another, and the
# host need not wait for any of it, until it wants to see a number. We give the device a product of
# large matrices to compute, and ask for one number of something else. How long does the host wait?

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
# number to print is cheap in bytes and dear in time. No count of bytes shows that. Who waits for
# whom is the subject of :ref:`sphx_glr_tutorials_09_overlap.py`.
#
# Try it
# ------
# - Save the ledger, ``ledger.save("ledger.csv")``, and open it in a spreadsheet. Which hop takes
#   longest?
# - Give the optimizer ``weight_decay=0.01``. Do the bytes change? Which hop takes longer?
# - How many bytes would this run move in DeepSpeed, or in PyTorch's FSDP? See :doc:`/peers`.
