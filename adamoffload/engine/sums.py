"""Sums over an array, in NumPy: what the norms and shares of a probe are made of.

The threads that sum up share one interpreter lock, and handing it over costs more than a sum does:
``np.vecdot`` and ``np.min`` of a block take 7 us and keep it.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

import numpy as np

__all__ = ["NO_LIMIT", "array_sums"]

NO_LIMIT = -1.0
"""The limit of what holds no squares: only their sum is taken."""

Float32 = np.ndarray[Any, np.dtype[np.float32]]

_SEGMENT, _FEW = 512, 4096
"""Elements that float32 adds up to some 1e-6, in any order; fewer than `_FEW` need not be cut."""

_ONES = np.ones(_FEW, np.float32)


def array_sums(x: Float32, limit: Any = NO_LIMIT) -> tuple[float, float, int, int, int]:
    """Sum up an array; NaN and infinities pass into the sums.

    Parameters
    ----------
    x : ndarray, shape (n,), float32
        What to sum up.
    limit : float32
        What its elements are compared with, if none may be negative; `NO_LIMIT`: the second, third
        and fourth sum are 0.

    Returns
    -------
    squares : float
        The sum of squares, right to 5e-6.
    total : float
        The sum of the elements, likewise.
    below, infinite : int
        How many are less than the limit, and how many are infinite.
    finite : int
        How many stand before the first NaN or infinity: n, if there is none.

    Examples
    --------
    >>> array_sums(np.array([3, 0, 4], np.float32), limit=1)
    (25.0, 7.0, 1, 0, 3)
    """
    squares = _sum(x, square=True)
    # Squares may have overflowed, or lost digits below 1.2e-38: a million of those are less than
    # a millionth of 1e-26.
    if not 1e-26 < squares < inf:
        squares = float(np.square(x, dtype=np.float64).sum())
    finite = x.size if isfinite(squares) else int(np.isfinite(x).argmin())
    if limit == NO_LIMIT:
        return squares, 0.0, 0, 0, finite
    total = _sum(x, square=False)
    if not total < inf:
        total = float(x.sum(dtype=np.float64))
    below = 0 if x.min() >= limit else np.count_nonzero(x < limit)
    infinite = 0 if total < inf else np.count_nonzero(x == np.inf)
    return squares, total, int(below), int(infinite), finite


def _sum(x: Float32, square: bool) -> float:
    """Return the sum of an array or of its squares, as dot products of segments."""
    if x.size <= _FEW:
        return float(np.vecdot(x, x if square else _ONES[: x.size]))
    whole = x.size // _SEGMENT * _SEGMENT
    segments = x[:whole].reshape(-1, _SEGMENT)
    dots = np.vecdot(segments, segments if square else _ONES[:_SEGMENT])
    return float(dots.sum(dtype=np.float64)) + _sum(x[whole:], square)
