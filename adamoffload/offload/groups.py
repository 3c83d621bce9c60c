"""Reads what a user passes as parameters: a list of them, or groups with numbers of their own.

The result is one `Group` for each parameter; parameters that share all hyper-parameters share the
`Group` object. Everything wrong is refused here, before an optimizer exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from adamoffload.arguments import describe, flag
from adamoffload.device.backend import ResidencyError
from adamoffload.device.parameter import Parameter
from adamoffload.plan.formats import WEIGHTS
from adamoffload.rules.rates import Decay, Rate, TableRate, read_decay, read_rate

__all__ = ["Group", "read_parameters"]

_GROUP_KEYS = ("params", "lr", "weight_decay", "grad_centralization", "order_params")


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The hyper-parameters that some parameters share."""

    rate: Rate
    decay: Decay
    centralize: bool = False


def read_parameters(
    owner: str, params: object, rate: Rate, decay: Decay, exempt: Sequence[str] = ()
) -> tuple[tuple[Parameter, ...], tuple[Group, ...], bool]:
    """Read parameters or groups of them.

    Parameters
    ----------
    owner : str
        The optimizer's name, for messages.
    params : iterable of Parameter, or of dict
        What the user passed.
    rate, decay : Rate, Decay
        The defaults, for what a group leaves out.
    exempt : sequence of str
        Without groups, parameters with one of these in their name get no decay.

    Returns
    -------
    parameters : tuple of Parameter
        In update order.
    groups : tuple of Group
        The group of each, same order.
    grouped : bool
        Whether the user gave groups.

    Raises
    ------
    TypeError, ValueError, KeyError, RuntimeError, AttributeError
        If something is wrong; the types are those of the reference implementation.
    """
    items = _items(owner, "params", params)
    grouped = all(isinstance(item, dict) for item in items)
    if all(isinstance(item, Parameter) for item in items):
        decayed = Group(rate, decay)
        plain = Group(rate, Decay(owner, 0.0))
        parameters = tuple(items)
        groups = tuple(plain if any(part in p.name for part in exempt) else decayed for p in items)
    elif grouped:
        parameters, groups = _read_groups(owner, items, Group(rate, decay))
    else:
        stranger = next(item for item in items if not isinstance(item, Parameter))
        raise TypeError(
            f"{owner}: params must hold Parameter objects only, or dicts (groups) only; got "
            f"{describe(stranger)}"
        )
    _check_names(owner, parameters)
    _check_arrays(owner, parameters)
    _check_tables(owner, groups)
    return parameters, groups, grouped


def _items(owner: str, name: str, value: object) -> list[Any]:
    if value is None:
        raise ValueError(f"{owner}: {name} must be an iterable of Parameter, got None")
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping | Parameter):
        raise TypeError(
            f"{owner}: {name} must be an iterable of Parameter, such as a list, got "
            f"{describe(value)}"
        )
    items = list(value)
    if not items:
        raise ValueError(f"{owner}: {name} must not be empty")
    return items


def _read_groups(
    owner: str, dicts: Sequence[dict[str, Any]], default: Group
) -> tuple[tuple[Parameter, ...], tuple[Group, ...]]:
    order: object = ()
    members: list[tuple[Parameter, Group]] = []
    known: set[int] = set()
    for entry in dicts:
        unknown = [key for key in entry if key not in _GROUP_KEYS]
        if unknown:
            raise KeyError(
                f"{owner}: a group has no key {unknown[0]!r}; keys are {', '.join(_GROUP_KEYS)}"
            )
        if "order_params" in entry:
            if len(entry) > 1:
                raise ValueError(
                    f"{owner}: order_params must stand alone in its dict, got it beside "
                    f"{', '.join(key for key in entry if key != 'order_params')}"
                )
            if order != ():
                raise ValueError(f"{owner}: order_params must be given once")
            order = entry["order_params"]
            continue
        group = _read_group(owner, entry, default)
        for parameter in _items(owner, "a group's params", entry["params"]):
            if not isinstance(parameter, Parameter):
                raise TypeError(
                    f"{owner}: a group's params must hold Parameter objects, got "
                    f"{describe(parameter)}"
                )
            if id(parameter) in known:
                raise RuntimeError(f"{owner}: parameter {parameter.name!r} is in two places")
            known.add(id(parameter))
            members.append((parameter, group))
    _check_names(owner, [parameter for parameter, _ in members])
    members = _ordered(owner, members, order)
    if not members:
        raise ValueError(
            f"{owner}: params must not be empty: there are no parameters in the groups"
        )
    return tuple(p for p, _ in members), tuple(group for _, group in members)


