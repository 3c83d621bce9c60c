r"""
Watching moments
================

Adam's two moments say what the gradient of every weight has been like. We give four kinds of
gradient to the optimizer, learn what each looks like in *m* and *v*, and then go and find the same
four in a network that learns to read digits.

You need :ref:`sphx_glr_tutorials_03_adam_by_hand.py`. At the end you can watch an optimizer with a
`adamoffload.Probe`, and tell a dead unit, a rare feature and a noisy gradient from each other by
two curves.
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
from adamoffload.autodiff.data import batches, load_digits
from adamoffload.observe.probes import LEVELS

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
# `adamoffload.AdamOffload` keeps the moments on the host, in NumPy arrays, so nothing stops you
# from printing them after each step. A probe does it for you: it takes quantiles and norms over all
# coordinates, here in every fifth step, and follows single coordinates through every step if it is
# told which.

device = ao.get_backend("numpy")
zeros = np.zeros(N, np.float32)
parameters = [ao.Parameter(device.asarray(zeros), name) for name in characters(0)]
probe = ao.Probe(every=5, coordinates=[("noisy", 0), ("rare", 0), ("rare", 1)])
optimizer = ao.AdamOffload(parameters, LR, probe=probe)
given = 0  # gradients of "rare" that were not 0, but for coordinate 0
for step in range(1, STEPS + 1):
    gradients = characters(step)
    given += np.count_nonzero(gradients["rare"][1:])
    host = [gradients[p.name].astype(np.float32) for p in parameters]
    optimizer([device.asarray(g) for g in host])

# %%
# **Predict.** Which of the four end with about the same :math:`\sqrt{v}`? Whose *m* is in the end
# as large as its :math:`\sqrt{v}`, or larger? Sketch the eight curves before you look.

figure, ax = plt.subplots(figsize=(9, 5.2), layout="constrained")
ao.plots.moments(probe, ax=ax)
plt.show()

# %%
# A curve is the root of the mean square (RMS) over the 500 coordinates. Both moments begin at zero
# and grow: *m* within some twenty steps, :math:`\sqrt{v}` over more than a thousand. So at first
# every *m* is the larger of the two; that says nothing yet, and the bias correction makes up for
# it.
#
# *Steady* and *noisy* end with the same :math:`\sqrt{v}`: one curve covers the other. A square does
# not know signs. Whether gradients agree is seen in *m* alone, so it takes both curves to tell the
# two apart. Once :math:`\sqrt{v}` has grown, only the *m* of *steady* is as large; that of *noisy*
# is well below.
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
    ratio = np.mean(m / np.sqrt(root_v**2 / grown))
    print(f"{name:<20} {ratio:.3f}")
    assert name != "noisy" or abs(ratio - np.sqrt(0.1 / 1.9)) < 0.005

# %%
# As predicted; 0.23 is the floor. A parameter whose *m* is about 0.23 of its :math:`\sqrt{v}`
# moves, but at random: its gradients say nothing that lasts longer than *m* remembers. *Rare* is a
# little above the floor, since its gradients are independent but not of mean 0.
#
# For single coordinates, the probe has the same ratio, bias-corrected: the step in learning rates.
# Here are its quantiles in the last sample.

print(f"{'':<8}" + "".join(f"{f'{level:.0%}':>7}" for level in LEVELS))
for name in probe.names:
    ratios = probe.quantiles("ratio", name)[-1]
    print(f"{name:<8}" + "".join(f"{x:7.2f}" for x in ratios))

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
    steps = np.ptp(probe.steps[after]) / (first - end)
    print(f"measured:  {quantity} halves in {steps:.1f} steps")
    assert np.isclose(steps, {"m": 6.58, "sqrt_v": 1385.6}[quantity], rtol=1e-2)

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
colors = ao.plots.COLORS
figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharex=True)
titles = ("One gradient in a life", "One in a hundred steps", "Noise")
for ax, t, title in zip(axes, (trace, other, noise), titles, strict=True):
    ax.vlines(t["step"], 0, t["gradient"], "#C4C4C4", linewidth=0.8, label="$g$")
    ax.plot(t["step"], np.sqrt(t["v"]), color=colors["sqrt_v"], label=r"$\sqrt{v}$")
    ax.plot(t["step"], t["m"], color=colors["m"], linewidth=1.2, label="$m$")
    ax.set(title=title, xlabel="step")
for ax in axes[:2]:
    ax.set_ylim(-0.01, 0.2)  # the gradients go on to 1
axes[0].set_ylabel(r"$g$, $m$ and $\sqrt{v}$ (loss / unit of weight)")
axes[0].legend(loc="upper left")
figure.tight_layout()
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
assert np.isclose(moved[599], ratio, rtol=1e-2)

# %%
# More than two learning rates at once, where the first step of all has just one! There, *m* and *v*
# had been averages for equally long; here *m* is quick to rise, and *v* still divides by the
# silence. The paper gives the bound (`Kingma and Ba, 2014 <https://arxiv.org/abs/1412.6980>`_,
# section 2.1): :math:`(1-\beta_1) / \sqrt{1-\beta_2}`, 3.16 learning rates, for the one gradient
# after a long silence.
#
# So Adam listens to what is rarely said. **Predict.** With one gradient in *K* steps,
# :math:`\sqrt{v}`, corrected, is about :math:`1/\sqrt{K}`, and each gradient gives *m*, over the
# steps in which it fades, :math:`0.1\,(1 + 0.9 + 0.9^2 + \dots) = 1` in all. How far does each of
# them move its weight?

w = device.asnumpy(parameters[2].data)[1:]  # without the one above
k = STEPS * w.size / given
print(f"one gradient in {k:.0f} steps; learning rates for each:", end=" ")
print(f"predicted {np.sqrt(k):.1f}, measured {-w.sum() / given / LR:.1f}")

# %%
# Nearly; in a thousand steps each weight has only about ten gradients, and each of them counts in
# the *v* that divides it. A weight with a steady gradient moves one learning rate for each.
#
# In the wild
# -----------
# Now a network of 32 units between 64 pixels and 10 digits, where nothing is made up. Some pixels
# are at the edge, where hardly anybody writes. And a unit may be *born dead*. It passes on its
# input if that is above 0, and otherwise 0 (a *ReLU*): if its input is below 0 for every image, no
# gradient comes back, and nothing can ever wake it.

digits = load_digits()
images, labels = digits.train_images, digits.train_labels
UNITS, BATCH, EPOCHS = 32, 16, 6


def parameter(name, values):
    return ao.Parameter(device.asarray(values.astype(np.float32)), name)


rng = np.random.default_rng(0)
initial, bias = np.sqrt(2 / 64) * rng.standard_normal((64, UNITS)), np.zeros(UNITS)
w1 = parameter("hidden.weight", initial)
b1 = parameter("hidden.bias", bias)
w2 = parameter("out.weight", np.sqrt(1 / UNITS) * rng.standard_normal((UNITS, 10)))
b2 = parameter("out.bias", np.zeros(10))


def loss(x, y):
    return ao.softmax_cross_entropy(np.maximum(x @ w1 + b1, 0) @ w2 + b2, y)


lit = np.sum(images > 0, axis=0)
born_dead = np.flatnonzero(np.max(images @ initial + bias, axis=0) <= 0)
print("pixels that no image lights:", np.flatnonzero(lit == 0))
print("units born dead:            ", born_dead)

# %%
# **Predict.** From these two lines: how many of the 2,048 weights between pixels and units will
# never get a gradient, at the least?

dark = np.sum(lit == 0)
least = UNITS * dark + 64 * born_dead.size - dark * born_dead.size
print("at the least:", least)

watch = ao.Probe(every=5, sample=2048)  # quantiles over all weights, not 512
optimizer = ao.AdamOffload([w1, b1, w2, b2], LR, probe=watch)
loss_and_gradients = ao.value_and_grad(loss, optimizer.parameters)
for _ in range(EPOCHS):
    for batch in batches(len(labels), BATCH, rng):
        _, gradients = loss_and_gradients(
            device.asarray(images[batch]), device.asarray(labels[batch])
        )
        optimizer(gradients)

v = optimizer.moment2["hidden.weight"]
print("with v = 0 after", optimizer.global_step, "steps:", np.sum(v == 0))
assert np.sum(v == 0) >= least
below = watch.series("eps_limited", "hidden.weight")[-1]
print(f"root of v below epsilon, says the probe: {below:.1%} of {v.size}")

# %%
# More than the least. The series ``eps_limited`` is the smoke detector for this: the share of
# coordinates whose :math:`\sqrt{v}` is below :math:`\epsilon`. And since *v* is a plain array on
# the host, we can look at all of it. A row is a pixel, a column a unit, and black means 0.

figure, axes = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
with np.errstate(divide="ignore"):
    log_v = np.log10(np.sqrt(v))
shown = axes[0].imshow(log_v, aspect="auto", vmin=-5, cmap="viridis")
axes[0].set(title="Who gets gradients", xlabel="unit", ylabel="pixel")
axes[0].set_facecolor("black")  # where v is 0
axes[0].grid(visible=False)
figure.colorbar(shown, ax=axes[0], label=r"$\log_{10} \sqrt{v}$ of hidden.weight")
axes[1].barh(np.arange(64), lit / len(labels), color=ao.plots.LINES[0])
axes[1].set(title="Which pixels are lit", ylim=(63.5, -0.5), ylabel="pixel")
axes[1].set_xlabel("share of the training images")
plt.show()

hidden = images @ device.asnumpy(w1.data) + device.asnumpy(b1.data)
awake = np.mean(hidden > 0, axis=0)  # a share of the images, for each unit
print(f"awake for {np.median(awake):.0%} of the images (median); the sleepiest:")
for unit in np.argsort(awake)[:6]:
    print(f"  unit {unit:>2}: {awake[unit]:4.0%}")

# %%
# Black rows are pixels that nobody lights. The dark rows are rare features: their pixels are those
# with hardly a bar on the right. Units that were born dead are black columns; other dark columns
# are units that seldom wake. They may also have fallen asleep in training, after some gradients:
# like *dying*, they keep a :math:`\sqrt{v}` that remembers. Where a dark column crosses a dark row,
# the two may not have met, and so there is some more black.
#
# When signal turns into noise
# ----------------------------
# The last question: does the network still learn something in each step? We look at the weights
# between units and digits: at their moments, and at the ratio of the two, the step in learning
# rates. Bands hold the middle half and the middle 90% of the weights, and a line is the median. In
# step 1, every ratio is a sign, or 0. Then the gradients begin to disagree.

color = ao.plots.COLORS["step_size"]
figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
ao.plots.moments(watch, "out.weight", ax=axes[0])
ratio = dict(zip(LEVELS, watch.quantiles("ratio", "out.weight").T, strict=True))
for low, high, alpha in ((0.05, 0.95, 0.25), (0.25, 0.75, 0.4)):
    band = ratio[low], ratio[high]
    axes[1].fill_between(watch.steps, *band, color=color, alpha=alpha)
axes[1].plot(watch.steps, ratio[0.5], color=color)
axes[1].set(title="Their ratio: the gradients agree less", xlabel="step")
axes[1].set_ylabel(r"corrected $m / \sqrt{v}$ (learning rates)")
plt.show()

# %%
# **Predict.** *Noisy* showed how wide these bands are if there is nothing but noise. How much wider
# are those of the network, at the beginning and at the end?

noise = probe.quantiles("ratio", "noisy")[last].mean(axis=0)
noise = dict(zip(LEVELS, noise, strict=True))
print(f"{'':<17}middle half   middle 90%")
half, most = noise[0.75] - noise[0.25], noise[0.95] - noise[0.05]
noise_half = half
print(f"{'noise':<17}{half:11.2f}{most:13.2f}")
end = optimizer.global_step
for start, stop in ((0, 20), (100, 200), (end - 100, end)):
    those = (watch.steps > start) & (watch.steps <= stop)
    half = np.mean((ratio[0.75] - ratio[0.25])[those])
    most = np.mean((ratio[0.95] - ratio[0.05])[those])
    print(f"{f'steps {start + 1} to {stop}':<17}{half:11.2f}{most:13.2f}")
assert noise_half < half < 1.4 * noise_half

# %%
# At first, the weights march. In the end the middle half is not much wider than noise would make
# it: these weights still move, but almost on the spot. A few still know where to go, and keep the
# outer band wider. Where the inner band has come down to noise, a lower learning rate or a larger
# batch is worth a try; where it has not, the steps are not yet wasted.
#
# **In one line:** every coordinate has a history of its own, and it takes both moments to read it.
#
# Try it
# ------
# - Give *noisy* a mean of 0.1. Do you see it in the RMS of *m*? And in the path of the weights, the
#   mean of ``parameters[1].data`` on the host?
# - Let ``bias`` be 0.5 for all units. How many are born dead now? How many weights end with *v* =
#   0?
# - Train with ``BATCH = 128`` and ``EPOCHS = 49``, about as many steps. When do the gradients agree
#   more than before, and when do they not? Why?
# - Give *steady* a single gradient of 1e21. What do ``probe.first_nonfinite`` and the series
#   ``frozen`` say? What has become of *v*, and will this weight ever move again?
