"""Slides for lab 8: write a backend."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.device.array import MemoryPool
from adamoffload.plots.style import COLORS, LINES

from slides import Slide
from slides.drawing import arrow, axes, box, canvas, table

QUESTION = (
    "What must a device promise, so that an optimizer that never heard of it can train on it?"
)
DISCUSS = (
    "Your one thread makes both kinds of copies. What would two threads gain, and what could go wrong?",
    "Python may call <code>release</code> in the middle of <code>reserve</code>. What happens to "
    "<code>used</code>?",
    "What would you change for a device with memory of its own, such as a GPU?",
)
LIMIT = 100


def layers() -> Any:
    ax = canvas(18, 6.4)
    rows = (
        ("AdamOffload, and everybody else", COLORS["moments"], "asarray   asnumpy   d2h   h2d"),
        (
            "Backend: checks, and counts every byte",
            COLORS["device"],
            "_empty   _address   _d2h   _h2d   owns   memory",
        ),
        ("your device", COLORS["h2d"], ""),
    )
    for i, (name, color, calls) in enumerate(rows):
        y = 4.9 - 2.4 * i
        box(ax, (0.6, y), (16.8, 1.3), name, color, fontsize=16)
        if calls:
            arrow(ax, (1.6, y - 0.1), (1.6, y - 1.0))
            ax.text(2.2, y - 0.55, calls, va="center", fontsize=13, family="DejaVu Sans Mono")
    return ax


@cache
def story() -> list[tuple[str, ao.Memory]]:
    """A pool's numbers after each call, with a limit of 100 bytes."""
    pool, rows = MemoryPool("mine", LIMIT), []

    def note(call: str) -> None:
        rows.append((call, pool.memory()))

    pool.reserve(80)
    note("reserve 80")
    try:
        pool.reserve(40)
    except ao.DeviceMemoryError:
        note("reserve 40:\nrefused")
    pool.release(30)
    note("release 30")
    pool.reserve(40)
    note("reserve 40")
    if len(rows) != 4 or rows[1][1] != rows[0][1]:
        raise ValueError(f"a refusal should change nothing, but: {rows}")
    return rows


def pool() -> Any:
    ax, rows = axes(), story()
    used = [memory.used for _, memory in rows]
    ax.bar(
        range(4),
        used,
        0.55,
        color=[COLORS["device"], "#E4E4E4", COLORS["device"], COLORS["device"]],
    )
    ax.plot(range(4), [memory.peak for _, memory in rows], "k_", markersize=70, markeredgewidth=3)
    for i, value in enumerate(used):
        ax.text(i, value - 5, f"{value}", ha="center", va="top", fontsize=15)
    ax.axhline(LIMIT, color=COLORS["limit"], linestyle="--", linewidth=2.5)
    ax.text(3.42, LIMIT + 2, "limit", color=COLORS["limit"], fontsize=14, ha="right")
    ax.text(-0.42, rows[0][1].peak + 2, "peak", fontsize=14, ha="left")
    ax.set_xticks(range(4), [call for call, _ in rows], fontsize=13)
    ax.set(ylabel="bytes in use", ylim=(0, 118), xlim=(-0.5, 3.5))
    ax.grid(visible=False, axis="x")
    return ax


def views() -> Any:
    ax, whole = canvas(21, 6.4), np.arange(24).reshape(4, 6)
    shown = (("x", whole), ("x[::2, ::2]", whole[::2, ::2]), ("x[:, 1]", whole[:, 1]))
    for i, (name, view) in enumerate(shown):
        inside = set(view.ravel().tolist())
        for k in range(24):
            r, c = divmod(k, 6)
            at = (0.5 + 7.1 * i + 0.98 * c, 4.1 - 1.05 * r)
            box(
                ax,
                at,
                (0.86, 0.9),
                str(k),
                COLORS["device"] if k in inside else "#EEEEEE",
                fontsize=11,
            )
        ax.text(0.5 + 7.1 * i, 5.5, name, family="DejaVu Sans Mono", fontsize=15)
    return ax


def ticket() -> Any:
    ax = canvas(18, 6.2)
    for y, name in ((4.4, "your program"), (1.4, "worker")):
        ax.plot([3.6, 17.6], [y, y], color="#BBBBBB", linewidth=2, zorder=0)
        ax.text(3.3, y, name, ha="right", va="center", fontsize=15, color="black")
    for x, width, y, text, color in (
        (3.8, 1.7, 4.4, "_d2h", COLORS["host"]),
        (6.0, 5.6, 4.4, "goes on", COLORS["host"]),
        (14.9, 2.2, 4.4, "result", COLORS["host"]),
        (5.6, 3.4, 1.4, "wait for after", COLORS["wait"]),
        (9.2, 4.6, 1.4, "copy", COLORS["d2h"]),
    ):
        box(ax, (x, y - 0.55), (width, 1.1), text, color, fontsize=14)
    box(ax, (12.0, 3.85), (2.7, 1.1), "wait()", COLORS["wait"], fontsize=14)
    arrow(ax, (4.8, 3.8), (5.9, 2.0), LINES[0])
    arrow(ax, (13.7, 2.0), (14.8, 3.8), LINES[0])
    ax.text(4.6, 2.8, "submit", ha="right", va="center", fontsize=13)
    ax.text(14.6, 2.8, "values, or the error", ha="left", va="center", fontsize=13)
    ax.text(9.2, 0.5, "start_s", ha="center", fontsize=13, family="DejaVu Sans Mono")
    ax.text(13.8, 0.5, "stop_s", ha="center", fontsize=13, family="DejaVu Sans Mono")
    return ax


