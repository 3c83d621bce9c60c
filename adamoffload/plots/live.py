"""`LiveFigure`: curves that grow while something trains, in a notebook or in a window."""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable, Collection
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib as mpl
import numpy as np

from adamoffload.arguments import number
from adamoffload.plots.frame import frame, step_axis
from adamoffload.plots.style import LINES, STYLE, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LiveFigure"]

_SHARE = 10
"""At least this many times as long as drawing takes passes until the next drawing."""


class Screen(Protocol):
    """Where a figure is seen."""

    def show(self, figure: Figure) -> None:
        """Show the figure as it is now."""


class LiveFigure:
    """A figure that shows numbers over the steps, a panel for each, while they come in.

    In a notebook the picture under the cell is replaced; with an interactive backend of matplotlib
    a window is kept up to date, and closing it stops nothing; anywhere else nothing is shown, and
    `figure` can be saved. Artists are moved, not made anew, and drawing takes a tenth of the time
    at most.

    Parameters
    ----------
    *names : str
        What is shown, such as ``"loss"``.
    log : collection of str
        Which of them on a log axis.
    interval_s : float
        Seconds between two drawings at least.
    clock : callable, optional
        Seconds, as from `time.perf_counter`.

    Raises
    ------
    TypeError, ValueError
        If there are no names, one comes twice, `log` has another, or `interval_s` is negative.

    Examples
    --------
    >>> with LiveFigure("loss", log=["loss"]) as live:
    ...     for step in range(1, 4):
    ...         live.update(step, loss=0.5**step)
    >>> live.values("loss")
    (array([1., 2., 3.]), array([0.5  , 0.25 , 0.125]))
    """

    def __init__(
        self,
        *names: str,
        log: Collection[str] = (),
        interval_s: float = 0.5,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not names or len({*names}) < len(names):
            raise ValueError(f"LiveFigure: expected different names to show, got {names}")
        unknown = [name for name in log if name not in names]
        if unknown:
            raise ValueError(f"LiveFigure: log has {unknown[0]!r}, which is not among {names}")
        self._interval_s = number("LiveFigure", "interval_s", interval_s, at_least=0)
        self._clock = clock
        self._next_s = clock()
        self._points: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        columns = min(3, len(names))
        rows = -(-len(names) // columns)
        self._figure, self._screen = _new_figure((5.2 * columns, 3.9 * rows))
        self._lines = {}
        for i, name in enumerate(names):
            with styled(self._figure.add_subplot(rows, columns, i + 1)) as ax:
                (self._lines[name],) = ax.plot([], [], color=LINES[i % len(LINES)])
                step_axis(ax, np.zeros(0))
                if name in log:
                    ax.set_yscale("log")
                frame(ax, name)

    @property
    def figure(self) -> Figure:
        """The figure, to be saved or added to."""
        return self._figure

    def values(self, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return steps and values of a curve: two arrays, shape (n,), float64.

        Raises
        ------
        ValueError
            If there is no such curve.
        """
        if name not in self._points:
            raise ValueError(f"LiveFigure: no {name!r}; there are: {', '.join(self._points)}")
        points = np.array(self._points[name], np.float64).reshape(-1, 2)
        return points[:, 0], points[:, 1]

    def update(self, step: float, **values: Any) -> None:
        """Add numbers of a step, and draw if it is time.

        Parameters
        ----------
        step : float
            The x of what follows.
        **values : float
            By name; arrays of one element, also on a device, are read at once. NaN and infinity
            are gaps in the curve.

        Raises
        ------
        ValueError
            For a name that was not given to the constructor.
        """
        for name, value in values.items():
            if name not in self._points:
                raise ValueError(
                    f"LiveFigure: {name!r} was not announced; there are: {', '.join(self._points)}"
                )
            self._points[name].append((float(step), float(value)))
        now = self._clock()
        if now >= self._next_s:
            self.draw()
            self._next_s = now + max(self._interval_s, _SHARE * (self._clock() - now))

    def draw(self) -> None:
        """Bring the figure up to date, and show it."""
        for name, line in self._lines.items():
            steps, values = self.values(name)
            line.set_data(steps, np.where(np.isfinite(values), values, math.nan))
            ax: Any = line.axes
            ax.relim()
            ax.autoscale_view()
        with mpl.rc_context(STYLE):
            self._screen.show(self._figure)

    def __enter__(self) -> LiveFigure:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Draw what came last, also if the training has failed."""
        self.draw()


# -- where it is seen -----------------------------------------------------------------------------


class Notebook:
    """The output of a notebook's cell."""

    def __init__(self) -> None:
        self._display: Any = import_module("IPython.display")
        self._handle: Any = None

    def show(self, figure: Figure) -> None:
        """Replace the picture."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        picture = self._display.Image(data=buffer.getvalue(), alt="live figure")
        if self._handle is None:
            self._handle = self._display.display(picture, display_id=True)
        else:
            self._handle.update(picture)


class Window:
    """A window of an interactive backend."""

    def show(self, figure: Figure) -> None:
        """Ask the window to redraw, and let it answer its events."""
        import matplotlib.pyplot as plt

        if plt.fignum_exists(figure.number):
            figure.canvas.draw_idle()
            figure.canvas.flush_events()


class Nowhere:
    """No screen: the figure is for a file."""

    def show(self, figure: Figure) -> None:
        """Do nothing."""


def _new_figure(size: tuple[float, float]) -> tuple[Figure, Screen]:
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        if _in_notebook():
            return Figure(figsize=size, layout="constrained"), Notebook()
        import matplotlib.pyplot as plt

        if plt.get_backend().lower() == "agg":
            return Figure(figsize=size, layout="constrained"), Nowhere()
        figure = plt.figure(figsize=size, layout="constrained")
        if getattr(figure.canvas, "required_interactive_framework", None) is None:
            return figure, Nowhere()
        figure.show()
        return figure, Window()


def _in_notebook() -> bool:
    """Whether a kernel runs this; IPython is asked only if it is there already."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
