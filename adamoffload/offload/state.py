"""`State`: what an optimizer takes to go on exactly where a run has stopped.

That is its arrays, the rule's slots and master weights, and its `Counters`. What somebody passes as
a state is checked here completely, before anything is replaced.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adamoffload.arguments import describe, integer, number
from adamoffload.device.backend import Array, HostArray, ResidencyError, Stored, backend_of
from adamoffload.device.parameter import Parameter
from adamoffload.names import check_keys, check_names, listed, short
from adamoffload.offload.settings import Settings, read_description, single
from adamoffload.plan.formats import WEIGHTS, dtype_of
from adamoffload.rules.rates import FixedRate

__all__ = [
    "EXTRAS",
    "Counters",
    "Key",
    "Saved",
    "State",
    "adopt",
    "check_shapes",
    "is_negative",
    "read_arrays",
    "read_counters",
]

EXTRAS = ("master", "compensation")
"""What some strategies keep beside a rule's slots."""

Key = tuple[str, str]
"""Which array: ``"parameter"``, ``"master"`` or a slot's name, and the parameter's name."""

_OPTIONAL = ("missed", "frozen", "learning_rates", "constants", "beta1_power", "beta2_power")
_STEPS = 2**63  # what an int64 in another program still holds


class Counters(NamedTuple):
    """All of a state but its arrays; replaced as a whole, so that no interrupt comes between.

    Attributes
    ----------
    global_step : int
        Steps so far.
    missed : tuple of int
        For each parameter, in how many of them it had no gradient.
    frozen : frozenset of str
        Names of the parameters that are left alone.
    rates : mapping from str to float32
        Learning rates assigned since construction: by parameter's name; ``""`` is the default.
    constants : mapping from str to mapping from str to float
        By parameter's name: its numbers of the rule that were assigned since construction.
    """

    global_step: int
    missed: tuple[int, ...]
    frozen: frozenset[str] = frozenset()
    rates: Mapping[str, np.float32] = {}
    constants: Mapping[str, Mapping[str, float]] = {}

    def plain(self, settings: Settings) -> dict[str, Any]:
        """Return them as plain data, with the description of the settings.

        Returns
        -------
        dict
            ``global_step``: int. ``learning_rate``: float32, the default as last assigned; None if
            it is a table or a function. ``hyperparameters``: `Settings.description`. And, where
            there is something to say, ``missed``: dict from name to int, ``frozen``: list of names,
            ``learning_rates``: dict from name to float32, ``constants``: dict from name to dict
            from str to float.
        """
        rate = settings.rate
        plain: dict[str, Any] = {
            "global_step": self.global_step,
            "learning_rate": self.rates.get("", rate.source)
            if isinstance(rate, FixedRate)
            else None,
            "hyperparameters": settings.description(),
        }
        missed = {n: k for n, k in zip(settings.names, self.missed, strict=True) if k}
        rates = {name: rate for name, rate in self.rates.items() if name}
        frozen = [name for name in settings.names if name in self.frozen]
        constants = {name: dict(own) for name, own in self.constants.items()}
        found: dict[str, Any] = {"missed": missed, "frozen": frozen, "learning_rates": rates}
        found["constants"] = constants
        return plain | {key: value for key, value in found.items() if value}


class State(Mapping[str, Mapping[str, Array]]):
    """The state of an optimizer: maps a slot's name to arrays by parameter name.

    Host arrays are views, device arrays live on the device, and what is on the disk is read when it
    is asked for, into a read-only copy; all have the parameters' shapes.

    Parameters
    ----------
    parameters : sequence of Parameter
        In update order.
    slots : mapping
        The rule's slots.
    extras : mapping
        By kind, what a strategy keeps beside them: master weights, and a compensation.

    Attributes
    ----------
    counters : Counters
        Steps, and what was changed on the fly.
    """

    __slots__ = ("_extras", "_parameters", "_slots", "counters")

    def __init__(
        self,
        parameters: Sequence[Parameter],
        slots: Mapping[str, Mapping[str, Array]],
        extras: Mapping[str, Mapping[str, Array]],
    ) -> None:
        self._parameters = parameters
        self._slots = slots
        self._extras = extras
        self.counters = Counters(0, (0,) * len(parameters))

    def arrays(self) -> dict[Key, Array]:
        """Return all arrays, the parameters first, wherever they live: also `DiskArray`.

        `adamoffload.offload.transfer` copies between any two of them.
        """
        found = {("parameter", p.name): p.data for p in self._parameters}
        for kind, arrays in (*self._extras.items(), *self._slots.items()):
            found |= {(kind, name): array for name, array in arrays.items()}
        return found

    def __getitem__(self, slot: str) -> Mapping[str, Array]:
        if slot not in self._slots:
            raise KeyError(f"the rule has no slot {slot!r}; it has {', '.join(self) or 'none'}")
        return _Shown(self._slots[slot])

    @property
    def master(self) -> Mapping[str, Array]:
        """Float32 master weights by name; empty where there are none."""
        own = {name: x for name, x in self._extras["master"].items() if x.dtype == np.float32}
        return _Shown(own)

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __repr__(self) -> str:
        return f"State({', '.join(self) or 'no slots'}, step {self.counters.global_step})"


