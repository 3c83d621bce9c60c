"""Paths and losses side by side, against the trajectories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from adamoffload import plots
from adamoffload.playground.trajectory import Trajectory, run


@pytest.fixture(scope="module")
def pair() -> tuple[Trajectory, ...]:
    return run("rosenbrock", ["adam", "sgd:lr=0.001"], lr=0.1, steps=60, noise=0.1, seed=1)


def labelled(ax: Any) -> list[Any]:
    return [line for line in ax.lines if not str(line.get_label()).startswith("_")]


def texts(figure: Any) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_losses_are_those_above_the_minimum() -> None:
    pair = run("styblinski-tang", ["adam", "momentum"], lr=0.01, steps=30)
    ax = plots.descent(pair)
    assert ax.get_yscale() == "log"
    for line, one in zip(labelled(ax), pair, strict=True):
        x, y = one.points.astype(np.float64).T
        loss = (x**4 - 16 * x**2 + 5 * x + y**4 - 16 * y**2 + 5 * y) / 2 + 78.33233140754282
        np.testing.assert_array_equal(line.get_xdata(), np.arange(31))
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), loss, rtol=1e-9)
    assert "adam, lr=0.01: " + f"{pair[0].excess[-1]:.2g}" in texts(ax.figure)


def test_a_loss_of_zero_is_a_gap_on_the_log_axis() -> None:
    (line,) = labelled(plots.descent(run("booth", ["sgd"], lr=0.1, steps=3, start=(1.0, 3.0))))
    assert np.isnan(np.asarray(line.get_ydata(), float)).all()


def test_settings_stand_on_the_figure(pair: tuple[Trajectory, ...]) -> None:
    for shown in (plots.playground(pair), plots.trajectory(pair).figure):
        written = " ".join(texts(shown).split())
        assert "60 steps from (-1.2, 1), noise 0.1 on gradients, seed 1 for all" in written
        assert "adam: beta1=0.9, beta2=0.999, eps=1e-08 by default" in written
    assert "best of" not in written
    found = run("booth", ["adam", "sgd"], steps=5)
    assert "lr of adam, sgd: best of 13 from 0.0001 to 1" in texts(plots.playground(found))


def test_who_diverges_is_not_followed_and_the_legend_says_so() -> None:
    sgd, adam = pair = run("rosenbrock", ["sgd", "adam"], lr=0.1, steps=40)
    figure = plots.playground(pair)
    figure.canvas.draw()
    paths, losses = figure.axes
    line = np.asarray(labelled(paths)[0].get_xydata())
    np.testing.assert_array_equal(line, sgd.points[: len(line)])
    left, right, bottom, top = sgd.surface.window
    x, y = line.T
    inside = (left <= x) & (x <= right) & (bottom <= y) & (y <= top)
    assert inside[:-1].all()
    assert not inside[-1]
    assert f"sgd, lr=0.1: diverged at step {sgd.diverged_at}" in texts(losses.figure)
    low, high = losses.get_ylim()
    assert low < adam.excess.min()
    assert adam.excess.max() < high < 1e5 * adam.excess.max()


def test_panels_give_each_path_its_axes(pair: tuple[Trajectory, ...]) -> None:
    *paths, losses = plots.playground(pair, panels=True).axes
    assert [len(labelled(ax)) for ax in paths] == [1, 1]
    assert len(labelled(losses)) == 2
    assert [ax.get_title(loc="left") for ax in paths] == ["adam, lr=0.1", "sgd, lr=0.001"]


def test_many_paths_are_told_apart_without_colour() -> None:
    many = run("booth", ["sgd"] * 15, lr=0.01, steps=2)
    looks = [(line.get_color(), line.get_marker()) for line in labelled(plots.descent(many))]
    assert len({*looks}) == 15
    assert len({marker for _, marker in looks[:7]}) == 7
