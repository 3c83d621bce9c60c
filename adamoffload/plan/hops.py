"""The hops of a step, derived from where things live and where the arithmetic runs.

A copy is what stands between where a thing lives and where it is used. Three places stand in a
row, disk, host and device, and a copy joins two neighbours::

    lane     from      to
    d2h      device    host
    h2d      host      device
    write    host      disk
    read     disk      host

The hops of a chunk of parameters have four parts, in the order in which a step meets them:

``down``   the gradient is prepared on the device and goes to where the arithmetic runs
``fetch``  what is kept elsewhere (slots, master) comes there
``rest``   the update, and what is kept goes home
``up``     the result goes to the device and into the parameters

A step of several micro-steps goes through ``down`` in each of those whose sum does not stay on the
device, and through the other parts in the last.

Execution, the bytes predicted, pictures and text all read this one list. The ledger records what
became of it, under the names in `HOPS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from adamoffload.plan.formats import Format, each

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "COPIES",
    "HOPS",
    "LANES",
    "LANE_OF",
    "Declared",
    "Hop",
    "HopName",
    "Kept",
    "Lane",
    "Part",
    "Place",
    "Stage",
    "Sum",
    "bytes_by_lane",
    "derive",
    "legs",
    "moving",
    "stages",
    "working",
]

Place = Literal["device", "host", "disk"]
Part = Literal["down", "fetch", "rest", "up"]
Lane = Literal["device", "d2h", "host", "h2d", "read", "write"]
HopName = Literal[
    "check", "prepare", "d2h", "wait", "accumulate", "update", "h2d", "apply", "read", "write"
]
Sum = Literal["device", "resent", "round trip", "host"]
"""Where the sum of a step's micro-steps is."""


class Kept(NamedTuple):
    """What lives from step to step beside the parameters.

    Attributes
    ----------
    thing : str
        Its name: a slot, ``"master"`` or ``"compensation"``.
    home : str
        Where it lives.
    format : str
        As what it rests.
    """

    thing: str
    home: Place
    format: Format


LANES: tuple[Lane, ...] = ("device", "d2h", "host", "h2d", "read", "write")
"""Who can work at the same time."""

LANE_OF: dict[HopName, Lane] = {
    "check": "device",
    "prepare": "device",
    "d2h": "d2h",
    "wait": "host",
    "accumulate": "host",
    "update": "host",
    "h2d": "h2d",
    "apply": "device",
    "read": "read",
    "write": "write",
}
"""Whose time each hop takes. A ``wait`` is no work, but it is the host that waits."""

HOPS: tuple[HopName, ...] = tuple(LANE_OF)
"""The names of hops, as the ledger records them; ``check`` is for all chunks at once."""

_MOVING: dict[str, tuple[HopName, ...]] = {
    "d2h": ("check", "d2h"),  # a check brings down what it has found
    "h2d": ("h2d",),
    "read": ("read",),
    "write": ("write",),
    "net": (),
    "device": (),
    "host": (),
}

COPIES: dict[tuple[Place, Place], Literal["d2h", "h2d", "read", "write"]] = {
    ("device", "host"): "d2h",
    ("host", "device"): "h2d",
    ("disk", "host"): "read",
    ("host", "disk"): "write",
}
"""The lane of a copy between two neighbouring places."""

_ROW: tuple[Place, ...] = ("disk", "host", "device")


@dataclass(frozen=True, slots=True)
class Hop:
    """One stage of a chunk's way.

    Attributes
    ----------
    name : str
        One of `HOPS`; the lane's name for a copy.
    part : str
        ``"down"``, ``"fetch"``, ``"rest"`` or ``"up"``.
    lane : str
        Who works.
    thing : str
        What is carried or computed: ``"gradient"``, ``"sum"`` (of micro-steps), a slot's name,
        ``"master"``, ``"update"`` (to be added to the parameters) or ``"weights"`` (to take their
        place).
    source, target : str
        From where to where; equal for arithmetic.
    format : str
        As what it travels; empty for arithmetic.
    """

    name: HopName
    part: Part
    lane: Lane
    thing: str
    source: Place
    target: Place
    format: Format | Literal[""] = ""

    @property
    def nbytes(self) -> int:
        """Bytes that cross, for each parameter; 0 for arithmetic."""
        return each(self.format) if self.format else 0


