"""The ledger as a trace that Perfetto and other viewers open: lanes, arrows, counters.

The file is in the Trace Event Format, JSON: every hop a slice in its lane, an arrow along the way
of each chunk, a slice for each step, and counters of the bytes moved and of memory. It needs
nothing but the `Ledger`.
"""

from __future__ import annotations

import gzip
import heapq
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adamoffload.arguments import instance
from adamoffload.files import replacing
from adamoffload.observe.ledger import Event, Ledger
from adamoffload.plan.hops import LANE_OF, Declared, HopName, Lane, bytes_by_lane, moving

__all__ = ["write_trace"]

DEVICE, HOST, BYTES, DISK = 1, 2, 3, 4
"""Process numbers: what a viewer shows as one group of lanes."""


class _Track(NamedTuple):
    """Where slices are drawn: a thread of a process, in the format's terms."""

    process: int
    thread: int
    name: str


_STEPS = _Track(HOST, 100, "steps")
_TRACKS: dict[Lane, _Track] = {
    "device": _Track(DEVICE, 200, "compute"),
    "d2h": _Track(DEVICE, 300, "d2h"),
    "h2d": _Track(DEVICE, 400, "h2d"),
    "host": _Track(HOST, 600, "update"),
    "read": _Track(DISK, 700, "read"),
    "write": _Track(DISK, 800, "write"),
}
"""The track of each lane; in the numbers between them are tracks for work that overlaps."""

_WAIT = _Track(HOST, 500, "wait")
_ASIDE: tuple[HopName, ...] = ("check", "prepare", "wait")
"""Hops that no arrow passes: the way of what is carried begins after them, or goes on."""

_WAY: tuple[HopName, ...] = ("d2h", "update", "h2d", "apply")
"""The way of a chunk in ``adam-offload``, of which a ledger need not be told."""

_NAMED = 8
"""Parameters of a chunk that a slice names; a chunk may hold thousands."""

_BATCH = 2048
"""Records encoded at once."""

_LONGEST_S = 3e9
"""A century: a trace counts nanoseconds in 64 bits."""

_Record = dict[str, Any]


def write_trace(path: str | os.PathLike[str], ledger: Ledger) -> Path:
    """Write what a ledger recorded as a trace, for https://ui.perfetto.dev or ``vizviewer``.

    A viewer shows the lanes of the device (compute, d2h, h2d), of the host (steps, update, wait)
    and, where one is used, of the disk (read, write); an arrow follows each chunk on its way, such
    as down, over its update, and up to where it is applied. Click on a slice for its step, chunk,
    parameters, elements, bytes and GB/s. Counters show the bytes moved by lane, and memory by place
    and kind.

    Parameters
    ----------
    path : path-like
        Where to write: JSON, compressed if the name ends in ``.gz``. An existing file is replaced
        when the new one is complete.
    ledger : Ledger
        What was recorded; hops in flight are waited for. Times count from the first of them, in
        nanoseconds. If the clock is simulated, the names of the processes say so.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TypeError
        If `ledger` is not a `Ledger`.
    ValueError
        If nothing was recorded, or a time is not finite.
    OSError
        If the file cannot be written.

    References
    ----------
    "Trace Event Format", Google, 2016: phases X, s/t/f, C and M.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("sim", link="pcie4x16")
    >>> w = ao.Parameter(device.asarray(np.ones(1000, np.float32)), name="w")
    >>> ledger = ao.Ledger()
    >>> opt = ao.AdamOffload([w], ledger=ledger)
    >>> opt((device.asarray(np.ones(1000, np.float32)),))
    (True,)
    >>> path = ao.write_trace(Path(tempfile.mkdtemp()) / "trace.json", ledger)
    >>> slices = [r for r in json.loads(path.read_text())["traceEvents"] if r["ph"] == "X"]
    >>> [r["name"] for r in slices]
    ['step 1', 'd2h 0', 'wait 0', 'update 0', 'h2d 0', 'apply 0']
    >>> slices[1]["args"]["bytes"]
    4000
    """
    instance("write_trace", "ledger", ledger, Ledger)
    events = ledger.events
    if not events:
        raise ValueError(
            "write_trace: the ledger is empty; pass it to AdamOffload(..., ledger=ledger) and "
            "take a step"
        )
    times = [at_s for event in events for at_s in (event.start_s, event.stop_s)]
    if not all(map(math.isfinite, times)) or max(times) - min(times) > _LONGEST_S:
        raise ValueError(
            "write_trace: the ledger holds times that are NaN, infinite or a century apart"
        )
    target = Path(path)
    with replacing(target) as file:
        if target.suffix == ".gz":
            # Neither name nor date in the header: equal traces are equal files.
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                _write(packed.write, ledger, events)
        else:
            _write(file.write, ledger, events)
    return target


