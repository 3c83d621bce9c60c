"""Slides for lab 5: a missing wait."""

from __future__ import annotations

from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from adamoffload.labs.lab5.student import machine
from adamoffload.plots.style import COLORS

from slides import Slide
from slides.drawing import arrow, lanes, seconds, step, table, worked
from slides.drawing import machine as machine_of

QUESTION = (
    "It runs, line by line it looks right, and the result is wrong. Where is the wait missing?"
)
DISCUSS = (
    "<code>device.synchronize()</code> after every line repairs it all. Why is that not done?",
    "Without a wait, a real device may be right a thousand times. Why is that worse than wrong?",
    "The host must wait for gradients, and for nothing else. Why for those?",
)
ELEMENTS = 10


@cache
def peek() -> list[tuple[str, float, str]]:
    """What a host sees of a copy's target: at once, when its time is over, and after waiting."""
    device, seen = machine(), []
    x = device.asarray(np.arange(ELEMENTS, dtype=np.float32))
    host = device._empty_pinned(ELEMENTS, np.float32)
    begin = device.now()

    def look(code: str) -> None:
        seen.append((code, device.now() - begin, f"{host[3]:g}".replace("nan", "NaN")))

    ticket = device.d2h(x, host)
    look("ticket = device.d2h(x, host)")
    device.run_on_host(lambda: None, elements=2 * ELEMENTS)
    look("the host works for 20 s")
    ticket.wait()
    look("ticket.wait()")
    if [value for _, _, value in seen] != ["NaN", "NaN", "3"]:
        raise ValueError(f"the machine should show a copy that nobody waited for, but: {seen}")
    return seen


def issued() -> Any:
    ax = lanes({"host": [], "d2h": [(0, 10, "copy")]}, stop=14)
    ax.plot([0], [0], "o", color=COLORS["host"], markersize=13)
    ax.text(0.25, -0.14, "issued: the call returns", fontsize=13, va="bottom")
    arrow(ax, (0, 0.1), (0.02, 0.6), COLORS["host"])
    arrow(ax, (10, 0.62), (10, 0.12), COLORS["limit"])
    ax.plot([10], [0], "o", color=COLORS["host"], markersize=13)
    ax.text(10.3, 0, "wait() returns", fontsize=13, va="center")
    ax.barh(0, 9.4, 0.1, 0.3, color=COLORS["wait"])
    ax.text(
        5,
        0.2,
        "meanwhile the host does other work",
        ha="center",
        va="center",
        fontsize=13,
        color="#555555",
    )
    ax.set_xlim(-0.3, 14)
    return ax


def ordered() -> Any:
    figure, both = plt.subplots(1, 2, figsize=(8, 3.1), layout="constrained", sharex=True)
    waits = {"host": [(10, 14, "use")], "d2h": [(0, 10, "copy")], "device": []}
    after = {"host": [(0, 4, "other")], "d2h": [(0, 10, "copy")], "device": [(10, 14, "use")]}
    for ax, spans, title in zip(
        both, (waits, after), ("ticket.wait()", "after=(ticket,)"), strict=True
    ):
        lanes(spans, stop=15, unit="seconds", ax=ax)
        ax.set_title(title, fontsize=15, family="DejaVu Sans Mono")
        ax.set_xticks(range(0, 16, 5))
    both[0].barh(0, 10, 0.72, color=COLORS["wait"])
    both[0].text(5, 0, "held", ha="center", va="center", fontsize=13)
    arrow(both[0], (10, 0.62), (10.1, 0.38), COLORS["limit"])
    arrow(both[1], (10, 1.38), (10.1, 1.62), COLORS["limit"])
    return figure


@cache
def lanes_of() -> dict[str, Any]:
    """The same three chunks, one after the other and with tickets, on the lab's machine."""
    device = machine_of((1.0, 1.0, 1.0))
    return {"tickets": step(device, 30, 10)}


def serial() -> dict[str, list[tuple[float, float, str]]]:
    """What a synchronize after every hop makes of the same work."""
    hops = sorted(
        (begin, i, lane, end - begin, label)
        for lane, pieces in worked(lanes_of()["tickets"]).items()
        for i, (begin, end, label) in enumerate(pieces)
    )
    order = {"d2h": 0, "host": 1, "h2d": 2, "device": 3}
    spans: dict[str, list[tuple[float, float, str]]] = {lane: [] for lane in order}
    now = 0.0
    for _, _, lane, took, label in sorted(hops, key=lambda hop: (hop[4], order[hop[2]])):
        spans[lane].append((now, now + took, label))
        now += took
    return spans


