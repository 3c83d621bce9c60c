"""Slides for lab 7: rounding."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.plots.style import COLORS, LINES

from slides import Slide
from slides.drawing import axes, box, canvas, table

QUESTION = "Each step is rounded. Which bits are lost, and does it matter?"
DISCUSS = (
    "A weight of 1, and a learning rate of 10⁻⁸. What happens in a million steps?",
    "A gradient of 10³⁰ comes once, by accident. What are m, v and the update afterwards?",
    "Same seed, 4 cores and 8 cores, different weights. Which line do you look at first?",
)
COUNT = 1_000_000


def bits() -> Any:
    ax, x = canvas(34, 11), np.array([3.14159265], np.float32)
    for row, (name, pattern) in enumerate(
        (
            ("float32", x.view(np.uint32)[0]),
            ("upper half", x.view(np.uint32)[0] & np.uint32(0xFFFF0000)),
        )
    ):
        y = 6.9 - 5.9 * row
        text, value = f"{int(pattern):032b}", np.array([pattern], np.uint32).view(np.float32)[0]
        for i, bit in enumerate(text):
            color = LINES[1] if i == 0 else COLORS["d2h"] if i < 9 else COLORS["device"]
            hidden = row and i >= 16
            box(
                ax,
                (i + 1, y),
                (0.86, 1.5),
                "" if hidden else bit,
                "#EEEEEE" if hidden else color,
                fontsize=11,
            )
        ax.text(1, y + 1.9, f"{name}: {value:.9g}", fontsize=14, va="bottom")
    for at, name in ((1.5, "sign"), (6.0, "exponent"), (21, "fraction")):
        ax.text(at, 5.9, name, ha="center", va="center", fontsize=13, color="#444444")
    return ax


def number_line() -> Any:
    """Numbers of four bits: eight in each power of two."""
    ax = canvas(18, 5.2)
    place = lambda v: 1 + 4.4 * (v - 0.5) + 0.0  # noqa: E731
    ax.plot([place(0.4), place(4.1)], [2.4, 2.4], color="#333333", linewidth=1.5)
    for e, color in ((-1, LINES[0]), (0, LINES[2]), (1, LINES[1])):
        for k in range(8):
            v = 2.0**e * (1 + k / 8)
            tall = 0.75 if k == 0 else 0.4
            ax.plot([place(v)] * 2, [2.4 - tall, 2.4 + tall], color=color, linewidth=3)
        ends = place(2.0**e), place(2.0 ** (e + 1))
        ax.text(
            sum(ends) / 2, 3.55, f"gap 1/{int(8 / 2**e)}", ha="center", fontsize=14, color=color
        )
    ax.plot([place(4)] * 2, [1.65, 3.15], color="#333333", linewidth=3)
    for v, name in ((0.5, "1/2"), (1, "1"), (2, "2"), (4, "4")):
        ax.text(place(v), 1.2, name, ha="center", fontsize=17)
    return ax


def vanish() -> Any:
    ax, w = axes(), np.logspace(-6, 4, 2000).astype(np.float32)
    half = np.spacing(w) / 2
    ax.fill_between(w, 1e-13, half, color=COLORS["limit"], alpha=0.25, step="mid", linewidth=0)
    ax.plot(w, half, color=COLORS["limit"], linewidth=2)
    for y, text in ((1e-3, "a learning rate of 10⁻³"), (1e-8, "a learning rate of 10⁻⁸")):
        ax.axhline(y, color=COLORS["m"], linestyle="--")
        ax.text(1.3e-6, y * 1.5, text, fontsize=13, color="black")
    ax.text(2, 1.5e-11, "the weight stays as it is", fontsize=14)
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(1e-6, 1e4),
        ylim=(1e-13, 1e-1),
        xlabel="size of the weight",
        ylabel="size of the\nupdate",
    )
    return ax


@cache
def sums() -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Relative errors of sums of n random float32: one after another, and by np.sum."""
    numbers = np.abs(np.random.default_rng(0).standard_normal(COUNT, dtype=np.float32))
    sizes = np.unique(np.logspace(1, 6, 26).astype(int))
    forward = np.cumsum(numbers, dtype=np.float32)[sizes - 1]
    tree = np.array([np.sum(numbers[:n]) for n in sizes])
    exact = np.array([math.fsum(numbers[:n].tolist()) for n in sizes])
    return {
        name: (sizes, np.abs(found.astype(np.float64) / exact - 1))
        for name, found in (("one after another", forward), ("np.sum, in pairs", tree))
    }


def summed() -> Any:
    ax = axes()
    for i, (name, (sizes, errors)) in enumerate(sums().items()):
        shown = np.maximum(errors, 1e-10)
        ax.plot(sizes, shown, "-o", color=LINES[1 - i], linewidth=2.5, label=name)
    ax.axhline(2.0**-24, color="#777777", linestyle="--")
    ax.text(1.1e6, 2.0**-24, "2⁻²⁴", va="center", fontsize=14, ha="left", clip_on=False)
    ax.legend(fontsize=14, loc="upper left")
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(10, 1e6),
        ylim=(1e-10, 1e-3),
        xlabel="how many numbers",
        ylabel="relative error\nof their sum",
    )
    return ax


