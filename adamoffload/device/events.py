"""Copies beside computation on a GPU: streams, events, and the tickets that are made of them.

What CuPy and PyTorch have in common, since both have it from CUDA. A stream does what is issued to
it in order; an event is a place in a stream, with a time. The host waits for events, and so do
other streams. How a library records one and asks for it is `Events`, the little that differs.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, final

import numpy as np

from adamoffload.device.backend import HostArray, Ticket

__all__ = ["Clock", "EventTicket", "Events", "Streams", "arriving"]


class Events(ABC):
    """A library's events. They have ``synchronize()``, and streams have ``wait_event(event)``."""

    @abstractmethod
    def record(self, stream: Any, *, timed: bool = True) -> Any:
        """Return a new event, at the end of a stream."""

    @abstractmethod
    def done(self, event: Any) -> bool:
        """Return whether an event was reached, at this moment."""

    @abstractmethod
    def seconds(self, start: Any, stop: Any) -> float:
        """Return the time between two events that were reached."""


class _Anchor:
    """An event, and when it was reached on the host's clock."""

    __slots__ = ("_event", "_events", "at_s")

    def __init__(self, events: Events, event: Any, at_s: float) -> None:
        self._events = events
        self._event = event
        self.at_s = at_s

    def times(self, start: Any, stop: Any) -> tuple[float, float]:
        """Return when two events that are done were reached."""
        start_s = self.at_s + self._events.seconds(self._event, start)
        return start_s, start_s + self._events.seconds(start, stop)


class Clock:
    """Makes an anchor each second, on a stream of its own, where there is nothing to wait for.

    One anchor for ever would do less and less: the GPU's clock runs away from the host's, and the
    distance of two events is a float32.
    """

    __slots__ = ("_anchor", "_events", "_now", "_stream")

    def __init__(self, events: Events, stream: Any, now: Callable[[], float]) -> None:
        self._events = events
        self._stream = stream
        self._now = now
        self._anchor: _Anchor | None = None

    def anchor(self) -> _Anchor:
        """Return the last anchor, or a new one if that is a second old."""
        anchor = self._anchor
        if anchor is None or self._now() - anchor.at_s > 1:
            event = self._events.record(self._stream)
            event.synchronize()
            anchor = self._anchor = _Anchor(self._events, event, self._now())
        return anchor


@final
class EventTicket(Ticket):
    """An operation between two events of one stream, which it drops when its times are read."""

    __slots__ = ("_anchor", "_events", "_finish", "_finishing", "_held", "_places", "_times")

    def __init__(
        self,
        events: Events,
        anchor: _Anchor,
        start: Any,
        stop: Any,
        held: tuple[Any, ...] = (),
        finish: Callable[[], object] | None = None,
    ) -> None:
        self._events = events
        self._anchor = anchor
        self._places: tuple[Any, Any] | None = (start, stop)
        self._times: tuple[float, float] | None = None
        self._held = held  # memory that the operation reads or writes
        self._finish = finish  # what remains for the host to do
        self._finishing = threading.RLock()  # who comes second returns when it is done, not before

    def wait(self) -> None:
        """Block the host until the operation is done."""
        places = self._places
        if places is not None:
            places[1].synchronize()
        self.finish()

    def finish(self) -> None:
        """Do what remains for the host, once, and let go of the memory; the device is done."""
        with self._finishing:
            if self._finish is not None:
                self._finish()
            self._finish, self._held = None, ()

    def hold(self, stream: Any) -> None:
        """Let `stream`, but not the host, wait for the operation."""
        places = self._places
        if self._finish is not None:
            self.wait()
        elif places is not None:
            stream.wait_event(places[1])

    @property
    def done(self) -> bool:
        """Whether the device is done with it, at this moment."""
        places = self._places
        return places is None or self._events.done(places[1])

    def _read(self) -> tuple[float, float]:
        self.wait()
        places, times = self._places, self._times  # in this order: dropped after the other is set
        if times is None:
            assert places is not None
            times = self._times = self._anchor.times(*places)
            self._places = None
        return times

    @property
    def start_s(self) -> float:
        """When it began, in seconds on the backend's clock; waits until it is done."""
        return self._read()[0]

    @property
    def stop_s(self) -> float:
        """When it ended, in seconds on the backend's clock; waits until it is done."""
        return self._read()[1]


class Streams:
    """A stream for each direction of the link, the clock, and what is in flight.

    Parameters
    ----------
    events : Events
        The library's.
    new_stream : callable
        Makes a stream that is not ordered with the default one.
    now : callable
        Tells the time on the host's clock.

    Attributes
    ----------
    down, up : stream
        For copies to the host, and to the device.
    clock : Clock
        Places events on the host's clock.
    """

    def __init__(
        self, events: Events, new_stream: Callable[[], Any], now: Callable[[], float]
    ) -> None:
        self.down, self.up = new_stream(), new_stream()
        self._events = events
        self.clock = Clock(events, new_stream(), now)
        self._in_flight: deque[EventTicket] = deque()
        self._retiring = threading.RLock()  # what dies in there may run anything

    def compute(
        self, stream: Any, function: Callable[[], object], after: tuple[Ticket, ...]
    ) -> Ticket:
        """Issue to a stream what `function` computes, after tickets."""
        self._hold(stream, after)
        start = self._events.record(stream)
        function()
        stop = self._events.record(stream)
        return EventTicket(self._events, self.clock.anchor(), start, stop)

    def begin(self, stream: Any, caller: Any, after: tuple[Ticket, ...]) -> Any:
        """Let a copy stream wait for `after`, or for the caller's stream; mark the beginning."""
        if after:
            self._hold(stream, after)
        else:
            stream.wait_event(self._events.record(caller, timed=False))
        return self._events.record(stream)

    def end(
        self,
        stream: Any,
        start: Any,
        held: tuple[Any, ...],
        finish: Callable[[], object] | None = None,
    ) -> Ticket:
        """Mark the end of a copy; keep its arrays until then, and let go of those that are done."""
        stop = self._events.record(stream)
        ticket = EventTicket(self._events, self.clock.anchor(), start, stop, held, finish)
        with self._retiring:
            while self._in_flight and (oldest := self._in_flight[0]).done:
                with suppress(ValueError):  # `done` may have run a handler that came by first
                    self._in_flight.remove(oldest)
                oldest.finish()
            self._in_flight.append(ticket)
        return ticket

    def finish(self) -> None:
        """Do what remains for the host, when the device is done with everything."""
        for ticket in tuple(self._in_flight):
            ticket.finish()

    def _hold(self, stream: Any, after: tuple[Ticket, ...]) -> None:
        for ticket in after:
            if isinstance(ticket, EventTicket):
                ticket.hold(stream)
            else:
                ticket.wait()  # done already, unless it is a stranger's


def arriving(target: HostArray, *, packed: bool) -> tuple[HostArray, Callable[[], object] | None]:
    """Return where a copy to the host can arrive, and what the host has to do when it has.

    Examples
    --------
    >>> import numpy as np
    >>> target = np.zeros((2, 2))[:, 0]
    >>> arrived, finish = arriving(target, packed=False)
    >>> arrived[...] = [1, 2]
    >>> finish()
    >>> target
    array([1., 2.])
    """
    if packed:
        return target, None
    arrived = np.empty(target.shape, target.dtype)
    return arrived, partial(np.copyto, target, arrived)
