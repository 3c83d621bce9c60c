"""What a `Probe` reads in one step.

On a sampled step the threads that run the rule read what they update just before and just after,
while it is in a cache: read later, from memory, the same sums cost twice as much. Sums are over all
coordinates, quantiles over those that a row samples (`adamoffload.observe.rows`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from adamoffload.device.backend import Array, Backend
from adamoffload.engine.kernel import Kernel, Span
from adamoffload.engine.team import Workers
from adamoffload.observe.quantities import rates
from adamoffload.observe.rows import SamplePlan
from adamoffload.plan.step import Step

__all__ = [
    "LEVELS",
    "UNSEEN",
    "NonFinite",
    "Observation",
    "Observer",
    "Sample",
    "SquaredNorms",
    "Tracing",
]

LEVELS = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
"""The levels of the quantiles: minimum, 5 %, quartiles, 95 %, maximum."""

Float32 = np.ndarray[Any, np.dtype[np.float32]]
Float64 = np.ndarray[Any, np.dtype[np.float64]]
Arrays = Sequence[Float32]
Spans = Sequence[Span]

_BLOCK = 1 << 17  # elements that a thread reads at once: still in its cache when they are updated


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
        Where: ``"gradient"``, a slot of the rule, or ``"step_size"``.
    """

    step: int
    name: str
    index: int
    quantity: str


class Sample(NamedTuple):
    """One sampled step: arrays with a row for each of the probe's rows.

    A row with a parameter that the step left alone holds NaN. The columns are those of `Quantities`
    by the same names.

    Attributes
    ----------
    step : int
        Counted from 1.
    quantiles : ndarray, shape (rows, quantities, 7), float32
        At `LEVELS`.
    norms : ndarray, shape (rows, quantities), float64
        Over all coordinates.
    series : ndarray, shape (rows, quantities), float64
        One number each.
    """

    step: int
    quantiles: Float32
    norms: Float64
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
        self._backend, count = backend, len(parameters)
        self._device = backend._empty((count,), np.dtype(np.float32))
        self._host = backend._empty_pinned(count, np.dtype(np.float32))
        squares = [self._device[i : i + 1].reshape(()) for i in range(count)]
        self._pairs = list(zip(parameters, squares, strict=True))

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
    """What runs the updates of a step: this one reads nothing."""

    def update(
        self,
        workers: Workers,
        kernel: Kernel,
        start: int,  # noqa: ARG002
        arrays: Arrays,
        spans: Spans,
    ) -> None:
        """Run a kernel over a chunk.

        Parameters
        ----------
        workers : Workers
            The threads.
        kernel : Kernel
            What to run.
        start : int
            Where in the arena the chunk begins.
        arrays : sequence of ndarray, shape (n,), float32
            Of the chunk: the gradient, which becomes the update, the rule's slots in its order, and
            what else the kernel needs.
        spans : sequence of Span
            Which elements, and what they are computed with.
        """
        workers.update(kernel, arrays, spans)

    def close(self) -> None:
        """Keep what was read: the step has succeeded."""


UNSEEN = Observer()
"""What observes a step that nobody asked for."""


class Tracing(Observer):
    """Reads a few coordinates, at some positions in the arena.

    It hands `keep` gradient, slots and update of each: shape (2 + slots, count), float32; NaN where
    the step left a parameter alone. `within` is what else observes the step.
    """

    def __init__(
        self, within: Observer, positions: Any, slots: int, keep: Callable[[Float32], None]
    ) -> None:
        self._within, self._positions, self._keep = within, positions, keep
        self._values = np.full((2 + slots, len(positions)), np.nan, np.float32)

    def update(
        self, workers: Workers, kernel: Kernel, start: int, arrays: Arrays, spans: Spans
    ) -> None:
        """Run a kernel over a chunk, and read before and after."""
        at = self._positions - start
        inside = np.flatnonzero((at >= 0) & (at < arrays[0].size))
        gradient, *slots = arrays[: len(self._values) - 1]
        self._values[0, inside] = gradient[at[inside]]
        self._within.update(workers, kernel, start, arrays, spans)
        for row, x in enumerate([*slots, gradient], 1):
            self._values[row, inside] = x[at[inside]]

    def close(self) -> None:
        """Keep what was read: the step has succeeded."""
        self._within.close()
        self._keep(self._values)