def trained(name: str) -> tuple[str, str, str, str]:
    """Train on a backend: its name, bytes down and up, and the weights' fingerprint."""
    device, rng = ao.get_backend(name), np.random.default_rng(0)
    w = ao.Parameter(device.asarray(np.zeros((300, 100), np.float32)), name="w")
    optimizer = ao.AdamOffload([w], chunk_bytes=40_000)
    before = device.traffic()
    for _ in range(5):
        optimizer([device.asarray(rng.standard_normal((300, 100)).astype(np.float32))])
    after = device.traffic()
    bits = hashlib.sha256(device.asnumpy(w.data).tobytes()).hexdigest()
    up = after.h2d - before.h2d - 5 * 4 * w.size  # less the gradients that we sent ourselves
    return name, f"{after.d2h - before.d2h:,}", f"{up:,}", f"<code>{bits[:16]}</code>"


def slides() -> list[Slide]:
    rows = [trained("numpy"), trained("sim")]
    if rows[0][1:] != rows[1][1:]:
        raise ValueError(f"two backends should train alike, but: {rows}")
    refused = story()[1][1]
    return [
        Slide(
            "Six methods are yours",
            "The final methods above them check and count, so no device can move a byte uncounted.",
            layers,
            "Three layers. AdamOffload calls asarray, asnumpy, d2h and h2d of Backend, which checks and "
            "counts; Backend calls your _empty, _address, _d2h, _h2d, owns and memory.",
            notes="Read the first page of <code>adamoffload/device/backend.py</code> together, aloud. For each "
            "method, ask: who calls it, and what would go wrong if it lied?",
        ),
        Slide(
            "A limit of 100 bytes",
            "<p>80 bytes are in use, and somebody asks for 40 more. That is refused. What does "
            "<code>memory()</code> say afterwards?</p>",
            choices=(
                "used 80, peak 80",
                "used 80, peak 120",
                "used 100, peak 100",
                "used 120, peak 120",
            ),
        ),
        Slide(
            f"A: used {refused.used}, peak {refused.peak}",
            "A refusal changes nothing. Otherwise, ten refusals would make a device smaller for ever.",
            pool,
            "Bars of the bytes in use: 80 after reserving 80; 80 after 40 more were refused; 50 after "
            "releasing 30; 90 after reserving 40. The peak stays 80, then 90; the limit is 100.",
            kind="answer",
            notes="On the board: two columns, before and after. The refused line must not change a "
            "single number.",
        ),
        Slide(
            "Check first, change then",
            "Either all of it happens, or none of it: the pool, a step of the optimizer, a checkpoint.",
            equation=(
                r"\mathrm{used} + n > \mathrm{limit}\,:\quad & \mathrm{raise}",
                r"\mathrm{else:}\quad & \mathrm{used}\ \leftarrow\ \mathrm{used} + n",
                r"\ & \mathrm{peak}\ \leftarrow\ \max(\mathrm{peak},\ \mathrm{used})",
            ),
            alt="If used plus n is more than the limit, raise. Else, used becomes used plus n, and peak "
            "becomes the larger of peak and used.",
        ),
        Slide(
            "Whose is it?",
            "<p><code>owns(x)</code> is asked about whatever a user passes: a list, <code>None</code>, "
            "an object whose <code>.device</code> raises, one whose <code>.device</code> lies, one whose "
            "<code>__class__</code> lies.</p>"
            "<p>It answers, always.</p>",
            kind="words",
            notes="Let the class invent hostile objects.",
        ),
        Slide(
            "A view is not a block",
            "A copy writes <em>into</em> memory that exists, wherever its elements lie. "
            "<code>target = source</code> binds a name and copies nothing.",
            views,
            "An array of four rows and six columns, and which of its elements two views touch: every "
            "other row and column, and one column. Both have gaps.",
            notes="<code>target.reshape(-1)</code> of a view with gaps is a copy, so writing into it is "
            "lost.",
        ),
        Slide(
            "A ticket is a promise with a clock",
            "The call returns at once. Who waits for <code>after</code> is the worker; where an error "
            "goes is along the second arrow, and nowhere else.",
            ticket,
            "Two lanes. Your program calls _d2h, goes on, and waits later. A worker waits for the "
            "tickets in after, then copies between start_s and stop_s. An arrow leads from the call to "
            "the worker, another back with values or the error.",
            notes="Begin task 7 with five minutes on <code>Future</code>; it is new to many.",
        ),
        Slide(
            "Nobody can tell the devices apart",
            table(("backend", "bytes down", "bytes up", "weights, SHA-256"), rows, (1, 2))
            + "<p>Five steps of 30,000 parameters. In task 9, a third line is yours.</p>",
            kind="table",
            notes="Trained in this build. The bytes up are those of the updates; the gradients, which "
            "a real network computes on the device, are not counted here.",
        ),
    ]
