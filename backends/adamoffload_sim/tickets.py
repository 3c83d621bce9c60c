"""Tickets of the virtual clock, which says when work is done before anybody asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from adamoffload.device.backend import Ticket
from adamoffload.estimates.clock import Clock
from adamoffload_sim.flights import Flight

__all__ = ["SimTicket"]


@final
class SimTicket(Ticket):
    """What was issued to an engine: when it begins and ends is known at once, but not told.

    Parameters
    ----------
    clock : Clock
        Whose times these are.
    wait : callable
        Takes the ticket and brings the host to its end.
    start_s, stop_s : float
        Begin and end on the virtual clock.
    known : set of Flight
        Copies that are done when this is.
    computed : int
        How many operations of the device's queue are done when this is.
    """

    __slots__ = ("_start_s", "_wait", "clock", "computed", "end_s", "known")

    def __init__(
        self,
        clock: Clock,
        wait: Callable[[SimTicket], None],
        start_s: float,
        stop_s: float,
        known: frozenset[Flight],
        computed: int,
    ) -> None:
        self.clock = clock
        self._wait = wait
        self._start_s = start_s
        self.end_s = stop_s
        self.known = known
        self.computed = computed

    def wait(self) -> None:
        """Advance the host's time to the end of the operation; its data has then arrived."""
        self._wait(self)

    @property
    def start_s(self) -> float:
        """When it began, in virtual seconds; waits until it is done."""
        self.wait()
        return self._start_s

    @property
    def stop_s(self) -> float:
        """When it ended, in virtual seconds; waits until it is done."""
        self.wait()
        return self.end_s
