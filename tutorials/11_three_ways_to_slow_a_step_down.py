r"""
Three ways to slow a step down
==============================

Small chunks, many optimizers, memory that is not pinned: mistakes that cost nothing on a laptop
cost time where copies and kernels run by themselves. We find the lane that limits a step, ask what
better hardware would bring, and make each mistake to see what it costs.

On this site the page runs **on a simulated device**: nothing that you see here was measured on a
GPU. On a machine with an NVIDIA GPU and CuPy, the same script measures that GPU.

You need :ref:`sphx_glr_tutorials_10_overlap.py`; for the real thing also an NVIDIA GPU, its driver,
and ``pip install "adamoffload[cuda12x]"`` or ``[cuda13x]``. At the end you can say from three
numbers how long a step takes on a machine, and what would make it shorter.
"""

# %%
# What is there?
# --------------
# Nothing below asks again whether the device is real: a backend is a backend. The times of a GPU's
# copies and kernels are measured by events on the GPU; those of the simulation are computed, from
# the figures of :ref:`sphx_glr_tutorials_09_the_link.py`.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload.observe.timeline import step_timeline
from adamoffload_sim import Device, Link

plt.rcParams.update(ao.plots.STYLE)

GPU = Device(bandwidth_bytes_per_s=1555e9, flops_per_s=19.5e12, launch_s=1e-6)
LATENCY_S = 6e-6

cupy = ao.available_backends()["cupy"]
if cupy.available:
    device = ao.get_backend("cupy")
    clock = "measured"
    print("on a GPU:", device)
else:
    link = Link(24.8e9, LATENCY_S, pageable_penalty=2.4)
    device = ao.get_backend("sim", link=link, device=GPU, host_ns_per_parameter=0.24)
    clock = "simulated"
    print(f"no GPU here: {cupy.reason}")
    print("instead, a simulated A100 behind a link of 24.8 GB/s")

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

figure, ax = plt.subplots(figsize=(11, 4.2), layout="constrained")
ao.plots.timeline(ledger, 3, ax=ax)
plt.show()

# %%
# **Predict.** Which lane has no gaps? How long would the step be if the link were twice as fast?
# And if the host were?
#
# Nobody can try that on a card that is built in. But the step can be rebuilt, as a simulation, from
# three numbers that the ledger has: bytes per second in each direction, and nanoseconds per
# parameter on the host. How good a model they are, the line *rebuilt* says, beside the step itself.

step = step_timeline(ledger, 3)
for lane in step.lanes:
    print(f"{lane:<7} busy {step.busy_s(lane) / step.seconds:4.0%} of the step")
down, up = 4 * n / step.busy_s("d2h"), 4 * n / step.busy_s("h2d")
host_ns = step.busy_s("host") / n * 1e9
print(f"down {down / 1e9:.1f} GB/s, up {up / 1e9:.1f} GB/s, host {host_ns:.2f} ns")


def rebuilt_s(link=1, host=1):
    """Simulate the step, with a link or a host that is so many times as fast."""
    model = ao.get_backend(
        "sim",
        link=Link(min(down, up) * link),  # their latency is in these rates
        device=GPU,
        host_ns_per_parameter=host_ns / host,
    )
    w = ao.Parameter(model.asarray(np.zeros(n, np.float32)), name="w")
    gradient = model.asarray(np.ones(n, np.float32))
    model.synchronize()
    begin = model.now()
    ao.AdamOffload([w])([gradient])
    model.synchronize()
    return model.now() - begin


name = f"the step, {clock}:"
print(f"\n{name:<24} {step.seconds * 1e3:6.2f} ms")
print(f"rebuilt:                 {rebuilt_s() * 1e3:6.2f} ms")
print(f"link twice as fast:      {rebuilt_s(link=2) * 1e3:6.2f} ms")
print(f"host twice as fast:      {rebuilt_s(host=2) * 1e3:6.2f} ms")
print(f"host four times as fast: {rebuilt_s(host=4) * 1e3:6.2f} ms")
if device.simulated:
    assert abs(rebuilt_s() / step.seconds - 1) < 0.02
    assert rebuilt_s(link=2) > 0.9 * step.seconds  # the host is the longest lane

# %%
# The lane without gaps limits the step: everything else waits for it. What shortens another lane
# hardly shortens the step, and what shortens this one does so until another lane is the longest.
#
# First way to slow it down: small chunks
# ---------------------------------------
# Each copy costs some microseconds, whatever its size (:ref:`sphx_glr_tutorials_09_the_link.py`).
# **Predict.** Draw, before you look, the time of a step over the size of a chunk, from 16 KiB to
# the whole gradient of 64 MiB. Where is the default, 4 MiB?

kibibytes = 4 ** np.arange(2, 9)
step_ms = []
for size in kibibytes:
    optimizer = ao.AdamOffload([w], chunk_bytes=int(size) << 10)
    optimizer([gradient])  # sets up
    device.synchronize()
    begin = device.now()
    optimizer([gradient])
    device.synchronize()
    step_ms.append((device.now() - begin) * 1e3)
    print(f"chunks of {size:>6,} KiB: {step_ms[-1]:7.2f} ms")

