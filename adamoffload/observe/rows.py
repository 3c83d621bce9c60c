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
from adamoffload.engine.kernel import Kernel
from adamoffload.observe.quantities import Quantities
from adamoffload.rules.rule import Rule

__all__ = ["Row", "SamplePlan", "Watched", "Window", "stride_of"]

Positions = np.ndarray[Any, np.dtype[np.intp]]

_RUN = 1 << 17  # coordinates whose quantiles are taken at once
_WINDOWS = 4096  # plans that are kept: enough for 5e8 parameters; chunks may differ between steps


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """An optimizer, as far as a probe must know it.

    Attributes
    ----------
    backend : Backend
        The device.
    names : tuple of str
        Of the parameters, in update order.
    parameters : sequence of device array, shape (size,), float32
        Flattened views of them.
    order : sequence of int
        Their indices in update order, as they follow each other in the arena.
    groups : sequence of int
        Which group each belongs to; a group's parameters are neighbours in the arena.
    rule : Rule
        What is computed.
    kernels : sequence of Kernel
        What will compute it.
    """

    backend: Backend
    names: tuple[str, ...]
    parameters: Sequence[Array]
    order: Sequence[int]
    groups: Sequence[int]
    rule: Rule
    kernels: Sequence[Kernel]


@dataclass(frozen=True, slots=True)
class Row:
    """An interval of the arena that is summed up together.

    Attributes
    ----------
    name : str
        The parameter's name, or ``"group 0"`` and so on.
    start, stop : int
        Elements in the arena.
    stride : int
        How far apart the sampled coordinates lie; the first is the row's first.
    offset : int
        Where they begin among those of all rows.
    """

    name: str
    start: int
    stop: int
    stride: int
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start

    @property
    def sampled(self) -> int:
        """Number of sampled coordinates."""
        return self.sampled_before(self.stop)

    def sampled_before(self, position: int) -> int:
        """Return how many sampled coordinates lie before a position in the arena."""
        return max(0, -(-(min(position, self.stop) - self.start) // self.stride))


class Window(NamedTuple):
    """What a thread reads at once: a part of the arena, and of one or several rows.

    Attributes
    ----------
    rows : slice
        Which of the probe's rows it has a part of.
    begins : ndarray, shape (rows,), intp
        Where they begin in it.
    samples : slice
        Which of all sampled coordinates are in it.
    positions : ndarray, shape (sampled,), intp
        Where they are in it.
    """

    rows: slice
    begins: Positions
    samples: slice
    positions: Positions


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


class SamplePlan:
    """Where a probe must look.

    Parameters
    ----------
    watched : Watched
        The optimizer.
    by : str
        ``"parameter"`` or ``"group"``.
    sample : int
        Coordinates of a row that quantiles are taken over, at most.

    Attributes
    ----------
    quantities : Quantities
        What it looks for.
    rows : list of Row
        In the arena's order.
    sizes : ndarray, shape (rows,)
        Their elements.
    members : ndarray, shape (parameters,)
        Indices of the parameters, in the arena's order.
    firsts : ndarray, shape (rows,)
        Where in `members` each row begins.
    starts : dict from str to int
        Where in the arena each parameter begins.
    sampled : int
        Number of sampled coordinates.
    """

    def __init__(self, watched: Watched, by: str, sample: int) -> None:
        self.rule = watched.rule
        self.quantities = Quantities.of(watched.rule)
        self.members = np.array(watched.order)
        sizes = [watched.parameters[i].size for i in watched.order]
        self._starts = np.cumsum([0, *sizes]).tolist()
        self._names = [watched.names[i] for i in watched.order]
        self.starts = dict(zip(self._names, self._starts, strict=False))
        keys = watched.groups if by == "group" else range(len(watched.names))
        self.rows: list[Row] = []
        for key, group in groupby(range(len(sizes)), key=lambda k: keys[watched.order[k]]):
            inside = list(group)
            start, stop = self._starts[inside[0]], self._starts[inside[-1] + 1]
            name = f"group {key}" if by == "group" else watched.names[key]
            offset = self.rows[-1].offset + self.rows[-1].sampled if self.rows else 0
            self.rows.append(Row(name, start, stop, stride_of(stop - start, sample), offset))
        self.sizes = np.array([row.size for row in self.rows])
        self.firsts = np.searchsorted(self._starts[:-1], [row.start for row in self.rows])
        self.sampled = sum(row.sampled for row in self.rows)
        self._stops = [row.stop for row in self.rows]
        self._windows: dict[tuple[int, int], Window] = {}

    def parameter_at(self, position: int) -> tuple[str, int]:
        """Return the parameter at a position in the arena, and the flat index in it."""
        k = bisect_right(self._starts, position) - 1
        return self._names[k], position - self._starts[k]

    def window(self, start: int, stop: int) -> Window:
        """Return what is to be read from start to stop in the arena."""
        window = self._windows.get((start, stop))
        if window is None:
            if len(self._windows) >= _WINDOWS:
                self._windows.clear()
            window = self._windows[start, stop] = self._window(start, stop)
        return window

    def _window(self, start: int, stop: int) -> Window:
        first = bisect_right(self._stops, start)
        rows = self.rows[first : bisect_left(self._stops, stop) + 1]
        cuts = [(row.sampled_before(start), row.sampled_before(stop)) for row in rows]
        places = [
            row.start - start + row.stride * np.arange(*cut)
            for row, cut in zip(rows, cuts, strict=True)
        ]
        return Window(
            slice(first, first + len(rows)),
            np.array([max(row.start - start, 0) for row in rows]),
            slice(rows[0].offset + cuts[0][0], rows[-1].offset + cuts[-1][1]),
            np.concatenate(places),
        )

    def runs(self) -> Iterator[tuple[slice, slice, int]]:
        """Return neighbours with equally many sampled coordinates: rows, samples, how many."""
        first = 0
        for count, run in groupby(self.rows, key=lambda row: row.sampled):
            rows, most = list(run), max(1, _RUN // count)
            for i in range(0, len(rows), most):
                some = rows[i : i + most]
                samples = slice(some[0].offset, some[-1].offset + count)
                yield slice(first, first + len(some)), samples, count
                first += len(some)
