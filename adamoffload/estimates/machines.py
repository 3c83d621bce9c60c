"""`Machine`: what a machine can do, each figure with a range and its source; and machines by name.

A machine has no software constants: how many bytes an update moves, and what it makes of the
memory's bandwidth, belongs to the program (``software.py``).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from adamoffload.arguments import describe
from adamoffload.estimates.hardware import Device, Disk, Host, Link
from adamoffload.files import reading, replacing
from adamoffload.names import ByName, check_keys, listed

__all__ = ["End", "Figure", "Machine", "Machines", "find_machine", "load_machine", "machines"]

End = Literal["low", "typical", "high"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that is known within a range.

    Attributes
    ----------
    low, typical, high : float
        In this order; >= 0.
    source : str
        Where it is from.
    """

    low: float
    typical: float
    high: float
    source: str = "given"

    def at(self, end: End) -> Figure:
        """Return one end of the range as if it were certain."""
        value = float(getattr(self, end))
        return Figure(value, value, value, self.source)

    def __float__(self) -> float:
        return float(self.typical)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A host and the cards in it.

    Attributes
    ----------
    name, title : str
        For messages, and in a few words.
    cards, cores : int
        Of the whole machine. An estimate is for one card and its share of everything else;
        ``dataclasses.replace(machine, cards=1)`` gives the whole host to one card.
    device_memory_bytes, host_memory_bytes : int
        Of one card, and of the whole host.
    flops_per_s, efficiency, half_tokens : Figure
        A card's dense 16-bit peak; the share of it that training reaches; and the tokens in a
        micro-batch at which half of that is reached, 0 if a small one is as good.
    float32_flops_per_s, device_bytes_per_s, launch_s : Figure
        A card's arithmetic in float32; its memory, as far as programs reach it; a kernel's start.
    link_bytes_per_s, link_total_bytes_per_s, link_latency_s : Figure
        In one direction, pinned: one card alone, all cards at once; what each copy takes.
    pageable_penalty : Figure
        How many times longer bytes take from memory that is not pinned.
    host_bytes_per_s, core_bytes_per_s : Figure
        What a well-written Adam gets of the whole host's memory; and of it one core.
    disk_read_bytes_per_s, disk_write_bytes_per_s, disk_latency_s : Figure
        Of the whole host.

    Examples
    --------
    >>> import adamoffload as ao
    >>> machine = ao.machines["rtx4090"]
    >>> machine.link().bandwidth_bytes_per_s, machine.host_bytes_per_s.typical
    (24000000000.0, 36000000000.0)
    """

    name: str
    title: str
    cards: int
    cores: int
    device_memory_bytes: int
    host_memory_bytes: int
    flops_per_s: Figure
    efficiency: Figure
    half_tokens: Figure
    float32_flops_per_s: Figure
    device_bytes_per_s: Figure
    launch_s: Figure
    link_bytes_per_s: Figure
    link_total_bytes_per_s: Figure
    link_latency_s: Figure
    pageable_penalty: Figure
    host_bytes_per_s: Figure
    core_bytes_per_s: Figure
    disk_read_bytes_per_s: Figure
    disk_write_bytes_per_s: Figure
    disk_latency_s: Figure

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            read = {"Figure": _figure, "int": _count}.get(str(field.type), _text)
            object.__setattr__(self, field.name, read(self.name, field.name, value))

    def at(self, **ends: End) -> Machine:
        """Return the machine with some figures at one end of their ranges."""
        return replace(self, **{name: getattr(self, name).at(end) for name, end in ends.items()})

    @property
    def figures(self) -> dict[str, Figure]:
        """Its figures by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Figure)}

    # -- its parts, as one card sees them: typical figures --------------------------------------

    def device(self) -> Device:
        """Return a card, for arithmetic in float32."""
        return Device(
            float(self.device_bytes_per_s), float(self.float32_flops_per_s), float(self.launch_s)
        )

    def link(self) -> Link:
        """Return one card's link while all cards use theirs."""
        rate = min(float(self.link_bytes_per_s), float(self.link_total_bytes_per_s) / self.cards)
        return Link(rate, float(self.link_latency_s), float(self.pageable_penalty))

    def host(self) -> Host:
        """Return one card's share of the host."""
        cores = self.cores / self.cards * float(self.core_bytes_per_s)
        return Host(float(self.host_bytes_per_s) / self.cards, cores)

    def disk(self) -> Disk:
        """Return one card's share of the disks."""
        read, write = float(self.disk_read_bytes_per_s), float(self.disk_write_bytes_per_s)
        return Disk(read / self.cards, write / self.cards, float(self.disk_latency_s))

    # -- files ----------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Write a machine file, which `load_machine` reads.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        document = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, figure in self.figures.items():
            document[name] = {part.name: getattr(figure, part.name) for part in fields(figure)}
        with replacing(path) as file:
            file.write((json.dumps(document, indent=2) + "\n").encode())


