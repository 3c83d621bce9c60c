"""Paths of optimizers on the surface they descend, and the shape of Adam's rates there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from adamoffload.arguments import instance
from adamoffload.playground.descent import OPTIMIZERS
from adamoffload.playground.surfaces import Surface
from adamoffload.playground.trajectory import Trajectory
from adamoffload.plots.frame import frame
from adamoffload.plots.style import LINES, MARKERS, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "common",
    "draw_paths",
    "ellipse",
    "every",
    "explain_symbols",
    "looks",
    "notes",
    "reshape",
    "trajectory",
]

# From white, where the loss is lowest, to a grey that a path of any colour stands out from.
_QUIET = LinearSegmentedColormap.from_list("quiet", ["#FFFFFF", "#B4BCC6"])
_GRID = 201
_ELLIPSE = 0.05
"""The larger semi-axis of an ellipse, in widths of the window."""


def trajectory(
    trajectories: Sequence[Trajectory],
    *,
    ellipses: Sequence[int] = (1, 10, 100),
    ax: Axes | None = None,
) -> Axes:
    r"""Draw paths on the surface they descended, with its minima.

    Parameters
    ----------
    trajectories : sequence of Trajectory
        Of one surface, from `adamoffload.playground.run`.
    ellipses : sequence of int
        The steps, counted from 1, at whose beginning an ellipse is drawn for each optimizer with a
        second moment. Its semi-axes are in proportion to ``Trajectory.rate``,
        :math:`\alpha_t / (\sqrt{v_t} + \epsilon)`: how far the same first moment would move each
        coordinate. A circle goes where gradient descent would; a flat ellipse holds one coordinate
        back. All are drawn in one size: only the shape counts.
    ax : Axes, optional
        What to draw on; a new figure's if left out.

    Returns
    -------
    Axes
        Its lines that have a label are the paths, in the order of `trajectories`.

    Raises
    ------
    ValueError
        If there are no trajectories, they are of several surfaces, or a step is below 1.
    """
    surface = common(trajectories)
    with styled(ax, (8.0, 8.6)) as ax:
        paths = draw_paths(ax, trajectories, looks(), ellipses)
        explain_symbols(ax, ellipses)
        entries = [(line, str(line.get_label())) for _, line, _ in paths]
        frame(ax, f"{surface.title}: paths", notes=notes(trajectories, ellipses), entries=entries)
        return ax


# -- the parts ------------------------------------------------------------------------------------


def ellipse(one: Trajectory, step: int, width: float, color: str) -> Ellipse:
    """Return the ellipse of one step's rates, where the step begins.

    Parameters
    ----------
    one : Trajectory
        Whose.
    step : int
        Which step, counted from 1.
    width : float
        The window's width; the larger semi-axis is a fixed share of it.
    color : str
        Of the outline.
    """
    found = Ellipse((0.0, 0.0), 1.0, 1.0, fill=False, edgecolor=color, linewidth=1.6, zorder=4)
    reshape(found, one, step, width)
    return found


def reshape(patch: Ellipse, one: Trajectory, step: int, width: float) -> None:
    """Move an ellipse to the beginning of a step, and give it the shape of its rates."""
    rate = one.rate[step - 1].astype(np.float64)
    largest = rate.max()
    shape = rate / largest if 0 < largest < math.inf else np.zeros(2)
    patch.set_center(tuple(one.points[step - 1].tolist()))
    patch.set_width(2 * _ELLIPSE * width * shape[0])
    patch.set_height(2 * _ELLIPSE * width * shape[1])


def draw_paths(
    ax: Axes,
    trajectories: Sequence[Trajectory],
    looks: Iterator[dict[str, Any]],
    ellipses: Sequence[int],
) -> list[tuple[np.ndarray[Any, Any], Line2D, Line2D]]:
    """Draw the surface and the paths; return for each what is drawn, its line and its end."""
    if any(step < 1 for step in ellipses):
        raise ValueError(f"trajectory: steps are counted from 1, ellipses has {min(ellipses)}")
    surface, start = trajectories[0].surface, trajectories[0].points[0]
    left, right, bottom, top = _window(surface, start)
    _draw_surface(ax, surface, (left, right, bottom, top))
    drawn = []
    for one, look in zip(trajectories, looks, strict=False):
        path = _followed(one, (left, right, bottom, top))
        (line,) = ax.plot(*path.T, label=one.contestant.label, zorder=3, **look)
        line.set_markevery(every(one))
        (end,) = ax.plot(*path[-1], "X", ms=11, color=look["color"], mec="white", zorder=6)
        end.set_visible(one.diverged_at is None)
        drawn.append((path, line, end))
        for step in ellipses:
            if "eps" in one.contestant.options and step < len(path):
                ax.add_patch(ellipse(one, step, right - left, look["color"]))
    ax.plot(*zip(*surface.minima, strict=True), "*", ms=16, color="white", mec="black", zorder=5)
    ax.plot(*start, "o", ms=9, color="white", mec="black", mew=1.6, zorder=6)
    ax.set(xlim=(left, right), ylim=(bottom, top), xlabel="parameter x", ylabel="parameter y")
    ax.set_aspect("equal")
    ax.grid(visible=False)
    return drawn


def _draw_surface(ax: Axes, surface: Surface, window: tuple[float, float, float, float]) -> None:
    left, right, bottom, top = window
    x, y = np.linspace(left, right, _GRID), np.linspace(bottom, top, _GRID)
    height = np.maximum(surface(x[None, :], y[:, None]) - surface.lowest, 0)
    levels = _levels(height)
    norm = LogNorm(levels[0], levels[-1])
    height = np.maximum(height, levels[0])  # a logarithm has no zero
    ax.contourf(x, y, height, levels, cmap=_QUIET, norm=norm, zorder=0)
    ax.contour(x, y, height, levels[1:], colors="#8A939E", linewidths=0.6, zorder=1)


def _levels(height: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return about six to twenty levels in equal ratios, over five decades at most."""
    low, high = np.log10(np.quantile(height, 0.005)), np.log10(height.max())
    low = max(low, high - 5)
    step = next((step for step in (0.5, 0.25) if high - low >= 6 * step), 0.125)
    levels: np.ndarray[Any, Any] = 10 ** np.arange(
        step * math.floor(low / step), step * math.ceil(high / step) + step / 2, step
    )
    return levels


