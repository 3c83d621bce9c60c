r"""
Watching moments
================

Adam's two moments say what the gradient of every weight has been like. We give four kinds of
gradient to the optimizer, learn what each looks like in *m* and *v*, and then go and find the same
four in a network that learns to read digits.

You need :ref:`sphx_glr_tutorials_03_first_offloaded_step.py`, and from
:ref:`sphx_glr_tutorials_01_adam_by_hand.py` what *m* and *v* are. At the end you can watch an
optimizer with a `adamoffload.Probe`, and tell a dead unit, a rare feature and a noisy gradient from
each other by two curves.
"""

# %%
# Four characters
# ---------------
# We need no model yet: a gradient is an array, and the optimizer doesn't ask where it comes from.
# Here are four parameters of 500 coordinates each, whose gradients have different characters.
#
# - *steady*: always 1, with a little noise;
# - *noisy*: as large, but of random sign and size, with mean 0;
# - *rare*: 1 in one step of a hundred, on average, and 0 in all others;
# - *dying*: like *steady* for 300 steps, and 0 ever after.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload.data import batches, load_digits
from adamoffload.probes import LEVELS

plt.rcParams.update(ao.plots.STYLE)

N, STEPS, LR = 500, 1000, 1e-3
rng = np.random.default_rng(0)


def characters(step):
    """Return a gradient of each kind."""
    steady = 1 + 0.1 * rng.standard_normal(N)
    rare = (rng.random(N) < 0.01).astype(float)
    rare[0] = step == 600  # a coordinate that has one gradient in its life
    return {
        "steady": steady,
        "noisy": rng.standard_normal(N),
        "rare": rare,
        "dying": steady if step <= 300 else np.zeros(N),
    }


# %%
# The moments live on the host, in NumPy arrays, so nothing stops you from printing them after each
# step. A probe does it for you: it takes quantiles and norms over all coordinates, here in every
# fifth step, and follows single coordinates through every step if it is told which.

device = ao.get_backend("numpy")
parameters = [ao.Parameter(device.asarray(np.zeros(N, np.float32)), name) for name in characters(0)]
probe = ao.Probe(every=5, coordinates=[("noisy", 0), ("rare", 0), ("rare", 1)])
optimizer = ao.AdamOffload(parameters, LR, probe=probe)
given = 0  # gradients of "rare" that were not 0, but for coordinate 0
for step in range(1, STEPS + 1):
    gradients = characters(step)
    given += np.count_nonzero(gradients["rare"][1:])
    optimizer([device.asarray(gradients[p.name].astype(np.float32)) for p in parameters])

# %%
# **Predict.** Which of the four end with about the same :math:`\sqrt{v}`? Whose *m* comes up to its
# :math:`\sqrt{v}`? Sketch the eight curves before you look.

figure, ax = plt.subplots(figsize=(9, 5.2), layout="constrained")
ao.plots.moments(probe, ax=ax)
plt.show()

# %%
# Both moments begin at zero and grow: *m* within some twenty steps, :math:`\sqrt{v}` over more than
# a thousand. The bias correction makes up for that.
#
# *Steady* and *noisy* have the same :math:`\sqrt{v}`: one curve covers the other. A square does not
# know signs. Whether gradients agree is seen in *m* alone, so it takes both curves to tell the two
# apart. Only the *m* of *steady* comes up to its :math:`\sqrt{v}`; that of *noisy* stays below.
#
# How far below?
# --------------
# **Predict.** Let the gradients be independent, with mean 0 and variance 1. Then the variance of
# :math:`m = 0.1 \sum_k 0.9^k g_{t-k}` is a geometric series. Which number is its root?
#
# .. math::
#
#     & (1-\beta_1)^2 (1 + \beta_1^2 + \beta_1^4 + \dots) \\
#     &= (1-\beta_1)^2 / (1-\beta_1^2) \\
#     &= (1-\beta_1) / (1+\beta_1)

last = probe.steps > 500
print(f"predicted for noise: {np.sqrt((1 - 0.9) / (1 + 0.9)):.3f}")
for name in ("noisy", "steady", "rare"):
    m, root_v = (probe.rms(quantity, name)[last] for quantity in ("m", "sqrt_v"))
    grown = 1 - 0.999 ** probe.steps[last]  # m is past its bias by now, v is not
    print(f"{name:<20} {np.mean(m / np.sqrt(root_v**2 / grown)):.3f}")

# %%
# That is the floor. A parameter whose *m* is about 0.23 of its :math:`\sqrt{v}` moves, but at
# random: its gradients say nothing that lasts longer than *m* remembers. *Rare* is a little above
# the floor, since its gradients are independent but not of mean 0.
#
# For single coordinates, the probe has the same ratio, bias-corrected: the step in learning rates.
# Here are its quantiles in the last sample.

print(f"{'':<8}" + "".join(f"{f'{level:.0%}':>7}" for level in LEVELS))
for name in probe.names:
    print(f"{name:<8}" + "".join(f"{x:7.2f}" for x in probe.quantiles("ratio", name)[-1]))

