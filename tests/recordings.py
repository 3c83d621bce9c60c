"""What the tests of figures draw: a small run, and what it must have computed, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import adamoffload as ao

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Run:
    """What was recorded, and, by name, what must be in it: shape (steps, size)."""

    ledger: ao.Ledger
    probe: ao.Probe
    optimizer: ao.AdamOffload
    m: dict[str, Array]
    v: dict[str, Array]
    delta: dict[str, Array]
    rate: dict[str, Array]


def train(
    sizes: dict[str, int],
    steps: int = 6,
    learning_rate: Any = 0.01,
    gradients: dict[str, Array] | None = None,
    **options: Any,
) -> Run:
    """Train with random gradients, or those given: shape (steps, size)."""
    rng = np.random.default_rng(0)
    device = ao.get_backend("sim", link="pcie4x16", memory_bytes=1 << 20)
    g = {name: rng.standard_normal((steps, size)) for name, size in sizes.items()}
    g = {name: values.astype(np.float32) for name, values in (g | (gradients or {})).items()}
    ledger, probe = ao.Ledger(), ao.Probe()
    optimizer = ao.AdamOffload(
        [
            ao.Parameter(device.asarray(np.ones(size, np.float32)), name)
            for name, size in sizes.items()
        ],
        learning_rate,
        ledger=ledger,
        probe=probe,
        **options,
    )
    for t in range(steps):
        optimizer([device.asarray(g[p.name][t]) for p in optimizer.parameters])
    run = Run(ledger, probe, optimizer, {}, {}, {}, {})
    for name in sizes:
        _adam(run, name, g[name].astype(np.float64), learning_rate)
    return run


def _adam(run: Run, name: str, g: Array, learning_rate: Any) -> None:
    """Run Kingma and Ba's algorithm 1 in float64, with the epsilon outside the correction."""
    m, v, beta1, beta2 = np.zeros_like(g), np.zeros_like(g), 0.9, float(np.float32(0.999))
    before_m, before_v = np.zeros(g.shape[1]), np.zeros(g.shape[1])
    rate = np.empty_like(g)
    for t in range(len(g)):
        before_m = m[t] = beta1 * before_m + (1 - beta1) * g[t]
        before_v = v[t] = beta2 * before_v + (1 - beta2) * g[t] ** 2
        lr = learning_rate(t) if callable(learning_rate) else learning_rate
        lr_t = lr * np.sqrt(1 - beta2 ** (t + 1)) / (1 - beta1 ** (t + 1))
        rate[t] = lr_t / (np.sqrt(v[t]) + 1e-8)
    run.m[name], run.v[name], run.rate[name], run.delta[name] = m, v, rate, -rate * m


def corners(path: Any) -> np.ndarray[Any, Any]:
    """Return the corners of a drawn polygon: shape (n, 2)."""
    return np.asarray(path.vertices)
