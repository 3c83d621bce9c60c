"""Lab 6: Groups and schedules. The solution.

The statement is in lab6.rst. Check your work, as often as you like, with

    adamoffload lab check 6 lab6.py

A step is an int that counts from 0: it is the number of steps made before. Rates are Python floats
unless it says float32. Arrays are float32, of shape (n,); never change an argument in place.
"""

import math

import numpy as np


# Task 1
def warmup_cosine(step, warmup, total, peak, floor):
    """Return the learning rate at a 0-based step, a float.

    From 0 at step 0 in a straight line up to peak at step warmup; from there half a cosine down to
    floor at step total; floor from then on. 0 < warmup < total.
    """
    if step < warmup:
        return peak * step / warmup
    angle = math.pi * (min(step, total) - warmup) / (total - warmup)
    return floor + (peak - floor) / 2 * (1 + math.cos(angle))


# Task 2: an optimizer is given the table [0.3, 0.2, 0.1] for its learning rate. Replace each None.
OFF_BY_ONE = [
    0.3,  # which rate does the very first step use?
    1,  # which t stands in its bias correction, 1 - beta**t?
    3,  # how many steps can be made before one fails?
    3,  # what is optimizer.global_step after that failure?
]


# Task 3
def rate_at(rate, step):
    """Return the learning rate at a 0-based step, a np.float32.

    rate is a number, or a list of numbers (a table: one a step), or a function of the 0-based step.
    Raise RuntimeError if a table has no entry for the step.
    """
    if callable(rate):
        return np.float32(rate(step))
    if isinstance(rate, list):
        if step >= len(rate):
            raise RuntimeError(f"the table has {len(rate)} entries, and step {step} needs one more")
        return np.float32(rate[step])
    return np.float32(rate)


# Task 4: all of these are passed to AdamOffload in one list, without groups, with weight_decay=0.1.
# norm.weight is a normalization's gain, as PyTorch names it; film.gamma_net.weight is a matrix.
NAMES = ["fc.weight", "fc.bias", "norm.weight", "norm.gamma", "norm.beta", "film.gamma_net.weight"]
# Which are decayed? Replace None by a list of names, in the order above.
DECAYED = ["fc.weight", "fc.bias", "norm.weight"]


# Task 5
def make_groups(parameters, lr, weight_decay):
    """Return groups for AdamOffload, a list of dicts with the keys params, lr, weight_decay.

    Each parameter has a .name, a .shape and a .ndim, and is in exactly one group. The rules:

    - weight_decay for parameters of two and more dimensions, no decay for all others;
    - a parameter whose name begins with "head." learns at ten times lr, all others at lr.

    A group without parameters is an error, so leave it out.
    """
    made = []
    for decayed in (True, False):
        for head in (True, False):
            members = [
                p
                for p in parameters
                if (p.ndim >= 2) == decayed and p.name.startswith("head.") == head
            ]
            if members:
                made.append(
                    {
                        "params": members,
                        "lr": 10 * lr if head else lr,
                        "weight_decay": weight_decay if decayed else 0.0,
                    }
                )
    return made


# Task 6: one weight, w = 2, moments 0, gradient 0, learning rate 0.001, weight decay 0.01. By how
# much does the very first step shrink the weight? Replace each None by a positive number.
SHRINKS = [
    0.001,  # if the decay is added to the gradient (L2): g + decay * w goes into Adam
    0.00002,  # if it is decoupled (AdamW): lr * decay * w is subtracted, beside Adam's step
]


# Task 7
def first_step(w, g, lr, weight_decay, decoupled):
    """Return the weights after Adam's very first step, beginning with moments of zero.

    The first step is -lr * g / (abs(g) + eps), with eps = 1e-8 / sqrt(1 - 0.999) = 3.2e-7, if g is
    what goes into Adam. decoupled says where the decay goes: False, into g; True, beside the step.
    """
    eps = 1e-8 / math.sqrt(1 - 0.999)
    into = g if decoupled else g + weight_decay * w
    moved = w - lr * into / (abs(into) + eps)
    return moved - lr * weight_decay * w if decoupled else moved


# Task 8
def which_decay(step):
    """Return "L2" or "decoupled", by experiment.

    step(w, g) returns the weights after the very first step of some Adam, which begins with moments
    of zero. Its learning rate and its weight decay are above 0, and you don't know them. w and g
    are float32 arrays of your choice, both of shape (n,).
    """
    w = np.array([1, 2], np.float32)
    moved = w - step(w, np.zeros_like(w))
    return "L2" if moved[1] < 1.5 * moved[0] else "decoupled"


# Task 9
def what_adam_sees(g, w, weight_decay, loss_scale):
    """Return the gradient that goes into Adam, float32: with decay, and unscaled.

    g is the gradient of the scaled loss, loss_scale * loss. The decay is L2: what goes into Adam is
    the gradient of the loss, plus weight_decay * w.
    """
    scaled = g + w * (weight_decay * loss_scale)
    return scaled * (1 / loss_scale)
