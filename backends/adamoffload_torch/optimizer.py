"""`Offload`: a ``torch.optim.Optimizer`` that is an `adamoffload.Optimizer` underneath.

What PyTorch's users change between steps is in ``param_groups``; what is kept, and how it moves, is
in the `adamoffload.Optimizer`, `Offload.core`. Before each step the groups' numbers are carried
over, where they have changed: so every scheduler works, those that cycle momentum included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import adamoffload as ao
from adamoffload_torch.backend import TorchBackend
from adamoffload_torch.layout import Layout
from adamoffload_torch.state import packed, unpacked

__all__ = ["Offload"]


class _Member(NamedTuple):
    """A tensor that is optimized."""

    name: str
    tensor: Tensor
    layout: Layout


class Offload(torch.optim.Optimizer):  # type: ignore[misc]  # PyTorch is not seen by type checkers
    """Trains a PyTorch model by any rule under any strategy of adamoffload.

    Parameters
    ----------
    params : iterable of Tensor, of (str, Tensor), or of dict
        As for every optimizer of PyTorch's: ``model.parameters()``, ``model.named_parameters()``,
        or groups. With names, what is kept and seen goes by them. All on one device.
    rule : Rule
        What is computed, such as ``ao.rules.AdamW(1e-3)``. Its learning rate is a number:
        schedules are PyTorch's here.
    strategy : str or Strategy
        What lives where; see `adamoffload.strategies`.
    during_backward : bool
        Hand each gradient over as soon as autograd has accumulated it. ``.grad`` is None then, so
        that whatever looks at gradients after the backward pass, as clipping or a ``GradScaler``
        does, finds none; and every backward pass needs its `step`, with ``accumulate=`` for the
        passes that make one update.
    **options
        Those of `adamoffload.Optimizer`: ``accumulate``, ``on_nonfinite``, ``directory``,
        ``ledger``, ``probe``, ``chunk_bytes``, ``threads``, ``engine``, ...

    Raises
    ------
    TypeError, ValueError
        If `rule` is none, its learning rate no number, or `params` none of the above. What
        `adamoffload.Optimizer` refuses, as a missing directory, it refuses when it is made: in the
        first step, or when `core` is asked for.

    Notes
    -----
    Live in ``param_groups`` are ``lr``, ``weight_decay``, and the rule's own numbers: ``betas``,
    ``eps``, ``momentum``.

    A parameter without a gradient is left alone, its decay included. One that needs none
    (``requires_grad=False``) takes no memory until it does.

    Where there are master weights, a step on weights that somebody has changed in the meantime is
    refused, since the change would be lost: call `reload_master` after it.

    Examples
    --------
    >>> import torch
    >>> import adamoffload as ao
    >>> from adamoffload_torch import Offload
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = Offload(model.parameters(), ao.rules.AdamW(1e-3), strategy="zero-offload")
    >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    >>> model(torch.ones(2, 3)).sum().backward()
    >>> optimizer.step()
    >>> scheduler.step()
    >>> optimizer.core.bytes_per_step["d2h"], optimizer.param_groups[0]["lr"]
    (16, 0.0001)
    """

    def __init__(
        self,
        params: Iterable[Any],
        rule: ao.Rule,
        *,
        strategy: Any = "zero-offload",
        during_backward: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(rule, ao.Rule):
            raise TypeError(
                f"Offload: rule must be one of adamoffload, such as ao.rules.AdamW(1e-3), got a "
                f"{type(rule).__name__}"
            )
        self._rule, self._strategy, self._options = rule, strategy, options
        self._during_backward = during_backward
        self._core: ao.Optimizer | None = None
        self._members: list[_Member] = []
        self._applied: dict[int, Any] = {}  # by group's index: what of it the core has
        self._versions: list[int] = []
        self._hooks: list[Any] = []
        self._submitted = False
        super().__init__(params, _defaults(rule))
        if during_backward:
            self._make(self._found())  # now, since the hooks must be there at the first backward

    # -- the optimizer underneath ---------------------------------------------------------------

    @property
    def core(self) -> ao.Optimizer:
        """The `adamoffload.Optimizer` that does the work; made when it is first needed."""
        if self._core is None:
            self._make(self._found())
        assert self._core is not None
        return self._core

    def _found(self) -> list[_Member]:
        """Return what is optimized now: what needs a gradient, and what did before."""
        before = {id(member.tensor): member for member in self._members}
        members, number = [], 0
        for group in self.param_groups:
            names = group.get("param_names")
            for i, tensor in enumerate(group["params"]):
                name = names[i] if names else str(number)
                number += 1
                if id(tensor) in before:
                    members.append(before[id(tensor)])
                elif tensor.requires_grad and tensor.numel():
                    members.append(_Member(name, tensor, Layout.of(name, tensor)))
        unique = {id(member.tensor): member for member in members}  # tied weights, given twice
        if not unique:
            raise ValueError("Offload: no parameter needs a gradient; there is nothing to optimize")
        return [*unique.values()]

    def _make(self, members: list[_Member]) -> None:
        """Make the optimizer underneath, with the state of the one before."""
        device = _device_of(members)
        kept = None if self._core is None else self._core.state_dict()
        old, self._core = self._core, None
        if old is not None:
            old.close()
        parameters = [
            ao.Parameter(device.wrap(member.layout.packed(member.tensor)), member.name)
            for member in members
        ]
        core = ao.Optimizer(parameters, self._rule, strategy=self._strategy, **self._options)
        if kept is not None:
            core.load_state_dict(_extended(kept, core.state_dict()))
        self._core, self._members = core, members
        self._applied, self._versions = {}, []
        self._listen()

    def _listen(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._during_backward:
            for member in self._members:
                hook = member.tensor.register_post_accumulate_grad_hook(self._submitting(member))
                self._hooks.append(hook)

    def _submitting(self, member: _Member) -> Callable[[Tensor], None]:
        def submit(tensor: Tensor) -> None:
            gradient, tensor.grad = tensor.grad, None  # it is the optimizer's now
            self._check_weights()
            self.core.submit(member.name, self._wrapped(member, gradient))
            self._submitted = True

        return submit

    # -- what PyTorch calls ---------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with hyper-parameters of their own; state so far is kept.

        Raises
        ------
        TypeError, ValueError
            If it is no group, a parameter is in two, or ``lr`` is no number.
        """
        super().add_param_group(param_group)
        if self._core is not None:
            self._make(self._found())

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step, or end a micro-step.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss anew, with its gradients.

        Returns
        -------
        What the closure returns; None without one.

        Raises
        ------
        RuntimeError
            For sparse gradients; for weights that were changed beside their master; and what else
            `adamoffload.Optimizer` raises.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            if not self._during_backward:
                gradients = self._gradients()
                self._check_weights()
                self._apply_groups()
                self.core(gradients)
            elif self._submitted:
                self._submitted = False
                self._apply_groups()
                self.core.step()
        self._versions = [member.tensor._version for member in self._members]
        return loss

    def _gradients(self) -> dict[str, Any]:
        late = {id(member.tensor) for member in self._members}
        for group in self.param_groups:
            if self._core is not None and any(
                tensor.grad is not None and id(tensor) not in late for tensor in group["params"]
            ):
                self._make(self._found())  # a parameter that was unfrozen
        self.core  # noqa: B018  (made, if it was not)
        return {
            member.name: self._wrapped(member, member.tensor.grad)
            for member in self._members
            if member.tensor.grad is not None
        }

    def _wrapped(self, member: _Member, gradient: Any) -> Any:
        if gradient.is_sparse:
            raise RuntimeError(
                f"Offload: the gradient of {member.name!r} is sparse, and only dense ones are "
                f"supported; make the embedding with sparse=False"
            )
        return self._backend.wrap(member.layout.packed(gradient))

    @property
    def _backend(self) -> Any:
        return self.core.backend

    def _check_weights(self) -> None:
        """Refuse weights that were changed since the last step, where a master knows nothing of it.

        A forward and a backward pass leave a tensor's version alone.
        """
        if not self._versions or not self.core.master:
            return
        for member, version in zip(self._members, self._versions, strict=True):
            if member.tensor._version != version:
                raise RuntimeError(
                    f"Offload: {member.name!r} was changed since the last step, and its master "
                    f"weights were not; call optimizer.reload_master() after changing weights"
                )

    def reload_master(self) -> None:
        """Make the master weights anew from the weights, after these were changed."""
        self.core.reload_master()
        self._versions = []

    def _apply_groups(self) -> None:
        """Carry over what has changed in ``param_groups``."""
        core = self.core
        names = {id(member.tensor): member.name for member in self._members}
        for i, group in enumerate(self.param_groups):
            lr, constants = float(group["lr"]), _constants(self._rule, group)
            if self._applied.get(i) == (lr, constants):
                continue
            mine = [names[id(p)] for p in group["params"] if id(p) in names]
            if mine:
                core.set_learning_rate(lr, *mine)
                core.set_constants(*mine, **constants)
            self._applied[i] = lr, constants

    # -- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain numbers; ``torch.save`` and its safe load take it.

        Returns
        -------
        dict
            ``state``: by the parameter's number, its slots, ``master`` where there is one, and
            ``step``: how many updates it has had. ``param_groups``: as in every optimizer of
            PyTorch's. ``global_step``: int.
        """
        kept = super().state_dict()
        if self._core is None:
            return dict(kept) | {"global_step": 0}
        core = self._core.state_dict()
        arrays = dict(core["slots"])
        if "master" in core:
            arrays["master"] = core["master"]
        missed, steps = core.get("missed", {}), core["global_step"]
        numbers = self._numbers()

        def own(name: str) -> dict[str, Any]:
            return {kind: named[name] for kind, named in arrays.items() if name in named}

        kept["state"] = {
            numbers[id(member.tensor)]: packed(
                {
                    kind: named[member.name]
                    for kind, named in arrays.items()
                    if member.name in named
                },
                member.layout,
                steps - missed.get(member.name, 0),
            )
            for member in self._members
        }
        return dict(kept) | {"global_step": steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, of any strategy with the same rule.

        Parameters
        ----------
        state_dict : dict
            From `state_dict`.

        Raises
        ------
        ValueError
            If it is of other groups, of another rule or of other shapes.
        """
        given = dict(state_dict)
        steps, state = int(given.pop("global_step", 0)), given.pop("state", {})
        super().load_state_dict(given | {"state": {}})  # checks and takes the groups
        self._applied, self._versions = {}, []
        if not state:
            if self._core is not None:
                self._core = None
                self._make(self._found())
            return
        core, numbers = self.core, self._numbers()
        kinds = [*core.rule.slots, *(["master"] if core.master else [])]
        new = core.state_dict()
        new["global_step"], new["missed"] = steps, {}
        for member in self._members:
            number = numbers[id(member.tensor)]
            own = state.get(number, state.get(str(number)))
            if own is None:
                new["missed"][member.name] = steps
                continue
            arrays = unpacked(own, kinds, member.layout, member.name)
            new["missed"][member.name] = steps - int(own["step"])
            for kind, array in arrays.items():
                (new["master"] if kind == "master" else new["slots"][kind])[member.name] = array
        core.load_state_dict(new)
        if "master" in kinds and any("master" not in own for own in state.values()):
            core.reload_master()

    def _numbers(self) -> dict[int, int]:
        """Return the number by which PyTorch's state knows a tensor, by its id."""
        tensors: Iterator[Tensor] = (p for group in self.param_groups for p in group["params"])
        return {id(tensor): number for number, tensor in enumerate(tensors)}

    def close(self) -> None:
        """Remove what a strategy keeps on the disk, and the hooks; no step can follow."""
        self._during_backward = False
        self._listen()
        if self._core is not None:
            self._core.close()


