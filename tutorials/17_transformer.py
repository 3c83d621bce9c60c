r"""
A small transformer on text, offloaded
======================================

Everything together: a transformer written in plain NumPy learns to write sentences in the manner of
NumPy's documentation. Its parameters are on a device too small for Adam; the moments are on the
host.

You need :ref:`sphx_glr_tutorials_07_training_what_does_not_fit.py` and
:ref:`sphx_glr_tutorials_23_groups_schedules_decay.py`, and should have seen a transformer (`Vaswani
et al., 2017 <https://arxiv.org/abs/1706.03762>`_). At the end you have trained one within a memory
limit, know what it moved and where its bytes were, and can say what offload cannot help.
"""

# %%
# The text
# --------
# Which text is at hand on every machine that runs this page? NumPy's own docstrings. We take the
# sentences without any code in them, keep one in ten to test with, and never train on those.

import inspect
import os
import re
import textwrap
from collections import Counter
from itertools import pairwise

# These matrices are too small to share among cores. It must be said before NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
import numpy.ma
import numpy.polynomial
import numpy.testing

import adamoffload as ao

plt.rcParams.update(ao.plots.STYLE)


def docstrings(module):
    """Return the docstrings of a module's names, and of its classes' methods."""
    names = list(vars(module).values())
    methods = [m for name in names if isinstance(name, type) for m in vars(name).values()]
    texts = [getattr(thing, "__doc__", None) for thing in names + methods]
    return [inspect.cleandoc(text) for text in texts if isinstance(text, str)]


modules = (np, np.linalg, np.fft, np.random, np.ma, np.polynomial, np.char, np.testing)
found = set()
for module in modules:
    for docstring in docstrings(module):
        for paragraph in docstring.split("\n\n")[:3]:
            plain = " ".join(paragraph.replace("`", "").split())
            found.update(re.findall(r"(?<![^ ])[A-Z][a-z]+ [A-Za-z ,']{10,90}\.", plain))
sentences = sorted(found)
np.random.default_rng(0).shuffle(sentences)
text = " ".join(sentences)
print(f"{len(sentences):,} sentences, {len(text):,} letters, such as:")
print(textwrap.fill(text[:200], 72), "...")

# %%
# A model reads numbers. One for each letter would do, but language models take pieces of words:
# begin with the letters, and join the most frequent pair of neighbours to a new piece, again and
# again (`Sennrich et al., 2016 <https://arxiv.org/abs/1508.07909>`_).


def pieces_of(words, size):
    """Return a vocabulary of that size, and each word cut into its pieces."""
    counts = Counter(words)
    cut = {word: list(word) for word in counts}
    vocabulary = sorted({letter for word in counts for letter in word})
    while len(vocabulary) < size:
        pairs = Counter()
        for word, parts in cut.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        vocabulary.append(left + right)
        for word, parts in cut.items():
            if left + right in word:
                i = 0
                while i < len(parts) - 1:
                    if (parts[i], parts[i + 1]) == (left, right):
                        parts[i : i + 2] = [left + right]
                    i += 1
    return vocabulary, cut


