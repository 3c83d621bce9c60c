"""The parts of a machine, as far as time is concerned: link, device, disk and host."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

__all__ = ["ADAM_BYTES", "Device", "Disk", "Host", "Link", "Pace", "positive"]

ADAM_BYTES = 28
"""What a fused Adam moves in memory for each parameter: reads p, g, m, v, and writes p, m, v."""


def positive(name: str, value: object, *, zero: bool = False) -> float:
    """Return `value` as a float if it is a finite number > 0 (or >= 0), or raise.

    Examples
    --------
    >>> positive("Link: latency_s", -1, zero=True)
    Traceback (most recent call last):
    ValueError: Link: latency_s must be a finite number >= 0, got -1
    """
    expected = f"a finite number {'>= 0' if zero else '> 0'}"
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be {expected}, got {value!r} ({type(value).__name__})")
    number = float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return number


class Pace(NamedTuple):
    """How fast copies of one kind go: what each takes, however small, and the bytes."""

    latency_s: float
    bytes_per_s: float

    def seconds(self, nbytes: float) -> float:
        """Return how long a copy takes."""
        return self.latency_s + nbytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Link:
    """The way between host and device: full duplex, so each direction has all of it.

    Attributes
    ----------
    bandwidth_bytes_per_s : float
        In one direction; > 0.
    latency_s : float
        What every copy takes, however small; >= 0.
    pageable_penalty : float
        How many times longer the bytes take to or from memory that is not pinned; >= 1.

    Raises
    ------
    TypeError, ValueError
        If a value is no such number.

    Examples
    --------
    >>> link = Link(bandwidth_bytes_per_s=10e9, latency_s=1e-5, pageable_penalty=2)
    >>> link.seconds(10_000_000, pinned=True), link.seconds(10_000_000, pinned=False)
    (0.00101, 0.00201)
    """

    bandwidth_bytes_per_s: float
    latency_s: float = 0.0
    pageable_penalty: float = 1.0

    def __post_init__(self) -> None:
        positive("Link: bandwidth_bytes_per_s", self.bandwidth_bytes_per_s)
        positive("Link: latency_s", self.latency_s, zero=True)
        if positive("Link: pageable_penalty", self.pageable_penalty) < 1:
            raise ValueError(
                f"Link: pageable_penalty must be >= 1 (1 for none), got {self.pageable_penalty!r}"
            )
        _to_floats(self)

    def pace(self, *, pinned: bool) -> Pace:
        """Return how fast copies go."""
        penalty = 1.0 if pinned else self.pageable_penalty
        return Pace(self.latency_s, self.bandwidth_bytes_per_s / penalty)

    def seconds(self, nbytes: int, *, pinned: bool) -> float:
        """Return how long a copy takes."""
        return self.pace(pinned=pinned).seconds(nbytes)


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator by its roofline: an operation is bound by its bytes or by its arithmetic.

    Attributes
    ----------
    bandwidth_bytes_per_s : float
        Of the device's memory, reads and writes together; > 0.
    flops_per_s : float
        Arithmetic operations in float32, an addition and a multiplication being two; > 0.
    launch_s : float
        What every operation takes, however small; >= 0.

    Raises
    ------
    TypeError, ValueError
        If a value is no such number.

    References
    ----------
    S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for
    multicore architectures", Communications of the ACM 52(4), 2009.

    Examples
    --------
    >>> device = Device(bandwidth_bytes_per_s=100, flops_per_s=1000, launch_s=0.5)
    >>> device.seconds(nbytes=200, flops=50), device.seconds(nbytes=200, flops=5000)
    (2.5, 5.5)
    """

    bandwidth_bytes_per_s: float
    flops_per_s: float
    launch_s: float = 0.0

    def __post_init__(self) -> None:
        positive("Device: bandwidth_bytes_per_s", self.bandwidth_bytes_per_s)
        positive("Device: flops_per_s", self.flops_per_s)
        positive("Device: launch_s", self.launch_s, zero=True)
        _to_floats(self)

    def seconds(self, nbytes: float, flops: float) -> float:
        """Return how long one operation takes."""
        return self.launch_s + max(nbytes / self.bandwidth_bytes_per_s, flops / self.flops_per_s)


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk, which reads and writes at the same time, each as if the other were not there.

    Attributes
    ----------
    read_bytes_per_s, write_bytes_per_s : float
        Bandwidth of large reads and writes, one after the other; > 0.
    latency_s : float
        What every read or write takes, however small; >= 0.

    Raises
    ------
    TypeError, ValueError
        If a value is no such number.

    Examples
    --------
    >>> disk = Disk(read_bytes_per_s=4e9, write_bytes_per_s=2e9, latency_s=1e-4)
    >>> disk.seconds("read", 4_000_000), disk.seconds("write", 4_000_000)
    (0.0011, 0.0021)
    """

    read_bytes_per_s: float
    write_bytes_per_s: float
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        positive("Disk: read_bytes_per_s", self.read_bytes_per_s)
        positive("Disk: write_bytes_per_s", self.write_bytes_per_s)
        positive("Disk: latency_s", self.latency_s, zero=True)
        _to_floats(self)

    def pace(self, lane: Literal["read", "write"]) -> Pace:
        """Return how fast reads or writes go."""
        rate = self.read_bytes_per_s if lane == "read" else self.write_bytes_per_s
        return Pace(self.latency_s, rate)

    def seconds(self, lane: Literal["read", "write"], nbytes: int) -> float:
        """Return how long a read or a write takes."""
        return self.pace(lane).seconds(nbytes)


@dataclass(frozen=True, slots=True)
class Host:
    """The host's memory, which Adam shares with the copies of both directions.

    Attributes
    ----------
    memory_bytes_per_s : float
        Of the memory, reads and writes together; > 0, and infinite if it is no limit.
    update_bytes_per_s : float
        What the arithmetic could move if the memory were no limit: cores times what one moves.
    ns_per_parameter : float or None
        What Adam takes for a parameter, if that is known better than what it moves; >= 0. It then
        takes no part of the memory's bandwidth.

    Raises
    ------
    TypeError, ValueError
        If a value is no such number.

    Examples
    --------
    >>> Host(memory_bytes_per_s=100e9, update_bytes_per_s=50e9).ns_per_parameter is None
    True
    """

    memory_bytes_per_s: float = math.inf
    update_bytes_per_s: float = math.inf
    ns_per_parameter: float | None = None

    def __post_init__(self) -> None:
        for name in ("memory_bytes_per_s", "update_bytes_per_s"):
            if getattr(self, name) != math.inf:
                positive(f"Host: {name}", getattr(self, name))
        if self.ns_per_parameter is not None:
            positive("Host: ns_per_parameter", self.ns_per_parameter, zero=True)
        elif min(self.memory_bytes_per_s, self.update_bytes_per_s) == math.inf:
            raise ValueError("Host: give a bandwidth, or ns_per_parameter: something is the limit")


def _to_floats(value: Link | Device | Disk) -> None:
    for field in fields(value):
        object.__setattr__(value, field.name, float(getattr(value, field.name)))