@dataclass(frozen=True, slots=True)
class Declared:
    """What a strategy says that some parameters go through in each step.

    Attributes
    ----------
    rule : str
        The name of what is computed.
    hops : tuple of Hop
        What each chunk of them goes through, in order; of several micro-steps, in the last.
    names : frozenset of str
        The parameters.
    first, between : tuple of Hop
        What it goes through in the first of several micro-steps, and in those up to the last.
    only : tuple of Hop
        What it goes through in a step of one micro-step; as `hops`, if left out.
    """

    rule: str
    hops: tuple[Hop, ...]
    names: frozenset[str]
    first: tuple[Hop, ...] = ()
    between: tuple[Hop, ...] = ()
    only: tuple[Hop, ...] | None = None

    def moved(self, lane: str, elements: Any, micro_steps: Any) -> Any:
        """Return the bytes in a lane, for each of some chunks in a step.

        Parameters
        ----------
        lane : str
            Which.
        elements, micro_steps : ndarray of int
            Elements of each chunk, and in how many micro-steps it had a gradient.
        """

        def of(hops: Sequence[Hop]) -> Any:
            return elements * sum(h.nbytes for h in hops if h.lane == lane)

        only = of(self.hops if self.only is None else self.only)
        several = of(self.first) + (micro_steps - 2) * of(self.between) + of(self.hops)
        return np.where(micro_steps > 1, several, only)

    @property
    def arithmetic(self) -> HopName:
        """The hop in which the rule runs: ``"update"`` on the host, ``"apply"`` on the device."""
        return "update" if any(hop.name == "update" for hop in self.hops) else "apply"


