"""`DynamicLossScale`: a loss scale that finds its own size.

float16 has no numbers below 6e-8, where many gradients are. So the loss is multiplied before it is
differentiated, and the gradients are divided by as much before they are used. The largest scale
that overflows nothing is found by trying: doubled after many sound steps, halved after one that was
not, which is skipped. It knows no optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from adamoffload.arguments import describe, flag, floating, integer, positive_integer

__all__ = ["DynamicLossScale"]

_KEYS = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
_SMALLEST = float(np.finfo(np.float32).tiny)


class DynamicLossScale:
    """A loss scale that grows while gradients are finite, and backs off when they are not.

    Parameters
    ----------
    init_scale : float, > 0
        What it begins with.
    growth_factor : float, > 1
        What it is multiplied by after `growth_interval` sound steps in a row.
    backoff_factor : float, in (0, 1)
        What it is multiplied by after a step with a gradient that is infinite or NaN.
    growth_interval : int, >= 1
        How many sound steps make it grow.
    grows_first : bool, keyword-only
        For teaching only: whether a step that makes it grow divides its gradients by the new scale,
        and so takes half of them. DeepSpeed does.

    Raises
    ------
    TypeError, ValueError
        If an argument is no such number.

    Notes
    -----
    It is a float32, and does not grow beyond the largest one; nor does it, unlike PyTorch's, fall
    below the smallest normal one, whose inverse is still finite.

    References
    ----------
    ``torch.amp.GradScaler``, of which names, defaults and values are; P. Micikevicius et al.,
    "Mixed Precision Training", arXiv:1710.03740, section 3.2.

    Examples
    --------
    >>> scale = DynamicLossScale(init_scale=8.0, growth_interval=2)
    >>> [(scale.update(found_nonfinite=bad), scale.scale) for bad in (False, False, True)]
    [(8.0, 8.0), (8.0, 16.0), (16.0, 8.0)]
    """

    __slots__ = (
        "_backoff_factor",
        "_grows_first",
        "_growth_factor",
        "_growth_interval",
        "_growth_tracker",
        "_scale",
    )

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        *,
        grows_first: bool = False,
    ) -> None:
        owner = type(self).__name__
        self._scale = _scale(owner, "init_scale", init_scale)
        self._growth_factor = floating(owner, "growth_factor", growth_factor, above=1)
        self._backoff_factor = floating(owner, "backoff_factor", backoff_factor, above=0, below=1)
        self._growth_interval = positive_integer(owner, "growth_interval", growth_interval)
        self._grows_first = flag(owner, "grows_first", grows_first)
        self._growth_tracker = 0

    @property
    def scale(self) -> float:
        """What the next loss is to be multiplied by."""
        return self._scale

    def update(self, found_nonfinite: bool) -> float:
        """Take note of a step; return what its gradients are to be divided by.

        Parameters
        ----------
        found_nonfinite : bool
            Whether a gradient of the step was infinite or NaN, so that it is skipped.

        Returns
        -------
        float
            The scale that its loss was multiplied by; with ``grows_first``, the one that follows.
        """
        before = self._scale
        if flag(type(self).__name__, "found_nonfinite", found_nonfinite):
            self._scale = max(float(np.float32(before * self._backoff_factor)), _SMALLEST)
            self._growth_tracker = 0
            return before
        self._growth_tracker += 1
        if self._growth_tracker == self._growth_interval:
            with np.errstate(over="ignore"):
                grown = float(np.float32(before * self._growth_factor))
            self._scale = grown if math.isfinite(grown) else before
            self._growth_tracker = 0
        return self._scale if self._grows_first else before

    def state_dict(self) -> dict[str, float]:
        """Return scale, options, and how many sound steps there were in a row: as PyTorch's does.

        Examples
        --------
        >>> DynamicLossScale().state_dict()
        {'scale': 65536.0, 'growth_factor': 2.0, 'backoff_factor': 0.5, 'growth_interval': 2000, \
'_growth_tracker': 0}
        """
        values = (
            *(self._scale, self._growth_factor, self._backoff_factor),
            *(self._growth_interval, self._growth_tracker),
        )
        return dict(zip(_KEYS, values, strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, options included; also from one of PyTorch's.

        Parameters
        ----------
        state : mapping
            From `state_dict`.

        Raises
        ------
        TypeError, ValueError
            If it is no such state; then nothing has changed.
        """
        owner = type(self).__name__
        if not isinstance(state, Mapping):
            raise TypeError(f"{owner}: state must be a dict, got {describe(state)}")
        if set(state) != set(_KEYS):
            raise ValueError(
                f"{owner}: a state has the keys {', '.join(_KEYS)}, "
                f"got {', '.join(map(str, state)) or 'none'}"
            )
        scale = _scale(owner, "scale", state["scale"])
        other = type(self)(scale, *[state[key] for key in _KEYS[1:4]])
        tracker = integer(owner, "_growth_tracker", state["_growth_tracker"], at_least=0)
        if tracker >= other._growth_interval:
            raise ValueError(
                f"{owner}: _growth_tracker must be less than growth_interval, "
                f"{other._growth_interval}, got {tracker}"
            )
        self._scale, self._growth_tracker = scale, tracker
        self._growth_factor, self._backoff_factor = other._growth_factor, other._backoff_factor
        self._growth_interval = other._growth_interval

    def __repr__(self) -> str:
        return f"{type(self).__name__}(scale={self._scale:g})"


def _scale(owner: str, name: str, value: object) -> float:
    """Check a scale, and round it to float32."""
    scale = floating(owner, name, value, above=0)
    if not _SMALLEST <= scale <= float(np.finfo(np.float32).max):
        raise ValueError(f"{owner}: {name} must be a normal number in float32, got {value}")
    return float(np.float32(scale))
