"""A step in plain NumPy, parameter by parameter: the oracle of everything that moves arrays about.

It knows nothing of places, chunks, threads or copies. The rule's own update is called on whole
arrays; what the rules compute is compared with other libraries in ``tests/rules``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import adamoffload as ao

SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal


class Plain:
    """Parameters and slots of one optimizer, on the host."""

    def __init__(self, rule: ao.Rule, weights: Mapping[str, Any], *, loss_scale: float = 1.0):
        self.rule, self.scale = rule, loss_scale
        self.weights = {name: np.array(w) for name, w in weights.items()}
        self.slots = {
            slot: {name: np.zeros_like(w) for name, w in self.weights.items()}
            for slot in rule.slots
        }
        self.steps = 0
        self.updates = dict.fromkeys(self.weights, 0)

    @np.errstate(all="ignore")
    def step(
        self,
        gradients: Mapping[str, Any],
        lr: Mapping[str, float],
        decay: Mapping[str, float],
    ) -> None:
        """Move every parameter that has a gradient."""
        self.steps += 1
        for name, g in gradients.items():
            w, rate, wd = self.weights[name], np.float32(lr[name]), np.float32(decay[name])
            self.updates[name] += 1
            if self.rule.decay == "l2" and wd:
                g = g + w * np.float32(float(wd) * self.scale)
            if self.scale != 1:
                g = g * np.float32(1 / self.scale)
            numbers = self.rule.scalars(rate, self.updates[name])
            scalars = {key: np.float32(value) for key, value in numbers.items()}
            old = [self.slots[slot][name] for slot in self.rule.slots]
            delta, *new = self.rule.update(g, *old, **scalars)
            if self.steps % 64 == 0:
                new = [x * (np.abs(x) >= SMALLEST_NORMAL) for x in new]
            for slot, x in zip(self.rule.slots, new, strict=True):
                self.slots[slot][name] = x
            if self.rule.decay == "decoupled":
                w = w * np.float32(1 - float(rate) * float(wd))
            self.weights[name] = w + delta

    def arrays(self) -> dict[tuple[str, str], Any]:
        """Return everything by kind and name."""
        found = {("parameter", name): w for name, w in self.weights.items()}
        for slot, arrays in self.slots.items():
            found |= {(slot, name): x for name, x in arrays.items()}
        return found
