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
    """Parameters and slots of one optimizer, on the host.

    With 16-bit weights and a master, that is float32; without one, weights and slots are rounded
    once a step. Gradients are multiplied first where weights have 16 bits, or norms are clipped.
    """

    def __init__(
        self,
        rule: ao.Rule,
        weights: Mapping[str, Any],
        *,
        loss_scale: float = 1.0,
        max_norm: float | None = None,
        master: bool = True,
        scaled: bool = False,
    ):
        self.rule, self.scale, self.max_norm = rule, loss_scale, max_norm
        self.weights = {name: np.array(w) for name, w in weights.items()}
        self.dtype = next(iter(self.weights.values())).dtype
        self.rest = self.dtype if not master else np.dtype(np.float32)
        self.scaled = scaled or self.dtype != np.float32 or max_norm is not None
        self.master = {name: w.astype(self.rest) for name, w in self.weights.items()}
        self.slots = {
            slot: {name: np.zeros_like(w) for name, w in self.master.items()} for slot in rule.slots
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
        factor = 1 / self.scale
        if self.max_norm is not None:
            squares = [np.sum(np.square(g.astype(np.float64))) for g in gradients.values()]
            norm = np.sqrt(np.sum(squares)) / self.scale
            factor = min(1.0, self.max_norm / (norm + 1e-6)) / self.scale
        for name, g in gradients.items():
            w, rate, wd = self.master[name].astype(np.float32), np.float32(lr[name]), decay[name]
            self.updates[name] += 1
            l2 = np.float32(float(np.float32(wd)) * (1 if self.scaled else self.scale))
            g = g.astype(np.float32)
            if self.scaled:
                g = g * np.float32(factor)
            if self.rule.decay == "l2" and wd:
                g = g + w * l2
            if not self.scaled and self.scale != 1:
                g = g * np.float32(factor)
            numbers = self.rule.scalars(rate, self.updates[name])
            scalars = {key: np.float32(value) for key, value in numbers.items()}
            old = [self.slots[slot][name].astype(np.float32) for slot in self.rule.slots]
            delta, *new = self.rule.update(g, *old, **scalars)
            if self.steps % 64 == 0:
                new = [x * (np.abs(x) >= SMALLEST_NORMAL) for x in new]
            for slot, x in zip(self.rule.slots, new, strict=True):
                self.slots[slot][name] = x.astype(self.rest)
            if self.rule.decay == "decoupled":
                w = w * np.float32(1 - float(rate) * float(np.float32(wd)))
            self.master[name] = np.asarray(w + delta).astype(self.rest)
            self.weights[name] = self.master[name].astype(self.dtype)

    def arrays(self) -> dict[tuple[str, str], Any]:
        """Return everything by kind and name."""
        found = {("parameter", name): w for name, w in self.weights.items()}
        for slot, arrays in self.slots.items():
            found |= {(slot, name): x for name, x in arrays.items()}
        return found