class Observation(Observer):
    """Reads all rows in one step.

    Parameters
    ----------
    plan : SamplePlan
        Where to look.
    step : Step
        What the step computes with.
    squared_norms : callable
        Waits for the square of each parameter's norm before the step.
    keep : callable
        Takes the observation when the step has succeeded.
    """

    def __init__(
        self,
        plan: SamplePlan,
        step: Step,
        squared_norms: Callable[[], Float64],
        keep: Callable[[Observation], None],
    ) -> None:
        self._plan, self._squared_norms, self._keep = plan, squared_norms, keep
        self._step = step.number  # not all of it, which would keep the gradients alive
        absent = np.array([gradient is None for gradient in step.gradients])[plan.members]
        self._absent = np.logical_or.reduceat(absent, plan.firsts)
        # All parameters of a row share their rates, unless they were left out in different steps.
        classes = np.array(step.classes)[plan.members[plan.firsts]]
        table = [rates(plan.rule, coefficients) for coefficients in step.coefficients]
        self._rates = np.array(table, np.float64)[classes]
        self._smallest = np.array([_smallest(np.float32(r.eps)) for r in table])[classes]
        self._taken = np.full((len(plan.quantities.read), plan.sampled), np.nan, np.float32)
        self._parts: list[tuple[int, slice, Float64]] = []
        self._bad: list[tuple[int, int]] = []

    def update(
        self, workers: Workers, kernel: Kernel, start: int, arrays: Arrays, spans: Spans
    ) -> None:
        """Run a kernel over a chunk, and read before and after."""
        read = partial(self._read, workers, kernel, start, arrays)
        workers.run(read, workers.blocks(spans, min(_BLOCK, kernel.block_size)))

    def _read(
        self, workers: Workers, kernel: Kernel, start: int, arrays: Arrays, spans: Spans
    ) -> None:
        """Run a kernel over neighbouring spans, and read before and after."""
        begin, end = spans[0][0], spans[-1][1]
        rows, begins, samples, positions = self._plan.window(start + begin, start + end)
        names = self._plan.quantities
        gradient, *slots = [x[begin:end] for x in arrays[: len(names.read) - 1]]
        sums = np.zeros((len(names.norms) + 2, len(begins)))

        def take(number: int, x: Float32) -> None:
            self._taken[number, samples] = x[positions]
            if root := names.root(number):
                sums[number], sums[root], *sums[-2:] = kernel.sums(x, begins, self._smallest[rows])
            else:
                sums[number] = kernel.sums(x, begins)[0]

        take(0, gradient)
        if not np.isfinite(sums[0]).all():
            self._find_nonfinite(0, start + begin, gradient)
        scratch = workers.scratch(kernel)
        for first, last, values in spans:
            kernel([x[first:last] for x in arrays], values, scratch)
        for number, x in enumerate([*slots, gradient], 1):
            take(number, x)
        if not np.isfinite(sums).all():
            for number, x in enumerate([*slots, gradient], 1):
                self._find_nonfinite(number, start + begin, x)
        self._parts.append((start + begin, rows, sums))  # append is atomic

    def _find_nonfinite(self, number: int, start: int, x: Float32) -> None:
        finite = np.isfinite(x)
        if not finite.all():
            self._bad.append((number, start + int(finite.argmin())))

    @np.errstate(all="ignore")
    def close(self) -> None:
        """Sum up, and keep what was read: the step has succeeded."""
        plan, quantities = self._plan, self._plan.quantities
        totals = np.zeros((len(quantities.norms) + 2, len(plan.rows)))
        # Threads come in any order, which the sums shall not depend on.
        for _, rows, sums in sorted(self._parts, key=itemgetter(0)):
            totals[:, rows] += sums
        self._parts.clear()
        totals[:, self._absent] = np.nan
        self._norms = np.sqrt(totals[:-2])
        before = np.add.reduceat(self._squared_norms()[plan.members], plan.firsts)
        lr, lr_t, bias1, bias2, _ = self._rates.T
        known = {
            "lr": lr,
            "lr_t": lr_t,
            "bias1": bias1,
            "bias2": bias2,
            "update_ratio": self._norms[quantities.read.index("step_size")] / np.sqrt(before),
            "eps_limited": totals[-2] / plan.sizes,
            "frozen": totals[-1] / plan.sizes,
        }
        self._series = np.array([known[name] for name in quantities.series])
        self._series[:, self._absent] = np.nan
        self._keep(self)

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps until quantiles are taken."""
        return sum(x.nbytes for x in vars(self).values() if isinstance(x, np.ndarray))

    def first_bad(self) -> NonFinite | None:
        """Return the first NaN or infinity."""
        if not self._bad:
            return None
        quantity, position = min(self._bad)
        name, index = self._plan.parameter_at(position)
        return NonFinite(self._step, name, index, self._plan.quantities.read[quantity])

    @np.errstate(all="ignore")  # infinities and NaN pass through, as in the step
    def sample(self) -> Sample:
        """Take the quantiles of what was read."""
        plan = self._plan
        shape = len(plan.rows), len(plan.quantities.quantiles), len(LEVELS)
        quantiles = np.empty(shape, np.float32)
        for rows, samples, many in plan.runs():
            taken = self._taken[:, samples].reshape(len(self._taken), -1, many)
            values = np.sort(self._derived(taken, self._rates[rows]), axis=-1)
            picked = [max(0, math.ceil(many * level) - 1) for level in LEVELS]
            found = values[:, :, picked]
            found[np.isnan(values[:, :, -1])] = np.nan  # NaN is sorted to the end
            quantiles[rows] = found.swapaxes(0, 1)
        return Sample(self._step, quantiles, self._norms.T, self._series.T)

    def _derived(self, taken: Float32, rates: Float64) -> Float32:
        """Return all quantities of some rows: shape (quantities, rows, sampled)."""
        quantities = self._plan.quantities
        _, lr_t, bias1, bias2, eps = rates.T.astype(np.float32)[..., None]
        found = [*taken[:-1], np.abs(taken[-1])]
        found += [np.sqrt(taken[quantities.read.index(slot)]) for slot in quantities.squares]
        if quantities.squares:
            found.append(lr_t / (found[-1] + eps))
        if quantities.corrected:
            m, root = taken[quantities.read.index("m")], found[len(taken)]
            ratio = m / root * (np.sqrt(bias2) / bias1)
            ratio[m == 0] = 0
            found.append(ratio)
        return np.array(found)


@lru_cache
def _smallest(eps: np.float32) -> np.float32:
    """Return the smallest float32 whose square root is not less than eps."""
    v, zero, infinity = eps * eps, np.float32(0), np.float32(np.inf)
    while np.sqrt(v) < eps:
        v = np.nextafter(v, infinity)
    while v > 0 and np.sqrt(np.nextafter(v, zero)) >= eps:
        v = np.nextafter(v, zero)
    return v
