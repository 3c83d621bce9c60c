"""Figures of memory: what lies where, and what fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from adamoffload.arguments import choice, describe, instance, number
from adamoffload.observe.ledger import Ledger
from adamoffload.offload.build import OptimizerMemory
from adamoffload.offload.faces import OffloadMemory, ResidentMemory
from adamoffload.plots.frame import frame, points, shown_name
from adamoffload.plots.style import BYTES, COLORS, LABELS, SECONDS, STYLE, ink, rounded, styled

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["memory", "memory_over_time"]

_WIDTH = 0.8
Use = Mapping[str, int] | OffloadMemory | ResidentMemory | OptimizerMemory


def memory(bars: Mapping[str, Use], limit: int | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw stacked bars of memory by kind, side by side, and the device's limit.

    Parameters
    ----------
    bars : dict
        For each label what `Optimizer.memory` returned, which becomes a bar for the device and one
        for the host; or a dict of bytes on the device by kind, which becomes
        one bar. Kinds are ``parameters``, ``gradients``, ``moments``, ``master``, ``staging``
        and ``other`` (activations, data).
    limit : int, optional
        The device's memory in bytes: a line across the device's bars.
    ax : Axes, optional
        What to draw on; new axes, if left out.

    Returns
    -------
    Axes
        With bytes on y.

    Raises
    ------
    ValueError
        If there are no bars, or a kind is unknown.
    TypeError, ValueError
        If a number of bytes is no number, or negative or not finite.

    Examples
    --------
    >>> import adamoffload as ao
    >>> resident = ao.ResidentMemory(parameters=4096, gradients=4096, moments=8192)
    >>> offloaded = ao.OffloadMemory(parameters=4096, gradients=4096, ring=1024, moments=8192)
    >>> ax = ao.plots.memory({"Adam": resident, "AdamOffload": offloaded}, limit=12_000)
    >>> [round(bar.get_height()) for bar in ax.containers[0]]
    [4096, 4096]
    """
    if not isinstance(bars, Mapping):
        raise TypeError(
            f"memory: bars must be a mapping from label to memory, such as "
            f"{{'AdamOffload': optimizer.memory()}}, got {describe(bars)}"
        )
    if not bars:
        raise ValueError("memory: there is nothing to draw; pass at least one bar, by its label")
    top = 0.0 if limit is None else number("memory", "limit", limit, at_least=0)
    places = {label: _places(label, use) for label, use in bars.items()}
    stacks = [
        _Stack(label, place, kinds, x)
        for (label, there), xs in zip(places.items(), _positions(places), strict=True)
        for (place, kinds), x in zip(there.items(), xs, strict=True)
    ]
    top = max(top, *(stack.total for stack in stacks)) or 1.0
    with styled(ax, (max(8.0, 2.0 + 1.4 * len(stacks)), 4.8)) as ax:
        entries: list[tuple[Artist, str]] = []
        for kind in LABELS:
            having = [stack for stack in stacks if stack.kinds.get(kind)]
            if having:
                _draw_kind(ax, kind, having, top)
                entries.append((Patch(color=COLORS[kind]), LABELS[kind]))
        above = 3.5 * float(STYLE["font.size"]) / points(ax)[1]  # what stands above a bar
        ax.set_ylim(0, top / (1 - min(0.5, above)))
        if limit is not None:
            entries.append((_draw_limit(ax, stacks, limit), f"limit: {rounded(limit, 'B')}"))
        for stack in stacks:
            too_much = limit is not None and stack.place == "device" and stack.total > limit
            ax.annotate(
                rounded(stack.total, "B") + too_much * "\ntoo much",
                (stack.x, stack.total),
                (0, 4),
                textcoords="offset points",
                ha="center",
                fontweight="bold",
                color=COLORS["limit"] if too_much else "black",
            )
        _label_bars(ax, stacks)
        alone = all(stack.place == "device" for stack in stacks)
        ax.set_ylabel("device memory" if alone else "memory")
        ax.yaxis.set_major_formatter(BYTES)
        ax.grid(visible=False, axis="x")
        frame(ax, "What lies where, and what fits", entries=entries)
    return ax


