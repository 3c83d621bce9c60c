"""What a strategy declares, as an estimate needs it: its hops, its bytes, and what lives where.

Everything is asked of the strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from adamoffload.plan.formats import Format, each
from adamoffload.plan.hops import Hop, Place, bytes_by_lane
from adamoffload.plan.strategy import Strategy
from adamoffload.rules.rule import Rule

__all__ = ["Declaration", "declare"]

_NOT_KEPT = ("weights", "gradient", "late gradient", "sum")


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
    homes: Mapping[Place, Mapping[str, int]]
    weight_bytes: int
    delay: int

    @property
    def on_device(self) -> bool:
        """Whether the rule runs there."""
        return all(hop.name != "update" for hop in self.hops)

    @cached_property
    def kept(self) -> dict[str, int]:
        """Bytes of what lives from step to step beside the weights."""
        things = {k: v for home in self.homes.values() for k, v in home.items()}
        return {k: v for k, v in things.items() if k not in _NOT_KEPT}

    @property
    def same(self) -> bool:
        """Whether it computes what a resident optimizer does: no step late, float32 state."""
        return not self.delay and all(nbytes >= 4 for nbytes in self.kept.values())

    @property
    def micro(self) -> dict[str, int]:
        """Bytes that cross beside the hops, in all micro-steps together."""
        once = bytes_by_lane(self.hops)
        return {lane: self.moved[lane] - once[lane] for lane in once}


def declare(strategy: Strategy, rule: Rule, weights: Format, accumulate: int) -> Declaration:
    """Return what a strategy says.

    Raises
    ------
    ValueError
        If it cannot have such weights.
    """
    hops = strategy.hops(rule, weights)
    moved = strategy.bytes_per_parameter(rule, weights, accumulate)
    homes = strategy.homes(rule, weights, accumulate)
    return Declaration(hops, moved, homes, each(weights), strategy.delay)
