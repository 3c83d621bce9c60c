"""Figures as SVG that stands inside a page: several of them, and nothing from elsewhere."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from html import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adamoffload.plots.style import STYLE

__all__ = ["drawn", "inline_svg"]

_MANY = 600_000
"""Characters of a figure from which on its data become pixels."""


def drawn(draw: Callable[[Axes], object], size: tuple[float, float], salt: str, label: str) -> str:
    """Draw on new axes of `size` inches, and return them as `inline_svg` does."""
    # No figure of pyplot: a report leaves none open.
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # The reader's browser has letters that Matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        ax = figure.add_subplot()
        draw(ax)
        text = inline_svg(figure, salt, label)
        if len(text) > _MANY:
            for artist in (*ax.lines, *ax.collections, *ax.patches):
                artist.set_rasterized(True)
            text = inline_svg(figure, salt, label)
    return text


def inline_svg(figure: Figure, salt: str, label: str) -> str:
    """Return a figure as an ``<svg>`` element for a page that may hold others.

    Text stays text, in the reader's font: it can be searched.

    Parameters
    ----------
    figure : Figure
        What to draw.
    salt : str
        Makes ids of this figure: another for each of a page.
    label : str
        What the figure shows, for those who cannot see it.

    Examples
    --------
    >>> figure = Figure(figsize=(1, 1))
    >>> _ = figure.add_subplot()
    >>> text = inline_svg(figure, "a", "an <empty> box")
    >>> text[:46], "http" in text
    ('<svg role="img" aria-label="an &lt;empty&gt; b', False)
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(file, format="svg", dpi=200, metadata=nothing)
    text = file.getvalue()[file.getvalue().index("<svg") :]
    text = re.sub(r' xmlns[:a-z]*="[^"]*"', "", text, count=2)  # the root's: HTML knows them
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # counted anew in each figure, and used by none
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
