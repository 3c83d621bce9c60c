"""Streams, events and their tickets, on events that count what is issued.

What a library must do with them is tested on its stand-ins: tests/backends/test_cupy_backend.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adamoffload.device.backend import Done
from adamoffload.device.events import Events, EventTicket, Streams, arriving


class Stream:
    def __init__(self) -> None:
        self.waits_for: list[Any] = []

    def wait_event(self, event: Any) -> None:
        self.waits_for.append(event)


class Event:
    def __init__(self, number: int) -> None:
        self.number = number
        self.waits = 0
        self.reached = False

    def synchronize(self) -> None:
        self.waits += 1
        self.reached = True


class Counting(Events):
    """Each event is a second after the one before."""

    def __init__(self) -> None:
        self.made: list[Event] = []
        self.untimed: list[Event] = []

    def record(self, stream: Any, *, timed: bool = True) -> Event:
        event = Event(len(self.made))
        self.made.append(event)
        if not timed:
            self.untimed.append(event)
        return event

    def done(self, event: Any) -> bool:
        return bool(event.reached)

    def seconds(self, start: Any, stop: Any) -> float:
        return float(stop.number - start.number)


def streams(events: Events, now: float = 100.0) -> Streams:
    return Streams(events, Stream, lambda: now)


def test_a_copy_without_tickets_comes_after_the_callers_stream() -> None:
    events = Counting()
    lanes = streams(events)
    lanes.begin(lanes.down, Stream(), ())
    assert lanes.down.waits_for == events.untimed
    assert lanes.up.waits_for == []


def test_a_copy_with_tickets_comes_after_these_alone_and_the_host_goes_on() -> None:
    events = Counting()
    lanes = streams(events)
    first = lanes.end(lanes.up, lanes.begin(lanes.up, Stream(), ()), ())
    _, _, stop, anchor = events.made
    lanes.begin(lanes.down, Stream(), (first, Done(0.0, 0.0)))
    assert lanes.down.waits_for == [stop]
    assert [event for event in events.made if event.waits] == [anchor]


def test_times_are_those_of_the_events_beside_the_anchor() -> None:
    events = Counting()
    lanes = streams(events)
    ticket = lanes.compute(Stream(), lambda: None, ())  # events 0 and 1; the anchor is the third
    assert isinstance(ticket, EventTicket)
    assert not ticket.done
    assert (ticket.start_s, ticket.stop_s, ticket.seconds) == (98.0, 99.0, 1.0)
    assert ticket.done


def test_what_is_in_flight_is_kept_until_the_device_is_done() -> None:
    events, host = Counting(), np.zeros((3, 2))
    lanes = streams(events)
    arrived, finish = arriving(host[:, 0], packed=False)
    arrived[...] = [1, 2, 3]
    ticket = lanes.end(lanes.down, lanes.begin(lanes.down, Stream(), ()), (arrived,), finish)
    assert not host.any()
    ticket.wait()
    assert host[:, 0].tolist() == [1, 2, 3]
    later = lanes.end(lanes.down, lanes.begin(lanes.down, Stream(), ()), (arrived,))
    lanes.finish()
    later.wait()
    same, nothing = arriving(arrived, packed=True)
    assert same is arrived
    assert nothing is None
