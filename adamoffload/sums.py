"""Sums over what Adam has computed, row by row: what the norms of a `Probe` are made of.

The ``numba`` engine has compiled versions of `squares` and `sums` (`adamoffload.fused`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Rows", "Sums", "squares", "sums"]

Float32 = np.ndarray[Any, np.dtype[np.float32]]
Float64 = np.ndarray[Any, np.dtype[np.float64]]

_SEGMENT = 512


class Sums(NamedTuple):
    """Sums of each row of a stretch of elements.

    Attributes
    ----------
    finite : bool
        Whether none of them is NaN or infinite.
    by_row : callable
        Adds up what is left to add up; returns them, each of shape (rows,).
    nbytes : int
        Bytes that are kept until then.
    """

    finite: bool
    by_row: Callable[[], Iterable[Any]]
    nbytes: int


class Rows:
    """How a stretch of elements is divided into rows, and how to sum up each of them.

    Parameters
    ----------
    cuts : sequence of int
        Where the rows begin, from 0, and where the last one ends.

    Attributes
    ----------
    cuts : ndarray, shape (count + 1,), int64
        The same.
    count : int
        How many rows.

    Notes
    -----
    The threads that read share one interpreter lock, and handing it over costs some 10 us. So the
    calls are few, however many the rows: segments of equal length are summed up at once, and the
    elements of those where a row ends are put aside. Dividing all that among the rows waits until
    no other thread is at work. The sums are ``np.einsum``'s, which gives up the lock while it runs;
    ``np.vecdot`` and ``np.matmul`` are twice as fast, but (NumPy 2.4) keep it, and all others wait.

    Float32 is right to some 1e-6 for the elements of a segment, unless squares overflow or lose
    digits near the smallest number, 1.2e-38. Then sums are taken again in float64: those of rows
    that are infinite, or below 1e-26, of which half a million lost squares are less than 1e-6.
    """

    def __init__(self, cuts: Sequence[int]) -> None:
        self.cuts = np.array(cuts, np.int64)
        self.count = len(cuts) - 1
        size = cuts[-1]
        torn = np.zeros(size // _SEGMENT + 1, bool)
        torn[self.cuts[1:-1] // _SEGMENT] = True
        torn[-1] = True  # it is shorter than the others
        aside = np.flatnonzero(torn)[:, None] * _SEGMENT + np.arange(_SEGMENT)
        self._whole = size // _SEGMENT * _SEGMENT
        self._intact, self._aside = np.flatnonzero(~torn), aside[aside < size]
        self._intact_runs = self._runs(self._intact * _SEGMENT)
        self._aside_runs = self._runs(self._aside)

    def totals(self, squared: Sequence[Float32], plain: Sequence[Float32] = ()) -> Sums:
        """Sum up the squares of some arrays, and others that have no negative elements.

        Returns
        -------
        Sums
            Right to 5e-6; infinite where the true sum is, or NaN.
        """
        arrays, many = [*squared, *plain], len(squared)
        segments = np.empty((len(arrays), self._whole // _SEGMENT), np.float32)
        aside = np.empty((len(arrays), self._aside.size))
        for k, x in enumerate(arrays):
            whole = x[: self._whole].reshape(-1, _SEGMENT)
            if k < many:
                np.einsum("ij,ij->i", whole, whole, out=segments[k])
            else:
                np.einsum("ij->i", whole, out=segments[k])
            aside[k] = x[self._aside]
        np.square(aside[:many], out=aside[:many])
        # If every segment is sound, so is every row.
        smallest, largest = segments.min(initial=1), segments.max(initial=0)
        if smallest > 1e-29 and largest < math.inf and math.isfinite(aside.sum()):
            kept = segments.nbytes + aside.nbytes
            return Sums(True, lambda: self._by_row(segments, aside), kept)
        totals = self._by_row(segments, aside)
        for k, row in np.argwhere(~((totals > 1e-26) & (totals < math.inf))):
            x = arrays[k][self.cuts[row] : self.cuts[row + 1]].astype(np.float64)
            totals[k, row] = x @ x if k < many else x.sum()
        return Sums(bool(np.isfinite(totals).all()), lambda: totals, totals.nbytes)

    def count_true(self, where: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
        """Return how many are true in each row."""
        count = int(np.count_nonzero(where))
        if count == 0 or self.count == 1:
            return [count] * self.count
        return [int(np.count_nonzero(where[a:b])) for a, b in pairwise(self.cuts)]

    def _by_row(self, segments: Float32, aside: Float64) -> Float64:
        """Return the totals of each row: shape (sums, rows)."""
        totals = np.zeros((len(segments), self.count))
        for values, (rows, begins) in (
            (segments[:, self._intact], self._intact_runs),
            (aside, self._aside_runs),
        ):
            if rows.size:
                totals[:, rows] += np.add.reduceat(values, begins, axis=1, dtype=np.float64)
        return totals

    def _runs(self, places: Any) -> tuple[Any, Any]:
        """Return the rows that have some of these places, which rise, and where theirs begin."""
        return np.unique(np.searchsorted(self.cuts, places, "right") - 1, return_index=True)


@np.errstate(all="ignore")
def squares(g: Float32, rows: Rows) -> Sums:
    """Sum up what a probe wants to know before an update.

    Parameters
    ----------
    g : ndarray, shape (n,), float32
        Gradient: of any size; NaN and infinities pass into the sums.
    rows : Rows
        What to sum up together.

    Returns
    -------
    Sums
        The sums of squares.

    Examples
    --------
    >>> import numpy as np
    >>> g = np.array([3 * 2.0**100, 4 * 2.0**100, 2.0**-100], np.float32)
    >>> finite, by_row, _ = squares(g, Rows([0, 2, 3]))
    >>> finite, np.sqrt(by_row()) / [2.0**100, 2.0**-100]
    (True, array([[5., 1.]]))
    """
    return rows.totals([g])


@np.errstate(all="ignore")
def sums(m: Float32, v: Float32, delta: Float32, smallest: np.float32, rows: Rows) -> Sums:
    """Sum up what a probe wants to know after an update.

    Parameters
    ----------
    m, v, delta : ndarray, shape (n,), float32
        Moments and update.
    smallest : float32
        What v is compared with.
    rows : Rows
        What to sum up together.

    Returns
    -------
    Sums
        Those of the squares of m, v and delta, and of v; how many of v are below `smallest`; how
        many are infinite.
    """
    finite, by_row, kept = rows.totals([m, v, delta], [v])
    small = rows.count_true(v < smallest)
    infinite = [0] * rows.count if finite else rows.count_true(v == np.inf)
    return Sums(finite, lambda: [*by_row(), small, infinite], kept + 16 * rows.count)
