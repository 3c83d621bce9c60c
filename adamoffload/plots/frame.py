"""What stands around the data: title, notes, legend, names; and axes that suit what is drawn.

Legend and notes stand above the axes, so they cover no data. How much room they need is estimated
from their letters: no figure has to be rendered twice.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from adamoffload.plots.style import COLORS, STYLE

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["frame", "gaps", "log_axis", "points", "shown_name", "step_axis", "text_points"]

_EM = 0.57  # mean width of a letter of DejaVu Sans, over its size
_ROW = 1.45  # height of a row of text, over its size
_DECADES = 6


def shown_name(name: str, length: int = 20) -> str:
    r"""Return a name as a figure shows it: in one line, short, and no mathematics.

    Examples
    --------
    >>> shown_name("encoder.layers.11.attention.self.query.weight")
    'encoder.la…ry.weight'
    >>> print(shown_name("cost in $\n"))
    cost in \$\n
    """
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
    if len(printable) > length:
        half = length // 2
        printable = f"{printable[:half]}…{printable[half + 1 - length :]}"
    if printable.startswith("_"):  # matplotlib 3.8 leaves such a label out of a legend
        printable = f" {printable}"
    return printable.replace("$", r"\$")


def points(ax: Axes) -> tuple[float, float]:
    """Return width and height of the axes in points."""
    figure: Any = ax.figure
    return ax.bbox.width / figure.dpi * 72, ax.bbox.height / figure.dpi * 72


def text_points(text: str, size: float) -> float:
    """Return about how wide a line of text is, in points."""
    return _EM * size * len(text)


def frame(
    ax: Axes,
    title: str,
    *,
    notes: Sequence[str] = (),
    entries: Sequence[tuple[Artist | tuple[Artist, ...], str]] = (),
) -> None:
    """Write title, notes and legend above the axes.

    Parameters
    ----------
    ax : Axes
        Whose they are.
    title : str
        What is seen.
    notes : sequence of str
        What one must know to read it; joined, and wrapped to the width of the axes.
    entries : sequence of (artist, label)
        The legend, in this order.
    """
    size = float(STYLE["legend.fontsize"])
    width, _ = points(ax)
    above = 4.0
    if entries:
        handles, labels = [handle for handle, _ in entries], [label for _, label in entries]
        columns = _columns([text_points(label, size) + 3.8 * size for label in labels], width)
        ax.legend(
            handles,
            labels,
            ncols=columns,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0.3,
            borderpad=0.1,
            labelspacing=0.3,
            handlelength=2.0,
            handletextpad=0.6,
            columnspacing=1.2,
            alignment="left",
        )
        above += -(-len(entries) // columns) * _ROW * size
    if notes:
        wrapped = textwrap.wrap("; ".join(notes), max(20, int(width / (_EM * size))))
        ax.annotate(
            "\n".join(wrapped),
            (0, 1),
            (0, above),
            xycoords="axes fraction",
            textcoords="offset points",
            va="bottom",
            fontsize=size,
            color="#444444",
            annotation_clip=False,
        )
        above += len(wrapped) * _ROW * size
    letters = max(20, int(width / (_EM * 1.1 * float(STYLE["axes.titlesize"]))))  # bold ones
    ax.set_title("\n".join(textwrap.wrap(title, letters)), loc="left", pad=above + 2)


def _columns(widths: Sequence[float], room: float) -> int:
    """Return in how many columns entries fit; a legend fills one column after the other."""
    fitting = (
        columns
        for rows in range(1, len(widths))
        for columns in [-(-len(widths) // rows)]
        if sum(column.max() for column in np.array_split(widths, columns)) <= room
    )
    return next(fitting, 1)


def step_axis(ax: Axes, steps: np.ndarray[Any, Any]) -> None:
    """Let x be steps: whole numbers, also where there is only one."""
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(steps) and steps.min() == steps.max():
        ax.set_xlim(steps.min() - 1, steps.max() + 1)
        ax.set_xticks([steps.min()])


def log_axis(ax: Axes, *values: np.ndarray[Any, Any]) -> None:
    """Let y be logarithmic if anything is above zero; show at most six decades.

    Parameters
    ----------
    ax : Axes
        Whose y axis.
    values : ndarray
        What is drawn; what is not positive cannot be shown and is clipped at the bottom.
    """
    flat = np.concatenate([np.ravel(v) for v in values])
    positive = flat[np.isfinite(flat) & (flat > 0)]
    if not positive.size:
        ax.set_ylim(0, 1)
        return
    high = float(positive.max())
    low = max(float(positive.min()), high / 10**_DECADES)
    margin = max((high / low) ** 0.05, (10 * low / high) ** 0.5)  # show a decade at least
    ax.set_yscale("log")
    ax.set_ylim(low / margin, high * margin)
    if high / low < 100:  # label what lies between the decades, too
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def gaps(
    ax: Axes, steps: np.ndarray[Any, Any], *values: np.ndarray[Any, Any]
) -> tuple[list[np.ndarray[Any, Any]], list[str]]:
    """Return the values with NaN for what is not finite; mark the steps where that was so.

    Parameters
    ----------
    ax : Axes
        Where to mark them: crosses, along the top for what is infinite, else along the bottom.
    steps : ndarray, shape (samples,)
        The x of the values.
    values : ndarray, shape (samples,) or (samples, k)
        The series.

    Returns
    -------
    values : list of ndarray
        Copies; lines and bands have gaps where they are NaN.
    notes : list of str
        How many samples there were, or nothing.
    """
    clean = [np.where(np.isfinite(v), v, np.nan) for v in values]
    bad = [~np.isfinite(v).reshape(len(steps), -1).all(axis=1) for v in values]
    count = sum(int(b.sum()) for b in bad)
    if not count:
        return clean, []
    at = np.any(bad, axis=0)
    lost = np.any(
        [(np.isnan(v) | (v == -np.inf)).reshape(len(steps), -1).any(1) for v in values], 0
    )
    ax.plot(
        steps[at],
        np.where(lost, 0.02, 0.98)[at],
        "x",
        color=COLORS["not finite"],
        transform=ax.get_xaxis_transform(),
        clip_on=False,
        label="not finite",
    )
    samples = "sample holds" if count == 1 else "samples hold"
    return clean, [f"{count:,} {samples} NaN or infinities (crosses)"]
