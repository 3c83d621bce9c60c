r"""
A small transformer on text, offloaded
======================================

Everything together: a transformer of some 400,000 parameters, written in plain NumPy, learns to
write in the style of this project's own docstrings. Its parameters are on a device too small for
Adam; the moments are on the host.

You need :ref:`sphx_glr_tutorials_03_first_offloaded_step.py`, and should have seen a transformer
(`Vaswani et al., 2017 <https://arxiv.org/abs/1706.03762>`_). At the end you have trained one
within a memory limit, and know what it moved and where its bytes were.
"""

# %%
# The text
# --------
# What could be at hand on every machine that runs this page? The documentation inside the package.

import os
import re
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # these matrices are too small to share

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao

plt.rcParams.update(ao.plots.STYLE)

sources = sorted(Path(ao.__file__).parent.glob("*.py"))
docstrings = [d for s in sources for d in re.findall(r'"""(.*?)"""', s.read_text("utf-8"), re.S)]
text = re.sub(r"\s+", " ", " ".join(docstrings)).encode("ascii", "ignore").decode()
letters = sorted(set(text))
ids = np.array([letters.index(letter) for letter in text], np.int32)
print(f"{len(text):,} letters, {len(letters)} different ones, such as: {text[:70]}...")

# %%
# The model
# ---------
# Two blocks of attention and a network, each added to the stream; normalised before (`Xiong et
# al., 2020 <https://arxiv.org/abs/2002.04745>`_). The whole of it is ``np.*``: on device arrays it
# runs on the device, and `adamoffload.value_and_grad` takes its gradient.

