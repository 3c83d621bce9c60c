"""A whole training step on the lanes of a machine: forward, backward, copies, host, apply."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from adamoffload.estimates.clock import Clock
from adamoffload.estimates.declared import Declaration, declare
from adamoffload.estimates.hardware import Host, Pace
from adamoffload.estimates.question import Question, cut
from adamoffload.estimates.walk import Bar, Costs, Walk, carry
from adamoffload.plan.strategy import strategies

__all__ = ["LIMIT", "Simulated", "compute_s", "declared_of", "host_bytes", "host_of", "simulate"]

_Wire = Literal["d2h", "h2d"]
_WIRE: tuple[_Wire, ...] = ("d2h", "h2d")

LIMIT = 10_000
"""Chunks that are walked one by one; of more, several are walked as one."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a walk has found.

    Attributes
    ----------
    step_s : float
        The whole step.
    bars : list of Bar
        Who did what, when.
    chunks, stands_for : int
        How many chunks were walked, and how many each stands for.
    """

    step_s: float
    bars: list[Bar]
    chunks: int
    stands_for: int

    def busy_s(self) -> dict[str, float]:
        """Return for how long each lane worked."""
        busy: dict[str, float] = {}
        for bar in self.bars:
            if bar.what != "wait":
                busy[bar.lane] = busy.get(bar.lane, 0.0) + bar.stop_s - bar.start_s
        return busy

    @property
    def bottleneck(self) -> str:
        """The lane that worked longest."""
        busy = self.busy_s()
        return max(busy, key=busy.__getitem__)


def declared_of(question: Question) -> Declaration:
    """Return what the question's strategy declares.

    Raises
    ------
    ValueError
        If it cannot have such weights.
    """
    return declare(question.strategy, question.rule, question.weights, question.accumulate)


def compute_s(question: Question) -> tuple[float, float]:
    """Return the seconds of one micro-step's forward pass, and of its backward pass.

    Backward takes twice the FLOPs of forward, and three times with recomputation.
    """
    machine, tokens = question.machine, question.micro_tokens
    rate = float(machine.flops_per_s) * float(machine.efficiency)
    rate *= tokens / (tokens + float(machine.half_tokens))
    forward_s = question.model.forward_flops(question.sequence_length) * tokens / rate
    return forward_s, forward_s * (3 if question.recompute else 2)


def host_bytes(question: Question, declared: Declaration) -> float:
    """Return what the host's update moves through its memory, for each parameter."""
    slots = [declared.kept[slot] for slot in question.rule.slots]
    width = min(slots, default=4.0)
    return question.software.host_bytes * (3 + 2 * len(slots)) * width / 28


def host_of(question: Question) -> Host:
    """Return one card's share of the host, as the program can use it."""
    machine, software = question.machine, question.software
    host = machine.host()
    rate = min(host.update_bytes_per_s, host.memory_bytes_per_s * software.host_pace)
    if software.host_rate is not None:
        ranks = question.cards if software.rate_of == "host" else 1
        rate = min(rate, float(software.host_rate) / ranks)
    return replace(host, update_bytes_per_s=rate)


def simulate(question: Question, limit: int = LIMIT, *, compute: bool = True) -> Simulated:
    """Let a step happen.

    Parameters
    ----------
    question : Question
        What is trained, how, and on what.
    limit : int
        Chunks to walk at most.
    compute : bool
        Whether forward and backward passes are in it, or the optimizer alone.
    """
    return _Step(question, declared_of(question), limit).run(compute)


