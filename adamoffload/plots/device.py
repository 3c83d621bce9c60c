"""Figures of the device's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adamoffload.plots.style import BYTES, COLORS, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["memory"]


def memory(bars: dict[str, dict[str, int]], limit: int | None, ax: Axes | None = None) -> Axes:
    """Draw stacked bars of device memory, and the limit.

    Parameters
    ----------
    bars : dict from str to dict from str to int
        For each bar its label, and bytes by kind; a kind's colour is that of `COLORS`.
    limit : int or None
        The device's memory in bytes.
    """
    ax = axes_or_new(ax)
    kinds = list(dict.fromkeys(kind for parts in bars.values() for kind in parts))
    bottom = np.zeros(len(bars))
    for kind in kinds:
        heights = np.array([parts.get(kind, 0) for parts in bars.values()])
        ax.bar(list(bars), heights, 0.55, bottom, label=kind, color=COLORS[kind], edgecolor="white")
        for x, (height, base) in enumerate(zip(heights, bottom, strict=True)):
            if height > 0.06 * max(sum(parts.values()) for parts in bars.values()):
                ax.text(x, base + height / 2, BYTES(height), ha="center", va="center", fontsize=9)
        bottom += heights
    top = bottom.max()
    if limit is not None:
        ax.axhline(limit, color=COLORS["limit"], linestyle="--", label="device memory")
    ax.set(title="What fits on the device", ylabel="device memory", ylim=(0, 1.3 * top))
    ax.yaxis.set_major_formatter(BYTES)
    ax.grid(visible=False, axis="x")
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], loc="upper right", ncols=2)
    return ax
