"""The state of an optimizer: what it takes to go on exactly where a run has stopped.

State is moments, beta powers, the step counter, and the fixed learning rate as last assigned. The
hyper-parameters stand beside it, to be compared: the same moments under another beta are another
run. Everything is checked before anything is replaced, and a failure half-way is never silent.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adamoffload.arguments import describe, integer
from adamoffload.device.backend import Array, Backend, HostArray, ResidencyError, backend_of
from adamoffload.names import check_keys, check_names, short
from adamoffload.offload.groups import FixedRate
from adamoffload.offload.hyperparameters import described, differences, read_described, single
from adamoffload.plan.step import Progress

if TYPE_CHECKING:
    from adamoffload.offload.abstract import AbstractAdam

__all__ = [
    "Counters",
    "adopt",
    "check_shapes",
    "counters_of",
    "is_negative",
    "load",
    "places",
    "read_counters",
    "replacing",
    "state_of",
]

MOMENTS = ("moment1", "moment2")
_COUNTERS = ("global_step", "beta1_power", "beta2_power", "learning_rate")
_KEYS = (*_COUNTERS, "hyperparameters", *MOMENTS)
_STEPS = 2**63  # what an int64 in another program still holds


@dataclass(frozen=True, slots=True)
class Counters:
    """Everything in a state but its arrays.

    Attributes
    ----------
    global_step : int
        Completed steps.
    beta1_power, beta2_power : float32
        Products of the betas.
    learning_rate : float32 or None
        The default rate as last assigned; None if it is a table or a schedule.
    hyperparameters : dict
        As the optimizer was constructed: `adamoffload.offload.hyperparameters`.
    """

    global_step: int
    beta1_power: np.float32
    beta2_power: np.float32
    learning_rate: np.float32 | None
    hyperparameters: dict[str, Any]


# -- an optimizer's own state -----------------------------------------------------------------


def state_of(optimizer: AbstractAdam) -> dict[str, Any]:
    """Return a copy of the state, as `AdamOffload.state_dict` documents it."""
    optimizer._integrity.settled(optimizer._settle)
    counters = counters_of(optimizer)
    state: dict[str, Any] = {
        field.name: getattr(counters, field.name) for field in fields(Counters)
    }
    for kind in MOMENTS:
        state[kind] = {
            name: optimizer._backend.asnumpy(x) if optimizer._backend.owns(x) else x.copy()
            for name, x in getattr(optimizer, kind).items()
        }
    return state


def counters_of(optimizer: AbstractAdam) -> Counters:
    """Return everything in an optimizer's state but its arrays."""
    rate = optimizer._rate
    return Counters(
        optimizer.global_step,
        optimizer.beta1_power,
        optimizer.beta2_power,
        rate.value if isinstance(rate, FixedRate) else None,
        described(optimizer),
    )


# -- what somebody passes as one --------------------------------------------------------------


