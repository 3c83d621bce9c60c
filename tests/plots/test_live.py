"""The live figure: artists that are moved, a bounded rate, and where it is shown."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.backend_bases import FigureCanvasBase

import adamoffload as ao
from adamoffload.plots import LiveFigure


class Clock:
    """Goes only when told."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def line_of(live: LiveFigure, panel: int = 0) -> Any:
    (line,) = live.figure.axes[panel].lines
    return line


def test_curves_hold_what_was_given() -> None:
    with LiveFigure("loss", "accuracy", log=["loss"]) as live:
        lines = [line_of(live, 0), line_of(live, 1)]
        for step in range(1, 6):
            live.update(step, loss=1 / step, accuracy=step / 5)
    assert [line_of(live, 0), line_of(live, 1)] == lines  # the same artists, moved
    np.testing.assert_array_equal(lines[0].get_xydata(), [[s, 1 / s] for s in range(1, 6)])
    np.testing.assert_array_equal(lines[1].get_xydata(), [[s, s / 5] for s in range(1, 6)])
    np.testing.assert_array_equal(live.values("loss")[1], [1 / s for s in range(1, 6)])
    loss, accuracy = live.figure.axes
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    assert loss.get_xlim()[0] < 1 < 5 < loss.get_xlim()[1]
    assert accuracy.get_ylim()[1] > 1


def test_series_may_have_steps_of_their_own() -> None:
    with LiveFigure("loss", "accuracy") as live:
        live.update(1, loss=3.0)
        live.update(2, loss=2.0)
        live.update(2, accuracy=0.5)
    assert [len(live.values(name)[0]) for name in ("loss", "accuracy")] == [2, 1]


def test_drawing_has_a_bounded_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    live = LiveFigure("loss", interval_s=0.5, clock=clock)
    drawn = []
    monkeypatch.setattr(live, "_screen", SimpleNamespace(show=lambda _: drawn.append(clock.now_s)))
    for step in range(100):
        live.update(step, loss=1.0)
        clock.now_s += 0.125
    assert len(drawn) == 25
    assert np.diff(drawn).min() >= 0.5


def test_slow_drawing_takes_a_tenth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    live = LiveFigure("loss", interval_s=0.5, clock=clock)
    drawn = []

    def show(_: object) -> None:
        clock.now_s += 1.0
        drawn.append(clock.now_s)

    monkeypatch.setattr(live, "_screen", SimpleNamespace(show=show))
    for step in range(1000):
        live.update(step, loss=1.0)
        clock.now_s += 0.1
    assert len(drawn) <= 0.1 * clock.now_s + 1


def test_what_is_not_finite_is_a_gap() -> None:
    with LiveFigure("loss") as live:
        for step, value in enumerate([1.0, math.nan, math.inf, 2.0]):
            live.update(step, loss=value)
    np.testing.assert_array_equal(line_of(live).get_ydata(), [1.0, math.nan, math.nan, 2.0])
    assert live.figure.axes[0].get_ylim()[1] < 3
    np.testing.assert_array_equal(live.values("loss")[1], [1.0, math.nan, math.inf, 2.0])


def test_nothing_and_one_point_are_drawn(tmp_path: Any) -> None:
    with LiveFigure("loss", log=["loss"]) as live:
        live.draw()
        live.figure.savefig(tmp_path / "nothing.png")
        live.update(1, loss=0.5)
    live.figure.savefig(tmp_path / "one.png")
    assert live.figure.axes[0].get_ylim()[0] < 0.5


def test_a_devices_number_is_taken() -> None:
    device = ao.get_backend("numpy")
    with LiveFigure("loss") as live:
        live.update(1, loss=np.mean(device.asarray(np.array([1.0, 2.0], np.float32))))
    assert live.values("loss")[1] == [1.5]


def test_the_last_values_are_drawn_if_training_fails() -> None:
    live = LiveFigure("loss", clock=Clock())

    def train() -> None:
        with live:
            live.update(1, loss=1.0)
            live.update(2, loss=2.0)  # too soon to be drawn
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert line_of(live).get_ydata().tolist() == [1.0, 2.0]


def test_in_a_notebook_one_picture_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, bytes]] = []

    class Image(SimpleNamespace):
        data: bytes

    def display(image: Image, display_id: bool) -> Any:
        assert display_id
        shown.append(("display", image.data))
        return SimpleNamespace(update=lambda image: shown.append(("update", image.data)))

    ipython: Any = ModuleType("IPython")
    ipython.version_info = (8, 24, 0)  # Matplotlib asks for it once in a process
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    ipython.display = ModuleType("IPython.display")
    vars(ipython.display).update(Image=Image, display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    with LiveFigure("loss", interval_s=0) as live:
        live.update(1, loss=1.0)
    assert [kind for kind, _ in shown] == ["display", "update"]
    assert all(data.startswith(b"\x89PNG") for _, data in shown)
    assert not plt.get_fignums()  # or the notebook would show it twice


def test_a_window_is_asked_to_redraw_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from adamoffload.plots import live as module

    figure = plt.figure()
    calls = []
    monkeypatch.setattr(FigureCanvasBase, "draw_idle", lambda _: calls.append("draw"))
    monkeypatch.setattr(FigureCanvasBase, "flush_events", lambda _: calls.append("flush"))
    monkeypatch.setattr(module, "_new_figure", lambda _: (figure, module.Window()))
    with LiveFigure("loss", interval_s=0) as live:
        live.update(1, loss=1.0)
        assert calls == ["draw", "flush"]
        plt.close(figure)
    assert calls == ["draw", "flush"]


def test_ipython_is_not_imported() -> None:
    with LiveFigure("loss"):
        assert "IPython" not in sys.modules


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="expected different names"):
        LiveFigure()
    with pytest.raises(ValueError, match="expected different names"):
        LiveFigure("a", "a")
    with pytest.raises(ValueError, match="log has 'b', which is not among"):
        LiveFigure("a", log=["b"])
    with pytest.raises(ValueError, match="interval_s must be >= 0"):
        LiveFigure("a", interval_s=-1)
    live = LiveFigure("loss")
    with pytest.raises(ValueError, match="'lost' was not announced; there are: loss"):
        live.update(1, lost=3.0)
    with pytest.raises(ValueError, match="no 'lost'; there are: loss"):
        live.values("lost")
