"""Sums over what Adam has computed, row by row: what the norms of a `Probe` are made of.

This is the NumPy engine's way; the ``numba`` engine does it in its loop
(`adamoffload.engine.fused`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Rows", "Sums", "summed"]

Float32 = np.ndarray[Any, np.dtype[np.float32]]
Float64 = np.ndarray[Any, np.dtype[np.float64]]

_SEGMENT = 512


class Sums(NamedTuple):
    """What is summed up in a stretch of elements, for each of its rows.

    Attributes
    ----------
    by_row : callable
        Adds up what is left to add up; returns the sums of the squares of gradient, m, v and
        update, and of v; how many of v are so small that epsilon limits them; how many are
        infinite: each of shape (rows,).
    finite : bool
        Whether the sums are.
    nonfinite : sequence of int
        Where the first NaN or infinity of the gradient is, in each row that has one.
    nbytes : int
        Bytes that are kept until `by_row` is called.
    """

    by_row: Callable[[], Iterable[Any]]
    finite: bool
    nonfinite: Sequence[int]
    nbytes: int


class _Totals(NamedTuple):
    """Sums of each row; `by_row` adds up what is left to add up."""

    by_row: Callable[[], Iterable[Any]]
    finite: bool
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

    def totals(self, squared: Sequence[Float32], plain: Sequence[Float32] = ()) -> _Totals:
        """Sum up the squares of some arrays, and others that have no negative elements.

        The sums are right to 5e-6; infinite where the true sum is, or NaN.
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
            return _Totals(lambda: self._by_row(segments, aside), True, kept)
        totals = self._by_row(segments, aside)
        for k, row in np.argwhere(~((totals > 1e-26) & (totals < math.inf))):
            x = arrays[k][self.cuts[row] : self.cuts[row + 1]].astype(np.float64)
            totals[k, row] = x @ x if k < many else x.sum()
        return _Totals(lambda: totals, bool(np.isfinite(totals).all()), totals.nbytes)

    def nonfinite(self, x: Float32) -> list[int]:
        """Return the place of the first NaN or infinity in each row that has one."""
        bad = np.flatnonzero(~np.isfinite(x))
        firsts = np.unique(np.searchsorted(self.cuts, bad, "right"), return_index=True)[1]
        return [int(place) for place in bad[firsts]]

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
def summed(
    run: Callable[[], object],
    g: Float32,
    m: Float32,
    v: Float32,
    smallest: np.float32,
    rows: Rows,
) -> Sums:
    """Run an update, and sum up before and after it what a probe wants to know.

    Parameters
    ----------
    run : callable
        Replaces m and v by the next moments, and the gradient by the update.
    g, m, v : ndarray, shape (n,), float32
        Gradient and moments: of any size; NaN and infinities pass into the sums.
    smallest : float32
        What v is compared with.
    rows : Rows
        What to sum up together.

    Examples
    --------
    >>> import numpy as np
    >>> g, m, v = np.array([[3, 4, 12], [1, 1, 2], [0, 1, 4]], np.float32)
    >>> by_row, finite, nonfinite, _ = summed(lambda: None, g, m, v, np.float32(1), Rows([0, 2, 3]))
    >>> np.array([*by_row()]).astype(int)
    array([[ 25, 144],
           [  2,   4],
           [  1,  16],
           [ 25, 144],
           [  1,   4],
           [  1,   0],
           [  0,   0]])
    """
    before = rows.totals([g])
    nonfinite = [] if before.finite else rows.nonfinite(g)
    run()
    after = rows.totals([m, v, g], [v])
    small = rows.count_true(v < smallest)
    infinite = [0] * rows.count if after.finite else rows.count_true(v == np.inf)
    return Sums(
        lambda: [*before.by_row(), *after.by_row(), small, infinite],
        before.finite and after.finite,
        nonfinite,
        before.nbytes + after.nbytes + 16 * rows.count,
    )
