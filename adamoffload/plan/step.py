"""What one step computes with, decided before anything changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adamoffload.device.backend import Array
from adamoffload.rules.rule import FLUSH_INTERVAL

__all__ = ["DOWN", "Coefficients", "Step"]

DOWN = object()
"""Stands for a gradient that has left the device."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The numbers that some parameters share in a step.

    Attributes
    ----------
    lr : float32
        The learning rate.
    l2 : float32
        What times the parameter is added to its gradient, loss scale included; 0 for nothing.
    keep : float32
        What the parameter is multiplied by before the update is added: 1 - lr x weight decay where
        decay is decoupled, else 1.
    t : int
        How many updates they have had with this one, counted from 1.
    scalars : mapping from str to float32
        What the rule computes with: `Rule.scalars`.
    """

    lr: np.float32
    l2: np.float32
    keep: np.float32
    t: int
    scalars: Mapping[str, np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A step.

    Attributes
    ----------
    number : int
        Counted from 1.
    gradients : sequence of device array, shape (size,), or None
        Flattened, in update order; None for a parameter that this step leaves alone, and ``DOWN``
        for a gradient that has left the device.
    classes : sequence of int
        Which coefficients each parameter has.
    coefficients : sequence of Coefficients
        The distinct ones.
    unscale : float32
        What gradients are multiplied by: the factor of clipping over the loss scale.
    scaled : bool
        Whether that comes first, as with 16-bit gradients and with clipping; else decay does.
    seed : int
        Of the bits for stochastic rounding.
    touched : list of int
        Indices of the parameters that the step has begun to change; whoever carries it out adds
        them, before the first change.
    """

    number: int
    gradients: Sequence[Array | None]
    classes: Sequence[int]
    coefficients: Sequence[Coefficients]
    unscale: np.float32
    scaled: bool
    seed: int
    touched: list[int]

    @property
    def flush(self) -> bool:
        """Whether denormal state becomes zero in this step."""
        return self.number % FLUSH_INTERVAL == 0

    def of(self, index: int) -> Coefficients:
        """Return the coefficients of a parameter."""
        return self.coefficients[self.classes[index]]
