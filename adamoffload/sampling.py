"""What a `Probe` reads in one step, chunk by chunk.

The arena lies in chunks; a probe's rows, one for each parameter or group, are intervals of the
arena. A chunk is read in cuts: what it shares with one row, in blocks that stay in the cache. Sums
are exact, over all coordinates; quantiles are taken over coordinates that lie a fixed stride apart,
whichever chunk they come in.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from adamoffload.arena import Chunk

if TYPE_CHECKING:
    from adamoffload.abstract import Step

__all__ = [
    "LEVELS",
    "UNSEEN",
    "Layout",
    "NonFinite",
    "Observation",
    "Observer",
    "Row",
    "Sample",
    "Sight",
    "Subject",
    "stride_of",
]

LEVELS = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
"""The levels of the quantiles: minimum, 5 %, quartiles, 95 %, maximum."""

Float32 = np.ndarray[Any, np.dtype[np.float32]]
Float64 = np.ndarray[Any, np.dtype[np.float64]]

_BLOCK = 1 << 16
_READ = ("gradient", "m", "v", "step_size")


@dataclass(frozen=True, slots=True)
class NonFinite:
    """The first NaN or infinity that was seen.

    Attributes
    ----------
    step : int
        In which step, counted from 1.
    name : str
        In which parameter.
    index : int
        At which flat index of it.
    quantity : str
        Where: ``"gradient"``, ``"m"``, ``"v"`` or ``"step_size"``.
    """

    step: int
    name: str
    index: int
    quantity: str


@dataclass(frozen=True, slots=True)
class Subject:
    """An optimizer, as far as a probe must know it.

    Attributes
    ----------
    names : tuple of str
        Of the parameters, in update order.
    sizes : tuple of int
        Their elements.
    order : tuple of int
        The parameters' places in update order, as they follow each other in the arena.
    groups : tuple of int
        Which group each belongs to; a group's parameters are neighbours in the arena.
    chunks : tuple of Chunk
        How the arena is cut.
    eps : float32
        Adam's epsilon.
    squares : callable
        Starts to compute the square of each parameter's norm, and returns what waits for it.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    groups: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    eps: np.float32
    squares: Callable[[], Callable[[], Float64]]


class Row(NamedTuple):
    """What is summed up together: an interval of the arena, and the parameters in it."""

    name: str
    start: int
    stop: int
    members: tuple[int, ...]


class Cut(NamedTuple):
    """A block of a row in a chunk: elements lo to hi, of which every stride-th is sampled."""

    row: int
    lo: int
    hi: int
    sampled: slice
    last: bool


class Sight(NamedTuple):
    """A traced coordinate in a chunk: its number, and where it is."""

    trace: int
    offset: int


class Sample(NamedTuple):
    """One sampled step: arrays with a row for each of the probe's rows.

    Attributes
    ----------
    step : int
        Counted from 1.
    quantiles : ndarray, shape (rows, 6, 7), float32
        Of gradient, m, v, step size, rate and ratio, at `LEVELS`.
    sums : ndarray, shape (rows, 5), float64
        Of the squares of gradient, m, v, step size, and of v.
    series : ndarray, shape (rows, 7), float64
        As in ``SERIES``.
    """

    step: int
    quantiles: Float32
    sums: Float64
    series: Float64


