"""What a `Probe` reads in one step.

On a sampled step the threads that run Adam read what they update just before and just after, while
it is in a cache: read later, from memory, the same sums cost twice as much. Sums are over all
coordinates, quantiles over those that a row samples (`adamoffload.observe.rows`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from adamoffload.device.backend import Array, Backend
from adamoffload.engine.kernel import Kernel, Span
from adamoffload.engine.sums import Sums
from adamoffload.observe.rows import Layout
from adamoffload.plan.chunks import Chunk
from adamoffload.plan.step import Step

__all__ = [
    "LEVELS",
    "UNSEEN",
    "NonFinite",
    "Observation",
    "Observer",
    "ReadingKernel",
    "Sample",
    "SquaredNorms",
    "Tracing",
]

LEVELS = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
"""The levels of the quantiles: minimum, 5 %, quartiles, 95 %, maximum."""

Float32 = np.ndarray[Any, np.dtype[np.float32]]
Float64 = np.ndarray[Any, np.dtype[np.float64]]

_STRETCH = 1 << 19  # elements that a thread reads at once: larger than a block, since calls cost
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


class Sample(NamedTuple):
    """One sampled step: arrays with a row for each of the probe's rows.

    Attributes
    ----------
    step : int
        Counted from 1.
    quantiles : ndarray, shape (rows, 6, 7), float32
        Of gradient, m, v, step size, rate and ratio, at `LEVELS`.
    sums : ndarray, shape (rows, 5), float64
        Of the squares of gradient, m, v and step size, and of v.
    series : ndarray, shape (rows, 7), float64
        As in ``SERIES``.
    """

    step: int
    quantiles: Float32
    sums: Float64
    series: Float64


class SquaredNorms:
    """Brings down the square of every parameter's norm: 4 bytes each, in one copy.

    Parameters
    ----------
    backend : Backend
        The device.
    parameters : sequence of device array, shape (size,), float32
        What to sum up; the device does it in float32.
    """

    def __init__(self, backend: Backend, parameters: Sequence[Array]) -> None:
        count = len(parameters)
        self._backend = backend
        self._device = backend._empty((count,), np.dtype(np.float32))
        self._host = backend._empty_pinned(count, np.dtype(np.float32))
        self._pairs = [
            (parameter, self._device[i : i + 1].reshape(()))
            for i, parameter in enumerate(parameters)
        ]

    def start(self) -> Callable[[], Float64]:
        """Start, before the parameters change; return what waits for the result."""
        computed = self._backend.run_on_device(self._compute)
        ticket = self._backend.d2h(self._device, self._host, after=(computed,))

        def result() -> Float64:
            ticket.wait()
            return self._host.astype(np.float64)

        return result

    def _compute(self) -> None:
        for parameter, square in self._pairs:
            np.dot(parameter, parameter, out=square)


class Observer:
    """What the optimizer calls in a step: this one reads nothing."""

    def run(
        self,
        run: Callable[[Kernel, Sequence[Any], Sequence[Span]], None],
        kernel: Kernel,
        chunk: Chunk,  # noqa: ARG002
        arrays: Sequence[Float32],
        spans: Sequence[Span],
    ) -> None:
        """Run a kernel over a chunk's gradient and moments.

        Parameters
        ----------
        run : callable
            `Team.run`.
        kernel : Kernel
            What to run.
        chunk : Chunk
            Which one.
        arrays : sequence of ndarray
            Gradient, m and v of the chunk.
        spans : sequence of Span
            Which elements, and what they are computed with.
        """
        run(kernel, arrays, spans)

    def close(self) -> None:
        """Keep what was read: the step has succeeded."""


UNSEEN = Observer()
"""What observes a step that nobody asked for."""


class Tracing(Observer):
    """Reads a few coordinates.

    Parameters
    ----------
    within : Observer
        What else observes the step.
    layout : Layout
        Where the coordinates are.
    count : int
        How many.
    keep : callable
        Takes gradient, m, v and update of each: shape (4, count), float32.
    """

    def __init__(
        self, within: Observer, layout: Layout, count: int, keep: Callable[[Float32], None]
    ) -> None:
        self._within, self._traced, self._keep = within, layout.traced, keep
        self._values = np.empty((4, count), np.float32)

    def run(
        self,
        run: Callable[[Kernel, Sequence[Any], Sequence[Span]], None],
        kernel: Kernel,
        chunk: Chunk,
        arrays: Sequence[Float32],
        spans: Sequence[Span],
    ) -> None:
        """Run a kernel over a chunk, and read before and after."""
        g, m, v = arrays
        traced, values = self._traced[chunk.index], self._values
        for number, at in traced:
            values[0, number] = g[at]
        self._within.run(run, kernel, chunk, arrays, spans)
        for number, at in traced:
            values[1:, number] = m[at], v[at], g[at]

    def close(self) -> None:
        """Keep what was read: the step has succeeded."""
        self._within.close()
        self._keep(self._values)


class ReadingKernel:
    """A kernel that reads before and after what it updates.

    Parameters
    ----------
    kernel : Kernel
        What to run.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.name, self.program = kernel.name, kernel.program
        self.summed = kernel.summed
        self.block_size = _STRETCH

    def scratch(self) -> Any:
        """Allocate what one thread needs."""
        return self._kernel.scratch()

    def __call__(self, arrays: Sequence[Any], values: Sequence[Any], scratch: Any) -> None:
        """Run the kernel and read; the last of `arrays` is the range of their places."""
        *read, where = arrays
        bound, observation = values
        observation.read(self._kernel, read, bound, scratch, where.start, where.stop)


