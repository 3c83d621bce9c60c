r"""
On a real GPU
=============

The same code, on a GPU if there is one, and on a simulated one if not: this page was built on
whichever its first lines name. On a GPU, copies and kernels run by themselves while the host works,
and mistakes that cost nothing elsewhere cost time here. We see which.

You need :ref:`sphx_glr_tutorials_03_first_offloaded_step.py`; for the real thing also an NVIDIA
GPU, its driver, and ``pip install "adamoffload[cuda12x]"`` or ``[cuda13x]``. At the end you can
read which lane limits a step, and know three ways to slow one down without noticing.
"""

# %%
# What is there?
# --------------

import time

import numpy as np

import adamoffload as ao
from adamoffload.timeline import timeline_text

cupy = ao.available_backends()["cupy"]
if cupy.available:
    device = ao.get_backend("cupy")
    print("on a GPU:", device)
else:
    device = ao.get_backend("sim", link="pcie4x16", device="a100", host_ns_per_parameter=0.6)
    print("no GPU here:", cupy.reason)
    print("simulated instead; all times below are those of the simulation")

# %%
# One step
# --------
# Sixteen million parameters, in chunks of 4 MiB. The first step also pays for what is set up once,
# so we look at the third.

n = 16 << 20
w = ao.Parameter(device.asarray(np.zeros(n, np.float32)), name="w")
gradient = device.asarray(np.ones(n, np.float32))
ledger = ao.Ledger()
optimizer = ao.AdamOffload([w], ledger=ledger)
for _ in range(3):
    optimizer([gradient])
device.synchronize()
print(timeline_text(ledger, 3, width=60))

# %%
# **Predict.** Which lane has no gaps? If the link were twice as fast, how much faster would the
# step be? And if the host were?
#
# The lane without gaps is the one that limits the step: everything else waits for it, and only what
# shortens it shortens the step.

events = [event for event in ledger.events if event.step == 3]
begin, end = min(e.start_s for e in events), max(e.stop_s for e in events)
lanes = {"d2h": ["d2h"], "host": ["update"], "h2d": ["h2d"], "device": ["prepare", "apply"]}
busy = {
    lane: sum(e.seconds for e in events if e.hop in hops) / (end - begin)
    for lane, hops in lanes.items()
}
for lane, share in sorted(busy.items(), key=lambda item: -item[1]):
    print(f"{lane:<7} busy {share:4.0%} of the step")
down_s = sum(e.seconds for e in events if e.hop == "d2h")
print(f"bandwidth, down: {4 * n / down_s / 1e9:.1f} GB/s")

# %%
# Three ways to slow it down
# --------------------------
# *Looking at the loss in every step.* ``float(loss)`` makes the host wait until the device has
# computed everything before it; meanwhile nobody prepares the next step. Look at every tenth.
#
# *Memory that is not pinned.* From pageable memory, the driver copies twice and makes the host
# wait. The optimizer pins its ring; what you copy yourself, such as batches, is up to you.
#
# *Copies that are too small.* Each costs some microseconds, whatever its size. Here is the step
# again, with chunks of different sizes:

for kibibytes in (16, 64, 256, 1024, 4096, 16384):
    optimizer = ao.AdamOffload([w], chunk_bytes=kibibytes << 10)
    optimizer([gradient])
    device.synchronize()
    begin = device.now()
    optimizer([gradient])
    device.synchronize()
    print(f"chunks of {kibibytes:>6,} KiB: {(device.now() - begin) * 1e3:7.2f} ms a step")

# %%
# Small chunks drown in latency; very large ones leave nothing to overlap with. Between them is a
# wide valley, and the default stands in it.
#
# Time on a GPU
# -------------
# What is issued to a GPU has not happened yet when the call returns. Whoever takes the time around
# it measures how long it took to *ask*:

begin = time.perf_counter()
x = gradient * 2 + 1
asked = time.perf_counter() - begin
device.synchronize()
print(f"asked in {asked * 1e3:.2f} ms of real time")

# %%
# Times in the ledger are taken by events on the device itself, or by the virtual clock of the
# simulation, so they say how long a copy took, not how long it took to ask for it. (In the
# simulation, the arithmetic is really done by NumPy, inside the call: there, real time says
# nothing at all.)
#
# Try it
# ------
# - Without a GPU: choose another link (``"pcie3x16"``, ``"nvlink-c2c"``) or a host three times as
#   fast. Which lane is the longest then?
# - With one: compare the bandwidth above with what the data sheet of your link promises.
# - Train the model of the demo with ``adamoffload demo --backend cupy``.
