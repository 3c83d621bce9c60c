"""Sums over the rows of an array, in NumPy: what the norms of a probe are made of.

The threads that sum up share one interpreter lock, and handing it over costs some 10 us, so calls
must be few, and give the lock up while they run. ``np.einsum`` and ``np.add.reduceat`` do;
``np.vecdot`` and ``np.matmul``, which are faster, keep it (NumPy 2.4), and all others wait.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["row_sums"]

Float32 = np.ndarray[Any, np.dtype[np.float32]]
Float64 = np.ndarray[Any, np.dtype[np.float64]]

_SEGMENT = 512  # elements that float32 adds up to some 1e-6, in any order
_LARGE = 8192  # elements of a row that is worth a call of its own


@np.errstate(all="ignore")
def row_sums(x: Float32, begins: Any, smallest: Float32 | None = None) -> Float64:
    """Sum up each row of an array; NaN and infinities pass into their row's sums.

    Parameters
    ----------
    x : ndarray, shape (n,), float32
        What to sum up.
    begins : ndarray, shape (rows,), intp
        Where each row begins, from 0; each ends where the next one begins.
    smallest : ndarray, shape (rows,), float32, optional
        What elements are compared with, for the last three sums; then none may be negative.

    Returns
    -------
    ndarray, shape (4, rows), float64
        The sum of squares, right to 5e-6; the sum, likewise; how many are below `smallest`; how
        many are infinite.

    Examples
    --------
    >>> x, begins = np.array([3, 4, 12], np.float32), np.array([0, 2])
    >>> row_sums(x, begins, np.array([4, 4], np.float32))
    array([[ 25., 144.],
           [  7.,  12.],
           [  1.,   0.],
           [  0.,   0.]])
    """
    sums = np.zeros((4, len(begins)))
    sums[0] = _float32_sums(x, begins, 2)
    # Squares may have overflowed, or lost digits below 1.2e-38: a million of those are less than
    # a millionth of 1e-26.
    if not np.all((sums[0] > 1e-26) & (sums[0] < np.inf)):
        sums[0] = np.add.reduceat(np.square(x, dtype=np.float64), begins)
    if smallest is None:
        return sums
    sums[1] = _float32_sums(x, begins, 1)
    if not np.all(sums[1] < np.inf):
        sums[1] = np.add.reduceat(x, begins, dtype=np.float64)
        sums[3] = np.add.reduceat(x == np.inf, begins, dtype=np.int64)
    if not np.all(np.minimum.reduceat(x, begins) >= smallest):
        limits = np.repeat(smallest, np.diff(begins, append=x.size))
        sums[2] = np.add.reduceat(x < limits, begins, dtype=np.int64)
    return sums


def _float32_sums(x: Float32, begins: Any, power: int) -> Any:
    """Return the sum of each row, or of its squares; small rows share a call."""
    if x.size < _LARGE * len(begins):
        return np.add.reduceat(x**power, begins)
    return [_float32_sum(x[a:b], power) for a, b in pairwise([*begins.tolist(), x.size])]


def _float32_sum(x: Float32, power: int) -> float:
    whole = x.size // _SEGMENT * _SEGMENT
    segments = x[:whole].reshape(-1, _SEGMENT)
    subscripts = "ij,ij->i" if power == 2 else "ij->i"
    sums = np.einsum(subscripts, *[segments] * power)
    return float(sums.sum(dtype=np.float64) + np.sum(x[whole:] ** power))
