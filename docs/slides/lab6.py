"""Slides for lab 6: groups and schedules."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.plots.style import COLORS, LINES, MARKERS

from slides import Slide
from slides.drawing import arrow, axes, box, canvas

QUESTION = "No error, no warning, and the training is worse than in the paper. What was Adam told?"
DISCUSS = (
    "A warm-up from 0 makes the first step a step of size 0. Are the moments as they were, afterwards?",
    "A schedule of 1,000 steps, and a step 1,001. What should its rate be? And a table's?",
    "Why must L2 decay be scaled with the loss, and decoupled decay not?",
)
STEPS, RATE, DECAY = 400, 0.002, 0.1
SCALE = 1024


def counters() -> Any:
    ax = canvas(17, 5.6)
    arrow(ax, (3.4, 2.8), (16.8, 2.8))
    for i in range(5):
        x = 4.3 + 2.6 * i
        box(ax, (x - 0.45, 2.25), (0.9, 1.1), "", COLORS["device"])
        ax.text(
            x, 4.2, str(i), ha="center", va="center", fontsize=22, color=LINES[0], weight="bold"
        )
        ax.text(
            x, 1.4, str(i + 1), ha="center", va="center", fontsize=22, color=LINES[1], weight="bold"
        )
    ax.text(
        3.2,
        4.2,
        "steps made before:\ntables, schedules",
        ha="right",
        va="center",
        fontsize=13,
        color=LINES[0],
    )
    ax.text(
        3.2, 1.4, "t of the\nbias correction", ha="right", va="center", fontsize=13, color=LINES[1]
    )
    return ax


def kinds() -> Any:
    table = [1e-3] * 12 + [5e-4] * 12 + [2e-4] * 16
    rates = {"a number": 6e-4, "a table": table, "a schedule": ao.CosineDecayLR(0.0, 1e-3, 40)}
    return ao.plots.schedule(rates, 40, ax=axes((8, 3.3)))


def warm_up() -> Any:
    """Two definitions of a warm-up over five steps, both in use."""
    ours, ax = ao.WarmUpLR(1.0, 5), axes()
    for i, (name, shift) in enumerate((("s / w, from 0", 0), ("(s + 1) / w, from 1/w", 1))):
        rates = [float(ours(s + shift)) for s in range(9)]
        ax.plot(
            range(9),
            rates,
            "--" + MARKERS[i],
            color=LINES[i],
            markersize=11,
            label=name,
            linewidth=1.5,
        )
    ax.legend(fontsize=14, loc="lower right")
    ax.set(xlabel="steps made before, s", ylabel="share of the\nfull rate", ylim=(-0.05, 1.1))
    return ax


@cache
def pulled() -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Weights of 1 under decay: half with gradients of size 1, half of 0.01, their signs by coin."""
    rng = np.random.default_rng(0)
    signs = np.where(rng.random((STEPS, 2, 500)) < 0.5, -1.0, 1.0)
    gradients = (signs * np.array([1.0, 0.01])[:, None]).astype(np.float32)
    paths = {}
    for kind in ("L2", "decoupled"):
        device = ao.get_backend("numpy")
        w = ao.Parameter(device.asarray(np.ones((2, 500), np.float32)), name="w")
        optimizer = ao.AdamOffload([w], RATE, weight_decay=DECAY if kind == "L2" else 0.0)
        means = []
        for g in gradients:
            shrink = RATE * DECAY * device.asnumpy(w.data)
            optimizer([device.asarray(g)])
            if kind == "decoupled":
                w.data[...] = w.data - device.asarray(shrink.astype(np.float32))
            means.append(device.asnumpy(w.data).mean(axis=1))
        paths[kind] = {"large": np.array(means)[:, 0], "small": np.array(means)[:, 1]}
    return paths


