"""The rows of a `Probe`: what is summed up together, and where in it the probe looks.

A row is a parameter or a group. Its sampled coordinates lie a fixed stride apart, wherever the
chunks begin and end.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from adamoffload.device.backend import Array, Backend
from adamoffload.engine.kernel import Kernel
from adamoffload.observe.quantities import Quantities
from adamoffload.rules.rule import Rule

__all__ = ["SamplePlan", "Watched", "Window", "stride_of"]

Integers = np.ndarray[Any, np.dtype[np.intp]]


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
        Which group each belongs to.
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


class Window(NamedTuple):
    """A part of the arena.

    Attributes
    ----------
    rows : ndarray, shape (parts,), intp
        Of which rows it has a part, as they follow each other.
    ends : ndarray, shape (parts,), intp
        Where in it each part ends.
    samples : slice
        Which of ``SamplePlan.positions`` are in it.
    at : ndarray, shape (samples,), intp
        Where in it they are.
    """

    rows: Integers
    ends: Integers
    samples: slice
    at: Integers


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
    names : tuple of str
        Of the rows, in update order.
    sizes : ndarray, shape (rows,), intp
        Their elements.
    members : ndarray, shape (parameters,), intp
        Indices of the parameters in update order, in the arena's order.
    firsts : list of int
        Indices in update order of the rows' first parameters.
    starts : dict from str to int
        Where in the arena each parameter begins.
    positions : ndarray, shape (samples,), intp
        The sampled coordinates in the arena, in its order.
    by_row : ndarray, shape (samples,), intp
        The order in which those of a row stand together.
    sampled : ndarray, shape (rows,), intp
        How many each row has.
    """

    def __init__(self, watched: Watched, by: str, sample: int) -> None:
        self.rule, self.quantities = watched.rule, Quantities.of(watched.rule)
        self.members = np.array(watched.order)
        sizes = np.array([watched.parameters[i].size for i in watched.order])
        self._starts = np.cumsum([0, *sizes])
        self._names = [watched.names[i] for i in watched.order]
        self.starts = dict(zip(self._names, self._starts.tolist(), strict=False))
        keys = np.array(watched.groups)[self.members] if by == "group" else self.members
        found, first, row_of = np.unique(keys, return_index=True, return_inverse=True)
        self.names = watched.names if by != "group" else tuple(f"group {key}" for key in found)
        self.firsts = self.members[first].tolist()
        self.sizes = np.zeros(len(found), np.intp)
        np.add.at(self.sizes, row_of, sizes)
        self._row_of = row_of
        cuts = np.flatnonzero(np.diff(row_of, prepend=-1))  # neighbours of a row are one part
        self._rows, self._ends = row_of[cuts], self._starts[[*cuts[1:], len(sizes)]]
        strides = [stride_of(size, sample) for size in self.sizes.tolist()]
        seen, parts, start = [0] * len(found), [], 0
        for row, end in zip(self._rows.tolist(), self._ends.tolist(), strict=True):
            parts.append(np.arange(start + -seen[row] % strides[row], end, strides[row]))
            seen[row] += end - start
            start = end
        self.positions = np.concatenate(parts)
        rows = np.repeat(self._rows, [part.size for part in parts])
        self.by_row = np.argsort(rows, kind="stable")
        self.sampled = np.bincount(rows)

    def of_rows(self, values: Any) -> Any:
        """Return the sum for each row of a number for each parameter, in update order."""
        return np.bincount(self._row_of, np.asarray(values)[self.members])

    def parameter_at(self, position: int) -> tuple[str, int]:
        """Return the parameter at a position in the arena, and the flat index in it."""
        k = bisect_right(self._starts, position) - 1
        return self._names[k], position - int(self._starts[k])

    def window(self, start: int, stop: int) -> Window:
        """Return what there is from start to stop in the arena."""
        # In a thread that shares an update, `np.searchsorted` would give up the interpreter lock.
        parts = slice(bisect_right(self._ends, start), bisect_left(self._ends, stop) + 1)
        samples = slice(*(bisect_left(self.positions, end) for end in (start, stop)))
        ends = np.minimum(self._ends[parts], stop) - start
        return Window(self._rows[parts], ends, samples, self.positions[samples] - start)
