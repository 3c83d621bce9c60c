"""Figures as SVG that stands inside a page: several of them, and nothing from elsewhere."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from adamoffload.plots.style import STYLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

__all__ = ["drawn", "inline_svg"]

_MANY = 400_000
"""Characters of a figure from which on its data become pixels."""

_DECIMALS = re.compile(r"(\.\d\d)\d+")
_REFERENCE = re.compile(r"#([^)\"]+)")


def drawn(
    draw: Callable[[Axes], object], size: tuple[float, float], prefix: str, label: str
) -> str:
    """Draw on new axes and return them as an ``<svg>`` element.

    Parameters
    ----------
    draw : callable
        Takes the axes; a function of `adamoffload.plots`, with everything but ``ax`` filled in.
    size : pair of float
        Width and height in inches.
    prefix : str
        What the element's ids begin with: another for each figure of a page.
    label : str
        What the figure shows, for who cannot see it.
    """
    # No figure of pyplot: a report leaves none open.
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # The reader's browser has letters that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        ax = figure.add_subplot()
        draw(ax)
        text = inline_svg(figure, prefix, label)
        if len(text) > _MANY:
            for artist in (*ax.lines, *ax.collections, *ax.patches):
                artist.set_rasterized(True)
            text = inline_svg(figure, prefix, label)
    return text


def inline_svg(figure: Figure, prefix: str, label: str) -> str:
    """Return a figure as an ``<svg>`` element for a page that may hold others.

    Text stays text, in the reader's font: it can be searched, and needs no outlines. Ids, which
    matplotlib counts anew in each figure and which would refer to each other's clips and markers,
    are kept where something refers to them, and begin with `prefix`.

    Parameters
    ----------
    figure : Figure
        What to draw.
    prefix : str
        What the element's ids begin with: another for each figure of a page.
    label : str
        What the figure shows, for who cannot see it.

    Returns
    -------
    str
        Without an XML declaration, comments or metadata; coordinates to a hundredth of a point.

    Examples
    --------
    >>> figure = Figure(figsize=(1, 1))
    >>> _ = figure.add_subplot()
    >>> text = inline_svg(figure, "a", "an <empty> box")
    >>> text[:26], "an &lt;empty&gt; box" in text, "http" in text
    ('<svg viewBox="0 0 72 72" w', True, False)
    """
    file = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.image_inline": True}):
        figure.savefig(file, format="svg", dpi=200, metadata={"Date": None})
    root = ET.fromstring(file.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    names = _names(root, prefix)
    for element in root.iter():
        element.tag = _local(element.tag)  # a page's parser knows that it is in an <svg>
        element.tail = None if element.tag not in ("tspan",) else element.tail
        element.attrib = {
            _local(key): _rewritten(_local(key), value, names)
            for key, value in element.attrib.items()
            if key != "id" or value in names
        }
    root.attrib = {
        "viewBox": root.get("viewBox", ""),
        "width": root.get("width", ""),
        "height": root.get("height", ""),
        "role": "img",
        "aria-label": label,
    }
    return ET.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """Return a tag or key without its namespace."""
    return name.rpartition("}")[2]


def _names(root: ET.Element, prefix: str) -> dict[str, str]:
    """Return a new id for each that something refers to."""
    used = {
        found
        for element in root.iter()
        for key, value in element.attrib.items()
        if _refers(_local(key), value)
        for found in _REFERENCE.findall(value)
    }
    ids = (element.get("id", "") for element in root.iter())
    return {old: f"{prefix}{i}" for i, old in enumerate(old for old in ids if old in used)}


def _refers(key: str, value: str) -> bool:
    return (key == "href" and value.startswith("#")) or "url(#" in value


def _rewritten(key: str, value: str, names: dict[str, str]) -> str:
    if key == "id":
        return names[value]
    if _refers(key, value):
        return _REFERENCE.sub(lambda found: f"#{names[found[1]]}", value)
    return _DECIMALS.sub(r"\1", value) if key == "d" else value