class _Stack:
    """One bar."""

    __slots__ = ("kinds", "label", "place", "x")

    def __init__(self, label: str, place: str, kinds: Mapping[str, float], x: float) -> None:
        self.label, self.place, self.kinds, self.x = label, place, kinds, x

    @property
    def total(self) -> float:
        return sum(self.kinds.values())

    def below(self, kind: str) -> float:
        """Return where a kind begins."""
        before = list(LABELS)[: list(LABELS).index(kind)]
        return sum(self.kinds.get(other, 0.0) for other in before)


def _places(label: str, use: Use) -> dict[str, dict[str, float]]:
    """Return the bytes of a bar by place and kind."""
    if isinstance(use, Mapping):
        return {"device": _checked(label, use)}
    places: dict[str, dict[str, int]] = {}
    for held in use.holdings:
        kinds = places.setdefault("host" if held.place == "pinned" else held.place, {})
        kinds[held.kind] = kinds.get(held.kind, 0) + held.nbytes
    return {place: _checked(label, kinds) for place, kinds in places.items()}


def _checked(label: str, kinds: Mapping[str, Any]) -> dict[str, float]:
    for kind in kinds:
        if kind not in LABELS:
            raise ValueError(
                f"memory: kind {kind!r} of bar {label!r} is unknown; kinds are {', '.join(LABELS)}"
            )
    return {
        kind: number("memory", f"{kind} of bar {label!r}", n, at_least=0)
        for kind, n in kinds.items()
    }


def _positions(places: Mapping[str, Mapping[str, Any]]) -> list[list[float]]:
    """Return the bars' x: those of a label stand together."""
    result, x = [], 0.0
    for there in places.values():
        result.append([x + i * 0.9 for i in range(len(there))])
        x = result[-1][-1] + 1.4
    return result


def _draw_kind(ax: Axes, kind: str, stacks: list[_Stack], top: float) -> None:
    x = [stack.x for stack in stacks]
    heights = [stack.kinds[kind] for stack in stacks]
    bottoms = [stack.below(kind) for stack in stacks]
    color = COLORS[kind]
    ax.bar(x, heights, _WIDTH, bottoms, color=color, edgecolor="white", label=kind)
    least = 1.3 * float(STYLE["legend.fontsize"]) / points(ax)[1] * 1.2 * top
    for at, height, bottom in zip(x, heights, bottoms, strict=True):
        if height > least:  # else its number would not fit
            y, text = bottom + height / 2, rounded(height, "B")
            ax.text(at, y, text, ha="center", va="center", color=ink(color))


def _draw_limit(ax: Axes, stacks: list[_Stack], limit: int) -> Artist:
    on_device = [stack.x for stack in stacks if stack.place == "device"]
    reach = _WIDTH / 2 + 0.08
    style: dict[str, Any] = {"color": COLORS["limit"], "linestyle": "--", "linewidth": 2.2}
    starts, stops = [x - reach for x in on_device], [x + reach for x in on_device]
    ax.hlines([limit] * len(starts), starts, stops, label="limit", **style)
    return Line2D([], [], **style)


def _label_bars(ax: Axes, stacks: list[_Stack]) -> None:
    """Write places below the bars, and labels below the places."""
    groups: dict[str, list[float]] = {}
    for stack in stacks:
        groups.setdefault(stack.label, []).append(stack.x)
    ax.set_xlim(min(s.x for s in stacks) - 0.7, max(s.x for s in stacks) + 0.7)
    alone = len(groups) == len(stacks)  # a label has one place, which the axis names
    places = ["" if alone else stack.place for stack in stacks]
    ax.set_xticks([stack.x for stack in stacks], places)
    size = float(STYLE["font.size"])
    for label, xs in groups.items():
        lines = [shown_name(line, 32) for line in label.split("\n")]
        ax.annotate(
            "\n".join(lines),
            (sum(xs) / len(xs), 0),
            (0, -0.6 * size if alone else -2.0 * size),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            va="top",
            fontweight="bold",
            fontsize=size,
        )
    ax.tick_params(axis="x", length=0)


