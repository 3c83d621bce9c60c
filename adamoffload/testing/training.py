"""A training run: what all the promises are for."""

from __future__ import annotations

from typing import Any

import numpy as np

from adamoffload.device.backend import Array, Backend, HostArray
from adamoffload.device.parameter import Parameter
from adamoffload.device.registry import get_backend
from adamoffload.observe.ledger import Ledger
from adamoffload.offload.faces import AdamOffload
from adamoffload.testing.promises import (
    NewDevice,
    Promises,
    same,
)


class Training(Promises):
    """Training gives the bits that the numpy backend gives."""

    def test_training_equals_the_numpy_backend(self, new_device: NewDevice) -> None:
        """Parameters, moments and events of a training run are the numpy backend's, bitwise."""
        for options in _TRAININGS:
            ours, ours_events = _train(new_device(), options)
            theirs, their_events = _train(get_backend("numpy"), options)
            for name, expected in theirs.items():
                same(ours[name], expected, f"{name} after training differs from numpy's")
            assert ours_events == their_events, "the ledger of a training run differs from numpy's"


_TRAININGS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.01, "loss_scale": 8.0, "use_nesterov": True, "chunk_bytes": 1024},
)


def _train(device: Backend, options: dict[str, Any]) -> tuple[dict[str, HostArray], list[Any]]:
    """Return the state after 12 steps, by name, and what the ledger saw.

    The gradients take products and differences only, which are exactly rounded everywhere.
    """
    random, ledger = np.random.default_rng(1), Ledger()

    def numbers(*shape: int) -> Array:
        return device.asarray(np.asarray(random.normal(size=shape), np.float32))

    shapes: tuple[tuple[int, ...], ...] = ((1000,), (), (17, 5), (3,))
    parameters = [Parameter(numbers(*shape), f"w{i}") for i, shape in enumerate(shapes)]
    goals = [numbers(*shape) for shape in shapes]
    stiffness = [numbers(*shape) for shape in shapes]
    optimizer = AdamOffload(parameters, 0.05, ledger=ledger, **options)
    for _ in range(12):
        optimizer(
            [(w.data - goal) * k for w, goal, k in zip(parameters, goals, stiffness, strict=True)]
        )
    state = {p.name: device.asnumpy(p.data) for p in parameters}
    state |= {f"moment1[{p.name}]": optimizer.moment1[p.name] for p in parameters}
    state |= {f"moment2[{p.name}]": optimizer.moment2[p.name] for p in parameters}
    return state, [(e.hop, e.step, e.chunk, e.elements, e.nbytes) for e in ledger.events]
