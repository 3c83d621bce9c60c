"""The ledger: what was recorded, in order, summed by direction and step."""

from __future__ import annotations

import csv
import dataclasses
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.observe.ledger import HOPS, NO_LEDGER, Event, ignore
from adamoffload.plan.hops import Declared


class Span:
    """A ticket whose times are known, and which tells when they are read."""

    def __init__(self, start_s: float, stop_s: float) -> None:
        self.times, self.reads = (start_s, stop_s), 0

    @property
    def start_s(self) -> float:
        self.reads += 1
        return self.times[0]

    @property
    def stop_s(self) -> float:
        self.reads += 1
        return self.times[1]


@pytest.fixture
def ledger() -> ao.Ledger:
    """Two steps: 100 bytes down and 60 up in the first, 7 down in the second."""
    ledger = ao.Ledger()
    first, second = ledger.at(1, 0), ledger.at(2, 0)
    first("d2h", 25, 100, Span(0.0, 1.0))
    first("update", 25, 0, Span(1.0, 1.5))
    first("h2d", 15, 60, Span(1.5, 3.5))
    second("d2h", 7, 7, Span(4.0, 4.25))
    return ledger


def test_events_are_in_the_order_of_recording(ledger: ao.Ledger) -> None:
    assert ledger.events[0] == Event("d2h", 1, 0, 25, 100, 0.0, 1.0)
    assert [event.hop for event in ledger.events] == ["d2h", "update", "h2d", "d2h"]


def test_an_event_is_frozen_and_knows_its_duration(ledger: ao.Ledger) -> None:
    event = ledger.events[2]
    assert event.seconds == 2.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.nbytes = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("hop", "step", "nbytes"),
    [
        (None, None, 167),
        ("d2h", None, 107),
        ("h2d", None, 60),
        ("d2h", 1, 100),
        (None, 2, 7),
        ("apply", None, 0),
        ("h2d", 2, 0),
        (None, 9, 0),
    ],
)
def test_bytes_are_summed_by_hop_and_step(
    ledger: ao.Ledger, hop: Any, step: int | None, nbytes: int
) -> None:
    assert ledger.bytes(hop, step=step) == nbytes


def test_seconds_are_summed_by_hop_and_step(ledger: ao.Ledger) -> None:
    assert ledger.seconds() == 3.75
    assert ledger.seconds("d2h") == 1.25
    assert ledger.seconds("d2h", step=2) == 0.25


def test_an_unknown_hop_is_refused(ledger: ao.Ledger) -> None:
    for ask in (ledger.bytes, ledger.seconds):
        with pytest.raises(ValueError, match=r"hop must be one of check, prepare, d2h.*got 'down'"):
            ask("down")


def test_times_are_not_read_before_they_are_asked_for() -> None:
    ledger, span = ao.Ledger(), Span(0.0, 1.0)
    ledger.at(1, 0)("d2h", 1, 4, span)
    assert (len(ledger), ledger.bytes(), span.reads) == (1, 4, 0)
    assert ledger.events
    assert span.reads > 0


def test_a_copy_outside_a_step_has_neither_step_nor_chunk() -> None:
    ledger = ao.Ledger()
    ledger.at()("h2d", 1, 4, Span(0.0, 1.0))
    assert (ledger.events[0].step, ledger.events[0].chunk) == (None, None)


def test_clear_forgets_and_recorders_go_on(ledger: ao.Ledger) -> None:
    record = ledger.at(3, 0)
    ledger.clear()
    assert ledger.events == ()
    record("d2h", 1, 4, Span(0.0, 1.0))
    assert ledger.bytes() == 4


def test_threads_may_share_a_ledger() -> None:
    ledger = ao.Ledger()

    def work(step: int) -> None:
        record = ledger.at(step, 0)
        for _ in range(500):
            record("d2h", 1, step, Span(0.0, 1.0))

    threads = [threading.Thread(target=work, args=(step,)) for step in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger) == 2000
    assert [ledger.bytes(step=step) for step in range(1, 5)] == [500, 1000, 1500, 2000]


def test_an_empty_ledger_is_true() -> None:
    assert ao.Ledger()


def test_a_repr_says_how_many_hops_and_bytes(ledger: ao.Ledger) -> None:
    assert repr(ledger) == "Ledger(4 hops, 107 bytes d2h, 60 bytes h2d)"


def test_the_null_ledger_stays_empty() -> None:
    NO_LEDGER.at(1, 0)("d2h", 1, 4, Span(0.0, 1.0))
    assert ignore("d2h", 1, 4, Span(0.0, 1.0)) is None  # type: ignore[func-returns-value]
    assert (len(NO_LEDGER), NO_LEDGER.bytes(), NO_LEDGER.events) == (0, 0, ())


