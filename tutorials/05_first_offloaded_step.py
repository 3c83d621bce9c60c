r"""
The first offloaded step
========================

We take one step of Adam with the moments on the other side of a link, by hand and copy by copy,
and then let `adamoffload.AdamOffload` do the same and compare: the parameters, bit by bit, and the
bytes, one by one.

You need :ref:`sphx_glr_tutorials_03_adam_by_hand.py`. At the end you know every hop that a gradient
takes until it has changed a parameter, and why it is the *update* that travels back.
"""

# %%
# Two memories
# ------------
# A backend is a device: memory of its own, with explicit copies there and back. The ``numpy``
# backend keeps its device memory in the host's RAM, but is as strict as a GPU.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload.rules.adam import adam, step_size

plt.rcParams.update(ao.plots.STYLE)

device = ao.get_backend("numpy")
w = device.asarray(np.array([1.0, 2.0, 3.0], np.float32))  # a copy to the device
print(w)

# %%
# The array does not show its numbers, since that would take a copy that nobody asked for. And if we
# mix the two sides, we are stopped, and told what to write instead:

try:
    w + np.ones(3, np.float32)
except ao.ResidencyError as error:
    print(error)

# %%
# The model runs on the device, so the gradient is there, too. For this page we make one up.

g = device.asarray(np.array([0.1, -20.0, 3.0], np.float32))

# %%
# By hand: four hops
# ------------------
# The moments are on the host and begin at zero. `adamoffload.rules.adam.adam` is the ``adam_step``
# of :ref:`sphx_glr_tutorials_03_adam_by_hand.py`; it returns the update and does not know the
# parameters. We call the way to the host *down* (d2h, device to host), and the way back *up* (h2d).
#
# **Predict.** The learning rate is 0.1. What are the three parameters after the step?

m = v = np.zeros(3, np.float32)
beta1, beta2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
lr_t = step_size(np.float32(0.1), beta1, beta2)

g_host = device.asnumpy(g)  # 1. down: d2h
rates = {"lr_t": lr_t, "beta1": beta1, "beta2": beta2, "eps": eps}
delta, m, v = adam(g_host, m, v, **rates)  # 2. on the host
delta_device = device.asarray(delta)  # 3. up: h2d
by_hand = w + delta_device  # 4. on the device

print("gradient, on the host:", g_host)
print("update, on the host:  ", delta)
print("parameter:            ", device.asnumpy(by_hand))

# %%
# Why the update?
# ---------------
# Something must go up again after the host has done its work. There is a choice.
#
# - *The new parameters.* Then the host needs the old ones: a copy of its own, 4 more bytes a
#   parameter, which must never differ from the device's.
# - *The moments*, so that the device does the arithmetic. Then both go up and down in each step, 16
#   bytes per parameter over the link.
# - *The update.* 4 bytes down, 4 bytes up; the host knows nothing of the parameters, and the
#   device nothing of the moments.
#
# MindSpore's `AdamOffload
# <https://www.mindspore.cn/docs/en/r2.4.1/api_python/nn/mindspore.nn.AdamOffload.html>`_, after
# which ours is made, takes the third way. Others take the first: see :doc:`beside its peers
# </peers>`.
#
# The same, by the optimizer
# --------------------------
# A `adamoffload.Ledger` writes down each hop.
#
# **Predict.** How many bytes cross the link in each direction, for our three parameters? And how
# many would it be in each step of a model with a billion?

parameter = ao.Parameter(w, name="w")
ledger = ao.Ledger()
optimizer = ao.AdamOffload([parameter], learning_rate=0.1, ledger=ledger)
optimizer([g])

equal = np.array_equal(device.asnumpy(w), device.asnumpy(by_hand))
print("bit by bit equal:", equal)
assert equal
assert ledger.bytes("d2h") == ledger.bytes("h2d") == 12
print()
where = {"prepare": "device", "update": "host", "wait": "host", "apply": "device"}
print(f"{'hop':<8} {'where':<7} {'bytes over the link':>19}")
for event in ledger.events:
    print(f"{event.hop:<8} {where.get(event.hop, 'link'):<7} {event.nbytes:>19}")

# %%
# 12 bytes down and 12 up, 4 for each parameter; with a billion it is 4 GB each way, in every step.
# We draw what the ledger has, one hop after the other:

heights = {"host": 0, "link": 1, "device": 2}
way = [heights[where.get(event.hop, "link")] for event in ledger.events]
figure, ax = plt.subplots(figsize=(9, 3.6), layout="constrained")
ax.plot(range(len(way)), way, "o-", color="#999999", markersize=9, zorder=1)
for i, (event, y) in enumerate(zip(ledger.events, way, strict=True)):
    if event.nbytes:
        ax.plot(i, y, "o", color=ao.plots.COLORS[event.hop], markersize=14)
    crosses = f"\n{event.nbytes} bytes" if event.nbytes else ""
    beside = {"xytext": (12, 6)}  # the line, where it falls; and where it rises
    if event.hop in ("update", "h2d"):
        beside = {"xytext": (12, -2), "va": "top"}
    ax.annotate(event.hop + crosses, (i, y), textcoords="offset points", **beside)
ax.set(title="The way of one gradient, down and up again")
ax.set(xlabel="one hop after the other", xticks=[])
ax.set_yticks(list(heights.values()), list(heights))
ax.set(xlim=(-0.3, len(way) - 0.2), ylim=(-0.4, 2.6))
plt.show()

# %%
# Our four hops are there, as d2h, update, h2d and apply. Two are new. In *prepare*, the device
# makes the gradient ready before it goes down: weight decay would be added here, and a scaling of
# the loss undone. In *wait*, the host waits until the gradient has arrived. And ``w`` itself has
# changed: the optimizer updates in place, so that the device needs no second copy.
#
# The moments are where they should be, in NumPy arrays on the host:

print(type(optimizer.moment1["w"]).__name__, optimizer.moment1["w"])
print(optimizer.memory())

# %%
# The *ring* is the one buffer that three parameters need; with more than one chunk it has up to
# three.
#
# A second step
# -------------
# The moments now remember the first gradient. **Predict.** We step again with a gradient of zero.
# Do the parameters move? If so, which of them furthest?

before = device.asnumpy(w)
optimizer([device.asarray(np.zeros(3, np.float32))])
print("moved by", device.asnumpy(w) - before)

# %%
# They do, by about 0.07: *m* has not forgotten, and the old gradient still pushes. All move by the
# same amount, although the gradients were up to 200 times apart. If that surprises you, go back to
# :ref:`sphx_glr_tutorials_03_adam_by_hand.py`.
#
# **In one line:** the gradient goes down and the update comes up, 4 bytes each; the moments stay.
#
# Try it
# ------
# - Step once more with a gradient of which one number is NaN, then with ordinary ones. Which
#   parameters are lost? Does any of them ever recover, and why not?
# - Print ``event.seconds`` for each hop, for three parameters and for three million. Which hops
#   grow?
# - Swap ``"numpy"`` for ``"sim"``, a simulated device, in ``get_backend``. Which of the printed
#   numbers stay the same, and what do the seconds mean now?
