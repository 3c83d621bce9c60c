"""`Question`: what an estimate is asked, checked; and how the model is cut into chunks for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adamoffload.arguments import choice, describe, flag, instance, integer
from adamoffload.estimates.machines import Machine, find_machine
from adamoffload.estimates.models import Model, models
from adamoffload.estimates.software import Software, software_of
from adamoffload.estimates.walk import Cut
from adamoffload.names import listed
from adamoffload.plan.chunks import plan_chunks
from adamoffload.plan.formats import WEIGHTS, Format
from adamoffload.plan.strategy import Strategy, find_strategy
from adamoffload.rules.rule import Rule

__all__ = ["MICRO_TOKENS", "Question", "ask", "cut", "read_model"]

MICRO_TOKENS = 8192
"""Tokens of a micro-batch on one card, at most, unless the number of micro-steps is given."""

_MOST = 10**15
_FEW = 2000
"""Chunks that stand for more than can be walked: the ends, which are too long, are 0.2 % of all."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a training step is estimated for.

    Attributes
    ----------
    model, strategy, rule, machine, software
        What is trained, how, on what, by which program.
    weights : str
        Dtype of the parameters.
    tokens_per_step : int
        Of all cards and micro-steps together.
    accumulate, cards : int
        Micro-steps to a step; cards that share the work.
    zero_stage : int
        What each of these cards has only its part of: 1, state and master; 2, gradients too; 3,
        weights too.
    sequence_length : int
        Tokens that attend to each other; 0 leaves attention's own FLOPs out.
    recompute : bool
        Whether activations are computed a second time rather than kept.
    activation_bytes : float or None
        Device memory of activations, if it is known.
    chunk_bytes, slots : int
        Bytes of a chunk in float32; chunks on their way at once.
    pinned_powers : bool
        Whether pinned memory is taken in powers of two.
    """

    model: Model
    strategy: Strategy
    rule: Rule
    machine: Machine
    software: Software
    weights: Format = "bfloat16"
    tokens_per_step: int = MICRO_TOKENS
    accumulate: int = 1
    cards: int = 1
    zero_stage: int = 1
    sequence_length: int = 0
    recompute: bool = True
    activation_bytes: float | None = None
    chunk_bytes: int = 4 << 20
    slots: int = 3
    pinned_powers: bool = False

    @property
    def micro_tokens(self) -> float:
        """Tokens of one micro-batch on one card."""
        return self.tokens_per_step / self.accumulate / self.cards

    @property
    def chosen(self) -> int:
        """Parameters that the strategy holds for."""
        sizes = self.model.sizes
        if len(sizes) == 1:  # no tensors are known
            held = self.strategy.fraction * sizes[0] / self.strategy.every
            return math.ceil(held) if sizes[0] >= self.strategy.minimum_size else 0
        return sum(sizes[i] for i in self.strategy.chosen(sizes))


def ask(
    parameters: Any,
    *,
    strategy: str | Strategy,
    rule: Rule,
    machine: str | Machine,
    software: Software | None,
    weights: Format,
    tokens_per_step: float,
    accumulate: int | None,
    cards: int,
    **others: Any,
) -> Question:
    """Check what was asked; see `adamoffload.estimate`.

    Raises
    ------
    TypeError, ValueError
        If something is wrong.
    """
    model = read_model(parameters)
    of = find_strategy("estimate", strategy)
    where = find_machine("estimate", machine)
    instance("estimate", "rule", rule, Rule, "an adamoffload.Rule, such as ao.rules.AdamW()")
    choice("estimate", "weights", weights, WEIGHTS)
    tokens = _whole("tokens_per_step", tokens_per_step)
    integer("estimate", "cards", cards, at_least=1)
    if cards > where.cards:
        raise ValueError(f"estimate: cards must be at most {where.cards}, got {describe(cards)}")
    if accumulate is None:
        accumulate = math.ceil(tokens / cards / MICRO_TOKENS)
    if integer("estimate", "accumulate", accumulate, at_least=1) > tokens:
        raise ValueError(
            f"estimate: accumulate must be at most tokens_per_step, {tokens}, since a micro-step "
            f"has a token at least, got {describe(accumulate)}"
        )
    if integer("estimate", "zero_stage", others["zero_stage"], at_least=1) > 3:
        raise ValueError(
            f"estimate: zero_stage must be 1, 2 or 3, got {describe(others['zero_stage'])}"
        )
    if integer("estimate", "sequence_length", others["sequence_length"], at_least=0) > _MOST:
        wrong = describe(others["sequence_length"])
        raise ValueError(f"estimate: sequence_length must be at most {_MOST:g}, got {wrong}")
    integer("estimate", "chunk_bytes", others["chunk_bytes"], at_least=4)
    integer("estimate", "slots", others["slots"], at_least=1)
    flag("estimate", "recompute", others["recompute"])
    flag("estimate", "pinned_powers", others["pinned_powers"])
    if others["activation_bytes"] is not None:
        others["activation_bytes"] = _number("activation_bytes", others["activation_bytes"], 0)
    if software is not None:
        instance("estimate", "software", software, Software)
    return Question(
        model=model,
        strategy=of,
        rule=rule,
        machine=where,
        software=software or software_of(of.name),
        weights=weights,
        tokens_per_step=tokens,
        accumulate=accumulate,
        cards=cards,
        **others,
    )


def read_model(value: Any) -> Model:
    """Return a model, given one, its name, its size, the sizes of its tensors, or a torch module.

    Raises
    ------
    TypeError, ValueError
        If it is none of these.

    Examples
    --------
    >>> read_model("gpt2").parameters, read_model(7e9).parameters, read_model([3, 4]).sizes
    (124439808, 7000000000, (3, 4))
    """
    if isinstance(value, Model):
        return value
    if isinstance(value, str):
        if value not in models:
            raise ValueError(
                f"estimate: model must be one of {', '.join(models)}, or a number of parameters; "
                f"got {listed([value], [*models])}"
            )
        return models[value]
    if isinstance(value, int | float):
        return Model.of_size(_whole("parameters", value))
    if callable(getattr(value, "parameters", None)):  # a torch module
        value = [parameter.numel() for parameter in value.parameters()]
    if not isinstance(value, Iterable):
        raise TypeError(
            "estimate: parameters must be a number, sizes, a model, its name or a torch module, "
            f"got {describe(value)}"
        )
    sizes = [_whole("parameters", getattr(each, "size", each)) for each in value]
    if not sizes:
        raise ValueError("estimate: parameters must not be empty")
    return replace(Model.of_size(sum(sizes)), given=tuple(sizes))


def cut(sizes: Sequence[int], chunk_size: int, limit: int) -> list[Cut]:
    """Cut tensors into chunks; of more than `limit`, each stands for several.

    Examples
    --------
    >>> cut([5, 2], 4, limit=10)
    [Cut(parts=(4,), stands_for=1), Cut(parts=(1, 2), stands_for=1)]
    >>> cut([26], 4, limit=3)
    [Cut(parts=(12,), stands_for=3), Cut(parts=(12,), stands_for=3), Cut(parts=(2,), stands_for=3)]
    """
    total = sum(sizes)
    count = -(-total // chunk_size)
    if count > limit:
        many = -(-count // min(limit, _FEW))
        each = many * chunk_size
        whole = [Cut((each,), many)] * (total // each)
        return [*whole, Cut((total % each,), many)] if total % each else whole
    plan = plan_chunks(sizes, range(len(sizes)), chunk_size)
    return [Cut(tuple(piece.stop - piece.start for piece in chunk.pieces)) for chunk in plan]


def _whole(name: str, value: Any) -> int:
    number = _number(name, value, 1)
    if number != number // 1:
        raise ValueError(f"estimate: {name} must be a whole number, got {value}")
    return int(value)


def _number(name: str, value: Any, least: int) -> float:
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"estimate: {name} must be a number, got {describe(value)}")
    number = math.inf if isinstance(value, int) and value > _MOST else float(value)
    if not least <= number <= _MOST:
        raise ValueError(
            f"estimate: {name} must be in [{least}, {_MOST:.0e}], got {describe(value)}"
        )
    return number
