"""Learning-rate schedules: objects that give the rate at a step, and functions that list it.

A schedule is a callable of the 0-based step. Each formula stands once, in the schedule's ``_rate``;
the function of the same name takes epochs for its unit of time and returns the list of rates, one
a step. Both compute in float64, and whoever uses a rate rounds it. The order of operations is part
of what is promised: a list equals the recorded reference (``tests/oracle``) bit for bit.

An argument's annotation says what it must be, and is enforced. Nothing here knows an optimizer.
"""

from __future__ import annotations

import functools
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, SupportsFloat, TypeAlias, TypeVar, cast, final, get_type_hints

import numpy as np

from adamoffload.arguments import describe, flag, floating, integer, positive_integer

__all__ = [
    "CosineDecayLR",
    "ExponentialDecayLR",
    "InverseDecayLR",
    "LearningRateSchedule",
    "NaturalExpDecayLR",
    "PolynomialDecayLR",
    "WarmUpLR",
    "cosine_decay_lr",
    "exponential_decay_lr",
    "inverse_decay_lr",
    "natural_exp_decay_lr",
    "piecewise_constant_lr",
    "polynomial_decay_lr",
    "warmup_lr",
]

Positive: TypeAlias = Annotated[float, functools.partial(floating, above=0)]
NotNegative: TypeAlias = Annotated[float, functools.partial(floating, at_least=0)]
Count: TypeAlias = Annotated[int, positive_integer]
Flag: TypeAlias = Annotated[bool, flag]


def _checks(annotated: Any) -> dict[str, Callable[[str, str, object], Any]]:
    """Return, by argument, the check that its annotation carries."""
    hints = get_type_hints(annotated, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if name != "return"}


_F = TypeVar("_F", bound=Callable[..., list[float]])
_T = TypeVar("_T")


def _checked(function: _F) -> _F:
    """Make `function` check its arguments, under its own name, before it runs."""
    signature, checks = inspect.signature(function), _checks(function)

    @functools.wraps(function)
    def check_and_call(*args: Any, **kwargs: Any) -> list[float]:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__name__}: {error}") from None
        for name, value in bound.arguments.items():
            bound.arguments[name] = checks[name](function.__name__, name, value)
        return function(*bound.args, **bound.kwargs)

    return cast("_F", check_and_call)


class LearningRateSchedule(ABC):
    """A learning rate that depends on the step: subclass it and define ``__call__``.

    Examples
    --------
    >>> class Halving(LearningRateSchedule):
    ...     def __call__(self, step):
    ...         return 0.1 * 0.5**step
    >>> Halving()(2)
    0.025
    """

    __slots__ = ()

    @abstractmethod
    def __call__(self, step: int) -> SupportsFloat:
        """Return the learning rate at `step`.

        Parameters
        ----------
        step : int, >= 0
            How many steps were made before this one; an optimizer counts from 0.

        Returns
        -------
        real number
            Finite and not negative; an optimizer rounds it to float32.
        """


class _ClosedForm(LearningRateSchedule):
    """A schedule given by a formula; it checks its arguments and the step."""

    __slots__ = ()

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name, check in _checks(type(self)).items():
            object.__setattr__(self, name, check(owner, name, getattr(self, name)))

    def __call__(self, step: int) -> float:
        """Return the learning rate at `step`, an integer >= 0."""
        return self._rate(integer(type(self).__name__, "step", step, at_least=0))

    @abstractmethod
    def _rate(self, t: int) -> float:
        """Evaluate the formula at time `t`."""


