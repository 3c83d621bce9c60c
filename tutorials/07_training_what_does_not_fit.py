r"""
Training what does not fit
==========================

A network for handwritten digits, and a device that is too small for Adam. We compute beforehand at
which allocation training must fail, to the byte; let it fail there; and then train on the very same
device, with the moments on the host.

You need :ref:`sphx_glr_tutorials_05_first_offloaded_step.py`. At the end you can tell from a
model's size which optimizer fits where, find the largest batch for a device, and know what is left
to do when even parameters and gradients are too much.
"""

# %%
# The network and the device
# --------------------------
# Two hidden layers of 512 units, and a device with 4 MiB. A device in host memory is as strict as
# any: it counts each byte, and refuses what does not fit.

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload.autodiff.data import batches, load_digits

plt.rcParams.update(ao.plots.STYLE)

LIMIT = 4 << 20
SHAPES = {
    "layer1.weight": (64, 512),
    "layer1.bias": (512,),
    "layer2.weight": (512, 512),
    "layer2.bias": (512,),
    "layer3.weight": (512, 10),
    "layer3.bias": (10,),
}
digits = load_digits()
n = sum(int(np.prod(shape)) for shape in SHAPES.values())
print(f"{n:,} parameters; the device has {LIMIT:,} bytes")


def network(device):
    """Return the parameters on a device, always the same ones."""
    rng = np.random.default_rng(0)
    parameters = []
    for name, shape in SHAPES.items():
        scale = np.sqrt(2 / shape[0]) if name.endswith("weight") else 0.0
        values = (scale * rng.standard_normal(shape)).astype(np.float32)
        parameters.append(ao.Parameter(device.asarray(values), name))
    return parameters


def logits(parameters, x):
    w1, b1, w2, b2, w3, b3 = parameters
    return np.maximum(np.maximum(x @ w1 + b1, 0) @ w2 + b2, 0) @ w3 + b3


def gradients_of(parameters, trained=None):
    """Return a function for the loss and the gradients of all, or some."""

    def loss(x, y):
        return ao.softmax_cross_entropy(logits(parameters, x), y)

    return ao.value_and_grad(loss, tuple(trained or parameters))


def on_device(device, indices):
    """Copy a batch to the device."""
    images, labels = digits.train_images[indices], digits.train_labels[indices]
    return device.asarray(images), device.asarray(labels)


# %%
# Adam on the device
# ------------------
# **Predict.** Parameters and gradients are 8 bytes for each of the 301,066 parameters, and Adam's
# moments are as much again. Does all of it fit? If not, which array is the first that does not?
#
# The batch is there, too: 64 images of 64 float32, 64 labels of 8 bytes, and the loss. The
# optimizer allocates one array for all first moments, then one for all second ones. So we add up:

used = 8 * n + 64 * 64 * 4 + 64 * 8 + 4
nbytes = 4 * n  # of each moment
print(f"{'parameters, gradients, batch':<29} {used:>9,} bytes")
for what in ("m", "v"):
    print(f"{what} of all parameters: {nbytes:>16,} bytes", end=", ")
    if used + nbytes > LIMIT:
        print("too much")
        break
    used += nbytes
    print(f"then {used:>9,} in use")

# %%
# So it should be the second moment. Now we let it happen.

device = ao.get_backend("numpy", memory_bytes=LIMIT)
parameters = network(device)
batch = on_device(device, np.arange(64))
loss, gradients = gradients_of(parameters)(*batch)
try:
    ao.Adam(parameters)
except ao.DeviceMemoryError as error:
    print(f"failed: {error.__notes__[0]}, {error.requested_bytes:,} bytes", end=" ")
    print(f"with {error.used_bytes:,} in use")
    failed = error.requested_bytes, error.used_bytes
    print("as predicted:", failed == (nbytes, used))
    assert failed == (nbytes, used)

# %%
# To the byte. Nothing was estimated: what parameters, gradients and moments need follows from their
# shapes.
#
# Adam on the host
# ----------------
# The same device once more, with `adamoffload.AdamOffload` in the place of `adamoffload.Adam`. It
# needs a ring of staging slots on the device: at most three chunks, however large the model. As the
# device is small, we choose small chunks.

LR, BATCH, EPOCHS = 1e-3, 64, 3
device = ao.get_backend("numpy", memory_bytes=LIMIT)
parameters = network(device)
ledger = ao.Ledger()
optimizer = ao.AdamOffload(parameters, LR, ledger=ledger, chunk_bytes=128 << 10)