def test_the_hops_are_those_of_the_pipeline() -> None:
    down = ("check", "prepare", "d2h", "wait", "accumulate")
    assert (*down, "update", "h2d", "apply", "read", "write") == HOPS


def test_a_lane_counts_what_a_check_brings_down_and_the_check_alone_is_told_apart() -> None:
    ledger = ao.Ledger()
    ledger.at(1)("check", 25, 8, Span(0.0, 5.0))
    ledger.at(1, 0, (("w", 25),))("d2h", 25, 100, Span(5.0, 6.0))
    assert (ledger.bytes("d2h"), ledger.bytes("check"), ledger.bytes()) == (108, 8, 108)
    assert ledger.bytes("d2h", parameter="w") == 100
    assert ledger.bytes_per_step("d2h").tolist() == [108]
    # the device looks, and the link is busy with the gradient only
    assert (ledger.seconds("d2h"), ledger.seconds("device")) == (1.0, 5.0)
    assert ledger.bandwidth("d2h") == 100


def test_lanes_in_which_nothing_moved_have_0_bytes(ledger: ao.Ledger) -> None:
    for lane in ("read", "write", "net", "device", "host"):
        assert ledger.bytes(lane) == 0
    assert ledger.seconds("host") == ledger.seconds("update") == 0.5
    disk = ao.Ledger()
    disk.at(1, 0)("read", 3, 12, Span(0.0, 2.0))
    disk.at(1, 0)("write", 3, 24, Span(2.0, 3.0))
    assert (disk.bytes("read"), disk.bytes("write"), disk.bandwidth("read")) == (12, 24, 6)


def test_what_is_expected_follows_from_what_was_declared() -> None:
    rule = ao.rules.Adam()
    shuttle, offload = (ao.strategies[name] for name in ("state-shuttle", "adam-offload"))
    device = ao.get_backend("numpy")
    ledger = ao.Ledger()
    ledger.attach(device, [Declared("Adam", shuttle.hops(rule), frozenset("ab"))])
    ledger.attach(device, [Declared("Adam", offload.hops(rule), frozenset("c"))])
    ledger.at(1, 0, (("a", 3), ("b", 1)))("apply", 4, 0, Span(0.0, 1.0))
    ledger.at(1, 1, (("c", 10),))("update", 10, 0, Span(0.0, 1.0))
    ledger.at(1, 1, (("c", 10),))("apply", 10, 0, Span(0.0, 1.0))  # no arithmetic there
    assert ledger.expected_per_step("d2h").tolist() == [8 * 4 + 4 * 10]
    ledger.attach(device, [Declared("Adam", offload.hops(rule), frozenset("ab"))])  # from now on
    ledger.at(2, 0, (("b", 1),))("update", 1, 0, Span(2.0, 3.0))
    assert ledger.expected_per_step("h2d").tolist() == [8 * 4 + 4 * 10, 4]
    assert ledger.expected_per_step("read").tolist() == [0, 0]


# -- by parameter, step and place -----------------------------------------------------------------


def record(
    ledger: ao.Ledger, step: int, chunk: int, parts: Any, times: dict[str, tuple[float, float]]
) -> None:
    note = ledger.at(step, chunk, parts)
    elements = sum(size for _, size in parts)
    for hop, (start_s, stop_s) in times.items():
        nbytes = 4 * elements if hop in ("d2h", "h2d") else 0
        note(hop, elements, nbytes, Span(start_s, stop_s))  # type: ignore[arg-type]


@pytest.fixture
def two_steps() -> ao.Ledger:
    """Three elements of a and five of b in two chunks; copies overlap in the second step."""
    ledger = ao.Ledger()
    ledger.at()("h2d", 2, 16, Span(0.0, 0.5))
    for step, start in ((3, 1.0), (4, 10.0)):
        for chunk, parts in enumerate(((("a", 3), ("b", 1)), (("b", 4),))):
            at = start + chunk
            times = {"d2h": (at, at + 1.5), "update": (at + 2, at + 3), "h2d": (at + 3, at + 3.5)}
            record(ledger, step, chunk, parts, times)
    return ledger


def test_an_event_knows_its_parameters(two_steps: ao.Ledger) -> None:
    assert two_steps.events[0].parts == ()
    assert two_steps.events[1].parts == (("a", 3), ("b", 1))


def test_bytes_by_parameter_are_its_share_of_each_chunk(two_steps: ao.Ledger) -> None:
    assert two_steps.bytes_by_parameter() == {"a": 48, "b": 80}
    assert two_steps.bytes_by_parameter("d2h") == {"a": 24, "b": 40}
    assert two_steps.bytes(parameter="a") == 48
    assert two_steps.bytes("h2d", step=3, parameter="b") == 20
    assert two_steps.bytes("update", parameter="b") == 0
    with pytest.raises(ValueError, match=r"no parameter 'c' was recorded; it has 'a', 'b'"):
        two_steps.bytes(parameter="c")


