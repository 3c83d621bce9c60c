"""Figures of the link: what crossed it, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.ticker import EngFormatter

from adamoffload.arguments import choice, instance, positive_integer
from adamoffload.observe.ledger import Hop, Ledger
from adamoffload.plots.frame import frame, step_axis
from adamoffload.plots.style import BYTES, COLORS, rounded, styled

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["transfers"]

_DIRECTIONS: tuple[Hop, Hop] = ("d2h", "h2d")
_PER_S = EngFormatter(unit="B/s")
_NBYTES = 4  # of a parameter, in each direction, in a step
Show = Literal["total", "per_step", "bandwidth"]
_SHOWN: dict[Show, tuple[str, str]] = {
    "total": ("Bytes moved, in all", "over the link since step 1"),
    "per_step": ("Bytes moved in each step", "over the link in a step"),
    "bandwidth": ("How fast the link was", "bytes / time of the copies"),
}


def transfers(
    ledger: Ledger,
    parameters: int | None = None,
    *,
    show: Show = "total",
    ax: Axes | None = None,
) -> Axes:
    """Draw what crossed the link, by direction, over the steps.

    Parameters
    ----------
    ledger : Ledger
        The record.
    parameters : int, optional
        How many numbers are trained: the prediction, 4 bytes for each in each direction and step,
        is drawn beside what was moved.
    show : str
        ``"total"``: the bytes summed up over the steps; ``"per_step"``; or ``"bandwidth"``: the
        bytes of each step over the time that the copies took.
    ax : Axes, optional
        What to draw on; new axes, if left out.

    Returns
    -------
    Axes
        With steps on x. The numbers are those of `Ledger.bytes_per_step`,
        `Ledger.seconds_per_step` and, in the legend, `Ledger.bandwidth`.

    Raises
    ------
    ValueError
        If no step was recorded, or what to show is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("sim", link="pcie4x16")
    >>> w = ao.Parameter(device.asarray(np.zeros(1000, np.float32)), name="w")
    >>> ledger = ao.Ledger()
    >>> opt = ao.AdamOffload([w], ledger=ledger)
    >>> g = device.asarray(np.ones(1000, np.float32))
    >>> opt([g]), opt([g])
    ((True,), (True,))
    >>> ax = ao.plots.transfers(ledger, parameters=1000)
    >>> [(line.get_label(), line.get_ydata().tolist()) for line in ax.lines]
    [('d2h', [4000, 8000]), ('h2d', [4000, 8000]), ('expected', [4000, 8000])]
    """
    instance("transfers", "ledger", ledger, Ledger)
    choice("transfers", "show", show, _SHOWN)
    if parameters is not None:
        parameters = positive_integer("transfers", "parameters", parameters)
    steps = ledger.steps
    if not len(steps):
        raise ValueError(
            "transfers: the ledger has recorded no step; pass it to "
            "AdamOffload(..., ledger=ledger) and take one"
        )
    with styled(ax) as ax:
        entries: list[tuple[Artist, str]] = []
        for hop in _DIRECTIONS:
            (line,) = ax.plot(
                steps,
                _values(ledger, hop, show),
                color=COLORS[hop],
                linewidth={"d2h": 6.0, "h2d": 2.4}[hop],  # they move the same: one lies below
                marker={"d2h": "o", "h2d": "s"}[hop],
                markersize={"d2h": 11.0, "h2d": 5.0}[hop],
                markevery=max(1, len(steps) // 6),
                label=hop,
            )
            entries.append((line, f"{hop}: {_moved(ledger, hop)}"))
        if parameters is not None and show != "bandwidth":
            entries.append(_expected(ax, steps, parameters, show))
        ax.set_ylim(0, 1.08 * _highest(ax) or 1.0)
        ax.set_ylabel(_SHOWN[show][1])
        ax.yaxis.set_major_formatter(_PER_S if show == "bandwidth" else BYTES)
        step_axis(ax, steps)
        clock = " (simulated)" if ledger.simulated else ""
        frame(ax, f"{_SHOWN[show][0]}{clock if show == 'bandwidth' else ''}", entries=entries)
    return ax


def _moved(ledger: Ledger, hop: Hop) -> str:
    """Return how much moved, and how fast: a clock may not tell, or there may be nothing."""
    nbytes, speed = ledger.bytes(hop), ledger.bandwidth(hop)
    if not nbytes:
        return "nothing"
    how_fast = f"at {rounded(speed, 'B/s')}" if speed < np.inf else "in no time"
    return f"{rounded(nbytes, 'B')} {how_fast}"


def _values(ledger: Ledger, hop: Hop, show: Show) -> np.ndarray[Any, Any]:
    moved = ledger.bytes_per_step(hop)
    if show == "total":
        return np.cumsum(moved)
    if show == "per_step":
        return moved
    seconds = ledger.seconds_per_step(hop)
    speed: np.ndarray[Any, Any] = np.full(len(moved), np.nan)
    np.divide(moved, seconds, out=speed, where=seconds > 0)
    return speed


def _highest(ax: Axes) -> float:
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
    return float(np.max(drawn, initial=0.0, where=np.isfinite(drawn)))


def _expected(
    ax: Axes, steps: np.ndarray[Any, Any], parameters: int, show: Show
) -> tuple[Artist, str]:
    each = np.full(len(steps), _NBYTES * parameters)
    (line,) = ax.plot(
        steps,
        np.cumsum(each) if show == "total" else each,
        ":",
        color=COLORS["expected"],
        linewidth=1.8,
        label="expected",
    )
    return line, f"4 B × parameters{' × steps' if show == 'total' else ''}"