def train(device, parameters, optimizer, loss_and_gradients):
    """Train; return the loss of each batch, the test accuracy of each epoch."""
    rng = np.random.default_rng(0)
    losses, accuracies = [], []
    for _ in range(EPOCHS):
        for indices in batches(len(digits.train_labels), BATCH, rng):
            loss, gradients = loss_and_gradients(*on_device(device, indices))
            optimizer(gradients)
            del gradients  # the next pass needs their memory
            losses.append(float(loss))
        # The test is done on the host: the same function, on NumPy arrays.
        weights = [device.asnumpy(p.data) for p in parameters]
        answers = np.argmax(logits(weights, digits.test_images), axis=1)
        accuracies.append(np.mean(answers == digits.test_labels))
    return losses, accuracies


losses, accuracies = train(device, parameters, optimizer, gradients_of(parameters))
print("test accuracy after each epoch:", ", ".join(f"{a:.1%}" for a in accuracies))
print(f"peak on the device: {device.memory().peak:,} of {LIMIT:,} bytes")

# %%

figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
blue = ao.plots.LINES[0]
steps, epochs = range(1, len(losses) + 1), range(1, EPOCHS + 1)
axes[0].plot(steps, losses, color=blue)
axes[0].set(title="Loss of each batch", xlabel="step", yscale="log")
axes[0].set_ylabel("cross-entropy (nats)")
axes[1].plot(epochs, accuracies, color=blue, marker="o")
axes[1].set(title="Test accuracy", xlabel="epoch", xticks=epochs)
axes[1].set_ylabel("share of the test images")
axes[1].yaxis.set_major_formatter("{x:.0%}")
plt.show()

# %%
# Is it the same training?
# ------------------------
# **Predict.** A device without a limit has room for Adam. After the same epochs there, how many of
# the parameters differ from ours, and by how much?

large = ao.get_backend("numpy")
on_large = network(large)
resident = ao.Adam(on_large, LR)
train(large, on_large, resident, gradients_of(on_large))
equal = [
    np.array_equal(large.asnumpy(p.data), device.asnumpy(q.data))
    for p, q in zip(on_large, parameters, strict=True)
]
print(f"{equal.count(True)} of {len(equal)} arrays are equal, bit by bit")
assert all(equal)

# %%
# None differs. Offload is no approximation: the same numbers are computed, elsewhere.
#
# Where the bytes are
# -------------------
# Each optimizer knows where its bytes are. The line is the limit of our device.

figure, ax = plt.subplots(figsize=(9, 5), layout="constrained")
offloaded = optimizer.memory()
ao.plots.memory({"Adam": resident.memory(), "AdamOffload": offloaded}, LIMIT, ax=ax)
plt.show()

moved = ledger.bytes("d2h")
print(f"the price: {moved:,} bytes down, {ledger.bytes('h2d'):,} up,")
in_a_step = moved / len(losses) / n
print(f"in each of {len(losses)} steps {in_a_step:g} bytes per parameter each way")

# %%
# The host keeps what the device is spared, and a ring of its own. What crosses the link is the
# price in time; that is a matter of :doc:`the link </concepts/link>` and of :doc:`overlap
# </concepts/overlap>`.
#
# The ledger also writes down where the bytes are at the beginning and the end of each step. Does
# anything pile up?

samples = ledger.memory()
there = samples[samples["place"] == "device"]
for kind in np.unique(there["kind"]):
    nbytes = there["nbytes"][there["kind"] == kind]
    print(f"{kind:<10} {nbytes.min():>9,} to {nbytes.max():>9,} bytes on the device")
    assert kind == "other" or nbytes.min() == nbytes.max()

# %%
# Nothing does. "Other" is what the optimizer does not know of: here, the loss.
#
# Activations
# -----------
# There is room below the limit. Yet the peak, printed further up, was higher than the sum of these:
# in the backward pass, between two steps, the activations come and go. They depend on the batch,
# and not on the optimizer: offload does nothing about them, but leaves them more room.
#
# How large a batch does this device take? We measure the peak of a step for two batches, on a
# device without a limit.


def peak(batch, limit=None):
    """Return the most bytes in use on a device during a step with such a batch."""
    device = ao.get_backend("numpy", memory_bytes=limit)
    parameters = network(device)
    optimizer = ao.AdamOffload(parameters, LR, chunk_bytes=128 << 10)
    _, gradients = gradients_of(parameters)(*on_device(device, np.arange(batch)))
    optimizer(gradients)
    return device.memory().peak


at_128, at_192 = peak(128), peak(192)
print(f"128 images: {at_128:,} bytes; 192 images: {at_192:,}; limit: {LIMIT:,}")

# %%
# **Predict.** Once the batch is large, the peak grows with it in a straight line. How many bytes
# does one more image take, and which is the largest batch that fits?

