r"""
Step sizes, bias correction and epsilon
=======================================

How far does Adam move a weight in a step, and what are the small corrections in its formula for?
We follow the step from the first, where everything is decided by the corrections, and find the one
place where the formula is not that of PyTorch.

You need :ref:`sphx_glr_tutorials_04_watching_moments.py`. At the end you can predict the first step
of a network, know what would happen without bias correction, and can say when an epsilon that you
take from somebody else's recipe means something else here.
"""

# %%
# A network to watch
# ------------------
# The digits again, 64 pixels in, 10 digits out, and 32 units with a *tanh* between them, so that
# none is dead. The weights begin with a standard deviation that we remember.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload.autodiff.data import batches, load_digits
from adamoffload.observe.probes import LEVELS

plt.rcParams.update(ao.plots.STYLE)

digits = load_digits()
images, labels = digits.train_images, digits.train_labels
device = ao.get_backend("numpy")
deviation = {"hidden.weight": 64**-0.5, "out.weight": 32**-0.5}


def network():
    """Return new parameters, always the same, and what gives loss and gradients."""
    rng = np.random.default_rng(0)
    shapes = {
        "hidden.weight": (64, 32),
        "hidden.bias": (32,),
        "out.weight": (32, 10),
        "out.bias": (10,),
    }
    p = {}
    for name, shape in shapes.items():
        values = deviation.get(name, 0.0) * rng.standard_normal(shape)
        p[name] = ao.Parameter(device.asarray(values.astype(np.float32)), name)

    def loss(x, y):
        hidden = np.tanh(x @ p["hidden.weight"] + p["hidden.bias"])
        return ao.softmax_cross_entropy(hidden @ p["out.weight"] + p["out.bias"], y)

    return list(p.values()), ao.value_and_grad(loss, tuple(p.values()))


def train(steps, optimizer, loss_and_gradients):
    """Take steps on batches of 64, always the same ones; return the losses."""
    rng = np.random.default_rng(1)
    losses = []
    while True:
        for batch in batches(len(labels), 64, rng):
            if len(losses) == steps:
                return losses
            value, gradients = loss_and_gradients(
                device.asarray(images[batch]), device.asarray(labels[batch])
            )
            optimizer(gradients)
            losses.append(float(value))


LR, STEPS = 3e-3, 300
parameters, loss_and_gradients = network()
probe = ao.Probe(sample=2048)  # quantiles over all weights, not 512 of them
optimizer = ao.AdamOffload(parameters, LR, probe=probe)
losses = train(STEPS, optimizer, loss_and_gradients)
print(f"loss of a batch: {losses[0]:.2f} at first, {losses[-1]:.2f} in the end")

# %%
# Step size and rate
# ------------------
# Two things are called by similar names. The *step size* is how far a weight moves, as an absolute
# value. The *effective rate* is what Adam multiplies *m* with to get there, with both corrections:
# :math:`\alpha_t / (\sqrt{v} + \epsilon)`.
#
# **Predict.** The gradients of the four parameters differ in size. In which of the two figures do
# you see that in step 1, and in which not?

figure, axes = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
ao.plots.step_sizes(probe, show="step_size", ax=axes[0])
ao.plots.step_sizes(probe, show="rate", ax=axes[1])
plt.show()

# %%
# The first step is the learning rate, for all of them. The rates differ, and by just as much as the
# gradients do, only the other way round:

parameters, loss_and_gradients = network()  # as they were before the first step
batch = next(batches(len(labels), 64, np.random.default_rng(1)))
x, y = device.asarray(images[batch]), device.asarray(labels[batch])
_, gradients = loss_and_gradients(x, y)
MEDIAN = LEVELS.index(0.5)
print("medians, step 1      |g|  10 lr / |g|    rate  step size")
for p, gradient in zip(parameters, gradients, strict=True):
    host = np.abs(device.asnumpy(gradient))
    g = np.quantile(host, 0.5, method="higher")  # one that occurs
    rate = probe.quantiles("rate", p.name)[0, MEDIAN]
    size = probe.quantiles("step_size", p.name)[0, MEDIAN]
    print(f"{p.name:<16}{g:8.5f}{10 * LR / g:13.1f}{rate:8.1f}{size:11.5f}")

