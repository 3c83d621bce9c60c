"""Ledgers whose every time is known, and a trained optimizer, for the tests of reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.plan.hops import Declared


@dataclass(frozen=True)
class Span:
    """A ticket whose times are known."""

    start_s: float
    stop_s: float


class Clock:
    """What a ledger knows of a device."""

    simulated = False

    def __init__(self, used: int, limit: int | None) -> None:
        self.used, self.limit = used, limit

    def now(self) -> float:
        return 0.0

    def memory(self) -> tuple[int, int, int | None]:
        return (self.used, self.used, self.limit)


PARTS = (("big", 300), ("small", 100))


def declared_ledger(clock: Any = None) -> ao.Ledger:
    """Return a ledger that was told what ``adam-offload`` moves of `PARTS`."""
    hops = ao.strategies["adam-offload"].hops(ao.rules.Adam())
    ledger = ao.Ledger()
    names = frozenset(name for name, _ in PARTS)
    ledger.attach(clock or Clock(0, None), [Declared("Adam", hops, names)])
    return ledger


def one_step(ledger: ao.Ledger, step: int, at_s: float, host_s: float = 1.0) -> None:
    """400 numbers in one chunk: 1 ms down, 2 ms of waiting, `host_s` ms of Adam, 1 ms up."""
    record = ledger.at(step, 0, PARTS)
    ms = 1e-3
    record("prepare", 400, 0, Span(at_s, at_s))
    record("d2h", 400, 1600, Span(at_s, at_s + ms))
    record("wait", 400, 0, Span(at_s, at_s + 2 * ms))
    begin = at_s + 2 * ms
    record("update", 400, 0, Span(begin, begin + host_s * ms))
    begin += host_s * ms
    record("h2d", 400, 1600, Span(begin, begin + ms))
    record("apply", 400, 0, Span(begin + ms, begin + ms))


def trained(gradient: float, names: tuple[str, ...] = ("w",), **options: Any) -> Any:
    device = ao.get_backend("numpy")
    probe = ao.Probe(**options)
    parameters = [ao.Parameter(device.asarray(np.ones(4, np.float32)), name) for name in names]
    optimizer = ao.AdamOffload(parameters, 0.5, probe=probe, engine="numpy", threads=1)
    optimizer([device.asarray(np.full(4, gradient, np.float32)) for _ in names])
    return probe, optimizer
