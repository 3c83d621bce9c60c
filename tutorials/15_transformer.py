r"""
A small transformer on text, offloaded
======================================

Everything together: a transformer of some 400,000 parameters, written in plain NumPy, learns to
spell from this project's own docstrings. Its parameters are on a device too small for Adam; the
moments are on the host.

You need :ref:`sphx_glr_tutorials_07_training_what_does_not_fit.py` and
:ref:`sphx_glr_tutorials_11_groups_schedules_decay.py`, and should have seen a transformer (`Vaswani
et al., 2017 <https://arxiv.org/abs/1706.03762>`_). At the end you have trained one within a memory
limit, know what it moved and where its bytes were, and can say what offload cannot help.
"""

# %%
# The text
# --------
# What could be at hand on every machine that runs this page? The documentation inside the package.
# The model will see it as numbers, one for each different letter.

import os
import re
import textwrap
from pathlib import Path

# These matrices are too small to share among cores. It must be said before NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao

plt.rcParams.update(ao.plots.STYLE)

sources = sorted(Path(ao.__file__).parent.glob("*.py"))
quoted = re.compile(r'"""(.*?)"""', re.DOTALL)
docstrings = [d for file in sources for d in quoted.findall(file.read_text("utf-8"))]
text = re.sub(r"\s+", " ", " ".join(docstrings)).encode("ascii", "ignore").decode()
letters = sorted(set(text))
ids = np.array([letters.index(letter) for letter in text], np.int32)
print(f"{len(text):,} letters, {len(letters)} different ones, such as:")
print(text[:70], "...")

# %%
# The model
# ---------
# Two blocks, each of attention and a small network. Both are added to the stream, and normalise
# what they read from it (`Xiong et al., 2020 <https://arxiv.org/abs/2002.04745>`_, figure 1b). The
# whole of it is ``np.*``: on device arrays it runs on the device, and `adamoffload.value_and_grad`
# takes its gradient.

WIDTH, HEADS, BLOCKS, CONTEXT, BATCH = 128, 4, 2, 32, 8
rng = np.random.default_rng(0)
device = ao.get_backend("numpy", memory_bytes=16_000_000)
parameters = {}


def parameter(name, *shape, scale=None):
    """Make a parameter on the device: random with a scale, or else constant."""
    if scale is None:
        values = np.full(shape, 1.0 if name.endswith("gain") else 0.0)
    else:
        values = scale * rng.standard_normal(shape)
    parameters[name] = ao.Parameter(device.asarray(values.astype(np.float32)), name)


parameter("letters", len(letters), WIDTH, scale=0.1)
parameter("places", CONTEXT, WIDTH, scale=0.1)
for i in range(BLOCKS):
    for norm in (f"{i}.norm1", f"{i}.norm2"):
        parameter(f"{norm}.gain", WIDTH)
        parameter(f"{norm}.bias", WIDTH)
    parameter(f"{i}.attention", WIDTH, 3 * WIDTH, scale=WIDTH**-0.5)
    parameter(f"{i}.mix", WIDTH, WIDTH, scale=0.5 * WIDTH**-0.5)
    parameter(f"{i}.wide", WIDTH, 4 * WIDTH, scale=WIDTH**-0.5)
    parameter(f"{i}.narrow", 4 * WIDTH, WIDTH, scale=0.25 * WIDTH**-0.5)
parameter("norm.gain", WIDTH)
parameter("norm.bias", WIDTH)
parameter("head", WIDTH, len(letters), scale=WIDTH**-0.5)
p = parameters

future = device.asarray(np.triu(np.full((CONTEXT, CONTEXT), -1e9, np.float32), k=1))


