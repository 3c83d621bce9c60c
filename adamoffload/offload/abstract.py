"""`AbstractAdam`: what every optimizer here shares, wherever its moments live.

It owns the arguments, the hyper-parameters of each step and the counters, checks the gradients
before anything changes, and knows after a failure whether the state still belongs together. A
subclass owns the moments and carries the step out: on the host (`AdamOffload`) or on the device
(`Adam`).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from adamoffload.arguments import choice, describe, flag, float32
from adamoffload.device.backend import Array, Backend, on_fork
from adamoffload.device.parameter import Parameter
from adamoffload.observe.ledger import NO_LEDGER, Ledger
from adamoffload.offload.gradients import Gradients, centralized
from adamoffload.offload.groups import FixedRate, read_decay, read_parameters, read_rate
from adamoffload.offload.hints import FIXED, MISSING
from adamoffload.offload.integrity import Attempt, Integrity, Loss
from adamoffload.offload.nonfinite import POLICIES, Open, Screen, Sieve
from adamoffload.offload.settings import read_loss_scale
from adamoffload.offload.state import load, state_of
from adamoffload.plan.step import Progress, Step
from adamoffload.rules.adam import read_constants, step_size

__all__ = ["AbstractAdam"]

_ONE = np.float32(1)


class AbstractAdam(ABC):
    """Arguments, hyper-parameters, counters and checks of an Adam; see `AdamOffload` for them.

    Attributes
    ----------
    parameters : tuple of Parameter
        What is optimized, in update order.
    """

    _ledger: Ledger = NO_LEDGER

    def __init__(
        self,
        params: Any,
        learning_rate: Any,
        beta1: float,
        beta2: float,
        eps: float,
        use_locking: bool,
        use_nesterov: bool,
        weight_decay: Any,
        loss_scale: float,
        on_nonfinite: str,
    ) -> None:
        owner = self._owner
        policy = choice(owner, "on_nonfinite", on_nonfinite, POLICIES)
        self._loss_scale, self._unscale = read_loss_scale(owner, loss_scale)
        self._rate = read_rate(owner, learning_rate)
        self._decay = read_decay(owner, weight_decay)
        self._beta1, self._beta2, self._eps = read_constants(owner, beta1, beta2, eps)
        locking = flag(owner, "use_locking", use_locking)
        self._nesterov = flag(owner, "use_nesterov", use_nesterov)
        self.parameters, self._groups, self._grouped = read_parameters(
            owner, params, self._rate, self._decay
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
        self._size = sum(p.size for p in self.parameters)
        self._gradients = Gradients(owner, self.parameters)
        self._backend = self._gradients.backend
        self._screen: Screen = Open()
        if policy != "propagate":
            self._screen = Sieve(owner, self.parameters, self._unscale, raises=policy == "raise")
        self._progress = Progress(_ONE, _ONE, 0)
        self._integrity = Integrity(owner, [p.name for p in self.parameters], serial=locking)
        self._locking = locking
        self._unique = True
        self._forked()
        on_fork(self)

    def _forked(self) -> None:
        """Make the lock; a forked child gets its own, since nobody would open the inherited one."""
        # Reentrant: a schedule may ask for what the lock protects, or assign a rate.
        self._lock = threading.RLock() if self._locking else nullcontext()

    # -- what a subclass owns -----------------------------------------------------------------

    @property
    @abstractmethod
    def moment1(self) -> Mapping[str, Array]:
        """First moments by parameter name, of the parameters' shapes."""

    @property
    @abstractmethod
    def moment2(self) -> Mapping[str, Array]:
        """Second moments by parameter name, of the parameters' shapes."""

    @property
    @abstractmethod
    def _place(self) -> str | Backend:
        """Where the rule runs."""

    @abstractmethod
    def _advance(self, step: Step) -> None:
        """Carry the step out: moments, then parameters."""

    @abstractmethod
    def _settle(self) -> Sequence[Loss]:
        """Wait until nothing is being written any more; return the updates that failed."""

    @abstractmethod
    def _forget(self) -> None:
        """Forget, when settled, what became of earlier updates: all of the state is replaced."""

    @property
    def _manner(self) -> str:
        """How the rule runs, for `repr`."""
        return ""

    # -- state --------------------------------------------------------------------------------

    @property
    def beta1_power(self) -> np.float32:
        """Product of beta1 over all steps so far, accumulated in float32."""
        return self._progress.beta1_power

    @property
    def beta2_power(self) -> np.float32:
        """Product of beta2 over all steps so far, accumulated in float32."""
        return self._progress.beta2_power

    @property
    def global_step(self) -> int:
        """Number of completed steps."""
        return self._progress.global_step

    @property
    def nonfinite_steps(self) -> int:
        """Number of calls that ``on_nonfinite`` has refused or left out; no part of the state."""
        return self._screen.found

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
                f"{self._owner}: learning_rate is a table or schedule and cannot be assigned; "
                f"construct the optimizer with a number to change it between steps"
            )
        rate = read_rate(self._owner, value)
        if not isinstance(rate, FixedRate):
            raise TypeError(f"{self._owner}: learning_rate must be a number, got {describe(value)}")
        with self._lock:
            self._rate.value = rate.value

    @property
    def target(self) -> str | Backend:
        """Where Adam runs: ``"CPU"``, or the device; assigning raises `NotImplementedError`."""
        return self._place

    @target.setter
    def target(self, value: object) -> None:
        raise NotImplementedError(f"{self._owner}: target is {self._place!r} and cannot be changed")

    @property
    def unique(self) -> bool:
        """Whether sparse gradients would have unique indices; kept for compatibility (bool)."""
        return self._unique

    @unique.setter
    def unique(self, value: bool) -> None:
        self._unique = flag(self._owner, "unique", value)

    def get_lr(self) -> Any:
        """Return the learning rate that the next step will use.

        Returns
        -------
        float32, or tuple of float32
            One number, or one for each parameter when groups have rates of their own.
        """
        if all(group.rate is self._rate for group in self._groups):
            return self._rate.at(self.global_step)
        return tuple(group.rate.at(self.global_step) for group in self._groups)

    def get_weight_decay(self) -> Any:
        """Return the weight decay that the next step will use, before loss scaling.

        Returns
        -------
        float32, or tuple of float32
            One number, or with groups one for each parameter.
        """
        if not self._grouped:
            return self._decay.at(self.global_step)
        return tuple(group.decay.at(self.global_step) for group in self._groups)

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
                f"{self._owner}: get_lr_parameter takes a Parameter or a list of them, got "
                f"{describe(param)}"
            )
        for own, group in zip(self.parameters, self._groups, strict=True):
            if own is param:
                return group.rate.source
        raise ValueError(f"{self._owner}: get_lr_parameter: {param.name!r} is not optimized here")

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that this optimizer needs to go on where it is now.

        The parameters' values are not in it: `adamoffload.save` keeps both. Moments on a device
        are copied to the host, counted.

        Returns
        -------
        dict
            ``moment1``, ``moment2``: dicts of ndarray, float32, by parameter name.
            ``global_step``: int. ``beta1_power``, ``beta2_power``: float32.
            ``learning_rate``: float32, the default rate as last assigned; None if it is a table or
            a schedule.
            ``hyperparameters``: dict, as the optimizer was constructed. Numbers and tables stand
            there by value, schedules and other callables by name, ours also by their arguments.

        Raises
        ------
        RuntimeError
            If a step or a load failed half-way: there is no state to keep.

        Examples
        --------
        >>> import numpy as np
        >>> import adamoffload as ao
        >>> device = ao.get_backend("numpy")
        >>> w = ao.Parameter(device.asarray(np.ones(2, np.float32)), name="w")
        >>> state = ao.AdamOffload([w]).state_dict()
        >>> state["global_step"], state["learning_rate"], state["moment1"]
        (0, np.float32(0.001), {'w': array([0., 0.], dtype=float32)})
        """
        with self._lock:
            return state_of(self)

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Take over a state, of this or another optimizer with the same parameters.

        Everything is checked before anything changes, and nothing of `state` is kept: arrays are
        copied. It does not matter on which backend, in which chunks, or by which of `AdamOffload`
        and `Adam` the state was made. The parameters' values stay as they are: where they must come
        back too, as after a step that failed half-way, use `adamoffload.load`, which does both.

        A fixed learning rate that was assigned in the run is assigned here too. It makes no
        difference whether the optimizer was constructed with the rate that the run began with, or
        with the one that it had last; a third one is a hyper-parameter that differs.

        Parameters
        ----------
        state : mapping
            From `state_dict`.
        strict : bool
            Refuse a state that was made with other hyper-parameters. If False, those of this
            optimizer stay, also its learning rate, and a warning lists what differs.

        Raises
        ------
        ValueError
            If something is missing, unknown, of another shape, out of range or negative where it
            cannot be, or hyper-parameters differ. Nothing has changed.
        TypeError
            If something is of the wrong kind or dtype; `ResidencyError` for a moment on a device.
            Nothing has changed.

        Warns
        -----
        UserWarning
            If hyper-parameters differ and `strict` is False.

        Notes
        -----
        NaN and infinities are legal moments, as results of such gradients. The beta powers must be
        in [0, 1] and 1 at step 0 only; that they are not ``beta**global_step``, up to rounding, is
        a difference like that of a hyper-parameter. If a copy to the device fails, what it held is
        copied back; if that fails too, the optimizer refuses to go on, as after a step that failed
        half-way, until a state is loaded.
        """
        with self._lock:
            load(self, state, strict=flag(self._owner, "strict", strict))

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
            One for each parameter; of False if ``on_nonfinite="skip"`` has left the step out.

        Raises
        ------
        FloatingPointError
            For a number that is not finite, or too large, with ``on_nonfinite="raise"``; parameter,
            index and value are named. Nothing has changed.
        ValueError
            For a wrong number of gradients, a wrong name or shape, or a gradient that shares
            memory with a parameter. Nothing has changed.
        TypeError
            For a wrong container, object or dtype; `ResidencyError` for one that is elsewhere.
            Nothing has changed.
        RuntimeError
            If a table of learning rates has run out, or a schedule has loaded a state (nothing else
            has changed), or an earlier step failed half-way.

        Notes
        -----
        Whatever else is raised, `KeyboardInterrupt` included: either nothing has changed, and the
        next call works, or every further call raises `RuntimeError` and says which parameters had
        been touched. An interrupt in the last moment may also find the step done; `global_step`
        tells.
        """
        with self._lock, np.errstate(all="ignore"):  # inf and NaN pass through, as numbers do
            attempt = Attempt(self.global_step + 1)
            try:
                self._integrity.begin(attempt)
                step = self._decided(self._gradients.flat(gradients), attempt)
                self._integrity.confirm(attempt)
                record = self._ledger.at(step.number)
                taken = self._screen.passes(step.number, step.gradients, step.decays, record)
                if taken:
                    self._advance(step)
                    self._progress = step.progress
                self._integrity.end(attempt)
            except BaseException as error:
                self._integrity.conclude(attempt, error, result=self._progress, settle=self._settle)
                raise
        return (taken,) * len(self.parameters)

    def _decided(self, flat: list[Array], attempt: Attempt) -> Step:
        """Read the hyper-parameters of the next step; whatever may be wrong with them raises."""
        beta1_power, beta2_power, before = self._progress
        beta1_power *= self._beta1
        beta2_power *= self._beta2
        rates = {id(rate): rate.at(before) for rate in self._rates}
        step_sizes = {key: step_size(rate, beta1_power, beta2_power) for key, rate in rates.items()}
        scaled = {id(group): self._scaled(group.decay.at(before)) for group in self._distinct}
        decays = [scaled[id(group)] for group in self._groups]
        for i in self._centralized:
            flat[i] = centralized(flat[i], self.parameters[i], decays[i])
            decays[i] = np.float32(0)  # it is in there already
        attempt.number = before + 1
        attempt.result = progress = Progress(beta1_power, beta2_power, before + 1)
        return Step(
            before + 1,
            flat,
            decays,
            [rates[id(group.rate)] for group in self._groups],
            [step_sizes[id(group.rate)] for group in self._groups],
            progress,
            attempt.touched,
        )

    def _scaled(self, decay: np.float32) -> np.float32:
        return float32(self._owner, "weight_decay * loss_scale", float(decay) * self._loss_scale)

    @property
    def _owner(self) -> str:
        """The optimizer's name, for messages."""
        return type(self).__name__

    if not TYPE_CHECKING:  # where unknown names are errors anyway

        def __getattr__(self, name: str) -> Any:
            hint = f"; {MISSING[name]}" if name in MISSING else ""
            message = f"{self._owner} has no attribute {name!r}{hint}"
            raise AttributeError(message, name=name, obj=self)

    def __setattr__(self, name: str, value: object) -> None:
        if name in FIXED:
            raise AttributeError(f"{self._owner}: {name} cannot be assigned; {FIXED[name]}")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return (
            f"{self._owner}({len(self.parameters)} parameters, {self._size:,} elements, on "
            f"{self._backend!r}, {self._manner}step {self.global_step})"
        )
