"""One step's timeline: who worked on which chunk, and when; as numbers and as text.

`adamoffload.plots.timeline` draws it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from adamoffload.observe.ledger import Ledger
from adamoffload.plan.hops import LANES, HopName, Lane, working

__all__ = ["StepTimeline", "step_timeline", "timeline_text"]

_ALWAYS: tuple[Lane, ...] = ("device", "d2h", "host", "h2d")
"""Lanes that are shown even where nothing happened in them."""

_MARKS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, eq=False)
class StepTimeline:
    """What was recorded of one step, by lane.

    Attributes
    ----------
    step : int
        Its number, counted from 1.
    events : ndarray
        The step's rows of `Ledger.to_array`.
    simulated : bool
        Whether the clock was a simulated one.
    """

    step: int
    events: np.ndarray[Any, Any]
    simulated: bool

    @property
    def begin_s(self) -> float:
        """When the first hop began, on the backend's clock."""
        return float(self.events["start_s"].min())

    @property
    def seconds(self) -> float:
        """From the begin of the first hop to the end of the last."""
        return float(self.events["stop_s"].max()) - self.begin_s

    @property
    def chunks(self) -> int:
        """How many chunks the step was cut into."""
        numbers = np.unique(self.events["chunk"])
        return int(np.count_nonzero(numbers >= 0))  # a check is for all of them

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The lanes of device, link and host, and those of the disk if something happened there."""
        return tuple(lane for lane in LANES if lane in _ALWAYS or len(self.lane(lane)))

    @property
    def waits(self) -> np.ndarray[Any, Any]:
        """The rows in which the host waited; those that took no time are left out."""
        return self._hops(("wait",))

    def lane(self, lane: str) -> np.ndarray[Any, Any]:
        """Return the rows of a lane; hops that took no time are left out."""
        return self._hops(working(lane))

    def busy_s(self, lane: str) -> float:
        """Return for how long a lane worked; hops that overlap count once."""
        rows = self.lane(lane)
        if not len(rows):
            return 0.0
        order = np.argsort(rows["start_s"])
        start, stop = rows["start_s"][order], np.maximum.accumulate(rows["stop_s"][order])
        covered = np.concatenate(([-np.inf], stop[:-1]))  # until when the hops before it reach
        return float(np.sum(np.maximum(stop - np.maximum(start, covered), 0)))

    @property
    def bottleneck(self) -> str:
        """The lane that worked longest."""
        return max(self.lanes, key=self.busy_s)

    def _hops(self, hops: tuple[HopName, ...]) -> np.ndarray[Any, Any]:
        rows = self.events
        return rows[np.isin(rows["hop"], hops) & (rows["stop_s"] > rows["start_s"])]


def step_timeline(ledger: Ledger, step: int | None = None) -> StepTimeline:
    """Return what was recorded of one step, by lane.

    Parameters
    ----------
    ledger : Ledger
        Where the hops were recorded; those in flight are waited for.
    step : int, optional
        Which step, counted from 1; the last one, if left out.

    Raises
    ------
    ValueError
        If there is no such step in the ledger, or none at all.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> from adamoffload_sim import Device, Link
    >>> device = ao.get_backend(
    ...     "sim", link=Link(4), device=Device(48, 1e9), host_ns_per_parameter=4e9
    ... )
    >>> w = ao.Parameter(device.asarray(np.zeros(4, np.float32)), name="w")
    >>> ledger = ao.Ledger()
    >>> opt = ao.AdamOffload([w], ledger=ledger, chunk_bytes=4)
    >>> opt([device.asarray(np.ones(4, np.float32))])
    (True,)
    >>> last = step_timeline(ledger)
    >>> last.seconds, last.chunks, last.bottleneck, last.busy_s("host"), last.busy_s("d2h")
    (18.25, 4, 'host', 16.0, 4.0)
    """
    events = ledger.to_array()
    steps = np.unique(events["step"][events["step"] >= 0])
    if not len(steps):
        asked = "" if step is None else f"no hops of step {step!r}: it has "
        raise ValueError(
            f"timeline: the ledger has {asked}recorded no step; pass it to "
            f"AdamOffload(..., ledger=ledger) and take one"
        )
    wanted = int(steps[-1]) if step is None else step
    events = events[events["step"] == wanted]
    if not len(events):
        raise ValueError(
            f"timeline: the ledger has no hops of step {step!r}; it has steps {steps[0]} to "
            f"{steps[-1]}"
        )
    return StepTimeline(wanted, events, ledger.simulated)


def timeline_text(ledger: Ledger, step: int, *, width: int = 64) -> str:
    """Draw the hops of one step, a line for each lane.

    Parameters
    ----------
    ledger : Ledger
        Where they were recorded; hops in flight are waited for.
    step : int
        Which step, counted from 1.
    width : int
        Characters for the whole step.

    Returns
    -------
    str
        The last digit of a chunk's index, in base 36, where a lane works on it, a star for a
        ``check``, and a dot where it is idle; then the lane's busy time. A hop shorter than a
        character gets one.

    Raises
    ------
    ValueError
        If there is no such step in the ledger, or `width` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> from adamoffload_sim import Device, Link
    >>> device = ao.get_backend(
    ...     "sim", link=Link(4), device=Device(48, 1e9), host_ns_per_parameter=4e9
    ... )
    >>> w = ao.Parameter(device.asarray(np.zeros(4, np.float32)), name="w")
    >>> g = device.asarray(np.ones(4, np.float32))
    >>> ledger = ao.Ledger()
    >>> opt = ao.AdamOffload([w], ledger=ledger, chunk_bytes=4)
    >>> opt([g])
    (True,)
    >>> print(timeline_text(ledger, 1, width=73))
    step 1: 18.25 s
    device |........................0...............1...............2...............3| 1 s busy
    d2h    |000011112222.............3333............................................| 4 s busy
    host   |....0000000000000000111111111111111122222222222222223333333333333333.....| 16 s busy
    h2d    |....................0000............1111............2222............3333.| 4 s busy
    """
    if width < 1:
        raise ValueError(f"timeline_text: width must be at least 1, got {width}")
    timeline = step_timeline(ledger, step)
    label = max(map(len, timeline.lanes))
    lines = [f"step {step}: {timeline.seconds:.6g} s"]
    for lane in timeline.lanes:
        drawn = _draw(timeline.lane(lane), timeline.begin_s, timeline.seconds, width)
        lines.append(f"{lane:{label}} |{drawn}| {timeline.busy_s(lane):.6g} s busy")
    return "\n".join(lines)


def _draw(rows: np.ndarray[Any, Any], begin_s: float, total_s: float, width: int) -> str:
    line = ["."] * width
    for row in rows:
        first = min(int((row["start_s"] - begin_s) / total_s * width), width - 1)
        last = max(round((row["stop_s"] - begin_s) / total_s * width), first + 1)
        mark = "*" if row["hop"] == "check" else _MARKS[row["chunk"] % len(_MARKS)]
        line[first:last] = [mark] * (min(last, width) - first)
    return "".join(line)