def pulls() -> Any:
    import matplotlib.pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(8, 3.1), layout="constrained", sharey=True)
    for ax, (kind, paths) in zip(both, pulled().items(), strict=True):
        for i, (size, text) in enumerate(
            (("large", "gradients of size 1"), ("small", "of size 0.01"))
        ):
            ax.plot(
                range(1, STEPS + 1),
                paths[size],
                color=LINES[i],
                linewidth=3,
                label=text,
                linestyle="--" if i else "-",
            )
        ax.set_title(kind, fontsize=15)
        ax.set(xlabel="step", xlim=(1, STEPS))
    both[0].set_ylabel("mean weight")
    both[0].legend(fontsize=13, loc="lower left")
    both[0].set_ylim(0, 1.1)
    return figure


def groups() -> Any:
    ax = canvas(18, 5.6)
    pieces = (
        ("matrix", (4, 3)),
        ("bias", (4, 0.8)),
        ("gain", (4, 0.8)),
        ("matrix", (3, 3)),
        ("bias", (3, 0.8)),
    )
    x = 0.4
    for name, (height, width) in pieces:
        y, many = 2.9 - height / 2 + 0.3, name == "matrix"
        box(ax, (x, y), (width, height), "", COLORS["moments"] if many else "#E4E4E4")
        ax.text(x + width / 2, 0.6, name, ha="center", va="center", fontsize=13)
        x += width + 0.9
    for y, color, text in (
        (4, COLORS["moments"], "decayed:\ntwo dimensions"),
        (1.9, "#E4E4E4", "not decayed:\none dimension"),
    ):
        box(ax, (14.3, y - 0.5), (0.8, 1.0), "", color)
        ax.text(15.4, y, text, va="center", fontsize=13)
    return ax


@cache
def digits_gradient() -> np.ndarray[Any, Any]:
    """The gradient of a small network on handwritten digits, late in its training."""
    device, digits, rng = ao.get_backend("numpy"), ao.load_digits(), np.random.default_rng(0)
    shapes = ((64, 64), (64, 10))
    ws = [
        ao.Parameter(
            device.asarray((rng.standard_normal(s) * (2 / s[0]) ** 0.5).astype(np.float32)),
            name=f"w{i}",
        )
        for i, s in enumerate(shapes)
    ]

    def loss(images: Any, labels: Any) -> Any:
        return ao.softmax_cross_entropy(np.maximum(images @ ws[0], 0) @ ws[1], labels)

    both = ao.value_and_grad(loss, ws)
    optimizer = ao.AdamOffload(ws, 0.01)
    images, labels = (
        device.asarray(digits.train_images[:128]),
        device.asarray(digits.train_labels[:128]),
    )
    for _ in range(300):
        _, gradients = both(images, labels)
        optimizer(gradients)
    flat = np.concatenate([device.asnumpy(g).ravel() for g in gradients])
    return flat[flat != 0]


def lost(scale: float) -> int:
    """How many elements of the gradient float16 makes 0."""
    return int((np.float16(scale * digits_gradient()) == 0).sum())


def underflow() -> Any:
    ax, bins = axes(), np.logspace(-12, 2, 85)
    least = float(np.finfo(np.float16).smallest_subnormal)
    for i, (scale, name) in enumerate(((1, "as it is"), (SCALE, f"times {SCALE}"))):
        ax.hist(scale * np.abs(digits_gradient()), bins, color=LINES[1 - i], alpha=0.75, label=name)
    ax.axvspan(1e-12, least / 2, color=COLORS["wait"], zorder=0)
    ax.text(1.6e-12, ax.get_ylim()[1] * 0.93, "float16 rounds to 0", fontsize=13, va="top")
    ax.legend(fontsize=13, loc="upper left", bbox_to_anchor=(0, 0.88))
    ax.set(
        xscale="log", xlim=(1e-12, 1e2), xlabel="size of a gradient's element", ylabel="elements"
    )
    return ax


