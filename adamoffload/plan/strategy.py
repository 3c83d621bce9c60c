"""`Strategy`: what lives where and where the arithmetic runs; and the strategies by name.

Everything that a step does follows from these few fields (`adamoffload.plan.hops`): nobody writes a
list of hops by hand. A strategy says nothing of the rule, nor of the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from adamoffload.arguments import choice, describe, floating, integer
from adamoffload.names import ByName, listed
from adamoffload.plan.formats import WEIGHTS, Format, each
from adamoffload.plan.hops import Hop, Kept, Place, Stage, Sum, bytes_by_lane, derive, stages
from adamoffload.plan.words import html_table, said, said_to_move
from adamoffload.rules.adam import Adam
from adamoffload.rules.rule import Rule

__all__ = ["Strategies", "Strategy", "find_strategy", "strategies"]

_PLACES: tuple[Place, ...] = ("device", "host", "disk")
_IF_16_BITS = "device if 16-bit"
_WIRE = ("weights", "float32")


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
        The home of master weights, which begin as a copy of the parameters; None if the device's
        parameters are the only ones. ``"device if 16-bit"``: on the device beside 16-bit weights,
        and none beside float32 ones.
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
    gradient, result : str
        As what gradients go to the host, and new weights come from there: ``"weights"``, the
        parameters' own type, or ``"float32"``, and then the device does the cast. Without a master
        updates come, in float32.
    state_as : str
        As what the rule's slots rest: ``"float32"``, or ``"weights"``, rounded once a step after
        arithmetic in float32.
    master_as : str
        As what master weights rest: ``"float32"`` or ``"weights"``.
    rounding : str
        How weights without a master are rounded to 16 bits: to the ``"nearest"`` even,
        ``"stochastic"``, or with ``"kahan"`` compensation, which keeps what was lost in a slot.
    sum_in : str
        Where gradients of several micro-steps are summed up: on the ``"device"``; there, and
        ``"resent"`` to the host in each; in a ``"round trip"`` to the host; on the ``"host"``.
    delay : int
        How many steps later a gradient is applied: 0 or 1.
    warmup_steps : int
        Steps at the beginning that are not delayed.

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
    master: Place | Literal["device if 16-bit"] | None = None
    arithmetic: Literal["device", "host"] = "device"
    fraction: float = 1.0
    side: Literal["input", "output"] = "input"
    every: int = 1
    minimum_size: int = 0
    # precision
    gradient: Literal["weights", "float32"] = "weights"
    result: Literal["weights", "float32"] = "weights"
    state_as: Literal["float32", "weights"] = "float32"
    master_as: Literal["float32", "weights"] = "float32"
    rounding: Literal["nearest", "stochastic", "kahan"] = "nearest"
    # timing
    sum_in: Sum = "device"
    delay: int = 0
    warmup_steps: int = 0

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
            choice("Strategy", "master", self.master, (*_PLACES, _IF_16_BITS))
        fraction = self.fraction
        if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number):
            raise TypeError(f"Strategy: fraction must be a number, got {describe(fraction)}")
        if not 0 <= floating("Strategy", "fraction", float(fraction)) <= 1:
            raise ValueError(f"Strategy: fraction must be in [0, 1], got {fraction}")
        integer("Strategy", "every", self.every, at_least=1)
        integer("Strategy", "minimum_size", self.minimum_size, at_least=0)
        choice("Strategy", "gradient", self.gradient, _WIRE)
        choice("Strategy", "result", self.result, _WIRE)
        choice("Strategy", "state_as", self.state_as, _WIRE)
        choice("Strategy", "master_as", self.master_as, _WIRE)
        choice("Strategy", "rounding", self.rounding, ("nearest", "stochastic", "kahan"))
        choice("Strategy", "sum_in", self.sum_in, ("device", "resent", "round trip", "host"))
        integer("Strategy", "warmup_steps", self.warmup_steps, at_least=0)
        if integer("Strategy", "delay", self.delay, at_least=0) > 1:
            raise ValueError(f"Strategy: delay must be 0 or 1, got {describe(self.delay)}")
        self._check_combination()

    def _check_combination(self) -> None:
        if self.arithmetic == "device":
            for name in ("sum_in", "delay"):
                if getattr(self, name) not in ("device", 0):
                    raise ValueError(
                        f"Strategy: {name}={getattr(self, name)!r} needs the arithmetic on the "
                        f"host; on the device, gradients stay where they are"
                    )
        if self.rounding != "nearest" and (self.master is not None or self.arithmetic == "host"):
            raise ValueError(
                f"Strategy: rounding={self.rounding!r} is for weights without a master that are "
                f"updated on the device; a master is rounded to the nearest"
            )
        if self.warmup_steps and not self.delay:
            raise ValueError("Strategy: warmup_steps without a delay would do nothing; add delay=1")

    # -- what follows ---------------------------------------------------------------------------

    def master_home(self, weights: Format) -> Place | None:
        """Return the home of the master beside such weights; None if there is none."""
        if self.master == _IF_16_BITS:
            return None if weights == "float32" else "device"
        return self.master  # type: ignore[return-value]  # the one that is no place is dealt with

    def kept(self, rule: Rule, weights: Format = "float32") -> list[Kept]:
        """Return what lives from step to step beside the parameters: name, home and format."""
        state: Format = weights if self.state_as == "weights" else "float32"
        things = [Kept(slot, self.state, state) for slot in rule.slots]
        home = self.master_home(weights)
        if home is not None:
            things.append(
                Kept("master", home, weights if self.master_as == "weights" else "float32")
            )
        if self.rounding == "kahan":
            things.append(Kept("compensation", "device", weights))
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

    def holds_back(self, accumulate: int) -> bool:
        """Return whether gradients rest on the host before they are applied."""
        return bool(self.delay) or (accumulate > 1 and self.sum_in in ("round trip", "host"))

    def carries(self, weights: Format) -> str:
        """Return what comes out of the arithmetic: ``"weights"`` of a master, else ``"update"``."""
        return "update" if self.master_home(weights) is None else "weights"

    def hops(
        self, rule: Rule, weights: Format = "float32", *, first: bool = True, last: bool = True
    ) -> tuple[Hop, ...]:
        """Return what a chunk of parameters goes through in a step, in order.

        Parameters
        ----------
        rule : Rule
            Whose slots are kept.
        weights : str
            Dtype of the parameters.
        first, last : bool
            Which of several micro-steps it is; both, if there is only one.
        """
        self.check(weights)
        result = self.carries(weights)
        own: Format = weights if self.result == "weights" and result == "weights" else "float32"
        return derive(
            self.kept(rule, weights),
            self.arithmetic,
            gradient=weights if self.gradient == "weights" else "float32",
            result=result,
            result_format=own,
            sum_in=self.sum_in,
            sum_format=weights,
            first=first,
            last=last,
        )

    def check(self, weights: str) -> None:
        """Refuse weights that the strategy cannot have.

        Raises
        ------
        ValueError
            If it cannot have them.
        """
        if weights not in WEIGHTS:
            raise ValueError(
                f"{self.label}: weights must be one of {', '.join(WEIGHTS)}, got {weights}"
            )
        if weights == "float32":
            if self.master == "device":
                raise ValueError(
                    f"{self.label}: a float32 master on the device, beside float32 weights, would "
                    f"be the same numbers twice; use master=None, or 'device if 16-bit'"
                )
            if self.rounding != "nearest" or (self.master is None and self.state_as == "weights"):
                raise ValueError(
                    f"{self.label}: it shows what becomes of bfloat16 weights; float32 ones have "
                    f"nothing to round: use the strategy 'resident'"
                )
        elif self.master is None and self.arithmetic == "host":
            raise ValueError(
                f"{self.label}: {weights} weights need a master on the host, since the update is "
                f"computed there; use the strategy 'zero-offload'"
            )
        elif weights == "float16" and self.rounding != "nearest":
            raise ValueError(
                f"{self.label}: rounding={self.rounding!r} is for bfloat16 weights, got float16"
            )

    def bytes_per_parameter(
        self, rule: Rule, weights: Format = "bfloat16", accumulate: int = 1
    ) -> dict[str, int]:
        """Return the bytes that cross in a step, for each parameter that it holds for, by lane.

        Parameters
        ----------
        rule : Rule
            Whose slots are kept.
        weights : str
            Dtype of the parameters: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        accumulate : int
            Micro-steps to a step.

        Returns
        -------
        dict
            ``"d2h"``, ``"h2d"``, ``"read"`` and ``"write"``: int.

        Examples
        --------
        >>> sums_on_the_host = strategies["deepspeed-zero2"]
        >>> sums_on_the_host.bytes_per_parameter(Adam(), accumulate=3)
        {'d2h': 10, 'h2d': 6, 'read': 0, 'write': 0}
        """
        integer("bytes_per_parameter", "accumulate", accumulate, at_least=1)
        last = bytes_by_lane(self.hops(rule, weights, first=accumulate == 1))
        if accumulate == 1:
            return last
        first = bytes_by_lane(self.hops(rule, weights, last=False))
        between = bytes_by_lane(self.hops(rule, weights, first=False, last=False))
        return {lane: first[lane] + (accumulate - 2) * between[lane] + last[lane] for lane in last}

    def memory_per_parameter(
        self, rule: Rule, weights: Format = "bfloat16", accumulate: int = 1
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
        self, rule: Rule, weights: Format = "float32", accumulate: int = 1
    ) -> dict[Place, dict[str, int]]:
        """Return what lives in each place: its bytes for each parameter, by name.

        Examples
        --------
        >>> strategies["adam-offload"].homes(Adam())
        {'device': {'weights': 4, 'gradient': 4}, 'host': {'m': 4, 'v': 4}, 'disk': {}}
        """
        self.check(weights)
        living: dict[Place, dict[str, int]] = {"device": {}, "host": {}, "disk": {}}
        size = each(weights)
        living["device"] = {"weights": size, "gradient": size}
        if accumulate > 1:
            living["device" if self.sum_in in ("device", "resent") else "host"]["sum"] = size
        for thing, home, form in self.kept(rule, weights):
            living[home][thing] = each(form)
        if self.delay:  # one is applied while the next arrives
            crossing = each(weights if self.gradient == "weights" else "float32")
            living["host"] |= {"gradient": crossing, "late gradient": crossing}
        return living

    def stages(self, rule: Rule, weights: Format = "float32") -> list[tuple[Stage, str]]:
        """Return what happens in a step, in order, each with a few plain words.

        Examples
        --------
        >>> for stage, words in strategies["state-shuttle"].stages(Adam()):
        ...     print(stage.lane, stage.nbytes, words)
        h2d 8 m and v come up
        device 0 prepares the gradient, runs Adam: new m and v, adds the update to the weights
        d2h 8 m and v go down
        """
        kept = [thing for thing, _, _ in self.kept(rule, weights)]
        name = type(rule).__name__
        return [(stage, said(stage, name, kept)) for stage in stages(self.hops(rule, weights))]

    def text(self, rule: Rule | None = None, weights: Format | None = None) -> str:
        """Return what lives where, and what a step does, in order: what ``print`` shows.

        Parameters
        ----------
        rule : Rule, optional
            Whose slots are kept; `adamoffload.rules.Adam`, if left out.
        weights : str, optional
            Dtype of the parameters; float32 where the strategy can have them, if left out.

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
        rule, weights = rule or Adam(), weights or self.usual_weights
        lines = [f"{self.label}: {type(rule).__name__} runs on the {self.arithmetic}"]
        lines += [f"  {condition}" for condition in self.conditions]
        lines += ["", f"where things live, per parameter ({weights})"]
        for place, things in self.homes(rule, weights).items():
            if things:
                own = ", ".join(f"{thing} {nbytes}" for thing, nbytes in things.items())
                lines.append(f"  {place:<8} {sum(things.values()):>2} B   {own}")
        lines += ["", "what a step does, in order"]
        for number, (stage, words) in enumerate(self.stages(rule, weights), start=1):
            size = f"{stage.nbytes} B" if stage.nbytes else ""
            dtype = f", as {stage.format}" if stage.nbytes else ""
            lines.append(f"  {number}  {stage.lane:<6} {size:>4}   {words}{dtype}")
        moves = said_to_move(self.bytes_per_parameter(rule, weights))
        return "\n".join([*lines, "", f"per parameter and step: {moves}"])

    def _repr_html_(self) -> str:
        rule, weights = Adam(), self.usual_weights
        rows: list[tuple[str, str, str]] = []
        try:
            homes, done = self.homes(rule, weights), self.stages(rule, weights)
        except ValueError:  # it can have no weights at all
            return html_table(repr(self), (), ())
        for place, things in homes.items():
            if things:
                rows.append((place, f"{sum(things.values())} B", ", ".join(things)))
        rows += [(s.lane, f"{s.nbytes} B" if s.nbytes else "", words) for s, words in done]
        return html_table(self.label, ("where", "per parameter", "what"), rows)

    def all_resident(self, weights: Format) -> Strategy:
        """Return the same with everything on the device: for the tensors that it leaves alone."""
        state = "float32" if weights == "float32" else self.state_as
        master = None if self.master_as == "weights" else self.master and _IF_16_BITS
        own = {"state_as": state, "master": master, "rounding": self.rounding}
        return Strategy(name="resident", **own)  # type: ignore[arg-type]

    @property
    def usual_weights(self) -> Format:
        """Return ``"float32"``, or ``"bfloat16"`` if it cannot have those."""
        try:
            self.check("float32")
        except ValueError:
            return "bfloat16"
        return "float32"

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
        if conditions:
            conditions.append("what is left is resident on the device")
        if self.delay:
            conditions.append(f"a step late, after {self.warmup_steps} steps")
        if self.sum_in != "device":
            where = {"resent": "on the device, and resent in each"}.get(
                self.sum_in, f"{'on the' if self.sum_in == 'host' else 'in a'} {self.sum_in}"
            )
            conditions.append(f"sums up micro-steps {where}")
        return conditions

    @property
    def label(self) -> str:
        """Its name, for messages and pictures; of one without a name, what it is."""
        return self.name or repr(self)

    def __str__(self) -> str:
        try:
            return self.text()
        except ValueError:  # it can have no weights at all
            return repr(self)

    def __repr__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {f.name for f in fields(self) if given[f.name] != f.default}
        return f"Strategy({', '.join(f'{k}={v!r}' for k, v in given.items() if k in changed)})"


