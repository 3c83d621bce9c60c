"""Figures of what was recorded: memory, moments, step sizes, bytes moved.

Each function draws on ``ax``, or on new axes, and returns them. Everything drawn was measured; the
numbers are those of the `Ledger` and the `Probe`. The only module that imports matplotlib, and
nothing of the framework imports it except the commands that draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from adamoffload.ledger import Ledger
from adamoffload.probes import Probe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLORS", "LINES", "STYLE", "memory", "moments", "step_sizes", "transfers"]

# Okabe and Ito's palette: told apart by the colour-blind, on a projector and in print.
COLORS = {
    "d2h": "#0072B2",
    "h2d": "#E69F00",
    "parameters": "#56B4E9",
    "gradients": "#009E73",
    "moments": "#CC79A7",
    "staging ring": "#F0E442",
    "activations, data": "#BBBBBB",
    "limit": "#D55E00",
}
"""One colour for one concept, everywhere."""

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of things that have none of their own, such as parameters."""

STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.dpi": 110,
}
"""For ``matplotlib.rc_context``."""

_BYTES = EngFormatter(unit="B", places=1)


def memory(bars: dict[str, dict[str, int]], limit: int | None, ax: Axes | None = None) -> Axes:
    """Draw stacked bars of device memory, and the limit.

    Parameters
    ----------
    bars : dict from str to dict from str to int
        For each bar its label, and bytes by kind; a kind's colour is that of `COLORS`.
    limit : int or None
        The device's memory in bytes.
    """
    ax = _axes(ax)
    kinds = list(dict.fromkeys(kind for parts in bars.values() for kind in parts))
    bottom = np.zeros(len(bars))
    for kind in kinds:
        heights = np.array([parts.get(kind, 0) for parts in bars.values()])
        ax.bar(list(bars), heights, 0.55, bottom, label=kind, color=COLORS[kind], edgecolor="white")
        for x, (height, base) in enumerate(zip(heights, bottom, strict=True)):
            if height > 0.06 * max(sum(parts.values()) for parts in bars.values()):
                ax.text(x, base + height / 2, _BYTES(height), ha="center", va="center", fontsize=9)
        bottom += heights
    top = bottom.max()
    if limit is not None:
        ax.axhline(limit, color=COLORS["limit"], linestyle="--", label="device memory")
    ax.set(title="What fits on the device", ylabel="device memory", ylim=(0, 1.3 * top))
    ax.yaxis.set_major_formatter(_BYTES)
    ax.grid(visible=False, axis="x")
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], loc="upper right", ncols=2)
    return ax


def moments(probe: Probe, names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw the RMS of m (solid) and sqrt(v) (dashed) of some parameters over the steps."""
    ax = _axes(ax)
    for name, color in zip(names or probe.names, LINES, strict=False):
        ax.plot(probe.steps, probe.rms("m", name), color=color, label=name)
        ax.plot(probe.steps, probe.rms("sqrt_v", name), color=color, linestyle="--")
    ax.plot([], [], color="#555555", label="m")
    ax.plot([], [], color="#555555", linestyle="--", label=r"$\sqrt{v}$")
    ax.set(title="Moments, on the host", xlabel="step", ylabel="RMS (loss / unit of weight)")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend above the curves
    ax.legend(loc="upper right", ncols=2)
    return ax


def step_sizes(probe: Probe, names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw the RMS of the updates of some parameters over the steps."""
    ax = _axes(ax)
    for name, color in zip(names or probe.names, LINES, strict=False):
        ax.plot(probe.steps, probe.rms("delta", name), color=color, label=name)
    ax.set(title="Step sizes", xlabel="step", ylabel="RMS of the update (unit of weight)")
    ax.set_yscale("log")
    ax.legend()
    return ax


def transfers(ledger: Ledger, expected_per_step: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the bytes that have crossed the link, by direction, over the steps.

    Parameters
    ----------
    ledger : Ledger
        The record.
    expected_per_step : int, optional
        Bytes that each direction should move in a step: drawn for comparison.
    """
    ax = _axes(ax)
    events = [(e.step, e.hop, e.nbytes) for e in ledger.events if e.step is not None and e.nbytes]
    last = max((step for step, _, _ in events), default=0)
    steps = np.arange(1, last + 1)
    widths = {"d2h": 5.0, "h2d": 2.0}  # they move the same: the wider lies below
    for hop, width in widths.items():
        moved = np.zeros(last + 1)
        np.add.at(
            moved,
            [step for step, moved_by, _ in events if moved_by == hop],
            [nbytes for _, moved_by, nbytes in events if moved_by == hop],
        )
        label = {"d2h": "d2h: gradients", "h2d": "h2d: updates"}[hop]
        ax.plot(steps, np.cumsum(moved[1:]), color=COLORS[hop], linewidth=width, label=label)
    if expected_per_step is not None:
        ax.plot(
            steps,
            expected_per_step * steps,
            color="black",
            linestyle=":",
            linewidth=1.2,
            label="4 B x parameters x steps",
        )
    ax.set(title="Bytes moved", xlabel="step", ylabel="over the link, in all")
    ax.yaxis.set_major_formatter(_BYTES)
    ax.legend()
    return ax


def _axes(ax: Axes | None) -> Axes:
    return Figure(layout="constrained").add_subplot() if ax is None else ax
