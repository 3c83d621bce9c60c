"""How figures look: one colour for one concept, legible in print and from the last row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BYTES", "COLORS", "LINES", "STYLE", "axes_or_new"]

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

BYTES = EngFormatter(unit="B", places=1)
"""Writes 4194304 as 4.2 MB."""


def axes_or_new(ax: Axes | None) -> Axes:
    """Return `ax`, or the axes of a new figure."""
    return Figure(layout="constrained").add_subplot() if ax is None else ax
