"""Figures of the link: what crossed it, and how fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.ticker import EngFormatter

from adamoffload.arguments import choice, instance, positive_integer
from adamoffload.observe.ledger import Ledger
from adamoffload.plan.hops import bytes_by_lane
from adamoffload.plan.strategy import strategies
from adamoffload.plots.frame import frame, step_axis
from adamoffload.plots.style import BYTES, COLORS, rounded, styled
from adamoffload.rules.adam import Adam

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["transfers"]

_PER_S = EngFormatter(unit="B/s")
Show = Literal["total", "per_step", "bandwidth"]
_SHOWN: dict[Show, tuple[str, str]] = {
    "total": ("Bytes moved, in all", "over the link since step 1"),
    "per_step": ("Bytes moved in each step", "over the link in a step"),
    "bandwidth": ("How fast the link was", "bytes / time of the copies"),
}


def transfers(
    ledger: Ledger,
    parameters: int | Mapping[str, int] | None = None,
    *,
    show: Show = "total",
    ax: Axes | None = None,
) -> Axes:
    """Draw what was copied, by lane, over the steps.

    Parameters
    ----------
    ledger : Ledger
        The record.
    parameters : int or mapping from str to int, optional
        How many numbers are trained: what their strategy predicts is drawn beside what was moved.
        Or the bytes of a step by lane, from `Optimizer.bytes_per_step`.
    show : str
        ``"total"``: the bytes summed up over the steps; ``"per_step"``; or ``"bandwidth"``: the
        bytes of each step over the time that the copies took.
    ax : Axes, optional
        What to draw on; new axes, if left out.

    Returns
    -------
    Axes
        With steps on x. The numbers are those of `Ledger.bytes_per_step`,
        `Ledger.seconds_per_step` and, in the legend of ``"bandwidth"``, `Ledger.bandwidth`.

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
    if parameters is not None and not isinstance(parameters, Mapping):
        parameters = positive_integer("transfers", "parameters", parameters)
    steps = ledger.steps
    if not len(ledger):
        raise ValueError(
            "transfers: the ledger has recorded no step; pass it to "
            "AdamOffload(..., ledger=ledger) and take one"
        )
    with styled(ax) as ax:
        entries: list[tuple[Artist, str]] = []
        for lane in _lanes(ledger):
            width, marker, size = _LOOK[lane]
            (line,) = ax.plot(
                steps,
                _values(ledger, lane, show),
                color=COLORS[lane],
                linewidth=width,
                marker=marker,
                markersize=size,
                markevery=max(1, len(steps) // 6),
                label=lane,
            )
            entries.append((line, f"{lane}: {_moved(ledger, lane, show)}"))
        if parameters is not None and show != "bandwidth":
            entries += _expected(ax, steps, _predictions(ledger, parameters), show)
        ax.set_ylim(0, 1.08 * _highest(ax) or 1.0)
        ax.set_ylabel(_SHOWN[show][1])
        ax.yaxis.set_major_formatter(_PER_S if show == "bandwidth" else BYTES)
        step_axis(ax, steps)
        clock = " (simulated)" if ledger.simulated else ""
        frame(ax, f"{_SHOWN[show][0]}{clock if show == 'bandwidth' else ''}", entries=entries)
    return ax


def _moved(ledger: Ledger, lane: str, show: Show) -> str:
    """Return how much the steps moved; where speed is shown, how fast, if a clock can tell."""
    nbytes, speed = int(ledger.bytes_per_step(lane).sum()), ledger.bandwidth(lane)
    if not nbytes:
        return "nothing"
    if show != "bandwidth" or np.isnan(speed):  # nan: a check alone, whose time is the device's
        return rounded(nbytes, "B")
    how_fast = "in no time" if np.isinf(speed) else f"at {rounded(speed, 'B/s')}"
    return f"{rounded(nbytes, 'B')} {how_fast}"


_LOOK = {
    "d2h": (6.0, "o", 11.0),
    "h2d": (2.4, "s", 5.0),
    "read": (4.5, "D", 9.0),
    "write": (1.6, "^", 5.0),
}
"""Width, marker and its size: where two lanes move the same, one lies below the other."""


def _lanes(ledger: Ledger) -> list[str]:
    """Return the lanes of the link, and those of the disk if something moved there."""
    return [lane for lane in _LOOK if lane in ("d2h", "h2d") or ledger.bytes(lane)]


def _values(ledger: Ledger, lane: str, show: Show) -> np.ndarray[Any, Any]:
    moved = ledger.bytes_per_step(lane)
    if show == "total":
        return np.cumsum(moved)
    if show == "per_step":
        return moved
    seconds = ledger.seconds_per_step(lane)
    speed: np.ndarray[Any, Any] = np.full(len(moved), np.nan)
    np.divide(moved, seconds, out=speed, where=seconds > 0)
    return speed


def _highest(ax: Axes) -> float:
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
    return float(np.max(drawn, initial=0.0, where=np.isfinite(drawn)))


def _predictions(ledger: Ledger, parameters: int | Mapping[str, int]) -> dict[str, tuple[int, str]]:
    """Return the bytes that each lane should move in a step, with a formula for them."""
    if isinstance(parameters, Mapping):
        return {lane: (nbytes, rounded(nbytes, "B")) for lane, nbytes in parameters.items()}
    shares = [bytes_by_lane(share.hops) for share in ledger.declared]
    if not shares:  # recorded by hand
        shares = [strategies["adam-offload"].bytes_per_parameter(Adam(), "float32")]
    each = {lane: max(share[lane] for share in shares) for lane in shares[0]}
    return {lane: (n * parameters, f"{n} B × parameters") for lane, n in each.items()}


def _expected(
    ax: Axes, steps: np.ndarray[Any, Any], predicted: Mapping[str, tuple[int, str]], show: Show
) -> list[tuple[Artist, str]]:
    """Draw what was predicted: one line for all lanes of which the same is."""
    lanes: dict[tuple[int, str], list[str]] = {}
    for line in ax.get_lines():
        lane = str(line.get_label())
        lanes.setdefault(predicted.get(lane, (0, "nothing")), []).append(lane)
    entries: list[tuple[Artist, str]] = []
    for (nbytes, formula), named in lanes.items():
        which = f", {', '.join(named)}" if len(lanes) > 1 else ""
        each = np.full(len(steps), nbytes)
        (drawn,) = ax.plot(
            steps,
            np.cumsum(each) if show == "total" else each,
            ":",
            color=COLORS["expected"],
            linewidth=1.8,
            label=f"expected{which}",
        )
        times = " × steps" if show == "total" else ""
        entries.append((drawn, f"{formula}{times}{which}"))
    return entries
