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
device = ao.get_backend("sim", link="pcie4x16", device="a100", host_ns_per_parameter=0.6)
shapes = {"embedding": (2000, 64), "hidden": (64, 256), "head": (256, 10)}
parameters = [
    ao.Parameter(device.asarray(rng.standard_normal(shape).astype(np.float32)), name)
    for name, shape in shapes.items()
]
gradients = [device.asarray(rng.standard_normal(p.shape).astype(np.float32)) for p in parameters]
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
# The embedding has most of the parameters and so most of the traffic, in every step, even if the
# batch used only a few of its rows: its gradient is dense. Who knows that, may find the first
# thing to improve.
#
# Hop by hop
# ----------
# An event is one hop of one chunk. A chunk is what crosses the link at once; here it is 128 KiB,
# so that the embedding spans several, and the last one holds the ends of all.

print(f"{'hop':<8} {'chunk':>5} {'bytes':>8} {'microseconds':>13}  parameters in the chunk")
for event in ledger.events:
    if event.step == 20 and event.chunk in (0, 4) and event.hop != "wait":
        inside = ", ".join(f"{name}: {count:,}" for name, count in event.parts)
        where = f"{event.hop:<8} {event.chunk:>5} {event.nbytes:>8,}"
        print(f"{where} {event.seconds * 1e6:>13.1f}  {inside}")

# %%
# The same as arrays, for whatever you want to do with them. Let us see how fast the link was, by
# the size of the copy:

table = ledger.to_array()
copies = table[(table["hop"] == "d2h") & (table["step"] == 1)]
for row in copies:
    seconds = row["stop_s"] - row["start_s"]
    print(f"{row['nbytes']:>8,} bytes at {row['nbytes'] / seconds / 1e9:5.2f} GB/s")

# %%
# The link promises 31.5 GB/s. A copy of 128 KiB gets less than a third of it, and the last,
# smaller one less still: most of the time went into starting the copy. That is the subject of
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
    largest = max(float(np.max(np.abs(g))) for g in gradients)  # to see that all is well
    weights = device.asnumpy(parameters[0].data)  # to draw a histogram, later, perhaps
    log.append(largest)

down = device.traffic().d2h - before.d2h
print(f"the device sent {down:,} bytes down; the optimizer {ledger.bytes('d2h') - in_ledger:,}")
print(f"difference: {down - (ledger.bytes('d2h') - in_ledger):,}")

# %%
# **Predict.** Who moved these bytes? There are two suspects in the loop. Account for all of them.

scalars = 5 * len(parameters) * 4
histogram = 5 * parameters[0].size * 4
print(f"float(...), 5 steps x {len(parameters)} scalars x 4: {scalars:,}")
print(f"asnumpy(...), 5 x 4 x {parameters[0].size:,}:     {histogram:,}")
print(f"together:                           {scalars + histogram:,}")

# %%
# The innocent-looking histogram nearly doubles the traffic of the step. The scalars are only 60
# bytes, but each ``float`` makes the host wait until the device has computed all that comes before
# it. A ledger does not show that; a timeline does: :ref:`sphx_glr_tutorials_09_overlap.py`.
#
# Try it
# ------
# - Save the ledger, ``ledger.save("ledger.csv")``, and open it in a spreadsheet. Which hop takes
#   longest?
# - Set ``weight_decay=0.01``. Do the bytes change? Which hop does?
# - How many bytes would this run move in DeepSpeed, or in PyTorch's FSDP? See :doc:`/peers`.