class Observation(Observer):
    """Reads all rows in one step.

    Parameters
    ----------
    layout : Layout
        Where to look.
    kernels : callable
        Returns the `ReadingKernel` of a kernel.
    step : Step
        What the step computes with.
    norms : callable
        Waits for the square of each parameter's norm before the step.
    keep : callable
        Takes the observation when the step has succeeded.

    Attributes
    ----------
    taken : ndarray, shape (4, sampled), float32
        Gradient, m, v and update of the sampled coordinates.
    """

    def __init__(
        self,
        layout: Layout,
        kernels: Callable[[Kernel], ReadingKernel],
        step: Step,
        norms: Callable[[], Float64],
        keep: Callable[[Observation], None],
    ) -> None:
        self._layout, self._kernels, self._norms, self._keep = layout, kernels, norms, keep
        self.step = step.number  # not all of it, which would keep the gradients alive
        self._rates = [(step.rates[i], step.step_sizes[i]) for i in layout.leaders]
        self._corrections = 1 - step.progress.beta1_power, 1 - step.progress.beta2_power
        self.taken = np.empty((4, layout.sampled), np.float32)
        self._sums: list[tuple[int, slice, Sums]] = []
        self._bad: list[tuple[int, int, int]] = []

    def run(
        self,
        run: Callable[[Kernel, Sequence[Any], Sequence[Span]], None],
        kernel: Kernel,
        chunk: Chunk,
        arrays: Sequence[Float32],
        spans: Sequence[Span],
    ) -> None:
        """Run a kernel over a chunk, and read before and after."""
        read = [(start, stop, (values, self)) for start, stop, values in spans]
        run(self._kernels(kernel), (*arrays, range(chunk.start, chunk.stop)), read)

    def read(
        self,
        kernel: Kernel,
        arrays: Sequence[Float32],
        bound: Sequence[Any],
        scratch: Any,
        start: int,
        stop: int,
    ) -> None:
        """Run a kernel from start to stop in the arena, and read before and after."""
        which, rows, slots, places = self._layout.stretch(start, stop)
        g, m, v = arrays
        taken = self.taken[:, slots]
        taken[0] = g[places]
        sums = kernel.summed(arrays, bound, scratch, self._layout.smallest, rows)
        taken[1], taken[2], taken[3] = m[places], v[places], g[places]
        self._sums.append((start, which, sums))  # append is atomic
        if not sums.finite:
            found = sums.nonfinite, *[rows.nonfinite(x) for x in (m, v, g)]
            for quantity, at in enumerate(found):
                self._bad += [(quantity, *self._layout.place(start + place)) for place in at]

    def close(self) -> None:
        """Keep what was read: the step has succeeded."""
        self._squares = self._norms()
        self._keep(self)

    @np.errstate(all="ignore")  # infinities and NaN pass through, as in the step
    def sample(self) -> Sample:
        """Sum up what was read."""
        layout = self._layout
        totals = np.zeros((7, len(layout.rows)))
        # Threads come in any order, which the sums shall not depend on.
        for _, which, sums in sorted(self._sums, key=itemgetter(0)):
            totals[:, which] += [*sums.by_row()]
        norms = np.sqrt(np.add.reduceat(self._squares[layout.members], layout.firsts))
        series = np.empty((len(layout.rows), 7))
        series[:, :2] = self._rates
        series[:, 2:4] = self._corrections
        series[:, 4] = np.sqrt(totals[3]) / norms
        series[:, 5:] = totals[5:].T / layout.sizes[:, None]
        quantiles = np.empty((len(layout.rows), 6, len(LEVELS)), np.float32)
        for rows, slots, count in layout.runs:
            quantiles[rows] = self._quantiles(series[rows, 1], self.taken[:, slots], count)
        return Sample(self.step, quantiles, totals[:5].T, series)

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps until it is summed up."""
        return self.taken.nbytes + sum(sums.nbytes for _, _, sums in self._sums)

    def first_bad(self) -> NonFinite | None:
        """Return the first NaN or infinity."""
        if not self._bad:
            return None
        quantity, parameter, index = min(self._bad)
        return NonFinite(self.step, self._layout.subject.names[parameter], index, _READ[quantity])

    def _quantiles(self, lr_t: Float64, taken: Float32, count: int) -> Float32:
        """Return the quantiles of rows with equally many coordinates: shape (rows, 6, 7)."""
        picked = np.array([max(0, math.ceil(count * level) - 1) for level in LEVELS])
        bias1, bias2 = self._corrections
        values = np.empty((5, taken.shape[1] // count, count), np.float32)
        values[:4] = taken.reshape(4, -1, count)
        m, v, delta, ratio = values[1:]
        np.abs(delta, out=delta)
        np.divide(m, np.sqrt(v), out=ratio)
        ratio *= np.sqrt(bias2) / bias1
        ratio[m == 0] = 0
        values.sort(axis=-1)
        result = np.empty((values.shape[1], 6, len(LEVELS)), np.float32)
        result[:, :4] = values[:4, :, picked].swapaxes(0, 1)
        # The rate falls where v rises: its quantiles are those of v from the other end.
        root = np.sqrt(values[2][:, count - 1 - picked])
        result[:, 4] = lr_t.astype(np.float32)[:, None] / (root + self._layout.subject.eps)
        result[:, 5] = values[4][:, picked]
        unknown = np.isnan(values[:, :, -1])  # NaN is sorted to the end
        if unknown.any():
            result[unknown[[0, 1, 2, 3, 2, 4]].T] = np.nan
        return result
