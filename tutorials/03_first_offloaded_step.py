r"""
The first offloaded step
========================

We take one step of Adam with the moments on the other side of a link, by hand and copy by copy,
and then let `adamoffload.AdamOffload` do the same and compare: the parameters, bit by bit, and the
bytes, one by one.

You need :ref:`sphx_glr_tutorials_01_adam_by_hand.py`. At the end you know every hop that a gradient
takes until it has changed a parameter, and why it is the *update* that travels back.
"""

# %%
# Two memories
# ------------
# A backend is a device: memory of its own, with explicit copies there and back. The ``numpy``
# backend keeps its device memory in the host's RAM, but is as strict as a GPU.

import numpy as np

import adamoffload as ao
from adamoffload.adam import adam, step_size

device = ao.get_backend("numpy")
w = device.asarray(np.array([1.0, 2.0, 3.0], np.float32))  # a copy to the device
print(w)

# %%
# The array does not show its numbers, since that would take a copy that nobody asked for. Whoever
# mixes the two sides is stopped, and told what to write instead:

try:
    w + np.ones(3, np.float32)
except ao.ResidencyError as error:
    print(error)

# %%
# The model runs on the device, so the gradient is there, too. For this page it falls from the sky.

g = device.asarray(np.array([0.1, -20.0, 3.0], np.float32))

# %%
# By hand: four hops
# ------------------
# The moments are on the host and begin at zero.

m = v = np.zeros(3, np.float32)
beta1, beta2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
lr_t = step_size(np.float32(0.1), beta1, beta2)

g_host = device.asnumpy(g)  # 1. down: d2h
delta, m, v = adam(g_host, m, v, lr_t=lr_t, beta1=beta1, beta2=beta2, eps=eps)  # 2. on the host
delta_device = device.asarray(delta)  # 3. up: h2d
by_hand = w + delta_device  # 4. on the device

print("gradient, on the host:", g_host)
print("update, on the host:  ", delta)
print("parameter:            ", device.asnumpy(by_hand))

# %%
# Why the update?
# ---------------
# Something must come back up after the host has done its work. There is a choice.
#
# - *The new parameters.* Then the host needs the old ones: a copy of its own, 4 more bytes a
#   parameter, which must never differ from the device's.
# - *The moments*, so that the device can do the arithmetic. Then they go up and down in each step,
#   16 bytes a parameter instead of 8.
# - *The update.* 4 bytes down, 4 bytes up; the host knows nothing of the parameters, and the
#   device nothing of the moments.
#
# The reference implementation of ``AdamOffload`` takes the third way, and so do we.
#
# **Predict.** The three parameters have made one step. How many bytes have crossed the link in each
# direction, on account of the step alone? And how many, if the model had a billion parameters?

print("down:", 4 * 3, "bytes; up:", 4 * 3, "bytes")
print(f"a billion parameters: {4 * 10**9 / 1e9:g} GB each way")

# %%
# The same, by the optimizer
# --------------------------
# A `adamoffload.Ledger` writes down each hop.

parameter = ao.Parameter(w, name="w")
ledger = ao.Ledger()
optimizer = ao.AdamOffload([parameter], learning_rate=0.1, ledger=ledger)
optimizer([g])

print("bit by bit equal:", np.array_equal(device.asnumpy(w), device.asnumpy(by_hand)))
print()
print(f"{'hop':<8} {'where':<7} {'bytes over the link':>19}")
where = {"prepare": "device", "update": "host", "wait": "host", "apply": "device"}
for event in ledger.events:
    print(f"{event.hop:<8} {where.get(event.hop, 'link'):<7} {event.nbytes:>19}")

# %%
# The four hops are there, as d2h, update, h2d and apply. Two are new: *prepare* is where weight
# decay and loss scaling would be undone, on the device, before the gradient goes down; in *wait*,
# the host waits until the gradient has arrived. And ``w`` itself has changed: the optimizer
# updates in place, as there is no room for a second copy.
#
# The moments are where they should be, in NumPy arrays on the host:

print(type(optimizer.moment1["w"]).__name__, optimizer.moment1["w"])
print(optimizer.memory())

# %%
# A second step
# -------------
# The moments now remember the first gradient. **Predict.** We step again with a gradient of zero.
# Does the parameter move?

before = device.asnumpy(w)
optimizer([device.asarray(np.zeros(3, np.float32))])
print("moved by", device.asnumpy(w) - before)

# %%
# It does, by about 0.07: *m* has not forgotten, and the old gradient still pushes. Every
# coordinate moves by the same amount, although the gradients were 200 times apart. If that
# surprises you, go back to the page before.
#
# Try it
# ------
# - Step with gradients of which one is NaN. Which parameters are lost, and after how many steps do
#   they recover?
# - Print ``event.seconds`` for each hop, for three parameters and for three million. Which hops
#   grow?
# - Swap ``"numpy"`` for ``"sim"`` in the first line. What stays the same, and what do the times
#   mean now?
