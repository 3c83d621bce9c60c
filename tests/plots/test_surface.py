"""Figures of the playground: what their artists hold, against the trajectories."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.animation import FuncAnimation
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.text import Text
from PIL import Image

from adamoffload import plots
from adamoffload.playground.trajectory import Trajectory, run


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def pair() -> tuple[Trajectory, ...]:
    return run("rosenbrock", ["adam", "sgd:lr=0.001"], lr=0.1, steps=60, noise=0.1, seed=1)


def labelled(ax: Any) -> list[Any]:
    return [line for line in ax.lines if not str(line.get_label()).startswith("_")]


def texts(figure: Any) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


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


def test_contours_are_levels_of_the_loss(pair: tuple[Trajectory, ...]) -> None:
    ax = plots.trajectory(pair, ellipses=())
    (lines,) = [c for c in ax.collections if not getattr(c, "filled", True)]
    levels: Any = lines.levels  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.diff(np.log10(levels)), 0.5)  # two a decade
    for level, path in zip(levels, lines.get_paths(), strict=True):
        x, y = np.asarray(path.vertices).reshape(-1, 2).T
        if level >= 1:  # below, the valley is narrower than the grid
            np.testing.assert_allclose(100 * (y - x**2) ** 2 + (1 - x) ** 2, level, rtol=0.2)


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


# -- animations -----------------------------------------------------------------------------------


def frames_of(animation: FuncAnimation) -> Iterator[int]:
    """Show each frame, as a writer does, and yield its step."""
    animation._init_draw()  # type: ignore[attr-defined]
    frames: Any = animation.new_frame_seq()
    for step in frames:
        animation._draw_frame(step)  # type: ignore[attr-defined]
        yield int(step)
    animation._draw_was_started = True  # type: ignore[attr-defined]  # or it warns


def test_an_animation_shows_the_steps_so_far() -> None:
    adam, sgd = pair = run("rosenbrock", ["adam", "sgd"], lr=0.1, steps=10)
    assert sgd.diverged_at is not None
    animation = plots.animate_trajectory(pair)
    figure: Any = animation._fig  # type: ignore[attr-defined]
    paths, losses = figure.axes
    steps = []
    for step in frames_of(animation):
        steps.append(step)
        assert figure.get_suptitle() == f"Rosenbrock: step {step}"
        path, curve = labelled(paths)[0], labelled(losses)[0]
        np.testing.assert_array_equal(path.get_xydata(), adam.points[: step + 1])
        np.testing.assert_array_equal(curve.get_xdata(), np.arange(step + 1))
        np.testing.assert_array_equal(curve.get_ydata(), adam.excess[: step + 1])
        ring, hidden = paths.patches
        root = np.sqrt(adam.v[min(step, 9)]) + np.float32(1e-8)
        assert ring.width / ring.height == pytest.approx(root[1] / root[0], rel=1e-4)
        assert not hidden.get_visible()
        assert len(labelled(paths)[1].get_xdata()) <= min(step, sgd.diverged_at) + 1
    assert steps == list(range(11))


def test_an_animation_has_at_most_so_many_frames(pair: tuple[Trajectory, ...]) -> None:
    steps = list(frames_of(plots.animate_trajectory(pair, frames=7)))
    assert steps == [0, 10, 20, 30, 40, 50, 60]
    with pytest.raises(ValueError, match="frames must be at least 1"):
        plots.animate_trajectory(pair, frames=0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, pair: tuple[Trajectory, ...]) -> Path:
    folder = tmp_path_factory.mktemp("animations")
    for name in ("a.gif", "a.html"):
        plots.save_animation(plots.animate_trajectory(pair, frames=3), folder / name)
    return folder


def test_a_gif_has_the_frames(files: Path) -> None:
    with Image.open(files / "a.gif") as picture:
        assert getattr(picture, "n_frames", 1) == 3


def test_a_page_has_the_frames_inside_and_asks_for_nothing(files: Path) -> None:
    page = (files / "a.html").read_text()
    assert not re.search(r"https?:|[\"'(]//|@import|url\(|<link", page)
    assert "<title>Rosenbrock</title>" in page
    (encoded,) = re.findall(r"const frames = (\[.*?\]);", page)
    pictures = [Image.open(io.BytesIO(base64.b64decode(one))) for one in json.loads(encoded)]
    assert len(pictures) == 3
    assert len({picture.size for picture in pictures}) == 1
    alpha = [np.asarray(picture.convert("RGBA"))[..., 3] for picture in pictures]
    assert (alpha[0] == 255).all()  # the first lies beneath, the others have what differs
    assert 0 < (alpha[2] > 0).mean() < 0.1
    blue = np.array([0x00, 0x72, 0xB2])  # of the first optimizer's entry in the legend
    distance = np.abs(np.asarray(pictures[0].convert("RGB")).astype(int) - blue).max(axis=2)
    assert distance.min() < 24


def test_a_title_is_escaped_in_the_page(tmp_path: Path) -> None:
    figure = Figure(figsize=(1, 1))
    figure.suptitle("<script>alert(1)</script> & co")
    animation = FuncAnimation(figure, lambda _: [], frames=2)
    plots.save_animation(animation, tmp_path / "b.html")
    assert "<script>alert" not in (tmp_path / "b.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in (tmp_path / "b.html").read_text()


def test_an_animation_is_written_to_gif_or_html_only(tmp_path: Path) -> None:
    animation = FuncAnimation(Figure(), lambda _: [], frames=1)
    animation._draw_was_started = True  # type: ignore[attr-defined]  # or it warns
    with pytest.raises(ValueError, match=r"must end in \.gif or \.html, got 'x\.mp4'"):
        plots.save_animation(animation, "x.mp4")