def _write(write: Callable[[bytes], object], ledger: Ledger, events: Sequence[Event]) -> None:
    """Write one JSON object, a record a line, in the order of time."""
    memory, simulated = ledger.memory(), ledger.simulated
    origin_s = min([event.start_s for event in events] + memory["at_s"].tolist())
    tracks = _tracks(events)
    arrows = _arrows(events, _ways(ledger.declared))
    timed = heapq.merge(
        _steps(events, origin_s),
        _hops(events, tracks, arrows, origin_s),
        _bytes_moved(events, origin_s),
        _memory(memory, origin_s),
        key=itemgetter("ts"),
    )
    clock = "simulated" if simulated else "wall"
    encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
    about = {"producer": f"adamoffload {version('adamoffload')}", "clock": clock}
    write(f'{{"displayTimeUnit":"ns","otherData":{encode(about)},"traceEvents":[\n'.encode())
    write(",\n".join(map(encode, _names({_STEPS, *tracks}, simulated))).encode())
    while batch := list(islice(timed, _BATCH)):
        write((",\n" + ",\n".join(map(encode, batch))).encode())
    write(b"\n]}\n")


def _ns(at_s: float, origin_s: float) -> int:
    """Return a time in whole nanoseconds.

    Rounding keeps the order, so that slices that did not overlap do not after it. A viewer drops
    a slice that begins in another and ends outside.
    """
    return round((at_s - origin_s) * 1e9)


def _slice(
    name: str, track: _Track, start_s: float, stop_s: float, origin_s: float, args: _Record
) -> _Record:
    start_ns = _ns(start_s, origin_s)
    return {
        "ph": "X",
        "name": name,
        "pid": track.process,
        "tid": track.thread,
        "ts": start_ns / 1000,  # the format's unit is the microsecond
        "dur": (_ns(stop_s, origin_s) - start_ns) / 1000,
        "args": args,
    }


# -- tracks ---------------------------------------------------------------------------------------


def _tracks(events: Sequence[Event]) -> list[_Track]:
    """Return each event's track: one more for a hop that begins while its track is busy.

    That happens when several optimizers, or several devices, share the ledger.
    """
    free_s: dict[_Track, float] = {}
    tracks = [_STEPS] * len(events)
    for i in sorted(range(len(events)), key=lambda i: (events[i].start_s, events[i].stop_s)):
        hop = events[i].hop
        track = first = _WAIT if hop == "wait" else _TRACKS[LANE_OF[hop]]
        while events[i].start_s < free_s.get(track, -math.inf):
            number = track.thread - first.thread + 2
            track = _Track(first.process, track.thread + 1, f"{first.name} ({number})")
        free_s[track] = events[i].stop_s
        tracks[i] = track
    return tracks


def _names(tracks: set[_Track], simulated: bool) -> Iterator[_Record]:
    """Name and order processes and threads."""
    clock = " (simulated time)" if simulated else ""
    processes = {DEVICE: "device", HOST: "host", DISK: "disk", BYTES: "bytes"}
    used = {BYTES, DEVICE, *(track.process for track in tracks)}
    for place, (process, name) in enumerate(processes.items(), start=1):
        if process in used:
            yield _about("process_name", process, 0, {"name": name + clock})
            yield _about("process_sort_index", process, 0, {"sort_index": place})
    for track in sorted(tracks):
        process, thread = track.process, track.thread
        yield _about("thread_name", process, thread, {"name": track.name})
        yield _about("thread_sort_index", process, thread, {"sort_index": thread})


def _about(what: str, process: int, thread: int, args: _Record) -> _Record:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": args}


# -- slices and arrows ----------------------------------------------------------------------------


def _steps(events: Sequence[Event], origin_s: float) -> Iterator[_Record]:
    """Yield a slice for each step, from its first hop to its last."""
    runs = []
    for step, group in groupby(events, key=attrgetter("step")):  # in the order of issue
        if step is not None:
            hops = list(group)
            moved = {
                f"{lane}_bytes": sum(e.nbytes for e in hops if e.hop in moving(lane))
                for lane in _copying(hops)
            }
            times = min(e.start_s for e in hops), max(e.stop_s for e in hops)
            runs.append((*times, step, moved))
    runs.sort(key=itemgetter(0))
    next_s = [*(start_s for start_s, *_ in runs[1:]), math.inf]
    for (start_s, stop_s, step, moved), end_s in zip(runs, next_s, strict=False):
        # The device may still apply when the next step begins.
        args = {"step": step, **moved}
        yield _slice(f"step {step}", _STEPS, start_s, min(stop_s, end_s), origin_s, args)


