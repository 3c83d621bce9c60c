"""The ledger: every hop of every step, what crossed the link, when, and what lay where.

A hop is one stage that a chunk of the arena goes through in a step; which of them there are, and
what they carry, follows from the strategy (`adamoffload.plan.hops`)::

    check     device   look for NaN and infinities, if asked to; the extremes come down
    prepare   device   decay and unscale the gradient into a staging slot
    d2h       link     a copy, device to host: in ``adam-offload`` the gradient
    wait      host     the host waits for a ticket
    update    host     the rule: gradient in, update out, slots advanced
    h2d       link     a copy, host to device: in ``adam-offload`` the update
    apply     device   the update is added to the parameters, or the whole rule runs
    read      disk     a copy, disk to host
    write     disk     a copy, host to disk

Times are seconds on the clock of the backend that the hop ran on (`Backend.now`). The module knows
nothing of devices: whatever has a start and a stop can be recorded.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple, Protocol

import numpy as np

from adamoffload.observe.critical import CriticalPath, critical_path
from adamoffload.observe.tables import save
from adamoffload.plan.hops import HOPS, LANE_OF, Declared, HopName, moving, working
from adamoffload.plan.words import html_table

__all__ = [
    "HOPS",
    "NO_LEDGER",
    "Event",
    "Holding",
    "Ledger",
    "NullLedger",
    "Parts",
    "Record",
    "ignore",
]

Parts = tuple[tuple[str, int], ...]
"""Which parameters a chunk holds, and how many elements of each."""

_EVENTS = np.dtype(
    [
        ("hop", "U7"),
        ("step", np.int64),
        ("chunk", np.int64),
        ("elements", np.int64),
        ("nbytes", np.int64),
        ("start_s", np.float64),
        ("stop_s", np.float64),
    ]
)
_MEMORY = np.dtype(
    [
        ("step", np.int64),
        ("at_s", np.float64),
        ("place", "U6"),
        ("kind", "U12"),
        ("nbytes", np.int64),
    ]
)


class Timed(Protocol):
    """What a recorded hop must know: when it began and when it ended, in seconds."""

    @property
    def start_s(self) -> float: ...

    @property
    def stop_s(self) -> float: ...


class Clocked(Protocol):
    """What a ledger must know of a device: its clock, and what its memory holds."""

    @property
    def simulated(self) -> bool: ...

    def now(self) -> float: ...

    def memory(self) -> tuple[int, int, int | None]: ...


Record = Callable[[HopName, int, int, Timed], None]
"""Takes hop, elements, bytes over the link, and ticket; `Ledger.at` makes one."""


def ignore(hop: HopName, elements: int, nbytes: int, ticket: Timed) -> None:
    """Record nothing."""


class Holding(NamedTuple):
    """Bytes of one kind in one place.

    Attributes
    ----------
    place : str
        ``"device"``, ``"pinned"``, ``"host"`` or ``"disk"``.
    kind : str
        ``"parameters"``, ``"gradients"``, ``"moments"`` (the rule's slots), ``"master"``,
        ``"staging"`` or ``"other"``.
    nbytes : int
        How many.
    """

    place: str
    kind: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Event:
    """One hop of one chunk.

    Attributes
    ----------
    hop : str
        One of `HOPS`.
    step : int or None
        The optimizer step, counted from 1; None outside a step, as for the copies that make a
        master, and for the check of a call that was skipped or has raised.
    chunk : int or None
        The chunk's index in the plan, counted from 0; None for a ``check`` and outside a step.
    elements : int
        Parameters that the hop handled.
    nbytes : int
        Bytes that were copied; 0 for arithmetic.
    start_s, stop_s : float
        Begin and end in seconds on the backend's clock.
    parts : tuple of (str, int)
        Which parameters the chunk holds, and how many elements of each; empty for a copy outside a
        step.
    """

    hop: HopName
    step: int | None
    chunk: int | None
    elements: int
    nbytes: int
    start_s: float
    stop_s: float
    parts: Parts = ()

    @property
    def seconds(self) -> float:
        """How long the hop took."""
        return self.stop_s - self.start_s


_COLUMNS = ("hop", "lane", "times", "bytes")


class _Place(NamedTuple):
    """Where a hop belongs; the hops of a chunk in a step share one."""

    step: int | None
    chunk: int | None
    parts: Parts


class _Entry(NamedTuple):
    hop: HopName
    place: _Place
    elements: int
    nbytes: int
    ticket: Timed


class Ledger:
    """Collects the events of one or more optimizers.

    Pass it to ``AdamOffload(..., ledger=ledger)``. Recording one hop is one append; the events'
    times are read from their tickets when asked for. Threads may share a ledger; devices that
    simulate their time may not.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.ones(1000, np.float32)), name="w")
    >>> ledger = ao.Ledger()
    >>> opt = ao.AdamOffload([w], ledger=ledger)
    >>> opt((device.asarray(np.ones(1000, np.float32)),))
    (True,)
    >>> ledger.bytes("d2h"), ledger.bytes("h2d"), ledger.bytes()
    (4000, 4000, 8000)
    >>> [event.hop for event in ledger.events if event.hop != "wait"]
    ['prepare', 'd2h', 'update', 'h2d', 'apply']
    """

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._samples: list[tuple[int, float, int, tuple[Holding, ...]]] = []
        self._clock: Any = None
        self._limit: int | None = None
        self._declared: list[tuple[int, Declared]] = []  # each from which entry on
        self._reading = threading.RLock()
        self._forget()

    # -- what an optimizer calls ----------------------------------------------------------------

    def attach(self, device: Clocked, declared: Iterable[Declared] = ()) -> None:
        """Take the device's clock and memory limit for what will be recorded, and what to expect.

        Parameters
        ----------
        device : Backend
            Where the hops run.
        declared : iterable of Declared
            What an optimizer's parameters go through from now on.

        Raises
        ------
        ValueError
            If times of another clock are recorded here.
        """
        clock = device if device.simulated else "wall"
        if self._clock not in (None, clock):
            raise ValueError(
                "Ledger: it records times of another clock already; simulated devices have one "
                "each, so pass every one of them a ledger of its own"
            )
        self._clock = clock
        self._limit = device.memory()[2]
        self._declared += [(len(self._entries), share) for share in declared]

    def at(self, step: int | None = None, chunk: int | None = None, parts: Parts = ()) -> Record:
        """Return a function that records hops of this step and chunk.

        Parameters
        ----------
        step, chunk : int, optional
            Left out for a copy outside a step.
        parts : tuple of (str, int)
            Which parameters the chunk holds, and how many elements of each.
        """
        entries = self._entries  # list.append is atomic: threads may share a ledger
        place = _Place(step, chunk, parts)

        def record(hop: HopName, elements: int, nbytes: int, ticket: Timed) -> None:
            entries.append(_Entry(hop, place, elements, nbytes, ticket))

        return record

    def sample_memory(self, step: int, device: Clocked, holdings: tuple[Holding, ...]) -> None:
        """Record where the bytes are now: what the optimizer knows of, and the device's use."""
        self._samples.append((step, device.now(), device.memory()[0], holdings))

    # -- what was recorded ----------------------------------------------------------------------

    @property
    def simulated(self) -> bool:
        """Whether times are those of a simulated clock."""
        return self._clock not in (None, "wall")

    @property
    def memory_limit(self) -> int | None:
        """Bytes that the device allows; None without a limit."""
        return self._limit

    @property
    def declared(self) -> tuple[Declared, ...]:
        """What the strategies of the optimizers say, in the order in which they were attached."""
        return tuple(share for _, share in self._declared)

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything recorded so far, in the order in which it was issued.

        Hops still in flight are waited for, since only then their times are known.
        """
        return tuple(
            Event(
                entry.hop,
                entry.place.step,
                entry.place.chunk,
                entry.elements,
                entry.nbytes,
                entry.ticket.start_s,
                entry.ticket.stop_s,
                entry.place.parts,
            )
            for entry in tuple(self._entries)
        )

    def bytes(
        self, hop: str | None = None, *, step: int | None = None, parameter: str | None = None
    ) -> int:
        """Return the bytes that were copied: in all, by lane or hop, step or parameter.

        Parameters
        ----------
        hop : str, optional
            A lane, ``"d2h"``, ``"h2d"``, ``"read"``, ``"write"`` or ``"net"``; or one of `HOPS`.
            What a check brings down counts in the lane ``"d2h"``, and alone as ``"check"``: over a
            run, a lane's bytes are those of the device's own `Backend.traffic`.
        step : int, optional
            Counted from 1.
        parameter : str, optional
            A parameter's name: then only its share of each chunk is counted.

        Raises
        ------
        ValueError
            If there is no such lane or hop, or nothing of such a parameter was recorded.
        """
        with self._reading:
            chosen = self._chosen(_named(moving, hop), step)
            if parameter is None:
                return int(self._rows()["nbytes"][chosen].sum())
            found = self._by_parameter(chosen)
        if parameter not in found:
            names = ", ".join(map(repr, [*found][:10])) or "nothing"
            raise ValueError(f"Ledger: no parameter {parameter!r} was recorded; it has {names}")
        return found[parameter]

    def seconds(self, hop: str | None = None, *, step: int | None = None) -> float:
        """Return the summed duration of the hops, which may have overlapped each other.

        Parameters
        ----------
        hop : str, optional
            One of `HOPS`, or a lane, such as ``"device"``: a check is the device's work.
        step : int, optional
            Counted from 1.
        """
        with self._reading:
            seconds = self._seconds()
            return float(seconds[self._chosen(_named(working, hop), step)[: len(seconds)]].sum())

    @property
    def steps(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The distinct steps recorded, ascending."""
        steps = np.unique(self._rows()["step"])
        return steps[steps >= 0]

    def bytes_per_step(self, hop: str | None = None) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the bytes that were copied in each of `steps`; lanes and hops as for `bytes`."""
        with self._reading:
            hops = _named(moving, hop)
            return np.asarray(self._per_step(hops, self._rows()["nbytes"]), np.int64)

    def expected_per_step(self, lane: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the bytes that the strategies predict for each of `steps`, without a check's.

        That is, `adamoffload.Strategy.bytes_per_parameter` for each parameter that the step has
        updated and that the strategy holds for.

        Parameters
        ----------
        lane : str
            ``"d2h"``, ``"h2d"``, ``"read"`` or ``"write"``.
        """
        with self._reading:
            rows = self._rows()
            parts = self._known_parts
            expected = np.zeros(len(rows), np.int64)
            for since, share in self._declared:
                mine = [bool(held) and held[0][0] in share.names for held in self._all_parts]
                chosen = np.array(mine)[parts]  # a chunk is of one share
                chosen[:since] = False
                done = chosen & (rows["hop"] == share.arithmetic)
                expected[chosen] = 0  # what the parameters were declared for before is over
                elements = rows["elements"][done]
                expected[done] = share.moved(lane, elements, np.ones_like(elements))
            return np.asarray(self._per_step(None, expected), np.int64)

    def seconds_per_step(self, hop: str | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the summed duration of the hops in each of `steps`; as for `seconds`."""
        with self._reading:
            return np.asarray(self._per_step(_named(working, hop), self._seconds()), np.float64)

    def step_times(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return begin and end of each of `steps`: shape (steps, 2), seconds on the clock."""
        table = self.to_array()
        table = table[table["step"] >= 0]
        steps, place = np.unique(table["step"], return_inverse=True)
        times = np.empty((len(steps), 2))
        times[:] = np.inf, -np.inf
        np.minimum.at(times[:, 0], place, table["start_s"])
        np.maximum.at(times[:, 1], place, table["stop_s"])
        return times

    def critical_path(self, step: int) -> CriticalPath:
        """Return which hops the time of a step is made of.

        Parameters
        ----------
        step : int
            Counted from 1.

        Returns
        -------
        CriticalPath
            Segments that follow each other from the step's begin to its end; printed, a waterfall.

        Raises
        ------
        ValueError
            If there is no such step in the ledger, or nothing in it took any time.

        Examples
        --------
        >>> import numpy as np
        >>> import adamoffload as ao
        >>> from adamoffload_sim import Device, Link
        >>> device = ao.get_backend(
        ...     "sim", link=Link(4), device=Device(48, 1e9), host_ns_per_parameter=4e9
        ... )
        >>> w = ao.Parameter(device.asarray(np.zeros(4, np.float32)), name="w")
        >>> ledger = Ledger()
        >>> opt = ao.AdamOffload([w], ledger=ledger, chunk_bytes=4)
        >>> opt([device.asarray(np.ones(4, np.float32))])
        (True,)
        >>> print(ledger.critical_path(1))
        step 1: 18.25 s, of which host 88%, d2h 5%, h2d 5%, device 1%
        d2h    |##......................................| 1 s: d2h of chunk 0
        host   |..###################################...| 16 s: update of chunks 0 to 3
        h2d    |.....................................##.| 1 s: h2d of chunk 3
        device |.......................................#| 0.25 s: apply of chunk 3
        """
        table = self.to_array()
        events = table[table["step"] == step]
        if not np.any(events["stop_s"] > events["start_s"]):
            raise ValueError(f"Ledger: nothing that took any time was recorded of step {step!r}")
        return critical_path(step, events)

    def bytes_by_parameter(self, hop: str | None = None) -> dict[str, int]:
        """Return the bytes that were copied in steps, by parameter's name."""
        with self._reading:
            return self._by_parameter(self._chosen(_named(moving, hop), None))

    def bandwidth(self, hop: str, *, step: int | None = None) -> float:
        """Return bytes a second while a lane was busy; NaN if it never moved.

        Copies that overlap are not counted twice: busy is when at least one was under way. A check,
        whose time is the device's, is left out.
        """
        with self._reading:
            rows = self.to_array()
            rows = rows[self._chosen(working(hop), step)[: len(rows)]]
        nbytes = rows["nbytes"].sum()
        if not nbytes:
            return math.nan
        rows = rows[np.argsort(rows["start_s"], kind="stable")]
        ends = np.maximum.accumulate(rows["stop_s"])
        starts = np.maximum(rows["start_s"][1:], ends[:-1])
        busy = ends[0] - rows["start_s"][0] + np.sum(np.maximum(rows["stop_s"][1:] - starts, 0))
        return float(nbytes / busy) if busy else math.inf

    def to_array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Return all events, a row each; hops in flight are waited for.

        Returns
        -------
        structured ndarray
            The fields of `Event` but for `parts`; step and chunk are -1 for a copy outside a step.
        """
        with self._reading:
            seconds = self._times()
            table = self._rows()[: len(seconds)].copy()
        table["start_s"], table["stop_s"] = seconds.T
        return table

    def memory(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Return where the bytes were at the begin and end of each step, a row each.

        Returns
        -------
        structured ndarray
            ``step``, ``at_s`` (seconds on the clock), ``place`` and ``kind`` (as in a `Holding`)
            and ``nbytes``. ``"other"`` on the device is what its measured use exceeds the rest by:
            activations and data.
        """
        return np.array(list(self._memory_rows()), _MEMORY)

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to ``.npz``, or the events to ``.csv``.

        The archive holds ``events`` (`to_array`), ``memory``, ``steps``, ``step_times``,
        ``parameters`` (names) with ``parameter_bytes``, ``simulated`` and ``memory_limit`` (-1 for
        none).

        Raises
        ------
        ValueError
            If the path ends otherwise.
        """
        names = _EVENTS.names or ()
        save("Ledger", path, self._arrays, names, lambda: self.to_array().tolist())

    def clear(self) -> None:
        """Forget everything recorded."""
        with self._reading:
            self._entries.clear()
            self._samples.clear()
            self._declared = [(0, share) for _, share in self._declared]
            self._forget()

    # -- columns --------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._known = np.empty(0, _EVENTS)
        self._known_times = np.empty((0, 2))
        self._known_parts = np.empty(0, np.int64)
        self._all_parts: dict[Parts, int] = {(): 0}

    def _rows(self) -> np.ndarray[Any, np.dtype[Any]]:
        with self._reading:
            new = self._entries[len(self._known) :]
            if new:
                rows = [
                    (e.hop, _or_outside(e.place.step), _or_outside(e.place.chunk), *e[2:4], 0, 0)
                    for e in new
                ]
                self._known = np.concatenate([self._known, np.array(rows, _EVENTS)])
                numbers = [
                    self._all_parts.setdefault(parts, len(self._all_parts))
                    for parts in (e.place.parts for e in new)
                ]
                self._known_parts = np.concatenate([self._known_parts, numbers])
            return self._known

    def _times(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        with self._reading:
            new = self._entries[len(self._known_times) :]
            if new:
                self._rows()
                times = [(e.ticket.start_s, e.ticket.stop_s) for e in new]
                self._known_times = np.concatenate([self._known_times, np.array(times)])
            return self._known_times

    def _seconds(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        times = self._times()
        return times[:, 1] - times[:, 0]

    def _chosen(
        self, hops: Iterable[str] | None, step: int | None
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        rows = self._rows()
        chosen = np.ones(len(rows), bool)
        if hops is not None:
            named = np.zeros(len(rows), bool)
            for hop in hops:
                named |= rows["hop"] == hop
            chosen &= named
        if step is not None:
            chosen &= rows["step"] == step
        return chosen

    def _per_step(self, hops: Iterable[str] | None, values: Any) -> Any:
        chosen = self._chosen(hops, None)[: len(values)]
        numbers = self._rows()["step"][: len(values)]
        steps, place = np.unique(numbers, return_inverse=True)
        totals = np.zeros(len(steps), values.dtype)
        np.add.at(totals, place[chosen], values[chosen])
        return totals[steps >= 0]

    def _by_parameter(self, chosen: np.ndarray[Any, Any]) -> dict[str, int]:
        rows, parts = self._rows()[chosen], self._known_parts[: len(chosen)][chosen]
        each = rows["nbytes"] // np.maximum(rows["elements"], 1)
        per_element = np.zeros(len(self._all_parts), np.int64)
        np.add.at(per_element, parts, each)
        totals: dict[str, int] = {}
        for held, nbytes in zip(self._all_parts, per_element.tolist(), strict=True):
            for name, elements in held:
                totals[name] = totals.get(name, 0) + nbytes * elements
        return totals

    def _memory_rows(self) -> Iterator[tuple[int, float, str, str, int]]:
        for step, at_s, used, holdings in tuple(self._samples):
            for place, kind, nbytes in holdings:
                yield step, at_s, place, kind, nbytes
            known = sum(nbytes for place, _, nbytes in holdings if place == "device")
            yield step, at_s, "device", "other", max(0, used - known)

    def _arrays(self) -> dict[str, Any]:
        return {
            "events": self.to_array(),
            "memory": self.memory(),
            "steps": self.steps,
            "step_times": self.step_times(),
            "parameters": np.array(list(self.bytes_by_parameter()), np.str_),
            "parameter_bytes": np.array(list(self.bytes_by_parameter().values()), np.int64),
            "simulated": np.array(self.simulated),
            "memory_limit": np.array(-1 if self._limit is None else self._limit),
        }

    def __len__(self) -> int:
        return len(self._entries)

    def __bool__(self) -> bool:
        return True  # an empty ledger is still one

    def _repr_html_(self) -> str:
        table = self.to_array()
        rows = []
        for hop in HOPS:
            chosen = table[table["hop"] == hop]
            if len(chosen):
                total = f"{chosen['nbytes'].sum():,}"
                rows.append((hop, LANE_OF[hop], f"{len(chosen):,}", total))
        return html_table(f"Ledger of {len(self.steps)} steps", _COLUMNS, rows)

    def __repr__(self) -> str:
        return (
            f"Ledger({len(self)} hops, {self.bytes('d2h'):,} bytes d2h, "
            f"{self.bytes('h2d'):,} bytes h2d)"
        )


class NullLedger(Ledger):
    """A ledger that records nothing: what an optimizer has when none was given."""

    def attach(self, device: Clocked, declared: Iterable[Declared] = ()) -> None:
        """Do nothing."""

    def at(self, step: int | None = None, chunk: int | None = None, parts: Parts = ()) -> Record:  # noqa: ARG002
        """Return a function that does nothing."""
        return ignore

    def sample_memory(self, step: int, device: Clocked, holdings: tuple[Holding, ...]) -> None:
        """Do nothing."""


NO_LEDGER = NullLedger()
"""The one `NullLedger` that everything without a ledger shares."""


def _named(
    hops: Callable[[str], tuple[HopName, ...]], lane_or_hop: str | None
) -> tuple[HopName, ...] | None:
    return None if lane_or_hop is None else hops(lane_or_hop)


def _or_outside(index: int | None) -> int:
    return -1 if index is None else index