def test_sums_per_step_leave_out_copies_outside(two_steps: ao.Ledger) -> None:
    assert two_steps.steps.tolist() == [3, 4]
    assert two_steps.steps.dtype == np.int64
    assert two_steps.bytes_per_step().tolist() == [64, 64]
    assert two_steps.bytes_per_step("d2h").tolist() == [32, 32]
    assert two_steps.bytes_per_step("apply").tolist() == [0, 0]
    assert two_steps.bytes_per_step().dtype == np.int64
    assert two_steps.seconds_per_step("d2h").tolist() == [3.0, 3.0]
    assert two_steps.step_times().tolist() == [[1.0, 5.5], [10.0, 14.5]]
    assert two_steps.bytes() == 128 + 16


def test_bandwidth_counts_no_second_twice(two_steps: ao.Ledger) -> None:
    assert two_steps.bandwidth("d2h", step=3) == 32 / 2.5
    assert two_steps.bandwidth("d2h") == 64 / 5
    assert two_steps.bandwidth("h2d", step=4) == 32 / 1
    assert math.isnan(two_steps.bandwidth("update"))
    assert math.isnan(two_steps.bandwidth("d2h", step=9))
    nested = ao.Ledger()
    for span in (Span(0.0, 9.0), Span(1.0, 2.0), Span(3.0, 10.0)):
        nested.at(1, 0)("d2h", 5, 20, span)
    assert nested.bandwidth("d2h") == 6
    instant = ao.Ledger()
    instant.at(1, 0)("d2h", 1, 4, Span(1.0, 1.0))
    assert instant.bandwidth("d2h") == math.inf


def test_the_array_holds_the_events(two_steps: ao.Ledger) -> None:
    table = two_steps.to_array()
    assert table.dtype["hop"] == np.dtype("U7")
    assert table[0].tolist() == ("h2d", -1, -1, 2, 16, 0.0, 0.5)
    assert table[6].tolist() == ("h2d", 3, 1, 4, 16, 5.0, 5.5)
    table["nbytes"] = 0
    assert two_steps.bytes() == 144  # it is a copy


def test_what_is_recorded_after_a_question_is_in_the_next_answer(two_steps: ao.Ledger) -> None:
    assert (len(two_steps.to_array()), two_steps.bytes()) == (13, 144)
    record(two_steps, 5, 0, (("c", 1),), {"d2h": (20.0, 21.0)})
    assert (len(two_steps.to_array()), two_steps.bytes(), two_steps.seconds("d2h")) == (14, 148, 7)
    assert two_steps.bytes_by_parameter("d2h") == {"a": 24, "b": 40, "c": 4}
    two_steps.clear()
    assert (len(two_steps.to_array()), two_steps.bytes(), two_steps.steps.size) == (0, 0, 0)
    assert two_steps.bytes_by_parameter() == {}


def test_nothing_recorded_gives_empty_arrays() -> None:
    ledger = ao.Ledger()
    assert ledger.steps.shape == ledger.bytes_per_step().shape == (0,)
    assert ledger.seconds_per_step("d2h").shape == (0,)
    assert ledger.step_times().shape == (0, 2)
    assert ledger.to_array().shape == ledger.memory().shape == (0,)
    assert math.isnan(ledger.bandwidth("d2h"))
    assert (ledger.simulated, ledger.memory_limit) == (False, None)


# -- with an optimizer ----------------------------------------------------------------------------


def train(kind: Any, ledger: ao.Ledger, device: ao.Backend, steps: int = 2, **options: Any) -> Any:
    arrays = {"a": np.ones(30, np.float32), "b": np.ones(5, np.float32)}
    optimizer = kind(
        [ao.Parameter(device.asarray(x), n) for n, x in arrays.items()], ledger=ledger, **options
    )
    for _ in range(steps):
        optimizer([device.asarray(x) for x in arrays.values()])
    return optimizer


def test_an_offloaded_run_by_parameter() -> None:
    ledger = ao.Ledger()
    train(ao.AdamOffload, ledger, ao.get_backend("numpy"), chunk_bytes=32)
    assert ledger.bytes_by_parameter("d2h") == {"a": 240, "b": 40}
    assert ledger.steps.tolist() == [1, 2]
    begins, ends = ledger.step_times().T
    assert (begins < ends).all()
    assert ends[0] <= begins[1]


def test_memory_is_sampled_around_every_step() -> None:
    ledger, device = ao.Ledger(), ao.get_backend("numpy", memory_bytes=10_000)
    data = device.asarray(np.zeros(25, np.float32))
    train(ao.AdamOffload, ledger, device, chunk_bytes=32)
    memory = ledger.memory()
    assert memory["step"].tolist() == [1] * 12 + [2] * 12
    assert (np.diff(memory["at_s"]) >= 0).all()
    rows = {(row["place"].item(), row["kind"].item()): row["nbytes"].item() for row in memory[:6]}
    assert rows == {
        ("device", "parameters"): 140,
        ("device", "gradients"): 140,
        ("device", "staging"): 96,
        ("device", "other"): data.nbytes,
        ("pinned", "staging"): 96,
        ("host", "moments"): 280,
    }
    assert ledger.memory_limit == 10_000


