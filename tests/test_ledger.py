"""The ledger: what was recorded, in order, summed by direction and step."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest

import adamoffload as ao
from adamoffload.ledger import HOPS, NO_LEDGER, Event, ignore


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
        with pytest.raises(ValueError, match=r"hop must be one of prepare, d2h.*got 'down'"):
            ask("down")  # type: ignore[arg-type]


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
    assert HOPS == ("prepare", "d2h", "wait", "update", "h2d", "apply")
