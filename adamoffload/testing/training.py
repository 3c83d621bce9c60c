"""A training run: what all the promises are for."""

from __future__ import annotations

from typing import Any

import numpy as np

from adamoffload.device.backend import Array, Backend, HostArray
from adamoffload.device.parameter import Parameter
from adamoffload.device.registry import get_backend
from adamoffload.observe.ledger import Ledger
from adamoffload.offload.faces import Adam, AdamOffload
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
            self._check_training(new_device(), AdamOffload, options)

    def test_training_on_the_device_equals_the_numpy_backend(self, new_device: NewDevice) -> None:
        """So it does where the device itself runs the rule: a root is rounded correctly, too."""
        for options in _TRAININGS:
            self._check_training(new_device(), Adam, options)

    def _check_training(
        self, device: Backend, kind: type[AdamOffload | Adam], options: dict[str, Any]
    ) -> None:
        ours, ours_events = _train(device, kind, options)
        theirs, their_events = _train(get_backend("numpy"), kind, options)
        for name, expected in theirs.items():
            same(ours[name], expected, f"{name} after training differs from numpy's")
        assert ours_events == their_events, "the ledger of a training run differs from numpy's"


_TRAININGS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.01, "loss_scale": 8.0, "use_nesterov": True, "chunk_bytes": 1024},
)


def _train(
    device: Backend, kind: type[AdamOffload | Adam], options: dict[str, Any]
) -> tuple[dict[str, HostArray], list[Any]]:
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
    optimizer = kind(parameters, 0.05, ledger=ledger, **options)
    for _ in range(12):
        optimizer(
            [(w.data - goal) * k for w, goal, k in zip(parameters, goals, stiffness, strict=True)]
        )
    state = {p.name: device.asnumpy(p.data) for p in parameters}
    for moment in ("moment1", "moment2"):
        arrays = getattr(optimizer, moment)
        state |= {f"{moment}[{name}]": _on_host(device, x) for name, x in arrays.items()}
    return state, [(e.hop, e.step, e.chunk, e.elements, e.nbytes) for e in ledger.events]


def _on_host(device: Backend, array: Array) -> HostArray:
    return device.asnumpy(array) if device.owns(array) else array