def test_a_resident_run_has_its_moments_on_the_device() -> None:
    ledger, device = ao.Ledger(), ao.get_backend("sim")
    train(ao.Adam, ledger, device)
    assert ledger.simulated
    assert ledger.bytes() == 0
    assert [(e.hop, e.step, e.parts) for e in ledger.events] == [
        ("apply", step, (("a", 30), ("b", 5))) for step in (1, 2)
    ]
    rows = {tuple(row.tolist()[2:]) for row in ledger.memory()[:4]}
    assert rows == {
        ("device", "parameters", 140),
        ("device", "gradients", 140),
        ("device", "moments", 280),
        ("device", "other", 0),
    }


def test_optimizers_on_one_clock_may_share_a_ledger() -> None:
    ledger = ao.Ledger()
    for _ in range(2):
        train(ao.AdamOffload, ledger, ao.get_backend("numpy"), 1)
    assert ledger.bytes("d2h") == 280
    simulated, device = ao.Ledger(), ao.get_backend("sim")
    for _ in range(2):
        train(ao.AdamOffload, simulated, device, 1)
    assert simulated.simulated


@pytest.mark.parametrize(("one", "other"), [("numpy", "sim"), ("sim", "numpy"), ("sim", "sim")])
@pytest.mark.parametrize("kind", [ao.Adam, ao.AdamOffload])
def test_two_clocks_do_not_mix(one: str, other: str, kind: Any) -> None:
    ledger = ao.Ledger()
    train(ao.AdamOffload, ledger, ao.get_backend(one), 1)
    with pytest.raises(ValueError, match="times of another clock"):
        train(kind, ledger, ao.get_backend(other), 1)


def test_simulated_times_are_the_devices() -> None:
    ledger = ao.Ledger()
    device = ao.get_backend("sim")
    train(ao.AdamOffload, ledger, device, 1)
    assert ledger.simulated
    assert ledger.step_times()[0, 0] < 1  # seconds of the virtual clock, which begins at 0


# -- files ----------------------------------------------------------------------------------------


def test_everything_is_in_the_archive(tmp_path: Path) -> None:
    ledger, names = ao.Ledger(), ('=1,"x"\n', "Größe 🙂")
    record(ledger, 1, 0, ((names[0], 1), (names[1], 2)), {"d2h": (0.0, 1.0)})
    ledger.save(tmp_path / "l.npz")
    with np.load(tmp_path / "l.npz", allow_pickle=False) as data:
        np.testing.assert_array_equal(data["events"], ledger.to_array())
        np.testing.assert_array_equal(data["memory"], ledger.memory())
        assert data["steps"].tolist() == [1]
        assert data["step_times"].tolist() == [[0, 1]]
        assert tuple(data["parameters"].tolist()) == names
        assert data["parameter_bytes"].tolist() == [4, 8]
        assert (bool(data["simulated"]), int(data["memory_limit"])) == (False, -1)


def test_the_table_holds_the_events_to_the_last_digit(tmp_path: Path) -> None:
    ledger = ao.Ledger()
    record(ledger, 1, 0, (("w", 3),), {"d2h": (0.1, 1 / 3)})
    ledger.save(tmp_path / "l.csv")
    with open(tmp_path / "l.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "hop": "d2h",
        "step": "1",
        "chunk": "0",
        "elements": "3",
        "nbytes": "12",
        "start_s": "0.1",
        "stop_s": repr(1 / 3),
    }
    with pytest.raises(ValueError, match=r"must end in \.npz or \.csv"):
        ledger.save(tmp_path / "l.json")


def test_a_null_ledger_samples_no_memory() -> None:
    device = ao.get_backend("numpy")
    train(ao.AdamOffload, NO_LEDGER, device, 1)
    assert (len(NO_LEDGER), NO_LEDGER.memory().size) == (0, 0)


def test_a_notebook_shows_hops_and_bytes(ledger: ao.Ledger) -> None:
    page = ledger._repr_html_()
    assert "<caption>Ledger of" in page
    moved = ledger.to_array()
    copied = int(moved["nbytes"][moved["hop"] == "d2h"].sum())
    assert f"<tr><td>d2h</td><td>d2h</td><td>{(moved['hop'] == 'd2h').sum()}</td>" in page
    assert f"<td>{copied:,}</td>" in page
    assert "<td>read</td>" not in page
    assert "0 steps" in ao.Ledger()._repr_html_()
