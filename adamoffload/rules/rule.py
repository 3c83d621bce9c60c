"""`Rule`: what an optimizer computes for each element, and what it keeps between two steps.

A rule is a value: frozen, without arrays, and shared by as many optimizers as one likes. It does
not know where anything lives. Its update is written as in the paper, in plain NumPy; the step
compiler (`adamoffload.engine.program`) makes of it what runs in place, on the host or on a device.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from adamoffload.names import Spelled
from adamoffload.rules.rates import TableRate, read_decay, read_rate

__all__ = ["FLUSH_INTERVAL", "Rule", "with_flush"]

FLUSH_INTERVAL = 64
"""Steps between two flushes of denormal state to zero."""

_SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal


class Rule(metaclass=Spelled):
    r"""An elementwise update; subclass it for one of your own.

    A subclass says which `slots` it keeps, how it decays weights, what it computes in a step
    (`update`), and with which numbers (`scalars`). As a frozen dataclass, its fields are the
    arguments of its constructor. Every rule has these attributes; one that shall be an argument
    must be declared again, as a field (:doc:`/howto/rule`):

    Attributes
    ----------
    learning_rate : float, iterable of float, LearningRateSchedule or callable
        A number >= 0, a table with one number a step, or a function of the 0-based step. A table
        is read when the rule is made, and cannot change afterwards.
    weight_decay : float or callable
        A number >= 0, or a function of the 0-based step.
    squares : tuple of str
        Which of its slots hold means or sums of squares, and are never negative.
    decay : str
        ``"l2"``: weight decay times the parameter is added to the gradient. ``"decoupled"``: the
        parameter is multiplied by 1 - learning rate x weight decay, before the update is added
        (Loshchilov and Hutter, arXiv:1711.05101).

    Notes
    -----
    Every 64th step, state below the smallest normal float32 becomes 0, for every rule: where a
    gradient stays 0, state shrinks until it stalls among the denormals, which many processors
    compute with slowly.

    Examples
    --------
    A rule of one's own, in ten lines:

    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> @dataclass(frozen=True)
    ... class SignOfMean(ao.Rule):
    ...     learning_rate: float = 1e-3
    ...     beta: float = 0.9
    ...     slots = ("m",)
    ...     def scalars(self, lr, t):
    ...         return {"lr": lr, "beta": self.beta, "new": 1 - self.beta}
    ...     def update(self, g, m, *, lr, beta, new):
    ...         m = beta * m + new * g
    ...         return -lr * np.sign(m), m
    >>> rule = SignOfMean(learning_rate=0.5)
    >>> rule.update(np.array([2.0, -3.0]), np.zeros(2), **rule.scalars(0.5, 1))[0]
    array([-0.5,  0.5])
    """

    learning_rate: Any = 1e-3
    weight_decay: Any = 0.0
    squares: ClassVar[tuple[str, ...]] = ()
    decay: Literal["l2", "decoupled"] = "l2"

    def __post_init__(self) -> None:
        """Read tables, once, and refuse what is no rate."""
        owner = type(self).__name__
        read_decay(owner, self.weight_decay)
        rate = read_rate(owner, self.learning_rate)
        if isinstance(rate, TableRate):
            object.__setattr__(self, "learning_rate", rate)
        elif isinstance(self.learning_rate, np.ndarray):  # one number, which may change
            object.__setattr__(self, "learning_rate", float(self.learning_rate.item()))

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the float32 arrays that it keeps for each parameter, zero at first.

        A subclass sets it to a tuple, or computes it from its fields.
        """
        return ()

    @abstractmethod
    def scalars(self, lr: Any, t: int) -> Mapping[str, Any]:
        """Return the numbers of a step: the keyword arguments of `update`.

        Parameters
        ----------
        lr : float
            The learning rate of this step.
        t : int
            How many updates the parameter has had with this one, counted from 1.

        Returns
        -------
        mapping from str to float
            Each is rounded to float32, once.
        """

    @abstractmethod
    def update(self, g: Any, /, *slots: Any, **scalars: Any) -> tuple[Any, ...]:
        """Return the update, to be added to the parameter, and the new slots.

        Parameters
        ----------
        g : array, shape (n,), float32
            The gradient: unscaled, and with L2 decay in it. Not modified.
        *slots : array, shape (n,), float32
            In the order of `slots`; not modified.
        **scalars : float32
            From `scalars`.

        Returns
        -------
        tuple of array
            As many as `slots`, and one: made by elementwise ufuncs, without looking at values.
        """


def with_flush(
    update: Callable[..., tuple[Any, ...]], flush: bool, g: Any, *slots: Any, **scalars: Any
) -> tuple[Any, ...]:
    """Return what an update returns, if asked to with denormals in the slots replaced by zero.

    Raises
    ------
    TypeError
        If it does not return the update and as many arrays as there are slots.

    Examples
    --------
    >>> def decaying(g, m):
    ...     return -m, m / 2
    >>> with_flush(decaying, True, 0, np.float32(2e-38))
    (np.float32(-2e-38), np.float32(0.0))
    """
    results: Any = update(g, *slots, **scalars)
    if not isinstance(results, tuple) or len(results) != 1 + len(slots):
        came = len(results) if isinstance(results, tuple) else repr(results)
        raise TypeError(
            f"update must return a tuple of {1 + len(slots)} arrays, itself and each slot's new "
            f"values, got {came}"
        )
    delta, *new = results
    if flush:
        new = [slot * (np.abs(slot) >= _SMALLEST_NORMAL) for slot in new]
    return (delta, *new)
