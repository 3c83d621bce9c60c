"""``adamoffload bench --machine``: measures this machine, and checks the estimate on it.

The device is that of the ``numpy`` backend: memory of the host, in which everything happens in
sequence. What each hop of a step takes is read off a ledger at the size next to 1e7; from these
rates the steps of all sizes are estimated, and run.
"""

from __future__ import annotations

import math
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import adamoffload as ao
from adamoffload.cli.results import prepare, writing
from adamoffload.engine.team import available_cores
from adamoffload.estimates.machines import Figure, Machine

__all__ = ["Stepper", "measure", "run"]

_USUAL = 1e7
_CHUNK = 1 << 20  # parameters
_DISK_BYTES = 16 << 20


def run(sizes: Sequence[int], rounds: int, output: Path) -> int:
    """Measure this machine, write a machine file, and compare estimates with steps; return 0.

    Raises
    ------
    UsageError
        If the result cannot be written.
    """
    path = output / "machine.json"
    prepare(output, path)
    steppers = [Stepper(size) for size in sorted(sizes)]
    rounds_of: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(rounds):  # in turns: what disturbs the machine disturbs all alike
        for stepper in steppers:
            rounds_of[stepper.size].append(stepper.hops())
    machine = measure(rounds_of[min(sizes, key=lambda size: abs(math.log(size / _USUAL)))])
    with writing(output):
        machine.save(path)
    for name, figure in machine.figures.items():
        print(f"{name:<24}{figure.typical:>12.4g}  ({figure.low:.4g} to {figure.high:.4g})")
    print(f"\n{'parameters':>12}{'measured':>12}{'estimated':>12}{'ratio':>8}")
    for size in sorted(sizes):
        measured = size * min(sum(each.values()) for each in rounds_of[size])
        estimated = _estimated(size, machine)
        print(
            f"{size:>12,}{measured * 1e3:>9.3f} ms{estimated * 1e3:>9.3f} ms"
            f"{estimated / measured:>8.2f}"
        )
    print(f"\nMachine file: {path}, for adamoffload estimate --machine {path}")
    return 0


class Stepper:
    """An offloaded optimizer on the ``numpy`` backend, one step at a time.

    Parameters
    ----------
    size : int
        Number of parameters.
    """

    def __init__(self, size: int) -> None:
        device = ao.get_backend("numpy")
        self.size, self._ledger = size, ao.Ledger()
        self._gradient = device.asarray(np.full(size, 1e-3, np.float32))
        w = ao.Parameter(device.asarray(np.ones(size, np.float32)), "w")
        self._optimizer = ao.AdamOffload([w], ledger=self._ledger)
        self.step()  # compiles, and touches all memory once

    def step(self) -> float:
        """Take a step, and return its seconds."""
        began_s = time.perf_counter()
        self._optimizer([self._gradient])
        return time.perf_counter() - began_s

    def hops(self) -> dict[str, float]:
        """Take a step; return the seconds of its hops for a parameter, and of what is between."""
        whole = self.step() / self.size
        number = self._optimizer.global_step
        names = ("d2h", "update", "h2d", "apply")
        found = {hop: self._ledger.seconds(hop, step=number) / self.size for hop in names}
        return {**found, "between": max(0.0, whole - sum(found.values()))}


def measure(hops: Sequence[dict[str, float]]) -> Machine:
    """Return this machine, from the seconds of hops in several rounds; the best is typical."""
    hops = sorted(hops, key=lambda each: sum(each.values()))
    rates = {
        "device_bytes_per_s": [12 / each["apply"] for each in hops],
        "link_bytes_per_s": [8 / (each["d2h"] + each["h2d"]) for each in hops],
        "host_bytes_per_s": [28 / each["update"] for each in hops],
    }
    rates |= {
        "link_total_bytes_per_s": rates["link_bytes_per_s"],
        "core_bytes_per_s": [rate / available_cores() for rate in rates["host_bytes_per_s"]],
    }
    given = {name: _figure(values) for name, values in rates.items()}
    between = [each["between"] * _CHUNK for each in hops]
    given["launch_s"] = _figure(between)
    read, write = _disk()
    one = Figure(1, 1, 1, "what is measured is reached")
    return replace(
        ao.machines["laptop"],
        name="this machine",
        title=platform.processor() or platform.machine(),
        cards=1,
        cores=available_cores(),
        device_memory_bytes=_memory_bytes(),
        host_memory_bytes=_memory_bytes(),
        flops_per_s=_flops_per_s(),
        float32_flops_per_s=Figure(1e15, 1e15, 1e15, "in the rate of the memory"),
        efficiency=one,
        half_tokens=Figure(0, 0, 0, "not measured"),
        link_latency_s=Figure(0, 0, 0, "in the rate"),
        pageable_penalty=Figure(1, 1, 1, "memory of the host is all alike"),
        disk_read_bytes_per_s=read,
        disk_write_bytes_per_s=write,
        **given,
    )


def _figure(values: Sequence[float]) -> Figure:
    """Return the rate of the best round, which comes first, and the range of all."""
    return Figure(min(values), values[0], max(values), f"the best of {len(values)} rounds")


def _estimated(size: int, machine: Machine) -> float:
    """Return the seconds of a step in which one chunk is on its way at a time."""
    return ao.estimate(
        [size],
        strategy="adam-offload",
        rule=ao.rules.Adam(),
        weights="float32",
        machine=machine,
        slots=1,
    ).optimizer_s


def _flops_per_s() -> Figure:
    a = np.ones((512, 512), np.float32)
    taken = []
    for _ in range(5):
        began_s = time.perf_counter()
        a @ a
        taken.append(2 * 512**3 / (time.perf_counter() - began_s))
    return Figure(min(taken), max(taken), max(taken), "products of 512 x 512 in float32")


def _disk() -> tuple[Figure, Figure]:
    data, source = os.urandom(_DISK_BYTES), "a file of 16 MiB; reads may come from the cache"
    with tempfile.TemporaryFile() as file:
        began_s = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        written = _DISK_BYTES / (time.perf_counter() - began_s)
        file.seek(0)
        began_s = time.perf_counter()
        file.read()
        read = _DISK_BYTES / (time.perf_counter() - began_s)
    return Figure(read, read, read, source), Figure(written, written, written, source)


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return ao.machines["laptop"].host_memory_bytes
