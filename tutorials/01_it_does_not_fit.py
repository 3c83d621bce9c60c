r"""
It does not fit
===============

A model of seven billion parameters, and a card of 24 GB. We train a twin of both that is ten
thousand times smaller, so that a laptop will do, watch where it fails, and find out why: to the
byte.

You need nothing but arithmetic. At the end you know where 112 GB go, and which part of them has no
business on the card.
"""

# %%
# Seven billion
# -------------
# The weights of such a model, 4 bytes each in float32, are 28 GB. **Predict.** How many GB does it
# take to *train* it with Adam, before the first example is looked at? Write down a number.
#
# The twin is a network that reads handwritten digits. Its device is a part of the host's memory
# that is counted like a GPU's: one byte too many, and it refuses.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao

plt.rcParams.update(ao.plots.STYLE)

SHAPES = {
    "hidden1.weight": (64, 800),
    "hidden1.bias": (800,),
    "hidden2.weight": (800, 800),
    "hidden2.bias": (800,),
    "out.weight": (800, 10),
    "out.bias": (10,),
}
n = sum(int(np.prod(shape)) for shape in SHAPES.values())
SCALE = 10_000
print(f"the twin has {n:,} parameters; times {SCALE:,} that is {n * SCALE / 1e9:.2f} billion")


def network(device):
    """Put the parameters on a device, always the same ones."""
    rng, parameters = np.random.default_rng(0), []
    for name, shape in SHAPES.items():
        spread = np.sqrt(2 / shape[0]) if name.endswith("weight") else 0.0
        values = spread * rng.standard_normal(shape, np.float32)
        parameters.append(ao.Parameter(device.asarray(values.astype(np.float32)), name))
    return parameters


def card(gigabytes):
    """Return the twin of a card."""
    return ao.get_backend("numpy", memory_bytes=int(gigabytes * 1e9 / SCALE))


def say(device, what):
    """Print what is in use, in the size of the original."""
    memory = device.memory()
    used, limit = (nbytes * SCALE / 1e9 for nbytes in (memory.used, memory.limit))
    print(f"{what:<24} {used:6.1f} of {limit:.0f} GB in use")


# %%
# On a card of 24 GB
# ------------------
# All numbers are printed in the size of the original.

device = card(24)
try:
    parameters = network(device)
except ao.DeviceMemoryError as error:
    wanted, there = error.requested_bytes * SCALE / 1e9, error.used_bytes * SCALE / 1e9
    print(f"failed: an array of {wanted:.1f} GB, with {there:.1f} of 24 GB in use")
else:
    raise AssertionError("the weights fitted")

# %%
# Not even the weights. So we borrow a card of 80 GB.
#
# On a card of 80 GB
# ------------------
# **Predict.** After the weights come the gradients, one number for each weight. Then Adam. Will it
# fit now? If not, what is the first thing that does not?

digits = ao.load_digits()


def loss_and_gradients(device, parameters, batch=16):
    """Return the loss of a small batch, and its gradients."""

    def loss(x, y):
        w1, b1, w2, b2, w3, b3 = parameters
        hidden = np.maximum(np.maximum(x @ w1 + b1, 0) @ w2 + b2, 0)
        return ao.softmax_cross_entropy(hidden @ w3 + b3, y)

    x = device.asarray(digits.train_images[:batch])
    y = device.asarray(digits.train_labels[:batch])
    return ao.value_and_grad(loss, tuple(parameters))(x, y)


device = card(80)
parameters = network(device)
say(device, "weights:")
value, gradients = loss_and_gradients(device, parameters)
say(device, "and gradients:")
try:
    ao.Adam(parameters)
except ao.DeviceMemoryError as error:
    wanted, there = error.requested_bytes * SCALE / 1e9, error.used_bytes * SCALE / 1e9
    print(f"failed: {error.__notes__[0].split(' ')[0]}, {wanted:.1f} GB, with {there:.1f} in use")
    assert (round(wanted), round(there)) == (28, 56)
else:
    raise AssertionError("Adam fitted")

