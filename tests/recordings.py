"""What the tests of figures draw: a small run, and what it must have computed, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import adamoffload as ao

from reference import PlainAdam

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
    adam = PlainAdam(g[0].shape, 0.0, beta2=float(np.float32(0.999)))
    steps = []
    for t in range(len(g)):
        adam.lr = learning_rate(t) if callable(learning_rate) else learning_rate
        delta = adam.step(g[t])
        steps.append((adam.m, adam.v, delta, adam.rate))
    run.m[name], run.v[name], run.delta[name], run.rate[name] = map(
        np.array, zip(*steps, strict=True)
    )


def corners(path: Any) -> np.ndarray[Any, Any]:
    """Return the corners of a drawn polygon: shape (n, 2)."""
    return np.asarray(path.vertices)