def explain_symbols(ax: Axes, ellipses: Sequence[int] | None) -> None:
    """Add a legend of what is no line, below the axes."""
    look: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "black", "color": "white"}
    grey: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "#555555"}
    symbols = {
        "start": Line2D([], [], marker="o", markersize=9, markeredgewidth=1.6, **look),
        "end": Line2D([], [], marker="X", markersize=10, color="#555555", **grey),
        "minimum": Line2D([], [], marker="*", markersize=14, **look),
    }
    if ellipses is None or ellipses:
        steps = f", step {', '.join(map(str, ellipses))}" if ellipses else ""
        ring = Line2D([], [], marker="o", markersize=12, markerfacecolor="none", **grey)
        symbols[f"rates{steps}"] = ring
    legend = Legend(
        ax,
        list(symbols.values()),
        list(symbols),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.11),
        ncols=len(symbols),
        handletextpad=0.1,
        columnspacing=1.2,
    )
    ax.add_artist(legend)
    legend.set_clip_on(False)  # or the layout leaves no room for it


def notes(trajectories: Sequence[Trajectory], ellipses: Sequence[int] | None) -> list[str]:
    """State every setting that the labels do not, and how to read the figure."""
    first = trajectories[0]
    x, y = first.points[0]
    noise = f"noise {first.noise:g} on gradients, seed {first.seed} for all"
    stated = [
        f"{max(one.steps for one in trajectories)} steps from ({x:.4g}, {y:.4g}), "
        f"{noise if first.noise else 'exact gradients'}"
    ]
    tried = dict.fromkeys(one.contestant.optimizer for one in trajectories if one.tried)
    if tried:
        rates = next(one.tried for one in trajectories if one.tried)
        stated.append(
            f"lr of {', '.join(tried)}: best of {len(rates)} from {rates[0]:g} to {rates[-1]:g}, "
            f"by the mean loss of the last tenth"
        )
    shared: dict[str, list[str]] = {}
    for name in dict.fromkeys(one.contestant.optimizer for one in trajectories):
        settings = ", ".join(f"{k}={v:g}" for k, v in OPTIMIZERS[name].options.items())
        shared.setdefault(settings, []).append(name)
    stated += [f"{', '.join(names)}: {text} by default" for text, names in shared.items() if text]
    stated.append(f"a marker every {every(first)} steps, contours of equal ratio")
    if ellipses is None or ellipses:
        stated.append(r"ellipse: shape of Adam's rates in x and y, $lr_t / (\sqrt{v} + eps)$")
    return stated


MOST = len(LINES) * len(MARKERS)
"""How many paths can be told apart."""


def looks() -> Iterator[dict[str, Any]]:
    """Yield colours and markers; after 7 contestants, their pairings are new ones."""
    for i in range(MOST):
        yield {
            "color": LINES[i % len(LINES)],
            "marker": MARKERS[(i + i // len(LINES)) % len(MARKERS)],
            "linewidth": 1.9,
            "markersize": 6.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.8,
        }


def every(one: Trajectory) -> int:
    """Return after how many steps a marker comes."""
    return max(1, one.steps // 20)


def _followed(one: Trajectory, window: tuple[float, float, float, float]) -> np.ndarray[Any, Any]:
    """Return the points of the path to draw: who diverges is not followed out of the window."""
    if one.diverged_at is None:
        return one.points
    left, right, bottom, top = window
    x, y = one.points.T
    outside = ~((left <= x) & (x <= right) & (bottom <= y) & (y <= top))
    return one.points[: int(np.argmax([*outside, True])) + 1]


def _window(surface: Surface, start: np.ndarray[Any, Any]) -> tuple[float, float, float, float]:
    """Return the surface's window, widened if the start is not well inside."""
    left, right, bottom, top = surface.window
    x, y = map(float, start)
    pad = 0.05 * max(right - left, top - bottom, abs(x - left), abs(y - bottom))
    return min(left, x - pad), max(right, x + pad), min(bottom, y - pad), max(top, y + pad)


def common(trajectories: Sequence[Trajectory]) -> Surface:
    """Return the surface of all trajectories, or raise `ValueError` or `TypeError`."""
    for one in trajectories or ():
        instance("trajectory", "each of trajectories", one, Trajectory)
    if not trajectories:
        raise ValueError("trajectory: expected at least one trajectory; see playground.run")
    if len(trajectories) > MOST:
        raise ValueError(
            f"trajectory: at most {MOST} paths can be told apart, got {len(trajectories)}"
        )
    surfaces = {one.surface.name: one.surface for one in trajectories}
    if len(surfaces) > 1:
        raise ValueError(
            f"trajectory: expected trajectories of one surface, got {', '.join(surfaces)}; draw "
            f"them one by one"
        )
    return trajectories[0].surface