@final
@dataclass(frozen=True, slots=True)
class ExponentialDecayLR(_ClosedForm):
    """Exponential decay: ``learning_rate * decay_rate ** (step / decay_steps)``.

    Parameters
    ----------
    learning_rate : float, > 0
        The rate at step 0.
    decay_rate : float, > 0
        The factor by which the rate changes in `decay_steps` steps; above 1 it grows.
    decay_steps : int, >= 1
        The number of steps in which the rate changes by `decay_rate`.
    is_stair : bool
        Round ``step / decay_steps`` down: the rate changes only every `decay_steps` steps.

    Raises
    ------
    TypeError, ValueError
        If an argument, or the step in a call, is of the wrong kind or out of range.
    OverflowError
        In a call, if `decay_rate` is above 1 and the rate has outgrown float64.

    Examples
    --------
    >>> schedule = ExponentialDecayLR(0.1, 0.5, 10)
    >>> [schedule(step) for step in (0, 10, 20)]
    [0.1, 0.05, 0.025]
    """

    learning_rate: Positive
    decay_rate: Positive
    decay_steps: Count
    is_stair: Flag = False

    def _rate(self, t: int) -> float:
        periods = t // self.decay_steps if self.is_stair else t / self.decay_steps
        return self.learning_rate * math.pow(self.decay_rate, periods)


@final
@dataclass(frozen=True, slots=True)
class NaturalExpDecayLR(_ClosedForm):
    """Natural exponential decay: ``learning_rate * exp(-decay_rate * step)``.

    Parameters
    ----------
    learning_rate : float, > 0
        The rate at step 0.
    decay_rate : float, > 0
        Per step.
    decay_steps : int, >= 1
        The length of a stair, in steps; without `is_stair` it changes nothing.
    is_stair : bool
        Round the step down to a multiple of `decay_steps`.

    Raises
    ------
    TypeError, ValueError
        If an argument, or the step in a call, is of the wrong kind or out of range.

    Examples
    --------
    >>> schedule = NaturalExpDecayLR(0.1, 0.9, 2, is_stair=True)
    >>> [round(schedule(step), 5) for step in range(4)]
    [0.1, 0.1, 0.01653, 0.01653]
    """

    learning_rate: Positive
    decay_rate: Positive
    decay_steps: Count
    is_stair: Flag = False

    def _rate(self, t: int) -> float:
        if self.is_stair:
            t = t // self.decay_steps * self.decay_steps
        # A power, not math.exp: the reference's lists are made so, and the last bits differ.
        return self.learning_rate * math.pow(math.e, -self.decay_rate * t)