@dataclass(frozen=True, slots=True)
class Stage:
    """What one lane does in a part of a step: one hop, or the copies of several things.

    Attributes
    ----------
    name : str
        The hop's.
    lane : str
        Who works.
    source, target : str
        From where to where; equal for arithmetic.
    things : dict from str to int
        What is carried or computed, with its bytes for each parameter, 0 for arithmetic.
    arithmetic : bool
        Whether the rule runs in it.
    format : str
        As what it travels; empty for arithmetic.
    """

    name: HopName
    lane: Lane
    source: Place
    target: Place
    things: dict[str, int]
    arithmetic: bool = False
    format: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes that cross, for each parameter."""
        return sum(self.things.values())


def stages(hops: Sequence[Hop]) -> list[Stage]:
    """Return the stages of a step in order: copies in one lane and part of it are one.

    Examples
    --------
    >>> shuttle = derive([("m", "host", "float32"), ("v", "host", "float32")], "device")
    >>> [(stage.name, stage.things) for stage in stages(shuttle)]
    [('h2d', {'m': 4, 'v': 4}), ('apply', {'update': 0}), ('d2h', {'m': 4, 'v': 4})]
    """
    found: dict[tuple[Part, HopName, str], Stage] = {}
    for hop in hops:
        runs = hop.part == "rest" and not hop.nbytes
        new = Stage(hop.name, hop.lane, hop.source, hop.target, {}, runs, hop.format)
        found.setdefault((hop.part, hop.name, hop.format), new).things[hop.thing] = hop.nbytes
    parts = [part for part, *_ in found]
    # What comes from the disk comes up after it has been read.
    last = sorted(found, key=lambda key: (parts.index(key[0]), key[:2] == ("fetch", "h2d")))
    return [found[key] for key in last]


def bytes_by_lane(hops: Sequence[Hop]) -> dict[str, int]:
    """Return the bytes that cross for each parameter, by the lane of the copy.

    Examples
    --------
    >>> bytes_by_lane(derive([("m", "host", "float32")], "device"))
    {'d2h': 4, 'h2d': 4, 'read': 0, 'write': 0}
    """
    return {lane: sum(hop.nbytes for hop in hops if hop.lane == lane) for lane in COPIES.values()}


def moving(lane_or_hop: str) -> tuple[HopName, ...]:
    """Return the hops whose bytes a lane counts; for the name of a hop, that hop alone.

    Raises
    ------
    ValueError
        If there is neither such a lane nor such a hop.

    Examples
    --------
    >>> moving("d2h"), moving("check")
    (('check', 'd2h'), ('check',))
    """
    return _MOVING[lane_or_hop] if lane_or_hop in _MOVING else working(lane_or_hop)


def working(lane_or_hop: str) -> tuple[HopName, ...]:
    """Return the hops in which a lane works; for the name of a hop, that hop alone.

    Raises
    ------
    ValueError
        If there is neither such a lane nor such a hop.

    Examples
    --------
    >>> working("d2h"), working("device"), working("host")
    (('d2h',), ('check', 'prepare', 'apply'), ('accumulate', 'update'))
    """
    found = [hop for hop in HOPS if LANE_OF[hop] == lane_or_hop and hop not in ("wait",)]
    if not found:
        found = [hop for hop in HOPS if hop == lane_or_hop]
    if not found and lane_or_hop not in _MOVING:
        raise ValueError(
            f"Ledger: hop must be one of {', '.join(HOPS)}, or a lane (device, host, net), got "
            f"{lane_or_hop!r}"
        )
    return tuple(found)


def legs(source: Place, target: Place) -> list[tuple[Place, Place]]:
    """Return the copies from one place to another.

    Examples
    --------
    >>> legs("disk", "device"), legs("host", "host")
    ([('disk', 'host'), ('host', 'device')], [])
    """
    start, stop = _ROW.index(source), _ROW.index(target)
    step = 1 if stop >= start else -1
    return list(pairwise(_ROW[i] for i in range(start, stop + step, step)))


def derive(
    kept: Sequence[tuple[str, Place, Format]],
    arithmetic: Place,
    *,
    gradient: Format = "float32",
    result: str = "update",
    result_format: Format = "float32",
    sum_in: Sum = "device",
    sum_format: Format = "float32",
    first: bool = True,
    last: bool = True,
) -> tuple[Hop, ...]:
    """Return the hops of a step, or of one of its micro-steps.

    Parameters
    ----------
    kept : sequence of (str, str, str)
        What lives from step to step beside the parameters: name, home and format.
    arithmetic : str
        Where the rule runs: ``"device"`` or ``"host"``.
    gradient, result_format : str
        As what the gradient and the result cross.
    result : str
        ``"update"`` or ``"weights"``.
    sum_in, sum_format : str
        Where the sum of micro-steps is, and as what it crosses in a round trip.
    first, last : bool
        Whether it is the first and the last of the micro-steps; both, if there is only one.

    Examples
    --------
    >>> for hop in derive([("m", "host", "float32")], "host", gradient="bfloat16"):
    ...     print(hop.part, hop.name, hop.thing, hop.nbytes)
    down prepare gradient 0
    down d2h gradient 2
    rest update update 0
    up h2d update 4
    up apply update 0
    """
    hops: list[Hop] = []

    def copies(part: Part, thing: str, source: Place, target: Place, form: Format) -> None:
        for start, stop in legs(source, target):
            lane = COPIES[start, stop]
            hops.append(Hop(lane, part, lane, thing, start, stop, form))

    on_host, several = arithmetic != "device", not (first and last)
    around = sum_in == "round trip" and several
    if on_host and (last or sum_in != "device"):
        if around and not first:
            copies("down", "sum", "host", "device", sum_format)
        hops.append(Hop("prepare", "down", "device", "gradient", "device", "device"))
        if around:
            copies("down", "sum", "device", "host", sum_format)
        if last or not around:
            copies("down", "gradient", "device", "host", gradient)
        if sum_in == "host" and several:
            hops.append(Hop("accumulate", "down", "host", "sum", "host", "host"))
    if not last:
        return tuple(hops)
    for thing, home, form in kept:
        copies("fetch", thing, home, arithmetic, form)
    if on_host:
        hops.append(Hop("update", "rest", "host", result, "host", "host"))
    else:  # one pass over the device's memory: prepares, updates and applies
        hops.append(Hop("apply", "rest", "device", result, "device", "device"))
    for thing, home, form in kept:
        copies("rest", thing, arithmetic, home, form)
    if on_host:
        copies("up", result, "host", "device", result_format)
        hops.append(Hop("apply", "up", "device", result, "device", "device"))
    return tuple(hops)
