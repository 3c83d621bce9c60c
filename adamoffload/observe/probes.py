"""`Probe`: watches what an optimizer does to each parameter, step by step.

Every so many steps it takes quantiles and norms of gradients, moments and updates; the optimizer
calls it only then. A few coordinates can be traced through every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from os import PathLike
from typing import Any

import numpy as np

from adamoffload.arguments import choice, describe, positive_integer
from adamoffload.engine.kernel import Kernel
from adamoffload.observe.rows import Layout, Subject
from adamoffload.observe.sampling import (
    LEVELS,
    UNSEEN,
    NonFinite,
    Observation,
    Observer,
    ReadingKernel,
    Sample,
    SquaredNorms,
    Tracing,
)
from adamoffload.observe.tables import save
from adamoffload.plan.step import Step

__all__ = ["LEVELS", "NO_PROBE", "QUANTITIES", "SERIES", "NonFinite", "NullProbe", "Probe"]

QUANTITIES = ("gradient", "m", "v", "sqrt_v", "step_size", "rate", "ratio")
"""What quantiles are taken of."""

SERIES = ("lr", "lr_t", "bias1", "bias2", "update_ratio", "eps_limited", "frozen")
"""What is one number a sampled step."""

_SUMMED = ("gradient", "m", "v", "step_size", "sqrt_v")  # the columns of Sample.sums
_TAKEN = ("gradient", "m", "v", "step_size", "rate", "ratio")  # the columns of Sample.quantiles
_PENDING_BYTES = 32 << 20
_TRACE = np.dtype(
    [
        ("step", np.int64),
        ("gradient", np.float32),
        ("m", np.float32),
        ("v", np.float32),
        ("delta", np.float32),
    ]
)

Float64 = np.ndarray[Any, np.dtype[np.float64]]


class Probe:
    r"""Samples gradients, moments and updates of each parameter, or group.

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
    What is sampled, with m and v as they are after the step and all of it on the host:

    =============  =============================================================================
    ``gradient``   as it reaches Adam: decayed, unscaled
    ``m``, ``v``   the moments
    ``sqrt_v``     the root of v
    ``step_size``  the update's absolute value
    ``rate``       :math:`\alpha_t / (\sqrt{v} + \epsilon)`: each coordinate's own learning rate
    ``ratio``      :math:`\hat m / \sqrt{\hat v}`, both bias-corrected: how well the signs of past
                   gradients agree; in the first step it is the gradient's sign. 0 where m is 0
    =============  =============================================================================

    and, as one number each: ``lr``; ``lr_t``, with the bias corrections; ``bias1`` and ``bias2``,
    :math:`1 - \beta^t`; ``update_ratio``, the norm of the update over the parameter's before it;
    ``eps_limited``, the share of coordinates whose root of v is below epsilon; ``frozen``, the
    share whose v is infinite, since the square of a gradient overflowed: they never move again.

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
        self._layout: Layout | None = None
        self._rows: dict[str, int] = {}
        self._pending: list[Observation] = []
        self._samples: list[Sample] = []
        self._traces: list[tuple[int, Any]] = []
        self._first_nonfinite: NonFinite | None = None
        self._kernels: dict[Kernel, ReadingKernel] = {}

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
        if self._layout is None:
            return {}
        rows = self._layout.rows
        return {name: rows[k].stop - rows[k].start for name, k in self._rows.items()}

    @property
    def first_nonfinite(self) -> NonFinite | None:
        """The first NaN or infinity seen in a sampled step."""
        return self._first_nonfinite

    def quantiles(self, quantity: str, name: str) -> Float64:
        """Return quantiles of one of `QUANTITIES` at `LEVELS`: shape (samples, 7), float64.

        Raises
        ------
        ValueError
            If the quantity or the name is unknown.
        """
        row = self._row(name)
        known = choice("Probe", "quantity", quantity, QUANTITIES)
        column = _TAKEN.index("v" if known == "sqrt_v" else known)
        values = np.array([s.quantiles[row, column] for s in self._summed_up()], np.float32)
        if known == "sqrt_v":
            values = np.sqrt(values)
        return values.reshape(-1, len(LEVELS)).astype(np.float64)

    def norm(self, quantity: str, name: str) -> Float64:
        """Return the Euclidean norm over all coordinates: shape (samples,), float64.

        Parameters
        ----------
        quantity : str
            ``"gradient"``, ``"m"``, ``"v"``, ``"sqrt_v"`` or ``"step_size"``.
        name : str
            One of `names`.

        Raises
        ------
        ValueError
            If the quantity or the name is unknown.
        """
        row = self._row(name)
        column = _SUMMED.index(choice("Probe", "quantity", quantity, _SUMMED))
        return np.sqrt(np.array([s.sums[row, column] for s in self._summed_up()], np.float64))

    def rms(self, quantity: str, name: str) -> Float64:
        """Return the root mean square over all coordinates: shape (samples,), float64."""
        root: float = self.sizes[name] ** 0.5 if name in self._rows else 1.0
        return self.norm(quantity, name) / root

    def series(self, what: str, name: str) -> Float64:
        """Return one of `SERIES`: shape (samples,), float64.

        Raises
        ------
        ValueError
            If it or the name is unknown.
        """
        row = self._row(name)
        column = SERIES.index(choice("Probe", "what", what, SERIES))
        return np.array([s.series[row, column] for s in self._summed_up()], np.float64)

    def trace(self, name: str, index: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Return a coordinate in every step: fields step, gradient, m, v and delta.

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
        return np.array([(step, *values[:, k]) for step, values in self._traces], _TRACE)

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

    def attach(self, subject: Subject) -> None:
        """Prepare to watch an optimizer.

        Raises
        ------
        ValueError
            If it watches another already, or a coordinate is none of its.
        """
        if self._layout is not None:
            raise ValueError("Probe: it watches an optimizer already; make one for each")
        sizes = {n: x.size for n, x in zip(subject.names, subject.parameters, strict=True)}
        for name, index in self.coordinates:
            if index >= sizes.get(name, 0):
                raise ValueError(
                    f"Probe: coordinates has {(name, index)!r}, but "
                    + (f"{name!r} has {sizes[name]} elements" if name in sizes else "no such name")
                )
        layout = Layout(subject, self.by, self.sample, self.coordinates)
        self._norms = SquaredNorms(subject.backend, subject.parameters)  # the device may be full
        rows = {row.name: row.index for row in layout.rows}
        names = subject.names if self.by == "parameter" else tuple(rows)
        self._rows = {name: rows[name] for name in names}
        self._layout = layout

    def observe(self, step: Step) -> Observer:
        """Return what reads a step while it runs; call it before any parameter changes."""
        assert self._layout is not None
        observer = UNSEEN
        if (step.number - 1) % self.every == 0:
            squares = self._norms.start()
            observer = Observation(self._layout, self._reading, step, squares, self._keep)
        if self.coordinates:
            keep = partial(self._keep_trace, step.number)
            observer = Tracing(observer, self._layout, len(self.coordinates), keep)
        return observer

    def _reading(self, kernel: Kernel) -> ReadingKernel:
        if kernel not in self._kernels:  # one for good: threads keep their scratch by kernel
            self._kernels[kernel] = ReadingKernel(kernel)
        return self._kernels[kernel]

    def _keep(self, observation: Observation) -> None:
        self._pending.append(observation)
        self._first_nonfinite = self._first_nonfinite or observation.first_bad()
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

    # -- reading ------------------------------------------------------------------------------

    def _row(self, name: str) -> int:
        if name not in self._rows:
            seen = ", ".join(list(self._rows)[:10]) or "none"
            raise ValueError(f"Probe: no parameter {name!r} was seen; seen: {seen}")
        return self._rows[name]

    def _arrays(self) -> dict[str, Any]:
        rows = list(self._rows.values())
        samples = self._summed_up()
        shape = len(samples), len(rows), len(_TAKEN), len(LEVELS)
        taken = np.array([s.quantiles[rows] for s in samples], np.float32).reshape(shape)
        sums = np.array([s.sums[rows] for s in samples], np.float64)
        return {
            "steps": self.steps,
            "names": np.array(self.names, np.str_),
            "sizes": np.array(list(self.sizes.values()), np.int64),
            "levels": np.array(LEVELS),
            "quantities": np.array(QUANTITIES),
            "quantiles": np.concatenate(
                [taken[:, :, :3], np.sqrt(taken[:, :, 2:3]), taken[:, :, 3:]], axis=2
            ),
            "norm_quantities": np.array(_SUMMED),
            "norms": np.sqrt(sums.reshape(len(samples), len(rows), len(_SUMMED))),
            "series_names": np.array(SERIES),
            "series": np.array([s.series[rows] for s in samples], np.float64).reshape(
                len(samples), len(rows), len(SERIES)
            ),
            "trace_names": np.array([name for name, _ in self.coordinates], np.str_),
            "trace_indices": np.array([index for _, index in self.coordinates], np.int64),
            "traces": np.array([self.trace(*pair) for pair in self.coordinates], _TRACE).reshape(
                len(self.coordinates), len(self._traces)
            ),
        }

    def _long(self) -> Iterator[tuple[int, str, str, str, float]]:
        for sample in self._summed_up():
            for name, row in self._rows.items():
                for what, value in zip(SERIES, sample.series[row].tolist(), strict=True):
                    yield sample.step, name, what, "value", value
                for what, square in zip(_SUMMED, sample.sums[row].tolist(), strict=True):
                    yield sample.step, name, what, "norm", square**0.5
                for what, values in zip(_TAKEN, sample.quantiles[row].tolist(), strict=True):
                    for level, value in zip(LEVELS, values, strict=True):
                        yield sample.step, name, what, f"quantile {level}", value

    def __bool__(self) -> bool:
        return True


class NullProbe(Probe):
    """A probe that watches nothing: what an optimizer has when none was given."""

    def attach(self, subject: Subject) -> None:
        """Do nothing."""

    def observe(self, step: Step) -> Observer:  # noqa: ARG002
        """Return what does nothing."""
        return UNSEEN


NO_PROBE = NullProbe()
"""The one `NullProbe` that everything without a probe shares."""


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