class _Step:
    """A step while it is walked."""

    def __init__(self, question: Question, declared: Declaration, limit: int) -> None:
        self.question, self.declared, self.software = question, declared, question.software
        self.clock, self.bars = Clock(host_of(question)), list[Bar]()
        sizes = question.model.sizes
        chosen = sorted(question.strategy.chosen(sizes)) if len(sizes) > 1 else []
        rest = [size for i, size in enumerate(sizes) if i not in {*chosen}]
        held = [sizes[i] for i in chosen]
        if len(sizes) == 1 or question.cards > 1:  # flat: a rank has a part of everything
            held = [-(-question.chosen // question.cards)] if question.chosen else []
            rest = [-(-(question.model.parameters - question.chosen) // question.cards)]
        self.tensors = len(chosen) / question.cards if len(sizes) > 1 else 0.0
        self.size = sum(held)
        self.cuts = cut(held, question.chunk_bytes // 4, limit)
        self.rest = cut([n for n in rest if n], question.chunk_bytes // 4, limit)
        resident = declare(strategies["resident"], question.rule, question.weights, 1)
        self.walk, self.other = self._walk(declared), self._walk(resident)

    def _walk(self, declared: Declaration) -> Walk:
        question, machine, rule = self.question, self.question.machine, self.question.rule
        link, disk = machine.link().pace(pinned=self.software.pinned), machine.disk()
        paces = {"d2h": link, "h2d": link, "read": disk.pace("read"), "write": disk.pace("write")}
        decays = callable(rule.weight_decay) or bool(rule.weight_decay)
        moved = 0.0 if declared.on_device else host_bytes(question, declared)
        each = self.software.tensor_s * self.tensors / max(1, len(self.cuts))
        costs = Costs(declared, machine.device(), paces, decays, rule.decay == "l2", moved, each)
        return Walk(self.clock, costs, self.bars, question.slots)

    def run(self, compute: bool) -> Simulated:
        forward_s, backward_s = compute_s(self.question) if compute else (0.0, 0.0)
        self._lead(forward_s, backward_s)
        if compute:
            self._device("forward", forward_s)
        early = compute and self.software.gradients == "backward" and not self.declared.on_device
        late = self._late() if self.declared.delay and self.cuts else None
        if early:
            self._backward(backward_s)
        elif compute:
            self._device("backward", backward_s)
        if late is not None:  # while the device computes; what it finds goes up at the end
            late.update()
        elif early and self.software.during:
            self.walk.update()
        if compute or late is not None:
            self._reach_the_step()
        self._update(late, early)
        stands_for = max((c.stands_for for c in (*self.cuts, *self.rest)), default=1)
        return Simulated(
            self.clock.idle_s(), self.bars, len(self.cuts) + len(self.rest), stands_for
        )

    def _update(self, late: Walk | None, early: bool) -> None:
        if not early:
            self.walk.plan(self.cuts)
        self.other.plan(self.rest, first=len(self.cuts))
        if late is not None:
            if not early:
                for i, each in enumerate(self.cuts):
                    self.walk.go_down(i, each)
            late.go_up()
            carry([self.other])
        elif early and self.software.during:
            self.walk.go_up()
            carry([self.other])
        elif self.software.overlap:
            carry([self.walk, self.other])
        else:
            self.walk.one_by_one()
            carry([self.other])

    def _late(self) -> Walk:
        """Return the walk of the gradients that the step before has left on the host."""
        late = self._walk(self.declared)
        late.arrived(self.cuts)
        return late

    def _reach_the_step(self) -> None:
        """Let the host wait until backward is through: the optimizer is called then."""
        self.clock.host_s = self.clock.start("device", 0.0)
        if self.software.waits:
            self.clock.host_s = self.clock.start("d2h", 0.0)

    def _device(self, what: str, seconds: float, chunk: int = -1) -> None:
        start_s = self.clock.start("device", 0.0)
        stop_s = self.clock.occupy("device", start_s, seconds)
        self.bars.append(Bar("device", what, chunk, start_s, stop_s))

    def _lead(self, forward_s: float, backward_s: float) -> None:
        """All micro-steps but the last, and what crosses for the sum of their gradients."""
        count = self.question.accumulate - 1
        if not count:
            return
        if forward_s:
            self._device("micro-steps", count * (forward_s + backward_s))
        paces, micro = self.walk.costs.paces, self.declared.micro
        ready_s = self.clock.start("device", 0.0)
        if self.software.gradients == "backward":  # beside it; at worst, it takes longer
            ready_s -= count * backward_s
        for lane in _WIRE:
            nbytes = micro[lane] * self.size
            if nbytes:
                ready_s = self._copy(lane, ready_s, nbytes, paces[lane])
        idle_s = max(0.0, ready_s - self.clock.start("device", 0.0))
        self.clock.occupy("device", self.clock.start("device", 0.0), idle_s)

    def _copy(self, lane: _Wire, ready_s: float, nbytes: float, pace: Pace) -> float:
        start_s = self.clock.start(lane, ready_s)
        stop_s = self.clock.carry(lane, start_s, nbytes, pace)
        self.bars.append(Bar(lane, lane, -1, start_s, stop_s))
        return stop_s

    def _backward(self, seconds: float) -> None:
        """Compute gradients, and let each chunk's leave as it is there.

        Backward begins at the output, so what is resident there comes first or last.
        """
        resident_s = seconds * (1 - self.question.chosen / self.question.model.parameters)
        first = self.question.strategy.side == "input"
        if resident_s and first:
            self._device("backward", resident_s)
        each_s = (seconds - resident_s) / max(1, len(self.cuts))
        for i, each in enumerate(self.cuts):
            self._device("backward", each_s, i)
            self.walk.go_down(i, each)
        if resident_s and not first:
            self._device("backward", resident_s)
