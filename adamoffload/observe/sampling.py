"""What a `Probe` reads in one step.

On a sampled step the threads that run the rule sum up what they update while they have it in a
cache (`Kernel.watch`). Sums are over all coordinates, quantiles over those that a row samples
(`adamoffload.observe.rows`).
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
from adamoffload.engine.sums import NO_LIMIT
from adamoffload.engine.team import Workers
from adamoffload.observe.quantities import Rates, rates
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

_SMALLEST = np.finfo(np.float32).smallest_subnormal  # only 0 is less


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
    bad : NonFinite or None
        The first NaN or infinity.
    """

    step: int
    quantiles: Float32
    norms: Float64
    series: Float64
    bad: NonFinite | None


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
        self._absent = [gradient is None for gradient in step.gradients]
        # All parameters of a row share their rates, unless they were left out in different steps.
        table = [rates(plan.rule, plan.quantities, c) for c in step.coefficients]
        self._rates = np.array([table[step.classes[i]] for i in plan.firsts], np.float64)
        self._taken = np.empty((len(plan.quantities.read), len(plan.positions)), np.float32)
        self._sums: list[tuple[int, Any, Any, Float64]] = []

    def update(
        self, workers: Workers, kernel: Kernel, start: int, arrays: Arrays, spans: Spans
    ) -> None:
        """Run a kernel over a chunk, and read before and after."""
        limits = np.full((len(self._rates), 1 + len(arrays)), NO_LIMIT, np.float32)
        roots = self._plan.quantities.roots
        limits[:, roots] = np.maximum(self._rates[:, 4:] ** 2, _SMALLEST)  # what v is for epsilon
        gradient, *slots = arrays[: len(self._taken) - 1]
        columns = [*range(1 + len(slots)), -1]  # and not of what else the kernel needs

        def read(block: Spans) -> None:
            """Run a kernel over a block, and read before and after."""
            scratch = workers.scratch(kernel)
            for first, last, values in block:
                rows, ends, samples, at = self._plan.window(start + first, start + last)
                at += first
                self._taken[0, samples] = gradient[at]
                here = [x[first:last] for x in arrays]
                sums = kernel.watch(here, values, scratch, ends, limits[rows])
                for number, x in enumerate([*slots, gradient], 1):
                    self._taken[number, samples] = x[at]
                part = (start + first, rows, ends, sums[:, columns])
                self._sums.append(part)  # which is atomic

        workers.run(read, workers.blocks(spans, kernel.block_size))

    def close(self) -> None:
        """Keep what was read: the step has succeeded."""
        self._before = self._squared_norms()
        self._keep(self)

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps until it is summed up."""
        sums = sum(sums.nbytes for *_, sums in self._sums)
        return self._taken.nbytes + self._rates.nbytes + self._before.nbytes + sums

    @np.errstate(all="ignore")  # infinities and NaN pass through, as in the step
    def sample(self) -> Sample:
        """Sum up, and take quantiles: what takes longer than reading, and can wait."""
        plan, names = self._plan, self._plan.quantities
        self._sums.sort(key=itemgetter(0))  # threads come in any order
        _, rows, _, parts = zip(*self._sums, strict=True)
        sums = np.zeros((len(plan.names), len(names.read), 5))
        np.add.at(sums, np.concatenate(rows), np.concatenate(parts))
        bad = None if np.isfinite(sums[:, :, 0]).all() else self._first_bad()
        squares, totals, below, infinite, _ = np.moveaxis(sums, 2, 0)
        norms = np.sqrt(np.hstack([squares, totals[:, names.roots]]))
        last = names.roots[-1] if names.roots else 0
        known = {
            **dict(zip(Rates._fields, self._rates.T, strict=True)),
            "update_ratio": norms[:, 1 + len(names.slots)] / np.sqrt(plan.of_rows(self._before)),
            "eps_limited": below[:, last] / plan.sizes,
            "frozen": infinite[:, last] / plan.sizes,
        }
        series = np.array([known[name] for name in names.series]).T
        sample = Sample(self._step, self._quantiles(), norms, series, bad)
        for values in sample[1:4]:
            values[plan.of_rows(self._absent) > 0] = np.nan
        return sample

    def _first_bad(self) -> NonFinite:
        """Return the first NaN or infinity: of what is read first, at the first position."""
        found = []
        for start, _, ends, sums in self._sums:
            begins = [0, *ends.tolist()]
            for part, number in np.argwhere(~np.isfinite(sums[:, :, 0])).tolist():
                found.append((number, start + begins[part] + int(sums[part, number, 4])))
        number, position = min(found)
        name, index = self._plan.parameter_at(position)
        return NonFinite(self._step, name, index, self._plan.quantities.read[number])

    def _quantiles(self) -> Float32:
        plan = self._plan
        found = self._derived(self._taken[:, plan.by_row])
        quantiles = np.empty((len(plan.names), len(found), len(LEVELS)), np.float32)
        ends = np.cumsum(plan.sampled).tolist()
        for row, end, count in zip(quantiles, ends, plan.sampled.tolist(), strict=True):
            picked = [max(0, math.ceil(count * level) - 1) for level in LEVELS]
            row[:] = np.sort(found[:, end - count : end])[:, picked]
        quantiles[np.isnan(quantiles[:, :, -1])] = np.nan  # NaN is sorted to the end
        return quantiles

    def _derived(self, taken: Float32) -> Float32:
        """Return all quantities, computed from those that were read."""
        names = self._plan.quantities
        rates = np.repeat(self._rates.astype(np.float32), self._plan.sampled, axis=0)
        _, lr_t, bias1, bias2, eps = rates.T
        found = [*taken[:-1], np.abs(taken[-1]), *np.sqrt(taken[list(names.roots)])]
        if names.divides:
            found.append(lr_t / (found[-1] + eps))
        if names.corrected:
            m, v = taken[1 + names.slots.index("m")], taken[1 + names.slots.index("v")]
            ratio = m / np.sqrt(v) * (np.sqrt(bias2) / bias1)
            ratio[m == 0] = 0
            found.append(ratio)
        return np.array(found)
