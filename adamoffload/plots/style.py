"""How figures look: one colour for one concept, legible in print and from the last row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.ticker import EngFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "BYTES",
    "COLORS",
    "LABELS",
    "LINES",
    "MARKERS",
    "SECONDS",
    "STYLE",
    "ink",
    "lay_out",
    "rounded",
    "styled",
]

# Okabe and Ito's palette: told apart by the colour-blind, on a projector and in print.
# M. Okabe, K. Ito, "Color Universal Design", 2008, https://jfly.uni-koeln.de/color/
_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_YELLOW, _BLUE, _VERMILLION, _PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
_GREY, _PALE = "#D0D0D0", "#E4E4E4"

COLORS = {
    # who works
    "device": _SKY,
    "d2h": _BLUE,
    "host": _PURPLE,
    "h2d": _ORANGE,
    "read": _GREEN,
    "write": _YELLOW,
    "wait": _PALE,
    # what lies in memory
    "parameters": _SKY,
    "gradients": _BLUE,
    "moments": _PURPLE,
    "master": _GREEN,
    "staging": _YELLOW,
    "other": _GREY,
    "limit": _VERMILLION,
    # what the optimizer computes
    "m": _PURPLE,
    "sqrt_v": _GREEN,
    "step_size": _ORANGE,
    "rate": _GREEN,
    "lr": _BLACK,
    "expected": _BLACK,
    "not finite": _VERMILLION,
}
"""One colour for one concept, everywhere.

What is moved or kept has the colour of who moves or keeps it: parameters that of the device,
gradients that of d2h, moments that of the host, updates that of h2d.
"""

LABELS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "moments": "moments",
    "master": "master weights",
    "staging": "staging ring",
    "other": "activations, data",
}
"""What kinds of memory are called in a figure."""

LINES = (_BLUE, _VERMILLION, _GREEN, _PURPLE, _BLACK, _ORANGE, _SKY)
"""Colours of things that have none of their own, such as parameters."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""What tells lines apart beside their colours."""

STYLE: Any = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#333333",
    "axes.labelcolor": _BLACK,
    "text.color": _BLACK,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "xtick.labelcolor": _BLACK,
    "ytick.labelcolor": _BLACK,
    "font.size": 12,
    "axes.titlesize": 14,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.title_fontsize": 11,
    "figure.titlesize": 18,
    "figure.titleweight": "bold",
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 2.2,
    "lines.markersize": 6.0,
    "hatch.color": "#777777",
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "text.parse_math": True,
    "text.usetex": False,
}
"""For ``matplotlib.rc_context``. The font stays the user's, whose names need it."""

BYTES = EngFormatter(unit="B")
"""For axes: writes 5000000 as 5 MB."""

SECONDS = EngFormatter(unit="s")
"""For axes: writes 0.00025 as 250 µs."""


@contextmanager
def styled(ax: Axes | None, size: tuple[float, float] = (8.0, 4.8)) -> Iterator[Axes]:
    """Give axes to draw on, in our style, whatever the user's settings are.

    Parameters
    ----------
    ax : Axes or None
        What to draw on; nothing else of its figure is touched. None makes a new figure: of
        ``pyplot``, so that a notebook and ``plt.show`` show it.
    size : pair of float
        Width and height of a new figure, in inches.

    Yields
    ------
    Axes
        Inside the ``with``, everything that is drawn is drawn in `STYLE`.
    """
    with mpl.rc_context(STYLE):
        if ax is None:
            _, ax = plt.subplots(figsize=size, layout="constrained")
        _dress(ax)
        if not any(other.has_data() for other in ax.figure.axes):  # once: it takes 0.1 s
            lay_out(ax)
        yield ax


def rounded(value: float, unit: str) -> str:
    """Return a quantity in three digits, for a text.

    Examples
    --------
    >>> rounded(4 << 20, "B"), rounded(0.000061692, "s")
    ('4.19 MB', '61.7 µs')
    """
    return EngFormatter(unit=unit)(float(f"{value:.3g}"))


def ink(color: str) -> str:
    """Return black or white: what is legible on `color`.

    Examples
    --------
    >>> ink("#0072B2"), ink("#F0E442")
    ('white', 'black')
    """
    return "white" if (luminance(color) + 0.05) ** 2 < 0.05 * 1.05 else "black"


def luminance(color: str) -> float:
    """Return the relative luminance, from 0 (black) to 1 (white).

    References
    ----------
    Web Content Accessibility Guidelines 2.2, "relative luminance". W3C, 2023.
    """
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(color)]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


def lay_out(ax: Axes) -> None:
    """Give the axes the size that the figure's layout has for them: legends are made to fit it."""
    figure: Any = ax.figure.figure  # of a subfigure's axes, the whole one
    if engine := figure.get_layout_engine():
        engine.execute(figure)


def _dress(ax: Axes) -> None:
    """Do to axes made elsewhere what `STYLE` does to new ones."""
    ax.set_facecolor(STYLE["axes.facecolor"])
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(STYLE["axes.edgecolor"])
    ax.grid(visible=True, color=STYLE["grid.color"], linewidth=STYLE["grid.linewidth"])
    ax.tick_params(
        color=STYLE["xtick.color"],
        labelcolor=STYLE["xtick.labelcolor"],
        labelsize=STYLE["xtick.labelsize"],
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(color=STYLE["axes.labelcolor"], fontsize=STYLE["axes.labelsize"])