def _defaults(rule: ao.Rule) -> dict[str, Any]:
    """Return what a group has, as PyTorch names it."""
    if isinstance(rule.learning_rate, bool) or not isinstance(
        rule.learning_rate, int | float | np.number
    ):
        raise TypeError(
            "Offload: the rule's learning rate must be a number; use a scheduler of "
            "torch.optim.lr_scheduler on this optimizer"
        )
    if callable(rule.weight_decay):
        raise TypeError(
            "Offload: the rule's weight decay must be a number; change it in param_groups"
        )
    numbers = {
        field.name: getattr(rule, field.name)
        for field in fields(rule)  # type: ignore[arg-type]  # every rule of numbers is a dataclass
        if field.name != "learning_rate"
    }
    defaults = {"lr": float(rule.learning_rate)}
    if "beta1" in numbers and "beta2" in numbers:
        defaults["betas"] = (numbers.pop("beta1"), numbers.pop("beta2"))  # type: ignore[assignment]
    return defaults | {key: x for key, x in numbers.items() if not isinstance(x, bool)}


def _constants(rule: ao.Rule, group: Mapping[str, Any]) -> dict[str, float]:
    """Return the rule's numbers, but for the learning rate, as a group has them now."""
    found = {key: group[key] for key in _defaults(rule) if key not in ("lr", "betas")}
    if "betas" in group and hasattr(rule, "beta1"):
        found |= dict(zip(("beta1", "beta2"), group["betas"], strict=True))
    return {key: float(value) for key, value in found.items()}


def _device_of(members: list[_Member]) -> TorchBackend:
    first = members[0]
    for member in members:
        if member.tensor.device != first.tensor.device:
            raise ValueError(
                f"Offload: all parameters must be on one device; {first.name!r} is on "
                f"{str(first.tensor.device)!r} and {member.name!r} on "
                f"{str(member.tensor.device)!r}; make an optimizer for each"
            )
    return TorchBackend(first.tensor.device)


def _extended(kept: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """Return a state in which parameters that have come in have never been updated."""
    for kind in kept["slots"]:
        fresh["slots"][kind] |= kept["slots"][kind]
    if "master" in fresh:
        fresh["master"] |= kept.get("master", {})
    names: Mapping[str, Any] = next(iter(kept["slots"].values()), {})
    new = [name for name in next(iter(fresh["slots"].values()), {}) if name not in names]
    missed = kept.get("missed", {}) | dict.fromkeys(new, kept["global_step"])
    return fresh | {"global_step": kept["global_step"], "missed": missed}
