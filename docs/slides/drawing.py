"""What the figures of several decks share: a place to draw, two memories and a link, lanes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator

import adamoffload as ao
from adamoffload.plots.style import COLORS, LINES, ink, styled
from adamoffload_sim import Device, Link

SIZE = (8.0, 3.15)
"""Inches, for a figure over a line or two of text: 12 points are large on a screen then."""

LANES = {"d2h": "down", "host": "host", "h2d": "up", "device": "device"}
CHOSEN = {"w": "parameters", "g": "gradients", "m": "moments", "v": "moments", "δ": "h2d"}


def axes(size: tuple[float, float] = SIZE) -> Any:
    """Return new axes in our style."""
    with styled(None, size) as ax:
        return ax


def canvas(width: float, height: float, size: tuple[float, float] = SIZE) -> Any:
    """Return new axes without axes, for a diagram in units of one kind."""
    _, ax = plt.subplots(figsize=size, layout="constrained")
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    return ax


def box(
    ax: Any,
    at: Sequence[float],
    size: Sequence[float],
    text: str = "",
    color: str = "white",
    **kw: Any,
) -> None:
    """Draw a rounded box with text in its middle."""
    style = {"edgecolor": "#333333" if color == "white" else color, "linewidth": 1.2}
    ax.add_patch(
        FancyBboxPatch(
            at, *size, boxstyle="round,pad=0,rounding_size=0.12", facecolor=color, **style
        )
    )
    ax.text(
        at[0] + size[0] / 2,
        at[1] + size[1] / 2,
        text,
        **{"ha": "center", "va": "center", "fontsize": 14, "color": ink(color), **kw},
    )


def arrow(
    ax: Any, start: Sequence[float], end: Sequence[float], color: str = "#333333", **kw: Any
) -> None:
    """Draw an arrow."""
    style = {
        "arrowstyle": "-|>",
        "mutation_scale": 18,
        "linewidth": 2.4,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    ax.add_patch(FancyArrowPatch(start, end, color=color, **{**style, **kw}))


def memories(device: Sequence[str], host: Sequence[str], down: str = "", up: str = "") -> Any:
    """Draw two memories, what lies in each, and what crosses the link between them."""
    ax = canvas(16, 6.2)
    for x, name, held in ((0.2, "device", device), (10.8, "host", host)):
        box(ax, (x, 0.6), (5, 4.6))
        ax.text(x + 2.5, 5.75, name, ha="center", va="center", fontsize=15, weight="bold")
        width = 1.9
        for i, what in enumerate(held):
            row, column = divmod(i, 2)
            at = (x + 0.4 + column * (width + 0.4), 3.1 - 2.2 * row if len(held) > 2 else 2.0)
            box(ax, at, (width, 1.8), what, COLORS[CHOSEN[what]], fontsize=20, style="italic")
    for y, text, ends, hop in ((3.7, down, (5.5, 10.5), "d2h"), (1.7, up, (10.5, 5.5), "h2d")):
        if text:
            arrow(ax, (ends[0], y), (ends[1], y), COLORS[hop])
            ax.text(8, y + 0.2, text, ha="center", va="bottom", fontsize=14)
    return ax


def lanes(
    spans: Mapping[str, Sequence[tuple[float, float, str]]],
    *,
    stop: float | None = None,
    unit: str = "seconds, simulated",
    size: tuple[float, float] = SIZE,
    ax: Any = None,
) -> Any:
    """Draw who works when: for each lane, pieces of work with begin, end and a label."""
    if ax is None:
        ax = axes(size)
    for y, (lane, pieces) in enumerate(spans.items()):
        color = COLORS[lane]
        for begin, end, label in pieces:
            ax.barh(y, end - begin, 0.72, begin, color=color, edgecolor="white", linewidth=1.2)
            ax.text(
                (begin + end) / 2, y, label, ha="center", va="center", fontsize=13, color=ink(color)
            )
    ax.set_yticks(range(len(spans)), [LANES[lane] for lane in spans], fontsize=14)
    ax.set(ylim=(len(spans) - 0.45, -0.55), xlabel=unit)
    ax.set_xlim(0, stop)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return ax


def machine(hops_s: Sequence[float], latency_s: float = 0.0) -> ao.Backend:
    """Return a simulated machine: seconds a parameter on its link, host and device."""
    link, host, device = hops_s
    return ao.get_backend(
        "sim",
        link=Link(bandwidth_bytes_per_s=4 / link, latency_s=latency_s),
        device=Device(bandwidth_bytes_per_s=12 / device, flops_per_s=1e15),
        host_ns_per_parameter=1e9 * host,
    )


def step(device: ao.Backend, parameters: int, chunk: int) -> ao.Ledger:
    """Return the ledger of one step of `AdamOffload`, in chunks of so many parameters."""
    w = ao.Parameter(device.asarray(np.ones(parameters, np.float32)), name="w")
    g = device.asarray(np.ones(parameters, np.float32))
    device.synchronize()
    ledger = ao.Ledger()
    ao.AdamOffload([w], chunk_bytes=4 * chunk, ledger=ledger)([g])
    return ledger


def worked(ledger: ao.Ledger) -> dict[str, list[tuple[float, float, str]]]:
    """Return the lanes of a ledger of one step, its begin being 0."""
    of = {"d2h": "d2h", "update": "host", "h2d": "h2d", "apply": "device"}
    events = [event for event in ledger.events if event.hop in of]
    begin = min(event.start_s for event in events)
    spans: dict[str, list[tuple[float, float, str]]] = {lane: [] for lane in LANES}
    for event in events:
        spans[of[event.hop]].append((event.start_s - begin, event.stop_s - begin, str(event.chunk)))
    return spans


def seconds(ledger: ao.Ledger) -> float:
    """Return how long the step of a ledger took."""
    return max(end for pieces in worked(ledger).values() for _, end, _ in pieces)


def run(gradients: np.ndarray[Any, Any], **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Train one vector from zeros: a row of gradients a step; return m, v and w by step."""
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.zeros(gradients.shape[1], np.float32)), name="w")
    optimizer = ao.AdamOffload([w], **options)
    rows: dict[str, list[np.ndarray[Any, Any]]] = {"m": [], "v": [], "w": []}
    for g in gradients.astype(np.float32):
        optimizer([device.asarray(g)])
        rows["m"].append(optimizer.moment1["w"].copy())
        rows["v"].append(optimizer.moment2["w"].copy())
        rows["w"].append(device.asnumpy(w.data))
    return {name: np.stack(values) for name, values in rows.items()}


def line(ax: Any, x: Any, y: Any, i: int, label: str, **kw: Any) -> None:
    """Draw a line of our colours, with its name at its end."""
    ax.plot(x, y, color=LINES[i], **kw)
    ax.annotate(
        label,
        (x[-1], y[-1]),
        (8, 0),
        textcoords="offset points",
        va="center",
        fontsize=13,
        color=LINES[i],
        annotation_clip=False,
    )


def table(
    heads: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()
) -> str:
    """Return an HTML table; `numbers` says which columns are aligned to the right."""
    kinds = [' class="n"' if i in numbers else "" for i in range(len(heads))]
    head = "".join(f"<th{kind}>{text}</th>" for kind, text in zip(kinds, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{k}>{x}</td>" for k, x in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
