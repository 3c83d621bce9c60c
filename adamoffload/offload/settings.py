"""`Settings`: what an optimizer was constructed with, as a value.

It can describe itself as plain data, which survives a file, and say how it differs from another's
description. Numbers and tables stand by value, callables by name, our schedules also by their
arguments, and other objects by the numbers in them: as far as those tell, what is equal computes
the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from adamoffload.arguments import describe, flag, float32, number
from adamoffload.names import check_keys, listed
from adamoffload.offload.groups import Group
from adamoffload.plan.formats import Format
from adamoffload.plan.step import Coefficients
from adamoffload.rules.rates import Decay, FunctionRate, Rate, numbers_in, read_decay
from adamoffload.rules.rule import Rule
from adamoffload.schedules import LearningRateSchedule

__all__ = ["Settings", "read_description", "read_loss_scale", "single"]

_GROUP_KEYS = ("params", "lr", "weight_decay", "grad_centralization")
_KEYS = ("rule", "constants", "loss_scale", "learning_rate", "groups")
_BY_DEFAULT = "the optimizer's learning_rate"
_SHOWN = 4  # entries of a table that a message spells out


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What an optimizer was constructed with.

    Attributes
    ----------
    owner : str
        The optimizer's name, for messages.
    rule : Rule
        What is computed.
    loss_scale : float
        What the loss was multiplied by.
    unscale : float32
        What gradients are multiplied by to undo it.
    names : tuple of str
        Of the parameters, in update order.
    groups : tuple of Group
        The distinct ones, as they come in update order.
    group_of : tuple of int
        The index among them of each parameter's group.
    rate : Rate
        The default learning rate.
    weights : str
        Format of the parameters.
    max_norm : float or None
        What the norm of all gradients is clipped to.
    seed : int
        Of the bits for stochastic rounding.
    scaled : bool
        Whether gradients are multiplied first and decayed then, or the other way round.
    """

    owner: str
    rule: Rule
    loss_scale: float
    unscale: np.float32
    names: tuple[str, ...]
    groups: tuple[Group, ...]
    group_of: tuple[int, ...]
    rate: Rate
    weights: Format = "float32"
    max_norm: float | None = None
    seed: int = 0
    scaled: bool = False

    def coefficients(
        self,
        lr: np.float32,
        decay: np.float32,
        t: int,
        constants: Mapping[str, float] = MappingProxyType({}),
    ) -> Coefficients:
        """Return what some parameters compute with in a step.

        Parameters
        ----------
        lr, decay : float32
            Learning rate and weight decay of the step.
        t : int
            Updates that they have had with this one.
        constants : mapping from str to float
            What they have in the place of the rule's numbers.
        """
        rule = self.with_constants(constants) if constants else self.rule
        decay = np.float32(constants.get("weight_decay", decay))
        l2, keep = np.float32(0), np.float32(1)
        if self.rule.decay == "l2":
            l2 = self.l2(decay)
        else:
            keep = np.float32(1 - float(lr) * float(decay))
        scalars = {name: np.float32(x) for name, x in rule.scalars(lr, t).items()}
        return Coefficients(lr, l2, keep, t, scalars)

    def with_constants(self, constants: Mapping[str, float]) -> Rule:
        """Return the rule with other numbers: one that runs in the same program.

        Raises
        ------
        TypeError, ValueError
            If there is no such number, it is not one that the rule takes, or with it the rule would
            keep or compute something else.
        """
        owner, rule = self.owner, self.rule
        own = {key: x for key, x in _constants(rule).items() if type(x) in (int, float)}
        check_keys(owner, "constants", constants, known := [*own, "weight_decay"], known)
        if not is_dataclass(rule):
            raise TypeError(
                f"{owner}: constants of {type(rule).__name__} cannot be replaced, since "
                f"it is no dataclass"
            )
        read_decay(owner, constants.get("weight_decay", 0.0))
        changed: Rule = replace(rule, **constants)
        one = np.float32(1)
        if changed.slots != rule.slots or {*changed.scalars(one, 1)} != {*rule.scalars(one, 1)}:
            raise ValueError(
                f"{owner}: with {dict(constants)} the rule would keep other slots or compute "
                f"something else; construct another optimizer with it"
            )
        return changed

    def l2(self, decay: np.float32) -> np.float32:
        """Return what times a parameter is added to its gradient."""
        if self.scaled:
            return decay
        product = float(decay) * self.loss_scale
        return float32(self.owner, "weight_decay * loss_scale", product)

    def warn_of_unsaved(self, caller: str, stacklevel: int) -> None:
        """Warn of objects that compute a rate or a decay and have changed since construction.

        What they have in them is compared when a state is loaded, but it is not brought back.
        """
        found: dict[str, None] = {}
        for group in self.groups:
            for name, value in (("learning_rate", group.rate), ("weight_decay", group.decay)):
                changed = _changed(value) if isinstance(value, FunctionRate | Decay) else ""
                if changed:
                    found[f"{name} {_function(value.source)['callable']} ({changed})"] = None
        if found:
            warnings.warn(
                f"{caller}: the state of {'; '.join(found)} is not saved; keep it yourself, and "
                f"bring it back before the optimizer's is loaded",
                UserWarning,
                stacklevel + 1,
            )

    # -- as plain data --------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        """Return all of it as plain data.

        Returns
        -------
        dict
            ``rule``: its name. ``constants``: dict of its numbers, but for rate and decay.
            ``loss_scale``: float. ``learning_rate``: float32, table or description of a callable.
            ``groups``: list of dict, with ``params``, a list of names, ``weight_decay``,
            ``grad_centralization`` and, where it is not the default, ``lr``.
        """
        return {
            "rule": type(self.rule).__name__,
            "constants": _constants(self.rule),
            "loss_scale": self.loss_scale,
            "learning_rate": _described(self.rate),
            "groups": self._described_groups(),
        }

    def _described_groups(self) -> list[dict[str, Any]]:
        names: list[list[str]] = [[] for _ in self.groups]
        for name, index in zip(self.names, self.group_of, strict=True):
            names[index].append(name)
        described = []
        for group, members in zip(self.groups, names, strict=True):
            entry: dict[str, Any] = {"params": members}
            if group.rate is not self.rate:
                entry["lr"] = _described(group.rate)
            source = group.decay.source
            entry["weight_decay"] = _function(source) if callable(source) else np.float32(source)
            entry["grad_centralization"] = group.centralize
            described.append(entry)
        return described

    def differences(self, other: Mapping[str, Any]) -> dict[str, str]:
        """Return where a description differs from this one, in words, by what differs."""
        own, found = self.description(), dict[str, str]()
        for key in ("rule", "loss_scale", "learning_rate"):
            if not _same(other[key], own[key]):
                found[key] = f"{key}: {_shown(other[key])} in the state, {_shown(own[key])} here"
        if "rule" not in found:
            for key in own["constants"] | other["constants"]:
                there, here = (x["constants"].get(key) for x in (other, own))
                if not _same(there, here):
                    found[key] = f"{key}: {_shown(there)} in the state, {_shown(here)} here"
        return found | _group_differences(other["groups"], own["groups"])


def _changed(function: FunctionRate | Decay) -> str:
    before, now = function.first, numbers_in(function.source)
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return ", ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed)


def _constants(rule: Any) -> dict[str, Any]:
    names = [f.name for f in fields(rule)] if is_dataclass(rule) else [*vars(rule)]
    given = {name: getattr(rule, name) for name in names}
    return {
        name: value if isinstance(value, bool | int | float | str) else _function(value)
        for name, value in given.items()
        if name not in ("learning_rate", "weight_decay")
    }


def _described(rate: Rate) -> Any:
    source = rate.source
    return _function(source) if callable(source) else source.copy()


def _function(function: Any) -> dict[str, Any]:
    """Describe a callable: its name, and the numbers in it; of our schedules, the arguments."""
    kind = type(function)
    if kind.__module__ == LearningRateSchedule.__module__:
        arguments = {field.name: getattr(function, field.name) for field in fields(function)}
        return {"callable": kind.__qualname__, "arguments": arguments}
    described = {"callable": getattr(function, "__qualname__", kind.__qualname__)}
    numbers = numbers_in(function)
    return {**described, "arguments": numbers} if numbers else described


# -- reading ----------------------------------------------------------------------------------


def read_loss_scale(owner: str, value: object) -> tuple[float, np.float32]:
    """Return the loss scale and what gradients are multiplied by to undo it.

    Raises
    ------
    TypeError, ValueError
        If it is no number > 0, or its inverse is 0 or infinite in float32.

    Examples
    --------
    >>> read_loss_scale("AdamOffload", 1024)
    (1024.0, np.float32(0.0009765625))
    """
    scale = number(owner, "loss_scale", value, above=0)
    unscale = float32(owner, "1 / loss_scale", 1 / scale if scale > 1e-300 else np.inf)
    if unscale == 0:
        raise ValueError(f"{owner}: 1 / loss_scale must be > 0 in float32; loss_scale is {scale}")
    return scale, unscale


def read_description(owner: str, value: Any) -> dict[str, Any]:
    """Check a description, and return it with float32 numbers and tables.

    A description of 0.1, which knew one rule only, is read as one of ``Adam``.

    Raises
    ------
    TypeError, ValueError
        If something is missing, unknown or of the wrong kind.
    """
    where = f"{owner}: hyperparameters"
    if isinstance(value, Mapping) and "use_nesterov" in value:
        value = _from_0_1(owner, value)
    check_keys(owner, "hyperparameters", value, _KEYS)
    if not isinstance(value["rule"], str):
        raise TypeError(f"{where}: rule must be a name, got {describe(value['rule'])}")
    if not isinstance(value["constants"], dict):
        raise TypeError(f"{where}: constants must be a dict, got {describe(value['constants'])}")
    if not isinstance(value["groups"], list):
        raise TypeError(f"{where}: groups must be a list, got {describe(value['groups'])}")
    return {
        "rule": value["rule"],
        "constants": {key: _constant(where, key, x) for key, x in value["constants"].items()},
        "loss_scale": number(where, "loss_scale", value["loss_scale"], above=0),
        "learning_rate": _read(where, "learning_rate", value["learning_rate"]),
        "groups": [_read_group(where, group) for group in value["groups"]],
    }


def _from_0_1(owner: str, value: Mapping[str, Any]) -> dict[str, Any]:
    constants = ("beta1", "beta2", "eps", "use_nesterov")
    check_keys(owner, "hyperparameters", value, (*constants, *_KEYS[2:]))
    where = f"{owner}: hyperparameters"
    read: dict[str, Any] = {
        key: float(str(single(where, key, value[key]))) for key in constants[:3]
    }
    read["nesterov"] = flag(where, "use_nesterov", value["use_nesterov"])
    return {"rule": "Adam", "constants": read} | {key: value[key] for key in _KEYS[2:]}


def _constant(where: str, key: Any, value: Any) -> Any:
    if not isinstance(key, str):
        raise TypeError(f"{where}: constants must have names, got {describe(key)}")
    if isinstance(value, bool | str):
        return value
    if isinstance(value, dict):
        return _read(where, key, value)
    return number(where, key, value)


def _read_group(where: str, group: Any) -> dict[str, Any]:
    check_keys(where, "a group", group, _GROUP_KEYS, optional=("lr",))
    names = group["params"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{where}: a group's params must be a list of names")
    read: dict[str, Any] = {"params": list(names)}
    for key in ("lr", "weight_decay"):
        if key in group:
            read[key] = _read(where, key, group[key])
    key = "grad_centralization"
    return {**read, key: flag(where, key, group[key])}


def _read(where: str, name: str, value: Any) -> Any:
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


def _group_differences(theirs: list[Any], ours: list[Any]) -> dict[str, str]:
    by_name = [
        {name: {"lr": _BY_DEFAULT, **group} for group in groups for name in group["params"]}
        for groups in (theirs, ours)
    ]
    found: dict[tuple[str, str, str], list[str]] = {}
    for key in _GROUP_KEYS[1:]:
        for name, here in by_name[1].items():
            there = by_name[0].get(name, here)  # what one of them lacks is told elsewhere
            if not _same(there[key], here[key]):
                found.setdefault((key, _shown(there[key]), _shown(here[key])), []).append(name)
    return {
        f"{key} {i}": f"{key} of {listed(names)}: {there} in the state, {here} here"
        for i, ((key, there, here), names) in enumerate(found.items())
    }


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return type(left) is type(right) and np.array_equal(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        # A file of 0.1 says nothing of the numbers in objects that are not ours.
        both = "arguments" in left and "arguments" in right
        return left == right if both else left["callable"] == right["callable"]
    if isinstance(left, float) and isinstance(right, float):
        return bool(np.float32(left) == np.float32(right))
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