def slides() -> list[Slide]:
    ends = {
        kind: {size: float(path[-1]) for size, path in paths.items()}
        for kind, paths in pulled().items()
    }
    if not (
        ends["L2"]["small"] < 0.5 * ends["L2"]["large"]
        and abs(ends["decoupled"]["small"] - ends["decoupled"]["large"]) < 0.05
    ):
        raise ValueError(f"the question's right answer would be another: {ends}")
    return [
        Slide(
            "Two counters, one step",
            "A schedule asks how many steps were made before. The correction counts the step itself.",
            counters,
            "A line of five steps. Above it 0 to 4, the steps made before, for tables and schedules. "
            "Below it 1 to 5, the t of the bias correction.",
            notes="Task 2 by show of hands. Under the line, a table of three entries: entries 0, 1, 2 "
            "for steps 1, 2, 3, and a cross where a fourth would be.",
        ),
        Slide(
            "A rate is one of three things",
            "A table that runs out is an error, and nothing has changed.",
            kinds,
            "Three rates over 40 steps: a number is constant, a table goes down in two stairs, a "
            "cosine schedule falls smoothly to 0.",
        ),
        Slide(
            "Off by one, and no error",
            "Two definitions of the same warm-up. Both are in use, and both are fine. Reproducing one "
            "with the other is not.",
            warm_up,
            "Share of the full rate in the first nine steps of a warm-up over five: one definition "
            "begins at 0, the other at one fifth, and reaches the full rate a step earlier.",
            notes="Ask everybody for four values before they code: steps 0, <code>warmup</code>, "
            "<code>total</code>, <code>total + 1</code>.",
        ),
        Slide(
            "Who is pulled towards 0?",
            "A custom, not a law. But a rule that is written down can be checked; names cannot. What "
            "a group leaves out is the <em>default</em>, not zero.",
            groups,
            "Parameters drawn by their shape: matrices are decayed, biases and gains are not.",
            notes="Task 4 alone and on paper; let two neighbours with different lists argue.",
        ),
        Slide(
            "Two kinds of decay",
            "L2 goes through both moments. Decoupled decay goes beside them.<br><small>I. Loshchilov, "
            "F. Hutter, arXiv:1711.05101; PyTorch calls it AdamW</small>",
            equation=(
                r"\mathrm{L2:}\quad w &\leftarrow\ w + \mathrm{Adam}(g + \lambda w)",
                r"\mathrm{decoupled:}\quad w &\leftarrow\ w + \mathrm{Adam}(g) - \alpha\lambda w",
            ),
            alt="L2: w becomes w plus Adam of g plus lambda w. Decoupled: w becomes w plus Adam of g, "
            "minus alpha lambda w.",
        ),
        Slide(
            "Which weights does L2 decay pull hardest?",
            f"<p>All weights are 1, the decay is {DECAY}, the rate {RATE}. Some have gradients of size "
            "1, some of size 0.01, with random signs. After 400 steps?</p>",
            choices=(
                "those with large gradients",
                "those with small gradients",
                "all alike",
                "none: the signs are random",
            ),
            notes="Before anybody computes: write down the guesses.",
        ),
        Slide(
            "B: those with small gradients, and only in L2",
            f"L2: {ends['L2']['large']:.2f} and {ends['L2']['small']:.2f} are left. Decoupled: "
            f"{ends['decoupled']['large']:.2f} and {ends['decoupled']['small']:.2f}. In L2, the decay is "
            "divided by √<var>v</var>, like all else.",
            pulls,
            "Mean weights over 400 steps. With L2, weights with small gradients fall to 0 fast, those "
            "with large gradients slowly. Decoupled, both fall alike, and little.",
            kind="answer",
            notes="500 weights each, in this build. The point of the paper by Loshchilov and Hutter. Do "
            "not draw the arrows for a gradient of 0 yet: they are the solution of task 8.",
        ),
        Slide(
            "A scale against underflow",
            f"In float16, {lost(1)} of {digits_gradient().size:,} elements of this gradient become 0; "
            f"times {SCALE}, {lost(SCALE)}. If you scale the loss, unscale the gradient.",
            underflow,
            "Histogram of a gradient's elements on a logarithmic axis. A part of it lies where float16 "
            f"rounds to 0; times {SCALE}, hardly any.",
            notes="A network of 64 hidden units on handwritten digits, after 300 steps on 128 images; elements that "
            "are 0 in float32 are left out. AdamOffload itself computes in float32.",
        ),
    ]