WIDTH, HEADS, BLOCKS, CONTEXT, BATCH = 128, 4, 2, 32, 4
rng = np.random.default_rng(0)
device = ao.get_backend("numpy", memory_bytes=10_000_000)
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
    heads = np.reshape(x @ p[f"{i}.attention"], (batch, length, 3, HEADS, WIDTH // HEADS))
    q, k, v = np.moveaxis(heads, (2, 3), (0, 2))
    scores = q @ np.swapaxes(k, -1, -2) * (WIDTH // HEADS) ** -0.5
    seen = ao.softmax(scores + future[:length, :length]) @ v
    return np.reshape(np.moveaxis(seen, 1, 2), (batch, length, WIDTH)) @ p[f"{i}.mix"]


def logits(tokens):
    x = np.take(p["letters"], tokens, axis=0) + p["places"][: tokens.shape[1]]
    for i in range(BLOCKS):
        x = x + attention(i, ao.layer_norm(x, p[f"{i}.norm1.gain"], p[f"{i}.norm1.bias"]))
        h = ao.layer_norm(x, p[f"{i}.norm2.gain"], p[f"{i}.norm2.bias"])
        x = x + ao.gelu(h @ p[f"{i}.wide"]) @ p[f"{i}.narrow"]
    return ao.layer_norm(x, p["norm.gain"], p["norm.bias"]) @ p["head"]


def loss(tokens, targets):
    return ao.softmax_cross_entropy(logits(tokens), targets)


size = sum(parameter.size for parameter in p.values())
print(f"{size:,} parameters in {len(p)} tensors; the device has {device.memory().limit:,} bytes")

# %%
# Does it fit?
# ------------
# **Predict.** Parameters, gradients and two moments are 16 bytes a parameter. The activations of a
# batch, which the gradient needs, come on top. Is the device large enough with Adam on it? And with
# the moments on the host, at 8 bytes a parameter?


def batch(rng):
    """Return some pieces of the text, and the same pieces one letter on, on the device."""
    starts = rng.integers(0, len(ids) - CONTEXT - 1, BATCH)
    pieces = np.stack([ids[start : start + CONTEXT + 1] for start in starts])
    return device.asarray(pieces[:, :-1]), device.asarray(pieces[:, 1:])


loss_and_gradients = ao.value_and_grad(loss, tuple(p.values()))
_, gradients = loss_and_gradients(*batch(np.random.default_rng(0)))
peak = device.memory().peak
limit = device.memory().limit
print(f"forward and backward pass, at most: {peak / 1e6:5.2f} MB")
print(f"two moments more:                   {(peak + 8 * size) / 1e6:5.2f} MB")
print(f"the device:                         {limit / 1e6:5.2f} MB")

# %%
# The peak is reached in the backward pass, when activations and gradients are there together. With
# moments beside them it would not fit:

try:
    resident = ao.Adam(p.values(), learning_rate=1e-3)
    del gradients
    loss_and_gradients(*batch(np.random.default_rng(0)))
except ao.DeviceMemoryError as error:
    print(error)
finally:
    resident = gradients = None

# %%
# Training
# --------
# So the moments stay on the host. The learning rate rises for 20 steps and then falls to a tenth:
# large first steps do damage to a transformer, whose second moments are not known yet.

STEPS = 120


class WarmUpCosine(ao.LearningRateSchedule):
    """Rise to the peak in a straight line, fall to a tenth of it along a cosine."""

    def __init__(self, peak, warmup, steps):
        super().__init__()
        self.rise = ao.WarmUpLR(peak, warmup)
        self.fall = ao.CosineDecayLR(0.1 * peak, peak, steps - warmup)
        self.warmup = warmup

    def __call__(self, step):
        return self.rise(step) if step < self.warmup else self.fall(step - self.warmup)


ledger = ao.Ledger()
optimizer = ao.AdamOffload(
    p.values(), WarmUpCosine(3e-3, 20, STEPS), ledger=ledger, chunk_bytes=256 << 10
)
rng = np.random.default_rng(1)
losses = []
for _ in range(STEPS):
    value, gradients = loss_and_gradients(*batch(rng))
    optimizer(gradients)
    del gradients  # the next pass needs their memory
    losses.append(float(value))

print(f"moments on the host: {optimizer.memory().moments / 1e6:.2f} MB")
print(f"moved: {ledger.bytes('d2h'):,} bytes down, {ledger.bytes('h2d'):,} bytes up")
print(f"predicted: 4 x {size:,} x {STEPS} = {4 * size * STEPS:,} each way")

# %%
# Did it learn?
# -------------
# Whoever knows only how often each letter occurs has a loss that can be computed, the entropy of
# the letters; whoever knows nothing, the logarithm of their number.

share = np.bincount(ids) / ids.size
entropy = -np.sum(share * np.log(share))
smooth = np.convolve(losses, np.full(10, 0.1), "valid")

figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.plot(np.arange(1, STEPS + 1), losses, color="#BBBBBB", linewidth=1, label="a batch")
ax.plot(np.arange(10, STEPS + 1), smooth, color=ao.plots.LINES[0], label="mean of ten")
for level, label in ((np.log(len(letters)), "all letters alike"), (entropy, "letters counted")):
    ax.axhline(level, color="black", linestyle=":", linewidth=1.2)
    ax.text(STEPS, level, label, ha="right", va="bottom")
ax.set(title="A transformer learns to spell", xlabel="step", ylabel="loss (nats a letter)")
ax.legend(loc="lower left")
plt.show()

# %%
# It is soon better than counting letters: it uses what stands before. What it writes has the sound
# of the text, after so few steps, if not yet the sense:

written = list(ids[:CONTEXT])
for _ in range(80):
    scores = device.asnumpy(logits(device.asarray(np.array([written[-CONTEXT:]], np.int32))))[0, -1]
    chances = np.exp((scores - scores.max()) / 0.7)
    written.append(rng.choice(len(letters), p=chances / chances.sum()))
print("".join(letters[i] for i in written[:CONTEXT]), "|", end=" ")
print("".join(letters[i] for i in written[CONTEXT:]))

# %%
# Try it
# ------
# - Double ``BATCH``. Which part of the device's memory grows, and which does not? What does
#   offload do about activations?
# - Train for 2,000 steps. How far does the loss fall?
# - Swap the device for ``ao.get_backend("sim", memory_bytes=10_000_000)`` and draw the timeline of
#   a step with ``ao.plots.timeline(ledger)``. How long would the link take, and how long the
#   model?
