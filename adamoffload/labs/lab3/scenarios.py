"""What lab 3 does with a student's module: ledgers to read, and copies to record."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload_sim import Device, Link

__all__ = ["bandwidth", "copied", "counter", "per_step"]


def per_step(student: ModuleType, sizes: list[int], steps: list[int], chunk_bytes: int) -> Any:
    """Record optimizers of different sizes in one ledger, some of which stop earlier."""
    device, ledger = ao.get_backend("numpy"), ao.Ledger()
    weights = [
        device.asarray(np.ones(n, np.float32), record=ledger.at()) for n in sizes
    ]  # outside of any step
    for size, weight, count in zip(sizes, weights, steps, strict=True):
        optimizer = ao.AdamOffload(
            [ao.Parameter(weight, name="w")],
            ledger=ledger,
            chunk_bytes=chunk_bytes,
            engine="numpy",  # nothing to compile: who waits for a grade is to wait briefly
        )
        for _ in range(count):
            optimizer([device.asarray(np.ones(size, np.float32))])
    device.asnumpy(weights[0], record=ledger.at())
    return student.per_step(ledger)


def copied(student: ModuleType, copies: list[tuple[int, int, int]], dtype: str) -> Any:
    """Record copies, (step, elements down, elements up), of which none is like the others."""
    device, ledger = ao.get_backend("numpy"), ao.Ledger()
    for step, down, up in copies:
        x = device.asarray(np.ones(max(down, up), dtype))
        if up:
            device.asarray(np.ones(up, dtype), record=ledger.at(step))
        if down:
            device.asnumpy(x[:down], record=ledger.at(step))
    return student.per_step(ledger)


def bandwidth(
    student: ModuleType,
    hop: str,
    sizes: list[int],
    bytes_per_s: float,
    latency_s: float,
    dtype: str,
) -> Any:
    """Record copies on a simulated link, with pauses between them."""
    link = Link(bytes_per_s, latency_s)
    device = ao.get_backend("sim", link=link, device=Device(1e12, 1e12))
    ledger = ao.Ledger()
    for size in sizes:
        x = device.asarray(np.ones(size, dtype), record=ledger.at())
        device.run_on_host(lambda: None, elements=1_000_000)  # the link is idle meanwhile
        device.asnumpy(x[: size // 2], record=ledger.at())
    return student.bandwidth(ledger, hop)


def counter(student: ModuleType, sizes: list[int], dtype: str) -> dict[str, Any]:
    """Let a counter of the student's record copies, beside another one, and look at the clock."""
    device = ao.get_backend("sim", link=Link(1e6))
    record, totals = student.counter()
    other_record, other_totals = student.counter()
    first = totals()
    at_first = dict(first) if isinstance(first, dict) else first
    waited = False
    for size in sizes:
        x = device.asarray(np.ones(size, dtype), record=record)
        half = x[: size // 2]
        target = np.empty(size // 2, dtype)
        before = device.now()
        ticket = device.d2h(half, target, record=record)
        waited |= device.now() != before
        ticket.wait()
        record("update", size, 0, ticket)
    device.asarray(np.ones(3, np.float32), record=other_record)
    return {
        "first": at_first,
        "changed": first != at_first,
        "totals": totals(),
        "other": other_totals(),
        "waited": waited,
    }
