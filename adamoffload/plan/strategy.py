"""`Strategy`: what lives where and where the arithmetic runs; and the strategies by name.

Everything that a step does follows from these few fields (`adamoffload.plan.hops`): nobody writes a
list of hops by hand. A strategy says nothing of the rule, nor of the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from adamoffload.arguments import choice, describe, floating, integer
from adamoffload.names import listed
from adamoffload.plan.hops import COPIES, Hop, Place, derive
from adamoffload.rules.rule import Rule

__all__ = ["Strategies", "Strategy", "find_strategy", "strategies"]

_PLACES: tuple[Place, ...] = ("device", "host", "disk")


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Where an optimizer's things live and where its arithmetic runs.

    ``dataclasses.replace(ao.strategies["megatron-hybrid"], fraction=0.3)`` makes another one.

    Parameters
    ----------
    name : str
        For messages and pictures.
    state : str
        The home of the rule's slots: ``"device"``, ``"host"`` or ``"disk"``.
    master : str or None
        The home of float32 master weights, which begin as a copy of the parameters; None if the
        device's parameters are the only ones.
    arithmetic : str
        Where the rule runs: ``"device"`` or ``"host"``.
    fraction : float
        For how much of the model it holds, in [0, 1]: whole tensors, in order, until their elements
        are at least this share of all. The others are resident on the device.
    side : str
        From which end tensors are chosen: ``"input"`` (the first in update order) or ``"output"``.
    every : int
        It holds for every so-many-th tensor from that end, beginning with the first; 1 for all.
    minimum_size : int
        Tensors with fewer elements are resident on the device.

    Raises
    ------
    TypeError, ValueError
        If a field is wrong, or the combination cannot be.

    Examples
    --------
    >>> from dataclasses import replace
    >>> import adamoffload as ao
    >>> strategy = ao.strategies["adam-offload"]
    >>> strategy.bytes_per_parameter(ao.rules.Adam(), weights="float32")
    {'d2h': 4, 'h2d': 4, 'read': 0, 'write': 0}
    >>> print(strategy.text(ao.rules.Adam()))
    adam-offload: the arithmetic runs on the host
      device   weights 4 B, gradient 4 B
      host     m 4 B, v 4 B
      down     d2h gradient 4 B
      up       h2d update 4 B
    >>> replace(strategy, fraction=2.0)
    Traceback (most recent call last):
    ValueError: Strategy: fraction must be in [0, 1], got 2.0
    """

    name: str = ""
    # placement
    state: Place = "device"
    master: Place | None = None
    arithmetic: Literal["device", "host"] = "device"
    fraction: float = 1.0
    side: Literal["input", "output"] = "input"
    every: int = 1
    minimum_size: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"Strategy: name must be a string, got {describe(self.name)}")
        choice("Strategy", "state", self.state, _PLACES)
        if self.arithmetic == "disk":  # type: ignore[comparison-overlap]  # from untyped code
            raise ValueError(
                "Strategy: arithmetic cannot run on the disk; use 'host', and keep the state there"
            )
        choice("Strategy", "arithmetic", self.arithmetic, ("device", "host"))
        choice("Strategy", "side", self.side, ("input", "output"))
        if self.master is not None:
            choice("Strategy", "master", self.master, _PLACES)
        fraction = self.fraction
        if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number):
            raise TypeError(f"Strategy: fraction must be a number, got {describe(fraction)}")
        if not 0 <= floating("Strategy", "fraction", float(fraction)) <= 1:
            raise ValueError(f"Strategy: fraction must be in [0, 1], got {fraction}")
        integer("Strategy", "every", self.every, at_least=1)
        integer("Strategy", "minimum_size", self.minimum_size, at_least=0)

    # -- what follows ---------------------------------------------------------------------------

    def kept(self, rule: Rule) -> list[tuple[str, Place, int]]:
        """Return what lives from step to step beside the parameters: name, home, bytes each."""
        things: list[tuple[str, Place, int]] = [(slot, self.state, 4) for slot in rule.slots]
        if self.master is not None:
            things.append(("master", self.master, 4))
        return things

    def chosen(self, sizes: Sequence[int]) -> frozenset[int]:
        """Return the indices of the tensors that it holds for, given the elements of each.

        Examples
        --------
        >>> Strategy(state="host", fraction=0.5).chosen([10, 20, 30])
        frozenset({0, 1})
        """
        wanted, held, found = self.fraction * sum(sizes), 0, []
        order = range(len(sizes)) if self.side == "input" else range(len(sizes))[::-1]
        for i in order[:: self.every]:
            if held >= wanted:
                break
            if sizes[i] >= self.minimum_size:
                found.append(i)
                held += sizes[i]
        return frozenset(found)

    @property
    def result(self) -> str:
        """What comes out of the arithmetic: ``"weights"`` of a master, else an ``"update"``."""
        return "update" if self.master is None else "weights"

    def hops(self, rule: Rule, weights: str = "float32") -> tuple[Hop, ...]:
        """Return what a chunk of parameters goes through in a step, in order."""
        self.check(weights)
        return derive(self.kept(rule), self.arithmetic, 4, self.result, 4)

    def check(self, weights: str) -> None:
        """Refuse weights that the strategy cannot have.

        Raises
        ------
        ValueError
            If it cannot have them.
        """
        if weights != "float32":
            raise ValueError(f"{self}: weights must be float32, got {weights}")
        if self.master == "device":
            raise ValueError(
                f"{self}: a float32 master on the device, beside float32 weights, would be the "
                f"same numbers twice; use master=None"
            )

    def bytes_per_parameter(
        self, rule: Rule, weights: str = "float32", accumulate: int = 1
    ) -> dict[str, int]:
        """Return the bytes that cross in a step, for each parameter that it holds for, by lane.

        Parameters
        ----------
        rule : Rule
            Whose slots are kept.
        weights : str
            Dtype of the parameters.
        accumulate : int
            Micro-steps to a step; their sum stays on the device, and so the bytes do not depend
            on it.

        Returns
        -------
        dict
            ``"d2h"``, ``"h2d"``, ``"read"`` and ``"write"``: int.
        """
        integer("bytes_per_parameter", "accumulate", accumulate, at_least=1)
        moved: dict[str, int] = dict.fromkeys(COPIES.values(), 0)
        for hop in self.hops(rule, weights):
            if hop.nbytes:
                moved[hop.lane] += hop.nbytes
        return moved

    def memory_per_parameter(
        self, rule: Rule, weights: str = "float32", accumulate: int = 1
    ) -> dict[str, int]:
        """Return the bytes that lie in each place, for each parameter that it holds for.

        Whole gradients are counted, and with micro-steps their sum; the staging ring is not.

        Parameters
        ----------
        rule, weights, accumulate
            As for `bytes_per_parameter`.

        Returns
        -------
        dict
            ``"device"``, ``"host"`` and ``"disk"``: int.
        """
        integer("memory_per_parameter", "accumulate", accumulate, at_least=1)
        self.check(weights)
        lying = {"device": 8 + 4 * (accumulate > 1), "host": 0, "disk": 0}
        for _, home, nbytes in self.kept(rule):
            lying[home] += nbytes
        return lying

    # -- for whom reads it ------------------------------------------------------------------------

    def text(self, rule: Rule, weights: str = "float32") -> str:
        """Return the declaration in words: what lives where, and what moves, per parameter."""
        lines = [f"{self}: the arithmetic runs on the {self.arithmetic}{self._for_what()}"]
        living = {"device": ["weights 4 B", "gradient 4 B"], "host": [], "disk": []}
        for thing, home, nbytes in self.kept(rule):
            living[home].append(f"{thing} {nbytes} B")
        lines += [f"  {place:<8} {', '.join(what)}" for place, what in living.items() if what]
        for part in ("down", "fetch", "rest", "up"):
            copies = [h for h in self.hops(rule, weights) if h.part == part and h.nbytes]
            moves: dict[str, list[str]] = {}
            for hop in copies:
                moves.setdefault(hop.lane, []).append(f"{hop.thing} {hop.nbytes} B")
            if moves:
                shown = "; ".join(f"{lane} {', '.join(things)}" for lane, things in moves.items())
                lines.append(f"  {part:<8} {shown}")
        if not any(hop.nbytes for hop in self.hops(rule, weights)):
            lines.append("  nothing moves")
        return "\n".join(lines)

    def _for_what(self) -> str:
        conditions = []
        if self.fraction < 1:
            conditions.append(f"for {self.fraction:.0%} of the model, from the {self.side} side")
        if self.every > 1:
            conditions.append(f"for one tensor in {self.every}")
        if self.minimum_size:
            conditions.append(f"for tensors of {self.minimum_size:,} elements and more")
        return ", " + ", ".join(conditions) if conditions else ""

    def __str__(self) -> str:
        return self.name or self._as_code()

    def _as_code(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {f.name for f in fields(self) if given[f.name] != f.default} - {"name"}
        return f"Strategy({', '.join(f'{k}={v!r}' for k, v in given.items() if k in changed)})"


class Strategies(Mapping[str, Strategy]):
    """Strategies by name; an unknown name is answered with the one that comes closest."""

    def __init__(self, **known: Strategy) -> None:
        self._known = {name.replace("_", "-"): value for name, value in known.items()}

    def __getitem__(self, name: str) -> Strategy:
        if name not in self._known:
            shown = listed([name], [*self._known])
            raise KeyError(f"no strategy {shown}; there are {', '.join(self._known)}")
        return self._known[name]

    def __iter__(self) -> Any:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"strategies: {', '.join(self._known)}"


strategies = Strategies(
    resident=Strategy(name="resident"),
    adam_offload=Strategy(name="adam-offload", state="host", arithmetic="host"),
    zero_offload=Strategy(name="zero-offload", state="host", master="host", arithmetic="host"),
    megatron_hybrid=Strategy(
        name="megatron-hybrid", state="host", master="host", arithmetic="host"
    ),
    state_shuttle=Strategy(name="state-shuttle", state="host"),
    state_shuttle_master=Strategy(name="state-shuttle-master", state="host", master="host"),
    disk=Strategy(name="disk", state="disk", master="disk", arithmetic="host"),
)
"""The strategies of real systems, by name."""


def find_strategy(owner: str, value: object) -> Strategy:
    """Return a strategy, given it or its name.

    Raises
    ------
    TypeError, ValueError
        If it is neither.
    """
    if isinstance(value, Strategy):
        return value
    if not isinstance(value, str):
        raise TypeError(
            f"{owner}: strategy must be a name or an adamoffload.Strategy, got {describe(value)}"
        )
    if value not in strategies:
        raise ValueError(
            f"{owner}: strategy must be one of {', '.join(strategies)}; got "
            f"{listed([value], [*strategies])}"
        )
    return strategies[value]