# %%
# All of *steady* are near 1. *Noisy* is spread around 0. And of *rare*, most stand still and a few
# are on the move: the median alone would have called it dead.
#
# What dies, and how fast
# -----------------------
# **Predict.** From step 301 on, *dying* has a gradient of 0. After how many steps is its *m* half
# of what it was? And its :math:`\sqrt{v}`?

print(f"predicted: m after {np.log(0.5) / np.log(0.9):.1f} steps,", end=" ")
print(f"root of v after {np.log(0.5) / np.log(0.999**0.5):.0f} steps")
after = (probe.steps > 300) & (probe.steps <= 600)
for quantity in ("m", "sqrt_v"):
    first, *_, end = np.log2(probe.rms(quantity, "dying")[after])
    print(f"measured:  {quantity} halves in {np.ptp(probe.steps[after]) / (first - end):.1f} steps")

# %%
# That is what death looks like: *m* falls like a stone, and :math:`\sqrt{v}` remembers. The update
# has the size of their ratio, so a dead weight soon stands still. A weight that has *never* had a
# gradient is simpler still: both are exactly 0, and so is the update.
#
# One gradient in a lifetime
# --------------------------
# A silence can also end. Coordinate 0 of *rare* has a single gradient, in step 600. We traced it.

trace = probe.trace("rare", 0)
other, noise = probe.trace("rare", 1), probe.trace("noisy", 0)
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), sharex=True, layout="constrained")
titles = ("one gradient", "one in a hundred", "noise")
for ax, t, title in zip(axes, (trace, other, noise), titles, strict=True):
    ax.vlines(t["step"], 0, t["gradient"], color="#BBBBBB", linewidth=0.8, label="$g$")
    ax.plot(t["step"], np.sqrt(t["v"]), color=ao.plots.COLORS["sqrt_v"], label=r"$\sqrt{v}$")
    ax.plot(t["step"], t["m"], color=ao.plots.COLORS["m"], linewidth=1.2, label="$m$")
    ax.set(title=title, xlabel="step")
for ax in axes[:2]:
    ax.set_ylim(-0.01, 0.2)  # the gradients go on to 1
axes[0].legend(loc="upper left")
plt.show()

# %%
# (The gradients of the first two go on to 1, above the edge.) Each gradient gives *m* a kick that
# fades, and :math:`\sqrt{v}` a rise that lasts.
#
# **Predict.** After 599 steps of silence, *m* and *v* are 0. Then comes a gradient of 1. How many
# learning rates does the weight move in that step? And how far in all, with no further gradient?
#
# Now :math:`m = 1-\beta_1` and :math:`v = 1-\beta_2`; the bias correction of *m* is over, and that
# of *v* divides it by :math:`1 - 0.999^{600}`. As for the way in all: *m* fades by 0.9 a step, so
# that ten such steps are a fair guess.

ratio = 0.1 / np.sqrt(0.001 / (1 - 0.999**600))
moved = -trace["delta"] / LR
print("in learning rates")
print(f"first step: predicted {ratio:.2f}, measured {moved[599]:.2f}")
print(f"in all:     predicted {10 * ratio:.1f}, measured {moved.sum():.1f}")

# %%
# More than two learning rates at once, where the first tutorial found a step of the size of one!
# That holds while gradients keep coming. The paper gives the bound (`Kingma and Ba, 2014
# <https://arxiv.org/abs/1412.6980>`_, section 2.1): :math:`(1-\beta_1) / \sqrt{1-\beta_2}`, 3.16
# learning rates, for the one gradient after a long silence.
#
# So Adam listens to what is rarely said. **Predict.** With one gradient in *K* steps,
# :math:`\sqrt{v}` is about :math:`1/\sqrt{K}`, and each gradient gives *m*, over the steps in which
# it fades, 1 in all. How far does each of them move its weight?

w = device.asnumpy(parameters[2].data)[1:]  # without the one above; they all move one way
k = STEPS * w.size / given
print(f"one gradient in {k:.0f} steps; learning rates for each:", end=" ")
print(f"predicted {np.sqrt(k):.1f}, measured {-w.sum() / given / LR:.1f}")

# %%
# Nearly; each gradient also counts in the *v* that divides it, and in a thousand steps there are
# only ten of them. A weight with a steady gradient moves one learning rate for each.
#
# In the wild
# -----------
# A network of 32 units between 64 pixels and 10 digits; nothing about it is made up. Some of the
# pixels are in a corner, where hardly anybody writes. And a unit may be *born dead*: if its input
# is below 0 for every image, the ReLU passes nothing on, no gradient comes back, and nothing can
# ever wake it.

digits = load_digits()
images, labels = digits.train_images, digits.train_labels
UNITS, BATCH = 32, 16


def parameter(name, values):
    return ao.Parameter(device.asarray(values.astype(np.float32)), name)


rng = np.random.default_rng(0)
initial = np.sqrt(2 / 64) * rng.standard_normal((64, UNITS))
w1 = parameter("hidden.weight", initial)
b1 = parameter("hidden.bias", np.zeros(UNITS))
w2 = parameter("out.weight", np.sqrt(1 / UNITS) * rng.standard_normal((UNITS, 10)))
b2 = parameter("out.bias", np.zeros(10))


