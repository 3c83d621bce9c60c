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
from adamoffload.plan.hops import Hop, Place, Stage, bytes_by_lane, derive, stages
from adamoffload.plan.words import html_table, said, said_to_move
from adamoffload.rules.adam import Adam
from adamoffload.rules.rule import Rule

__all__ = ["Strategies", "Strategy", "find_strategy", "strategies"]

_PLACES: tuple[Place, ...] = ("device", "host", "disk")


@dataclass(frozen=True, kw_only=True, repr=False)
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
    >>> print(strategy)
    adam-offload: Adam runs on the host
    <BLANKLINE>
    where things live, per parameter (float32)
      device    8 B   weights 4, gradient 4
      host      8 B   m 4, v 4
    <BLANKLINE>
    what a step does, in order
      1  device        prepares the gradient: decay and loss scale
      2  d2h     4 B   the gradient goes down, as float32
      3  host          runs Adam: new m and v, and the update
      4  h2d     4 B   the update goes up, as float32
      5  device        adds it to the weights
    <BLANKLINE>
    per parameter and step: 4 bytes down, 4 up
    >>> strategy
    Strategy(name='adam-offload', state='host', arithmetic='host')
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
            raise ValueError(f"{self.label}: weights must be float32, got {weights}")
        if self.master == "device":
            raise ValueError(
                f"{self.label}: a float32 master on the device, beside float32 weights, would be "
                f"the same numbers twice; use master=None"
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
        return bytes_by_lane(self.hops(rule, weights))

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
        lives = self.homes(rule, weights, accumulate)
        return {place: sum(things.values()) for place, things in lives.items()}

    # -- for whom reads it ------------------------------------------------------------------------

    def homes(
        self, rule: Rule, weights: str = "float32", accumulate: int = 1
    ) -> dict[Place, dict[str, int]]:
        """Return what lives in each place: its bytes for each parameter, by name.

        Examples
        --------
        >>> strategies["adam-offload"].homes(Adam())
        {'device': {'weights': 4, 'gradient': 4}, 'host': {'m': 4, 'v': 4}, 'disk': {}}
        """
        self.check(weights)
        living: dict[Place, dict[str, int]] = {"device": {}, "host": {}, "disk": {}}
        living["device"] = {"weights": 4, "gradient": 4}
        if accumulate > 1:
            living["device"]["sum"] = 4
        for thing, home, nbytes in self.kept(rule):
            living[home][thing] = nbytes
        return living

    def stages(self, rule: Rule, weights: str = "float32") -> list[tuple[Stage, str]]:
        """Return what happens in a step, in order, each with a few plain words.

        Examples
        --------
        >>> for stage, words in strategies["state-shuttle"].stages(Adam()):
        ...     print(stage.lane, stage.nbytes, words)
        h2d 8 m and v come up
        device 0 prepares the gradient, runs Adam: new m and v, adds the update to the weights
        d2h 8 m and v go down
        """
        kept = [thing for thing, _, _ in self.kept(rule)]
        name = type(rule).__name__
        return [(stage, said(stage, name, kept)) for stage in stages(self.hops(rule, weights))]

    def text(self, rule: Rule | None = None, weights: str = "float32") -> str:
        """Return what lives where, and what a step does, in order: what ``print`` shows.

        Parameters
        ----------
        rule : Rule, optional
            Whose slots are kept; `adamoffload.rules.Adam`, if left out.
        weights : str
            Dtype of the parameters.

        Examples
        --------
        >>> print(strategies["zero-offload"].text())
        zero-offload: Adam runs on the host
        <BLANKLINE>
        where things live, per parameter (float32)
          device    8 B   weights 4, gradient 4
          host     12 B   m 4, v 4, master 4
        <BLANKLINE>
        what a step does, in order
          1  device        prepares the gradient: decay and loss scale
          2  d2h     4 B   the gradient goes down, as float32
          3  host          runs Adam: new m, v and master
          4  h2d     4 B   the new weights go up, as float32
          5  device        they replace the weights
        <BLANKLINE>
        per parameter and step: 4 bytes down, 4 up
        """
        rule = rule or Adam()
        lines = [f"{self.label}: {type(rule).__name__} runs on the {self.arithmetic}"]
        lines += [f"  {condition}" for condition in self.conditions]
        lines += ["", f"where things live, per parameter ({weights})"]
        for place, things in self.homes(rule, weights).items():
            if things:
                each = ", ".join(f"{thing} {nbytes}" for thing, nbytes in things.items())
                lines.append(f"  {place:<8} {sum(things.values()):>2} B   {each}")
        lines += ["", "what a step does, in order"]
        for number, (stage, words) in enumerate(self.stages(rule, weights), start=1):
            size, dtype = (f"{stage.nbytes} B", f", as {weights}") if stage.nbytes else ("", "")
            lines.append(f"  {number}  {stage.lane:<6} {size:>4}   {words}{dtype}")
        moves = said_to_move(self.bytes_per_parameter(rule, weights))
        return "\n".join([*lines, "", f"per parameter and step: {moves}"])

    def _repr_html_(self) -> str:
        rule = Adam()
        rows: list[tuple[str, str, str]] = []
        try:
            homes, done = self.homes(rule), self.stages(rule)
        except ValueError:  # it cannot have float32 weights
            return html_table(repr(self), (), ())
        for place, things in homes.items():
            if things:
                rows.append((place, f"{sum(things.values())} B", ", ".join(things)))
        rows += [(s.lane, f"{s.nbytes} B" if s.nbytes else "", words) for s, words in done]
        return html_table(self.label, ("where", "per parameter", "what"), rows)

    @property
    def conditions(self) -> list[str]:
        """Return what it holds for, if not for everything."""
        conditions = []
        if self.fraction < 1:
            conditions.append(f"for {self.fraction:.0%} of the model, from the {self.side} side")
        if self.every > 1:
            conditions.append(f"for one tensor in {self.every}")
        if self.minimum_size:
            conditions.append(f"for tensors of {self.minimum_size:,} elements and more")
        return [*conditions, "what is left is resident on the device"] if conditions else []

    @property
    def label(self) -> str:
        """Its name, for messages and pictures; of one without a name, what it is."""
        return self.name or repr(self)

    def __str__(self) -> str:
        try:
            return self.text()
        except ValueError:  # it cannot have float32 weights
            return repr(self)

    def __repr__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {f.name for f in fields(self) if given[f.name] != f.default}
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