# %%
# In step 1, *m* is a tenth of the gradient, so that a rate of ten learning rates over the gradient
# makes a step of one learning rate. In the next twenty steps or so, *m* would come up to the size
# of a steady gradient, and the rates fall by about that factor of ten. Later they rise again, since
# the gradients get smaller. The step sizes fall nevertheless: the gradients agree less and less, as
# in :ref:`sphx_glr_tutorials_04_watching_moments.py`.
#
# Relative to the weights
# -----------------------
# A step of 0.003 is much for a weight of 0.01 and little for one of 10. So people look at the norm
# of the update over the norm of the weights. A rule of thumb from a well-known course says: about
# 0.001 (`CS231n, Neural Networks 3 <https://cs231n.github.io/neural-networks-3/>`_).
#
# **Predict.** In the first step, every weight with a gradient moves by the learning rate, 0.003.
# The weights of the two matrices are drawn with standard deviations of 1/8 and about 0.18. What is
# the ratio of the norms for each? And for the biases, which begin at 0?

for name, sigma in deviation.items():
    ratio = probe.series("update_ratio", name)
    print(f"{name}: predicted {LR / sigma:.4f}, measured {ratio[0]:.4f},", end=" ")
    print(f"at the end {ratio[-1]:.4f}")
lit = np.mean(images[batch].any(axis=0))
print(f"pixels lit in the first batch: {lit:.0%};", end=" ")
print(f"root of that times 0.0240: {0.0240 * np.sqrt(lit):.4f}")
first_three = probe.series("update_ratio", "hidden.bias")[:3]
print("hidden.bias:", first_three.round(2), "...")

# %%

figure, ax = plt.subplots(figsize=(9, 4.8), layout="constrained")
ao.plots.step_sizes(probe, show="update_ratio", ax=ax)
plt.show()

# %%
# Pixels that are dark in the whole batch have no gradient. So *hidden.weight* falls short of the
# prediction, by the root of the share of lit pixels. The biases begin at 0: in the first step,
# their ratio is infinite, and a cross at the top marks it. Then all four fall. The two matrices end
# within a factor of about two of the rule of thumb; the biases, which are still small, stay above
# it.
#
# Without the corrections
# -----------------------
# Why does the first step not have another size? Without bias correction, it would be
# :math:`m / \sqrt{v}`, with :math:`m = 0.1\, g` and :math:`v = 0.001\, g^2`.
#
# **Predict.** How many learning rates is that? And does it get better or worse in the second step,
# for a constant gradient?

t = np.arange(1, STEPS + 1)
uncorrected = (1 - 0.9**t) / np.sqrt(1 - 0.999**t)
correction = probe.series("lr_t", "out.weight") / LR
print("steps 1 to 4, uncorrected:", uncorrected[:4].round(2), "learning rates")
longest = t[np.argmax(uncorrected)]
print(f"longest: {uncorrected.max():.2f} in step {longest};", end=" ")
print(f"at least twice too long until step {t[uncorrected >= 2][-1]}")

figure, ax = plt.subplots(figsize=(9, 4.4), layout="constrained")
blue, orange, *_ = colors = ao.plots.LINES
ax.plot(t, uncorrected, color=orange, label="uncorrected step, constant gradient")
ax.plot(t, correction, color=blue, label=r"correction $\alpha_t / \alpha$ (probe)")
ax.plot(t, uncorrected * correction, ":", color="black", label="product: the step")
ax.set_title("Bias correction takes back what is too long")
ax.set(xlabel="step", ylabel="learning rates (correction: factor)", yscale="log")
ax.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
ax.minorticks_off()
ax.legend()
plt.show()

# %%
# Worse: *m* remembers ten steps and *v* a thousand, so *m* comes out of its bias a hundred times
# sooner. Until *v* follows, the steps are up to 6.6 times too long. The factor :math:`\alpha_t /
# \alpha = \sqrt{1-\beta_2^t} / (1-\beta_1^t)` takes back just that.
#
# Two epsilons
# ------------
# Epsilon keeps the denominator from 0. But which denominator? Here, as in the reference
# implementation, it is added to the root of the *uncorrected* second moment: it is the epsilon
# that the paper writes with a hat, at the end of its section 2. PyTorch's
# `documentation <https://pytorch.org/docs/stable/generated/torch.optim.Adam.html>`_ corrects both
# moments first, as Algorithm 1 of the paper does. PyTorch is not needed for this page: these lines
# are what its documentation says, written in NumPy.