def powers() -> Any:
    """What becomes of a moment whose gradient stays 0: the last bits of float32, as counts."""
    ax, least = axes(), 2.0**-149
    for i, k in enumerate((40, 25, 12)):
        m, path = np.float32(k * least), []
        for _ in range(8):
            path.append(float(m) / least)
            m = np.float32(0.9) * m
        exact = k * 0.9 ** np.arange(8)
        ax.plot(exact, color=LINES[i], linewidth=1, alpha=0.6)
        ax.plot(path, "o", color=LINES[i], markersize=7)
    ax.set(
        xlabel="steps with a gradient of 0",
        ylabel="m, in units of\nthe smallest float32",
        xlim=(-0.3, 7.3),
        ylim=(0, None),
    )
    return ax


def trained(backend: str = "numpy", **options: Any) -> bytes:
    """Return the bits of weights after three steps."""
    device, rng = ao.get_backend(backend), np.random.default_rng(0)
    w = ao.Parameter(device.asarray(np.zeros(200_000, np.float32)), name="w")
    optimizer = ao.AdamOffload([w], **options)
    for _ in range(3):
        optimizer([device.asarray(rng.standard_normal(200_000).astype(np.float32))])
    return device.asnumpy(w.data).tobytes()


def same() -> list[tuple[str, str]]:
    """Pairs of runs, and whether they give the same bits."""
    rows = [
        ("in one chunk, and in twenty", trained() == trained(chunk_bytes=40_000)),
        ("in one thread, and in four", trained(threads=1) == trained(threads=4)),
        ("on one device, and on another", trained("numpy") == trained("sim")),
    ]
    if not all(equal for _, equal in rows):
        raise ValueError(f"elementwise work should give the same bits: {rows}")
    return [(name, "the same bits") for name, _ in rows]


def scientific(value: float) -> str:
    digit, exponent = f"{value:.0e}".split("e")
    return f'<span class="one">{digit} · 10<sup>−{-int(exponent)}</sup></span>'


def slides() -> list[Slide]:
    errors = {name: float(found[1][-1]) for name, found in sums().items()}
    forward, tree = errors.values()
    digits = math.floor(-math.log10(forward))
    if digits != 4:
        raise ValueError(f"the question's right answer would not be four digits, but {digits}")
    return [
        Slide(
            "A number in 32 bits",
            "A sign, 8 bits for the power of two, 23 for the rest. The upper half is a number as "
            "well, with fewer digits: bfloat16.",
            bits,
            "The bits of pi in float32, 3.14159274, coloured by sign, exponent and fraction; below it, "
            "its upper 16 bits alone, 3.140625.",
        ),
        Slide(
            "The gap doubles at each power of two",
            "With four bits: above 1, the neighbour is 1/8 away; below 1, it is 1/16.",
            number_line,
            "A line from one half to four with eight ticks in each power of two: gaps of 1/16, 1/8 and "
            "1/4.",
            notes="Add 1/16 to 1: a tie, back to 1. Subtract 1/16: a neighbour. Subtract 1/32: a tie, "
            "back to 1. This is the whole of task 3, in small.",
        ),
        Slide(
            "The unit that suits it: an ulp",
            "An operation gives the float32 nearest to the exact result. So it is off by half an ulp "
            "at most.",
            equation=(
                r"2^e \leq |x| < 2^{e+1}\,:\quad & \mathrm{ulp}(x)\ =\ 2^{e-23}",
                r"\mathrm{fl}(x)\ = & \ x\,(1 + \eta),\quad |\eta| \leq 2^{-24}",
            ),
            alt="For x between 2 to the e and 2 to the e plus 1, an ulp is 2 to the e minus 23. The "
            "rounded x is x times one plus eta, with eta at most 2 to the minus 24.",
            notes="For normal numbers. Below 2⁻¹²⁶ the gap stays 2⁻¹⁴⁹.",
        ),
        Slide(
            "A small step can vanish",
            "Less than half a gap changes nothing at all: no error, no NaN. The weight needs the bits, "
            "not the update.",
            vanish,
            "Half of the gap against the size of the weight, both logarithmic: below this line an "
            "update changes nothing. 1e-3 is far above it, 1e-8 is below it for weights near 1.",
        ),
        Slide(
            "A million numbers, one after another",
            "<p>The sizes of normally distributed random numbers, added up from first to last in "
            "float32. How many digits of the sum are right?</p>",
            choices=("about 7", "about 4", "about 1", "none"),
        ),
        Slide(
            "B: about four",
            f"One after another: off by {scientific(forward)} of the sum. In pairs, as <code>np.sum</code> "
            f"does: {scientific(tree)}. Same numbers, another order.",
            summed,
            "Relative error of a sum against the count of numbers, both logarithmic: one after another "
            "it grows to about 1e-4, in pairs it stays below 1e-7.",
            kind="answer",
            notes="Against the exact sum, by <code>math.fsum</code>. Errors of 0 are drawn at the "
            "lower edge.",
        ),
        Slide(
            "The last bits of a moment",
            "Dots: float32. Lines: exact. Where do the dots come to rest? Task 4 asks you, and why.",
            powers,
            "Three tiny moments multiplied by 0.9 seven times, in units of the smallest float32, over "
            "the exact values: the dots are whole numbers.",
            notes="On the board: the line near 0, where ticks stop getting denser. Put a finger on a "
            "tick, multiply by 0.9, and go to the nearest tick.",
        ),
        Slide(
            "However it is divided, the same bits",
            table(("three steps of Adam", "result"), same())
            + "<p>Adam treats each weight by itself: nobody can tell how it was divided. Can a sum "
            "tell? Task 9 asks you.</p>",
            kind="table",
            notes="Compared in this build. That results do not depend on threads, blocks or chunks is "
            "a promise of this framework, and tested.",
        ),
    ]
