"""The figure of one step's time: who worked on which chunk, and who waited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from adamoffload.arguments import instance
from adamoffload.observe.ledger import Ledger
from adamoffload.observe.timeline import StepTimeline, step_timeline
from adamoffload.plan.hops import LANE_OF, Declared, Lane
from adamoffload.plots.frame import frame, points, text_points
from adamoffload.plots.style import COLORS, SECONDS, STYLE, ink, lay_out, rounded, styled

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["timeline"]

_CARRIED = {"gradient": "gradients", "update": "updates"}
_HEIGHT = 0.72
_PREPARE_ALPHA = 0.45


def timeline(ledger: Ledger, step: int | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw one step: a lane for each that can work at the same time, a bar for each chunk.

    Hatched is where the host waited for gradients. The share of the step in which each lane worked
    stands at its right; the busiest one is the bottleneck.

    Parameters
    ----------
    ledger : Ledger
        Where the hops were recorded; those in flight are waited for.
    step : int, optional
        Which step, counted from 1; the last one, if left out.
    ax : Axes, optional
        What to draw on; new axes, if left out.

    Returns
    -------
    Axes
        With time in seconds since the begin of the step on x. The numbers are those of
        `adamoffload.observe.timeline.step_timeline`.

    Raises
    ------
    ValueError
        If there is no such step in the ledger, or none at all.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("sim", link="pcie4x16", host_ns_per_parameter=100)
    >>> w = ao.Parameter(device.asarray(np.zeros(1000, np.float32)), name="w")
    >>> ledger = ao.Ledger()
    >>> opt = ao.AdamOffload([w], ledger=ledger, chunk_bytes=1000)
    >>> opt([device.asarray(np.ones(1000, np.float32))])
    (True,)
    >>> ao.plots.timeline(ledger).get_title("left")
    'Step 1: 113 µs, host is the bottleneck'
    """
    instance("timeline", "ledger", ledger, Ledger)
    shown = step_timeline(ledger, step)
    with styled(ax, (10.0, 4.6)) as ax:
        _draw_axes(ax, shown, _works(ledger.declared))
        _draw_shares(ax, shown)
        lay_out(ax)  # what stands beside the lanes takes a part of the width
        entries: list[tuple[Artist, str]] = []
        for y, lane in enumerate(shown.lanes):
            for hop in LANE_OF:
                rows = shown.lane(lane)
                rows = rows[rows["hop"] == hop]
                alpha = _PREPARE_ALPHA if hop == "prepare" else 1.0
                _draw_bars(ax, shown, rows, y, COLORS[lane], alpha)
                if hop == "prepare" and len(rows):
                    entries.append((Patch(color=COLORS[lane], alpha=alpha), "prepares gradients"))
        if len(shown.waits):
            entries.append((_draw_waits(ax, shown), "waits for gradients"))
        frame(ax, _title(shown), notes=_notes(shown), entries=entries)
    return ax


def _works(declared: Sequence[Declared]) -> dict[Lane, str]:
    """Return in few words what each lane does, as the strategies say."""
    words: dict[Lane, dict[str, None]] = {}
    for share in declared:
        for hop in share.hops:
            if hop.name == share.arithmetic:
                said = share.rule
            elif hop.nbytes:
                said = _CARRIED.get(hop.thing, hop.thing)
            elif hop.name == "apply":
                said = "adds updates" if hop.thing == "update" else "takes weights"
            else:
                continue
            words.setdefault(hop.lane, {})[said] = None
    return {lane: ", ".join(said) for lane, said in words.items()}


def _title(shown: StepTimeline) -> str:
    finding = f"{shown.bottleneck} is the bottleneck" if _overlaps(shown) else "nothing overlaps"
    return f"Step {shown.step}: {rounded(shown.seconds, 's')}, {finding}"


def _overlaps(shown: StepTimeline) -> bool:
    return _work_s(shown) > shown.seconds


def _notes(shown: StepTimeline) -> list[str]:
    chunks = "1 chunk" if shown.chunks == 1 else f"{shown.chunks:,} chunks"
    clock = ["simulated time"] if shown.simulated else []
    return [*clock, f"{chunks}; in sequence, {rounded(_work_s(shown), 's')}"]


def _work_s(shown: StepTimeline) -> float:
    return sum(shown.busy_s(lane) for lane in shown.lanes)


def _draw_bars(
    ax: Axes, shown: StepTimeline, rows: np.ndarray[Any, Any], y: int, color: str, alpha: float
) -> None:
    if not len(rows):
        return
    start_s, seconds = _spans(shown, rows)
    width, height = points(ax)
    widths = seconds / shown.seconds * width
    median = float(np.median(widths))
    thin = median < 1  # without an edge of its colour, it may fall between two pixels
    ax.broken_barh(
        list(zip(start_s, seconds, strict=True)),
        (y - _HEIGHT / 2, _HEIGHT),
        facecolor=color,
        alpha=alpha,
        edgecolor=color if thin else "white",
        linewidth=0.75 if thin else min(1.0, 0.15 * median),  # no more edge than bar
    )
    size = min(float(STYLE["font.size"]), 0.5 * height / len(shown.lanes))
    for row, x, bar_width in zip(rows, start_s + seconds / 2, widths, strict=True):
        label = "*" if row["hop"] == "check" else str(row["chunk"])
        if bar_width > text_points(label, size) + 3:
            text = "black" if alpha < 1 else ink(color)
            ax.text(x, y, label, ha="center", va="center", fontsize=size, color=text, clip_on=True)


def _spans(
    shown: StepTimeline, rows: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return when rows begin, from the begin of the step, and how long they take."""
    return rows["start_s"] - shown.begin_s, rows["stop_s"] - rows["start_s"]


def _draw_waits(ax: Axes, shown: StepTimeline) -> Artist:
    start_s, seconds = _spans(shown, shown.waits)
    style: dict[str, Any] = {"facecolor": COLORS["wait"], "hatch": "////", "edgecolor": "#777777"}
    ax.broken_barh(
        list(zip(start_s, seconds, strict=True)),
        (shown.lanes.index("host") - _HEIGHT / 2, _HEIGHT),
        linewidth=0,
        label="wait",
        **style,
    )
    return Patch(linewidth=0, **style)


def _draw_axes(ax: Axes, shown: StepTimeline, works: Mapping[Lane, str]) -> None:
    labels = [f"{lane}\n{works.get(lane, '')}".rstrip() for lane in shown.lanes]
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)  # the first lane on top
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_xlim(0, shown.seconds)
    ax.set_xlabel("simulated time in the step" if shown.simulated else "time in the step")
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(SECONDS)


def _draw_shares(ax: Axes, shown: StepTimeline) -> None:
    for y, lane in enumerate(shown.lanes):
        busiest = lane == shown.bottleneck and _overlaps(shown)
        ax.text(
            1.015,
            y,
            f"{shown.busy_s(lane) / shown.seconds:.0%} busy",
            transform=ax.get_yaxis_transform(),
            va="center",
            fontweight="bold" if busiest else "normal",
            color=COLORS["limit"] if busiest else "#444444",
        )