def stride_of(size: int, sample: int) -> int:
    """Return how far apart the sampled coordinates lie.

    It has no factor in common with the size, so that the sample meets every column of a matrix.

    Examples
    --------
    >>> stride_of(4096, 4096), stride_of(4097, 4096), stride_of(1024 * 1024, 4096)
    (1, 2, 257)
    """
    stride = -(-size // sample)
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride


class Layout:
    """Where in each chunk a probe must look.

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
            self.starts.append(self.starts[-1] + subject.sizes[i])
        self.rows = self._rows(by)
        self.cuts = self._cuts(sample)
        self.sights = self._sights(coordinates)
        self.smallest = _smallest(subject.eps)

    def place(self, arena_index: int) -> tuple[int, int]:
        """Return the parameter, in update order, and its flat index."""
        k = bisect_right(self.starts, arena_index) - 1
        return self.subject.order[k], arena_index - self.starts[k]

    def _rows(self, by: str) -> list[Row]:
        subject = self.subject
        names = (
            {i: subject.names[i] for i in subject.order}
            if by == "parameter"
            else {i: f"group {subject.groups[i]}" for i in subject.order}
        )
        rows: dict[str, Row] = {}
        for k, i in enumerate(subject.order):
            start, stop = self.starts[k], self.starts[k + 1]
            row = rows.get(names[i], Row(names[i], start, stop, ()))
            rows[names[i]] = Row(row.name, row.start, stop, (*row.members, i))
        return list(rows.values())

    def _cuts(self, sample: int) -> list[list[Cut]]:
        cuts: list[list[Cut]] = [[] for _ in self.subject.chunks]
        chunks = iter(self.subject.chunks)
        chunk = next(chunks)
        for k, row in enumerate(self.rows):
            stride = stride_of(row.stop - row.start, sample)
            begin = row.start
            while begin < row.stop:
                if begin == chunk.stop:
                    chunk = next(chunks)
                end = min(begin + _BLOCK, chunk.stop, row.stop)
                first = (row.start - begin) % stride
                sampled = slice(begin - chunk.start + first, end - chunk.start, stride)
                lo, hi = begin - chunk.start, end - chunk.start
                cuts[chunk.index].append(Cut(k, lo, hi, sampled, end == row.stop))
                begin = end
        return cuts

    def _sights(self, coordinates: Sequence[tuple[str, int]]) -> list[list[Sight]]:
        sights: list[list[Sight]] = [[] for _ in self.subject.chunks]
        ends = [chunk.stop for chunk in self.subject.chunks]
        place = {self.subject.names[i]: k for k, i in enumerate(self.subject.order)}
        for trace, (name, index) in enumerate(coordinates):
            at = self.starts[place[name]] + index
            chunk = self.subject.chunks[bisect_right(ends, at)]
            sights[chunk.index].append(Sight(trace, at - chunk.start))
        return sights


class Observer(Protocol):
    """What is called around the update of each chunk."""

    def before(self, chunk: Chunk, g: Float32) -> None:
        """Read a chunk's gradient, before the update overwrites it."""

    def after(self, chunk: Chunk, m: Float32, v: Float32, delta: Float32) -> None:
        """Read its new moments and its update."""

    def close(self) -> None:
        """Keep what was read: the step has succeeded."""


class Unseen:
    """Reads nothing."""

    def before(self, chunk: Chunk, g: Float32) -> None:
        """Do nothing."""

    def after(self, chunk: Chunk, m: Float32, v: Float32, delta: Float32) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


UNSEEN = Unseen()
"""What observes a step that nobody asked for."""


class Tracing:
    """Reads a few coordinates.

    Parameters
    ----------
    layout : Layout
        Where they are.
    step : int
        The step's number.
    keep : callable
        Takes the step's number, and gradient, m, v and update of each: shape (4, n).
    """

    def __init__(
        self, layout: Layout, step: int, count: int, keep: Callable[[int, Float32], None]
    ) -> None:
        self._sights = layout.sights
        self._step = step
        self._values = np.empty((4, count), np.float32)
        self._keep = keep

    def before(self, chunk: Chunk, g: Float32) -> None:
        """Read a chunk's gradient, before the update overwrites it."""
        for trace, offset in self._sights[chunk.index]:
            self._values[0, trace] = g[offset]

    def after(self, chunk: Chunk, m: Float32, v: Float32, delta: Float32) -> None:
        """Read its new moments and its update."""
        for trace, offset in self._sights[chunk.index]:
            self._values[1:, trace] = m[offset], v[offset], delta[offset]

    def close(self) -> None:
        """Keep what was read."""
        self._keep(self._step, self._values)


class Observation:
    """Reads all rows in one step.

    Parameters
    ----------
    layout : Layout
        Where to look.
    step : Step
        What the step computes with.
    keep : callable
        Takes the sample, and the first NaN or infinity in it.
    """

    def __init__(
        self, layout: Layout, step: Step, keep: Callable[[Sample, NonFinite | None], None]
    ) -> None:
        self._layout, self._step, self._keep = layout, step, keep
        rows = len(layout.rows)
        self._sums = np.zeros((rows, 5))
        self._counts = np.zeros((rows, 2))
        self._quantiles = np.empty((rows, 6, len(LEVELS)), np.float32)
        self._gradients: list[Float32] = []
        self._taken: list[Float32] = []
        self._bad: list[tuple[int, int, int]] = []
        self._squares = layout.subject.squares()

    def before(self, chunk: Chunk, g: Float32) -> None:
        """Read a chunk's gradient, before the update overwrites it."""
        self._gradients = []
        for cut in self._layout.cuts[chunk.index]:
            self._add(0, cut, chunk, g[cut.lo : cut.hi])
            self._gradients.append(g[cut.sampled].copy())

    def after(self, chunk: Chunk, m: Float32, v: Float32, delta: Float32) -> None:
        """Read its new moments and its update."""
        smallest = self._layout.smallest
        for cut, g in zip(self._layout.cuts[chunk.index], self._gradients, strict=True):
            part = v[cut.lo : cut.hi]
            self._add(1, cut, chunk, m[cut.lo : cut.hi])
            self._add(2, cut, chunk, part)
            self._add(3, cut, chunk, delta[cut.lo : cut.hi])
            self._sums[cut.row, 4] += _sum(part)
            self._counts[cut.row, 0] += np.count_nonzero(part < smallest)
            self._taken.append(np.array([g, m[cut.sampled], v[cut.sampled], delta[cut.sampled]]))
            if cut.last:
                self._finish(cut.row)

    def close(self) -> None:
        """Keep what was read: the step has succeeded."""
        layout, step = self._layout, self._step
        squares = self._squares()
        series = np.empty((len(layout.rows), 7))
        for k, row in enumerate(layout.rows):
            first = row.members[0]
            size = row.stop - row.start
            norm = math.sqrt(sum(squares[i] for i in row.members))
            series[k] = (
                step.rates[first],
                step.step_sizes[first],
                1 - step.beta1_power,
                1 - step.beta2_power,
                np.sqrt(self._sums[k, 3]) / np.float64(norm),
                *self._counts[k] / size,
            )
        first_bad = None
        if self._bad:
            quantity, parameter, index = min(self._bad)
            name = layout.subject.names[parameter]
            first_bad = NonFinite(step.number, name, index, _READ[quantity])
        self._keep(Sample(step.number, self._quantiles, self._sums, series), first_bad)

    def _add(self, quantity: int, cut: Cut, chunk: Chunk, x: Float32) -> None:
        total = _sum_of_squares(x)
        self._sums[cut.row, quantity] += total
        if not math.isfinite(total):
            index = chunk.start + cut.lo + int(np.flatnonzero(~np.isfinite(x))[0])
            self._bad.append((quantity, *self._layout.place(index)))
            if quantity == 2:
                self._counts[cut.row, 1] += np.count_nonzero(np.isinf(x))

    def _finish(self, row: int) -> None:
        """Take the quantiles of a row that has been read to its end."""
        g, m, v, delta = np.concatenate(self._taken, axis=1)
        self._taken = []
        step, eps = self._step, self._layout.subject.eps
        root = np.sqrt(v)
        rate = step.step_sizes[self._layout.rows[row].members[0]] / (root + eps)
        ratio = (m / (1 - step.beta1_power)) / np.sqrt(v / (1 - step.beta2_power))
        ratio[m == 0] = 0
        values = np.sort(np.array([g, m, v, np.abs(delta), rate, ratio]), axis=1)
        size = values.shape[1]
        picked = [max(0, math.ceil(size * level) - 1) for level in LEVELS]
        self._quantiles[row] = values[:, picked]
        self._quantiles[row, np.isnan(values[:, -1])] = np.nan  # NaN is sorted to the end


def _sum_of_squares(x: Float32) -> float:
    total = float(np.dot(x, x))
    if 1e-27 < total < math.inf:
        return total
    wide = x.astype(np.float64)  # squares of float32 may overflow, and underflow
    return float(np.dot(wide, wide))


def _sum(x: Float32) -> float:
    total = float(np.sum(x))
    return total if math.isfinite(total) else float(np.sum(x, dtype=np.float64))


def _smallest(eps: np.float32) -> np.float32:
    """Return the smallest float32 whose square root is not less than eps."""
    v = eps * eps
    while np.sqrt(v) < eps:
        v = np.nextafter(v, np.float32(np.inf))
    while v > 0 and np.sqrt(np.nextafter(v, np.float32(0))) >= eps:
        v = np.nextafter(v, np.float32(0))
    return v