def _text(_: str, field: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"machine: {field} must be a text, got {describe(value)}")
    return value


def _count(name: str, field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise TypeError(f"machine {name!r}: {field} must be a whole number, got {describe(value)}")
    if not 1 <= value <= 1e18:
        raise ValueError(f"machine {name!r}: {field} must be in [1, 1e18], got {value}")
    return int(value)


def _figure(name: str, field: str, value: Any) -> Figure:
    """Return a figure, given one, its parts, or a number that is taken for certain."""
    where = f"machine {name!r}: {field}"
    if isinstance(value, Mapping):
        check_keys(f"machine {name!r}", field, value, _PARTS, ("source",))
        value = Figure(**value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = Figure(value, value, value)
    if not isinstance(value, Figure):
        raise TypeError(f"{where} must be a number or low, typical, high; got {describe(value)}")
    _text(name, f"{field}: source", value.source)
    ends = value.low, value.typical, value.high
    for end in ends:
        if isinstance(end, bool) or not isinstance(end, int | float):
            raise TypeError(f"{where} must have numbers, got {describe(end)}")
    least = 0 if field in _MAY_BE_ZERO else math.ulp(0)
    if not least <= ends[0] <= ends[1] <= ends[2] <= 1e18:
        wanted = "0 <= low" if field in _MAY_BE_ZERO else "0 < low"
        raise ValueError(f"{where} must have {wanted} <= typical <= high <= 1e18, got {ends}")
    if (field == "efficiency" and ends[2] > 1) or (field == "pageable_penalty" and ends[0] < 1):
        wanted = "at most 1" if field == "efficiency" else "at least 1"
        raise ValueError(f"{where} must be {wanted}, got {ends}")
    return value


_PARTS = tuple(field.name for field in fields(Figure))
_MAY_BE_ZERO = ("half_tokens", "launch_s", "link_latency_s", "disk_latency_s")
_FIELDS = tuple(field.name for field in fields(Machine))


def load_machine(path: str | PathLike[str]) -> Machine:
    """Read a machine file: JSON with the fields of `Machine`.

    A figure is ``{"low": ..., "typical": ..., "high": ..., "source": ...}``, or one number.

    Raises
    ------
    OSError
        If it cannot be read.
    TypeError, ValueError
        If a field is missing, unknown, or no such value.
    """
    try:
        with reading(os.fspath(path)) as file:
            document = json.loads(file.read())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"machine file {str(path)!r} is no JSON: {error}") from None
    check_keys(f"machine file {str(path)!r}", "it", document, _FIELDS)
    return Machine(**document)


class Machines(ByName[Machine]):
    """Machines by name; an unknown name is answered with the one that comes closest."""

    @cached_property
    def _known(self) -> dict[str, Machine]:
        read = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
        return {fields["name"]: Machine(**fields) for fields in read}

    kind = "machine"


machines = Machines()
"""Machines by name: presets, each figure with a range and its source."""


def find_machine(owner: str, value: object) -> Machine:
    """Return a machine, given it or its name.

    Raises
    ------
    TypeError, ValueError
        If it is neither.
    """
    if isinstance(value, Machine):
        return value
    if not isinstance(value, str):
        raise TypeError(
            f"{owner}: machine must be a name or an adamoffload.Machine, got {describe(value)}"
        )
    if value not in machines:
        raise ValueError(
            f"{owner}: machine must be one of {', '.join(machines)}, or from a machine file; got "
            f"{listed([value], [*machines])}"
        )
    return machines[value]