def read_counters(owner: str, state: Any) -> Counters:
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
    >>> read_counters("example", state).beta1_power
    np.float32(1.0)
    >>> read_counters("example", {**state, "global_step": 1})
    Traceback (most recent call last):
    ValueError: example: beta1_power is 1.0 after 1 steps; it is 1 at step 0 only
    """
    step = integer(owner, "global_step", state["global_step"], at_least=0)
    if step >= _STEPS:
        raise ValueError(f"{owner}: global_step must be below 2**63, got {describe(step)}")
    powers = []
    for name in ("beta1_power", "beta2_power"):
        power = single(owner, name, state[name])
        if not 0 <= power <= 1:
            raise ValueError(f"{owner}: {name} must be in [0, 1], got {power}")
        if (power == 1) != (step == 0):
            raise ValueError(
                f"{owner}: {name} is {power} after {step} steps; it is 1 at step 0 only"
            )
        powers.append(power)
    hyperparameters = read_described(owner, state["hyperparameters"])
    rate = state["learning_rate"]
    if (rate is not None) != isinstance(hyperparameters["learning_rate"], np.float32):
        raise ValueError(
            f"{owner}: learning_rate must be a number where the optimizer was constructed with "
            f"one, and None otherwise; got {describe(rate)}"
        )
    if rate is not None:
        rate = single(owner, "learning_rate", rate)
        if rate < 0:
            raise ValueError(f"{owner}: learning_rate must be >= 0, got {rate}")
    return Counters(step, powers[0], powers[1], rate, hyperparameters)


def check_shapes(
    owner: str,
    what: str,
    found: Mapping[str, tuple[int, ...]],
    optimizer: AbstractAdam,
    holder: str = "",
) -> None:
    """Refuse arrays that are not those of the optimizer's parameters, by names and shapes.

    What lacks a name, or has one too many, is the holder, if it is given.
    """
    check_names(owner, holder or what, found, [p.name for p in optimizer.parameters])
    for p in optimizer.parameters:
        if found[p.name] != p.shape:
            raise ValueError(
                f"{owner}: {what} of {short(p.name)} must have the parameter's shape {p.shape}, "
                f"got {found[p.name]}"
            )


def _read_moments(
    owner: str, kind: str, value: Any, optimizer: AbstractAdam
) -> dict[str, HostArray]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{owner}: {kind} must map names to arrays, got {describe(value)}")
    for name, array in value.items():
        if not isinstance(array, np.ndarray):
            place = ResidencyError if backend_of(array) is not None else TypeError
            raise place(
                f"{owner}: {kind} of {short(name)} must be a host ndarray, got {describe(array)}"
            )
        if array.dtype != np.float32:
            raise TypeError(
                f"{owner}: {kind} of {short(name)} must be float32, got {array.dtype.str}"
            )
    check_shapes(owner, kind, {name: array.shape for name, array in value.items()}, optimizer)
    for name, array in value.items():
        if kind == "moment2" and is_negative(array):
            raise ValueError(
                f"{owner}: moment2 of {short(name)} is negative somewhere, as a mean of squares "
                f"never is"
            )
    return dict(value)


def is_negative(moment2: HostArray) -> bool:
    """Return whether an entry is below 0; NaN is not, and is what NaN gradients lead to."""
    with np.errstate(invalid="ignore"):
        # Neither min(), which is NaN if one of them is, nor fmin, for which a signalling NaN wins.
        return bool(np.any(moment2 < 0))


# -- loading ----------------------------------------------------------------------------------

Key = tuple[str, str]
"""Which array: its kind, ``"moment1"`` for instance, and its parameter's name."""


def places(optimizer: AbstractAdam) -> dict[Key, Array]:
    """Return the arrays of an optimizer, parameters first, wherever they live."""
    own = {("parameter", p.name): p.data for p in optimizer.parameters}
    return own | {(k, n): array for k in MOMENTS for n, array in getattr(optimizer, k).items()}


def load(optimizer: AbstractAdam, state: Any, *, strict: bool) -> None:
    """Replace the state of an optimizer, whose lock the caller holds.

    Parameters and errors are those of `AdamOffload.load_state_dict`. What is on the device comes
    first, since a copy there may fail. Then it is undone: what was there has been brought to the
    host before, where memory is not scarce. Copies within the host do not fail.
    """
    owner, backend = "load_state_dict", optimizer._backend
    check_keys(owner, "the state", state, _KEYS)
    counters = read_counters(owner, state)
    moments = {kind: _read_moments(owner, kind, state[kind], optimizer) for kind in MOMENTS}
    adopted = adopt(optimizer, counters, strict, owner, stacklevel=4)
    new = {(kind, name): array for kind in MOMENTS for name, array in moments[kind].items()}
    targets = {key: array for key, array in places(optimizer).items() if key in new}
    away = {key: array for key, array in targets.items() if backend.owns(array)}
    near = {key: array for key, array in targets.items() if key not in away}
    # A view of one moment may come as the state of another.
    new = {key: x.copy() if _overlaps(x, near.values()) else x for key, x in new.items()}
    with replacing(optimizer, adopted) as touched:
        before = {key: backend.asnumpy(array) for key, array in away.items()}
        try:
            _send(backend, away, new, touched)
        except BaseException:
            backend.synchronize()  # an interrupt may have left a copy on its way
            _send(backend, {key: away[key] for key in touched}, before, [])
            touched.clear()
            raise
        for key, array in near.items():
            touched.append(key)
            np.copyto(array, new[key])


