"""`Optimizer`: any rule, under any strategy.

This module decides what a step computes with, checks everything before anything changes, and knows
after a failure whether the state still belongs together. How a step is carried out is in
`adamoffload.offload.pipeline`, the mathematics in `adamoffload.rules`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from adamoffload.arguments import (
    choice,
    describe,
    flag,
    instance,
    integer,
    number,
    positive_integer,
)
from adamoffload.device.backend import Array, Backend
from adamoffload.device.parameter import Claim, Parameter
from adamoffload.engine.kernel import kernel_type
from adamoffload.engine.program import Program
from adamoffload.engine.team import Workers
from adamoffload.names import Spelled, listed
from adamoffload.observe.ledger import NO_LEDGER, Ledger
from adamoffload.observe.probes import NO_PROBE, Probe
from adamoffload.observe.rows import Watched
from adamoffload.observe.steps import NO_REPORT, Report, StepRecord
from adamoffload.offload.arithmetic import check_rule
from adamoffload.offload.build import Builder, check_combination, declared_by, memory_of
from adamoffload.offload.finite import POLICIES, FiniteCheck, NoCheck
from adamoffload.offload.gradients import Gradients
from adamoffload.offload.groups import read_parameters
from adamoffload.offload.hints import FIXED, MISSING
from adamoffload.offload.integrity import Integrity
from adamoffload.offload.loss_scale import DynamicLossScale
from adamoffload.offload.norm import GlobalNorm
from adamoffload.offload.settings import Settings, read_loss_scale
from adamoffload.offload.state import Counters, State
from adamoffload.offload.stepping import Stepping
from adamoffload.plan.strategy import Strategy, find_strategy
from adamoffload.plan.words import html_table
from adamoffload.rules.rates import FixedRate, Rate, read_decay, read_rate
from adamoffload.rules.rule import Rule

__all__ = ["Optimizer"]


class Optimizer(Stepping, metaclass=Spelled):
    r"""Any rule, under any strategy: moves parameters by their gradients.

    In float32, where a thing runs never changes what it computes: every strategy gives the same
    bits, whatever the chunks, the threads and the engine.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        What to optimize: all float32, bfloat16 or float16, on one device. A dict is a group, with
        the keys ``params`` and, where it differs from the rule's, ``lr``, ``weight_decay`` and
        ``grad_centralization`` (bool); one dict may hold ``order_params`` alone, a list of all
        parameters in the order in which gradients will come.
    rule : Rule
        What is computed, with learning rate and weight decay.
    strategy : str or Strategy
        What lives where: a name in `adamoffload.strategies`, or one of your own.
    loss_scale : float or DynamicLossScale
        What the loss was multiplied by; gradients are divided by it. > 0. A dynamic one changes
        with the steps: multiply the loss by `loss_scale`, as it is then. It skips steps with
        gradients that are not finite, whatever ``on_nonfinite`` says, unless that is ``"raise"``.
    accumulate : int
        Calls that make one step: their gradients are added up, in order, in the parameters' type;
        where, the strategy says.
    max_norm : float, optional
        What the norm of all gradients of a step is clipped to, as
        ``torch.nn.utils.clip_grad_norm_`` does.
    seed : int
        Of the bits for stochastic rounding.
    on_nonfinite : str
        What to do about a NaN, an infinity, or a gradient so large that its square overflows
        float32, which would stop the element for ever. ``"propagate"``: nothing, as the reference.
        ``"raise"``: `FloatingPointError`, naming parameter, index and value. ``"skip"``: leave the
        step out and return False. With both, the device looks before anything changes, 8 bytes a
        tensor or less cross the link (twice that with weight decay), and `nonfinite_steps` counts.
    use_locking : bool
        Serialise calls that come from several threads.
    directory : str or path-like, optional
        Where to keep what the strategy keeps on the disk; needed for that, and refused otherwise.
        It exists, and is used by no other optimizer.
    ledger : Ledger, optional
        Records every hop.
    probe : Probe, optional
        Samples gradients, slots and updates.
    on_step : callable, optional
        Called when a step is over, or was left out, with a `StepRecord`: plain numbers for a
        logger. What it raises is raised by the call, whose step is done.
    chunk_bytes : int
        Bytes of a chunk, the piece of the state that is worked on at once.
    slots : int
        Chunks that are on their way at once, where something is copied. The ring takes that many
        times ``chunk_bytes`` for each thing that is away from home, or less for a small model.
    threads : int, optional
        Threads that share the host's arithmetic; as many as the process may use cores, if left out.
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
        If the state or the ring does not fit on the device; a note says what.
    OSError
        If the directory is missing, cannot be written or is too full, or holds what a run has left
        there that was not closed. Nothing is left in it.

    Notes
    -----
    A step computes, with w the parameter, g its gradient, s the loss scale and d the decay:

    1. with L2 decay :math:`g \leftarrow (g + d s w) / s`, else :math:`g \leftarrow g / s`; in
       groups with gradient centralization, the mean over all axes but the first is taken away
       before the division, for parameters of two dimensions and more (Yong et al.,
       arXiv:2004.01461, eq. 1);
    2. the rule's update :math:`\delta`, and its new slots;
    3. :math:`w \leftarrow w + \delta`, with decoupled decay
       :math:`w \leftarrow w (1 - \alpha d) + \delta`.

    A parameter without a gradient is left alone: no byte of it moves, its slots are kept, it is not
    decayed, and its own count of updates, which corrects the bias, stands still.

    References
    ----------
    J. Ren et al., "ZeRO-Offload", arXiv:2101.06840, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.array([1.0, 2.0], np.float32)), name="w")
    >>> opt = ao.Optimizer([w], ao.rules.Adam(learning_rate=0.1), strategy="adam-offload")
    >>> opt([device.asarray(np.array([0.5, -3.0], np.float32))])
    (True,)
    >>> device.asnumpy(w.data).round(4)
    array([0.9, 2.1], dtype=float32)
    >>> opt.state["m"]["w"].round(4), opt.bytes_per_step
    (array([ 0.05, -0.3 ], dtype=float32), {'d2h': 8, 'h2d': 8, 'read': 0, 'write': 0})
    """

    _exempt: ClassVar[tuple[str, ...]] = ()
    """Without groups, what has one of these in its name gets no decay."""

    def __init__(
        self,
        params: Any,
        rule: Rule,
        *,
        strategy: str | Strategy = "resident",
        loss_scale: float | DynamicLossScale = 1.0,
        accumulate: int = 1,
        max_norm: float | None = None,
        seed: int = 0,
        on_nonfinite: str = "propagate",
        use_locking: bool = False,
        directory: str | os.PathLike[str] | None = None,
        ledger: Ledger | None = None,
        probe: Probe | None = None,
        on_step: Callable[[StepRecord], object] | None = None,
        chunk_bytes: int = 4 << 20,
        slots: int = 3,
        threads: int | None = None,
        engine: str = "auto",
    ) -> None:
        owner = type(self).__name__
        policy = choice(owner, "on_nonfinite", on_nonfinite, POLICIES)
        self._scaler = loss_scale if isinstance(loss_scale, DynamicLossScale) else None
        if self._scaler is not None and policy == "propagate":
            policy = "skip"  # how it finds its size
        scale, unscale = read_loss_scale(owner, 1.0 if self._scaler else loss_scale)
        check_rule(owner, rule)
        rate = read_rate(owner, rule.learning_rate)
        decay = read_decay(owner, rule.weight_decay)
        locking = flag(owner, "use_locking", use_locking)
        parameters, groups, self._grouped = read_parameters(
            owner, params, rate, decay, self._exempt
        )
        distinct = {id(group): group for group in groups}
        index = {key: i for i, key in enumerate(distinct)}
        self._strategy = find_strategy(owner, strategy)
        self._accumulate = positive_integer(owner, "accumulate", accumulate)
        weights: Any = parameters[0].dtype.name
        try:
            self._strategy.check(weights)
        except ValueError as error:
            kind = ValueError if weights == "float32" else TypeError
            raise kind(f"{owner}: {error}") from None
        barrier = None if max_norm is None else number(owner, "max_norm", max_norm, above=0)
        self._settings = Settings(
            owner,
            rule,
            scale,
            unscale,
            tuple(p.name for p in parameters),
            tuple(distinct.values()),
            tuple(index[id(group)] for group in groups),
            rate,
            weights,
            barrier,
            integer(owner, "seed", seed, at_least=0),
            weights != "float32"
            or barrier is not None
            or self._scaler is not None
            or self._strategy.holds_back(self._accumulate),
        )
        for group in self._settings.groups:
            if rule.decay == "l2" and not callable(group.decay.source):
                self._settings.l2(group.decay.at(0))  # refuses what float32 cannot hold
        check_combination(self._settings, self._strategy, self._accumulate, policy)
        if ledger is not None:
            instance(owner, "ledger", ledger, Ledger)
        if probe is not None:
            instance(owner, "probe", probe, Probe)
        chunk_size = max(1, positive_integer(owner, "chunk_bytes", chunk_bytes) // 4)
        slots = positive_integer(owner, "slots", slots)
        self._parameters = parameters
        self._ledger, self._probe = ledger or NO_LEDGER, probe or NO_PROBE
        self._gradients = Gradients(owner, parameters)
        self._backend = self._gradients.backend
        self._workers = Workers(threads)
        self._check: FiniteCheck | NoCheck = NoCheck()
        self._report = NO_REPORT
        if on_step is not None:
            if not callable(on_step):
                wanted = "a callable that takes a StepRecord"
                raise TypeError(f"{owner}: on_step must be {wanted}, got {describe(on_step)}")
            self._report = Report(on_step, self._backend)
        if policy != "propagate":
            self._check = FiniteCheck(
                owner, parameters, scaled=self._settings.scaled, raises=policy == "raise"
            )
        self._ledger.attach(self._backend)
        self._builder = Builder(
            self._backend,
            parameters,
            self._settings,
            kernel_type(owner, engine),
            self._workers,
            self._ledger,
            chunk_size,
            slots,
            self._accumulate,
            probe is not None,
        )
        self._pipeline = self._builder.pipeline(self._strategy, directory)
        try:
            self._begin(locking)
        except BaseException:
            self._pipeline.close()  # an exception keeps what it has met alive, and so the files
            raise
        self._constructed = True

    def _begin(self, locking: bool) -> None:
        owner, parameters = self._settings.owner, self._parameters
        self._state = self._builder.state(self._pipeline)
        self._ledger.attach(self._backend, declared_by(self._pipeline, self._settings))
        self._integrity = Integrity(owner, self._settings.names)
        # Reentrant: a schedule may ask for what the lock protects, or assign a rate.
        self._lock = threading.RLock() if locking else nullcontext()
        self._norm = GlobalNorm(self._backend, len(parameters))
        self._late, self._dropped = None, set()
        self._forget_step()
        self._probe.attach(self._watched())
        self._holdings = memory_of(self._pipeline).holdings
        self._claim = Claim()
        for parameter in parameters:
            parameter.claim(self._claim)

    def _watched(self) -> Watched:
        pipeline, settings = self._pipeline, self._settings
        return Watched(
            self._backend,
            settings.names,
            tuple(pipeline.flat),
            tuple(i for share in pipeline.shares for i in share.arena.indices),
            settings.group_of,
            settings.rule,
            tuple(pipeline.watched),
        )

    # -- what it is -----------------------------------------------------------------------------

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What is optimized, in update order."""
        return self._parameters

    @property
    def backend(self) -> Backend:
        """The device."""
        return self._backend

    @property
    def settings(self) -> Settings:
        """What it was constructed with, as a value."""
        return self._settings

    @property
    def counters(self) -> Counters:
        """Steps so far, and what was changed on the fly."""
        return self._state.counters

    @property
    def strategy(self) -> Strategy:
        """What lives where."""
        return self._strategy

    @property
    def rule(self) -> Rule:
        """What is computed."""
        return self._settings.rule

    @property
    def state(self) -> State:
        """The rule's slots: ``opt.state["m"]["fc.weight"]``, of the parameter's shape.

        Views on the host, or device arrays. They are valid when this returns, which waits for what
        is in flight, and not over a step. What is on the disk is read when it is asked for: a
        read-only copy.
        """
        if self._pipeline.moves_state:
            self._pipeline.rest()
        return self._state

    @property
    def master(self) -> Mapping[str, Array]:
        """Float32 master weights by parameter name; empty where there are none."""
        return self.state.master

    @property
    def program(self) -> Program:
        """The update rule as it runs, compiled to in-place operations; ``print`` it."""
        return self._pipeline.shares[0].arithmetic.program

    @property
    def engine(self) -> str:
        """How the rule runs: ``"numpy"`` or ``"numba"``, and on the device ``"device"``."""
        share = self._pipeline.shares[0]
        return "device" if share.on_device else share.arithmetic.kernels[False].name

    @property
    def threads(self) -> int:
        """How many threads share the host's arithmetic."""
        return self._workers.threads

    @property
    def ledger(self) -> Ledger:
        """What records every hop."""
        return self._ledger

    @property
    def probe(self) -> Probe:
        """What samples gradients, slots and updates."""
        return self._probe

    @property
    def global_step(self) -> int:
        """Number of completed steps."""
        return self._state.counters.global_step

    @property
    def loss_scale(self) -> float:
        """What the next loss is to be multiplied by."""
        return self._settings.loss_scale if self._scaler is None else self._scaler.scale

    @property
    def norm(self) -> float:
        """Norm of all gradients of the last step, unclipped; NaN without ``max_norm``."""
        return self._norm.last

    @property
    def nonfinite_steps(self) -> int:
        """Number of calls that ``on_nonfinite`` has refused or left out; no part of the state."""
        return self._check.found

    @property
    def bytes_per_step(self) -> dict[str, int]:
        """The bytes that cross in a step in which every parameter has gradients, by lane."""
        moved = dict.fromkeys(("d2h", "h2d", "read", "write"), 0)
        for share in self._pipeline.shares:
            each = share.strategy.bytes_per_parameter(
                self.rule, self._settings.weights, self._accumulate
            )
            for lane, nbytes in each.items():
                moved[lane] += nbytes * share.arena.size
        return moved

    def memory(self) -> Any:
        """Return where the bytes are; gradients are counted as if all of them exist.

        Returns
        -------
        OptimizerMemory
            Parameters, gradients, slots, master weights, staging ring and scratch.
        """
        return memory_of(self._pipeline)

    # -- learning rate and decay ----------------------------------------------------------------

    @property
    def learning_rate(self) -> Any:
        """The default learning rate: a number, a table, or a function of the step.

        A number can be replaced by another between steps; groups with an ``lr`` of their own keep
        it. Assigning over a table or a schedule raises `RuntimeError`.
        """
        return self._state.counters.rates.get("", self._settings.rate.source)

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.set_learning_rate(value)

    def current_rates(self) -> tuple[Rate, ...]:
        """Return the distinct rates of the groups, in update order, as they are now."""
        settings, assigned = self._settings, self._state.counters.rates.get("")
        distinct = tuple({id(group.rate): group.rate for group in settings.groups}.values())
        if assigned is None:
            return distinct
        return tuple(FixedRate(assigned) if r is settings.rate else r for r in distinct)

    def set_learning_rate(self, rate: float, *parameters: Parameter | str) -> None:
        """Assign a learning rate, to some parameters or as the default; kept in checkpoints.

        Parameters
        ----------
        rate : float
            A number >= 0.
        *parameters : Parameter or str
            Whose; if left out, the default is replaced, which groups with a rate of their own keep
            away from.

        Raises
        ------
        TypeError, ValueError
            If it is no such number, or one is no parameter of this optimizer; or if nothing has the
            default.
        RuntimeError
            If the default is a table or a schedule.
        """
        owner, settings = self._settings.owner, self._settings
        names = self._names(parameters)
        if not names and not isinstance(settings.rate, FixedRate):
            raise RuntimeError(
                f"{owner}: learning_rate is a table or schedule and cannot be assigned; "
                f"construct the optimizer with a number to change it between steps"
            )
        read = read_rate(owner, rate)
        if not isinstance(read, FixedRate):
            raise TypeError(f"{owner}: learning_rate must be a number, got {describe(rate)}")
        if not names and all(group.rate is not settings.rate for group in settings.groups):
            raise ValueError(
                f"{owner}: every group has a learning rate of its own, so that nothing would "
                f"change; use set_learning_rate(rate, *parameters)"
            )
        with self._lock:
            rates = dict(self._state.counters.rates)
            rates |= dict.fromkeys(names or [""], read.source)
            self._replace_counters(rates=rates)

    def set_constants(self, *parameters: Parameter | str, **constants: float) -> None:
        """Assign numbers of the rule, or the weight decay; kept in checkpoints.

        As ``opt.set_constants("fc.weight", beta1=0.85, weight_decay=0.0)``.

        Parameters
        ----------
        *parameters : Parameter or str
            Whose; of all, if left out.
        **constants : float
            By the names that the rule's constructor takes; but the learning rate has a method of
            its own.

        Raises
        ------
        TypeError, ValueError
            If one is no parameter of this optimizer, or a number is none that the rule takes.
        """
        settings = self._settings
        names = self._names(parameters) or settings.names
        given = {key: number(settings.owner, key, value) for key, value in constants.items()}
        with self._lock:
            new = {name: dict(own) for name, own in self._state.counters.constants.items()}
            for name in names:
                new[name] = {**new.get(name, {}), **given}
            for distinct in {tuple(new[name].items()) for name in names}:
                settings.with_constants(dict(distinct))  # refuses what is none
            self._replace_counters(constants=new)

    def freeze(self, *parameters: Parameter | str) -> None:
        """Leave some parameters alone from now on, as if they had no gradient; kept in checkpoints.

        Raises
        ------
        ValueError
            If one is no parameter of this optimizer, or none is named.
        """
        with self._lock:
            names = self._names(parameters, "freeze")
            self._replace_counters(frozen=self._state.counters.frozen.union(names))

    def unfreeze(self, *parameters: Parameter | str) -> None:
        """Move some parameters again.

        Raises
        ------
        ValueError
            If one is no parameter of this optimizer, or none is named.
        """
        with self._lock:
            names = self._names(parameters, "unfreeze")
            self._replace_counters(frozen=self._state.counters.frozen.difference(names))

    def _replace_counters(self, **changed: Any) -> None:
        self._state.counters = self._state.counters._replace(**changed)

    def _names(self, parameters: Sequence[Any], caller: str = "") -> list[str]:
        names = [self._settings.names[self._gradients.index_of(given)] for given in parameters]
        if caller and not names:
            raise ValueError(f"{self._settings.owner}: {caller} needs the parameters to {caller}")
        return names

    def close(self) -> None:
        """Remove the files of what is kept on the disk; no step can be taken after that.

        What is kept elsewhere needs no closing, and stays as it is. An optimizer that nobody uses
        any more is closed when Python finds out, at the latest at its end.
        """
        with self._lock:
            self._pipeline.close()

    # -- Python ---------------------------------------------------------------------------------

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} can be neither copied nor pickled: it works on the arrays of a "
            f"device; keep its state with state_dict(), or with adamoffload.save(path, optimizer)"
        )

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self.__reduce__()

    if not TYPE_CHECKING:  # where unknown names are errors anyway

        def __getattr__(self, name: str) -> Any:
            hint = f"; {MISSING[name]}" if name in MISSING else ""
            message = f"{type(self).__name__} has no attribute {name!r}{hint}"
            raise AttributeError(message, name=name, obj=self)

        def __setattr__(self, name: str, value: object) -> None:
            ours = type(self).__module__ == __name__.replace("optimizer", "faces") or (
                type(self) is Optimizer
            )
            if "_constructed" not in self.__dict__ or name.startswith("_") or not ours:
                return object.__setattr__(self, name, value)
            known = getattr(type(self), name, None)
            if isinstance(known, property) and known.fset:
                return object.__setattr__(self, name, value)
            owner = type(self).__name__
            if name in FIXED or known is not None:
                why = FIXED.get(name, "it is what the optimizer was constructed with")
                raise AttributeError(f"{owner}: {name} cannot be assigned; {why}")
            near = listed([name], [n for n in dir(type(self)) if not n.startswith("_")])
            raise AttributeError(f"{owner} has no attribute {near}")

    def _repr_html_(self) -> str:
        rows = [(held.place, held.kind, f"{held.nbytes:,}") for held in self.memory().holdings]
        return html_table(repr(self), ("place", "what", "bytes"), rows)

    def __repr__(self) -> str:
        size = sum(p.size for p in self._parameters)
        how = f"engine {self.engine!r} in {self.threads} threads, "
        return (
            f"{type(self).__name__}({len(self._parameters)} parameters, {size:,} elements, on "
            f"{self._backend!r}, {how if self.engine != 'device' else ''}step {self.global_step})"
        )
