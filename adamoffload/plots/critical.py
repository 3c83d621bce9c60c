"""The figure of a step's critical path: a waterfall through the lanes."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from adamoffload.arguments import instance
from adamoffload.observe.ledger import Ledger
from adamoffload.plan.hops import LANES
from adamoffload.plots.frame import frame
from adamoffload.plots.style import COLORS, SECONDS, lay_out, rounded, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from adamoffload.observe.critical import CriticalPath

__all__ = ["critical_path"]

_HEIGHT = 0.72


def critical_path(ledger: Ledger, step: int | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw which hops the time of a step is made of.

    The path goes from the step's begin at the left to its end at the right, through one lane at a
    time. The share that each lane takes stands at its right.

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
        `Ledger.critical_path`.

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
    >>> ao.plots.critical_path(ledger).get_title("left")
    'Critical path of step 1: 113 µs, 88% of it host'
    """
    instance("critical_path", "ledger", ledger, Ledger)
    steps = ledger.steps
    if step is None and not len(steps):
        raise ValueError(
            "critical_path: the ledger has recorded no step; pass it to "
            "AdamOffload(..., ledger=ledger) and take one"
        )
    path = ledger.critical_path(int(steps[-1]) if step is None else step)
    shares = path.seconds_by_lane
    (most, seconds), *_ = shares.items()
    with styled(ax, (10.0, 4.0)) as ax:
        _draw(ax, path, [lane for lane in (*LANES, "idle") if lane in shares])
        ax.set_xlabel("simulated time in the step" if ledger.simulated else "time in the step")
        lay_out(ax)
        taken = f"{rounded(path.seconds, 's')}, {seconds / path.seconds:.0%} of it {most}"
        notes = ["a hop that is not on the path could take a little longer without effect"]
        frame(ax, f"Critical path of step {path.step}: {taken}", notes=notes)
    return ax


def _draw(ax: Axes, path: CriticalPath, lanes: list[str]) -> None:
    shares = path.seconds_by_lane
    for y, lane in enumerate(lanes):
        spans = [(s.start_s - path.begin_s, s.seconds) for s in path.segments if s.lane == lane]
        color = COLORS.get(lane, COLORS["wait"])
        ax.broken_barh(spans, (y - _HEIGHT / 2, _HEIGHT), facecolor=color, linewidth=0)
        share = f"{shares[lane] / path.seconds:.0%}"
        ax.text(1.015, y, share, transform=ax.get_yaxis_transform(), va="center")
    for one, other in pairwise(path.segments):
        if one.lane != other.lane:
            x, ends = one.stop_s - path.begin_s, [lanes.index(one.lane), lanes.index(other.lane)]
            ax.plot([x, x], ends, color="#777777", linewidth=0.7, zorder=0)
    ax.set_yticks(range(len(lanes)), lanes)
    ax.set_ylim(len(lanes) - 0.5, -0.5)  # the first lane on top
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_xlim(0, path.seconds)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(SECONDS)
