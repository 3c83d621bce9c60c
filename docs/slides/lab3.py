"""Slides for lab 3: the byte ledger."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.plots.style import COLORS

from slides import Slide
from slides.drawing import axes, box, canvas, line, table

QUESTION = "Which model fits on a device, and what does a step move, to the byte?"
DISCUSS = (
    "Which figure about traffic would you believe without having read the source?",
    "The batch becomes ten times as large. Which terms of the memory grow, and which of the traffic?",
    "A ledger keeps a line for each hop. What would you keep instead, and what is lost then?",
)
PARAMETERS = 1000


@cache
def ledger(chunk_bytes: int) -> ao.Ledger:
    """One step of a thousand parameters, as in the statement."""
    device, ledger = ao.get_backend("numpy"), ao.Ledger()
    w = ao.Parameter(device.asarray(np.ones(PARAMETERS, np.float32)), name="w")
    optimizer = ao.AdamOffload([w], ledger=ledger, chunk_bytes=chunk_bytes)
    optimizer([device.asarray(np.ones(PARAMETERS, np.float32))])
    return ledger


def copies(chunk_bytes: int) -> list[ao.Event]:
    return [event for event in ledger(chunk_bytes).events if event.nbytes]


def per_parameter() -> Any:
    sizes = np.unique(np.logspace(3, 7.2, 22).astype(int))
    resident, offloaded = [], []
    for n in sizes:
        device = ao.get_backend("numpy")
        w = ao.Parameter(device.asarray(np.zeros(n, np.float32)), name="w")
        resident.append(ao.Adam([w]).memory().device / n)
        offloaded.append(ao.AdamOffload([w], chunk_bytes=4_000_000).memory().device / n)
    ax = axes()
    line(ax, sizes, resident, 1, "Adam", linewidth=3)
    line(ax, sizes, offloaded, 0, "AdamOffload", linewidth=3)
    ax.set(xscale="log", xlim=(1e3, sizes[-1]), ylim=(0, 18), yticks=(0, 4, 8, 12, 16))
    ax.set(xlabel="parameters", ylabel="bytes a parameter\non the device")
    return ax


def bars() -> Any:
    ax = canvas(18, 6)
    rows = (
        (
            "Adam",
            (
                ("w", 4, "parameters"),
                ("g", 4, "gradients"),
                ("m", 4, "moments"),
                ("v", 4, "moments"),
            ),
        ),
        ("AdamOffload", (("w", 4, "parameters"), ("g", 4, "gradients"), ("", 0.8, "staging"))),
    )
    for i, (name, pieces) in enumerate(rows):
        x, y = 4.0, 3.4 - 2.6 * i
        ax.text(3.6, y + 0.8, name, ha="right", va="center", fontsize=15)
        for text, size, kind in pieces:
            width = 0.62 * size
            box(ax, (x, y), (width - 0.1, 1.6), text, COLORS[kind], fontsize=18, style="italic")
            x += width
        box(ax, (x, y), (2.8, 1.6), "activations", COLORS["other"], fontsize=13)
        if name == "AdamOffload":
            ax.annotate("ring", (9.2, y), (9.2, y - 0.5), ha="center", va="center", fontsize=13)
    ax.text(4, 5.5, "on the device, 4 bytes a parameter each", fontsize=13, color="#444444")
    return ax


@cache
def training() -> ao.Ledger:
    """Six steps on a simulated device: a model of three million parameters."""
    device = ao.get_backend("sim", link="pcie4x16")
    rng = np.random.default_rng(0)
    shapes = ((1000, 1000), (1500, 1000), (500, 1000))
    ws = [
        ao.Parameter(device.asarray(np.zeros(s, np.float32)), name=f"w{i}")
        for i, s in enumerate(shapes)
    ]
    recorded = ao.Ledger()
    optimizer = ao.AdamOffload(ws, ledger=recorded, chunk_bytes=1_000_000)
    for _ in range(6):
        gs = [device.asarray(rng.standard_normal(s).astype(np.float32)) for s in shapes]
        optimizer(gs)
        del gs
    return recorded


def counted() -> Any:
    return ao.plots.transfers(training(), parameters=3_000_000, ax=axes((8, 3.4)))


def one_copy() -> Any:
    ax, device = axes(), ao.get_backend("sim", link="pcie4x16")
    small, large = (float(b) for b in (100_000, 10_000_000))
    parts = {}
    for nbytes in (small, large):
        x = device.asarray(np.zeros(int(nbytes) // 4, np.float32))
        host = device._empty_pinned(int(nbytes) // 4, np.float32)
        ticket = device.d2h(x, host)
        ticket.wait()
        parts[nbytes] = ticket.stop_s - ticket.start_s
    rates = {nbytes: nbytes / s / 1e9 for nbytes, s in parts.items()}
    total = sum(parts) / sum(parts.values()) / 1e9
    names = ("100 kB copy", "10 MB copy", "mean of the two", "both together")
    values = (*rates.values(), sum(rates.values()) / 2, total)
    colors = (COLORS["d2h"], COLORS["d2h"], "#B8B8B8", COLORS["limit"])
    ax.barh(range(4), values, 0.62, color=colors)
    for y, value in enumerate(values):
        ax.text(value + 0.3, y, f"{value:.1f}", va="center", fontsize=14)
    ax.set_yticks(range(4), names, fontsize=14)
    ax.set(ylim=(3.6, -0.6), xlim=(0, 36), xlabel="GB/s, simulated PCIe 4.0 x16")
    ax.grid(visible=False, axis="y")
    return ax


def compared() -> Any:
    ax = axes()
    for i, chunk in enumerate((2000, 400)):
        for j, (hop, kind) in enumerate((("d2h", "d2h"), ("h2d", "h2d"))):
            x = 0.0
            for event in copies(chunk):
                if event.hop == hop:
                    ax.barh(
                        2.4 * i + 0.9 * j,
                        event.nbytes,
                        0.78,
                        x,
                        color=COLORS[kind],
                        edgecolor="white",
                        linewidth=2,
                    )
                    x += event.nbytes
    ax.set_yticks([0, 0.9, 2.4, 3.3], ["down", "up", "down", "up"], fontsize=14)
    for y, text in ((0.45, "chunks of\n2,000 bytes"), (2.85, "chunks of\n400 bytes")):
        ax.text(4080, y, text, va="center", fontsize=14)
    ax.set(ylim=(3.9, -0.6), xlim=(0, 4900), xlabel="bytes over the link in one step")
    ax.set_xticks(range(0, 4001, 1000))
    ax.grid(visible=False, axis="y")
    return ax


def slides() -> list[Slide]:
    first = copies(2000)
    rows = [
        (e.hop, e.step, e.chunk, f"{e.elements:,}", f"{e.nbytes:,}")
        for e in ledger(2000).events
        if e.hop in ("d2h", "update", "h2d")
    ]
    lines = [len(copies(chunk)) for chunk in (2000, 400)]
    moved = [sum(e.nbytes for e in copies(chunk)) for chunk in (2000, 400)]
    if moved[0] != moved[1] or moved[0] != 8 * PARAMETERS or lines[0] != len(first):
        raise ValueError(f"the chunks should not change the traffic, but it is {moved}")
    return [
        Slide(
            "Sixteen bytes, and eight",
            "The ring has three slots, whatever the model. Activations know the batch, not the "
            "optimizer.",
            bars,
            "Two bars of device memory. Adam: w, g, m, v and activations. AdamOffload: w, g, a narrow "
            "ring, and the same activations.",
            notes="On the board: the two bars, one above the other. What is the ring for?",
        ),
        Slide(
            "The ring costs what it costs",
            "Beside a large model it is next to nothing. Beside a small one it is as large as the "
            "gradients.",
            per_parameter,
            "Bytes a parameter on the device against the number of parameters. Adam: 16. AdamOffload: "
            "12 for small models, a little more for two or three chunks, falling to 8 for large ones.",
            notes="Read from <code>memory()</code> of real optimizers with chunks of 4 MB: weights, "
            "gradients and ring, without activations. The bump: slots are whole chunks, and a second or "
            "third chunk that is hardly filled takes a whole slot.",
        ),
        Slide(
            "What must fit",
            "All in bytes, on the device, for <var>n</var> parameters in float32.",
            equation=(
                r"\mathrm{Adam:} & 4n + 4n + 8n + \mathrm{activations}",
                r"\mathrm{offloaded:} & 4n + 4n + \mathrm{ring} + \mathrm{activations}",
            ),
            alt="Adam: 4n plus 4n plus 8n plus activations. Offloaded: 4n plus 4n plus ring plus "
            "activations.",
            notes="1 GiB is 1.07e9 bytes. Whoever takes one for the other in task 2 "
            "is wrong by 7 per cent.",
        ),
        Slide(
            "Predict the line, then read the ledger",
            "Three million parameters in three matrices. What would it mean if a step were off the "
            "line?",
            counted,
            "Bytes down and up in each of six steps, and the predicted number of bytes: they agree.",
            notes="Something else has used the link. Task 8 looks for it, in the lines of a ledger.",
        ),
        Slide(
            "A ledger has a line for each hop",
            table(("hop", "step", "chunk", "elements", "bytes over the link"), rows, (1, 2, 3, 4))
            + "<p><small>The hops of the device, prepare and apply, and waits are left out here.</small></p>",
            kind="table dense",
            notes="The statement's example: a thousand parameters, chunks of 2,000 bytes. "
            "Everybody prints a ledger first and reads it aloud, line by line.",
        ),
        Slide(
            "Chunks of 400 bytes instead of 2,000",
            "<p>The same thousand parameters, the same step. What changes in the ledger?</p>",
            choices=(
                "more lines, more bytes",
                "more lines, the same bytes",
                "the same lines, fewer bytes",
                "nothing",
            ),
        ),
        Slide(
            f"B: {lines[1]} copies instead of {lines[0]}, and {moved[0]:,} bytes both times",
            "A ledger that is cut more finely still has to add up.",
            compared,
            f"Bars of the bytes down and up. With chunks of 2,000 bytes, {lines[0]} copies; with 400, "
            f"{lines[1]} copies; 4,000 bytes in each direction both times.",
            kind="answer",
            notes="Then add <code>print(device.asnumpy(w.data)[:3])</code> between two steps and look "
            "at <code>device.traffic()</code>: the whole parameter has come down for three numbers.",
        ),
        Slide(
            "Rates do not average",
            "Bytes divided by seconds: add up first, divide then. And only the seconds in which "
            "something was on its way.",
            one_copy,
            "Bandwidth of a small copy, of a large copy, the mean of the two, and of both together: "
            "the last is close to that of the large copy, far above the mean.",
            notes="The average speed of somebody who goes 1 km at 1 km/h and 100 km at 100 km/h is "
            "not 50.5 km/h.",
        ),
        Slide(
            "What measures must not change what it measures",
            "<p>A record that waits for its copy is right, and makes the program slower: the copy "
            "would have run beside something else.</p><p>A record that two ledgers share is fast, and "
            "wrong.</p>",
            kind="words",
            notes="Task 7. The closure is new for some: show a counter that counts calls.",
        ),
    ]
