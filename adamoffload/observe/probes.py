"""`Probe`: watches what an optimizer does to each parameter, step by step.

Every so many steps it takes quantiles and norms of gradients, slots and updates; the optimizer
calls it only then. A few coordinates can be traced through every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from html import escape
from os import PathLike
from typing import Any

import numpy as np

from adamoffload.arguments import choice, describe, positive_integer
from adamoffload.engine.kernel import Kernel
from adamoffload.observe.quantities import Quantities
from adamoffload.observe.rows import SamplePlan, Watched
from adamoffload.observe.sampling import (
    LEVELS,
    UNSEEN,
    NonFinite,
    Observation,
    Observer,
    Sample,
    SquaredNorms,
    Tracing,
)
from adamoffload.observe.tables import save
from adamoffload.plan.step import Step

__all__ = ["LEVELS", "NO_PROBE", "NonFinite", "NullProbe", "Probe"]

_PENDING_BYTES = 32 << 20
_SHOWN = 20  # rows of a table in a notebook

Float64 = np.ndarray[Any, np.dtype[np.float64]]


class Probe:
    r"""Samples gradients, slots and updates of each parameter, or group.

    Pass it to ``AdamOffload(..., probe=probe)``; it watches that optimizer alone.

    Parameters
    ----------
    every : int
        Sample each ``every``-th step, beginning with the first.
    by : str
        ``"parameter"``, or ``"group"``: then all parameters that share their hyper-parameters are
        one row, named ``"group 0"`` and so on, numbered as they come in update order.
    sample : int
        Quantiles are taken over this many coordinates of a row at most: evenly spread, always the
        same ones, and all of them if the row has no more. With 512 of them, a quartile found is
        between the true 21 % and 29 % in 19 of 20 cases.
    coordinates : iterable of (str, int)
        Pairs of a parameter's name and a flat index, to be traced through every step.

    Raises
    ------
    TypeError, ValueError
        If an argument is no such thing.

    Notes
    -----
    What is sampled (`quantities`), with slots as they are after the step:

    =============  =============================================================================
    ``gradient``   as it reaches the rule: decayed, unscaled
    ``m``, ...     each slot of the rule by its name: Adam has m and v
    ``step_size``  the update's absolute value
    ``sqrt_v``     the root of each slot that holds squares (``Rule.squares``)
    ``rate``       :math:`\alpha_t / (\sqrt{v} + \epsilon)`: each coordinate's own learning rate. A
                   rule that corrects the bias of v (`AdamW`) has a smaller :math:`\epsilon` in this
                   formula while t is small; AMSGrad divides by the root of ``v_max``
    ``ratio``      :math:`\hat m / \sqrt{\hat v}`, both bias-corrected: how well the signs of past
                   gradients agree; in the first step it is the gradient's sign. 0 where m is 0
    =============  =============================================================================

    As one number each (`numbers`) there are ``lr``; ``lr_t``, with the bias corrections; ``bias1``
    and ``bias2``, :math:`1 - \beta^t`; ``update_ratio``, the norm of the update over that of the
    parameter before it; ``eps_limited``, the share of coordinates whose root of v is below epsilon;
    ``frozen``, the share whose v is infinite, since the square of a gradient overflowed: they never
    move again.

    What depends on the formula of the update is there for rules whose formula is known: ``rate``
    and the two shares for `rules.Adam`, `AdamW`, `AMSGrad` and `Adagrad`; ``ratio``, ``lr_t`` and
    the biases for the first three. A parameter that a sampled step leaves alone, since it has no
    gradient, has NaN in its row, and so has its group.

    Norms, shares and the search for NaN are over all coordinates, right to 1e-5. A quantile is a
    value that occurs: the smallest that at least this share of the sample does not exceed. With a
    NaN in the sample it is NaN.

    The norm of the parameters is taken on the device, in float32, when a sampled step begins; 4
    bytes for each parameter come down. `Backend.traffic` counts them, a ledger, which records the
    step's own hops, does not. Reading happens inside the ``update`` hop: there a sampled step takes
    longer.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.ones(4, np.float32)), name="w")
    >>> probe = ao.Probe()
    >>> opt = ao.AdamOffload([w], learning_rate=0.5, probe=probe)
    >>> opt((device.asarray(np.full(4, 2.0, np.float32)),))
    (True,)
    >>> probe.steps, probe.rms("gradient", "w"), probe.rms("step_size", "w").round(4)
    (array([1]), array([2.]), array([0.5]))
    """

    def __init__(
        self,
        every: int = 1,
        *,
        by: str = "parameter",
        sample: int = 512,
        coordinates: Iterable[tuple[str, int]] = (),
    ) -> None:
        self.every = positive_integer("Probe", "every", every)
        self.by = choice("Probe", "by", by, ("parameter", "group"))
        self.sample = positive_integer("Probe", "sample", sample)
        self.coordinates = tuple(_coordinate(pair) for pair in coordinates)
        self._plan: SamplePlan | None = None  # while it watches
        self._norms: SquaredNorms | None = None
        self._quantities = Quantities()
        self._rows: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._pending: list[Observation] = []
        self._samples: list[Sample] = []
        self._traces: list[tuple[int, Any]] = []

    @property
    def steps(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The sampled steps, counted from 1: shape (samples,), int64."""
        return np.array([sample.step for sample in self._summed_up()], np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rows: the parameters, or ``"group 0"`` and so on."""
        return tuple(self._rows)

    @property
    def sizes(self) -> dict[str, int]:
        """Elements of each row."""
        return dict(self._sizes)

    @property
    def quantities(self) -> tuple[str, ...]:
        """What `quantiles` are taken of."""
        return self._quantities.quantiles

    @property
    def norm_quantities(self) -> tuple[str, ...]:
        """What `norm` and `rms` know."""
        return self._quantities.norms

    @property
    def numbers(self) -> tuple[str, ...]:
        """What `series` knows."""
        return self._quantities.series

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots of the optimizer's rule."""
        return self._quantities.slots

    @property
    def first_nonfinite(self) -> NonFinite | None:
        """The first NaN or infinity seen in a sampled step."""
        return next((sample.bad for sample in self._summed_up() if sample.bad), None)

    def quantiles(self, quantity: str, name: str) -> Float64:
        """Return quantiles of one of `quantities` at `LEVELS`: shape (samples, 7), float64.

        Raises
        ------
        ValueError
            If the quantity or the name is unknown.
        """
        row, column = self._row(name), self._column("quantity", quantity, self.quantities)
        values = [sample.quantiles[row, column] for sample in self._summed_up()]
        return np.array(values, np.float64).reshape(-1, len(LEVELS))

    def norm(self, quantity: str, name: str) -> Float64:
        """Return the Euclidean norm over all coordinates: shape (samples,), float64.

        Parameters
        ----------
        quantity : str
            One of `norm_quantities`.
        name : str
            One of `names`.

        Raises
        ------
        ValueError
            If the quantity or the name is unknown.
        """
        row, column = self._row(name), self._column("quantity", quantity, self.norm_quantities)
        return np.array([sample.norms[row, column] for sample in self._summed_up()], np.float64)

    def rms(self, quantity: str, name: str) -> Float64:
        """Return the root mean square over all coordinates: shape (samples,), float64."""
        norms = self.norm(quantity, name)
        return np.asarray(norms / np.sqrt(self._sizes[name]))

    def series(self, what: str, name: str) -> Float64:
        """Return one of `numbers`: shape (samples,), float64.

        Raises
        ------
        ValueError
            If it or the name is unknown.
        """
        row, column = self._row(name), self._column("what", what, self.numbers)
        return np.array([sample.series[row, column] for sample in self._summed_up()], np.float64)

    def trace(self, name: str, index: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Return a coordinate in every step: fields step, gradient, the slots, and delta.

        Where a step left the parameter alone, they are NaN.

        Raises
        ------
        ValueError
            If it is not among `coordinates`.
        """
        if (name, index) not in self.coordinates:
            raise ValueError(
                f"Probe: {(name, index)!r} is not traced; pass it in coordinates=, which holds "
                f"{self.coordinates!r}"
            )
        k = self.coordinates.index((name, index))
        rows = [(step, *values[:, k]) for step, values in self._traces]
        return np.array(rows, self._trace_type())

    def to_array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Return all but the traces, a row for each number; ``pandas.DataFrame`` takes it.

        Fields: step, name, quantity, statistic (``"value"``, ``"norm"`` or ``"quantile 0.5"`` and
        so on) and value.
        """
        rows, longest = list(self._long()), max(map(len, self._rows), default=1)
        fields = [("step", "i8"), ("name", f"U{longest}"), ("quantity", "U16")]
        return np.array(rows, [*fields, ("statistic", "U16"), ("value", "f8")])

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to ``.npz``, or all but the traces as a long table to ``.csv``.

        The archive's arrays are ``quantiles`` (samples, names, quantities, levels), ``norms``
        (samples, names, norm_quantities), ``series`` (samples, names, series_names) and ``traces``
        (coordinates, steps), beside those that name their axes.

        Raises
        ------
        ValueError
            If the path ends otherwise.
        """
        header = ("step", "name", "quantity", "statistic", "value")
        save("Probe", path, self._arrays, header, self._long)

    # -- called by the optimizer --------------------------------------------------------------

    def attach(self, watched: Watched) -> None:
        """Prepare to watch an optimizer.

        Raises
        ------
        ValueError
            If it watches another already, or a coordinate is none of its.
        """
        if self._rows:
            raise ValueError("Probe: it watches an optimizer already; make one for each")
        sizes = {n: x.size for n, x in zip(watched.names, watched.parameters, strict=True)}
        for name, index in self.coordinates:
            if index >= sizes.get(name, 0):
                raise ValueError(
                    f"Probe: coordinates has {(name, index)!r}, but "
                    + (f"{name!r} has {sizes[name]} elements" if name in sizes else "no such name")
                )
        plan = SamplePlan(watched, self.by, self.sample)
        for kernel in watched.kernels:  # what must be compiled, before a step holds any memory
            _rehearse(kernel)
        self._norms = SquaredNorms(watched.backend, watched.parameters)  # the device may be full
        self._rows = {name: row for row, name in enumerate(plan.names)}
        self._sizes = dict(zip(plan.names, plan.sizes.tolist(), strict=True))
        self._quantities = plan.quantities
        self._traced = np.array([plan.starts[name] + index for name, index in self.coordinates])
        self._plan = plan

    def observe(self, step: Step) -> Observer:
        """Return what runs the updates of a step and reads; call it before any parameter changes.

        Parameters
        ----------
        step : Step
            What it computes with.
        """
        assert self._plan is not None
        assert self._norms is not None
        observer = UNSEEN
        if (step.number - 1) % self.every == 0:
            observer = Observation(self._plan, step, self._norms.start(), self._keep)
        if self.coordinates:
            keep = partial(self._keep_trace, step.number)
            observer = Tracing(observer, self._traced, len(self.slots), keep)
        return observer

    def _keep(self, observation: Observation) -> None:
        self._pending.append(observation)
        if len(self._pending) * observation.nbytes > _PENDING_BYTES:
            self._summed_up()

    def _summed_up(self) -> list[Sample]:
        """Return the samples; quantiles take longer than reading, so they wait for this."""
        while self._pending:
            self._samples.append(self._pending[0].sample())
            del self._pending[0]
        return self._samples

    def _keep_trace(self, step: int, values: Any) -> None:
        self._traces.append((step, values))

    def __getstate__(self) -> dict[str, Any]:
        """Return what was read, without the optimizer, for pickles and copies."""
        self._summed_up()
        return {**vars(self), "_plan": None, "_norms": None}

    # -- reading ------------------------------------------------------------------------------

    def _row(self, name: str) -> int:
        if name not in self._rows:
            seen = ", ".join(list(self._rows)[:10]) or "none"
            raise ValueError(f"Probe: no parameter {name!r} was seen; seen: {seen}")
        return self._rows[name]

    def _column(self, what: str, wanted: object, known: tuple[str, ...]) -> int:
        return known.index(choice("Probe", what, wanted, known))

    def _trace_type(self) -> list[tuple[str, Any]]:
        fields = ("gradient", *self.slots, "delta")
        return [("step", np.int64), *((field, np.float32) for field in fields)]

    def _arrays(self) -> dict[str, Any]:
        samples = self._summed_up()

        def stacked(arrays: list[Any], *shape: int) -> Any:
            return np.array(arrays).reshape(len(samples), len(self._rows), *shape)

        traces = [self.trace(*pair) for pair in self.coordinates]
        return {
            "steps": self.steps,
            "names": np.array(self.names, np.str_),
            "sizes": np.array(list(self.sizes.values()), np.int64),
            "levels": np.array(LEVELS),
            "quantities": np.array(self.quantities),
            "quantiles": stacked([s.quantiles for s in samples], len(self.quantities), len(LEVELS)),
            "norm_quantities": np.array(self.norm_quantities),
            "norms": stacked([s.norms for s in samples], len(self.norm_quantities)),
            "series_names": np.array(self.numbers),
            "series": stacked([s.series for s in samples], len(self.numbers)),
            "trace_names": np.array([name for name, _ in self.coordinates], np.str_),
            "trace_indices": np.array([index for _, index in self.coordinates], np.int64),
            "traces": np.array(traces, self._trace_type()).reshape(len(traces), len(self._traces)),
        }

    def _long(self) -> Iterator[tuple[int, str, str, str, float]]:
        statistics = [f"quantile {level}" for level in LEVELS]
        for sample in self._summed_up():
            for name, row in self._rows.items():
                for what, value in zip(self.numbers, sample.series[row].tolist(), strict=True):
                    yield sample.step, name, what, "value", value
                norms = sample.norms[row].tolist()
                for what, value in zip(self.norm_quantities, norms, strict=True):
                    yield sample.step, name, what, "norm", value
                quantiles = sample.quantiles[row].tolist()
                for what, values in zip(self.quantities, quantiles, strict=True):
                    for statistic, value in zip(statistics, values, strict=True):
                        yield sample.step, name, what, statistic, value

    def __repr__(self) -> str:
        return (
            f"Probe(every={self.every}, by={self.by!r}, sample={self.sample}): "
            f"{len(self.steps)} samples of {len(self._rows)} {self.by}s"
        )

    def _repr_html_(self) -> str:
        """Return a table of the last sample, for notebooks."""
        if not len(self.steps):
            return f"<p>{escape(repr(self))}</p>"
        head = [self.by, "elements", *(f"RMS {what}" for what in self.norm_quantities)]
        lines = [f"<tr>{''.join(f'<th>{text}</th>' for text in head)}</tr>"]
        for name in self.names[:_SHOWN]:
            values = [f"{self.rms(what, name)[-1]:.3g}" for what in self.norm_quantities]
            cells = [escape(name), f"{self.sizes[name]:,}", *values]
            lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        if len(self.names) > _SHOWN:
            lines.append(f"<tr><td>and {len(self.names) - _SHOWN:,} more</td></tr>")
        caption = f"step {self.steps[-1]}, the last of {len(self.steps)} sampled"
        return f"<table><caption>{caption}</caption>{''.join(lines)}</table>"

    def __bool__(self) -> bool:
        return True


class NullProbe(Probe):
    """A probe that watches nothing: what an optimizer has when none was given."""

    def attach(self, watched: Watched) -> None:
        """Do nothing."""

    def observe(self, step: Step) -> Observer:  # noqa: ARG002
        """Return what does nothing."""
        return UNSEEN


NO_PROBE = NullProbe()
"""The one `NullProbe` that everything without a probe shares."""


def _rehearse(kernel: Kernel) -> None:
    """Run a kernel over nothing."""
    count, names = len(kernel.program.arrays), kernel.program.scalars
    values = kernel.program.bind(dict.fromkeys(names, np.float32(1)))
    limits = np.zeros((0, count + 1), np.float32)
    arrays = [np.zeros(0, np.float32)] * count
    kernel.watch(arrays, values, kernel.scratch(), np.zeros(0, np.intp), limits)


def _coordinate(pair: Any) -> tuple[str, int]:
    try:
        name, index = pair
    except (TypeError, ValueError):
        name, index = None, None
    if not isinstance(name, str) or not isinstance(index, int | np.integer) or index < 0:
        raise TypeError(
            f"Probe: coordinates must be pairs of a parameter's name and a flat index >= 0, got "
            f"{describe(pair)}"
        )
    return name, int(index)
