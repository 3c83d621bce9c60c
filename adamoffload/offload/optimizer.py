"""`AdamOffload`: Adam whose moments and arithmetic live on the host.

This module says where the work of a step is done: the arena holds the moments, the pipeline
carries gradients and updates over the link, a kernel runs the rule. What a step computes with is
decided in `adamoffload.offload.abstract`; the mathematics of Adam is in `adamoffload.rules.adam`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from adamoffload.arguments import instance, positive_integer
from adamoffload.engine.kernel import kernel_type
from adamoffload.engine.program import Program, trace
from adamoffload.engine.team import Workers
from adamoffload.observe.ledger import NO_LEDGER, Holding, Ledger
from adamoffload.observe.probes import NO_PROBE, Probe
from adamoffload.observe.rows import Watched
from adamoffload.offload.abstract import AbstractAdam
from adamoffload.offload.arena import Arena
from adamoffload.offload.integrity import Loss
from adamoffload.offload.pipeline import Pipeline
from adamoffload.plan.chunks import Chunk, plan_chunks
from adamoffload.plan.step import Step
from adamoffload.rules.adam import Adam, adam
from adamoffload.rules.rule import with_flush

__all__ = ["AdamOffload", "OffloadMemory"]


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

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """The same by place and kind, as a ledger records it."""
        return (
            Holding("device", "parameters", self.parameters),
            Holding("device", "gradients", self.gradients),
            Holding("device", "staging", self.ring),
            Holding("pinned", "staging", self.ring),
            Holding("host", "moments", self.moments),
        )


class AdamOffload(AbstractAdam):
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
    on_nonfinite : str
        What to do about a NaN, an infinity, or a gradient so large that its square overflows
        float32, which would stop the element for ever. ``"propagate"``: nothing, as the reference.
        ``"raise"``: `FloatingPointError`, naming parameter, index and value. ``"skip"``: leave the
        step out and return False. With both, the device looks before anything changes, 8 bytes a
        tensor or less cross the link (twice that with weight decay), and `nonfinite_steps` counts.
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
    2. on the host: `adamoffload.rules.adam.adam`;
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
        on_nonfinite: str = "propagate",
        ledger: Ledger | None = None,
        probe: Probe | None = None,
        chunk_bytes: int = 4 << 20,
        threads: int | None = None,
        engine: str = "auto",
    ) -> None:
        super().__init__(
            params,
            learning_rate,
            beta1,
            beta2,
            eps,
            use_locking,
            use_nesterov,
            weight_decay,
            loss_scale,
            on_nonfinite,
        )
        if ledger is not None:
            instance(self._owner, "ledger", ledger, Ledger)
        if probe is not None:
            instance(self._owner, "probe", probe, Probe)
        chunk_size = max(1, positive_integer(self._owner, "chunk_bytes", chunk_bytes) // 4)
        self._workers = Workers(threads)
        kernel = kernel_type(self._owner, engine)
        self._kernels = [
            kernel(
                trace(
                    partial(with_flush, partial(adam, nesterov=self._nesterov), flush),
                    arrays=("g", "m", "v"),
                    scalars=("lr_t", "beta1", "beta2", "eps"),
                )
            )
            for flush in (False, True)
        ]
        self._ledger, self._probe = ledger or NO_LEDGER, probe or NO_PROBE
        self._arena = Arena(self.parameters, self._groups)
        plan = plan_chunks(
            [p.size for p in self.parameters],
            self._arena.order,
            [group.rate for group in self._groups],
            chunk_size,
        )
        flat = tuple(p.data.reshape(-1) for p in self.parameters)
        names = tuple(p.name for p in self.parameters)
        self._pipeline = Pipeline(self._backend, flat, names, plan, self._unscale, self._ledger)
        self._ledger.attach(self._backend)
        number = {id(group): i for i, group in enumerate(self._distinct)}
        self._probe.attach(
            Watched(
                self._backend,
                names,
                flat,
                self._arena.order,
                tuple(number[id(group)] for group in self._groups),
                Adam(beta1=float(self._beta1), beta2=float(self._beta2), eps=float(self._eps)),
                self._kernels,
            )
        )
        self._holdings = self.memory().holdings

    @property
    def moment1(self) -> Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """First moments by parameter name: host views of the parameters' shapes."""
        return self._arena.moment1

    @property
    def moment2(self) -> Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """Second moments by parameter name: host views of the parameters' shapes."""
        return self._arena.moment2

    @property
    def program(self) -> Program:
        """The update rule as it runs, compiled to in-place operations; ``print`` it."""
        return self._kernels[0].program

    def memory(self) -> OffloadMemory:
        """Return where the bytes are; gradients are counted as if all of them exist."""
        weights = 4 * self._size
        return OffloadMemory(weights, weights, self._pipeline.ring_bytes, 2 * weights)

    @property
    def _place(self) -> str:
        return "CPU"

    def _advance(self, step: Step) -> None:
        kernel = self._kernels[step.flush]
        constants = {"beta1": self._beta1, "beta2": self._beta2, "eps": self._eps}
        values = {
            lr_t: kernel.program.bind({"lr_t": lr_t, **constants}) for lr_t in set(step.step_sizes)
        }
        observer = self._probe.observe(step)

        def update_chunk(chunk: Chunk, g: np.ndarray[Any, np.dtype[np.float32]]) -> None:
            m, v = self._arena.m[chunk.start : chunk.stop], self._arena.v[chunk.start : chunk.stop]
            spans = [(s.start, s.stop, values[step.step_sizes[s.index]]) for s in chunk.segments]
            step.touched.extend([piece.index for piece in chunk.pieces])
            observer.update(self._workers, kernel, chunk.start, (g, m, v), spans)

        self._ledger.sample_memory(step.number, self._backend, self._holdings)
        self._pipeline.run(step, update_chunk)
        self._ledger.sample_memory(step.number, self._backend, self._holdings)
        observer.close()

    def _settle(self) -> list[Loss]:
        self._workers.settle()
        return self._pipeline.settle()

    def _forget(self) -> None:
        self._pipeline.forget()

    @property
    def _manner(self) -> str:
        return f"engine {self._kernels[0].name!r} in {self._workers.threads} threads, "