class _Shown(Mapping[str, Array]):
    """Arrays by name, as a user gets them: what is on the disk as a read-only copy."""

    __slots__ = ("_arrays",)

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            raise KeyError(f"there is none for {listed([name], [*self._arrays])}")
        array = self._arrays[name]
        if isinstance(array, Stored):
            array = array.read()
            array.flags.writeable = False
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return repr(dict(self))


# -- what somebody passes as one --------------------------------------------------------------


class Saved(NamedTuple):
    """What a state says beside its arrays.

    Attributes
    ----------
    counters : Counters
        Its counters; the default rate is among the rates, where there is one.
    description : dict
        Of the settings with which it was made.
    powers : mapping from str to float32
        ``beta1_power`` and ``beta2_power``, where it has them.
    """

    counters: Counters
    description: dict[str, Any]
    powers: Mapping[str, np.float32]


def read_counters(owner: str, state: Mapping[str, Any], names: Sequence[str]) -> Saved:
    """Check everything in a state but its arrays.

    Raises
    ------
    TypeError, ValueError
        If something is missing, of the wrong kind, out of range or contradicts itself.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.ones(4, np.float32)), name="w")
    >>> state = ao.AdamOffload([w]).state_dict()
    >>> read_counters("example", state, ["w"]).counters.global_step
    0
    >>> read_counters("example", {**state, "global_step": 1}, ["w"])
    Traceback (most recent call last):
    ValueError: example: beta1_power is 1.0 after 1 steps; it is 1 at step 0 only
    """
    step = integer(owner, "global_step", state["global_step"], at_least=0)
    if step >= _STEPS:
        raise ValueError(f"{owner}: global_step must be below 2**63, got {describe(step)}")
    powers = {
        name: _power(owner, name, state[name], step)
        for name in ("beta1_power", "beta2_power")
        if name in state
    }
    description = read_description(owner, state["hyperparameters"])
    rate = state["learning_rate"]
    if (rate is not None) != isinstance(description["learning_rate"], np.float32):
        raise ValueError(
            f"{owner}: learning_rate must be a number where the optimizer was constructed with "
            f"one, and None otherwise; got {describe(rate)}"
        )
    rates = {} if rate is None else {"": _rate(owner, "learning_rate", rate)}
    for name, own in _by_name(owner, "learning_rates", state, names):
        rates[name] = _rate(owner, f"learning_rates of {short(name)}", own)
    missed = dict.fromkeys(names, 0)
    for name, count in _by_name(owner, "missed", state, names):
        missed[name] = integer(owner, f"missed of {short(name)}", count, at_least=0)
        if missed[name] > step:
            raise ValueError(
                f"{owner}: missed of {short(name)} is {describe(count)}, of {step} steps in all"
            )
    frozen = state.get("frozen", [])
    if not isinstance(frozen, list | tuple | set | frozenset):
        raise TypeError(f"{owner}: frozen must be a list of names, got {describe(frozen)}")
    check_names(owner, "frozen", frozen, names, optional=names)
    constants: dict[str, dict[str, float]] = {}
    for name, numbers in _by_name(owner, "constants", state, names):
        if not isinstance(numbers, Mapping):
            raise TypeError(f"{owner}: constants of {short(name)} must be a dict of numbers")
        constants[name] = {key: number(owner, str(key), x) for key, x in numbers.items()}
    counters = Counters(step, tuple(missed.values()), frozenset(frozen), rates, constants)
    return Saved(counters, description, powers)


def _by_name(
    owner: str, what: str, state: Mapping[str, Any], names: Sequence[str]
) -> list[tuple[str, Any]]:
    given = state.get(what, {})
    check_keys(owner, what, given, names, optional=names)
    return [*given.items()]


def _power(owner: str, name: str, value: Any, step: int) -> np.float32:
    power = single(owner, name, value)
    if not 0 <= power <= 1:
        raise ValueError(f"{owner}: {name} must be in [0, 1], got {power}")
    if (power == 1) != (step == 0):
        raise ValueError(f"{owner}: {name} is {power} after {step} steps; it is 1 at step 0 only")
    return power


def _rate(owner: str, name: str, value: Any) -> np.float32:
    rate = single(owner, name, value)
    if rate < 0:
        raise ValueError(f"{owner}: {name} must be >= 0, got {rate}")
    return rate


