"""Decides what a step computes with: pure values, read before anything changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adamoffload.device.backend import Array
from adamoffload.device.parameter import Parameter
from adamoffload.offload.gradients import centralized
from adamoffload.offload.integrity import StepUnderway
from adamoffload.offload.settings import Settings
from adamoffload.offload.state import Counters
from adamoffload.plan.step import Coefficients, Step

__all__ = ["decide", "rate_of"]


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
        Their gradients, flattened; None for one without.
    underway : StepUnderway
        The step's mark; its list of what was touched becomes the step's.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        As `rate_of`.
    """
    number = before.global_step + 1
    decays = [group.decay.at(number - 1) for group in settings.groups]
    rates: dict[object, np.float32] = {}  # a function is called once a step
    known: dict[tuple[int, np.float32, int], int] = {}
    coefficients: list[Coefficients] = []
    classes = []
    for i, name in enumerate(settings.names):
        index, behind = settings.group_of[i], before.missed[i]
        who = name if name in before.rates else id(settings.groups[index].rate)
        if who not in rates:
            rates[who] = rate_of(settings, before, i, number - 1)
        key = index, rates[who], behind
        if key not in known:
            known[key] = len(coefficients)
            t = number - behind
            coefficients.append(settings.coefficients(rates[who], decays[index], t))
        classes.append(known[key])
    gradients = list(flat)
    for i, index in enumerate(settings.group_of):
        gradient = gradients[i]
        if gradient is None or not settings.groups[index].centralize or parameters[i].ndim < 2:
            continue
        own = coefficients[classes[i]]
        gradients[i] = centralized(gradient, parameters[i], own.l2)
        if own.l2:  # it is in there already
            classes[i] = len(coefficients)
            coefficients.append(replace(own, l2=np.float32(0)))
    underway.number = number
    return Step(number, gradients, classes, coefficients, underway.touched)