def pytorch_form(g, m, v, t, lr, eps):
    """One step of Adam, as the documentation of torch.optim.Adam has it."""
    m = 0.9 * m + (1 - 0.9) * g
    v = 0.999 * v + (1 - 0.999) * g**2
    m_hat = m / (1 - 0.9**t)
    v_hat = v / (1 - 0.999**t)
    return -lr * m_hat / (np.sqrt(v_hat) + eps), m, v


# %%
# **Predict.** A weight has the gradient 1e-8 in step 1, and epsilon is 1e-8 as well. How many
# learning rates does it move with PyTorch's form? And here, where :math:`\sqrt{v} = \sqrt{0.001}\,
# |g|`?
#
# We give 41 gradients of all sizes to both, constant for a thousand steps, and trace each.

sizes = np.logspace(-12, -2, 41).astype(np.float32)
w = ao.Parameter(device.asarray(np.zeros(sizes.size, np.float32)), name="w")
traced = ao.Probe(every=1000, coordinates=[("w", i) for i in range(sizes.size)])
optimizer = ao.AdamOffload([w], learning_rate=1.0, eps=1e-8, probe=traced)
theirs = np.empty((1000, sizes.size))
m = v = np.zeros(sizes.size)
for t in range(1, 1001):
    optimizer([device.asarray(sizes)])
    g = sizes.astype(float)
    theirs[t - 1], m, v = pytorch_form(g, m, v, t, lr=1.0, eps=1e-8)
ours = np.array([traced.trace("w", i)["delta"] for i in range(sizes.size)]).T

at = np.argmin(np.abs(sizes - 1e-8))
print(f"step 1, in learning rates: ours {-ours[0, at]:.4f},", end=" ")
print(f"PyTorch's {-theirs[0, at]:.4f}")

# %%
# With a constant gradient, PyTorch's form moves :math:`g / (g + \epsilon)` learning rates, one half
# here, whatever the step. Ours moves :math:`g / (g + \epsilon / \sqrt{1-\beta_2^t})`: divide
# numerator and denominator of :math:`\alpha_t m / (\sqrt{v} + \epsilon)` by
# :math:`\sqrt{1-\beta_2^t}`, and you see it. Our
# epsilon acts as one of PyTorch's that is larger by :math:`1 / \sqrt{1-\beta_2^t}`, which is 31.6
# in step 1. We can read it off the measured steps:

for step in (1, 10, 100, 1000):
    g = sizes[at]
    acts_like = g / -ours[step - 1, at] - g  # solved for the epsilon
    predicted = (1 - 0.999**step) ** -0.5
    print(f"step {step:>4}: {acts_like / 1e-8:6.2f}, predicted {predicted:6.2f}")
    assert np.isclose(acts_like / 1e-8, predicted, rtol=1e-2)

# %%

figure, axes = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
for i, step in enumerate((1, 10, 100, 1000)):
    label = f"ours, step {step}"
    axes[0].plot(sizes, -ours[step - 1], color=colors[i], label=label)
axes[0].plot(sizes, -theirs[0], ":", color="black", label="PyTorch's, every step")
axes[0].axvline(1e-8, color="#999999", linewidth=0.8)
axes[0].text(1.3e-8, -0.02, "epsilon", color="#666666")
axes[0].set(title="Where epsilon bites", xscale="log")
axes[0].set(xlabel="size of the gradient", ylabel="step (learning rates)")
axes[0].legend(loc="upper left")
for i, g in enumerate((1e-8, 1e-7, 1e-6, 1e-5)):
    at = np.argmin(np.abs(sizes - g))
    missing = 1 - np.cumsum(ours[:, at]) / np.cumsum(theirs[:, at])
    label = f"gradient {g:.0e}"
    axes[1].plot(range(1, 1001), missing, color=colors[i], label=label)
axes[1].set(title="How far ours is behind PyTorch's form", xlabel="step")
axes[1].set_ylabel("missing share of the way")
axes[1].set_xscale("log")
axes[1].legend()
plt.show()

