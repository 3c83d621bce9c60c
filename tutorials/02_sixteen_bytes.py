r"""
Sixteen bytes per parameter
===========================

Training with Adam takes 16 bytes per parameter, and half of them serve only the optimizer. We count
them one by one on a device that counts along, move what can be moved, and see which models fit on
which cards.

You need nothing but arithmetic, and may have seen :ref:`sphx_glr_tutorials_01_it_does_not_fit.py`.
At the end you can say in your head which model fits on which device, with Adam on the device and
with Adam on the host.
"""

# %%
# Four numbers
# ------------
# **Predict.** Training a parameter with Adam takes four float32 numbers. Which? Write them down,
# with the bytes of each, before you go on.
#
# We build up a training run, one piece at a time, and ask the device after each what is in use.
# This device is a part of the host's memory that is counted like a GPU's.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao

plt.rcParams.update(ao.plots.STYLE)

n = 1_000_000
device = ao.get_backend("numpy", memory_bytes=100_000_000)
used = {}


def note(what):
    """Write down how much more the device has in use."""
    more = device.memory().used - sum(used.values())
    used[what] = more
    print(f"{what:<12} {more:>10,} bytes, {more / n:4.1f} per parameter")
    assert more % n == 0


w = ao.Parameter(device.asarray(np.zeros(n, np.float32)), name="w")
note("parameters")
g = device.asarray(np.ones(n, np.float32))
note("gradients")
resident = ao.Adam([w])  # with its moments on the device
note("moments")

# %%
# Parameter, gradient, first moment, second moment: 4 bytes each, 16 in all. Three quarters of them
# are gone as soon as training is over.
#
# Of the four, two are special. The model needs its parameters to compute, and computing makes
# gradients; both must be on the device. The moments are needed by nobody but Adam, once per step.
#
# The same, offloaded
# -------------------
# So they can live where memory is plentiful. **Predict.** How many bytes per parameter remain on
# the device?

del resident
offloaded = ao.AdamOffload([w], chunk_bytes=1 << 16)
print(f"on the device: {device.memory().used / n:.2f} bytes per parameter")
print(offloaded.memory())

# %%
# Eight, and a little more: the *ring*, three small buffers of 64 KiB through which gradients and
# updates pass. We chose that size with ``chunk_bytes``: it is how much crosses the *link*, the wire
# between device and host, at once. A larger model doesn't need a larger ring.

needs = {
    "Adam": ao.ResidentMemory(parameters=4 * n, gradients=4 * n, moments=8 * n),
    "AdamOffload": offloaded.memory(),
}
figure, ax = plt.subplots(figsize=(9, 4.4), layout="constrained")
ao.plots.memory(needs, limit=10_000_000, ax=ax)
plt.show()

# %%
# On a device of 10 MB, the dashed line, Adam needs 60% more than there is, and AdamOffload fits.
# The moments have not gone away. They are on the host, together with the other end of the ring,
# which is of the same size (:doc:`why two ends </concepts/staging>`).
#
# What fits?
# ----------
# **Predict.** A device has 24 GB, of which a quarter is for activations and data. How many
# parameters fit with Adam on the device, and with offload? Divide twice.


def largest(device_gb, bytes_per_parameter, for_activations=0.25):
    """Return how many parameters fit, in billions."""
    return device_gb * (1 - for_activations) / bytes_per_parameter


for gb in (8, 24, 80):
    resident, offload = largest(gb, 16), largest(gb, 8)
    print(f"{gb:>3} GB: {resident:6.3f} billion, offloaded {offload:6.3f} billion")

# %%
# Twice as many. It is not a miracle but a factor of two, and it has a price. In every step the
# gradient goes down to the host and the update comes back, 4 bytes per parameter each way. What
# that costs, and how to hide it, is what many of the next pages are about.
#
# What else is there?
# -------------------
# *Activations.* What the forward pass must remember for the backward pass. Offload does nothing
# about them. **Predict.** One layer maps 200 numbers to 200. We compute its gradient once with a
# batch of 100 rows and once with 1000. Does the memory for that grow, and by which factor?

width = 200
for batch in (100, 1000):
    device = ao.get_backend("numpy")
    square = np.ones((width, width), np.float32)
    layer = ao.Parameter(device.asarray(square), name="layer")
    x = device.asarray(np.ones((batch, width), np.float32))
    before = device.memory().used
    ao.value_and_grad(lambda x, w=layer: np.sum(np.tanh(x @ w)), [layer])(x)
    more = device.memory().peak - before
    print(f"batch of {batch:>4}: at most {more:>9,} bytes more,", end=" ")
    print(f"or {more / (4 * batch * width):.2f} arrays of {batch} by {width}")

# %%
# Ten times the batch, ten times the bytes; the parameters are the same. At most three arrays of the
# batch's size are alive at once. If *activation memory* is what does not fit, other means help:
# smaller batches, or *gradient checkpointing*, which computes activations a second time in place of
# keeping them.
#
# *Fewer bits.* In *mixed precision*, parameters and gradients take 2 bytes each. The moments stay
# in float32, and so does a *master copy* of the weights, in which small updates do not vanish: 12
# bytes, and 16 in all, as before (`Rajbhandari et al., 2019 <https://arxiv.org/abs/1910.02054>`_,
# section 3.1). So mixed precision alone saves nothing here; but now 12 of the 16 bytes serve only
# the optimizer, and offload can move three quarters, instead of half.
#
# **In one line:** of the 16 bytes, 8 serve only the optimizer; in mixed precision, 12.
#
# Try it
# ------
# - *Easy.* How many bytes per parameter would plain gradient descent need? And with momentum?
# - *Easy.* Halve ``chunk_bytes``. Which of the printed numbers change, and to what?
# - *Medium.* ``adamoffload demo`` predicts at which allocation, to the byte, a network stops
#   fitting. Read its table, and change ``--memory`` until it fits.
#
# .. raw:: html
#
#    <details><summary>Hints and answers</summary>
#
# 1. *Hint: which of the four numbers are left?* 8, and 12.
# 2. *Hint: three slots.* The ring becomes 3 x 32,768 = 98,304 bytes, and the device has 8.10 bytes
#    per parameter in use. Nothing else changes.
# 3. *Hint: the first bar of its picture.* Adam on the device needs 5.13 MB, so that 4 MiB are too
#    few and ``--memory 5M``, 5.24 MB, are enough.
#
# .. raw:: html
#
#    </details>
