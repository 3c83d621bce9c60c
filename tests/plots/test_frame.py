"""Title, legend and names."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.lines import Line2D

import adamoffload as ao
from adamoffload.plots.frame import frame, gaps, shown_name

from recordings import train


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("fc.weight", "fc.weight"),
        ("a" * 20, "a" * 20),
        ("a" * 30 + "b" * 30, "a" * 10 + "…" + "b" * 9),
        ("$x$", r"\$x\$"),
        ("_x", " _x"),
        ("_$", r" _\$"),
        ("a\nb\x00", r"a\nb\x00"),
        ("größe", "größe"),
    ],
)
def test_a_name_is_shown_in_a_short_line_without_mathematics(name: str, shown: str) -> None:
    assert shown_name(name) == shown


def test_infinity_is_marked_at_the_top_and_what_is_no_number_at_the_bottom() -> None:
    _, ax = plt.subplots()
    values = np.array([1.0, np.inf, np.nan, -np.inf, 2.0])
    clean, notes = gaps(ax, np.arange(1, 6), values)
    assert np.isnan(clean[0]).tolist() == [False, True, True, True, False]
    assert notes == ["3 samples hold NaN or infinities (crosses)"]
    (crosses,) = ax.lines
    assert np.asarray(crosses.get_xydata()).tolist() == [[2, 0.98], [3, 0.02], [4, 0.02]]


def figures() -> dict[str, Any]:
    run = train({f"layer{i}.attention.weight": 20 for i in range(6)}, steps=4, chunk_bytes=80)
    plots, size = ao.plots, 120
    return {
        "moments": lambda ax: plots.moments(run.probe, ax=ax),
        "step_sizes": lambda ax: plots.step_sizes(run.probe, ax=ax),
        "timeline": lambda ax: plots.timeline(run.ledger, ax=ax),
        "transfers": lambda ax: plots.transfers(run.ledger, size, ax=ax),
        "memory": lambda ax: plots.memory({"x": run.optimizer.memory()}, 2000, ax=ax),
        "memory_over_time": lambda ax: plots.memory_over_time(run.ledger, ax=ax),
        "schedule": lambda ax: plots.schedule({"a": 0.1, "b": 0.2}, 4, ax=ax),
    }


def subplots(**options: Any) -> tuple[Any, Any]:
    return plt.subplots(layout="constrained", **options)


@pytest.mark.parametrize("width", [4.0, 8.0])
def test_legends_notes_and_titles_cover_neither_data_nor_each_other(width: float) -> None:
    for name, draw in figures().items():
        figure, ax = subplots(figsize=(width, 5.0))
        draw(ax)
        figure.draw_without_rendering()
        boxes = [ax.get_window_extent()]
        if (legend := ax.get_legend()) is not None:
            boxes.append(legend.get_window_extent())
        boxes += [
            text.get_window_extent()
            for text in (*ax.texts, ax._left_title)
            if text.get_window_extent().y0 > boxes[0].y1
        ]
        boxes.sort(key=lambda box: box.y0)
        for lower, upper in pairwise(boxes):
            assert lower.y1 <= upper.y0 + 1, (name, lower, upper)  # a pixel
        assert boxes[-1].y1 <= figure.bbox.y1 + 1, name
        assert max(box.x1 for box in boxes) <= figure.bbox.x1 + 1, name


def test_every_axis_says_what_it_shows() -> None:
    for draw in figures().values():
        ax = draw(None)
        assert ax.get_title("left")
        assert ax.get_xlabel() or ax.get_xticklabels()
        assert ax.get_ylabel() or ax.get_yticklabels()


def test_a_long_note_is_wrapped() -> None:
    _, ax = plt.subplots(figsize=(4, 3))
    frame(ax, "Title", notes=["word " * 40], entries=[(Line2D([], []), "line")])
    assert ax.texts[0].get_text().count("\n") >= 3


@pytest.mark.parametrize(
    "name", ["moments", "step_sizes", "transfers", "timeline", "memory_over_time", "dashboard"]
)
def test_a_ledger_for_a_probe_is_named(name: str) -> None:
    ledger, probe = ao.Ledger(), ao.Probe()
    draw = getattr(ao.plots, name)
    wrong: dict[str, list[Any]] = {
        "moments": [ledger],
        "step_sizes": [ledger],
        "dashboard": [probe, ledger],
    }
    with pytest.raises(TypeError, match=rf"^{name}: (probe|ledger) must be a (Probe|Ledger), got "):
        draw(*wrong.get(name, [probe]))


def test_what_is_no_trajectory_is_named() -> None:
    with pytest.raises(TypeError, match="each of trajectories must be a Trajectory, got 3"):
        ao.plots.trajectory([3])  # type: ignore[list-item]
