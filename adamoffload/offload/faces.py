"""`AdamOffload` and `Adam`: the optimizer as MindSpore names and parametrizes it.

Both are an `Optimizer` with the rule `adamoffload.rules.Adam`; they differ in where the moments
live. Their nine arguments, the names of their state and their checks are those of the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from adamoffload.arguments import describe, flag
from adamoffload.device.backend import Array, Backend
from adamoffload.device.parameter import Parameter
from adamoffload.names import check_keys
from adamoffload.observe.ledger import Holding, Ledger
from adamoffload.observe.probes import Probe
from adamoffload.observe.steps import StepRecord
from adamoffload.offload.decide import rate_of
from adamoffload.offload.optimizer import Optimizer
from adamoffload.rules.adam import Adam as AdamRule
from adamoffload.rules.adam import beta_power, read_constants
from adamoffload.rules.rates import FixedRate, read_decay, read_rate

__all__ = ["Adam", "AdamOffload", "OffloadMemory", "ResidentMemory"]

_MOMENTS = {"moment1": "m", "moment2": "v"}
_KEYS = ("global_step", "beta1_power", "beta2_power", "learning_rate", "hyperparameters")
_OPTIONAL = ("missed", "frozen", "learning_rates", "constants")


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


class ResidentMemory(NamedTuple):
    """Where the bytes of a training run with `Adam` are, by kind: all on the device.

    Attributes
    ----------
    parameters, gradients : int
        One float32 each for every parameter.
    moments : int
        Two float32 for every parameter.
    """

    parameters: int
    gradients: int
    moments: int

    @property
    def device(self) -> int:
        """Bytes on the device."""
        return sum(self)

    @property
    def host(self) -> int:
        """Bytes on the host: none."""
        return 0

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """The same by place and kind, as a ledger records it."""
        return tuple(Holding("device", kind, nbytes) for kind, nbytes in self._asdict().items())


class _Face(Optimizer):
    """What `AdamOffload` and `Adam` share: MindSpore's names."""

    _exempt = ("beta", "gamma")
    _unique = True
    _where: ClassVar[str]
    """The strategy."""

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
        accumulate: int = 1,
        ledger: Ledger | None = None,
        probe: Probe | None = None,
        on_step: Callable[[StepRecord], object] | None = None,
        chunk_bytes: int = 4 << 20,
        slots: int = 3,
        threads: int | None = None,
        engine: str = "auto",
    ) -> None:
        owner = type(self).__name__  # messages name the optimizer, not its rule
        read_constants(owner, beta1, beta2, eps)
        nesterov = flag(owner, "use_nesterov", use_nesterov)
        rate, decay = read_rate(owner, learning_rate), read_decay(owner, weight_decay)
        super().__init__(
            params,
            AdamRule(rate.source, beta1, beta2, eps, nesterov, decay.source),
            strategy=self._where,
            loss_scale=loss_scale,
            accumulate=accumulate,
            on_nonfinite=on_nonfinite,
            use_locking=flag(owner, "use_locking", use_locking),
            ledger=ledger,
            probe=probe,
            on_step=on_step,
            chunk_bytes=chunk_bytes,
            slots=slots,
            threads=threads,
            engine=engine,
        )

    @property
    def moment1(self) -> Mapping[str, Array]:
        """First moments by parameter name, of the parameters' shapes: `state` ``["m"]``."""
        return self.state["m"]

    @property
    def moment2(self) -> Mapping[str, Array]:
        """Second moments by parameter name, of the parameters' shapes: `state` ``["v"]``."""
        return self.state["v"]

    @property
    def beta1_power(self) -> np.float32:
        """Product of beta1 over all steps so far, accumulated in float32."""
        return self._power("beta1")

    @property
    def beta2_power(self) -> np.float32:
        """Product of beta2 over all steps so far, accumulated in float32."""
        return self._power("beta2")

    def _power(self, name: str) -> np.float32:
        return beta_power(np.float32(getattr(self.rule, name)), self.global_step)

    def get_lr(self) -> Any:
        """Return the learning rate that the next step will use.

        Returns
        -------
        float32, or tuple of float32
            One number, or one for each parameter when groups have rates of their own.
        """
        settings, rates = self.settings, self.counters.rates
        if not any(rates) and all(group.rate is settings.rate for group in settings.groups):
            return self._rate_of(0, self.global_step)
        return tuple(self._rate_of(i, self.global_step) for i in range(len(self.parameters)))

    def _rate_of(self, index: int, step: int) -> np.float32:
        return rate_of(self.settings, self.counters, index, step)

    def get_weight_decay(self) -> Any:
        """Return the weight decay that the next step will use, before loss scaling.

        Returns
        -------
        float32, or tuple of float32
            One number, or with groups one for each parameter.
        """
        settings, step = self.settings, self.global_step
        if not self._grouped:
            return read_decay(settings.owner, settings.rule.weight_decay).at(step)
        return tuple(settings.groups[g].decay.at(step) for g in settings.group_of)

    def get_lr_parameter(self, param: Any) -> Any:
        """Return the learning rate of a parameter: number, table or schedule.

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
        owner, settings = self.settings.owner, self.settings
        if isinstance(param, list):
            return [self.get_lr_parameter(item) for item in param]
        if not isinstance(param, Parameter):
            raise TypeError(
                f"{owner}: get_lr_parameter takes a Parameter or a list of them, got "
                f"{describe(param)}"
            )
        for i, own in enumerate(self.parameters):
            if own is param:
                rate = settings.groups[settings.group_of[i]].rate
                return self._rate_of(i, 0) if isinstance(rate, FixedRate) else rate.source
        raise ValueError(f"{owner}: get_lr_parameter: {param.name!r} is not optimized here")

    def _kinds(self, place: str, *kinds: str) -> list[int]:
        """Return the bytes of some kinds in a place."""
        held = Optimizer.memory(self).holdings
        return [sum(h.nbytes for h in held if (h.place, h.kind) == (place, k)) for k in kinds]

    @property
    def target(self) -> str | Backend:
        """Where Adam runs: ``"CPU"``, or the device; assigning raises `NotImplementedError`."""
        return "CPU" if self.strategy.arithmetic == "host" else self.backend

    @target.setter
    def target(self, _: object) -> None:
        owner = type(self).__name__
        raise NotImplementedError(f"{owner}: target is {self.target!r} and cannot be changed")

    @property
    def unique(self) -> bool:
        """Whether sparse gradients would have unique indices; kept for compatibility (bool)."""
        return self._unique

    @unique.setter
    def unique(self, value: bool) -> None:
        self._unique = flag(type(self).__name__, "unique", value)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that this optimizer needs to go on where it is now.

        The parameters' values are not in it: `adamoffload.save` keeps both. Moments on a device
        are copied to the host, counted.

        Returns
        -------
        dict
            As `Optimizer.state_dict`, but for ``moment1`` and ``moment2`` in the place of
            ``slots``: dicts of ndarray, float32, by parameter name; and with ``beta1_power`` and
            ``beta2_power``: float32.

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
        self._settings.warn_of_unsaved("state_dict", 2)
        kept = self._plain_state()
        slots = kept.pop("slots")
        powers = {"beta1_power": self.beta1_power, "beta2_power": self.beta2_power}
        return kept | powers | {moment: slots[slot] for moment, slot in _MOMENTS.items()}

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Take over a state, of this or another optimizer with the same rule and parameters.

        As `Optimizer.load_state_dict`, for the state of either; that of 0.1 as well. The beta
        powers must be in [0, 1] and 1 at step 0 only; that they are not ``beta**global_step``, up
        to rounding, is a difference like that of a hyper-parameter.
        """
        strict = flag(type(self).__name__, "strict", strict)
        given: object = state
        if isinstance(given, Mapping) and "slots" in given:
            super().load_state_dict(state, strict=strict)
            return
        with self._lock:
            owner = "load_state_dict"
            check_keys(owner, "the state", state, (*_KEYS, *_MOMENTS, *_OPTIONAL), _OPTIONAL)
            slots = {slot: state[moment] for moment, slot in _MOMENTS.items()}
            self._load(state, slots, strict=strict, names=dict(zip("mv", _MOMENTS, strict=True)))


