"""What one step does, decided before anything changes, and what counts the steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from adamoffload.device.backend import Array
from adamoffload.rules.rule import FLUSH_INTERVAL

__all__ = ["Progress", "Step"]


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
