"""What the figure of transfers shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.plots.link import Show

from recordings import Run, train

SIZES = {"a": 30, "b": 12}
EACH = 4 * 42


@pytest.fixture(scope="module")
def run() -> Run:
    return train(SIZES, steps=5, chunk_bytes=80)


@pytest.mark.parametrize(
    ("show", "moved"), [("total", EACH * np.arange(1, 6)), ("per_step", np.full(5, EACH))]
)
def test_bytes_are_drawn_by_direction_with_the_prediction(
    run: Run, show: Show, moved: np.ndarray
) -> None:
    ax: Any = ao.plots.transfers(run.ledger, 42, show=show)
    assert [line.get_label() for line in ax.lines] == ["d2h", "h2d", "expected"]
    for line in ax.lines:
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4, 5])
        np.testing.assert_array_equal(line.get_ydata(), moved)
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > moved.max()


def test_a_wrong_prediction_is_seen(run: Run) -> None:
    ax: Any = ao.plots.transfers(run.ledger, 21)
    np.testing.assert_array_equal(ax.lines[2].get_ydata(), ax.lines[0].get_ydata() / 2)


def test_the_bandwidth_is_that_of_the_link(run: Run) -> None:
    ax: Any = ao.plots.transfers(run.ledger, show="bandwidth")
    # a copy takes 6 us + bytes / 31.5 GB/s; 168 bytes go in chunks of 80, 80 and 8
    expected = EACH / (3 * 6e-6 + EACH / (16e9 * 16 * 128 / 130 / 8))
    for line in ax.lines:
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-6)
    assert "simulated" in ax.get_title("left")


@pytest.mark.parametrize(("show", "speed"), [("total", ""), ("bandwidth", " at 9.33 MB/s")])
def test_the_legend_says_how_much_and_beside_speeds_how_fast(
    run: Run, show: Any, speed: str
) -> None:
    legend = ao.plots.transfers(run.ledger, show=show).get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [f"d2h: 840 B{speed}", f"h2d: 840 B{speed}"]


def test_copies_outside_a_step_do_not_count(run: Run) -> None:
    run.ledger.at()("h2d", 5, 20, ao.Event("h2d", None, None, 5, 20, 0.0, 1.0))
    np.testing.assert_array_equal(
        ao.plots.transfers(run.ledger).lines[1].get_ydata(), EACH * np.arange(1, 6)
    )


def test_one_step_has_markers() -> None:
    ax: Any = ao.plots.transfers(train({"w": 2}, steps=1).ledger)
    assert all(line.get_marker() not in ("None", "") for line in ax.lines)


def test_nothing_recorded_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"no step; pass it to AdamOffload\(..., ledger=ledger\)"):
        ao.plots.transfers(ao.Ledger())


def test_wrong_arguments_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="show must be one of total, per_step, bandwidth"):
        ao.plots.transfers(run.ledger, show="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="parameters must be at least 1"):
        ao.plots.transfers(run.ledger, 0)


def test_lanes_of_the_disk_and_predictions_that_differ_are_drawn_each() -> None:
    ledger = ao.Ledger()
    for step in (1, 2):
        for lane, nbytes in (("d2h", 4), ("h2d", 4), ("read", 12), ("write", 12)):
            ticket = ao.Event("read", step, 0, 1, nbytes, float(step), step + 0.5)
            ledger.at(step, 0)(lane, 1, nbytes, ticket)  # type: ignore[arg-type]
    per_step = {"d2h": 4, "h2d": 4, "read": 12, "write": 12}
    ax: Any = ao.plots.transfers(ledger, per_step)
    drawn = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    assert drawn == {
        "d2h": [4, 8],
        "h2d": [4, 8],
        "read": [12, 24],
        "write": [12, 24],
        "expected, d2h, h2d": [4, 8],
        "expected, read, write": [12, 24],
    }


@pytest.mark.parametrize(("strategy", "each"), [("state-shuttle", 8), ("zero-offload", 4)])
def test_the_prediction_is_the_strategys(strategy: str, each: int) -> None:
    ledger, device = ao.Ledger(), ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(50, np.float32)), "w")
    opt = ao.Optimizer([w], ao.rules.Adam(), strategy=strategy, ledger=ledger)
    opt([device.asarray(np.ones(50, np.float32))])
    for parameters in (50, opt.bytes_per_step):
        ax: Any = ao.plots.transfers(ledger, parameters)
        assert {tuple(line.get_ydata()) for line in ax.lines} == {(50 * each,)}
