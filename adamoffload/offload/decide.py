"""Decides what a step computes with: pure values, read before anything changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adamoffload.device.backend import Array
from adamoffload.device.parameter import Parameter
from adamoffload.offload.gradients import centralized
from adamoffload.offload.integrity import StepUnderway
from adamoffload.offload.settings import Settings
from adamoffload.offload.state import Counters
from adamoffload.plan.step import Coefficients, Step

__all__ = ["StepDecays", "decide", "rate_of"]


class StepDecays:
    """The weight decays of one step; a function is called once.

    Parameters
    ----------
    settings : Settings
        What the optimizer was constructed with.
    step : int
        Which, counted from 0.
    """

    def __init__(self, settings: Settings, step: int) -> None:
        self._settings, self.step = settings, step
        self._known: dict[int, np.float32] = {}

    def of(self, group: int) -> np.float32:
        """Return the decay of a group."""
        if group not in self._known:
            self._known[group] = self._settings.groups[group].decay.at(self.step)
        return self._known[group]

    def l2(self, index: int) -> np.float32:
        """Return what times a parameter is added to its gradient."""
        if self._settings.rule.decay != "l2":
            return np.float32(0)
        return self._settings.l2(self.of(self._settings.group_of[index]))


def rate_of(settings: Settings, counters: Counters, index: int, step: int) -> np.float32:
    """Return the learning rate of a parameter in the 0-based `step`.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        If a table has run out, or what a function returns is no finite number.
    """
    group, name = settings.groups[settings.group_of[index]], settings.names[index]
    if name in counters.rates:
        return counters.rates[name]
    if "" in counters.rates and group.rate is settings.rate:
        return counters.rates[""]
    return group.rate.at(step)


def decide(
    settings: Settings,
    before: Counters,
    parameters: Sequence[Parameter],
    flat: Sequence[Array | None],
    underway: StepUnderway,
    unscale: np.float32,
    decays: StepDecays,
) -> Step:
    """Read the numbers of the next step.

    Parameters
    ----------
    settings : Settings
        What the optimizer was constructed with.
    before : Counters
        Where it is.
    parameters : sequence of Parameter
        In update order.
    flat : sequence of device array or None
        Their gradients, flattened; None for one without, and ``DOWN`` for one that has left.
    underway : StepUnderway
        The step's mark; its list of what was touched becomes the step's.
    unscale : float32
        What gradients are multiplied by.
    decays : StepDecays
        The step's, as far as they are known.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        As `rate_of`.
    """
    number = before.global_step + 1
    rates: dict[object, np.float32] = {}  # a function is called once a step
    known: dict[Any, int] = {}
    coefficients: list[Coefficients] = []
    classes = []
    for i, name in enumerate(settings.names):
        index, behind = settings.group_of[i], before.missed[i]
        who = name if name in before.rates else id(settings.groups[index].rate)
        if who not in rates:
            rates[who] = rate_of(settings, before, i, number - 1)
        own = before.constants.get(name, {})
        key = index, rates[who], behind, tuple(own.items())
        if key not in known:
            known[key] = len(coefficients)
            t = number - behind
            coefficients.append(settings.coefficients(rates[who], decays.of(index), t, own))
        classes.append(known[key])
    gradients = list(flat)
    for i, index in enumerate(settings.group_of):
        gradient = gradients[i]
        if gradient is None or not settings.groups[index].centralize or parameters[i].ndim < 2:
            continue
        mine = coefficients[classes[i]]
        decay = np.float32(0) if settings.scaled else mine.l2
        gradients[i] = centralized(gradient, parameters[i], decay)
        if decay:  # it is in there already
            classes[i] = len(coefficients)
            coefficients.append(replace(mine, l2=np.float32(0)))
    underway.number = number
    return Step(
        number,
        gradients,
        classes,
        coefficients,
        unscale,
        settings.scaled,
        settings.seed,
        underway.touched,
    )
