"""The run whose middle is kept in ``oracle/checkpoint_0_1_0.npz``, as adamoffload 0.1.0 saved it.

The file was written by ``python tests/checkpoint_0_1_0.py tests/oracle/checkpoint_0_1_0.npz`` with
version 0.1.0 installed (commit 3b0b311). Gradients, rates and decays need only the arithmetic that
IEEE 754 fixes, so that the run has the same bits on every machine and with every NumPy.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import adamoffload as ao

SAVED_AFTER = 5  # steps
SHAPES = {"w": (3, 2), "layer/é.beta": (4,), "x" * 300: (), "b": (5,)}


def decay(step: int) -> float:
    """Weight decay of the first group."""
    return 0.125 * (step % 3)


def build(kind: Any = ao.AdamOffload, backend: str = "numpy") -> Any:
    """Return the optimizer before its first step."""
    device = ao.get_backend(backend)
    parameters = [
        ao.Parameter(device.asarray(_numbers(shape, i)), name)
        for i, (name, shape) in enumerate(SHAPES.items())
    ]
    groups = [
        {"params": parameters[:1], "lr": [0.1, 0.05, 0.025] * 4, "weight_decay": decay},
        {"params": parameters[1:2], "lr": ao.WarmUpLR(0.125, 8), "grad_centralization": True},
        {"params": parameters[2:]},
    ]
    return kind(groups, 0.1, beta1=0.75, use_nesterov=True, weight_decay=0.01, loss_scale=8.0)


def advance(optimizer: Any, first: int, last: int) -> None:
    """Take the steps from `first` up to `last`; before step 3 a rate is assigned."""
    device = optimizer.parameters[0].backend
    for step in range(first, last):
        if step == 3:
            optimizer.learning_rate = 0.03
        optimizer(
            [
                device.asarray(_numbers(p.shape, 10 * step + i))
                for i, p in enumerate(optimizer.parameters)
            ]
        )


def _numbers(shape: tuple[int, ...], seed: int) -> Any:
    values = (np.arange(int(np.prod(shape))) * 37 + seed * 11) % 101 - 50
    return (values.astype(np.float32) / np.float32(64)).reshape(shape)


if __name__ == "__main__":
    run = build()
    advance(run, 0, SAVED_AFTER)
    ao.save(sys.argv[1], run)