def stopped() -> Any:
    figure, both = plt.subplots(2, 1, figsize=(8, 3.7), layout="constrained", sharex=True)
    stop = serial()["device"][-1][1]
    for ax, spans, title in (
        (both[0], serial(), "synchronize after every hop"),
        (both[1], worked(lanes_of()["tickets"]), "tickets"),
    ):
        lanes(spans, stop=stop, unit="", ax=ax)
        ax.set_title(f"{title}: {spans['device'][-1][1]:.0f} s", fontsize=14)
        ax.set_xlim(0, stop)
    both[1].set_xlabel("seconds, simulated")
    return figure


def full() -> Any:
    ax = lanes(
        {"h2d": [(0, 10, "chunk 0"), (20, 30, "chunk 1")], "device": [(10, 20, "add chunk 0")]},
        stop=32,
    )
    for x, text, color in ((10, "full", COLORS["limit"]), (20, "free", COLORS["sqrt_v"])):
        ax.axvline(x, color=color, linewidth=3)
        ax.text(x + 0.3, -0.5, text, color=color, fontsize=16, weight="bold", va="bottom")
    ax.set(ylim=(1.55, -0.8), xlabel="seconds")
    return ax


def slides() -> list[Slide]:
    seen = peek()
    rows = [
        (f"<code>{code}</code>" if "(" in code else code, f"{at:.0f} s", value)
        for code, at, value in seen
    ]
    took = [serial()["device"][-1][1], seconds(lanes_of()["tickets"])]
    return [
        Slide(
            "Issued is not done",
            "A copy returns at once, with a <em>ticket</em>. The copy itself goes on.",
            issued,
            "Two lanes. The host issues a copy at 0 and goes on with other work; the copy takes ten "
            "seconds; at its end, the host's wait returns.",
            notes="On the board: four lanes (host, down, up, device) and one copy. What does "
            "“issued” mean?",
        ),
        Slide(
            "Two ways to say: that before this",
            "One holds the host. The other holds only the work that needs it.",
            ordered,
            "Left, wait: the host is held for the ten seconds of the copy and uses it then. Right, "
            "after: the host does other work, and the device uses the copy when it has ended.",
            notes="An arrow that the host stands at the end of, and one that it does not.",
        ),
        Slide(
            "The host looks at a copy that nobody waited for",
            "<p>The copy takes 10 s. The host works for 20 s, then reads the target, without "
            "<code>wait()</code>. What does it find, on this lab's machine?</p>",
            choices=(
                "the values: the time is over",
                "NaN: nobody waited",
                "what was there before",
                "an error",
            ),
            notes="A show of hands. A is what the clock suggests.",
        ),
        Slide(
            "B: NaN, until somebody waits",
            table(("what happens", "host's clock", "host[3]"), rows, (1, 2))
            + "<p>An order that rests on durations breaks with the next link, the next size, the next "
            "driver. What counts is <em>happens before</em>, not time.</p>",
            kind="answer table",
            notes="“But by then the copy is over, look at the clock!” True on this machine today.",
        ),
        Slide(
            "Three questions for every buffer",
            table(
                ("array", "who writes it?", "who reads it?", "which ticket says that it is free?"),
                [
                    (name, "", "", "")
                    for name in ("gradient", "host array", "slot on the device", "weight")
                ],
            ),
            kind="table",
            notes="Collect it on the board at minute 50, for task 7. The filled table is in the "
            "guide, under “On the board”.",
        ),
        Slide(
            "Full is not free",
            "A slot is <em>full</em> when the copy into it is done. It is <em>free</em> when its last "
            "reader is done.",
            full,
            "Two lanes. Chunk 0 goes up into the slot, then the device adds it. At the end of the copy "
            "the slot is full; at the end of the addition it is free, and chunk 1 goes up into it.",
            notes="The mistake of task 6, and again of task 7.",
        ),
        Slide(
            "Slots go round",
            "With <var>k</var> slots, chunk <var>i</var> + <var>k</var> takes again what chunk "
            "<var>i</var> had. Before it may, the last reader of chunk <var>i</var> must be done.",
            equation=(
                r"\mathrm{slot}(i)\ =\ i\ \mathrm{mod}\ k",
                r"\mathrm{last\ read}(i)\ \prec\ \mathrm{first\ write}(i + k)",
            ),
            alt="The slot of chunk i is i modulo k. The last read of chunk i happens before the first "
            "write of chunk i plus k.",
        ),
        Slide(
            "Waiting everywhere is right, and slow",
            f"Three chunks of ten elements: {took[0]:.0f} s instead of {took[1]:.0f}. Waiting is a "
            "tool to find a race, not to repair it.",
            stopped,
            "Two timelines of the same work. With a synchronize after every hop one lane works at a "
            f"time, {took[0]:.0f} s; with tickets the lanes overlap, {took[1]:.0f} s.",
            notes="If inserting a synchronize makes a wrong result right, the fault is a missing "
            "wait. The lower picture is the ledger of a real step on the simulated machine, the upper "
            "one its hops in a row.",
        ),
    ]
