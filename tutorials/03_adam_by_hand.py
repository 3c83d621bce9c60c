r"""
Adam by hand, symbol by symbol
==============================

Adam keeps two numbers for every weight and does a few lines of arithmetic with them. We do these
lines by hand for two weights, look at every symbol, and then check that the optimizer does the same
to the last bit.

You need NumPy and the idea of gradient descent. At the end you can say what *m* and *v* are for,
why the first step has the size of the learning rate whatever the gradient, and what Adam does
where the gradient changes its sign.
"""

# %%
# Two weights, one of them steep
# ------------------------------
# The loss :math:`f(w) = \tfrac12 (w_0^2 + 100\, w_1^2)` is a valley: along the second weight it is
# a hundred times steeper than along the first. Its gradient is easy to write down.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao

plt.rcParams.update(ao.plots.STYLE)

steepness = np.array([1.0, 100.0], np.float32)


def gradient(w):
    return steepness * w


start = np.array([1.0, 1.0], np.float32)
print("gradient at the start:", gradient(start))

# %%
# Plain gradient descent moves each weight by its gradient times the learning rate
# :math:`\alpha`. So each step multiplies the steep weight by :math:`1 - 100\,\alpha`: above
# :math:`\alpha = 2/100` this is beyond -1, and the weight swings ever wider. But a rate below 2/100
# takes the flat weight less than 2% nearer to its minimum in a step. One number cannot suit both.
#
# The symbols
# -----------
# Adam (`Kingma and Ba, 2014 <https://arxiv.org/abs/1412.6980>`_) remembers two things about each
# weight:
#
# - :math:`m`, the *first moment*: a running average of the gradient. Where does it point, lately?
# - :math:`v`, the *second moment*: a running average of its square. How large is it, lately?
#
# With the gradient :math:`g` of step :math:`t`, counted from 1, one step is Algorithm 1 of the
# paper, in the order of computation that the end of its section 2 gives:
#
# .. math::
#
#     m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
#     v &\leftarrow \beta_2 v + (1 - \beta_2)\, g^2 \\
#     \alpha_t &= \alpha \sqrt{1 - \beta_2^t} \,/\, (1 - \beta_1^t) \\
#     \delta &= -\alpha_t\, m \,/\, (\sqrt{v} + \epsilon) \\
#     w &\leftarrow w + \delta
#
# Both averages start at 0, and so are too small at first. The factors in :math:`\alpha_t` make up
# for that. They are called *bias correction*, and tend to 1. A tiny :math:`\epsilon` keeps the
# denominator from 0; forget it until the end of this page.

alpha = np.float32(0.1)  # the learning rate
beta1, beta2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)


