"""The arithmetic of an estimate, line by line, as one would write it on a blackboard."""

from __future__ import annotations

from collections.abc import Iterator

from adamoffload.estimates.estimate import Estimate
from adamoffload.estimates.memory import activation_bytes
from adamoffload.estimates.step import compute_s, host_bytes, host_of

__all__ = ["assumptions", "lines"]


def lines(found: Estimate) -> list[str]:
    """Return each figure with how it is computed.

    Examples
    --------
    >>> import adamoffload as ao
    >>> found = ao.estimate(1e9, strategy="zero-offload", machine="rtx4090")
    >>> for line in lines(found)[2:5]:
    ...     print(line)
    gradient down: 2 B x 1e+09 / 24 GB/s = 0.083 s
    weights up: 2 B x 1e+09 / 24 GB/s = 0.083 s
    host update: 28 B x 1e+09 / 36 GB/s = 0.78 s
    """
    return [*_passes(found), *_lanes(found), *_together(found), *_memory(found)]


def _passes(found: Estimate) -> Iterator[str]:
    question, machine = found.question, found.question.machine
    tokens, half = question.micro_tokens, float(machine.half_tokens)
    times = 8 if question.recompute else 6
    attention = f", attention over {question.sequence_length:,}" if question.sequence_length else ""
    rate = f"{_si(machine.flops_per_s)}FLOPS x {float(machine.efficiency):.3g}"
    if half:
        rate += f" x {tokens:,.0f}/({tokens:,.0f} + {half:,.0f})"
    yield (
        f"forward, backward: {times} FLOPs x {question.model.parameters:.3g} parameters{attention} "
        f"x {tokens:,.0f} tokens / ({rate}) = {sum(compute_s(question)):.3g} s"
    )
    yield f"micro-steps: {question.accumulate} x that = {found.compute_s:.3g} s"


def _lanes(found: Estimate) -> Iterator[str]:
    question, declared, machine = found.question, found.declared, found.question.machine
    link, disk = machine.link().pace(pinned=question.software.pinned), machine.disk()
    size = question.chosen / question.cards
    for lane, rate in {"d2h": link.bytes_per_s, "h2d": link.bytes_per_s}.items():
        things = " and ".join(hop.thing for hop in declared.hops if hop.lane == lane)
        way = "down" if lane == "d2h" else "up"
        if declared.moved[lane]:
            yield _time(f"{things} {way}", declared.moved[lane], size, rate)
    if not declared.on_device:
        host = host_of(question)
        rate = min(host.update_bytes_per_s, host.memory_bytes_per_s)
        yield _time("host update", host_bytes(question, declared), size, rate)
    for lane, rate in {"read": disk.read_bytes_per_s, "write": disk.write_bytes_per_s}.items():
        if declared.moved[lane]:
            yield _time(f"disk {lane}", declared.moved[lane], size, rate)


def _time(what: str, nbytes: float, size: float, rate: float) -> str:
    seconds = nbytes * size / rate
    return f"{what}: {nbytes:.3g} B x {size:.3g} / {rate / 1e9:.3g} GB/s = {seconds:.2g} s"


def _together(found: Estimate) -> Iterator[str]:
    yield (
        f"step: {found.compute_s:.3g} s of passes + {found.optimizer_s:.3g} s of the optimizer "
        f"- {found.hidden_s:.3g} s hidden = {found.step_s:.3g} s"
    )
    yield (
        f"overhead: {found.step_s:.3g} s / {found.resident_s:.3g} s with a resident optimizer - 1 "
        f"= {found.overhead:+.0%}"
    )


def _memory(found: Estimate) -> Iterator[str]:
    question = found.question
    for place, kind, nbytes in found.holdings:
        each = f" = {nbytes / question.model.parameters:.3g} B a parameter"
        if kind == "activations":
            each = f" = {activation_bytes(question) / question.micro_tokens:,.0f} B a token"
        elif kind in ("context", "ring", "largest gradient"):
            each = ""
        yield f"{place}, {kind}: {nbytes / 1e9:.3g} GB{each}"


def assumptions(found: Estimate) -> list[str]:
    """Return what the figures rest on: each figure of the machine with its range and source."""
    question = found.question
    said = [
        f"{name}: {_si(f)}, {_si(f.low)} to {_si(f.high)} ({f.source})"
        for name, f in question.machine.figures.items()
    ]
    said.append(f"program: {question.software.source}")
    said.append(f"model: {question.model.source}")
    if not question.sequence_length:
        said.append("attention's own FLOPs are not counted; --sequence says over how many tokens")
    if question.cards > 1:
        said.append("the network between cards is not counted")
    if found.extrapolated:
        said.append(f"{found.simulated.stands_for} chunks are walked as one")
    return said


def _si(value: object) -> str:
    number = float(value)  # type: ignore[arg-type]  # a figure is one
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g} "