words = re.findall(r" ?[A-Za-z]+|[^A-Za-z]", text)
vocabulary, cut = pieces_of(words, 512)
number = {piece: i for i, piece in enumerate(vocabulary)}
ids = np.array([number[piece] for word in words for piece in cut[word]], np.int32)
held_out = ids[: ids.size // 10]
train = ids[ids.size // 10 :]
print(f"{ids.size:,} pieces, {len(text) / ids.size:.1f} letters each; such as", vocabulary[-5:])

# %%
# The model
# ---------
# Two blocks, each of attention and a small network. Both are added to the stream, and normalise
# what they read from it (`Xiong et al., 2020 <https://arxiv.org/abs/2002.04745>`_, figure 1b). The
# whole of it is ``np.*``: on device arrays it runs on the device, and `adamoffload.value_and_grad`
# takes its gradient.

WIDTH, HEADS, BLOCKS, CONTEXT, BATCH = 64, 4, 2, 24, 8
rng = np.random.default_rng(0)
LIMIT, RING = 7_500_000, 3 * (128 << 10)  # bytes: of the device, of the staging slots
device = ao.get_backend("numpy", memory_bytes=LIMIT)
parameters = {}


def parameter(name, *shape, scale=None):
    """Make a parameter on the device: random with a scale, or else constant."""
    if scale is None:
        values = np.full(shape, 1.0 if name.endswith("gain") else 0.0)
    else:
        values = scale * rng.standard_normal(shape)
    parameters[name] = ao.Parameter(device.asarray(values.astype(np.float32)), name)


parameter("pieces", len(vocabulary), WIDTH, scale=0.1)
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
parameter("head", WIDTH, len(vocabulary), scale=WIDTH**-0.5)
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
    x = np.take(p["pieces"], tokens, axis=0) + p["places"][: tokens.shape[1]]
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
# Parameters and gradients are 8 bytes per parameter, the moments 8 more. The *activations*, which
# the forward pass makes and the backward pass needs, come on top. **Predict.** What takes most of
# the device at the peak: parameters and gradients, moments, or activations? Is it large enough with
# Adam on it? And with the moments on the host?


def batch(rng, data=train):
    """Return excerpts of a text, and the same one piece on, on the device."""
    starts = rng.integers(0, len(data) - CONTEXT - 1, BATCH)
    excerpts = np.stack([data[start : start + CONTEXT + 1] for start in starts])
    return device.asarray(excerpts[:, :-1]), device.asarray(excerpts[:, 1:])


loss(*batch(np.random.default_rng(0)))
forward = device.memory().peak
loss_and_gradients = ao.value_and_grad(loss, tuple(p.values()))
loss_and_gradients(*batch(np.random.default_rng(0)))
peak = device.memory().peak

floats = 4 * size  # bytes of one number for each parameter
both = {"parameters": floats, "gradients": floats, "other": peak - 2 * floats}
figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
bars = {
    "Adam on the device": both | {"moments": 2 * floats},
    "Adam on the host": both | {"staging": RING},
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
else:
    raise AssertionError("Adam should not have fitted")
resident = None  # so that its moments go

# %%
# Training
# --------
# So the moments stay on the host. The rate rises for 50 steps and then falls along a cosine, as in
# :ref:`sphx_glr_tutorials_23_groups_schedules_decay.py`, here to a tenth of the peak. (Xiong et al.
# find that a transformer that normalises where ours does can be trained without the rise.)

STEPS = 1200


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
# **Predict.** How many bytes go down in 1,200 steps?


def held_out_loss():
    """Return the mean loss on the same eight batches of the text that is never trained on."""
    rng = np.random.default_rng(2)
    return np.mean([float(loss(*batch(rng, held_out))) for _ in range(8)])


ledger = ao.Ledger()
rate = WarmUpCosine(8e-3, 50, STEPS)
optimizer = ao.AdamOffload(p.values(), rate, ledger=ledger, chunk_bytes=RING // 3)
rng = np.random.default_rng(1)
losses, tested = [], {}
for step in range(1, STEPS + 1):
    value, gradients = loss_and_gradients(*batch(rng))
    optimizer(gradients)
    del gradients  # the next pass needs their memory
    losses.append(float(value))
    if step % 150 == 0:
        tested[step] = held_out_loss()

print(f"moments on the host: {optimizer.memory().moments / 1e6:.2f} MB")
print(f"predicted: 4 x {size:,} x {STEPS} = {4 * size * STEPS:,} bytes each way")
print(f"moved: {ledger.bytes('d2h'):,} down, {ledger.bytes('h2d'):,} up")
assert ledger.bytes("d2h") == ledger.bytes("h2d") == 4 * size * STEPS

# %%
# Did it learn?
# -------------
# Three readers who cannot write have a loss on the held-out text that can be computed. One knows
# nothing; one has counted how often each piece occurs in the training text; one has counted which
# piece follows which. **Predict.** Which of them will the model beat?

V = len(vocabulary)
share = (np.bincount(train, minlength=V) + 1) / (train.size + V)
pairs = np.zeros((V, V))
np.add.at(pairs, (train[:-1], train[1:]), 1)
# Where a piece was seen seldom, the third believes the second.
follows = (pairs + 4 * share) / (pairs.sum(axis=1, keepdims=True) + 4)
levels = {
    "all pieces alike": np.log(V),
    "pieces counted": -np.mean(np.log(share[held_out])),
    "pairs counted": -np.mean(np.log(follows[held_out[:-1], held_out[1:]])),
}
smooth = np.convolve(losses, np.full(20, 1 / 20), "valid")

figure, ax = plt.subplots(figsize=(8, 4.4), layout="constrained")
blue, red = ao.plots.LINES[:2]
ax.plot(np.arange(20, STEPS + 1), smooth, color=blue, label="training, mean of twenty batches")
ax.plot([*tested], [*tested.values()], "o", color=red, label="held-out text")
for label, level in levels.items():
    ax.axhline(level, color="black", linestyle=":", linewidth=1.2)
    ax.text(STEPS, level + 0.03, label, ha="right", va="bottom")
ax.set(title="Held-out loss falls below all that counting can do", xlabel="step")
ax.set(ylabel="loss (nats per piece)", ylim=(2, 7.4))
ax.legend(loc="lower left")
plt.show()
for label, level in levels.items():
    print(f"{label + ':':<22}{level:.2f}")
print(f"{'training:':<22}{smooth[-1]:.2f}")
print(f"{'held-out text:':<22}{tested[STEPS]:.2f}")
assert tested[STEPS] < levels["pairs counted"]

# %%
# A loss below that of counted pairs cannot come from the piece before alone: the model uses what
# stands further back. And it holds for text that it has never seen, so it was not learnt by heart;
# the gap between training and held-out text says how much was.
#
# Let it write, one piece after the other, each drawn by the chances that it gives, to the power of
# three, so that the unlikely becomes rare. The first words are from the held-out text.

written = list(held_out[:CONTEXT])
for _ in range(120):
    seen = device.asarray(np.array([written[-CONTEXT:]], np.int32))
    scores = device.asnumpy(logits(seen))[0, -1]
    chances = np.exp(3 * (scores - scores.max()))
    written.append(rng.choice(V, p=chances / chances.sum()))
given, its_own = (
    "".join(vocabulary[i] for i in part) for part in (written[:CONTEXT], written[CONTEXT:])
)
print(textwrap.fill(given, 72), "|")
print(textwrap.fill(its_own, 72))
known = set(re.findall("[A-Za-z]+", text))
own_words = re.findall("[A-Za-z]+", its_own)[:-1]
real = np.mean([word in known for word in own_words])
print(f"{real:.0%} of its {len(own_words)} words are words of the text")
assert real > 0.6

# %%
# What is it, then? Sentences of the right form, mostly of real words, without a meaning: half a
# minute's worth of a language model. More text and more steps would make it better, and nothing
# about the optimizer would change: 4 bytes per parameter down, 4 up.
#
# **In one line:** whatever the model computes, the optimizer moves 4 bytes per parameter and way.
#
# Try it
# ------
# - Double ``BATCH``. Which part of the device's memory grows, and which does not? What does
#   offload do about activations?
# - Leave out the warm-up, with ``WarmUpCosine(8e-3, 0, STEPS)``. Does this model do without it?
# - Train for 5,000 steps. What becomes of the gap between training and held-out text?
# - Swap the device for ``ao.get_backend("sim", memory_bytes=LIMIT)`` and draw the timeline of
#   a step with ``ao.plots.timeline(ledger)``. Which lane is the longest? Compare its time with what
#   the clock of the device, ``device.now()``, says of a forward and backward pass.
