"""What a strategy declares, as an estimate needs it: its hops, its bytes, and what lives where.

Everything is asked of the strategy. Only what `adamoffload.Strategy` cannot say yet is written down
here: the strategies with 16-bit weights (``wire``) and their names (``KNOWN``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from adamoffload.arguments import describe
from adamoffload.names import listed
from adamoffload.plan.hops import Hop, Place, bytes_by_lane, derive
from adamoffload.plan.strategy import Strategy, strategies
from adamoffload.rules.rule import Rule

__all__ = ["KNOWN", "WEIGHTS", "Declaration", "declare", "find"]

WEIGHTS = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a parameter, by its type."""


@dataclass(frozen=True)
class Declaration:
    """What a strategy says of the parameters that it holds for.

    Attributes
    ----------
    hops : tuple of Hop
        What a chunk goes through in a step.
    moved : dict from str to int
        Bytes for each parameter and step, by lane; with micro-steps, more than the hops'.
    homes : dict from str to dict
        Bytes for each parameter, by place and thing.
    weight_bytes : int
        Of a parameter on the device, and of its gradient.
    delay : int
        How many steps late the update comes.
    """

    hops: tuple[Hop, ...]
    moved: Mapping[str, int]
    homes: Mapping[Place, Mapping[str, float]]
    weight_bytes: int
    delay: int

    @property
    def on_device(self) -> bool:
        """Whether the rule runs there."""
        return all(hop.name != "update" for hop in self.hops)

    @cached_property
    def kept(self) -> dict[str, float]:
        """Bytes of what lives from step to step beside the weights."""
        things = {k: v for home in self.homes.values() for k, v in home.items()}
        return {k: v for k, v in things.items() if k not in ("weights", "gradient", "sum")}

    @property
    def same(self) -> bool:
        """Whether it computes what a resident optimizer does: no step late, float32 state."""
        return not self.delay and all(nbytes >= 4 for nbytes in self.kept.values())

    @property
    def micro(self) -> dict[str, int]:
        """Bytes that cross beside the hops, in all micro-steps together."""
        once = bytes_by_lane(self.hops)
        return {lane: self.moved[lane] - once[lane] for lane in once}


def find(owner: str, value: object) -> Strategy:
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
    if value not in KNOWN:
        raise ValueError(
            f"{owner}: strategy must be one of {', '.join(KNOWN)}; got {listed([value], [*KNOWN])}"
        )
    return KNOWN[value]


def declare(strategy: Strategy, rule: Rule, weights: str, accumulate: int) -> Declaration:
    """Return what a strategy says.

    Raises
    ------
    ValueError
        If it cannot have such weights.
    """
    width = WEIGHTS[weights]
    delay = int(getattr(strategy, "delay", strategy.name == "zero-offload-delayed"))
    if strategy.name in strategies or width == 4:
        try:
            hops = strategy.hops(rule, weights)
            moved = strategy.bytes_per_parameter(rule, weights, accumulate)
            return Declaration(hops, moved, strategy.homes(rule, weights, accumulate), width, delay)
        except ValueError:
            if width == 4:
                raise
    return wire(strategy, rule, weights, accumulate, delay)


# -- until strategies themselves can have 16-bit weights -------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sixteen:
    """Bytes of gradient and result on the wire, of the state, and whether there is a master."""

    down: int = 2
    up: int = 2
    state: int = 4
    master: bool = True


_SIXTEEN = {
    "deepspeed-zero1": _Sixteen(down=4),
    "deepspeed-zero2": _Sixteen(down=4),
    "gemini": _Sixteen(up=4),
    "megatron-hybrid": _Sixteen(down=4, up=4),
    "torchao": _Sixteen(state=2, master=False),
}


def wire(strategy: Strategy, rule: Rule, weights: str, accumulate: int, delay: int) -> Declaration:
    """Return what DESIGN's table of strategies says of 16-bit weights.

    Raises
    ------
    ValueError
        If the strategy cannot have them.
    """
    if strategy.result == "update" and strategy.arithmetic == "host" and strategy.name != "torchao":
        raise ValueError(f"{strategy.label}: weights must be float32, got {weights}")
    said = _SIXTEEN.get(strategy.name, _Sixteen())
    kept: list[tuple[str, Place, int]] = [(s, strategy.state, said.state) for s in rule.slots]
    home = strategy.master or ("device" if strategy.arithmetic == "device" else strategy.state)
    kept.append(("master", home, 4 if said.master else 2))
    hops = derive(kept, strategy.arithmetic, said.down, "weights", said.up)
    homes: dict[Place, dict[str, float]] = {"device": {}, "host": {}, "disk": {}}
    homes["device"] = {"weights": 2, "gradient": 2}
    for thing, place, nbytes in kept:
        homes[place][thing] = nbytes
    moved = bytes_by_lane(hops)
    if accumulate > 1 and strategy.name == "deepspeed-zero2":
        moved |= {"d2h": 2 * accumulate + 4, "h2d": 2 * accumulate}
    elif accumulate > 1 and strategy.name == "torchao":
        moved["d2h"] = 2 * accumulate
    if accumulate > 1 and strategy.name != "deepspeed-zero2":
        homes["device"]["sum"] = 2
    return Declaration(hops, moved, homes, 2, delay)


def _coming() -> dict[str, Strategy]:
    host = strategies["zero-offload"]
    names = ("zero-offload-delayed", "deepspeed-zero1", "deepspeed-zero2", "gemini")
    found = {name: replace(host, name=name) for name in names}
    ao = Strategy(name="torchao", state="host", arithmetic="host", minimum_size=4096)
    return {**found, "torchao": ao}


KNOWN: dict[str, Strategy] = {**_coming(), **strategies}
"""The strategies that an estimate knows."""