def _differences(own: Counters, saved: Counters) -> dict[str, str]:
    """Return what an optimizer was constructed with and the state was not, in words."""
    found = differences(saved.hyperparameters, own.hyperparameters)
    # A rate that was assigned in the run may be passed to the constructor of the next one.
    if saved.learning_rate is not None and saved.learning_rate == own.learning_rate:
        found.pop("learning_rate", None)
    for name, power in (("beta1", saved.beta1_power), ("beta2", saved.beta2_power)):
        expected, slack = _power(float(own.hyperparameters[name]), saved.global_step)
        if name not in found and abs(power - expected) > slack:
            found[f"{name}_power"] = (
                f"{name}_power: {power} in the state, {expected:.6g} is {name}**{saved.global_step}"
            )
    return found


def _power(beta: float, step: int) -> tuple[float, float]:
    """Return a power and by how much a product that is rounded each time may differ from it."""
    exact = beta**step
    rounding = math.expm1(min(step * 2.0**-23, 80.0))  # twice the half ulp of each product
    return exact, exact * rounding + float(np.finfo(np.float32).smallest_normal)


def adopt(
    optimizer: AbstractAdam, counters: Counters, strict: bool, owner: str, stacklevel: int
) -> Counters:
    """Check counters against an optimizer; return what it is to take over.

    `stacklevel` leads a warning from here to the user's call.

    Raises
    ------
    ValueError
        If the groups are of other parameters, or hyper-parameters differ and `strict` is True.
    """
    names = [name for group in counters.hyperparameters["groups"] for name in group["params"]]
    own = counters_of(optimizer)
    check_names(owner, "groups of hyperparameters", names, [p.name for p in optimizer.parameters])
    found = _differences(own, counters)
    if not found:
        return counters
    message = f"{owner}: the state belongs to other hyper-parameters: {'; '.join(found.values())}"
    if strict:
        raise ValueError(
            f"{message}. Construct the optimizer as it was, or load with strict=False to keep "
            f"those that are here; a fixed learning_rate can also be assigned after loading"
        )
    warnings.warn(f"{message}; kept those that are here", UserWarning, stacklevel)
    rate = own.learning_rate if "learning_rate" in found else counters.learning_rate
    return replace(counters, learning_rate=rate)


@contextmanager
def replacing(optimizer: AbstractAdam, counters: Counters) -> Iterator[list[Key]]:
    """Guard the block that replaces arrays: it appends the key of each before it begins.

    If it ends well, the counters follow, and the optimizer is whole. If it fails with a key in the
    list, the optimizer refuses to go on.
    """
    touched: list[Key] = []
    with optimizer._integrity.replacing("a load", touched):
        optimizer._settle()  # nothing may still write there; what has failed is replaced
        optimizer._backend.synchronize()
        yield touched
        optimizer._forget()
        optimizer._progress = Progress(
            counters.beta1_power, counters.beta2_power, counters.global_step
        )
        if isinstance(optimizer._rate, FixedRate) and counters.learning_rate is not None:
            optimizer._rate.value = counters.learning_rate


def _send(
    backend: Backend,
    targets: Mapping[Key, Array],
    sources: Mapping[Key, HostArray],
    touched: list[Key],
) -> None:
    for key, target in targets.items():
        touched.append(key)
        backend.h2d(np.asarray(sources[key], order="C"), target).wait()


def _overlaps(array: HostArray, others: Iterable[HostArray]) -> bool:
    return any(np.may_share_memory(array, other) for other in others)