@final
@dataclass(frozen=True, slots=True)
class InverseDecayLR(_ClosedForm):
    """Inverse-time decay: ``learning_rate / (1 + decay_rate * step / decay_steps)``.

    Parameters
    ----------
    learning_rate : float, > 0
        The rate at step 0.
    decay_rate : float, > 0
        By how much the divisor grows in `decay_steps` steps.
    decay_steps : int, >= 1
        The number of steps in which the divisor grows by `decay_rate`.
    is_stair : bool
        Round ``step / decay_steps`` down: the rate changes only every `decay_steps` steps.

    Raises
    ------
    TypeError, ValueError
        If an argument, or the step in a call, is of the wrong kind or out of range.

    Examples
    --------
    >>> schedule = InverseDecayLR(0.1, 1.0, 10)
    >>> [schedule(step) for step in (0, 10, 30)]
    [0.1, 0.05, 0.025]
    """

    learning_rate: Positive
    decay_rate: Positive
    decay_steps: Count
    is_stair: Flag = False

    def _rate(self, t: int) -> float:
        # decay_rate * t first: decay_rate * (t / decay_steps) rounds differently.
        if self.is_stair:
            return self.learning_rate / (1 + self.decay_rate * (t // self.decay_steps))
        return self.learning_rate / (1 + self.decay_rate * t / self.decay_steps)


@final
@dataclass(frozen=True, slots=True)
class CosineDecayLR(_ClosedForm):
    """Half a cosine, from `max_lr` down to `min_lr` in `decay_steps` steps, then constant.

    ``min_lr + (max_lr - min_lr) / 2 * (1 + cos(pi * t / decay_steps))``, where ``t`` is
    ``min(step, decay_steps)``.

    Parameters
    ----------
    min_lr : float, >= 0
        The rate from step `decay_steps` on.
    max_lr : float, > `min_lr`
        The rate at step 0.
    decay_steps : int, >= 1
        How long the decay takes, in steps.

    Raises
    ------
    TypeError, ValueError
        If an argument, or the step in a call, is of the wrong kind or out of range.

    References
    ----------
    I. Loshchilov, F. Hutter: SGDR: Stochastic Gradient Descent with Warm Restarts. ICLR 2017,
    arXiv:1608.03983, equation 5; here without restarts.

    Examples
    --------
    >>> schedule = CosineDecayLR(0.0, 1.0, 4)
    >>> [round(schedule(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    min_lr: NotNegative
    max_lr: Positive
    decay_steps: Count

    def __post_init__(self) -> None:
        _ClosedForm.__post_init__(self)  # slots=True makes a new class, which super() misses
        _check_descent("CosineDecayLR", self.min_lr, self.max_lr)

    def _rate(self, t: int) -> float:
        angle = math.pi * min(t, self.decay_steps) / self.decay_steps
        return self.min_lr + 0.5 * (self.max_lr - self.min_lr) * (1 + math.cos(angle))


def _check_descent(owner: str, min_lr: float, max_lr: float) -> None:
    if min_lr >= max_lr:
        raise ValueError(f"{owner}: max_lr must be greater than min_lr, got {max_lr} and {min_lr}")


@final
@dataclass(frozen=True, slots=True)
class PolynomialDecayLR(_ClosedForm):
    """A power of the time that is left: from `learning_rate` to `end_learning_rate`.

    ``(learning_rate - end_learning_rate) * (1 - t / D)**power + end_learning_rate``, where ``t`` is
    ``min(step, decay_steps)`` and ``D`` is `decay_steps`.

    Parameters
    ----------
    learning_rate : float, > 0
        The rate at step 0.
    end_learning_rate : float, >= 0
        The rate from step `decay_steps` on; it may lie above `learning_rate`.
    decay_steps : int, >= 1
        How long the decay takes, in steps.
    power : float, > 0
        1.0 is a straight line.
    update_decay_steps : bool
        Once the end is reached, start again on a decay that is `decay_steps` longer: ``t`` is the
        step, ``D`` the first multiple of `decay_steps` (at least one) that is not below it.

    Raises
    ------
    TypeError, ValueError
        If an argument, or the step in a call, is of the wrong kind or out of range.

    Examples
    --------
    >>> schedule = PolynomialDecayLR(1.0, 0.0, 2, 1.0, update_decay_steps=True)
    >>> [schedule(step) for step in range(5)]
    [1.0, 0.5, 0.0, 0.25, 0.0]
    """

    learning_rate: Positive
    end_learning_rate: NotNegative
    decay_steps: Count
    power: Positive
    update_decay_steps: Flag = False

    def _rate(self, t: int) -> float:
        end = self.decay_steps
        if self.update_decay_steps:
            end *= max(-(-t // end), 1)
        left = 1 - min(t, end) / end
        span = self.learning_rate - self.end_learning_rate
        return span * math.pow(left, self.power) + self.end_learning_rate


@final
@dataclass(frozen=True, slots=True)
class WarmUpLR(_ClosedForm):
    """A straight line from 0 up: ``learning_rate * min(step, warmup_steps) / warmup_steps``.

    Parameters
    ----------
    learning_rate : float, >= 0
        The rate from step `warmup_steps` on. At step 0 the rate is 0.
    warmup_steps : int, >= 1
        How long the climb takes, in steps.

    Raises
    ------
    TypeError, ValueError
        If an argument, or the step in a call, is of the wrong kind or out of range.

    Examples
    --------
    >>> schedule = WarmUpLR(0.1, 2)
    >>> [schedule(step) for step in range(4)]
    [0.0, 0.05, 0.1, 0.1]
    """

    learning_rate: NotNegative
    warmup_steps: Count

    def _rate(self, t: int) -> float:
        return self.learning_rate * min(t, self.warmup_steps) / self.warmup_steps


@_checked
def exponential_decay_lr(
    learning_rate: Positive,
    decay_rate: Positive,
    total_step: Count,
    step_per_epoch: Count,
    decay_epoch: Count,
    is_stair: Flag = False,
) -> list[float]:
    """List the rates of `ExponentialDecayLR` with epochs in the place of steps.

    Parameters
    ----------
    learning_rate, decay_rate, is_stair
        As in `ExponentialDecayLR`.
    total_step : int, >= 1
        Length of the list.
    step_per_epoch : int, >= 1
        Steps in an epoch; all have one rate.
    decay_epoch : int, >= 1
        What `decay_steps` is there, in epochs.

    Returns
    -------
    list of float
        One rate a step.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range.
    OverflowError
        If `decay_rate` is above 1 and a rate outgrows float64.

    Examples
    --------
    >>> exponential_decay_lr(0.1, 0.5, total_step=6, step_per_epoch=2, decay_epoch=1)
    [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]
    """
    schedule = ExponentialDecayLR(learning_rate, decay_rate, decay_epoch, is_stair)
    return _by_epoch(schedule, total_step, step_per_epoch)


@_checked
def natural_exp_decay_lr(
    learning_rate: Positive,
    decay_rate: Positive,
    total_step: Count,
    step_per_epoch: Count,
    decay_epoch: Count,
    is_stair: Flag = False,
) -> list[float]:
    """List the rates of `NaturalExpDecayLR` with epochs in the place of steps.

    Parameters, returns and errors are those of `exponential_decay_lr`, without the overflow.

    Examples
    --------
    >>> natural_exp_decay_lr(0.1, 0.9, 6, 2, 2, is_stair=True)
    [0.1, 0.1, 0.1, 0.1, 0.016529888822158657, 0.016529888822158657]
    """
    schedule = NaturalExpDecayLR(learning_rate, decay_rate, decay_epoch, is_stair)
    return _by_epoch(schedule, total_step, step_per_epoch)


@_checked
def inverse_decay_lr(
    learning_rate: Positive,
    decay_rate: Positive,
    total_step: Count,
    step_per_epoch: Count,
    decay_epoch: Count,
    is_stair: Flag = False,
) -> list[float]:
    """List the rates of `InverseDecayLR` with epochs in the place of steps.

    Parameters, returns and errors are those of `exponential_decay_lr`, without the overflow.

    Examples
    --------
    >>> inverse_decay_lr(0.1, 1.0, total_step=4, step_per_epoch=2, decay_epoch=1)
    [0.1, 0.1, 0.05, 0.05]
    """
    schedule = InverseDecayLR(learning_rate, decay_rate, decay_epoch, is_stair)
    return _by_epoch(schedule, total_step, step_per_epoch)


@_checked
def cosine_decay_lr(
    min_lr: NotNegative,
    max_lr: Positive,
    total_step: Count,
    step_per_epoch: Count,
    decay_epoch: Count,
) -> list[float]:
    """List the rates of `CosineDecayLR` with epochs in the place of steps.

    `min_lr` and `max_lr` are as there; the rest, returns and errors are those of
    `inverse_decay_lr`.

    Examples
    --------
    >>> cosine_decay_lr(0.01, 0.1, total_step=6, step_per_epoch=2, decay_epoch=2)
    [0.1, 0.1, 0.05500000000000001, 0.05500000000000001, 0.01, 0.01]
    """
    _check_descent("cosine_decay_lr", min_lr, max_lr)
    return _by_epoch(CosineDecayLR(min_lr, max_lr, decay_epoch), total_step, step_per_epoch)


@_checked
def polynomial_decay_lr(
    learning_rate: Positive,
    end_learning_rate: NotNegative,
    total_step: Count,
    step_per_epoch: Count,
    decay_epoch: Count,
    power: Positive,
    update_decay_epoch: Flag = False,
) -> list[float]:
    """List the rates of `PolynomialDecayLR` with epochs in the place of steps.

    `learning_rate`, `end_learning_rate` and `power` are as there, and `update_decay_epoch` is
    what `update_decay_steps` is; the rest, returns and errors are those of `inverse_decay_lr`.

    Examples
    --------
    >>> polynomial_decay_lr(0.1, 0.0, total_step=6, step_per_epoch=2, decay_epoch=2, power=1.0)
    [0.1, 0.1, 0.05, 0.05, 0.0, 0.0]
    """
    schedule = PolynomialDecayLR(
        learning_rate, end_learning_rate, decay_epoch, power, update_decay_epoch
    )
    return _by_epoch(schedule, total_step, step_per_epoch)


@_checked
def warmup_lr(
    learning_rate: NotNegative, total_step: Count, step_per_epoch: Count, warmup_epoch: Count
) -> list[float]:
    """List the rates of `WarmUpLR` with epochs in the place of steps.

    `learning_rate` is as there, and `warmup_epoch` is what `warmup_steps` is; the rest, returns
    and errors are those of `inverse_decay_lr`.

    Examples
    --------
    >>> warmup_lr(0.1, total_step=6, step_per_epoch=2, warmup_epoch=2)
    [0.0, 0.0, 0.05, 0.05, 0.1, 0.1]
    """
    return _by_epoch(WarmUpLR(learning_rate, warmup_epoch), total_step, step_per_epoch)


def _by_epoch(schedule: _ClosedForm, total_step: int, step_per_epoch: int) -> list[float]:
    return [schedule(step // step_per_epoch) for step in range(total_step)]


def piecewise_constant_lr(
    milestone: Sequence[int] | np.ndarray[Any, Any],
    learning_rates: Sequence[float] | np.ndarray[Any, Any],
) -> list[float]:
    """List rates that stay constant between milestones.

    Step i gets the first rate whose milestone is above i.

    Parameters
    ----------
    milestone : list, tuple or 1-D ndarray of int, >= 1
        Never decreasing. Where it repeats a step, the rate there is used for no step.
    learning_rates : list, tuple or 1-D ndarray of float
        As many as milestones, each finite. A negative one is listed as it is; an optimizer refuses
        it, and also the empty list that comes of no milestones.

    Returns
    -------
    list of float
        As long as the last milestone says.

    Raises
    ------
    TypeError
        If an argument is no list, tuple or 1-D array, or an entry is of the wrong kind.
    ValueError
        If the lengths differ, a milestone is below 1 or below the one before it, or a rate is
        not finite.

    Examples
    --------
    >>> piecewise_constant_lr([2, 5], [0.1, 0.05])
    [0.1, 0.1, 0.05, 0.05, 0.05]
    """
    owner = "piecewise_constant_lr"
    ends = _entries(owner, "milestone", milestone, positive_integer)
    rates = _entries(owner, "learning_rates", learning_rates, floating)
    if len(ends) != len(rates):
        raise ValueError(
            f"{owner}: milestone and learning_rates must be of equal length, "
            f"got {len(ends)} and {len(rates)}"
        )
    result: list[float] = []
    for i, (end, rate) in enumerate(zip(ends, rates, strict=True)):
        if end < len(result):
            raise ValueError(
                f"{owner}: milestone[{i}] must be at least milestone[{i - 1}], "
                f"got {end} after {len(result)}"
            )
        result += [rate] * (end - len(result))
    return result


def _entries(
    owner: str, name: str, value: object, check: Callable[[str, str, object], _T]
) -> list[_T]:
    if not (isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)):
        raise TypeError(
            f"{owner}: {name} must be a list, a tuple or a 1-D array, got {describe(value)}"
        )
    return [check(owner, f"{name}[{i}]", entry) for i, entry in enumerate(value)]
