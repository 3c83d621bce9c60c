"""What one step does, decided before anything changes, and what counts the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from adamoffload.device.backend import Array
from adamoffload.rules.rule import FLUSH_INTERVAL

__all__ = ["Coefficients", "Progress", "Step"]


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


class Progress(NamedTuple):
    """What counts the steps; replaced as a whole, so that no interrupt comes in between.

    Attributes
    ----------
    beta1_power, beta2_power : float32
        Products of the betas over all steps so far.
    global_step : int
        Steps so far.
    """

    beta1_power: np.float32
    beta2_power: np.float32
    global_step: int


class Step(NamedTuple):
    """What one step does, decided before anything changes.

    Attributes
    ----------
    number : int
        The step's number, counted from 1.
    gradients : list of device array, shape (size,), float32
        Flattened, in update order.
    decays : list of float32
        What times the parameter is added to its gradient, for each parameter.
    rates : list of float32
        The learning rate of each parameter.
    step_sizes : list of float32
        The bias-corrected learning rate of each parameter.
    progress : Progress
        As it is after this step.
    touched : list of int
        Which parameters the step has begun to change, by their places: whoever carries it out adds
        them, before the first change.
    """

    number: int
    gradients: list[Array]
    decays: list[np.float32]
    rates: list[np.float32]
    step_sizes: list[np.float32]
    progress: Progress
    touched: list[int]

    @property
    def flush(self) -> bool:
        """Whether denormal moments become zero in this step."""
        return self.number % FLUSH_INTERVAL == 0

    @property
    def classes(self) -> list[int]:
        """Which coefficients each parameter has."""
        numbers = {pair: number for number, pair in enumerate(self._numbers)}
        return [numbers[pair] for pair in zip(self.rates, self.step_sizes, strict=True)]

    @property
    def coefficients(self) -> list[Coefficients]:
        """The distinct ones."""
        zero, one = np.float32(0), np.float32(1)
        return [
            Coefficients(lr, zero, one, self.number, {"lr_t": lr_t}) for lr, lr_t in self._numbers
        ]

    @property
    def _numbers(self) -> list[tuple[np.float32, np.float32]]:
        return list(dict.fromkeys(zip(self.rates, self.step_sizes, strict=True)))
