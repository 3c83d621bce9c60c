"""`AdamOffload`: Adam whose moments and arithmetic live on the host.

This module decides what a step does: it checks the gradients, reads the hyper-parameters of the
step, and hands the work to the pipeline. It contains no mathematics of Adam (that is in
`adamoffload.adam`) and nothing of any device (`adamoffload.backend`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from adamoffload.adam import FLUSH_INTERVAL, adam, step_size
from adamoffload.arena import Arena, Chunk, plan_chunks
from adamoffload.arguments import (
    describe,
    flag,
    float32,
    floating,
    floating_type,
    number,
    positive_integer,
)
from adamoffload.backend import Array
from adamoffload.blocks import Team, kernel_type
from adamoffload.gradients import Gradients, centralized
from adamoffload.groups import FixedRate, read_decay, read_parameters, read_rate
from adamoffload.ledger import NO_LEDGER, Ledger
from adamoffload.parameter import Parameter
from adamoffload.pipeline import Pipeline, Work
from adamoffload.probes import Probe
from adamoffload.program import Program, trace

__all__ = ["AdamOffload", "OffloadMemory"]

_OWNER = "AdamOffload"
_ONE = np.float32(1)


class OffloadMemory(NamedTuple):
    """Where the bytes of an offloaded training run are, by kind.

    Attributes
    ----------
    parameters, gradients : int
        Bytes on the device: one float32 each for every parameter.
    ring : int
        Bytes of staging slots on the device; as many are pinned on the host.
    moments : int
        Bytes on the host: two float32 for every parameter.
    """

    parameters: int
    gradients: int
    ring: int
    moments: int

    @property
    def device(self) -> int:
        """Bytes on the device."""
        return self.parameters + self.gradients + self.ring

    @property
    def host(self) -> int:
        """Bytes on the host."""
        return self.moments + self.ring


class AdamOffload:
    r"""Adam with moments and arithmetic on the host, parameters and gradients on the device.

    Each call brings the gradients down to the host, runs Adam there, sends the updates up and adds
    them to the parameters: 4 bytes a parameter in each direction. All arithmetic is float32, and
    the result does not depend, bitwise, on the size of the chunks, the threads or the engine.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        What to optimize: float32, on one device. A dict is a group, with the keys ``params`` and,
        where it differs from the defaults, ``lr``, ``weight_decay`` and ``grad_centralization``
        (bool); one dict may hold ``order_params`` alone, a list of all parameters in the order in
        which gradients will come.
    learning_rate : float, iterable of float, or LearningRateSchedule
        A number >= 0, a table with one number a step, or a schedule.
    beta1, beta2 : float
        Decay rates of the moments, in (0, 1), also after rounding to float32 (which may give 0).
    eps : float
        Added to the square root of the second moment; > 0. It is not bias-corrected.
    use_locking : bool
        Serialise calls that come from several threads.
    use_nesterov : bool
        Use the look-ahead variant of the rule.
    weight_decay : float or callable
        L2 decay: this times the parameter is added to its gradient. A number >= 0 or a callable of
        the 0-based step. Without groups, parameters with ``beta`` or ``gamma`` in their name are
        exempt.
    loss_scale : float
        What the loss was multiplied by; gradients are divided by it. > 0.
    ledger : Ledger, optional
        Records every hop.
    probe : Probe, optional
        Samples gradients, moments and updates.
    chunk_bytes : int
        Bytes that cross the link at once. The ring takes three times that on the device, and on
        the host, or less for a small model.
    threads : int, optional
        Threads that share the arithmetic; as many as the process may use cores, if left out.
    engine : str
        ``"numpy"``: ufuncs on blocks. ``"numba"``: one compiled loop, which needs the extra
        ``fast``. ``"auto"``: the second if it is installed. The results are the same, bitwise.

    Raises
    ------
    TypeError, ValueError, KeyError, RuntimeError, AttributeError
        If an argument is wrong; nothing is constructed.
    ResidencyError
        If a parameter is not on a device, or they are on several.
    DeviceMemoryError
        If the ring does not fit on the device.

    Notes
    -----
    A step computes, with w the parameter, g its gradient, s the loss scale and d the decay:

    1. on the device: :math:`g \leftarrow (g + d s w) / s`; in groups with gradient centralization,
       the mean over all axes but the first is taken from :math:`g + d s w`, for parameters of two
       dimensions and more (Yong et al., arXiv:2004.01461, eq. 1);
    2. on the host: `adamoffload.adam.adam`;
    3. on the device: :math:`w \leftarrow w + \delta`.

    References
    ----------
    D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980,
    Algorithm 1. J. Ren et al., "ZeRO-Offload", arXiv:2101.06840, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.array([1.0, 2.0], np.float32)), name="w")
    >>> opt = ao.AdamOffload([w], learning_rate=0.1)
    >>> opt((device.asarray(np.array([0.5, -3.0], np.float32)),))
    (True,)
    >>> device.asnumpy(w.data).round(4)
    array([0.9, 2.1], dtype=float32)
    >>> opt.moment1["w"].round(4)
    array([ 0.05, -0.3 ], dtype=float32)
    """

    def __init__(
        self,
        params: Any,
        learning_rate: Any = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        use_locking: bool = False,
        use_nesterov: bool = False,
        weight_decay: Any = 0.0,
        loss_scale: float = 1.0,
        *,
        ledger: Ledger | None = None,
        probe: Probe | None = None,
        chunk_bytes: int = 4 << 20,
        threads: int | None = None,
        engine: str = "auto",
    ) -> None:
        self._loss_scale, self._unscale = _read_loss_scale(loss_scale)
        self._rate = read_rate(_OWNER, learning_rate)
        self._decay = read_decay(_OWNER, weight_decay)
        self._beta1, self._beta2, self._eps = _read_constants(beta1, beta2, eps)
        locking = flag(_OWNER, "use_locking", use_locking)
        self._nesterov = flag(_OWNER, "use_nesterov", use_nesterov)
        _check_observer("ledger", ledger, Ledger)
        _check_observer("probe", probe, Probe)
        chunk_size = max(1, positive_integer(_OWNER, "chunk_bytes", chunk_bytes) // 4)
        self._team = Team(threads)
        kernel = kernel_type(_OWNER, engine)
        self.parameters, self._groups, self._grouped = read_parameters(
            _OWNER, params, self._rate, self._decay
        )
        self._distinct = tuple({id(group): group for group in self._groups}.values())
        self._rates = tuple({id(group.rate): group.rate for group in self._distinct}.values())
        self._centralized = [
            i
            for i, group in enumerate(self._groups)
            if group.centralize and self.parameters[i].ndim > 1
        ]
        for group in self._distinct:
            if not callable(group.decay.source):
                self._scaled(group.decay.at(0))  # refuses a product that float32 cannot hold

        self._probe = probe
        self._arena = Arena(self.parameters, self._groups)
        self._gradients = Gradients(_OWNER, self.parameters)
        self._backend = self._gradients.backend
        plan = plan_chunks(
            [p.size for p in self.parameters],
            self._arena.order,
            [group.rate for group in self._groups],
            chunk_size,
        )
        flat = [p.data.reshape(-1) for p in self.parameters]
        self._pipeline = Pipeline(self._backend, flat, plan, ledger or NO_LEDGER)
        self._kernels = [
            kernel(
                trace(
                    partial(adam, nesterov=self._nesterov, flush=flush),
                    arrays=("g", "m", "v"),
                    scalars=("lr_t", "beta1", "beta2", "eps"),
                )
            )
            for flush in (False, True)
        ]
        self._beta1_power = self._beta2_power = _ONE
        self._global_step = 0
        self._broken = ""
        self._lock = threading.Lock() if locking else nullcontext()
        self._unique = True

    # -- state --------------------------------------------------------------------------------

    @property
    def moment1(self) -> Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """First moments by parameter name: host views of the parameters' shapes."""
        return self._arena.moment1

    @property
    def moment2(self) -> Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """Second moments by parameter name: host views of the parameters' shapes."""
        return self._arena.moment2

    @property
    def beta1_power(self) -> np.float32:
        """Product of beta1 over all steps so far, accumulated in float32."""
        return self._beta1_power

    @property
    def beta2_power(self) -> np.float32:
        """Product of beta2 over all steps so far, accumulated in float32."""
        return self._beta2_power

    @property
    def global_step(self) -> int:
        """Number of completed steps."""
        return self._global_step

    @property
    def learning_rate(self) -> Any:
        """The default learning rate: a number, a table, or a schedule.

        A number can be replaced by another between steps; groups with an ``lr`` of their own keep
        it. Assigning over a table or a schedule raises `RuntimeError`.
        """
        return self._rate.source

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        if not isinstance(self._rate, FixedRate):
            raise RuntimeError(
                f"{_OWNER}: learning_rate is a table or schedule and cannot be assigned; "
                f"construct the optimizer with a number to change it between steps"
            )
        rate = read_rate(_OWNER, value)
        if not isinstance(rate, FixedRate):
            raise TypeError(f"{_OWNER}: learning_rate must be a number, got {describe(value)}")
        self._rate.value = rate.value

    @property
    def program(self) -> Program:
        """The update rule as it runs, compiled to in-place operations; ``print`` it."""
        return self._kernels[0].program

    @property
    def target(self) -> str:
        """Where Adam runs: always ``"CPU"``; assigning raises `NotImplementedError`."""
        return "CPU"

    @target.setter
    def target(self, value: object) -> None:
        raise NotImplementedError(f"{_OWNER}: target is 'CPU' and cannot be changed")

    @property
    def unique(self) -> bool:
        """Whether sparse gradients would have unique indices; kept for compatibility (bool)."""
        return self._unique

    @unique.setter
    def unique(self, value: bool) -> None:
        self._unique = flag(_OWNER, "unique", value)

    def get_lr(self) -> Any:
        """Return the learning rate that the next step will use.

        Returns
        -------
        float32, or tuple of float32
            One number, or one for each parameter when groups have rates of their own.
        """
        if all(group.rate is self._rate for group in self._groups):
            return self._rate.at(self._global_step)
        return tuple(group.rate.at(self._global_step) for group in self._groups)

    def get_weight_decay(self) -> Any:
        """Return the weight decay that the next step will use, before loss scaling.

        Returns
        -------
        float32, or tuple of float32
            One number, or with groups one for each parameter.
        """
        if not self._grouped:
            return self._decay.at(self._global_step)
        return tuple(group.decay.at(self._global_step) for group in self._groups)

    def get_lr_parameter(self, param: Any) -> Any:
        """Return the learning rate of a parameter as it was given: number, table or schedule.

        Parameters
        ----------
        param : Parameter, or list of Parameter
            Which ones; they must be this optimizer's own objects.

        Returns
        -------
        float32, ndarray, LearningRateSchedule, or a list of these

        Raises
        ------
        TypeError
            If `param` is neither a Parameter nor a list of them.
        ValueError
            If one is not optimized here.
        """
        if isinstance(param, list):
            return [self.get_lr_parameter(item) for item in param]
        if not isinstance(param, Parameter):
            raise TypeError(
                f"{_OWNER}: get_lr_parameter takes a Parameter or a list of them, got "
                f"{describe(param)}"
            )
        for own, group in zip(self.parameters, self._groups, strict=True):
            if own is param:
                return group.rate.source
        raise ValueError(f"{_OWNER}: get_lr_parameter: {param.name!r} is not optimized here")

    def memory(self) -> OffloadMemory:
        """Return where the bytes are; gradients are counted as if all of them exist."""
        weights = 4 * self._arena.size
        return OffloadMemory(weights, weights, self._pipeline.ring_bytes, 2 * weights)

    # -- a step -------------------------------------------------------------------------------

    def __call__(self, gradients: Any) -> tuple[bool, ...]:
        """Take one step, updating the parameters in place.

        Parameters
        ----------
        gradients : sequence of device array, or mapping from name to device array
            One for each of `parameters`, in that order; float32, of the parameter's shape. Any
            layout; one that is not C-contiguous is copied first, on the device.

        Returns
        -------
        tuple of True
            One for each parameter.

        Raises
        ------
        ValueError
            For a wrong number of gradients, a wrong name or shape, or a gradient that shares
            memory with a parameter. Nothing has changed.
        TypeError
            For a wrong container, object or dtype; `ResidencyError` for one that is elsewhere.
            Nothing has changed.
        RuntimeError
            If a table of learning rates has run out (nothing has changed), or an earlier step
            failed half-way.
        """
        with self._lock, np.errstate(all="ignore"):  # inf and NaN pass through, as numbers do
            if self._broken:
                raise RuntimeError(self._broken)
            flat = self._gradients.flat(gradients)
            step = self._global_step
            rates = {id(rate): rate.at(step) for rate in self._rates}
            scaled = {id(group): self._scaled(group.decay.at(step)) for group in self._distinct}
            decays = [scaled[id(group)] for group in self._groups]
            for i in self._centralized:
                flat[i] = centralized(flat[i], self.parameters[i], decays[i])
                decays[i] = np.float32(0)  # it is in there already
            self._step(flat, rates, decays)
        return (True,) * len(self.parameters)

    def _step(
        self, flat: list[Array], rates: dict[int, np.float32], decays: list[np.float32]
    ) -> None:
        step = self._global_step + 1
        beta1_power = self._beta1_power * self._beta1
        beta2_power = self._beta2_power * self._beta2
        kernel = self._kernels[step % FLUSH_INTERVAL == 0]
        constants = {"beta1": self._beta1, "beta2": self._beta2, "eps": self._eps}
        values = {
            rate: kernel.program.bind(
                {"lr_t": step_size(value, beta1_power, beta2_power), **constants}
            )
            for rate, value in rates.items()
        }
        probe = self._probe if self._probe is not None and self._probe.wants(step) else None

        def update_chunk(chunk: Chunk, g: np.ndarray[Any, np.dtype[np.float32]]) -> None:
            m, v = self._arena.m[chunk.start : chunk.stop], self._arena.v[chunk.start : chunk.stop]
            spans = [
                (s.start, s.stop, values[id(self._groups[s.index].rate)]) for s in chunk.segments
            ]
            if probe is not None:
                for piece in chunk.pieces:
                    probe.before(self.parameters[piece.index].name, g[piece.chunk_slice])
            self._team.run(kernel, (g, m, v), spans)
            if probe is not None:
                for piece in chunk.pieces:
                    part = piece.chunk_slice
                    probe.after(self.parameters[piece.index].name, m[part], v[part], g[part])

        if probe is not None:
            probe.begin(step, tuple(p.name for p in self.parameters))
        try:
            self._pipeline.run(Work(step, flat, decays, self._unscale, update_chunk))
        except BaseException as error:
            if probe is not None:
                probe.discard()
            self._break(error)
            raise
        self._beta1_power, self._beta2_power = beta1_power, beta2_power
        self._global_step = step

    def _break(self, error: BaseException) -> None:
        """Remember what a failed step has touched; if nothing, the optimizer is as it was."""
        self._backend.synchronize()  # nothing of the failed step may still be in flight
        touched = {piece.index for chunk in self._pipeline.updated for piece in chunk.pieces}
        if touched:
            names = ", ".join(repr(self.parameters[i].name) for i in sorted(touched))
            self._broken = (
                f"{_OWNER}: step {self._global_step + 1} failed half-way "
                f"({type(error).__name__}: {error}), when {names} had been touched; parameters "
                f"and moments no longer belong together. Start again from saved state"
            )

    def _scaled(self, decay: np.float32) -> np.float32:
        return float32(_OWNER, "weight_decay * loss_scale", float(decay) * self._loss_scale)

    def __repr__(self) -> str:
        return (
            f"AdamOffload({len(self.parameters)} parameters, {self._arena.size:,} elements, "
            f"on {self._backend!r}, engine {self._kernels[0].name!r} in {self._team.threads} "
            f"threads, step {self._global_step})"
        )


