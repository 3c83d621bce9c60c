"""`estimate`: what a training step takes, in memory and in time, on a machine one need not have."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from adamoffload.estimates.declared import Declaration
from adamoffload.estimates.drawing import drawn
from adamoffload.estimates.machines import End, Machine
from adamoffload.estimates.memory import holdings, limits
from adamoffload.estimates.question import MICRO_TOKENS, Question, ask
from adamoffload.estimates.software import Software
from adamoffload.estimates.step import LIMIT, Simulated, compute_s, declared_of, simulate
from adamoffload.observe.ledger import Holding
from adamoffload.plan.formats import Format
from adamoffload.plan.strategy import Strategy, strategies
from adamoffload.rules.adamw import AdamW
from adamoffload.rules.rule import Rule

__all__ = ["Estimate", "Range", "answer", "estimate"]

_ENDS: tuple[End, ...] = ("low", "high")
_FEW = 100


@dataclass(frozen=True, slots=True)
class Range:
    """A quantity with what it can be when the machine's figures are at the ends of their ranges."""

    low: float
    typical: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What a training step takes; each figure is computed when it is first asked for.

    Attributes
    ----------
    question : Question
        What was asked, with all that was assumed.
    declared : Declaration
        What the strategy says.
    limit : int
        Chunks that are walked one by one, at most.
    """

    question: Question
    declared: Declaration
    limit: int = LIMIT

    # -- memory ---------------------------------------------------------------------------------

    @cached_property
    def holdings(self) -> tuple[Holding, ...]:
        """Bytes by place and kind, of one card and its host's share."""
        return holdings(self.question, self.declared)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by place: ``"device"``, ``"host"`` (pinned or not) and ``"disk"``."""
        found = dict.fromkeys(("device", "host", "disk"), 0)
        for place, _, nbytes in self.holdings:
            found["host" if place == "pinned" else place] += nbytes
        return found

    @property
    def lacks(self) -> tuple[str, ...]:
        """What does not fit, in words."""
        memory, most = self.memory, limits(self.question)
        return tuple(
            f"{place}: {memory[place] / 1e9:.1f} GB of {most[place] / 1e9:.1f}"
            for place in most
            if memory[place] > most[place]
        )

    @property
    def fullest(self) -> float:
        """Which share of its memory the fuller of device and host would use; above 1, too much."""
        memory, most = self.memory, limits(self.question)
        return max(memory[place] / most[place] for place in most)

    @property
    def fits(self) -> bool:
        """Whether device and host can hold it."""
        return not self.lacks

    # -- time -----------------------------------------------------------------------------------

    @cached_property
    def simulated(self) -> Simulated:
        """What each lane did."""
        return simulate(self.question, self.limit)

    @property
    def step_s(self) -> float:
        """Seconds of the whole step."""
        return self.simulated.step_s

    @property
    def compute_s(self) -> float:
        """Seconds of all forward and backward passes of a step."""
        return sum(compute_s(self.question)) * self.question.accumulate

    @cached_property
    def optimizer_s(self) -> float:
        """Seconds of the optimizer, if nothing of it were hidden behind the passes."""
        return simulate(self.question, self.limit, compute=False).step_s

    @property
    def hidden_s(self) -> float:
        """Seconds of the optimizer that pass while the device computes."""
        return max(0.0, self.compute_s + self.optimizer_s - self.step_s)

    @cached_property
    def resident_s(self) -> float:
        """Seconds of a step with a resident optimizer, on a device that were large enough."""
        return _resident_s(self.question, self.limit)

    @property
    def overhead(self) -> float:
        """``step_s / resident_s - 1``."""
        return self.step_s / self.resident_s - 1

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second, of all cards together."""
        return self.question.tokens_per_step / self.step_s

    @cached_property
    def _corners(self) -> tuple[list[float], list[float], list[str]]:
        return _corners(self.question)

    @property
    def steps(self) -> Range:
        """Seconds of a step, over the corners of the machine's figures."""
        found = [self.step_s * each for each in (1.0, *self._corners[0])]
        return Range(min(found), self.step_s, max(found))

    @property
    def overheads(self) -> Range:
        """The overhead, over the corners of the machine's figures."""
        found = [(1 + self.overhead) * each - 1 for each in (1.0, *self._corners[1])]
        return Range(min(found), self.overhead, max(found))

    @property
    def bottleneck(self) -> str:
        """The lane that works longest; if that depends on the corner, ``"host or device"``."""
        return " or ".join(dict.fromkeys([self.simulated.bottleneck, *self._corners[2]]))

    @property
    def extrapolated(self) -> bool:
        """Whether there are more chunks than are walked one by one."""
        return self.simulated.stands_for > 1

    @property
    def timeline(self) -> str:
        """The step as text, a line for each lane; the same numbers are in ``simulated.bars``."""
        return drawn(self.simulated.bars, self.step_s)

    def __str__(self) -> str:
        fits = "fits" if self.fits else "does not fit: " + ", ".join(self.lacks)
        return (
            f"{self.question.strategy.label} on {self.question.machine.name}: "
            f"{self.step_s:.3g} s a step, {self.overhead:+.0%} over a resident optimizer, "
            f"{self.bottleneck} is the bottleneck; {fits}"
        )


