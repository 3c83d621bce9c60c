"""Links, devices and disks that can be simulated, and where their figures come from.

All presets are nominal: what the data sheet or the standard promises, not what a program reaches.
Measure your own machine and pass a `Link`, `Device` or `Disk` of your own to come closer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from adamoffload.estimates.hardware import Device, Disk, Link

__all__ = ["DEVICES", "DISKS", "LINKS", "preset"]


_COPY_S = 6e-6
# DualPath, arXiv:2602.21548, section 5.2, measures 5 to 7 microseconds for cudaMemcpyAsync.
_PAGEABLE = 5.0
# DeepSpeed #8207: a backward pass that sends its gradients down takes 1.31 s with pinned memory and
# 1.81 s without, on PCIe 4.0; 5 explains that and a second model there within 1.4 (the page
# "Estimates beside published measurements").


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


def preset(
    option: str, value: object, kind: type[_Value], known: Mapping[str, _Value], default: _Value
) -> _Value:
    """Return the link, device or disk that an option names or is; None is the default.

    Examples
    --------
    >>> preset("link", "pcie4x61", Link, LINKS, LINKS["pcie3x16"])
    Traceback (most recent call last):
    ValueError: sim: link 'pcie4x61' is unknown; did you mean 'pcie4x16'? Presets: pcie3x16, \
pcie4x16, pcie5x16, nvlink-c2c; or pass a Link
    """
    if value is None:
        return default
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