class Strategies(ByName[Strategy]):
    """Strategies by name; an unknown name is answered with the one that comes closest."""

    def __init__(self, **known: Strategy) -> None:
        self._known = {name.replace("_", "-"): value for name, value in known.items()}

    kind = "strategy"
    kinds = "strategies"


_ON_HOST: Any = {"state": "host", "master": "host", "arithmetic": "host"}
_IN_16_BITS: Any = {"state_as": "weights"}

strategies = Strategies(
    resident=Strategy(name="resident", master="device if 16-bit"),
    adam_offload=Strategy(name="adam-offload", state="host", arithmetic="host"),
    zero_offload=Strategy(name="zero-offload", **_ON_HOST),
    zero_offload_delayed=Strategy(
        name="zero-offload-delayed", **_ON_HOST, delay=1, warmup_steps=40
    ),
    deepspeed_zero1=Strategy(name="deepspeed-zero1", **_ON_HOST, gradient="float32"),
    deepspeed_zero2=Strategy(
        name="deepspeed-zero2", **_ON_HOST, gradient="float32", sum_in="round trip"
    ),
    torchao=Strategy(
        name="torchao",
        **_ON_HOST,
        **_IN_16_BITS,
        master_as="weights",
        minimum_size=4096,
        sum_in="resent",
    ),
    megatron_hybrid=Strategy(
        name="megatron-hybrid", **_ON_HOST, gradient="float32", result="float32"
    ),
    gemini=Strategy(name="gemini", **_ON_HOST, result="float32"),
    state_shuttle=Strategy(name="state-shuttle", state="host", master="device if 16-bit"),
    state_shuttle_master=Strategy(name="state-shuttle-master", state="host", master="host"),
    disk=Strategy(name="disk", state="disk", master="disk", arithmetic="host"),
    bf16_only=Strategy(name="bf16-only", **_IN_16_BITS),
    bf16_stochastic=Strategy(name="bf16-stochastic", **_IN_16_BITS, rounding="stochastic"),
    bf16_kahan=Strategy(name="bf16-kahan", **_IN_16_BITS, rounding="kahan"),
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
