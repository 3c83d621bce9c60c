"""The virtual clock: when each engine is free, and the tickets that say when work is done.

Times are sums and maxima of the durations of what was issued, in the order in which it was issued:
the same program has the same times, to the last digit, on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, final, get_args

from adamoffload.device.backend import Ticket
from adamoffload_sim.flights import Flight

__all__ = ["Clock", "Engine", "SimTicket"]

Engine = Literal["device", "d2h", "h2d", "read", "write"]


class Clock:
    """A host thread and the engines that work for it, each on one thing at a time, in order.

    Attributes
    ----------
    host_s : float
        The host's time: that of everything it does next.

    Examples
    --------
    >>> clock = Clock()
    >>> clock.occupy("d2h", clock.start("d2h", 0.0), 2.0)
    2.0
    >>> clock.start("d2h", 1.0), clock.start("h2d", 1.0), clock.host_s
    (2.0, 1.0, 0.0)
    """

    def __init__(self) -> None:
        self.host_s = 0.0
        self._free_s: dict[Engine, float] = dict.fromkeys(get_args(Engine), 0.0)

    def start(self, engine: Engine, ready_s: float) -> float:
        """Return when an engine can begin what the host issues now and is ready at `ready_s`."""
        return max(self._free_s[engine], ready_s, self.host_s)

    def occupy(self, engine: Engine, start_s: float, seconds: float) -> float:
        """Keep an engine busy, and return until when."""
        self._free_s[engine] = start_s + seconds
        return self._free_s[engine]

    def idle_s(self) -> float:
        """Return when the host and all engines have nothing left to do."""
        return max(self.host_s, *self._free_s.values())


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