if device.simulated:
    assert step_ms[0] > 2 * min(step_ms) < step_ms[-1]
    assert step_ms[list(kibibytes).index(4096)] < 1.15 * min(step_ms)

longest_ms = step.busy_s(step.bottleneck) * 1e3
default_ms = step_ms[list(kibibytes).index(4096)]
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.semilogx(kibibytes, step_ms, color=ao.plots.LINES[0], marker="o", label="a step")
ring = {"marker": "o", "ms": 14, "fillstyle": "none", "linestyle": ""}
ax.plot(4096, default_ms, color="black", label="the default", **ring)
longest = {"color": ao.plots.COLORS[step.bottleneck], "linestyle": "--"}
ax.axhline(longest_ms, label=f"the {step.bottleneck} lane alone", **longest)
ax.set(title=f"One step of {n:,} parameters", xlabel="chunk (KiB)", ylim=(0, None))
ax.set_xticks(kibibytes, [f"{size:,}" for size in kibibytes])
ax.minorticks_off()
ax.set_ylabel(f"{clock} time (ms)")
ax.legend()
plt.show()

# %%
# On the left the step drowns in latency, on the right there is nothing left to overlap with.
# Between them is a wide valley, and the default stands in it.
#
# Second way: an optimizer for each layer
# ---------------------------------------
# It seems tidy. **Predict.** Sixteen layers of a million parameters, with one optimizer for all of
# them, and with one for each. The bytes are the same, the chunks as well. Which is faster, and why?


def layer(i):
    return ao.Parameter(device.asarray(np.zeros(n // 16, np.float32)), name=f"w{i}")


layers = [layer(i) for i in range(16)]
gradients = [gradient[i * n // 16 : (i + 1) * n // 16] for i in range(16)]


def step_of(optimizers):
    """Return how long it takes until all of them have made a step."""
    shares = np.array_split(np.arange(16), len(optimizers))
    for _ in range(2):  # the first time sets up
        device.synchronize()
        begin = device.now()
        for optimizer, share in zip(optimizers, shares, strict=True):
            optimizer([gradients[i] for i in share])
        device.synchronize()
    return (device.now() - begin) * 1e3


one = step_of([ao.AdamOffload(layers)])
sixteen = step_of([ao.AdamOffload([w]) for w in layers])
print(f"one optimizer: {one:6.2f} ms")
print(f"sixteen:       {sixteen:6.2f} ms")
if device.simulated:
    assert sixteen > 1.5 * one

# %%
# One after the other, each optimizer sends its only chunk down, updates it, and sends it up. Its
# copies can hide behind nothing of its own. One optimizer has sixteen chunks in its ring, and while
# one is updated another comes down.
#
# Third way: memory that is not pinned
# ------------------------------------
# From pageable memory the driver cannot copy at once: it copies twice
# (:ref:`sphx_glr_tutorials_09_the_link.py`). The optimizer pins its ring. What you copy yourself,
# such as batches, is up to you:

target = device._empty((n,), np.dtype(np.float32))
pageable = np.zeros(n, np.float32)
pinned = device._empty_pinned(n, np.dtype(np.float32))
pinned[:] = 0
for name, source in (("pageable", pageable), ("pinned", pinned)):
    ms = min(device.h2d(source, target).seconds for _ in range(3)) * 1e3
    print(f"{name:<8}: {ms:5.2f} ms for 64 MiB, {4 * n / ms / 1e6:.1f} GB/s")

# %%
# Time on a GPU
# -------------
# What is issued to a GPU has not happened yet when the call returns. **Predict.** We take the time
# before a computation and after its call, on the host's clock. What have we measured?

device.run_on_device(lambda: gradient * 2)  # a GPU compiles it the first time
device.synchronize()
begin = device.now()
ticket = device.run_on_device(lambda: gradient * 2)
asked_s = device.now() - begin
ticket.wait()
waited_s = device.now() - begin
print(f"the call returned after {asked_s * 1e6:6.1f} µs")
print(f"it was done after       {waited_s * 1e6:6.1f} µs")
print(f"its ticket says         {ticket.seconds * 1e6:6.1f} µs")

# %%
# How long it took to *ask*. (Asking costs nothing in the simulation, and some microseconds on a
# GPU.) To time a GPU, wait, or read the ticket, which the device itself has stamped; all times of
# copies in the ledger are of that kind.
#
# **In one line:** one optimizer, chunks of megabytes, pinned memory, and a clock that waits. Where
# this page was built on the simulated device, its claims are asserted; on a GPU they are shown.
#
# Try it
# ------
# - Without a GPU: choose another link at the top of the page, of 12 or of 360 GB/s. Which lane is
#   the longest then? Which of the three mistakes costs less?
# - With one: compare the bandwidth above with what the data sheet of your link promises. Then put
#   a loss into the loop, and take ``float(loss)`` before the optimizer's step, after it, or not at
#   all. Does it matter? What must the step itself wait for, since Adam is on the host?
# - Train the model of the demo with ``adamoffload demo --backend cupy``, or ``--backend sim``.
