"""Animations of the playground: each frame against the trajectories, and the files."""

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
from matplotlib.animation import FuncAnimation
from matplotlib.figure import Figure
from PIL import Image

from adamoffload import plots
from adamoffload.playground.trajectory import Trajectory, run


@pytest.fixture(scope="module")
def pair() -> tuple[Trajectory, ...]:
    return run("rosenbrock", ["adam", "sgd:lr=0.001"], lr=0.1, steps=60, noise=0.1, seed=1)


def labelled(ax: Any) -> list[Any]:
    return [line for line in ax.lines if not str(line.get_label()).startswith("_")]


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


@pytest.mark.parametrize("name", ["a.gif", "a.html"])
def test_an_animation_that_is_interrupted_leaves_no_file(name: str, tmp_path: Path) -> None:
    def show(frame: int) -> list[Any]:
        if frame == 2:
            raise KeyboardInterrupt
        return []

    animation = FuncAnimation(Figure(figsize=(1, 1)), show, frames=[0, 1, 2])
    with pytest.raises(KeyboardInterrupt):
        plots.save_animation(animation, tmp_path / name)
    assert not [*tmp_path.iterdir()]
