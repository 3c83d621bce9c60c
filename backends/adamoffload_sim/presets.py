"""Links, devices and disks that can be simulated, and where their figures come from.

All presets are nominal: what the data sheet or the standard promises, not what a program reaches.
Measure your own machine and pass a `Link`, `Device` or `Disk` of your own to come closer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypeVar

__all__ = ["DEVICES", "DISKS", "LINKS", "Device", "Disk", "Link", "positive", "preset"]


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

    def seconds(self, nbytes: int, *, pinned: bool) -> float:
        """Return how long a copy takes."""
        penalty = 1.0 if pinned else self.pageable_penalty
        return self.latency_s + nbytes / self.bandwidth_bytes_per_s * penalty


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

    def seconds(self, nbytes: int, flops: int) -> float:
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

    def seconds(self, lane: Literal["read", "write"], nbytes: int) -> float:
        """Return how long a read or a write takes."""
        rate = self.read_bytes_per_s if lane == "read" else self.write_bytes_per_s
        return self.latency_s + nbytes / rate


def _to_floats(value: Link | Device | Disk) -> None:
    for field in fields(value):
        object.__setattr__(value, field.name, float(getattr(value, field.name)))


_COPY_S = 10e-6
_PAGEABLE = 2.4
# Both measured by M. Boyer, "Memory Transfer Overhead", University of Virginia: "a constant
# overhead of about 10 microseconds" for small cudaMemcpy calls, and "approximately 2.4x" the
# throughput with pinned memory for large ones (GTX 280, PCIe 2.0). DualPath, arXiv:2602.21548,
# section 5.2, measures 5-7 microseconds for cudaMemcpyAsync on current machines.
# https://www.cs.virginia.edu/~mwb7w/cuda_support/memory_transfer_overhead.html


def _pcie(transfers_per_s: float) -> Link:
    # One bit a transfer and lane, 16 lanes, 128 payload bits in 130 (PCI Express Base
    # Specification 3.0 and later). Packet headers take some 10 % more, which is not in here.
    return Link(transfers_per_s * 16 * 128 / 130 / 8, _COPY_S, _PAGEABLE)


LINKS: Mapping[str, Link] = {
    "pcie3x16": _pcie(8e9),  # 15.75 GB/s
    "pcie4x16": _pcie(16e9),  # 31.51 GB/s
    "pcie5x16": _pcie(32e9),  # 63.02 GB/s
    # 900 GB/s in both directions together, and coherent: the device reads pageable memory itself.
    # NVIDIA Grace Hopper Superchip Architecture whitepaper, 2022.
    "nvlink-c2c": Link(450e9, _COPY_S, 1.0),
}
"""Links by name: nominal bandwidth in one direction."""

_LAUNCH_S = 1e-6
# A. Gray, "Getting Started with CUDA Graphs", NVIDIA developer blog, 2019: a kernel of 2.9 us takes
# 3.8 us when kernels are launched one after the other without waiting (V100).

DEVICES: Mapping[str, Device] = {
    # NVIDIA GeForce GTX 1650, a laptop's class: 896 cores at 1,665 MHz, two operations each;
    # 128 bit of GDDR5 at 8 Gbit/s. NVIDIA, GeForce GTX 16 series specifications, 2019.
    "gtx1650": Device(128e9, 896 * 1665e6 * 2, _LAUNCH_S),
    # NVIDIA Turing GPU Architecture whitepaper (WP-09183), Tesla T4: 8.1 TFLOPS, 320 GB/s.
    "t4": Device(320e9, 8.1e12, _LAUNCH_S),
    # NVIDIA V100 data sheet, SXM2: 15.7 TFLOPS, 900 GB/s.
    "v100": Device(900e9, 15.7e12, _LAUNCH_S),
    # NVIDIA A100 data sheet, 40 GB: 19.5 TFLOPS (without tensor cores), 1,555 GB/s.
    "a100": Device(1555e9, 19.5e12, _LAUNCH_S),
    # NVIDIA H100 data sheet, SXM: 67 TFLOPS (without tensor cores), 3.35 TB/s.
    "h100": Device(3350e9, 67e12, _LAUNCH_S),
}
"""Devices by name: nominal memory bandwidth and float32 rate, without tensor cores."""

DISKS: Mapping[str, Disk] = {
    # Samsung SSD 870 EVO data sheet, 1 TB, SATA: 560 and 530 MB/s; 4 KiB at queue depth 1:
    # 13,000 reads/s.
    "sata": Disk(560e6, 530e6, 1 / 13e3),
    # Samsung SSD 970 EVO Plus data sheet, 1 TB: 3,500 and 3,300 MB/s; 19,000 reads/s.
    "nvme-pcie3": Disk(3500e6, 3300e6, 1 / 19e3),
    # Samsung SSD 980 PRO data sheet, 1 TB: 7,000 and 5,000 MB/s; 22,000 reads/s. Writes are that
    # fast while the drive's cache has room.
    "nvme-pcie4": Disk(7000e6, 5000e6, 1 / 22e3),
}
"""Disks by name: nominal bandwidth; the latency is that of a read of 4 KiB alone."""

_Value = TypeVar("_Value", Link, Device, Disk)


def preset(option: str, value: object, kind: type[_Value], known: Mapping[str, _Value]) -> _Value:
    """Return the link, device or disk that an option names or is.

    Examples
    --------
    >>> preset("link", "pcie4x61", Link, LINKS)
    Traceback (most recent call last):
    ValueError: sim: link 'pcie4x61' is unknown; did you mean 'pcie4x16'? Presets: pcie3x16, \
pcie4x16, pcie5x16, nvlink-c2c; or pass a Link
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, str):
        raise TypeError(
            f"sim: {option} must be the name of a preset ({', '.join(known)}) or a "
            f"{kind.__name__}, got {value!r} ({type(value).__name__})"
        )
    if value not in known:
        import difflib

        close = difflib.get_close_matches(value.lower(), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(
            f"sim: {option} {value!r} is unknown{hint} Presets: {', '.join(known)}; or pass a "
            f"{kind.__name__}"
        )
    return known[value]
