"""Slides for lab 1: Adam by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.plots.style import COLORS, LINES

from slides import Slide
from slides.drawing import arrow, axes, canvas, line, memories, run

QUESTION = "How far does a weight move in one step, and who decides?"
DISCUSS = (
    "In which unit is Adam's learning rate? And gradient descent's?",
    "Somebody multiplies the loss by 1000. What changes in Adam's steps?",
    "When is ε not small?",
)
RATE = 0.01
RNG_SEED = 1


@cache
def coins() -> dict[str, Any]:
    """A thousand weights: signs that always agree, that agree nine times in ten, and coins."""
    rng = np.random.default_rng(RNG_SEED)
    results = {}
    for name, right in (("all agree", 1.0), ("9 of 10 agree", 0.9), ("a coin", 0.5)):
        g = np.where(rng.random((300, 1000)) < right, 1.0, -1.0)
        result = run(g, learning_rate=RATE)
        length = np.abs(np.diff(result["w"], axis=0, prepend=0)) / RATE
        results[name] = {"g": g, **result, "length": np.sqrt((length**2).mean(axis=1))}
    return results


def valleys() -> Any:
    paths = ao.playground.run("quadratic", ["sgd", "adam"], steps=60)
    surface, ax = paths[0].surface, axes()
    left, right, bottom, top = surface.window
    x, y = np.meshgrid(np.linspace(left, right, 200), np.linspace(bottom, top, 120))
    levels = np.geomspace(1e-3, 1, 9) * surface(x, y).max()
    ax.contour(x, y, surface(x, y), levels, colors="#C4C9CF", linewidths=1)
    for i, (path, name) in enumerate(zip(paths, ("gradient descent", "Adam"), strict=True)):
        ax.plot(*path.points.T, "-o", color=LINES[1 - i], label=name, markersize=3)
    ax.plot(*surface.minima[0], "*", color="black", markersize=16)
    ax.legend(fontsize=13, loc="upper left", bbox_to_anchor=(1, 1))
    ax.set(xlim=(left, right), ylim=(bottom, top), xlabel="weight 1", ylabel="weight 2")
    ax.grid(visible=False)
    return ax


def arrows() -> Any:
    ax = canvas(17, 6.3)
    for row, (name, result) in enumerate(coins().items()):
        y = 4.9 - 2 * row
        ax.text(3.1, y, name, ha="right", va="center", fontsize=14)
        right = round(5 * (1 + np.sign(result["g"]).mean()))  # of ten, as often as in all
        weight = np.flatnonzero((result["g"][-10:] > 0).sum(axis=0) == right)[0]
        for i, g in enumerate(result["g"][-10:, weight]):
            x = 3.6 + 0.8 * i
            ends = ((x, y), (x + 0.65, y)) if g > 0 else ((x + 0.65, y), (x, y))
            arrow(ax, *ends, color=LINES[0] if g > 0 else LINES[1], mutation_scale=13)
        m = float(result["m"][-1, weight])
        root = float(np.sqrt(result["v"][-1, weight] / (1 - 0.999**300)))
        for shift, value, key in ((0.32, m, "m"), (-0.32, root, "sqrt_v")):
            ax.barh(y + shift, 3 * value, 0.5, 12.9, color=COLORS[key])
            ax.text(16.1, y + shift, f"{value:.2f}", va="center", fontsize=13)
    ax.plot([12.9, 12.9], [0.2, 5.6], color="#333333", linewidth=1)
    ax.text(7.4, 5.95, "the last ten gradients of one weight", ha="center", fontsize=13)
    ax.text(13.2, 5.95, "m", color=COLORS["m"], fontsize=15, weight="bold", style="italic")
    ax.text(14, 5.95, "√v, corrected", color=COLORS["sqrt_v"], fontsize=13, weight="bold")
    return ax


def start() -> Any:
    result, ax, t = run(np.ones((60, 1)), learning_rate=RATE), axes(), np.arange(1, 61)
    root = np.sqrt(result["v"][:, 0])
    corrected = root / np.sqrt(1 - 0.999**t)
    for y, color, dash, label in (
        (result["m"][:, 0], COLORS["m"], "-", "m"),
        (root, COLORS["sqrt_v"], "-", "√v"),
        (corrected, COLORS["sqrt_v"], ":", "√v, corrected"),
    ):
        ax.plot(t, y, dash, color=color, label=label, linewidth=3)
    ax.plot(
        t,
        result["m"][:, 0] / (1 - 0.9**t),
        ":",
        color=COLORS["m"],
        label="m, corrected",
        linewidth=5,
        alpha=0.45,
    )
    ax.legend(ncols=2, fontsize=13, loc="center right", bbox_to_anchor=(1, 0.62))
    ax.set(xlabel="step", ylim=(0, 1.12), xlim=(1, 60))
    return ax


def coin_steps() -> Any:
    ax = axes()
    for i, (name, result) in enumerate(coins().items()):
        line(ax, np.arange(1, 301), result["length"], i, name)
    ax.set(
        xlabel="step", ylabel="length of a step,\nin learning rates", ylim=(0, 1.1), xlim=(1, 300)
    )
    return ax


def epsilons() -> Any:
    g, eps = np.logspace(-11, -2, 60), 1e-8
    ours = -run(g[None, :], learning_rate=RATE, eps=eps)["w"][0] / RATE
    ax = axes()
    for i, (steps, x, name) in enumerate(
        ((ours, 1.1e-6, "here"), (g / (g + eps), 3e-9, "PyTorch"))
    ):
        ax.plot(g, steps, color=LINES[i], linewidth=3)
        ax.text(x, 0.5, name, color=LINES[i], fontsize=14, ha="right" if i else "left")
    ax.set(
        xscale="log",
        xlabel="size of the gradient",
        ylabel="first step,\nin learning rates",
        ylim=(0, 1.08),
        xlim=(1e-11, 1e-2),
    )
    return ax


def slides() -> list[Slide]:
    coin = float(coins()["a coin"]["length"][100:].mean())
    theory = ((1 - 0.9) / (1 + 0.9)) ** 0.5
    m = run(np.ones((1, 1)))
    first, root = float(m["m"][0, 0]), float(np.sqrt(m["v"][0, 0]))
    return [
        Slide(
            "One surface, two ways down",
            "Gradient descent leaps where it is steep and creeps where it is flat. Adam gives every "
            "weight a step of its own.",
            valleys,
            "Paths of Adam and of gradient descent in a ravine, each at its best learning rate, over its "
            "contours.",
            notes="Each at the learning rate that suits it best, 60 steps.",
        ),
        Slide(
            "Two averages for every weight",
            "<var>m</var> sees direction: it is large where gradients agree. "
            "√<var>v</var> sees size alone.",
            arrows,
            "Three rows of ten arrows of length one: ten to the right, nine, and five. The first moment shrinks from row to row, the root of the second stays 1.",
            notes="On the board: three rows of arrows, all of length one. Under each, their weighted "
            "average, in which the last counts most: that is <var>m</var>. Then cover the directions with your hand, and ask for "
            "the mean length: 1 each time. That is √<var>v</var>.",
        ),
        Slide(
            "The rule, in five lines",
            "Each weight by itself, in float32.<br><small>D. P. Kingma, J. Ba, arXiv:1412.6980, "
            "the order of computation that ends section 2</small>",
            equation=(
                r"m &\leftarrow\ \beta_1 m + (1 - \beta_1)\, g",
                r"v &\leftarrow\ \beta_2 v + (1 - \beta_2)\, g^2",
                r"\alpha_t &=\ \alpha\,\sqrt{1 - \beta_2^t}\ /\ (1 - \beta_1^t)",
                r"\delta &=\ -\alpha_t\, m\ /\ (\sqrt{v} + \epsilon)",
                r"w &\leftarrow\ w + \delta",
            ),
            alt="m becomes beta1 m plus one minus beta1 times g; v becomes beta2 v plus one minus "
            "beta2 times g squared; alpha t is alpha times the root of one minus beta2 to the t, over "
            "one minus beta1 to the t; delta is minus alpha t times m over the root of v plus "
            "epsilon; w becomes w plus delta.",
            notes="Ask for task 1, the three first steps, by show of hands and before anybody "
            "computes. Write the guesses down and leave them there until the end.",
        ),
        Slide(
            "Averages that begin at 0 are too small",
            f"After one gradient of 1, <var>m</var> is {first:.1f} and √<var>v</var> is "
            f"{root:.4f}. Without a correction, the first step would be "
            f"{first / root:.2f} learning rates.",
            start,
            "m and the root of v over 60 steps with a gradient of 1: m reaches 1 soon, the root of v "
            "is far below. Corrected, both are 1 from the first step.",
            notes="“My first step is 0.0316”: the bias correction was forgotten.",
        ),
        Slide(
            "A coin decides the sign of every gradient",
            "<p>All gradients have the size 1. How long is Adam's step, typically, after many "
            "steps?</p>",
            choices=(
                "as long as the learning rate",
                "about a quarter of it",
                "about a hundredth of it",
                "0: they cancel",
            ),
            notes="Show of hands, then a sentence from each party.",
        ),
        Slide(
            f"B: about a quarter. Here, {coin:.2f}",
            f"Theory says √((1 − β₁)/(1 + β₁)) = {theory:.2f}. Adam slows down where gradients "
            "<em>disagree</em>, not where they are small.",
            coin_steps,
            "Root mean square length of a step over 300 steps, for a thousand weights: 1 if all "
            f"gradients agree, less if nine of ten do, {coin:.2f} for a coin.",
            kind="answer",
            notes="Root mean square over a thousand weights. The variance of <var>m</var> is a "
            "geometric series: (1 − β₁)² Σ β₁²ⁱ.",
        ),
        Slide(
            "Same name, same ε, another place",
            "PyTorch adds ε after the correction, we add it before. It shows where gradients are as "
            "small as ε.",
            epsilons,
            "First step in learning rates against the size of the gradient, for epsilon 1e-8: both "
            "curves rise from 0 to 1, PyTorch's at gradients that are 32 times smaller.",
            notes="Ours is measured. PyTorch's curve is its formula, <var>g</var>/(<var>g</var> + ε) "
            "in the first step. Task 7 asks for the translation between the two.",
        ),
        Slide(
            "Four numbers for every weight",
            "4 bytes each in float32, 16 in all. The rest of this module moves two of them, and the "
            "arithmetic of today, elsewhere.",
            lambda: memories(("w", "g", "m", "v"), ()),
            "A device that holds w, g, m and v, beside a host that holds nothing.",
        ),
    ]
