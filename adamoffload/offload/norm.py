"""The norm of all gradients of a step, and the factor that clips it.

It is a barrier: nothing can be updated before the last gradient has been looked at. Each gradient
is looked at on the device as soon as it is there, in float64; one number a tensor crosses the link,
all in one copy (Pascanu et al., arXiv:1211.5063, algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from adamoffload.device.backend import Array, Backend, HostArray, Ticket
from adamoffload.observe.ledger import Record

__all__ = ["GlobalNorm", "clip_factor", "sum_of_squares"]

_BLOCK = 1 << 18  # elements, so that float64 takes little memory
_FLOAT64 = np.dtype(np.float64)


def sum_of_squares(x: Array) -> Array:
    """Return the sum of the squares of an array, on its device: shape (1,), float64.

    Examples
    --------
    >>> sum_of_squares(np.array([3, 4], np.float32))
    array([25.])
    """
    parts = []
    for start in range(0, x.size, _BLOCK):
        wide = x[start : start + _BLOCK].astype(np.float64)
        parts.append(np.sum(np.multiply(wide, wide, out=wide), keepdims=True))
    return parts[0] if len(parts) == 1 else np.sum(np.concatenate(parts), keepdims=True)


def clip_factor(norm: float, max_norm: float) -> float:
    """Return what gradients are multiplied by, as ``torch.nn.utils.clip_grad_norm_`` has it.

    Examples
    --------
    >>> round(clip_factor(2.0, 1.0), 7), clip_factor(0.5, 1.0), clip_factor(math.nan, 1.0)
    (0.4999998, 1.0, nan)
    """
    return float(np.minimum(1.0, np.float64(max_norm) / (norm + 1e-6)))


class GlobalNorm:
    """Computes the norm of the gradients of a step.

    Parameters
    ----------
    backend : Backend
        The device.
    count : int
        How many gradients there are, at most.

    Attributes
    ----------
    last : float
        The norm of the last step, unscaled and unclipped; NaN before.
    """

    def __init__(self, backend: Backend, count: int) -> None:
        self._backend = backend
        self._count = count
        self._host: HostArray = np.empty(0)  # until it is wanted
        self.last = math.nan

    def of(self, gradient: Array) -> tuple[Array, Ticket]:
        """Look at a gradient, flattened; return the square of its norm, on the device, and when."""
        target = self._backend._empty((1,), _FLOAT64)

        def look() -> None:
            with self._backend.fused(gradient.nbytes):
                np.copyto(target, sum_of_squares(gradient))

        return target, self._backend.run_on_device(look)

    def total(
        self, squares: Mapping[int, tuple[Array, Ticket]], scale: float, record: Record
    ) -> float:
        """Return the norm, of gradients that are multiplied by `scale`.

        Parameters
        ----------
        squares : mapping
            By index, from `of`.
        scale : float
            What the loss was multiplied by.
        record : callable
            From `Ledger.at`; the copy is the hop ``check``.
        """
        if not self._host.size:
            self._host = self._backend._empty_pinned(self._count, _FLOAT64)
        host = self._host[: len(squares)]
        together = self._backend._empty((len(squares),), _FLOAT64)
        each = [squares[i][0] for i in sorted(squares)]
        looked = tuple(ticket for _, ticket in squares.values())
        reduced = self._backend.run_on_device(
            lambda: np.concatenate(each, out=together), after=looked
        )
        copied = self._backend.d2h(together, host, after=(reduced,))
        copied.wait()
        record("check", len(squares), host.nbytes, copied)
        self.last = math.sqrt(math.fsum(host)) / scale if np.isfinite(host).all() else _beyond(host)
        return self.last


def _beyond(squares: HostArray) -> float:
    return math.nan if np.isnan(squares).any() else math.inf
