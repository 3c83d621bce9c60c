r"""
Parameter groups, schedules and weight decay
============================================

Not every parameter wants the same treatment. We give groups of them rates of their own, let the
rates change over the steps, and see what weight decay does inside Adam, which is not what its name
says.

You need :ref:`sphx_glr_tutorials_01_adam_by_hand.py`. At the end you can read off which rate a
step will use, know the three places where counting goes wrong by one, and can tell L2
regularisation from decoupled weight decay by an experiment.
"""

# %%
# A rate for every step
# ---------------------
# A learning rate is a number, a table with one number a step, or a schedule: a function of the
# step, counted from *zero*. Here are three of them, warm-up and cosine among them, as most
# transformers are trained (`Loshchilov and Hutter, 2016 <https://arxiv.org/abs/1608.03983>`_).

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao

plt.rcParams.update(ao.plots.STYLE)


class WarmUpCosine(ao.LearningRateSchedule):
    """Rise in a straight line, then fall along half a cosine."""

    def __init__(self, peak, warmup, total):
        super().__init__()
        self.peak, self.warmup, self.total = peak, warmup, total

    def __call__(self, step):
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        phase = (step - self.warmup) / (self.total - self.warmup)
        return self.peak * 0.5 * (1 + np.cos(np.pi * phase))


rates = {
    "warm-up, cosine": WarmUpCosine(peak=1e-2, warmup=10, total=100),
    "exponential": ao.ExponentialDecayLR(1e-2, decay_rate=0.5, decay_steps=25, is_stair=True),
    "table": ao.piecewise_constant_lr([40, 100], [5e-3, 1e-3]),
}
figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
ao.plots.schedule(rates, steps=100, ax=ax)
plt.show()

# %%
# **Predict.** Which rate does the very first step use, with the schedule above: 0, or a tenth of
# the peak? What would it be without the ``+ 1``?

device = ao.get_backend("numpy")


def parameter(name, *values):
    return ao.Parameter(device.asarray(np.array(values, np.float32)), name)


optimizer = ao.AdamOffload([parameter("w", 1.0)], rates["warm-up, cosine"])
print("first step:", optimizer.get_lr())

# %%
# A tenth. Without the ``+ 1`` the first step would go nowhere: ``step`` is 0 then. (Bias correction
# counts from 1, as in the paper. That is the first place to go wrong by one.)
#
# The second is the end of a table. One hundred numbers are enough for one hundred steps:

optimizer = ao.AdamOffload([w := parameter("w", 1.0)], learning_rate=[0.1, 0.1])
gradient = device.asarray(np.ones(1, np.float32))
optimizer([gradient])
optimizer([gradient])
before = device.asnumpy(w.data)
try:
    optimizer([gradient])
except RuntimeError as error:
    print(error)
print("and nothing has changed:", np.array_equal(before, device.asnumpy(w.data)))

# %%
# Groups
# ------
# A group is a dict: its parameters, and what differs from the defaults. A common recipe decays
# matrices and leaves biases and norms alone; let us also give the head a rate ten times as high.

body = [parameter("body.weight", 1.0, -1.0), parameter("head.weight", 2.0)]
others = [parameter("body.bias", 0.5), parameter("norm.gain", 1.0)]
optimizer = ao.AdamOffload(
    [
        {"params": body[:1], "weight_decay": 0.01},
        {"params": body[1:], "weight_decay": 0.01, "lr": 1e-2},
        {"params": others},
    ],
    learning_rate=1e-3,
)
for p, lr, decay in zip(
    optimizer.parameters, optimizer.get_lr(), optimizer.get_weight_decay(), strict=True
):
    print(f"{p.name:<12} lr {lr:g}   weight decay {decay:g}")

# %%
# Without groups, there is one exemption that surprises people: parameters with ``beta`` or
# ``gamma`` in their names get no decay. It is a habit of the reference implementation, for the
# parameters of normalisation layers, and it goes by the name alone. With groups it does not apply.
#
# What decay does in Adam
# -----------------------
# The name promises that weights shrink by a factor in each step. What is computed is *L2
# regularisation*: the decay times the weight is added to the gradient, and then goes through Adam
# like the rest of it.
#
# **Predict.** Two weights, 1 and 100, have no gradient of their own, and a decay of 0.01. So the
# gradients that reach Adam are 0.01 and 1. By how much does each weight move in the first step,
# with a learning rate of 0.1? Will the large one shrink faster?

w = parameter("w", 1.0, 100.0)
optimizer = ao.AdamOffload([w], learning_rate=0.1, weight_decay=0.01)
zero = device.asarray(np.zeros(2, np.float32))
history = [device.asnumpy(w.data)]
for _ in range(200):
    optimizer([zero])
    history.append(device.asnumpy(w.data))
history = np.array(history)
print("first step:", history[1] - history[0])

# %%
# Both by 0.1: Adam divides by the size of the gradient, and with it by the size of the weight.
# *Decoupled* decay (AdamW, `Loshchilov and Hutter, 2017 <https://arxiv.org/abs/1711.05101>`_) goes
# round Adam and multiplies the weight itself, by ``1 - lr * decay``. Here are both, for the same
# two weights, as a share of where they began:

decoupled = (1 - 0.1 * 0.01) ** np.arange(201)
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.plot(history[:, 0] / 1, color=ao.plots.LINES[0], label="L2 in the gradient, weight 1")
ax.plot(history[:, 1] / 100, color=ao.plots.LINES[1], label="L2 in the gradient, weight 100")
ax.plot(decoupled, color="black", linestyle=":", label="decoupled, any weight")
ax.set(title="Two meanings of weight decay", xlabel="step", ylabel="share of the weight left")
ax.legend(loc="center right")
plt.show()

# %%
# With L2, every weight walks towards zero at about the speed of the learning rate, whatever its
# size, so that small weights are gone first. With decoupled decay, all shrink in proportion. If
# you see in a new library whether a weight of 100 shrinks by a hundred times as much as a weight
# of 1, you know which one it has.
#
# Loss scaling meets decay in a third place to go wrong: the gradient is scaled, the weight is not.
# So the decay is multiplied by the scale before it is added, and the sum is divided by it:

unscaled, scaled = parameter("w", 3.0), parameter("w", 3.0)
plain = ao.AdamOffload([unscaled], weight_decay=0.01)
with_scale = ao.AdamOffload([scaled], weight_decay=0.01, loss_scale=1024)
plain([gradient])
with_scale([gradient * 1024])
print("the same:", np.array_equal(device.asnumpy(unscaled.data), device.asnumpy(scaled.data)))

# %%
# Try it
# ------
# - Pass a function as ``weight_decay``: ``lambda step: 0.01 if step < 50 else 0.0``. When exactly
#   does it change?
# - Give the weight that has no gradient of its own a gradient of random sign and size 1. Which of
#   the two kinds of decay still works?
# - Draw ``ao.plots.schedule(optimizer, steps=100)`` for an optimizer with groups.
