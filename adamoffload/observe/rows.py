"""The rows of a `Probe`: intervals of the arena, and where in them it looks.

A row is a parameter or a group. Its sampled coordinates lie a fixed stride apart, wherever the
chunks begin and end.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from adamoffload.device.backend import Array, Backend
from adamoffload.engine.sums import Rows
from adamoffload.plan.chunks import Chunk

__all__ = ["Layout", "Row", "Stretch", "Subject", "stride_of"]

_RUN = 1 << 17  # coordinates whose quantiles are taken at once


@dataclass(frozen=True, slots=True)
class Subject:
    """An optimizer, as far as a probe must know it.

    Attributes
    ----------
    backend : Backend
        The device.
    names : tuple of str
        Of the parameters, in update order.
    parameters : tuple of device array, shape (size,), float32
        Flattened views of them.
    order : tuple of int
        Their places in update order, as they follow each other in the arena.
    groups : tuple of int
        Which group each belongs to; a group's parameters are neighbours in the arena.
    chunks : tuple of Chunk
        How the arena is cut.
    eps : float32
        Adam's epsilon.
    """

    backend: Backend
    names: tuple[str, ...]
    parameters: tuple[Array, ...]
    order: tuple[int, ...]
    groups: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    eps: np.float32


@dataclass(frozen=True, slots=True)
class Row:
    """An interval of the arena that is summed up together.

    Attributes
    ----------
    index : int
        Its place among the rows, which stand in the arena's order.
    name : str
        The parameter's name, or ``"group 0"`` and so on.
    start, stop : int
        Elements in the arena.
    stride : int
        How far apart the sampled coordinates lie; the first is the row's first.
    slot : int
        Where the row's sampled coordinates begin among those of all rows.
    """

    index: int
    name: str
    start: int
    stop: int
    stride: int
    slot: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start

    def sampled_before(self, position: int) -> int:
        """Return how many sampled coordinates lie before a place in the arena."""
        return -(-(position - self.start) // self.stride)

    @property
    def sampled(self) -> int:
        """Number of sampled coordinates."""
        return self.sampled_before(self.stop)

    def cut(self, start: int, stop: int) -> tuple[slice, np.ndarray[Any, np.dtype[np.intp]]]:
        """Return the slots of the sampled coordinates in an interval, and where they are."""
        first = self.sampled_before(max(start, self.start))
        last = self.sampled_before(min(stop, self.stop))
        places = self.start + self.stride * np.arange(first, last)
        return slice(self.slot + first, self.slot + last), places


class Stretch(NamedTuple):
    """What a thread reads at once: part of a chunk, and of one or several rows.

    Attributes
    ----------
    which : slice
        Which of the probe's rows it has a part of.
    rows : Rows
        How they divide it.
    slots : slice
        Where its sampled coordinates belong among those of all rows.
    places : ndarray, shape (sampled,), intp
        Where they are in it.
    """

    which: slice
    rows: Rows
    slots: slice
    places: np.ndarray[Any, np.dtype[np.intp]]


def stride_of(size: int, sample: int) -> int:
    """Return how far apart the sampled coordinates of a row lie.

    It has no factor in common with the size, so that the sample meets every column of a matrix.

    Examples
    --------
    >>> stride_of(1024, 1024), stride_of(1025, 1024), stride_of(1024 * 1024, 1024)
    (1, 2, 1025)
    """
    stride = -(-size // sample)
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride


class Layout:
    """Where a probe must look.

    Parameters
    ----------
    subject : Subject
        The optimizer.
    by : str
        ``"parameter"`` or ``"group"``.
    sample : int
        Coordinates of a row that quantiles are taken over, at most.
    coordinates : sequence of (str, int)
        What is traced.
    """

    def __init__(
        self, subject: Subject, by: str, sample: int, coordinates: Sequence[tuple[str, int]]
    ) -> None:
        self.subject = subject
        self.starts = [0]  # of the parameters, as they follow each other in the arena
        for i in subject.order:
            self.starts.append(self.starts[-1] + subject.parameters[i].size)
        self.rows = [*self._rows(by, sample)]
        self.sampled = sum(row.sampled for row in self.rows)
        self.sizes = np.array([row.size for row in self.rows])
        self.members = np.array(subject.order)
        self.firsts = np.searchsorted(self.starts[:-1], [row.start for row in self.rows])
        # A parameter of each row; all of a row's share its rate.
        self.leaders = self.members[self.firsts].tolist()
        self.runs = [*self._runs()]
        self._stops = [row.stop for row in self.rows]
        self._stretches: dict[tuple[int, int], Stretch] = {}
        self.traced = self._traced(coordinates)
        self.smallest = _smallest(subject.eps)

    def place(self, position: int) -> tuple[int, int]:
        """Return the parameter at a place in the arena, in update order, and the flat index."""
        k = bisect_right(self.starts, position) - 1
        return self.subject.order[k], position - self.starts[k]

    def stretch(self, start: int, stop: int) -> Stretch:
        """Return what is to be read from start to stop in the arena."""
        key = start, stop
        if key not in self._stretches:
            first = bisect_right(self._stops, start)
            rows = self.rows[first : bisect_left(self._stops, stop) + 1]
            cuts = [0, *[row.stop - start for row in rows[:-1]], stop - start]
            slots, places = zip(*[row.cut(start, stop) for row in rows], strict=True)
            self._stretches[key] = Stretch(
                slice(first, first + len(rows)),
                Rows(cuts),
                slice(slots[0].start, slots[-1].stop),
                np.concatenate(places) - start,
            )
        return self._stretches[key]

    def _runs(self) -> Iterator[tuple[slice, slice, int]]:
        """Return neighbours with equally many sampled coordinates: rows, slots, how many."""
        for count, run in groupby(self.rows, key=lambda row: row.sampled):
            rows, most = list(run), max(1, _RUN // count)
            for i in range(0, len(rows), most):
                some = rows[i : i + most]
                first, last = some[0], some[-1]
                slots = slice(first.slot, last.slot + count)
                yield slice(first.index, last.index + 1), slots, count

    def _rows(self, by: str, sample: int) -> Iterator[Row]:
        subject, slot = self.subject, 0
        keys = [i if by == "parameter" else subject.groups[i] for i in subject.order]
        for index, (key, places) in enumerate(groupby(range(len(keys)), key=keys.__getitem__)):
            inside = list(places)
            start, stop = self.starts[inside[0]], self.starts[inside[-1] + 1]
            name = subject.names[key] if by == "parameter" else f"group {key}"
            row = Row(index, name, start, stop, stride_of(stop - start, sample), slot)
            slot += row.sampled
            yield row

    def _traced(self, coordinates: Sequence[tuple[str, int]]) -> list[list[tuple[int, int]]]:
        """Return, for each chunk, the traced coordinates in it: which, and where in the chunk."""
        subject = self.subject
        traced: list[list[tuple[int, int]]] = [[] for _ in subject.chunks]
        ends = [chunk.stop for chunk in subject.chunks]
        begin = {subject.names[i]: self.starts[k] for k, i in enumerate(subject.order)}
        for number, (name, index) in enumerate(coordinates):
            chunk = subject.chunks[bisect_right(ends, begin[name] + index)]
            traced[chunk.index].append((number, begin[name] + index - chunk.start))
        return traced


def _smallest(eps: np.float32) -> np.float32:
    """Return the smallest float32 whose square root is not less than eps."""
    v, zero, infinity = eps * eps, np.float32(0), np.float32(np.inf)
    while np.sqrt(v) < eps:
        v = np.nextafter(v, infinity)
    while v > 0 and np.sqrt(np.nextafter(v, zero)) >= eps:
        v = np.nextafter(v, zero)
    return v
