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

Execution, the bytes predicted, pictures and text all read this one list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COPIES", "LANES", "Hop", "Lane", "Part", "Place", "derive", "legs"]

Place = Literal["device", "host", "disk"]
Part = Literal["down", "fetch", "rest", "up"]
Lane = Literal["device", "d2h", "host", "h2d", "read", "write"]

LANES: tuple[Lane, ...] = ("device", "d2h", "host", "h2d", "read", "write")
"""Who can work at the same time."""

COPIES: dict[tuple[Place, Place], Lane] = {
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
        As the ledger records it; the lane's name for a copy.
    part : str
        ``"down"``, ``"fetch"``, ``"rest"`` or ``"up"``.
    lane : str
        Who works.
    thing : str
        What is carried or computed: ``"gradient"``, a slot's name, ``"master"``, ``"update"`` (to
        be added to the parameters) or ``"weights"`` (to take their place).
    source, target : str
        From where to where; equal for arithmetic.
    nbytes : int
        Bytes that cross, for each parameter; 0 for arithmetic.
    """

    name: str
    part: Part
    lane: Lane
    thing: str
    source: Place
    target: Place
    nbytes: int = 0


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
    kept: Sequence[tuple[str, Place, int]],
    arithmetic: Place,
    gradient_bytes: int,
    result: str,
    result_bytes: int,
) -> tuple[Hop, ...]:
    """Return the hops of a step.

    Parameters
    ----------
    kept : sequence of (str, str, int)
        What lives from step to step beside the parameters: name, home and bytes per parameter.
    arithmetic : str
        Where the rule runs: ``"device"`` or ``"host"``.
    gradient_bytes, result_bytes : int
        Bytes per parameter of the gradient and of the result, as they cross.
    result : str
        ``"update"`` or ``"weights"``.

    Examples
    --------
    >>> for hop in derive([("m", "host", 4)], "host", 4, "update", 4):
    ...     print(hop.part, hop.name, hop.thing, hop.nbytes)
    down prepare gradient 0
    down d2h gradient 4
    rest update update 0
    up h2d update 4
    up apply update 0
    """
    return tuple(_hops(kept, arithmetic, gradient_bytes, result, result_bytes))


def _hops(
    kept: Sequence[tuple[str, Place, int]],
    arithmetic: Place,
    gradient_bytes: int,
    result: str,
    result_bytes: int,
) -> Iterator[Hop]:
    on_device = arithmetic == "device"
    if not on_device:
        yield Hop("prepare", "down", "device", "gradient", "device", "device")
        yield from _copies("down", "gradient", "device", arithmetic, gradient_bytes)
    for thing, home, nbytes in kept:
        yield from _copies("fetch", thing, home, arithmetic, nbytes)
    if not on_device:
        yield Hop("update", "rest", "host", result, arithmetic, arithmetic)
    else:  # one pass over the device's memory: prepares, updates and applies
        yield Hop("apply", "rest", "device", result, "device", "device")
    for thing, home, nbytes in kept:
        yield from _copies("rest", thing, arithmetic, home, nbytes)
    if not on_device:
        yield from _copies("up", result, arithmetic, "device", result_bytes)
        yield Hop("apply", "up", "device", result, "device", "device")


def _copies(part: Part, thing: str, source: Place, target: Place, nbytes: int) -> Iterator[Hop]:
    for start, stop in legs(source, target):
        lane = COPIES[start, stop]
        yield Hop(lane, part, lane, thing, start, stop, nbytes)