# %%
# Adam keeps two numbers of its own for each weight, *m* and *v* (:ref:`what they are
# <sphx_glr_tutorials_03_adam_by_hand.py>`). There was no room even for the first. Four times 28 GB
# are 112. That is why training takes so much more than using a model, and it is the same for every
# model: 16 bytes per parameter.

needs = {
    "to use it": {"parameters": 28e9},
    "to train it\nwith Adam": {"parameters": 28e9, "gradients": 28e9, "moments": 56e9},
}
figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
ao.plots.memory(needs, limit=80e9, ax=ax)
plt.show()

# %%
# Who needs what?
# ---------------
# The forward and the backward pass need the weights, and make the gradients; both belong on the
# card. **Predict.** Who needs *m* and *v*, and how often? Where else could they be?
#
# Nobody but Adam, once per step. So let them be where memory costs less, on the host, and let Adam
# do its arithmetic there. One name changes:

optimizer = ao.AdamOffload(parameters, learning_rate=1e-3, chunk_bytes=16 << 10)
say(device, "with Adam on the host:")
losses = []
for _ in range(5):
    optimizer(gradients)
    del gradients  # the next ones need their memory
    value, gradients = loss_and_gradients(device, parameters)
    losses.append(float(value))
say(device, "after five steps:")
peak = device.memory().peak * SCALE / 1e9
print(f"at most, with activations: {peak:.1f} GB; loss from {losses[0]:.2f} to {losses[-1]:.2f}")
assert losses[-1] < losses[0]
assert peak < 80

# %%
# It trains. (That peak has the *activations* in it, which the backward pass needs, for a batch of
# sixteen digits. They depend on the batch and on the model's shape, are not scaled by our ten
# thousand in any useful way, and offload does nothing about them.)
#
# What about the 24 GB?
# ---------------------
# 56 GB are still more than twice as much. **Predict.** Weights and gradients are left, 4 bytes
# each. What else could be given up, or moved, to halve that, and halve it again?

for gigabytes, decision in (
    (16 * 7, "everything on the card"),
    (8 * 7, "Adam and its moments on the host"),
    (4 * 7, "weights and gradients of 16 bits"),
    (2 * 7, "gradients that leave as soon as they exist"),
):
    verdict = "fits" if gigabytes < 24 else "-"
    print(f"{gigabytes:>4} GB  {decision:<44} {verdict}")

# %%
# Three decisions, each halves it. None of them is free: the first moves 4 bytes per parameter down
# and 4 up in every step; the second needs a *master copy* of the weights, so that small updates are
# not lost; the third needs a host that keeps up. What each costs, and what it does to the result,
# is what the course is about.
#
# **In one line:** to use a model takes one number per parameter, to train it four, and two of these
# are on the card for nobody's sake but Adam's.
#
# Try it
# ------
# - *Easy.* How large a model can be trained on a card of 80 GB with Adam on it, if a quarter of the
#   card is for activations?
# - *Medium.* Give ``loss_and_gradients`` a batch of 1,000 in the last run. Which allocation fails
#   now, and what could help?
# - *Hard.* A *parameter-efficient* method, such as LoRA, trains one weight in a hundred. What are
#   its four numbers, in GB? What is left for offload to do?
#
# .. raw:: html
#
#    <details><summary>Hints and answers</summary>
#
# 1. *Hint: bytes over bytes per parameter.* 60 GB / 16 = 3.75 billion parameters.
# 2. *Hint: what is 3,200,000 bytes large?* An array of the first hidden layer, 1,000 by 800, which
#    is 32 GB in the size of the original. Offload cannot help: these are activations. Smaller
#    batches can, and gradient checkpointing.
# 3. *Hint: what is frozen has no gradient.* 28 GB of weights; gradient, *m* and *v* of 0.28 GB
#    each. Offload saves 0.56 of 29 GB: nothing worth a copy. What remains too large is the frozen
#    weights, and they can be kept in fewer bits.
#
# .. raw:: html
#
#    </details>