def memory_over_time(ledger: Ledger, place: str = "device", *, ax: Axes | None = None) -> Axes:
    """Draw the bytes in one place over time, stacked by kind, and the device's limit.

    Parameters
    ----------
    ledger : Ledger
        Where memory was sampled, at the begin and the end of each step.
    place : str
        ``"device"``, ``"pinned"``, ``"host"`` or ``"disk"``.
    ax : Axes, optional
        What to draw on; new axes, if left out.

    Returns
    -------
    Axes
        With seconds since the first sample on x and bytes on y. The numbers are those of
        `Ledger.memory`.

    Raises
    ------
    ValueError
        If nothing was recorded for the place.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("sim", memory_bytes=1 << 20)
    >>> w = ao.Parameter(device.asarray(np.zeros(1000, np.float32)), name="w")
    >>> ledger = ao.Ledger()
    >>> opt = ao.AdamOffload([w], ledger=ledger)
    >>> opt([device.asarray(np.ones(1000, np.float32))])
    (True,)
    >>> ao.plots.memory_over_time(ledger).get_title("left")
    'Memory of the device'
    """
    instance("memory_over_time", "ledger", ledger, Ledger)
    rows = ledger.memory()
    choice("memory_over_time", "place", place, _PLACES)
    rows = rows[rows["place"] == place]
    if not len(rows):
        raise ValueError(
            f"memory_over_time: the ledger has no samples of {place} memory; pass it to "
            f"AdamOffload(..., ledger=ledger) and take a step"
        )
    times, series = _by_time(rows)
    limit = ledger.memory_limit if place == "device" else None
    with styled(ax) as ax:
        areas = ax.stackplot(
            times - times[0],
            list(series.values()),
            labels=list(series),
            colors=[COLORS[kind] for kind in series],
            edgecolor="white",
            linewidth=0.6,
        )
        top = float(np.sum(list(series.values()), axis=0).max())
        entries: list[tuple[Artist, str]] = [
            (area, LABELS[kind])
            for area, kind in zip(areas, series, strict=True)
            if series[kind].max() > _VISIBLE * top
        ]
        if limit is not None:
            style: dict[str, Any] = {"color": COLORS["limit"], "linestyle": "--", "linewidth": 2.2}
            line = ax.axhline(limit, label="limit", **style)
            entries.append((line, f"limit: {rounded(limit, 'B')}"))
            top = max(top, limit)
        ax.set_ylim(0, 1.08 * top or 1.0)
        ax.set_xlim(0, float(times[-1] - times[0]) or 1.0)
        ax.set_xlabel("simulated time" if ledger.simulated else "time")
        ax.set_ylabel("memory")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_formatter(SECONDS)
        ax.yaxis.set_major_formatter(BYTES)
        frame(ax, f"Memory {_PLACES[place]}", entries=entries)
    return ax


_VISIBLE = 1 / 200  # of the height; what is thinner is not in the legend
_PLACES = {
    "device": "of the device",
    "pinned": "pinned on the host",
    "host": "of the host",
    "disk": "on the disk",
}


def _by_time(rows: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Return the times of the samples and, for each kind that is there, its bytes at them."""
    times, at = np.unique(rows["at_s"], return_inverse=True)
    series = {}
    for kind in LABELS:
        mine = rows["kind"] == kind
        if np.any(rows["nbytes"][mine]):
            series[kind] = np.zeros(len(times))
            series[kind][at[mine]] = rows["nbytes"][mine]  # of two at one time, the later
    return times, series