def _read_group(owner: str, entry: dict[str, Any], default: Group) -> Group:
    if "params" not in entry:
        raise KeyError(f"{owner}: a group needs the key 'params', got {sorted(entry)}")
    group = replace(default)  # a copy: `Group` objects are told apart by identity
    if "lr" in entry:
        group = replace(group, rate=read_rate(owner, entry["lr"]))
    if "weight_decay" in entry:
        group = replace(group, decay=read_decay(owner, entry["weight_decay"]))
    if "grad_centralization" in entry:
        centralize = flag(owner, "grad_centralization", entry["grad_centralization"])
        group = replace(group, centralize=centralize)
    return group


def _ordered(
    owner: str, members: list[tuple[Parameter, Group]], order: object
) -> list[tuple[Parameter, Group]]:
    if not isinstance(order, list | tuple | str):
        raise TypeError(
            f"{owner}: order_params must be a list or tuple of Parameter, got {describe(order)}"
        )
    if not order:  # an empty order asks for nothing
        return members
    if len(order) != len(members):
        raise ValueError(
            f"{owner}: order_params must name every parameter once: it has {len(order)} entries "
            f"for {len(members)} parameters"
        )
    by_name = {parameter.name: (parameter, group) for parameter, group in members}
    ordered = []
    for entry in order:
        if not isinstance(entry, Parameter):
            raise AttributeError(
                f"{owner}: order_params must hold Parameter objects, got {describe(entry)}, which "
                f"has no name"
            )
        if entry.name not in by_name:
            raise ValueError(
                f"{owner}: order_params names {entry.name!r}, which is in no group or named twice"
            )
        ordered.append(by_name.pop(entry.name))
    return ordered


def _check_names(owner: str, parameters: Sequence[Parameter]) -> None:
    seen: dict[str, Parameter] = {}
    for parameter in parameters:
        other = seen.setdefault(parameter.name, parameter)
        if other is not parameter:
            raise ValueError(
                f"{owner}: two parameters are called {parameter.name!r}; state is kept by name, "
                f"so names must differ"
            )
    if len(seen) < len(parameters):
        twice = Counter(parameter.name for parameter in parameters).most_common(1)[0][0]
        raise ValueError(f"{owner}: parameter {twice!r} is given twice; give each one once")


def _check_arrays(owner: str, parameters: Sequence[Parameter]) -> None:
    device = parameters[0].backend
    spans = []
    for parameter in parameters:
        if parameter.backend is None:
            raise ResidencyError(
                f"{owner}: parameter {parameter.name!r} is on the host; create it with "
                f"Parameter(device.asarray(x), name=...)"
            )
        if parameter.backend is not device:
            raise ResidencyError(
                f"{owner}: all parameters must be on one device; {parameters[0].name!r} is on "
                f"{device!r} and {parameter.name!r} on another, {parameter.backend!r}"
            )
        if parameter.dtype.name not in WEIGHTS:
            raise TypeError(
                f"{owner}: parameter {parameter.name!r} must be {', '.join(WEIGHTS[:-1])} or "
                f"{WEIGHTS[-1]}, got {parameter.dtype}; create it with "
                f"Parameter(device.asarray(x.astype(np.float32)), name=...)"
            )
        if parameter.dtype != parameters[0].dtype:
            raise TypeError(
                f"{owner}: all parameters must be of one type; {parameters[0].name!r} is "
                f"{parameters[0].dtype} and {parameter.name!r} {parameter.dtype}: give each type "
                f"an optimizer of its own"
            )
        if parameter.size == 0:
            raise ValueError(
                f"{owner}: parameter {parameter.name!r} has shape {parameter.shape}: "
                f"it must have at least one element"
            )
        spans.append((parameter.backend._address(parameter.data), parameter))
    spans.sort(key=lambda span: span[0])
    for (start, first), (following, second) in pairwise(spans):
        if start + first.dtype.itemsize * first.size > following:
            raise ValueError(
                f"{owner}: parameters {first.name!r} and {second.name!r} share memory; each must "
                f"have its own"
            )


def _check_tables(owner: str, groups: Sequence[Group]) -> None:
    lengths = {len(group.rate.source) for group in groups if isinstance(group.rate, TableRate)}
    if len(lengths) > 1:
        raise ValueError(
            f"{owner}: learning_rate tables must have the same size in all groups, got "
            f"{sorted(lengths)}"
        )