def attention(i, x):
    batch, length, _ = x.shape
    heads = x @ p[f"{i}.attention"]
    heads = np.reshape(heads, (batch, length, 3, HEADS, WIDTH // HEADS))
    q, k, v = np.moveaxis(heads, (2, 3), (0, 2))
    scores = q @ np.swapaxes(k, -1, -2) * (WIDTH // HEADS) ** -0.5
    seen = ao.softmax(scores + future[:length, :length]) @ v
    seen = np.reshape(np.moveaxis(seen, 1, 2), (batch, length, WIDTH))
    return seen @ p[f"{i}.mix"]


def norm(x, name):
    return ao.layer_norm(x, p[f"{name}.gain"], p[f"{name}.bias"])


def logits(tokens):
    x = np.take(p["letters"], tokens, axis=0) + p["places"][: tokens.shape[1]]
    for i in range(BLOCKS):
        x = x + attention(i, norm(x, f"{i}.norm1"))
        wide = norm(x, f"{i}.norm2") @ p[f"{i}.wide"]
        x = x + ao.gelu(wide) @ p[f"{i}.narrow"]
    return norm(x, "norm") @ p["head"]


def loss(tokens, targets):
    return ao.softmax_cross_entropy(logits(tokens), targets)


size = sum(parameter.size for parameter in p.values())
limit = device.memory().limit
print(f"{size:,} parameters in {len(p)} tensors; the device has {limit:,} bytes")

# %%
# Does it fit?
# ------------
# Parameters and gradients are 8 bytes a parameter, the moments 8 more. The *activations*, which the
# forward pass makes and the backward pass needs, come on top. **Predict.** What takes most of the
# device at the peak: parameters and gradients, moments, or activations? Is it large enough with
# Adam on it? And with the moments on the host?


def batch(rng):
    """Return pieces of the text, and the same one letter on, on the device."""
    starts = rng.integers(0, len(ids) - CONTEXT - 1, BATCH)
    pieces = np.stack([ids[start : start + CONTEXT + 1] for start in starts])
    return device.asarray(pieces[:, :-1]), device.asarray(pieces[:, 1:])


loss(*batch(np.random.default_rng(0)))
forward = device.memory().peak
loss_and_gradients = ao.value_and_grad(loss, tuple(p.values()))
loss_and_gradients(*batch(np.random.default_rng(0)))
peak = device.memory().peak

ring = 3 * (256 << 10)  # the staging slots that we shall give the optimizer
floats = 4 * size  # bytes of one number for each parameter
both = {"parameters": floats, "gradients": floats, "other": peak - 2 * floats}
figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
bars = {
    "Adam on the device": both | {"moments": 2 * floats},
    "Adam on the host": both | {"staging": ring},
}
ao.plots.memory(bars, limit=limit, ax=ax)
plt.show()
print(f"forward pass alone, at most: {forward / 1e6:5.2f} MB")
print(f"and the backward pass:       {peak / 1e6:5.2f} MB")

# %%
# Most of it is activations. In a forward pass alone each can be dropped when the next is there; for
# the backward pass all of them are kept. With the moments beside them it does not fit:

try:
    resident = ao.Adam(p.values(), learning_rate=1e-3)
    loss_and_gradients(*batch(np.random.default_rng(0)))
except ao.DeviceMemoryError as error:
    print(error)
resident = None  # so that its moments go

# %%
# Training
# --------
# So the moments stay on the host. The rate rises for 20 steps and then falls along a cosine, as in
# :ref:`sphx_glr_tutorials_11_groups_schedules_decay.py`, here to a tenth of the peak. (Xiong et al.
# find that a transformer that normalises where ours does can be trained without the rise.)

STEPS = 400


class WarmUpCosine(ao.LearningRateSchedule):
    """Rise to the peak in a straight line, fall to a tenth of it."""

    def __init__(self, peak, warmup, steps):
        super().__init__()
        self.peak, self.warmup = peak, warmup
        self.fall = ao.CosineDecayLR(0.1 * peak, peak, steps - warmup)

    def __call__(self, step):
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return self.fall(step - self.warmup)


# %%
# **Predict.** How many bytes go down in 400 steps?

ledger = ao.Ledger()
rate = WarmUpCosine(2e-3, 20, STEPS)
optimizer = ao.AdamOffload(p.values(), rate, ledger=ledger, chunk_bytes=256 << 10)
rng = np.random.default_rng(1)
losses = []
for _ in range(STEPS):
    value, gradients = loss_and_gradients(*batch(rng))
    optimizer(gradients)
    del gradients  # the next pass needs their memory
    losses.append(float(value))

print(f"moments on the host: {optimizer.memory().moments / 1e6:.2f} MB")
print(f"predicted: 4 x {size:,} x {STEPS} = {4 * size * STEPS:,} bytes each way")
print(f"moved: {ledger.bytes('d2h'):,} down, {ledger.bytes('h2d'):,} up")

# %%
# Did it learn?
# -------------
# Three who cannot write have a loss that can be computed. Whoever knows nothing has the logarithm
# of the number of letters. Whoever has counted how often each letter occurs has the entropy of the
# letters; and whoever has counted what follows each letter, the entropy of a letter given the one
# before it. **Predict.** Which of them will the model beat? It sees 32 letters at once, and, in 400
# steps, fewer letters than the text has, so that it cannot learn it by heart.

pairs = np.zeros((len(letters), len(letters)))
np.add.at(pairs, (ids[:-1], ids[1:]), 1 / (ids.size - 1))
before = pairs.sum(axis=1, keepdims=True)  # how often each letter comes first


def entropy(share, given=1.0):
    """Return the mean surprise at what has this share, in nats."""
    seen = share > 0
    return -np.sum(share[seen] * np.log((share / given)[seen]))


levels = {
    "all letters alike": np.log(len(letters)),
    "letters counted": entropy(before),
    "pairs of letters counted": entropy(pairs, np.maximum(before, 1e-9)),
}
smooth = np.convolve(losses, np.full(20, 1 / 20), "valid")

figure, ax = plt.subplots(figsize=(8, 4.4), layout="constrained")
steps = np.arange(1, STEPS + 1)
ax.plot(steps, losses, color="#BBBBBB", linewidth=1, label="a batch")
ax.plot(steps[19:], smooth, color=ao.plots.LINES[0], label="mean of twenty")
for label, level in levels.items():
    ax.axhline(level, color="black", linestyle=":", linewidth=1.2)
    ax.text(STEPS, level, label, ha="right", va="bottom")
ax.set(title="A transformer learns to spell", xlabel="step")
ax.set_ylabel("loss (nats a letter)")
ax.legend(loc="lower left")
plt.show()
for label, level in levels.items():
    print(f"{label + ':':<26}{level:.2f}")
print(f"{'the last twenty batches:':<26}{smooth[-1]:.2f}")
print(f"letters seen: {STEPS * BATCH * CONTEXT:,} of {len(text):,}")

# %%
# A loss below that of counted pairs cannot come from the letter before alone: the model uses what
# stands further back. Let it write, one letter after the other, each drawn by the chances that it
# gives; squared, so that the unlikely becomes rare:

written = list(ids[:CONTEXT])
for _ in range(200):
    seen = device.asarray(np.array([written[-CONTEXT:]], np.int32))
    scores = device.asnumpy(logits(seen))[0, -1]
    chances = np.exp(2 * (scores - scores.max()))
    written.append(rng.choice(len(letters), p=chances / chances.sum()))
print(textwrap.fill("".join(letters[i] for i in written), 72))

# %%
# The first 32 letters were given. The rest has the sound of the text, and some of its words, if not
# yet the sense.
#
# Try it
# ------
# - Double ``BATCH``. Which part of the device's memory grows, and which does not? What does
#   offload do about activations?
# - Leave out the warm-up, with ``WarmUpCosine(2e-3, 0, STEPS)``. Does this model do without it?
# - Train for 2,000 steps. How far does the loss fall? Is it still spelling?
# - Swap the device for ``ao.get_backend("sim", memory_bytes=16_000_000)`` and draw the timeline of
#   a step with ``ao.plots.timeline(ledger)``. Which lane is the longest? Compare its time with what
#   the clock of the device, ``device.now()``, says of a forward and backward pass.
