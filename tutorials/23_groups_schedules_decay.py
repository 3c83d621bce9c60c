r"""
Parameter groups, schedules and weight decay
============================================

Not every parameter wants the same treatment. We give groups of them rates of their own, let the
rates change over the steps, and see what weight decay does inside Adam, which is not what its name
says.

You need :ref:`sphx_glr_tutorials_03_adam_by_hand.py`. At the end you can read off which rate a
step will use, know three places where counting goes wrong by one, and can tell L2
regularisation from decoupled weight decay by an experiment.
"""

# %%
# A rate for every step
# ---------------------
# A learning rate is a number, a table with one number per step, or a schedule: a function of the
# step, counted from *zero*. Ours rises in a straight line, which is called *warm-up*, and falls
# along half a cosine (`Loshchilov and Hutter, 2016 <https://arxiv.org/abs/1608.03983>`_, equation
# 5). GPT-3 was trained with such a rate (`Brown et al., 2020 <https://arxiv.org/abs/2005.14165>`_,
# appendix B).

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


# %%
# **Predict.** With a warm-up of 10 steps, which rate does the very first step use: 0, or a tenth
# of the peak? What would it be without the ``+ 1``?

device = ao.get_backend("numpy")


def parameter(name, *values):
    return ao.Parameter(device.asarray(np.array(values, np.float32)), name)


ours = WarmUpCosine(peak=1e-2, warmup=10, total=100)
theirs = ao.WarmUpLR(1e-2, 10)  # by the reference implementation's formula
for schedule in (ours, theirs):
    optimizer = ao.AdamOffload([parameter("w", 1.0)], schedule)
    print(f"{type(schedule).__name__:<12} first step: {optimizer.get_lr():g}")

# %%
# A tenth. Without the ``+ 1`` the first step goes nowhere, since ``step`` is 0 then; the warm-up
# that comes with the library, which keeps the reference implementation's formula, does just that.
# This is the first place where counting goes wrong by one.
#
# Here is our schedule beside two that need no class: half the rate every 25 steps, and a table.

rates = {
    "warm-up, cosine": ours,
    "exponential": ao.ExponentialDecayLR(1e-2, 0.5, decay_steps=25, is_stair=True),
    "table": ao.piecewise_constant_lr([40, 100], [5e-3, 1e-3]),
}
figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
ao.plots.schedule(rates, steps=100, ax=ax)
plt.show()

# %%
# The second place is this figure. It begins at 1: figures, ledger and probe count the steps that
# were made, and so does the *t* of the bias correction. Only schedules and tables begin at 0.
#
# The third is the end of a table. **Predict.** A table has two entries, and we make three steps.
# Does the third use the last entry again, or the first, or none? What happens to the weight?

optimizer = ao.AdamOffload([w := parameter("w", 1.0)], learning_rate=[0.1, 0.1])
gradient = device.asarray(np.ones(1, np.float32))
optimizer([gradient])
optimizer([gradient])
before = device.asnumpy(w.data)
try:
    optimizer([gradient])
except RuntimeError as error:
    print(error)
unchanged = np.array_equal(before, device.asnumpy(w.data))
print("and nothing has changed:", unchanged)
assert unchanged

# %%
# None: a hundred numbers are enough for one hundred steps, and the next one is refused before it
# has changed anything.
#
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
lrs, decays = optimizer.get_lr(), optimizer.get_weight_decay()
for p, lr, decay in zip(optimizer.parameters, lrs, decays, strict=True):
    print(f"{p.name:<12} lr {lr:<7g} weight decay {decay:g}")

# %%
# Without groups, there is an exemption that surprises people: parameters with ``beta`` or ``gamma``
# in their names get no decay. It is a habit of the reference implementation, meant for the
# parameters of normalisation layers, and it goes by the name alone. With groups it does not apply.
# With a gradient of zero, nothing but decay can move a weight:

zero = device.asarray(np.zeros(1, np.float32))
for name in ("w", "norm.gamma", "alphabeta"):
    for grouped in (False, True):
        w = parameter(name, 1.0)
        params = [{"params": [w]}] if grouped else [w]
        ao.AdamOffload(params, weight_decay=0.01)([zero])
        moved = device.asnumpy(w.data)[0] != 1
        where = "in a group" if grouped else "no groups"
        print(f"{name:<10} {where:<10} decays: {moved}")

