"""`Probe`: watches what an optimizer does to each parameter, step by step.

It samples root mean squares (RMS): of the gradient as it reaches Adam, of the first moment, of the
square root of the second, and of the update that goes back. The optimizer calls it only on the
steps it asks for.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from adamoffload.arguments import positive_integer

__all__ = ["QUANTITIES", "Probe"]

QUANTITIES = ("gradient", "m", "sqrt_v", "delta")
"""What is sampled: gradient, first moment, square root of the second moment, update."""


class Probe:
    """Samples the RMS of gradient, moments and update of each parameter.

    Pass it to ``AdamOffload(..., probe=probe)``.

    Parameters
    ----------
    every : int
        Sample each ``every``-th step, beginning with the first.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.ones(4, np.float32)), name="w")
    >>> probe = ao.Probe()
    >>> opt = ao.AdamOffload([w], learning_rate=0.5, probe=probe)
    >>> opt((device.asarray(np.full(4, 2.0, np.float32)),))
    (True,)
    >>> probe.steps, probe.rms("gradient", "w"), probe.rms("delta", "w").round(4)
    (array([1]), array([2.]), array([0.5]))
    """

    def __init__(self, every: int = 1) -> None:
        self.every = positive_integer("Probe", "every", every)
        self._steps: list[int] = []
        self._sums: list[dict[str, np.ndarray[Any, np.dtype[np.float64]]]] = []

    @property
    def steps(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The sampled steps, counted from 1: shape (samples,), int64."""
        return np.array(self._steps, np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters seen."""
        return tuple(self._sums[-1]) if self._sums else ()

    def rms(self, quantity: str, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return one parameter's series: shape (samples,), float64.

        Parameters
        ----------
        quantity : str
            One of `QUANTITIES`.
        name : str
            The parameter's name.

        Raises
        ------
        ValueError
            If the quantity or the name is unknown.
        """
        if quantity not in QUANTITIES:
            raise ValueError(
                f"Probe: quantity must be one of {', '.join(QUANTITIES)}, got {quantity!r}"
            )
        if name not in self.names:
            raise ValueError(
                f"Probe: no parameter {name!r} was seen; seen: {', '.join(self.names) or 'none'}"
            )
        row = QUANTITIES.index(quantity)
        return np.array([math.sqrt(sums[name][row] / sums[name][-1]) for sums in self._sums])

    # -- called by the optimizer --------------------------------------------------------------

    def wants(self, step: int) -> bool:
        """Return whether to sample the step (counted from 1)."""
        return (step - 1) % self.every == 0

    def begin(self, step: int, names: tuple[str, ...]) -> None:
        """Open the sample of a step."""
        self._steps.append(step)
        self._sums.append({name: np.zeros(len(QUANTITIES) + 1) for name in names})

    def discard(self) -> None:
        """Drop the sample of a step that failed."""
        self._steps.pop()
        self._sums.pop()

    def before(self, name: str, g: np.ndarray[Any, Any]) -> None:
        """Add a piece of a parameter's gradient, before the update overwrites it."""
        sums = self._sums[-1][name]
        sums[0] += _sum_of_squares(g)
        sums[-1] += g.size

    def after(
        self,
        name: str,
        m: np.ndarray[Any, Any],
        v: np.ndarray[Any, Any],
        delta: np.ndarray[Any, Any],
    ) -> None:
        """Add the same piece of the new moments and of the update."""
        self._sums[-1][name][1:4] += (
            _sum_of_squares(m),
            np.sum(v, dtype=np.float64),  # the square of sqrt(v)
            _sum_of_squares(delta),
        )


def _sum_of_squares(x: np.ndarray[Any, Any]) -> float:
    wide = x.astype(np.float64)  # squares of float32 can overflow and underflow
    return float(np.dot(wide, wide))
