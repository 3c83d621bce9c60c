"""What the figure of learning rates shows, against the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao


def drawn(ax: Any) -> dict[Any, np.ndarray[Any, Any]]:
    return {line.get_label(): np.asarray(line.get_xydata()) for line in ax.lines}


def test_schedules_are_drawn_side_by_side_with_steps_from_one() -> None:
    ax: Any = ao.plots.schedule(
        {"cosine": ao.CosineDecayLR(0.1, 0.5, 8), "fixed": 0.25, "warm": ao.WarmUpLR(1.0, 4)}, 10
    )
    t = np.arange(10)
    expected = {
        "cosine": 0.1 + 0.2 * (1 + np.cos(np.pi * np.minimum(t, 8) / 8)),
        "fixed": np.full(10, 0.25),
        "warm": np.minimum(t, 4) / 4,
    }
    assert drawn(ax).keys() == expected.keys()
    for name, line in drawn(ax).items():
        np.testing.assert_array_equal(line[:, 0], t + 1)
        np.testing.assert_allclose(line[:, 1], expected[name], rtol=1e-6)
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == list(expected)


def test_a_rate_holds_for_its_step_so_that_a_stair_is_no_slope() -> None:
    ax: Any = ao.plots.schedule(ao.piecewise_constant_lr([2, 4], [1.0, 0.5]))
    corners = ax.lines[0].get_path().vertices
    drop = corners[(corners[:, 0] > 2) & (corners[:, 0] < 3)]
    assert drop.tolist() == [[2.5, 1.0], [2.5, 0.5]]


def test_lines_differ_by_more_than_their_color() -> None:
    ax: Any = ao.plots.schedule({str(i): i / 10 for i in range(7)}, 5)
    looks = {(line.get_linestyle(), line.get_marker()) for line in ax.lines}
    assert len(looks) == 7


def test_a_tables_line_ends_where_the_table_does() -> None:
    ax: Any = ao.plots.schedule({"short": [0.3, 0.2], "long": [0.1] * 4})
    np.testing.assert_allclose(drawn(ax)["short"], [[1, 0.3], [2, 0.2]], rtol=1e-6)
    assert len(drawn(ax)["long"]) == 4


def test_an_optimizer_shows_its_rate_or_those_of_its_groups() -> None:
    device = ao.get_backend("numpy")

    def parameter(name: str) -> ao.Parameter:
        return ao.Parameter(device.asarray(np.zeros(2, np.float32)), name)

    one = ao.AdamOffload([parameter("a"), parameter("b")], 0.5)
    two = ao.Adam([{"params": [parameter("a")], "lr": 0.125}, {"params": [parameter("b")]}], 0.25)
    ax: Any = ao.plots.schedule({"one": one, "two": two}, 3)
    assert {name: line[:, 1].tolist() for name, line in drawn(ax).items()} == {
        "one": [0.5] * 3,
        "two group 0": [0.125] * 3,
        "two group 1": [0.25] * 3,
    }


def test_groups_with_equal_numbers_share_a_line() -> None:
    device = ao.get_backend("numpy")
    groups = [
        {"params": [ao.Parameter(device.asarray(np.zeros(2, np.float32)), f"w{i}")], "lr": rate}
        for i, rate in enumerate([0.5, 0.25] * 5)
    ]
    ax = ao.plots.schedule(ao.AdamOffload(groups), 2)
    assert {name: line[0, 1] for name, line in drawn(ax).items()} == {
        "groups 0, 2, 4, 6, 8": 0.5,
        "groups 1, 3, 5, 7, 9": 0.25,
    }


def test_one_step_and_a_rate_of_zero_are_pictures_too() -> None:
    ax: Any = ao.plots.schedule(0.0, 1)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 0]])
    assert ax.lines[0].get_marker() == "o"


@pytest.mark.parametrize(
    ("rates", "steps", "error", "message"),
    [
        (0.1, None, ValueError, "pass steps"),
        (0.1, 0, ValueError, "steps must be at least 1"),
        ({}, 3, ValueError, "between 1 and 7"),
        ({str(i): 0.1 for i in range(8)}, 3, ValueError, "between 1 and 7"),
        ("fast", 3, ValueError, "learning_rate is 'fast'"),
        (object(), 3, TypeError, "schedule: learning_rate"),
        ([0.1, float("nan")], None, ValueError, "schedule: learning_rate"),
    ],
)
def test_what_is_no_rate_is_refused(
    rates: Any, steps: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ao.plots.schedule(rates, steps)