def _read_loss_scale(value: object) -> tuple[float, np.float32]:
    """Return the loss scale and what gradients are multiplied by to undo it."""
    scale = number(_OWNER, "loss_scale", value, above=0)
    unscale = float32(_OWNER, "1 / loss_scale", 1 / scale if scale > 1e-300 else np.inf)
    if unscale == 0:
        raise ValueError(f"{_OWNER}: 1 / loss_scale must be > 0 in float32; loss_scale is {scale}")
    return scale, unscale


def _read_constants(beta1: Any, beta2: Any, eps: Any) -> tuple[np.float32, np.float32, np.float32]:
    """Check types first, then ranges, then what is left after rounding to float32."""
    for name, value in (("beta1", beta1), ("beta2", beta2), ("eps", eps)):
        floating_type(_OWNER, name, value)
    return _read_beta("beta1", beta1), _read_beta("beta2", beta2), _read_eps(eps)


def _read_beta(name: str, value: object) -> np.float32:
    beta = np.float32(floating(_OWNER, name, value, above=0, below=1))
    if beta == 1:
        raise ValueError(f"{_OWNER}: {name} must be < 1, also in float32, got {value}")
    return beta


def _read_eps(value: object) -> np.float32:
    eps = float32(_OWNER, "eps", floating(_OWNER, "eps", value, above=0))
    if eps == 0:
        raise ValueError(f"{_OWNER}: eps must be > 0, also in float32, got {value}")
    return eps


def _check_observer(name: str, value: object, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{_OWNER}: {name} must be a {kind.__name__}, got {describe(value)}")
