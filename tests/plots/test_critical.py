"""The figure of a critical path, against times worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.plan.hops import LANE_OF, HopName

from recordings import corners


class Span:
    def __init__(self, start_s: float, stop_s: float) -> None:
        self.start_s, self.stop_s = start_s, stop_s


def recorded(*rows: tuple[HopName, int, float, float], step: int = 1) -> ao.Ledger:
    ledger = ao.Ledger()
    for hop, chunk, *times in rows:
        ledger.at(step, chunk)(hop, 1, 0, Span(*times))
    return ledger


def bars(ax: Any) -> dict[str, list[tuple[float, float]]]:
    """Return begin and end of the bars, by lane."""
    labels = [label.get_text() for label in ax.get_yticklabels()]
    found: dict[str, list[tuple[float, float]]] = {}
    for collection in ax.collections:
        for path in collection.get_paths():
            x, y = corners(path).T
            lane = labels[round((y.min() + y.max()) / 2)]
            found.setdefault(lane, []).append((float(x.min()), float(x.max())))
    return found


def test_a_bar_stands_where_its_lane_has_the_path() -> None:
    rows: list[tuple[HopName, int, float, float]] = [
        ("d2h", 0, 2.0, 3.0),
        ("d2h", 1, 3.0, 4.0),
        ("update", 0, 3.0, 7.0),
        ("update", 1, 7.0, 9.0),
        ("h2d", 0, 7.0, 8.0),
        ("h2d", 1, 10.0, 12.0),
    ]
    ax = ao.plots.critical_path(recorded(*rows))
    assert bars(ax) == {
        "d2h": [(0, 1)],
        "host": [(1, 5), (5, 7)],
        "h2d": [(8, 10)],
        "idle": [(7, 8)],
    }
    assert ax.get_title("left") == "Critical path of step 1: 10 s, 60% of it host"
    shares = [text.get_text() for text in ax.texts if text.get_text().endswith("%")]
    assert shares == ["10%", "60%", "20%", "10%"]
    changes = [tuple(np.asarray(line.get_xdata(), float)) for line in ax.lines]
    assert changes == [(1, 1), (7, 7), (8, 8)]
    assert {LANE_OF[hop] for hop, *_ in rows} <= {*bars(ax)}


def test_the_last_step_is_drawn_unless_another_is_named() -> None:
    ledger = recorded(("update", 0, 0.0, 1.0))
    ledger.at(2, 0)("d2h", 1, 0, Span(1.0, 4.0))
    assert "step 2: 3 s" in ao.plots.critical_path(ledger).get_title("left")
    assert "step 1: 1 s" in ao.plots.critical_path(ledger, 1).get_title("left")
    with pytest.raises(ValueError, match="recorded of step 5"):
        ao.plots.critical_path(ledger, 5)
