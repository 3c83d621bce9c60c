"""A virtual clock: when each lane of a machine is free, and what the host's memory has to give.

Times are sums and maxima of durations, in the order in which work is issued: the same program has
the same times, to the last digit, on any machine. The ``sim`` backend runs on this clock, and so do
estimates.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Literal, get_args

from adamoffload.estimates.hardware import ADAM_BYTES, Host, Pace

__all__ = ["Clock", "Engine", "SharedMemory"]

Engine = Literal["device", "d2h", "h2d", "read", "write"]


class SharedMemory:
    """Bandwidth that is shared: who comes first takes what it can, the next what is left.

    Parameters
    ----------
    bytes_per_s : float
        Of all together.

    Examples
    --------
    A copy at 3 bytes a second leaves 1 for whoever comes later, and all 4 when it is done:

    >>> memory = SharedMemory(4)
    >>> memory.take(0.0, nbytes=6, bytes_per_s=3)
    2.0
    >>> memory.take(0.0, nbytes=6, bytes_per_s=math.inf)
    3.0
    """

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self._from_s = [0.0]  # from each of these times on,
        self._left = [bytes_per_s]  # so much is left

    def take(self, start_s: float, nbytes: float, bytes_per_s: float) -> float:
        """Move bytes from a time on, as fast as they can and may; return when they are through."""
        if self.bytes_per_s == math.inf:
            return start_s + nbytes / bytes_per_s
        if not nbytes:
            return start_s
        at = self._cut(start_s)
        while True:
            rate = min(self._left[at], bytes_per_s)
            stop_s = self._from_s[at + 1] if at + 1 < len(self._from_s) else math.inf
            if rate > 0:
                done_s = self._from_s[at] + nbytes / rate
                if done_s <= stop_s:
                    if done_s < stop_s:
                        self._cut(done_s)
                    self._left[at] -= rate
                    return done_s
                nbytes -= (stop_s - self._from_s[at]) * rate
                self._left[at] -= rate
            at += 1

    def forget(self, before_s: float) -> None:
        """Forget the time before `before_s`: nothing will begin there."""
        at = bisect_right(self._from_s, before_s) - 1
        if at > 64:  # seldom: it moves all that follows
            del self._from_s[:at], self._left[:at]

    def _cut(self, at_s: float) -> int:
        """Let a piece of time begin at `at_s`; return its index."""
        at = bisect_right(self._from_s, at_s) - 1
        if self._from_s[at] == at_s:
            return at
        self._from_s.insert(at + 1, at_s)
        self._left.insert(at + 1, self._left[at])
        return at + 1


class Clock:
    """A host thread and the engines that work for it, each on one thing at a time, in order.

    Parameters
    ----------
    host : Host
        How fast its memory and its arithmetic are.

    Attributes
    ----------
    host_s : float
        The host's time: that of everything it does next.

    Examples
    --------
    >>> clock = Clock(Host(ns_per_parameter=1e9))
    >>> clock.occupy("d2h", clock.start("d2h", 0.0), 2.0)
    2.0
    >>> clock.start("d2h", 1.0), clock.start("h2d", 1.0), clock.host_s
    (2.0, 1.0, 0.0)
    >>> clock.update(3)
    3.0
    """

    def __init__(self, host: Host) -> None:
        self.host_s = 0.0
        self._host = host
        self._memory = SharedMemory(host.memory_bytes_per_s)
        self._free_s: dict[Engine, float] = dict.fromkeys(get_args(Engine), 0.0)

    def start(self, engine: Engine, ready_s: float) -> float:
        """Return when an engine can begin what the host issues now and is ready at `ready_s`."""
        return max(self._free_s[engine], ready_s, self.host_s)

    def occupy(self, engine: Engine, start_s: float, seconds: float) -> float:
        """Keep an engine busy, and return until when."""
        self._free_s[engine] = start_s + seconds
        return self._free_s[engine]

    def carry(self, engine: Engine, start_s: float, nbytes: float, pace: Pace) -> float:
        """Keep an engine busy with a copy through the host's memory; return until when."""
        if self._host.memory_bytes_per_s == math.inf:
            return self.occupy(engine, start_s, pace.seconds(nbytes))
        stop_s = self._memory.take(start_s + pace.latency_s, nbytes, pace.bytes_per_s)
        return self.occupy(engine, start_s, stop_s - start_s)

    def update(self, elements: float, nbytes_each: float = ADAM_BYTES) -> float:
        """Let the host run Adam on so many parameters; return its time afterwards."""
        host = self._host
        if host.ns_per_parameter is not None:
            self.host_s += elements * host.ns_per_parameter / 1e9
        else:
            rate = min(host.update_bytes_per_s, host.memory_bytes_per_s)
            self._memory.forget(self.host_s)
            self.host_s = self._memory.take(self.host_s, elements * nbytes_each, rate)
        return self.host_s

    def idle_s(self) -> float:
        """Return when the host and all engines have nothing left to do."""
        return max(self.host_s, *self._free_s.values())
