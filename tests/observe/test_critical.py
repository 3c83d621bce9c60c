"""The critical path: it adds up, and it is what slower parts make longer."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.observe.critical import CriticalPath, critical_path
from adamoffload_sim import Device, Link

EVENT = [("hop", "U7"), ("chunk", int), ("start_s", float), ("stop_s", float)]
STRATEGIES = [
    name
    for name, strategy in ao.strategies.items()
    if name != "disk" and strategy.usual_weights == "float32" and not strategy.delay
]


def path_of(*rows: tuple[str, int, float, float]) -> list[tuple[Any, ...]]:
    return [tuple(segment)[1:] for segment in critical_path(1, np.array([*rows], EVENT)).segments]


def simulated(
    strategy: str, host_ns: float, *, link: float = 1, host: float = 1, device: float = 1
) -> CriticalPath:
    """Return the path of one step on a machine of which some parts take longer."""
    machine = ao.get_backend(
        "sim",
        link=Link(8e9 / link),
        device=Device(48e9 / device, 1e15),
        host_ns_per_parameter=host_ns * host,
    )
    sizes = (20_000, 900, 31_000)
    params = [
        ao.Parameter(machine.asarray(np.zeros(size, np.float32)), f"p{i}")
        for i, size in enumerate(sizes)
    ]
    ledger = ao.Ledger()
    opt = ao.Optimizer(
        params, ao.rules.AdamW(), strategy=strategy, ledger=ledger, chunk_bytes=16_000
    )
    opt([machine.asarray(np.ones(size, np.float32)) for size in sizes])
    return ledger.critical_path(1)


@pytest.mark.parametrize("host_ns", [0.1, 0.7, 2.0])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_segments_add_up_to_the_step_to_the_last_bit(strategy: str, host_ns: float) -> None:
    path = simulated(strategy, host_ns)
    for one, other in pairwise(path.segments):
        assert one.stop_s == other.start_s
    exact = sum(Fraction(s.stop_s) - Fraction(s.start_s) for s in path.segments)
    first, last = path.segments[0], path.segments[-1]
    assert exact == Fraction(last.stop_s) - Fraction(first.start_s)
    assert float(exact) == path.seconds
    assert "idle" not in path.seconds_by_lane


@pytest.mark.parametrize("host_ns", [0.1, 2.0])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_part_that_is_slower_makes_a_step_longer_by_its_share(
    strategy: str, host_ns: float
) -> None:
    path, slower = simulated(strategy, host_ns), 1e-4
    found = path.seconds_by_lane
    shares = {
        "link": found.get("d2h", 0) + found.get("h2d", 0),
        "host": found.get("host", 0),
        "device": found.get("device", 0),
    }
    for part, seconds in shares.items():
        again = simulated(strategy, host_ns, **{part: 1 + slower})
        assert (again.seconds - path.seconds) / slower == pytest.approx(
            seconds, abs=1e-9 + 1e-3 * seconds
        )


def test_before_a_hop_stands_what_ended_last() -> None:
    rows = [("d2h", 0, 0.0, 3.0), ("d2h", 1, 3.0, 4.0), ("update", 0, 3.0, 8.0)]
    assert path_of(*rows, ("update", 1, 8.0, 9.0)) == [
        ("d2h", 0, 0.0, 3.0),
        ("update", 0, 3.0, 8.0),
        ("update", 1, 8.0, 9.0),
    ]


def test_of_those_that_ended_at_once_the_lane_counts_and_then_the_chunk() -> None:
    before = [("h2d", 0, 0.0, 2.0), ("d2h", 1, 1.0, 2.0), ("update", 0, 0.5, 2.0)]
    assert path_of(*before, ("update", 1, 2.0, 3.0))[-2][:2] == ("update", 0)
    assert path_of(*before[:2], ("update", 1, 2.0, 3.0))[-2][:2] == ("d2h", 1)


def test_a_wait_is_no_work_and_a_gap_is_idle() -> None:
    rows = [("wait", 0, 0.0, 5.0), ("d2h", 0, 1.0, 4.0), ("update", 0, 5.0, 6.0)]
    assert path_of(*rows) == [
        ("idle", -1, 0.0, 1.0),
        ("d2h", 0, 1.0, 4.0),
        ("idle", -1, 4.0, 5.0),
        ("update", 0, 5.0, 6.0),
    ]


def test_a_waterfall_has_a_line_for_each_run_and_not_too_many() -> None:
    rows = [(("d2h", "h2d")[i % 2], i, float(i), i + 1.0) for i in range(40)]
    lines = str(critical_path(3, np.array(rows, EVENT))).splitlines()
    assert lines[0] == "step 3: 40 s, of which d2h 50%, h2d 50%"
    assert lines[1] == f"d2h    |#{39 * '.'}| 1 s: d2h of chunk 0"
    assert lines[16] == f"h2d    |{15 * '.'}#{24 * '.'}| 1 s: h2d of chunk 15"
    assert lines[17:] == ["and 24 more"]


def test_a_step_that_was_not_recorded_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing that took any time was recorded of step 7"):
        ao.Ledger().critical_path(7)
