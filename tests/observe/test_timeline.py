"""A step's timeline as numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.observe.timeline import step_timeline, timeline_text
from adamoffload.plan.hops import HopName, working


@dataclass
class Span:
    start_s: float
    stop_s: float


def ledger_of(*spans: tuple[HopName, float, float], step: int = 1) -> ao.Ledger:
    ledger = ao.Ledger()
    for chunk, (hop, start_s, stop_s) in enumerate(spans):
        ledger.at(step, chunk)(hop, 1, 0, Span(start_s, stop_s))
    return ledger


def test_time_in_which_two_hops_overlap_counts_once() -> None:
    shown = step_timeline(ledger_of(("d2h", 2, 5), ("d2h", 1, 3), ("d2h", 7, 8), ("d2h", 7, 7.5)))
    assert shown.busy_s("d2h") == 5
    assert shown.busy_s("host") == 0
    assert shown.bottleneck == "d2h"


def test_a_step_lasts_from_its_first_begin_to_its_last_end() -> None:
    shown = step_timeline(ledger_of(("update", 4, 9), ("prepare", 2, 3), ("apply", 5, 6)))
    assert (shown.begin_s, shown.seconds, shown.chunks) == (2, 7, 3)


def test_prepare_and_apply_share_the_device() -> None:
    shown = step_timeline(ledger_of(("prepare", 0, 2), ("apply", 1, 4)))
    assert shown.busy_s("device") == 4
    np.testing.assert_array_equal(shown.lane("device")["hop"], ["prepare", "apply"])


def test_waits_are_no_work() -> None:
    shown = step_timeline(ledger_of(("wait", 0, 3), ("update", 3, 4), ("wait", 4, 4)))
    assert shown.busy_s("host") == 1
    assert len(shown.waits) == 1
    assert "wait" not in working("host")


def test_the_disks_lanes_are_shown_where_something_happened_in_them() -> None:
    plain = ledger_of(("d2h", 0, 1), ("update", 1, 2))
    assert step_timeline(plain).lanes == ("device", "d2h", "host", "h2d")
    ledger = ledger_of(("d2h", 0, 1), ("read", 0, 3), ("update", 3, 4), ("write", 4, 6))
    shown = step_timeline(ledger)
    assert shown.lanes == ("device", "d2h", "host", "h2d", "read", "write")
    assert shown.bottleneck == "read"
    assert timeline_text(ledger, 1, width=6).splitlines()[1:] == [
        "device |......| 0 s busy",
        "d2h    |0.....| 1 s busy",
        "host   |...2..| 1 s busy",
        "h2d    |......| 0 s busy",
        "read   |111...| 3 s busy",
        "write  |....33| 2 s busy",
    ]


def test_the_text_and_the_numbers_refuse_an_unknown_step() -> None:
    with pytest.raises(ValueError, match="no hops of step 4; it has steps 1 to 1"):
        timeline_text(ledger_of(("update", 0, 1)), 4)
    with pytest.raises(ValueError, match="recorded no step"):
        step_timeline(ao.Ledger())
