"""Describes the hyper-parameters of an optimizer as plain data, reads and compares them.

Numbers and tables stand by value, schedules and other callables by name, ours also by their
arguments: what is equal computes the same. A description survives a file, where the arguments of
`AdamOffload` would not.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from adamoffload.arguments import describe, flag, float32, number
from adamoffload.names import check_keys, listed
from adamoffload.offload.groups import FixedRate, Rate
from adamoffload.schedules import LearningRateSchedule

if TYPE_CHECKING:
    from adamoffload.offload.abstract import AbstractAdam

__all__ = ["described", "differences", "read_described", "single"]

_NUMBERS = ("beta1", "beta2", "eps", "use_nesterov", "loss_scale")
_GROUP_KEYS = ("params", "lr", "weight_decay", "grad_centralization")
_BY_DEFAULT = "the optimizer's learning_rate"
_SHOWN = 4  # entries of a table that a message spells out


def described(optimizer: AbstractAdam) -> dict[str, Any]:
    """Return the hyper-parameters with which an optimizer was constructed."""
    return {
        "beta1": optimizer._beta1,
        "beta2": optimizer._beta2,
        "eps": optimizer._eps,
        "use_nesterov": optimizer._nesterov,
        "loss_scale": optimizer._loss_scale,
        "learning_rate": _rate(optimizer._rate),
        "groups": _groups(optimizer),
    }


def _groups(optimizer: AbstractAdam) -> list[dict[str, Any]]:
    names: dict[int, list[str]] = {}
    for parameter, group in zip(optimizer.parameters, optimizer._groups, strict=True):
        names.setdefault(id(group), []).append(parameter.name)
    groups = []
    for group in optimizer._distinct:
        entry: dict[str, Any] = {"params": names[id(group)]}
        if group.rate is not optimizer._rate:
            entry["lr"] = _rate(group.rate)
        source = group.decay.source
        entry["weight_decay"] = _function(source) if callable(source) else np.float32(source)
        entry["grad_centralization"] = group.centralize
        groups.append(entry)
    return groups


def _rate(rate: Rate) -> Any:
    if isinstance(rate, FixedRate):
        return rate.given
    source = rate.source
    return _function(source) if isinstance(source, LearningRateSchedule) else source.copy()


def _function(function: Any) -> dict[str, Any]:
    """Describe a schedule or a callable: its name, and the arguments of those that we know."""
    kind = type(function)
    if kind.__module__ == LearningRateSchedule.__module__:
        arguments = {field.name: getattr(function, field.name) for field in fields(function)}
        return {"callable": kind.__qualname__, "arguments": arguments}
    return {"callable": getattr(function, "__qualname__", kind.__qualname__)}


# -- reading ----------------------------------------------------------------------------------


def read_described(owner: str, value: Any) -> dict[str, Any]:
    """Check a description of hyper-parameters, and return it with float32 numbers and tables.

    Raises
    ------
    TypeError, ValueError
        If something is missing, unknown or of the wrong kind.
    """
    check_keys(owner, "hyperparameters", value, (*_NUMBERS, "learning_rate", "groups"))
    where = f"{owner}: hyperparameters"
    read: dict[str, Any] = {key: single(where, key, value[key]) for key in _NUMBERS[:3]}
    read["use_nesterov"] = flag(where, "use_nesterov", value["use_nesterov"])
    read["loss_scale"] = number(where, "loss_scale", value["loss_scale"], above=0)
    read["learning_rate"] = _described(where, "learning_rate", value["learning_rate"])
    if not isinstance(value["groups"], list):
        raise TypeError(f"{where}: groups must be a list, got {describe(value['groups'])}")
    read["groups"] = [_read_group(where, group) for group in value["groups"]]
    return read


def _read_group(where: str, group: Any) -> dict[str, Any]:
    check_keys(where, "a group", group, _GROUP_KEYS, optional=("lr",))
    names = group["params"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{where}: a group's params must be a list of names")
    read: dict[str, Any] = {"params": list(names)}
    for key in ("lr", "weight_decay"):
        if key in group:
            read[key] = _described(where, key, group[key])
    key = "grad_centralization"
    return {**read, key: flag(where, key, group[key])}


def _described(where: str, name: str, value: Any) -> Any:
    """Read a number, a table, or the description of a callable."""
    if isinstance(value, list | np.ndarray):
        return _table(where, name, value)
    if not isinstance(value, dict):
        return single(where, name, value)
    check_keys(where, name, value, ("callable", "arguments"), optional=("arguments",))
    arguments = value.get("arguments", {})
    if not isinstance(value["callable"], str) or not isinstance(arguments, dict):
        raise TypeError(f"{where}: {name} must be described by the name of a callable")
    for key, argument in arguments.items():
        if not isinstance(key, str) or not isinstance(argument, bool):
            number(where, f"{name}'s argument {describe(key)}", argument)
    return {key: dict(item) if key == "arguments" else item for key, item in value.items()}


def _table(where: str, name: str, value: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    if isinstance(value, list):
        if not all(type(entry) is float for entry in value):  # what a checkpoint's JSON gives
            raise TypeError(f"{where}: {name} must be a table of floats")
        value = np.array(value, np.float64)
    if value.ndim != 1 or value.dtype.kind != "f" or not len(value):
        raise ValueError(f"{where}: {name} must be a table: floats, one dimension")
    float32(where, name, float(np.abs(value).max()))
    table: np.ndarray[Any, np.dtype[np.float32]] = value.astype(np.float32)
    if not np.all(np.isfinite(table)):
        raise ValueError(f"{where}: {name} must be finite")
    return table


def single(owner: str, name: str, value: Any) -> np.float32:
    """Read a float32, also where it is written as a Python number, which is rounded."""
    if isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be a number, got {value} (bool)")
    return float32(owner, name, number(owner, name, value))


# -- comparing --------------------------------------------------------------------------------


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, str]:
    """Return where two descriptions differ, in words, by a key that begins with what differs."""
    found = {
        key: f"{key}: {_shown(theirs[key])} in the state, {_shown(ours[key])} here"
        for key in (*_NUMBERS, "learning_rate")
        if not _same(theirs[key], ours[key])
    }
    return found | _group_differences(theirs["groups"], ours["groups"])


def _group_differences(theirs: list[Any], ours: list[Any]) -> dict[str, str]:
    by_name = [
        {name: {"lr": _BY_DEFAULT, **group} for group in groups for name in group["params"]}
        for groups in (theirs, ours)
    ]
    found: dict[tuple[str, str, str], list[str]] = {}
    for key in _GROUP_KEYS[1:]:
        for name, here in by_name[1].items():
            there = by_name[0][name]
            if not _same(there[key], here[key]):
                found.setdefault((key, _shown(there[key]), _shown(here[key])), []).append(name)
    return {
        f"{key} {i}": f"{key} of {listed(names)}: {there} in the state, {here} here"
        for i, ((key, there, here), names) in enumerate(found.items())
    }


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return type(left) is type(right) and np.array_equal(left, right)
    return bool(left == right)


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        entries = ", ".join(str(x) for x in value[:_SHOWN])
        more = ", ..." if len(value) > _SHOWN else ""
        return f"a table of {len(value)} entries ({entries}{more})"
    if isinstance(value, dict):
        arguments = ", ".join(f"{k}={v}" for k, v in value.get("arguments", {}).items())
        return f"{value['callable']}({arguments})" if arguments else value["callable"]
    return str(value)