an_image = (at_192 - at_128) // 64
predicted = 192 + (LIMIT - at_192) // an_image
print(f"one more image: {an_image:,} bytes; largest batch predicted: {predicted}")
for batch in (predicted, predicted + 1):
    try:
        print(f"batch of {batch}: fits, {LIMIT - peak(batch, LIMIT):,} bytes left")
        assert batch == predicted
    except ao.DeviceMemoryError as error:
        refused = error.requested_bytes
        print(f"batch of {batch}: an array of {refused:,} bytes is refused")
        assert batch == predicted + 1

# %%

sizes = np.array([1, 32, 64, 128, 256])
peaks = np.array([peak(size) for size in sizes])
figure, ax = plt.subplots(figsize=(9, 4.6), layout="constrained")
moved_up = peaks + resident.memory().device - offloaded.device
colors = ao.plots.COLORS
ax.plot(sizes, moved_up / 1e6, "--", color=colors["device"])
ax.plot(sizes, peaks / 1e6, "o-", color=colors["host"])
ax.axhline(LIMIT / 1e6, color=colors["limit"], linestyle=":")
ax.set(title="Peak of a step", xlabel="images in the batch")
ax.set(ylabel="device memory (MB)", ylim=(0, None))
labels = ["Adam on the device, at least", "Adam on the host, measured", "limit"]
ax.legend(ax.lines, labels, loc="lower right")
plt.show()

# %%
# With Adam on the device, not even a batch of one would fit. (The dashed line is the solid one,
# moved up by the moments and down by the ring. The arithmetic on the device would need some room,
# too.)
#
# If the batch you want does not fit: sum up the gradients of several small ones, which takes 4 more
# bytes per parameter for the sum; or compute activations again in the backward pass instead of
# keeping them, *gradient checkpointing* (`Chen et al., 2016 <https://arxiv.org/abs/1604.06174>`_).
#
# When even that is too much
# --------------------------
# Here is a device with 2 MiB: less than the 8 bytes per parameter that are left with offload.

device = ao.get_backend("numpy", memory_bytes=2 << 20)
parameters = network(device)
try:
    gradients_of(parameters)(*on_device(device, np.arange(BATCH)))
except ao.DeviceMemoryError as error:
    print(f"8 bytes per parameter: {8 * n:,}; the device: {2 << 20:,}")
    requested, in_use = error.requested_bytes, error.used_bytes
    print(f"failed: {requested:,} bytes with {in_use:,} in use")

# %%
# Now the optimizer has nothing left to give. There are other ways, which can be combined:
#
# - *smaller numbers*: 2 bytes for a parameter and 2 for its gradient, in mixed precision
#   (`Micikevicius et al., 2017 <https://arxiv.org/abs/1710.03740>`_);
# - *more devices*: each keeps a part of the parameters and gradients (`Rajbhandari et al., 2019
#   <https://arxiv.org/abs/1910.02054>`_);
# - *parameters on the host, too*: they visit the device layer by layer (`Rajbhandari et al., 2021
#   <https://arxiv.org/abs/2104.07857>`_);
# - *fewer trained parameters*: what is frozen needs no gradient and no moments. Small matrices
#   that are added to large frozen ones, *LoRA*, are the best known case (`Hu et al., 2021
#   <https://arxiv.org/abs/2106.09685>`_).
#
# The last one needs nothing new, so we try it: the large middle layer keeps the random weights that
# it began with. The ring, too, is made smaller.
#
# **Predict.** The middle layer has 87 of 100 parameters. How many bytes are parameters and
# gradients now? And how good can a network be whose middle was never trained?

trained = [p for p in parameters if not p.name.startswith("layer2")]
few = sum(p.size for p in trained)
fewer = ao.Ledger()
optimizer = ao.AdamOffload(trained, LR, ledger=fewer, chunk_bytes=32 << 10)
_, partly = train(device, parameters, optimizer, gradients_of(parameters, trained))
print(f"trained: {few:,} of {n:,} parameters")
print(f"parameters and gradients: {4 * n + 4 * few:,} bytes")
print(f"peak: {device.memory().peak:,} of {2 << 20:,} bytes")
print(f"down the link: {fewer.bytes('d2h') / moved:.0%} of what it was")
print(f"test accuracy: {partly[-1]:.1%}; all of them trained: {accuracies[-1]:.1%}")
assert 0.7 < partly[-1] < accuracies[-1]

# %%
# A random middle costs some accuracy, and the network still recognises most digits. It also sends
# less over the link: only gradients that exist have to go down.
#
# **In one line:** what a step needs follows from shapes, so whether it fits can be known before.
#
# Try it
# ------
# - Leave out ``del gradients``. In which step does the training fail, and why?
# - Sum up the gradients of two batches of 32 before each step. Does it fit in 4 MiB? And with 64?
# - Leave out ``chunk_bytes``. How large is the ring then? Compare it with the size of the model.
# - Freeze the first layer instead of the second. How much memory does that save?
