"""Learning rates and weight decays: a number, a table by step, or a function of the step.

They are values: an optimizer that is told another rate while it runs keeps it itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, Protocol

import numpy as np

from adamoffload.arguments import float32, number, table
from adamoffload.schedules import LearningRateSchedule

__all__ = [
    "Decay",
    "FixedRate",
    "FunctionRate",
    "Rate",
    "TableRate",
    "numbers_in",
    "read_decay",
    "read_rate",
]


class Rate(Protocol):
    """A learning rate: a number, a table by step, or a function of the step."""

    @property
    def source(self) -> Any:
        """What it was made from: float32, ndarray, schedule or callable."""

    def at(self, step: int) -> np.float32:
        """Return the rate of the 0-based `step`."""


@dataclass(frozen=True, slots=True)
class FixedRate:
    """One learning rate for all steps."""

    source: np.float32

    def at(self, step: int) -> np.float32:  # noqa: ARG002
        """Return the number."""
        return self.source


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TableRate:
    """A learning rate for each step; a value, as the others: equal to one of the same numbers.

    Examples
    --------
    >>> table = read_rate("AdamW", [1.0, 0.5])
    >>> table, table == read_rate("AdamW", (1.0, 0.5))
    (<2 learning rates: 1, 0.5>, True)
    """

    owner: str
    source: np.ndarray[Any, np.dtype[np.float32]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TableRate):
            return NotImplemented
        return np.array_equal(self.source, other.source)

    def __hash__(self) -> int:
        return hash(tuple(self.source.tolist()))

    def __repr__(self) -> str:
        count = len(self.source)
        shown = [f"{rate:g}" for rate in self.source[: 4 if count <= 4 else 2]]
        if count > 4:
            shown += ["...", f"{self.source[-1]:g}"]
        return f"<{count} learning rates: {', '.join(shown)}>"

    def at(self, step: int) -> np.float32:
        """Return the entry of the step, or raise RuntimeError if there is none."""
        if step >= len(self.source):
            raise RuntimeError(
                f"{self.owner}: the learning_rate table has {len(self.source)} entries, all used; "
                f"step {step + 1} needs one more. Pass a longer table or a LearningRateSchedule"
            )
        return np.float32(self.source[step])


@dataclass(frozen=True, slots=True)
class FunctionRate:
    """A learning rate that a schedule, or any callable of the 0-based step, computes."""

    owner: str
    source: Callable[[int], Any]
    first: Mapping[str, Any] = field(init=False, compare=False, repr=False)
    """The numbers in it when it was read: what has changed since is state of its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", numbers_in(self.source))

    def at(self, step: int) -> np.float32:
        """Return what it computes for the step, or raise if that is no finite number."""
        return _called(self.owner, "learning_rate", self.source, step)


@dataclass(frozen=True, slots=True)
class Decay:
    """A weight decay: a number, or a callable of the 0-based step."""

    owner: str
    source: float | Callable[[int], Any]
    first: Mapping[str, Any] = field(init=False, compare=False, repr=False)
    """The numbers in a function when it was read."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", numbers_in(self.source))

    def at(self, step: int) -> np.float32:
        """Return the decay of the 0-based `step`."""
        if callable(self.source):
            return _called(self.owner, "weight_decay", self.source, step)
        return np.float32(self.source)


def read_rate(owner: str, value: object) -> Rate:
    """Read a learning rate: a number, a 0-D array, numbers by step, a schedule or a callable.

    Raises
    ------
    TypeError, ValueError
        If it is something else, negative, not finite, empty, nested, or does not end.

    Examples
    --------
    >>> read_rate("AdamW", 0.5).at(7), read_rate("AdamW", [1.0, 0.5]).at(1)
    (np.float32(0.5), np.float32(0.5))
    >>> read_rate("AdamW", lambda step: 1 / (1 + step)).at(3)
    np.float32(0.25)
    """
    if isinstance(value, FixedRate | TableRate | FunctionRate):
        return value
    if isinstance(value, LearningRateSchedule) or callable(value):
        return FunctionRate(owner, value)
    if isinstance(value, np.ndarray):
        if value.ndim > 1:
            raise ValueError(
                f"{owner}: learning_rate must have one dimension, a number a step, got shape "
                f"{value.shape}"
            )
        if value.ndim == 0:
            value = value[()]
    if isinstance(value, float | int | np.number | np.bool_):
        rate = number(owner, "learning_rate", value, at_least=0)
        return FixedRate(float32(owner, "learning_rate", rate))
    rates = table(owner, "learning_rate", value)
    float32(owner, "learning_rate", float(rates.max()))
    source = rates.astype(np.float32)
    source.flags.writeable = False  # a rule that holds it may serve many optimizers
    return TableRate(owner, source)


def read_decay(owner: str, value: object) -> Decay:
    """Read a weight decay: a number or a callable of the 0-based step.

    Raises
    ------
    TypeError, ValueError
        If it is something else, negative or not finite.
    """
    if isinstance(value, Decay):
        return value
    if callable(value):
        return Decay(owner, value)
    decay = number(owner, "weight_decay", value, at_least=0)
    float32(owner, "weight_decay", decay)
    return Decay(owner, decay)


def numbers_in(function: object) -> dict[str, Any]:
    """Return the attributes of an object that are finite numbers: what a checkpoint can compare.

    Of a method, those of its object; a function has none.

    Examples
    --------
    >>> class Halving:
    ...     rate = 1.0
    ...     def __init__(self, patience):
    ...         self.patience, self.losses, self.best = patience, [], float("inf")
    ...     def at(self, step):
    ...         return self.rate
    >>> numbers_in(Halving(patience=3).at), numbers_in(len), numbers_in(0.5)
    ({'patience': 3}, {}, {})
    """
    owner = function.__self__ if isinstance(function, MethodType) else function
    names = [*getattr(owner, "__dict__", ())]
    for kind in type(owner).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    found = {}
    for name in names:
        value = getattr(owner, name, None)
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bool | int | float) and abs(value) < 2**63:
            found[name] = value
    return found


def _called(owner: str, name: str, function: Callable[[int], Any], step: int) -> np.float32:
    """Call a schedule; whatever it returns must be one finite real number."""
    value = function(step)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    return float32(owner, f"{name} at step {step}", number(owner, f"{name}({step})", value))