def adam_step(g, m, v, beta1_power, beta2_power):
    """Return the update and the new moments."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    alpha_t = alpha * np.sqrt(1 - beta2_power) / (1 - beta1_power)
    delta = -alpha_t * m / (np.sqrt(v) + eps)
    return delta, m, v


# %%
# **Predict.** The second gradient is a hundred times the first. By how much does each weight move
# in the first step? Put :math:`m = v = 0` and :math:`t = 1` into the five lines, and write down two
# numbers.

zero = np.zeros(2, np.float32)
delta, m, v = adam_step(gradient(start), zero, zero, beta1, beta2)
print("m       =", m)
print("sqrt(v) =", np.sqrt(v))
print("delta   =", delta)

# %%
# Both by the learning rate, 0.1. In the first step :math:`m = (1-\beta_1)\,g` and :math:`\sqrt{v}
# = \sqrt{1-\beta_2}\,|g|`: the size of the gradient cancels, and the bias correction cancels what
# is left. Only the sign survives.
#
# So Adam's learning rate does not say what to multiply the gradient with. It is a *length*, in the
# weight's own unit: how far each weight moves in the first step. How far does it move later?
#
# What the ratio measures
# -----------------------
# After the first step the two averages part. Here are three gradients, all of size 1: one is
# constant, one changes its sign at every step, one draws its sign at random. With :math:`\epsilon`
# left out, the step in learning rates is the ratio of the two corrected averages.

steps = np.arange(1, 101)
rng = np.random.default_rng(0)
signs = {
    "constant": np.ones(steps.size),
    "alternating": (-1.0) ** steps,
    "random": rng.choice([-1.0, 1.0], steps.size),
}

update = {}  # in learning rates
for kind, gradients in signs.items():
    m = v = 0.0
    update[kind] = np.empty(steps.size)
    for i, (t, g) in enumerate(zip(steps, gradients, strict=True)):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        update[kind][i] = (m / (1 - 0.9**t)) / np.sqrt(v / (1 - 0.999**t))

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True)
titles = ("Constant: full speed", "Alternating: on the spot", "Random: in between")
for ax, (kind, gradients), title in zip(axes, signs.items(), titles, strict=True):
    ax.plot(steps, gradients, "o", color="#BBBBBB", label="sign of the gradient")
    ax.plot(steps, update[kind], color=ao.plots.COLORS["step_size"], label="step")
    ax.set(title=title, xlabel="number of the step", ylim=(-1.2, 1.2))
axes[0].set_ylabel("corrected $m / \\sqrt{v}$ (learning rates)")
axes[0].legend(loc="lower right")
figure.tight_layout()
plt.show()

# %%
# All three have the same :math:`v`, since all gradients have size 1. What differs is :math:`m`:
# the constant gradient adds up, and the weight walks at full speed; the alternating one all but
# cancels; the random one is in between, and wanders. The ratio :math:`m / \sqrt{v}` measures how
# much the recent gradients *agree*.
#
# **Predict.** Which size does the ratio of the alternating gradient tend to? Long after the start,
# :math:`v = 1`, and :math:`m` is the last gradient's sign times the geometric series
# :math:`(1-\beta_1)(1 - \beta_1 + \beta_1^2 - \dots)`. Sum it.

print(f"predicted: {(1 - 0.9) / (1 + 0.9):.6f} learning rates")
print(f"measured:  {abs(update['alternating'][-1]):.6f}, in step {steps[-1]}")

# %%
# Two weights, one speed
# ----------------------
# Back to the valley. Let gradient descent have its best rate. Each step multiplies the flat weight
# by :math:`1 - \alpha` and the steep one by :math:`1 - 100\,\alpha`; the larger of the two sizes is
# smallest where they are equal, at :math:`\alpha = 2/101`. Adam gets 0.1.
#
# **Predict.** By which factor does each step of gradient descent shrink the two weights, and how
# much is left after 60? How do their curves differ? And Adam's two curves: which falls faster?

best_rate = np.float32(2 / 101)


def descend(steps):
    w = start.copy()
    path = [w]
    for _ in range(steps):
        w = w - best_rate * gradient(w)
        path.append(w)
    return np.array(path)


def adam(steps):
    w, m, v = start.copy(), zero, zero
    beta1_power = beta2_power = np.float32(1)
    path = [w]
    for _ in range(steps):
        beta1_power, beta2_power = beta1_power * beta1, beta2_power * beta2
        delta, m, v = adam_step(gradient(w), m, v, beta1_power, beta2_power)
        w = w + delta
        path.append(w)
    return np.array(path)


paths = {
    "Gradient descent at its best rate": descend(60),
    "Adam: both at one speed": adam(60),
}
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True)
for ax, (title, path) in zip(axes, paths.items(), strict=True):
    ax.plot(path[:, 0], color=ao.plots.LINES[0], label="$w_0$, flat")
    ax.plot(path[:, 1], "--", color=ao.plots.LINES[1], label="$w_1$, steep")
    ax.axhline(0, color="#999999", linewidth=0.8)
    ax.set(title=title, xlabel="number of the step")
axes[0].set_ylabel("weight (the minimum is at 0)")
axes[0].legend()
figure.tight_layout()
plt.show()
left, apart = np.abs(descend(60)[-1]).max(), np.ptp(adam(60), axis=1).max()
print(f"gradient descent: {left:.2f} left, predicted {(1 - 2 / 101) ** 60:.2f}")
print(f"Adam: {np.abs(adam(60)[-1]).max():.2f} left; its two weights at most {apart:.0e} apart")
assert abs(left - (1 - 2 / 101) ** 60) < 1e-3
assert apart < 1e-5

# %%
# At the best of all rates, gradient descent lets the steep weight jump from one side of its minimum
# to the other, and is still too slow for the flat one. Adam does not know which is which: but for
# rounding, both curves are the same. That is its strength. Its price: it overshoots both, since *m*
# still remembers the way it came.
#
# **In one line:** agreement sets the step, not the size of the gradient.
#
# The same, by the optimizer
# --------------------------
# `adamoffload.AdamOffload` computes these very lines, in float32, in this order. The weights are
# on a *device*, the moments on the *host*; the next pages move them there one by one.
# Here it must only agree, bit by bit.

device = ao.get_backend("numpy")
weights = ao.Parameter(device.asarray(start), name="w")
optimizer = ao.AdamOffload([weights], learning_rate=0.1)
path = [start]
for _ in range(60):
    optimizer([weights.data * device.asarray(steepness)])
    path.append(device.asnumpy(weights.data))

equal = np.array_equal(np.array(path), adam(60))
print("all 60 steps equal, bit by bit:", equal)
assert equal

# %%
# Try it
# ------
# - *Easy.* Multiply the loss by 1000 (that is, ``steepness``). What becomes of gradient descent?
#   Why does hardly anything change for Adam?
# - *Medium.* Gradient descent with *momentum*, :math:`x \leftarrow 0.669\,x - 0.0331\,g`, :math:`w
#   \leftarrow w + x`, has the two best numbers for this valley. How much is left after 60 steps?
#   What must you know to choose them, that Adam need not be told?
# - *Medium.* Make ``beta1`` as small as 1e-30, also in ``AdamOffload``. What happens to the
#   overshoot, and what would it cost where gradients are noisy?
# - *Hard.* Make ``eps`` as large as 1, also in ``AdamOffload``. What becomes of the two equal
#   curves, and which method does Adam turn into when ``eps`` is much larger than :math:`\sqrt{v}`?
#
# .. raw:: html
#
#    <details><summary>Hints and answers</summary>
#
# 1. *Hint: what does the size of the gradient do in the first step?* At the old rate, gradient
#    descent leaves for infinity; its best rate is now a thousandth, and with it the path is the
#    same. In Adam the size cancels in :math:`m / \sqrt{v}`.
# 2. *Hint: the first exercise.* Less than 0.01, better than Adam. But both numbers follow from the
#    smallest and the largest steepness, 1 and 100, which nobody knows for a network.
# 3. *Hint: what does m remember now?* There is none: without a memory of the way, both weights come
#    to rest at 0. But then *m* is the last gradient, noise and all, and the step no longer says how
#    much gradients agree.
# 4. *Hint: divide by a constant.* They part: 0.37 of the flat weight is left after 60 steps. With
#    :math:`\sqrt{v}` out of the sum, the step is proportional to *m*: gradient descent with
#    momentum. (The rule in the library stands in one place, :mod:`adamoffload.rules.adam`.)
#
# .. raw:: html
#
#    </details>