class AdamOffload(_Face):
    r"""Adam with moments and arithmetic on the host, parameters and gradients on the device.

    Each call brings the gradients down to the host, runs Adam there, sends the updates up and adds
    them to the parameters: 4 bytes per parameter in each direction. All arithmetic is float32, and
    the result does not depend, bitwise, on the size of the chunks, the threads or the engine.

    It is `Optimizer` with the rule `adamoffload.rules.Adam` under the strategy ``adam-offload``.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        What to optimize: float32, on one device; or groups: see `Optimizer`. Without groups,
        parameters with ``beta`` or ``gamma`` in their name are exempt from weight decay.
    learning_rate : float, iterable of float, LearningRateSchedule or callable
        A number >= 0, a table with one number a step, or a function of the 0-based step.
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
        the 0-based step.
    loss_scale : float
        What the loss was multiplied by; gradients are divided by it. > 0.
    on_nonfinite, accumulate, ledger, probe, on_step, chunk_bytes, slots, threads, engine
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError, KeyError, RuntimeError, AttributeError
        If an argument is wrong; nothing is constructed.
    ResidencyError
        If a parameter is not on a device, or they are on several.
    DeviceMemoryError
        If the ring does not fit on the device.

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

    _where = "adam-offload"

    def memory(self) -> OffloadMemory:
        """Return where the bytes are; gradients are counted as if all of them exist."""
        return OffloadMemory(
            *self._kinds("device", "parameters", "gradients", "staging"),
            *self._kinds("host", "moments"),
        )


class Adam(_Face):
    """Adam with moments and arithmetic on the device, beside parameters and gradients.

    What `AdamOffload` is compared with: the same rule, the same arguments and, bitwise, the same
    parameters after every step, at 16 bytes per parameter on the device instead of 8 and without
    any traffic on the link. `moment1` and `moment2` hold device arrays, and `target` is the device.

    It is `Optimizer` with the rule `adamoffload.rules.Adam` under the strategy ``resident``.

    Parameters
    ----------
    params, learning_rate, beta1, beta2, eps, use_locking, use_nesterov, weight_decay, loss_scale
        See `AdamOffload`.
    on_nonfinite, accumulate, ledger, probe, on_step, chunk_bytes, slots, threads, engine
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError, KeyError, RuntimeError, AttributeError
        If an argument is wrong; nothing is constructed.
    ResidencyError
        If a parameter is not on a device, or they are on several.
    DeviceMemoryError
        If the moments do not fit on the device; a note says which were being allocated.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.array([1.0, 2.0], np.float32)), name="w")
    >>> opt = ao.Adam([w], learning_rate=0.1)
    >>> opt((device.asarray(np.array([0.5, -3.0], np.float32)),))
    (True,)
    >>> device.asnumpy(w.data).round(4)
    array([0.9, 2.1], dtype=float32)
    >>> opt.moment1["w"]
    DeviceArray(shape=(2,), dtype=float32, device='numpy')
    """

    _where = "resident"

    def memory(self) -> ResidentMemory:
        """Return where the bytes are; gradients are counted as if all of them exist."""
        return ResidentMemory(*self._kinds("device", "parameters", "gradients", "moments"))
