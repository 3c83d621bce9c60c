"""Slides for lab 2: the delta trick."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.plots.style import COLORS, LINES

from slides import Slide
from slides.drawing import arrow, axes, box, canvas, line, memories

QUESTION = "The moments live on the host now. What has to cross the link, at every step?"
DISCUSS = (
    "Two designs move equally many bytes. What speaks for δ all the same?",
    "With 16-bit weights on the device, many designs keep float32 weights on the host. Why?",
    "Which half of the step can begin before the whole gradient has arrived?",
)
PARAMETERS = 1_000_000


def bars() -> Any:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.zeros(PARAMETERS, np.float32)), name="w")
    kinds = {
        "Adam": ao.Adam([w]).memory(),
        "AdamOffload": ao.AdamOffload([w], chunk_bytes=80_000).memory(),
    }
    return ao.plots.memory(kinds, ax=axes())


def candidates() -> Any:
    ax = canvas(18, 7)
    designs = (
        ("new weights", "g", "w", "Adam and a copy of w on the host"),
        ("moments", "m, v", "m, v", "Adam on the device, m and v on the host"),
        ("updates", "g", "δ", "Adam on the host, w only on the device"),
    )
    for i, (name, down, up, what) in enumerate(designs):
        y = 5.2 - 2.3 * i
        ax.text(0, y + 0.3, name, fontsize=16, weight="bold")
        ax.text(0, y - 0.35, what, fontsize=11.5, color="#444444")
        box(ax, (8.6, y - 0.5), (2.4, 1.3), "device", COLORS["device"])
        box(ax, (15.4, y - 0.5), (2.4, 1.3), "host", COLORS["host"])
        for dy, text, ends, hop in (
            (0.48, down, (11.2, 15.2), "d2h"),
            (-0.18, up, (15.2, 11.2), "h2d"),
        ):
            arrow(ax, (ends[0], y + dy), (ends[1], y + dy), COLORS[hop])
            shift = 0.1 if dy > 0 else -0.1
            ax.text(
                13.2,
                y + dy + shift,
                text,
                ha="center",
                va="bottom" if dy > 0 else "top",
                fontsize=15,
                style="italic",
            )
    return ax


def names() -> Any:
    ax = canvas(17, 6.6)
    for x, code, tag_to, values in (
        (0.3, "m = beta1 * m + …", 1, ("0.5", "0.55")),
        (9.2, "m *= beta1;  m += …", 0, ("0.55",)),
    ):
        ax.text(x, 6.05, code, family="DejaVu Sans Mono", fontsize=14)
        for i, value in enumerate(values):
            at = (x + 4.3, 3.4 - 2.6 * i)
            box(ax, at, (2.6, 1.7), value, COLORS["moments"] if i == 0 else "#E4E4E4", fontsize=17)
        ax.text(x + 4.3, 5.25, "the caller's array", fontsize=12, color="#444444")
        if tag_to:
            ax.text(x + 4.3, 0.35, "a new array, lost on return", fontsize=12, color="#444444")
        box(ax, (x, 2.0), (1.5, 1.2), "m", fontsize=17, style="italic")
        arrow(ax, (x + 1.6, 2.6), (x + 4.15, 4.25 - 2.6 * tag_to), LINES[1] if tag_to else LINES[2])
    return ax


@cache
def peeks() -> dict[str, int]:
    """Bytes that come down for three numbers, by how one asks for them."""
    device = ao.get_backend("numpy")
    w = device.asarray(np.zeros(PARAMETERS, np.float32))
    found = {}
    for code in ("device.asnumpy(w)[:3]", "device.asnumpy(w[:3])"):
        before = device.traffic().d2h
        eval(code, {"device": device, "w": w})
        found[code] = device.traffic().d2h - before
    return found


def peeked() -> Any:
    ax = axes()
    for y, nbytes in enumerate(peeks().values()):
        ax.barh(y, nbytes, 0.55, color=COLORS["d2h"])
        ax.text(nbytes * 1.25, y, f"{nbytes:,} bytes", va="center", fontsize=14)
    ax.set_yticks(range(2), list(peeks()), fontsize=13, family="DejaVu Sans Mono")
    ax.set(xscale="log", xlim=(1, 1e9), ylim=(1.6, -0.6), xlabel="bytes down the link")
    ax.grid(visible=False, axis="y")
    return ax


@cache
def walks() -> dict[str, np.ndarray[Any, Any]]:
    """A weight near 1 that takes 100 steps of 0.0001, in three precisions."""

    def walk(kind: Any) -> np.ndarray[Any, Any]:
        w, path = kind(1), []
        for _ in range(100):
            w = w + kind(1e-4)
            path.append(float(w))
        return np.array(path)

    rounded = walk(np.float32).astype(np.float16).astype(float)
    return {
        "float32": walk(np.float32),
        "float32 host copy,\nrounded to float16": rounded,
        "float16": walk(np.float16),
    }


def walked() -> Any:
    ax = axes()
    for i, (name, path) in enumerate(walks().items()):
        line(ax, np.arange(1, 101), path, i, name, drawstyle="steps-mid" if i else "default")
    ax.texts[0].set_position((8, 10))
    ax.texts[1].set_position((8, -16))
    ax.set(xlabel="step", ylabel="weight", xlim=(1, 100))
    ax.ticklabel_format(useOffset=False)
    return ax


def slides() -> list[Slide]:
    whole, part = peeks().values()
    gap = float(np.spacing(np.float16(1)))
    return [
        Slide(
            "Half of what Adam keeps can go",
            "On the device stay the weights and their gradients: 8 bytes a parameter instead of 16.",
            bars,
            "Stacked bars of memory for a million parameters. Adam has 16 MB on the device; "
            "AdamOffload 8 MB and a small ring on the device, and 8 MB of moments on the host.",
        ),
        Slide(
            "Two memories and a link",
            "Adam needs <var>g</var>, <var>m</var> and <var>v</var> in one place, and "
            "<var>w</var> is in the other.",
            lambda: memories(("w", "g"), ("m", "v"), "?", "?"),
            "The device holds w and g, the host m and v. An arrow leads each way between them, with "
            "a question mark.",
            notes="On the board: leave this up for the whole lesson, and fill in the bytes as task 1 "
            "is solved.",
        ),
        Slide(
            "Three ways to close the gap",
            "All three compute the same step. Count for each: bytes down, bytes up, bytes kept on the "
            "host.",
            candidates,
            "Three designs. New weights: g down, w up. Moments: m and v down and up. Updates: g down, "
            "delta up.",
            notes="Task 1, alone and on paper, then compare with a neighbour, then check. No code "
            "before the table stands.",
        ),
        Slide(
            "Send the update, and only that",
            "The sum is all that the device does. No copy of <var>w</var> exists that could go out of "
            "date.<br><small>As in MindSpore's AdamOffload. arXiv:2101.06840, section 4, sends "
            "weights in 2 bytes instead.</small>",
            equation=(
                r"\mathrm{host:}\quad \delta &=\ -\alpha_t\, m\ /\ (\sqrt{v} + \epsilon)",
                r"\mathrm{device:}\quad w &\leftarrow\ w + \delta",
            ),
            alt="On the host, delta is minus alpha t times m over the root of v plus epsilon. On the "
            "device, w becomes w plus delta.",
        ),
        Slide(
            "A name is not an array",
            "Inside a function, <code>m = …</code> moves the name. "
            "<code>m *= …</code>, <code>m[...] = …</code> and <code>out=m</code> write where the "
            "caller looks.",
            names,
            "Left: after m = beta1 * m + ..., the name m points to a new array, and the caller's "
            "array is as it was. Right: after m *= beta1, the name still points to the caller's "
            "array, which has changed.",
            notes="The mistake of task 2. Ask: how many arrays are there after this "
            "line, and which of them does the caller see? <code>id(m)</code> before and after shows "
            "it.",
        ),
        Slide(
            "Three numbers, please",
            f"<p><var>w</var> has {PARAMETERS:,} weights on the device. How many bytes cross the link "
            "for <code>device.asnumpy(w)[:3]</code>?</p>",
            choices=("none", "12", "4,096: a page", "4,000,000"),
        ),
        Slide(
            f"D: {whole:,} bytes",
            f"The whole array came down, and three numbers were kept. Slice first, then copy: {part} "
            "bytes.",
            peeked,
            f"Bars on a logarithmic axis: {whole:,} bytes for copying and slicing, {part} for slicing "
            "and copying.",
            kind="answer",
            notes="The device's own counters, read in this build.",
        ),
        Slide(
            "An update can vanish",
            f"Next to 1, float16 numbers are {gap:.4f} apart. Updates of 0.0001 are rounded away, one "
            "by one; in float32 they add up.",
            walked,
            "A weight of 1 takes 100 steps of 0.0001. In float32 it reaches 1.01; in float16 it never "
            "moves; a float32 copy rounded to float16 climbs in stairs.",
        ),
    ]
