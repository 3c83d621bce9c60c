"""What lab 2 does with a student's module: arrays on both sides of a link, and its counters."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

import adamoffload as ao

__all__ = ["device_step", "host_step", "offload_step", "prepare"]


def host_step(student: ModuleType, g: Any, m: Any, v: Any, *numbers: Any) -> dict[str, Any]:
    """Let the host half work on parts of one larger array."""
    parts = dict(zip("gmv", np.stack([g, m, v]), strict=True))
    student.host_step(*parts.values(), *numbers)
    return parts


def device_step(student: ModuleType, w: Any, delta: Any) -> dict[str, Any]:
    """Let the device half work on a device."""
    device = ao.get_backend("numpy")
    on_device, update = device.asarray(w), device.asarray(delta)
    before = device.traffic()
    student.device_step(on_device, update)
    return {
        **_moved(device, before),
        "w": device.asnumpy(on_device),
        "delta": device.asnumpy(update),
    }


def offload_step(
    student: ModuleType, w: Any, gradients: Any, m: Any, v: Any, *numbers: Any
) -> dict[str, Any]:
    """Let the student take a step with each gradient, and count."""
    device = ao.get_backend("numpy")
    on_device = device.asarray(w)
    m, v = m.copy(), v.copy()
    on_device_too = [device.asarray(g) for g in gradients]
    before = device.traffic()
    for gradient in on_device_too:
        student.offload_step(device, on_device, gradient, m, v, *numbers)
    return {**_moved(device, before), "w": device.asnumpy(on_device), "m": m, "v": v}


def prepare(student: ModuleType, w: Any, g: Any, decay: Any, scale: Any) -> dict[str, Any]:
    """Let the device decay and unscale."""
    device = ao.get_backend("numpy")
    on_device, gradient = device.asarray(w), device.asarray(g)
    before = device.traffic()
    result = student.prepare(on_device, gradient, decay, scale)
    moved = _moved(device, before)
    return {
        **moved,
        "type": type(result).__name__,
        "result": device.asnumpy(result) if device.owns(result) else None,
        "w": device.asnumpy(on_device),
        "g": device.asnumpy(gradient),
    }


def _moved(device: ao.Backend, before: ao.Traffic) -> dict[str, Any]:
    after = device.traffic()
    return {"down": after.d2h - before.d2h, "up": after.h2d - before.h2d}
