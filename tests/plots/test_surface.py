"""Figures of the playground: what their artists hold, against the trajectories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from adamoffload import plots
from adamoffload.playground.trajectory import Trajectory, run


@pytest.fixture(scope="module")
def pair() -> tuple[Trajectory, ...]:
    return run("rosenbrock", ["adam", "sgd:lr=0.001"], lr=0.1, steps=60, noise=0.1, seed=1)


def labelled(ax: Any) -> list[Any]:
    return [line for line in ax.lines if not str(line.get_label()).startswith("_")]


def test_paths_are_the_points(pair: tuple[Trajectory, ...]) -> None:
    lines = labelled(plots.trajectory(pair))
    assert [line.get_label() for line in lines] == ["adam, lr=0.1", "sgd, lr=0.001"]
    for line, one in zip(lines, pair, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), one.points)


def test_start_ends_and_minimum_are_marked(pair: tuple[Trajectory, ...]) -> None:
    marks = [
        (line.get_marker(), tuple(np.ravel(line.get_xydata())))
        for line in plots.trajectory(pair).lines
        if np.size(line.get_xdata()) == 1
    ]
    ends = [("X", tuple(one.points[-1])) for one in pair]
    start = ("o", tuple(pair[0].points[0]))
    assert sorted(marks) == sorted([*ends, start, ("*", (1.0, 1.0))])


def test_ellipses_have_the_shape_of_adams_rates(pair: tuple[Trajectory, ...]) -> None:
    ax = plots.trajectory(pair, ellipses=(1, 7, 60, 61))
    adam = pair[0]
    found = [patch for patch in ax.patches if isinstance(patch, Ellipse)]
    assert len(found) == 3  # gradient descent has no second moment; step 61 was not taken
    for patch, step in zip(found, (1, 7, 60), strict=True):
        root = np.sqrt(adam.v[step - 1].astype(np.float64)) + 1e-8
        assert patch.width / patch.height == pytest.approx(root[1] / root[0], rel=1e-5)
        assert patch.get_center() == pytest.approx(tuple(adam.points[step - 1]))
        assert max(patch.width, patch.height) == pytest.approx(2 * 0.05 * 4)
        assert patch.angle == 0


def test_contours_are_levels_of_the_loss(pair: tuple[Trajectory, ...]) -> None:
    ax = plots.trajectory(pair, ellipses=())
    (lines,) = [c for c in ax.collections if not getattr(c, "filled", True)]
    levels: Any = lines.levels  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.diff(np.log10(levels)), 0.5)  # two a decade
    for level, path in zip(levels, lines.get_paths(), strict=True):
        x, y = np.asarray(path.vertices).reshape(-1, 2).T
        if level >= 1:  # below, the valley is narrower than the grid
            np.testing.assert_allclose(100 * (y - x**2) ** 2 + (1 - x) ** 2, level, rtol=0.2)


def test_a_start_outside_widens_the_window() -> None:
    ax = plots.trajectory(run("booth", ["adam"], lr=0.1, steps=3, start=(50.0, -20.0)))
    assert ax.get_xlim()[1] > 50
    assert ax.get_ylim()[0] < -20
    assert ax.get_xlim()[0] == -8


def test_axes_of_the_users_are_drawn_on(pair: tuple[Trajectory, ...]) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plots.trajectory(pair, ax=left) is left
    assert plots.descent(pair, ax=right) is right


def test_wrong_trajectories(pair: tuple[Trajectory, ...]) -> None:
    with pytest.raises(ValueError, match="at least one trajectory"):
        plots.playground([])
    other = run("booth", ["sgd"], lr=0.1, steps=1)
    with pytest.raises(ValueError, match="of one surface, got rosenbrock, booth"):
        plots.trajectory([*pair, *other])
    with pytest.raises(ValueError, match="steps are counted from 1, ellipses has 0"):
        plots.trajectory(pair, ellipses=(0, 3))


def test_more_paths_than_can_be_told_apart_are_refused(pair: tuple[Trajectory, ...]) -> None:
    for draw in (plots.trajectory, plots.playground):
        with pytest.raises(ValueError, match="at most 49 paths can be told apart, got 50"):
            draw(pair * 25)
