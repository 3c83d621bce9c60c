"""The playground on one page: paths, losses, and every setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np

from adamoffload.plots.frame import frame, log_axis, step_axis
from adamoffload.plots.style import STYLE, styled
from adamoffload.plots.surface import common, draw_paths, every, explain_symbols, looks, notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    from adamoffload.playground.trajectory import Trajectory

__all__ = ["DrawnPath", "Scene", "descent", "playground", "scene"]


def descent(trajectories: Sequence[Trajectory], *, ax: Axes | None = None) -> Axes:
    """Draw the loss above the surface's minimum over the steps, on a log axis.

    It is the loss at the parameters, without noise; the legend has its last value.

    Parameters
    ----------
    trajectories : sequence of Trajectory
        Of one surface.
    ax : Axes, optional
        What to draw on; a new figure's if left out.

    Returns
    -------
    Axes
        Its lines that have a label are the losses, in the order of `trajectories`.

    Raises
    ------
    ValueError
        If there are no trajectories, or they are of several surfaces.
    """
    surface = common(trajectories)
    with styled(ax) as ax:
        curves = _draw_curves(ax, trajectories)
        entries = [(curve, _result(one)) for curve, one in zip(curves, trajectories, strict=True)]
        frame(ax, f"{surface.title}: loss", entries=entries)
        return ax


def playground(
    trajectories: Sequence[Trajectory],
    *,
    ellipses: Sequence[int] = (1, 10, 100),
    panels: bool = False,
) -> Figure:
    """Draw paths and losses side by side, with all settings.

    Parameters
    ----------
    trajectories : sequence of Trajectory
        Of one surface.
    ellipses : sequence of int
        See `trajectory`.
    panels : bool
        Give each path a panel of its own.

    Returns
    -------
    Figure
        Its last axes have the losses, the others the paths.

    Raises
    ------
    ValueError
        If there are no trajectories, they are of several surfaces, or a step is below 1.
    """
    return scene(trajectories, ellipses, panels).figure


class DrawnPath(NamedTuple):
    """A trajectory and the artists that show it.

    Attributes
    ----------
    one : Trajectory
        What is shown.
    points : ndarray, shape (k, 2)
        Its path, as far as it is drawn.
    path, end, curve : Line2D
        The path, the marker at its end, and the loss.
    """

    one: Trajectory
    points: np.ndarray[Any, Any]
    path: Line2D
    end: Line2D
    curve: Line2D


class Scene(NamedTuple):
    """A figure of the playground, its title and what is drawn of each trajectory."""

    figure: Figure
    title: Text
    drawn: list[DrawnPath]


def scene(
    trajectories: Sequence[Trajectory], ellipses: Sequence[int] | None, panels: bool
) -> Scene:
    """Draw what `playground` draws; return the artists that an animation moves, too.

    If `ellipses` is None, the legend speaks of those that the animation will add.
    """
    surface = common(trajectories)
    with mpl.rc_context(STYLE):
        import matplotlib.pyplot as plt

        count = len(trajectories) if panels else 1
        columns = min(3, count + 1)
        rows = -(-(count + 1) // columns)
        figure = plt.figure(figsize=(6.6 * columns, 6.3 * rows + 1), layout="constrained")
        grid = figure.add_gridspec(rows, columns)
        cells = [divmod(i, columns) for i in range(count + 1)]
        shares = [[one] for one in trajectories] if panels else [list(trajectories)]
        all_looks = looks()
        paths: list[tuple[np.ndarray[Any, Any], Line2D, Line2D]] = []
        for cell, share in zip(cells, shares, strict=False):
            with styled(figure.add_subplot(grid[cell])) as ax:
                paths += draw_paths(ax, share, all_looks, ellipses or ())
                explain_symbols(ax, ellipses)
                frame(ax, share[0].contestant.label if panels else "Paths")
        row, column = cells[-1]
        with styled(figure.add_subplot(grid[row, column:])) as ax:
            curves = _draw_curves(ax, trajectories)
            results = [(c, _result(one)) for c, one in zip(curves, trajectories, strict=True)]
            frame(ax, "Loss over the steps", entries=results)
        where = {"x": 0.01, "ha": "left"}
        title = figure.suptitle(surface.title, fontweight="bold", **where)
        stated = _wrapped(notes(trajectories, ellipses), 62 * columns)
        figure.supxlabel(stated, fontsize=STYLE["legend.fontsize"], **where)
        drawn = [
            DrawnPath(one, *path, curve)
            for one, path, curve in zip(trajectories, paths, curves, strict=True)
        ]
        return Scene(figure, title, drawn)


def _draw_curves(ax: Axes, trajectories: Sequence[Trajectory]) -> list[Line2D]:
    curves = []
    for one, look in zip(trajectories, looks(), strict=False):
        (curve,) = ax.plot(
            np.arange(one.steps + 1),
            np.where(one.excess > 0, one.excess, np.nan),  # a log axis has no zero
            label=one.contestant.label,
            markevery=every(one),
            **look,
        )
        curves.append(curve)
        if one.diverged_at is not None:
            ax.axvline(one.diverged_at, color=look["color"], linestyle=":", linewidth=1.2)
    step_axis(ax, np.arange(max(one.steps for one in trajectories) + 1))
    ax.set_ylabel("loss above the minimum")
    ceiling = 1e3 * float(trajectories[0].excess[0])  # who diverges would flatten the others
    log_axis(ax, *(one.excess[one.excess <= ceiling] for one in trajectories))
    return curves


def _wrapped(notes: Sequence[str], width: int) -> str:
    """Join notes into lines of at most about `width` letters, none broken."""
    lines = [""]
    for note in notes:
        if lines[-1] and len(lines[-1]) + len(note) > width:
            lines.append("")
        lines[-1] += f"; {note}" if lines[-1] else note
    return "\n".join(lines)


def _result(one: Trajectory) -> str:
    return f"{one.contestant.label}: {one.outcome}"
