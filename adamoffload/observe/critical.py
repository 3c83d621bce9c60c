"""The critical path: which hops a step's time is made of.

From the last hop of a step it goes back: a hop began when its lane, or what it waited for, was
done, so before it stands the hop that had ended last. What is not on the path could be slower for
a while, or faster, without the step noticing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from adamoffload.plan.hops import LANE_OF

__all__ = ["CriticalPath", "Segment", "critical_path"]

_SHOWN = 16  # lines of a waterfall


class Segment(NamedTuple):
    """A part of a step's time.

    Attributes
    ----------
    lane : str
        Who worked, or ``"idle"``: nothing of this step, though perhaps of the one before.
    hop : str
        The hop, one of `HOPS`, or ``"idle"``.
    chunk : int
        Of which chunk; -1 for a ``check`` and where nothing worked.
    start_s, stop_s : float
        On the backend's clock. A segment begins where the one before it ends, to the last bit.
    """

    lane: str
    hop: str
    chunk: int
    start_s: float
    stop_s: float

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.stop_s - self.start_s


@dataclass(frozen=True, slots=True)
class CriticalPath:
    """What a step's time is made of; ``str`` draws it as a waterfall.

    Attributes
    ----------
    step : int
        Counted from 1.
    segments : tuple of Segment
        From the step's begin to its end, without a gap.
    """

    step: int
    segments: tuple[Segment, ...]

    @property
    def begin_s(self) -> float:
        """When the step began, on the backend's clock."""
        return self.segments[0].start_s

    @property
    def seconds(self) -> float:
        """From the step's begin to its end."""
        return self.segments[-1].stop_s - self.begin_s

    @property
    def seconds_by_lane(self) -> dict[str, float]:
        """How much of it each lane takes; the lane that takes most comes first."""
        found: dict[str, float] = {}
        for segment in self.segments:
            found[segment.lane] = found.get(segment.lane, 0.0) + segment.seconds
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def runs(self) -> list[list[Segment]]:
        """The segments, those that follow each other in one lane together."""
        runs: list[list[Segment]] = []
        for segment in self.segments:
            if not runs or runs[-1][0].lane != segment.lane:
                runs.append([])
            runs[-1].append(segment)
        return runs

    def __str__(self) -> str:
        shares = ", ".join(
            f"{lane} {seconds / self.seconds:.0%}" for lane, seconds in self.seconds_by_lane.items()
        )
        lines = [f"step {self.step}: {self.seconds:.6g} s, of which {shares}"]
        for run in self.runs[:_SHOWN]:
            bar = self._bar(run[0].start_s, run[-1].stop_s)
            seconds = run[-1].stop_s - run[0].start_s
            lines.append(f"{run[0].lane:6} |{bar}| {seconds:.6g} s: {_said(run)}".rstrip(": "))
        if len(self.runs) > _SHOWN:
            lines.append(f"and {len(self.runs) - _SHOWN:,} more")
        return "\n".join(lines)

    def _bar(self, start_s: float, stop_s: float, width: int = 40) -> str:
        first = min(int((start_s - self.begin_s) / self.seconds * width), width - 1)
        last = max(round((stop_s - self.begin_s) / self.seconds * width), first + 1)
        return ("." * first + "#" * (last - first)).ljust(width, ".")


def _said(run: list[Segment]) -> str:
    if run[0].lane == "idle":
        return ""
    hops = " and ".join(dict.fromkeys(segment.hop for segment in run))
    chunks = sorted({segment.chunk for segment in run} - {-1})
    if not chunks:
        return hops
    many = f"chunk {chunks[0]}" if len(chunks) == 1 else f"chunks {chunks[0]} to {chunks[-1]}"
    return f"{hops} of {many}"


def critical_path(step: int, events: np.ndarray[Any, Any]) -> CriticalPath:
    """Return the critical path of a step.

    Parameters
    ----------
    step : int
        Its number.
    events : ndarray
        Its rows of `Ledger.to_array`, in which something took time.

    Notes
    -----
    Which hop waited for which is not recorded: it is the one that ended last before. Of several
    that ended at once it is the one in the same lane, or else the one of the same chunk. On a
    simulated clock a hop begins exactly when what it waited for ends. On a real one some time lies
    between; that is ``"idle"``.

    Examples
    --------
    >>> rows = [("d2h", 0, 0.0, 1.0), ("d2h", 1, 1.0, 2.0), ("update", 0, 1.0, 4.0)]
    >>> kinds = [("hop", "U7"), ("chunk", int), ("start_s", float), ("stop_s", float)]
    >>> for segment in critical_path(1, np.array(rows, kinds)).segments:
    ...     print(*segment)
    d2h d2h 0 0.0 1.0
    host update 0 1.0 4.0
    """
    begin_s, now_s = float(events["start_s"].min()), float(events["stop_s"].max())
    took = events["stop_s"] > events["start_s"]
    work = events[took & (events["hop"] != "wait")]  # a wait is the time of what was waited for
    hops = [Segment(LANE_OF[row["hop"]], *_fields(row)) for row in work]
    hops.sort(key=lambda hop: hop.stop_s)
    path: list[Segment] = []
    while now_s > begin_s:
        near = 4 * np.spacing(now_s)  # the clock of a simulator is rounded
        while hops and (hops[-1].stop_s > now_s + near or hops[-1].start_s >= now_s):
            hops.pop()
        last = _ended_last(hops, near)
        if last and last[0].stop_s >= now_s - near:
            after = path[-1] if path else last[0]
            best = max(last, key=lambda hop: (hop.lane == after.lane, hop.chunk == after.chunk))
            path.append(best._replace(stop_s=now_s))
        else:
            stop_s = last[0].stop_s if last else begin_s
            path.append(Segment("idle", "idle", -1, stop_s, now_s))
        now_s = path[-1].start_s
    return CriticalPath(step, tuple(reversed(path)))


def _fields(row: Any) -> tuple[str, int, float, float]:
    return str(row["hop"]), int(row["chunk"]), float(row["start_s"]), float(row["stop_s"])


def _ended_last(hops: list[Segment], near: float) -> list[Segment]:
    """Return the last hop, and those before it that ended at the same time."""
    return list(takewhile(lambda hop: hop.stop_s >= hops[-1].stop_s - near, reversed(hops)))