def _copying(events: Sequence[Event]) -> list[str]:
    """Return the lanes of the link, and those of the disk if something was copied there."""
    used = {event.hop for event in events}
    return [lane for lane in bytes_by_lane(()) if lane in ("d2h", "h2d") or lane in used]


def _hops(
    events: Sequence[Event],
    tracks: Sequence[_Track],
    arrows: Mapping[int, tuple[str, int]],
    origin_s: float,
) -> Iterator[_Record]:
    """Yield a slice for each hop, and at it the chunk's arrow."""
    for i in sorted(range(len(events)), key=lambda i: (events[i].start_s, events[i].stop_s)):
        event, track = events[i], tracks[i]
        if event.hop in _ASIDE and event.start_s == event.stop_s:
            continue  # nothing to prepare, nothing to wait for
        name = event.hop if event.chunk is None else f"{event.hop} {event.chunk}"
        yield (record := _slice(name, track, event.start_s, event.stop_s, origin_s, _args(event)))
        if i in arrows:
            phase, number = arrows[i]
            yield {
                "ph": phase,
                "bp": "e",  # what encloses it, not what comes next
                "cat": "chunk",
                "name": "chunk",
                "id": number,
                "pid": track.process,
                "tid": track.thread,
                "ts": record["ts"],
            }


def _ways(declared: Sequence[Declared]) -> set[tuple[str, ...]]:
    """Return the ways that chunks go; one that is a single hop needs no arrow."""
    ways = [[hop.name for hop in share.hops if hop.name not in _ASIDE] for share in declared]
    return {_WAY, *(tuple(way) for way in ways if len(way) > 1)}


def _arrows(events: Sequence[Event], ways: set[tuple[str, ...]]) -> dict[int, tuple[str, int]]:
    """Return phase and number of the arrow at each event, by its index; only of whole ways."""
    begun = {way[:n] for way in ways for n in range(1, len(way) + 1)}
    underway: dict[tuple[int | None, int], list[int]] = {}
    arrows: dict[int, tuple[str, int]] = {}
    for i, event in enumerate(events):
        if event.chunk is None or event.hop in _ASIDE:
            continue
        way = underway.setdefault((event.step, event.chunk), [])
        way.append(i)
        if tuple(events[j].hop for j in way) not in begun:
            del way[:-1]  # a step that failed may have begun it before
        hops = tuple(events[j].hop for j in way)
        if hops in ways:
            arrows |= {way[0]: ("s", i), **dict.fromkeys(way[1:-1], ("t", i)), i: ("f", i)}
            way.clear()
    return arrows


def _args(event: Event) -> _Record:
    """Return what a viewer tells of a slice that is clicked on."""
    args: _Record = {}
    if event.step is not None:
        args |= {"step": event.step, "chunk": event.chunk}
    args["elements"] = event.elements
    if event.parts:
        args["parameters"] = [f"{name} ({size:,})" for name, size in event.parts[:_NAMED]]
        if len(event.parts) > _NAMED:
            args["parameters"].append(f"and {len(event.parts) - _NAMED:,} more")
    if event.nbytes:
        args["bytes"] = event.nbytes
        if event.seconds > 1e-12:  # of less, the rate may be no number
            args["GB/s"] = event.nbytes / event.seconds / 1e9
    return args


# -- counters -------------------------------------------------------------------------------------


def _bytes_moved(events: Sequence[Event], origin_s: float) -> Iterator[_Record]:
    """Yield the bytes moved so far in each lane, whenever a copy is done."""
    moved = dict.fromkeys(_copying(events), 0)
    lane_of = {hop: lane for lane in moved for hop in moving(lane)}
    yield _counter("moved", 0.0, moved)
    for event in sorted(events, key=attrgetter("stop_s")):
        if event.hop in lane_of and event.nbytes:
            moved[lane_of[event.hop]] += event.nbytes
            yield _counter("moved", _ns(event.stop_s, origin_s) / 1000, moved)


def _memory(memory: np.ndarray[Any, Any], origin_s: float) -> Iterator[_Record]:
    """Yield the bytes by kind in each place, whenever they were sampled."""
    for (at_s, place), rows in groupby(
        sorted(memory.tolist(), key=itemgetter(1)), key=itemgetter(1, 2)
    ):
        values = {kind: nbytes for *_, kind, nbytes in rows}
        yield _counter(f"{place} memory", _ns(at_s, origin_s) / 1000, values)


def _counter(name: str, ts: float, values: dict[str, int]) -> _Record:
    return {"ph": "C", "name": name, "pid": BYTES, "tid": 0, "ts": ts, "args": dict(values)}