# %%
# What decay does in Adam
# -----------------------
# The name promises that weights shrink by a factor in each step. What is computed is *L2
# regularisation*: the decay times the weight is added to the gradient, and then goes through Adam
# like the rest of it.
#
# **Predict.** Two weights, 1 and 100, have no gradient of their own, and a decay of 0.1. So the
# gradients that reach Adam are 0.1 and 10. By how much does each weight move in the first step,
# with a learning rate of 0.1? Will the large one shrink faster?

w = parameter("w", 1.0, 100.0)
optimizer = ao.AdamOffload([w], learning_rate=0.1, weight_decay=0.1)
zeros = device.asarray(np.zeros(2, np.float32))
history = [device.asnumpy(w.data)]
for _ in range(200):
    optimizer([zeros])
    history.append(device.asnumpy(w.data))
history = np.array(history)
print("first step:", history[1] - history[0])
assert np.allclose(history[1] - history[0], -0.1, rtol=1e-4)

# %%
# Both by 0.1, all but a trace: Adam divides by the size of the gradient, and with it by the size
# of the weight. *Decoupled* decay (AdamW, `Loshchilov and Hutter, 2017
# <https://arxiv.org/abs/1711.05101>`_, algorithm 2) goes round Adam and multiplies the weight
# itself, here by ``1 - lr * decay``. Both of them, as a share of where the weights began:

decoupled = (1 - 0.1 * 0.1) ** np.arange(201)
blue, red = ao.plots.LINES[:2]
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.plot(history[:, 1] / 100, color=red, label="L2 in the gradient, weight 100")
ax.plot(decoupled, color="black", linestyle=":", label="decoupled, any weight")
ax.plot(history[:, 0], color=blue, label="L2 in the gradient, weight 1")
ax.set(title="Two meanings of weight decay", xlabel="step")
ax.set_ylabel("share of the weight left")
ax.legend(loc="upper right", bbox_to_anchor=(1, 0.8))
plt.show()
print(f"L2: weight 1 changes its sign in step {np.argmax(history[:, 0] < 0)};")
print(f"weight 100 has {history[200, 1]:.0f} left after 200 steps")
print(f"decoupled: every weight has {decoupled[200]:.0%} left after 200 steps")

# %%
# With L2, a weight walks towards zero at about the speed of the learning rate, whatever its size.
# The small one is there soon, and its momentum carries it past. With decoupled decay, all shrink in
# proportion. So a weight of 100 beside a weight of 1, without gradients, tells for any library
# which of the two it has: does the large one lose a hundred times as much in a step, or the same?
#
# Loss scaling sets a trap. It multiplies the loss, and with it all gradients, so that small ones
# survive 16-bit numbers (`Micikevicius et al., 2017 <https://arxiv.org/abs/1710.03740>`_, section
# 3.2); the optimizer divides the gradient by the same ``loss_scale``. But the weight was never
# multiplied.
#
# **Predict.** A weight of 3, a gradient of 1, a decay of 0.01: which gradient should reach Adam?
# Which one would, with a scale of 1024, if the decay were added first and the sum divided? The
# first moment tells: after one step it is ``1 - beta1``, a tenth, of what came in.

for scale in (1, 1024):
    w = parameter("w", 3.0)
    optimizer = ao.AdamOffload([w], weight_decay=0.01, loss_scale=scale)
    optimizer([gradient * scale])
    print(f"scale {scale:>4}: {10 * optimizer.moment1['w'][0]:.5f}")
    assert np.isclose(10 * optimizer.moment1["w"][0], 1.03)
print(f"in the trap: {(1024 * 1 + 0.01 * 3) / 1024:.5f}")

# %%
# The decay is multiplied by the scale before it is added, so that the division leaves it as it was.
#
# **In one line:** L2 decay goes through Adam, and so walks; decoupled decay shrinks.
#
# Try it
# ------
# - Pass a function as ``weight_decay``: ``lambda step: 0.01 if step < 50 else 0.0``. Which step,
#   counted from 1, is the first without decay?
# - Give the weight of 1 a gradient of random sign and size 100, new in each step, and see how much
#   of it is left after 2,000 steps at a rate of 0.001. Then take the decay away. What has become of
#   L2? What would decoupled decay do?
# - Draw ``ao.plots.schedule(optimizer, steps=100)`` for the optimizer with groups.