# %%
# The two differ for small gradients, in step 1 up to a thousand epsilons, and the more the earlier
# the step. From 1e-4 on, all curves on the left are one. On the right is the way in all so far:
# what was missed in the first steps is not made up for. With a gradient as small as epsilon, ours
# is still more than a quarter behind after a thousand steps.
#
# Does it matter?
# ---------------
# That depends on epsilon. 1e-8 is far below the gradients in the table above. But other values are
# in use: TensorFlow's `documentation
# <https://www.tensorflow.org/versions/r2.8/api_docs/python/tf/keras/optimizers/Adam>`_, whose
# epsilon is the uncorrected one, too, has 1e-7 as default, and calls 1.0 or 0.1 a good choice for
# an Inception network on ImageNet.
#
# **Predict.** We train with both forms, with epsilons of 1e-8 and of 1e-3. The medians of the
# gradients in the table are around 0.01. Which of the four curves lie on each other, and which is
# the slowest?


class PyTorchForm:
    """Trains parameters of a device with the lines above, on the host."""

    def __init__(self, parameters, lr, eps):
        self.parameters, self.lr, self.eps, self.step = parameters, lr, eps, 0
        self.moments = [(0.0, 0.0)] * len(parameters)

    def __call__(self, gradients):
        self.step += 1
        for i, (p, g) in enumerate(zip(self.parameters, gradients, strict=True)):
            g = device.asnumpy(g).astype(float)
            m, v = self.moments[i]
            delta, m, v = pytorch_form(g, m, v, self.step, self.lr, self.eps)
            self.moments[i] = m, v
            np.add(p.data, device.asarray(delta.astype(np.float32)), out=p.data)


figure, ax = plt.subplots(figsize=(9, 4.8), layout="constrained")
losses = {}
for i, eps in enumerate((1e-8, 1e-3)):
    for kind, dash in (("ours", "-"), ("PyTorch's", ":")):
        parameters, loss_and_gradients = network()
        if kind == "ours":
            optimizer = ao.AdamOffload(parameters, LR, eps=eps)
        else:
            optimizer = PyTorchForm(parameters, LR, eps)
        losses[kind, eps] = np.array(train(120, optimizer, loss_and_gradients))
        smooth = np.convolve(losses[kind, eps], np.full(10, 0.1), "valid")
        label = f"{kind}, eps = {eps:.0e}"
        ax.plot(range(10, 121), smooth, dash, color=colors[i], label=label)
ax.set(title="A large epsilon costs ours more", xlabel="step")
ax.set_ylabel("loss, mean of the last ten batches")
ax.legend()
plt.show()
for eps in (1e-8, 1e-3):
    apart = np.abs(losses["ours", eps] - losses["PyTorch's", eps])
    print(f"eps = {eps:.0e}: the losses are at most {apart.max():.1e} apart")
    ours, theirs = (losses[kind, eps][-20:].mean() for kind in ("ours", "PyTorch's"))
    assert abs(ours / theirs - 1) < 1e-2 if eps == 1e-8 else ours > 1.2 * theirs

# %%
# With 1e-8 the two forms cannot be told apart. With 1e-3, PyTorch's form pays a little for its
# epsilon, and ours much more, since it begins as if epsilon were 0.03, more than any of the medians
# in the table.
#
# So with the default there is nothing to care about. But if you bring a large epsilon from a
# PyTorch recipe, no single number makes the two equal: in step 1 it would have to be divided by
# 31.6, in step 1000 by 1.26. The page on :doc:`Adam's two epsilons </concepts/epsilon>` has the
# algebra.
#
# **In one line:** bias correction makes the first steps as long as the rate; where epsilon is added
# decides what a small gradient does.
#
# Try it
# ------
# - Take the bias correction away: instead of a number, a learning rate may be an iterable with one
#   number for each step, so pass ``LR / correction``. The first steps are now too long: does the
#   loss fall faster or more slowly? And with ten times the ``LR``?
# - Pass ``beta2=0.99`` to each ``AdamOffload``, and write 0.99 for 0.999. How does the figure of
#   bias correction change, and how the factor of 31.6?
# - Return 1e-6 times the loss in ``network``. Which of the curves in the last figure change, and
#   which hardly fall any more?
# - Find the learning rate with which ``update_ratio`` is 0.001 in the first step. Does the network
#   learn faster or slower with it?