def estimate(
    parameters: Any,
    *,
    strategy: str | Strategy,
    rule: Rule | None = None,
    weights: Format = "bfloat16",
    machine: str | Machine = "rtx4090",
    tokens_per_step: float = MICRO_TOKENS,
    accumulate: int | None = None,
    cards: int = 1,
    zero_stage: int = 1,
    sequence_length: int = 0,
    recompute: bool = True,
    activation_bytes: float | None = None,
    software: Software | None = None,
    chunk_bytes: int = 4 << 20,
    slots: int = 3,
    pinned_powers: bool = False,
) -> Estimate:
    """Say what a training step takes, in memory and in time, without allocating anything.

    The strategy's hops run on the machine's lanes, chunk by chunk, on the clock of the ``sim``
    backend; of more than 10,000 chunks, several are walked as one.

    Parameters
    ----------
    parameters : float, str, Model, iterable or torch module
        How many; or a model of `adamoffload.models` or its name; or the sizes of tensors.
    strategy : str or Strategy
        What lives where.
    rule : Rule, optional
        What is computed; `adamoffload.rules.AdamW`, if left out.
    weights : str
        ``"bfloat16"``, ``"float16"`` or ``"float32"``.
    machine : str or Machine
        One of `adamoffload.machines` or one of your own: one card and its share of the host.
    tokens_per_step : int
        Of all cards and micro-steps together.
    accumulate : int, optional
        Micro-steps to a step; if left out, as many as micro-batches of at most 8,192 tokens a card
        need.
    cards : int
        How many cards of the machine share the work, each with its part of the optimizer. The
        network between them is not counted.
    zero_stage : int
        What these cards have only a part of: 1, state and master; 2, gradients too; 3, weights too.
    sequence_length : int
        Tokens that attend to each other, for the FLOPs of attention; 0 leaves them out.
    recompute : bool
        Whether activations are computed a second time, rather than kept.
    activation_bytes : float, optional
        Device memory of activations; by a formula, if left out.
    software : Software, optional
        The program that does it; if left out, the one that the strategy is named after.
    chunk_bytes, slots : int
        As for `adamoffload.Optimizer`.
    pinned_powers : bool
        Whether pinned memory is taken in powers of two, as PyTorch does.

    Returns
    -------
    Estimate
        With typical figures of the machine, and ranges.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, or the strategy cannot have such weights.

    Examples
    --------
    >>> import adamoffload as ao
    >>> answer = ao.estimate("llama-2-7b", strategy="zero-offload", machine="rtx4090")
    >>> answer.fits, round(answer.memory["host"] / 1e9)
    (True, 94)
    >>> ao.estimate("llama-2-7b", strategy="resident", machine="rtx4090").lacks
    ('device: 114.5 GB of 24.5',)
    >>> answer.bottleneck
    'device or host'
    """
    return answer(
        ask(
            parameters,
            strategy=strategy,
            rule=AdamW() if rule is None else rule,
            machine=machine,
            software=software,
            weights=weights,
            tokens_per_step=tokens_per_step,
            accumulate=accumulate,
            cards=cards,
            zero_stage=zero_stage,
            sequence_length=sequence_length,
            recompute=recompute,
            activation_bytes=activation_bytes,
            chunk_bytes=chunk_bytes,
            slots=slots,
            pinned_powers=pinned_powers,
        )
    )


def answer(question: Question, limit: int = LIMIT) -> Estimate:
    """Return the estimate for a question that is checked already.

    Raises
    ------
    ValueError
        If the strategy cannot have such weights.
    """
    return Estimate(question, declared_of(question), limit)


def _resident_s(question: Question, limit: int) -> float:
    resident = replace(question, strategy=strategies["resident"], software=Software())
    return simulate(resident, limit).step_s


def _corners(question: Question) -> tuple[list[float], list[float], list[str]]:
    """Return by which factors steps and their ratio to resident ones differ, and the fullest lanes.

    All corners, also the opposite ones: errors do not cancel. They are walked in few chunks, so
    what they give is taken in proportion.
    """
    near_s = simulate(question, _FEW).step_s
    near = near_s / _resident_s(question, _FEW)
    steps, ratios, lanes = [], [], []
    for speed, host, link in itertools.product(_ENDS, repeat=3):
        corner = _corner(question, speed, host, link)
        there = simulate(corner, _FEW)
        steps.append(there.step_s / near_s)
        ratios.append(there.step_s / _resident_s(corner, _FEW) / near)
        lanes.append(there.bottleneck)
    return steps, ratios, lanes


def _corner(question: Question, speed: End, host: End, link: End) -> Question:
    """Return the question with device, host and link each at one end of what they may be."""
    slow: dict[End, End] = {"low": "high", "high": "low"}
    machine = question.machine.at(
        efficiency=speed,
        half_tokens=slow[speed],
        host_bytes_per_s=host,
        link_bytes_per_s=link,
        link_total_bytes_per_s=link,
    )
    software = question.software
    if software.host_rate is not None:
        software = replace(software, host_rate=software.host_rate.at(host))
    return replace(question, machine=machine, software=software)