def loss(x, y):
    return ao.softmax_cross_entropy(np.maximum(x @ w1 + b1, 0) @ w2 + b2, y)


lit = np.sum(images > 0, axis=0)
born_dead = np.flatnonzero(np.max(images @ initial, axis=0) <= 0)
print("pixels that no image lights:", np.flatnonzero(lit == 0))
print("units born dead:            ", born_dead)

# %%
# **Predict.** From these two lines: how many of the 2,048 weights between pixels and units will
# never get a gradient, at the least?

dark = np.sum(lit == 0)
print("at the least:", UNITS * dark + 64 * born_dead.size - dark * born_dead.size)

watch = ao.Probe(every=5, sample=2048)  # quantiles over all weights, not 512 of them
optimizer = ao.AdamOffload([w1, b1, w2, b2], LR, probe=watch)
loss_and_gradients = ao.value_and_grad(loss, optimizer.parameters)
for _ in range(6):
    for batch in batches(len(labels), BATCH, rng):
        _, gradients = loss_and_gradients(
            device.asarray(images[batch]), device.asarray(labels[batch])
        )
        optimizer(gradients)

v = optimizer.moment2["hidden.weight"]
print("with v = 0 after", optimizer.global_step, "steps:", np.sum(v == 0))
below = watch.series("eps_limited", "hidden.weight")[-1]
print(f"root of v below epsilon, says the probe: {below:.1%} of {v.size}")

# %%
# The series ``eps_limited`` is the smoke detector for this: the share of coordinates whose
# :math:`\sqrt{v}` is below :math:`\epsilon`. And since *v* is a plain array on the host, we can
# look at all of it. A row is a pixel, a column a unit.

figure, axes = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
with np.errstate(divide="ignore"):
    shown = axes[0].imshow(np.log10(np.sqrt(v)), aspect="auto", vmin=-5, cmap="viridis")
axes[0].set(title=r"$\log_{10} \sqrt{v}$ of hidden.weight", xlabel="unit", ylabel="pixel")
axes[0].set_facecolor("black")  # where v is 0
axes[0].grid(visible=False)
figure.colorbar(shown, ax=axes[0])
axes[1].barh(np.arange(64), lit / len(labels), color=ao.plots.LINES[0])
axes[1].set(title="images that light the pixel", xlabel="share", ylim=(63.5, -0.5))
plt.show()

# %%
# Black columns are dead units, black rows are pixels that nobody lights. The dark rows are rare
# features: their pixels are those with hardly a bar on the right. A dark column is a unit that
# seldom wakes; where it crosses a dark row, the two may not have met yet, and so there is some
# more black.
#
# When signal turns into noise
# ----------------------------
# The last question: does the network still learn something in each step? In step 1, every ratio is
# a sign, or 0. Then the gradients begin to disagree.

figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
ao.plots.moments(watch, "out.weight", ax=axes[0])
ratio = dict(zip(LEVELS, watch.quantiles("ratio", "out.weight").T, strict=True))
axes[1].fill_between(watch.steps, ratio[0.05], ratio[0.95], color=ao.plots.LINES[0], alpha=0.25)
axes[1].fill_between(watch.steps, ratio[0.25], ratio[0.75], color=ao.plots.LINES[0], alpha=0.4)
axes[1].plot(watch.steps, ratio[0.5], color=ao.plots.LINES[0])
axes[1].set(title="Agreement of the gradients", xlabel="step", ylabel="step, in learning rates")
plt.show()

# %%
# **Predict.** *Noisy* showed how wide these bands are if there is nothing but noise. How much wider
# are those of the network, at the beginning and at the end?

noise = probe.quantiles("ratio", "noisy")[last].mean(axis=0)
noise = dict(zip(LEVELS, noise, strict=True))
print(f"{'':<12}middle half   middle 90%")
print(f"{'noise':<12}{noise[0.75] - noise[0.25]:11.2f}{noise[0.95] - noise[0.05]:13.2f}")
for start, stop in ((0, 20), (100, 200), (440, 540)):
    those = (watch.steps > start) & (watch.steps <= stop)
    half, most = (
        np.mean(ratio[high] - ratio[low], where=those) for low, high in ((0.25, 0.75), (0.05, 0.95))
    )
    print(f"{f'to step {stop}':<12}{half:11.2f}{most:13.2f}")

# %%
# At first, the weights march. In the end the middle half is not much wider than noise would make
# it: these weights still move, but almost on the spot. A few still know where to go, and keep the
# outer band wide. Where the inner band has come down to noise, a lower learning rate or a larger
# batch is worth a try; where it has not, the steps are not yet wasted.
#
# Try it
# ------
# - Give *noisy* a mean of 0.1. After how many steps do you see it in *m*? In the path of the
#   weight?
# - Set all biases of the network to 0.5. How many units are born dead now?
# - Train with ``BATCH = 128``. Is the agreement larger or smaller, and why?
# - Give *steady* a single gradient of 1e21. What do ``probe.first_nonfinite`` and the series
#   ``frozen`` say? What has become of *v*, and will this weight ever move again?