def check_shapes(
    owner: str,
    what: str,
    found: Mapping[str, tuple[int, ...]],
    parameters: Sequence[Parameter],
    holder: str = "",
) -> None:
    """Refuse arrays that are not those of the parameters, by names and shapes.

    What lacks a name, or has one too many, is the holder, if it is given.
    """
    check_names(owner, holder or what, found, [p.name for p in parameters])
    for p in parameters:
        if found[p.name] != p.shape:
            raise ValueError(
                f"{owner}: {what} of {short(p.name)} must have the parameter's shape {p.shape}, "
                f"got {found[p.name]}"
            )


def read_arrays(
    owner: str, kind: str, value: Any, parameters: Sequence[Parameter], *, squares: bool
) -> dict[str, HostArray]:
    """Check the arrays of one slot, or of the master; `squares` are never negative.

    Raises
    ------
    TypeError, ValueError
        If one is missing, unknown, of another shape or dtype, or negative where it cannot be;
        `ResidencyError` for one on a device.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{owner}: {kind} must map names to arrays, got {describe(value)}")
    for name, array in value.items():
        if not isinstance(array, np.ndarray):
            wrong = ResidencyError if backend_of(array) is not None else TypeError
            raise wrong(
                f"{owner}: {kind} of {short(name)} must be a host ndarray, got {describe(array)}"
            )
        if array.dtype not in [dtype_of(form) for form in WEIGHTS]:
            raise TypeError(
                f"{owner}: {kind} of {short(name)} must be {', '.join(WEIGHTS)}, got "
                f"{array.dtype.str}"
            )
    check_shapes(owner, kind, {name: array.shape for name, array in value.items()}, parameters)
    for name, array in value.items():
        if squares and is_negative(array):
            raise ValueError(
                f"{owner}: {kind} of {short(name)} is negative somewhere, as a mean of squares "
                f"never is"
            )
    return dict(value)


def is_negative(squares: HostArray) -> bool:
    """Return whether an entry is below 0; NaN is not, and is what NaN gradients lead to."""
    with np.errstate(invalid="ignore"):
        # Neither min(), which is NaN if one of them is, nor fmin, for which a signalling NaN wins.
        return bool(np.any(squares < 0))


def adopt(
    owner: str,
    saved: Saved,
    settings: Settings,
    own: Counters,
    *,
    strict: bool,
    stacklevel: int,
    names: Sequence[str] | None = None,
) -> Counters:
    """Compare a state with the settings of an optimizer; return the counters to take over.

    `names` are the parameters that the state is of; all, if left out. `stacklevel` leads a warning
    from here to the user's call.

    Raises
    ------
    ValueError
        If the groups are of other parameters, or hyper-parameters differ and `strict` is True.
    """
    grouped = [name for group in saved.description["groups"] for name in group["params"]]
    check_names(owner, "groups of hyperparameters", grouped, names or settings.names)
    for constants in saved.counters.constants.values():
        settings.with_constants(constants)  # refuses what is no constant of this rule
    here = own.rates.get("", settings.rate.source)
    found = _differences(saved, settings, here)
    rates = dict(saved.counters.rates)
    if found:
        message = f"{owner}: the state belongs to other hyper-parameters: "
        message += "; ".join(found.values())
        if strict:
            raise ValueError(
                f"{message}. Construct the optimizer as it was, or load with strict=False to keep "
                f"those that are here; a fixed learning_rate can also be assigned after loading"
            )
        warnings.warn(f"{message}; kept those that are here", UserWarning, stacklevel)
        if "learning_rate" in found:
            rates.pop("", None)
            rates |= {"": own.rates[""]} if "" in own.rates else {}
    if not isinstance(settings.rate, FixedRate):
        rates.pop("", None)
    return saved.counters._replace(rates=rates)


def _differences(saved: Saved, settings: Settings, rate: Any) -> dict[str, str]:
    """Return what an optimizer was constructed with and the state was not, in words."""
    found = settings.differences(saved.description)
    # A rate that was assigned in the run may be passed to the constructor of the next one.
    fixed = isinstance(settings.rate, FixedRate)
    if fixed and saved.counters.rates.get("") == rate:
        found.pop("learning_rate", None)
    steps = saved.counters.global_step
    for name, power in saved.powers.items():
        beta = name.removesuffix("_power")
        expected, slack = _expected(float(np.float32(getattr(settings.rule, beta, 0.0))), steps)
        if not {beta, "rule"} & {*found} and abs(power - expected) > slack:
            found[name] = f"{name}: {power} in the state, {expected:.6g} is {beta}**{steps}"
    return found


def _expected(beta: float, steps: int) -> tuple[float, float]:
    """Return a power and by how much a product that is rounded each time may differ from it."""
    exact = beta**steps
    rounding = math.expm1(min(steps * 2.0**-23, 80.0))  # twice the half ulp of each product
    return exact, exact * rounding + float(np.finfo(np.float32).smallest_normal)
