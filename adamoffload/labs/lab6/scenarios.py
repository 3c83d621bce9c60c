"""What lab 6 does with a student's module where plain calls are not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np

import adamoffload as ao

__all__ = ["groups", "rate_of_schedule", "which"]


def rate_of_schedule(student: ModuleType, step: int, peak: float, shift: int) -> Any:
    """Ask for the rate of a schedule that is a function."""
    return student.rate_at(lambda step: peak / (step + shift), step)


def groups(student: ModuleType, shapes: dict[str, Any], lr: float, decay: float) -> dict[str, Any]:
    """Build groups and give them to an optimizer whose own decay is 0.5."""
    device = ao.get_backend("numpy")
    parameters = [
        ao.Parameter(device.asarray(np.ones(s, np.float32)), n) for n, s in shapes.items()
    ]
    made = student.make_groups(parameters, lr, decay)
    if isinstance(made, Iterable) and not isinstance(made, dict):
        made = list(made)
    if not isinstance(made, list) or not all(isinstance(group, dict) for group in made):
        return {"fault": "it should return a list of dicts"}
    made = [{**group, "params": list(group.get("params", ()))} for group in made]
    seen = [p.name for group in made for p in group["params"]]
    for name in shapes:
        if seen.count(name) != 1:
            return {"fault": f"{name} is in {seen.count(name)} groups; each belongs in one"}
    if not all(group["params"] for group in made):
        return {"fault": "there is a group without parameters, which the optimizer refuses"}
    optimizer = ao.AdamOffload(made, learning_rate=0.25, weight_decay=0.5, engine="numpy")
    names = [p.name for p in optimizer.parameters]
    rates = np.broadcast_to(optimizer.get_lr(), (len(names),))
    return {
        "rates": {n: float(rate) for n, rate in zip(names, rates, strict=True)},
        "decays": {n: float(d) for n, d in zip(names, optimizer.get_weight_decay(), strict=True)},
    }


def which(student: ModuleType, kind: str, lr: float, decay: float) -> Any:
    """Let the student experiment with this library's optimizer, or with a decoupled one."""
    stepped: dict[str, Callable[..., Any]] = {"L2": _coupled, "decoupled": _decoupled}

    def step(w: Any, g: Any) -> Any:
        w, g = (np.atleast_1d(np.asarray(array, np.float32)) for array in (w, g))
        if w.shape != g.shape:
            raise ValueError(f"step: w and g should have one shape, not {w.shape} and {g.shape}")
        return stepped[kind](w, g, lr, decay)

    return student.which_decay(step)


def _coupled(w: Any, g: Any, lr: float, decay: float) -> Any:
    device = ao.get_backend("numpy")
    parameter = ao.Parameter(device.asarray(w), name="w")
    ao.AdamOffload([parameter], lr, weight_decay=decay, engine="numpy")((device.asarray(g),))
    return device.asnumpy(parameter.data)


def _decoupled(w: Any, g: Any, lr: float, decay: float) -> Any:
    return _coupled(w, g, lr, 0.0) - np.float32(lr * decay) * w
