"""Where the bytes of a training step are: by place and kind, for one card and its host's share."""

from __future__ import annotations

from collections.abc import Iterator

from adamoffload.estimates.declared import Declaration, declare
from adamoffload.estimates.question import Question
from adamoffload.observe.ledger import Holding
from adamoffload.plan.strategy import strategies

__all__ = ["USABLE", "activation_bytes", "holdings", "limits"]

USABLE = 0.95
"""The share of a memory that a program can have."""

_STAGE = {"gradient": 2, "sum": 2, "weights": 3}
"""From which stage of ZeRO on a card has only its part of a thing; of all else, from the first."""

_LAYER_BYTES = 34
_LOGIT_BYTES = 10


def activation_bytes(question: Question) -> float:
    """Return what the activations of a micro-batch take.

    For each token and unit of width, a layer keeps 34 bytes in 16 bits, without the scores of
    attention, which nobody keeps any more; if they are computed again, one layer has them at a time
    and the others keep their input. The logits take 10 bytes for each entry of the vocabulary: in
    16 bits, and in float32 with their gradient.

    References
    ----------
    V. Korthikanti et al., "Reducing activation recomputation in large transformer models",
    arXiv:2205.05198, equation 1.
    """
    if question.activation_bytes is not None:
        return question.activation_bytes
    model, wide = question.model, 2 if question.weights == "float32" else 1
    layer = _LAYER_BYTES * model.width * wide
    kept = model.layers * layer
    if question.recompute:
        kept = model.layers * 2 * model.width * wide + layer
    return question.micro_tokens * (kept + _LOGIT_BYTES * model.vocabulary)


def limits(question: Question) -> dict[str, float]:
    """Return the bytes that a card and its share of the host can have."""
    machine = question.machine
    host = machine.host_memory_bytes / machine.cards
    return {"device": USABLE * machine.device_memory_bytes, "host": USABLE * host}


def holdings(question: Question, declared: Declaration) -> tuple[Holding, ...]:
    """Return where the bytes are, by place and kind."""
    found: dict[tuple[str, str], float] = {}
    for place, thing, nbytes in (*_shares(question, declared), *_beside(question, declared)):
        if question.pinned_powers and place == "pinned":
            nbytes = 2.0 ** max(0, (int(nbytes) - 1).bit_length())
        found[place, thing] = found.get((place, thing), 0) + nbytes
    return tuple(Holding(*key, round(nbytes)) for key, nbytes in found.items() if nbytes)


def _shares(question: Question, declared: Declaration) -> Iterator[tuple[str, str, float]]:
    """Yield what the strategy says, and what is resident beside it."""
    resident = declare(strategies["resident"], question.rule, question.weights, question.accumulate)
    rest = question.model.parameters - question.chosen
    for share, size in ((declared, question.chosen), (resident, rest)):
        frees = question.software.frees and share is declared
        for home, things in share.homes.items():
            for thing, nbytes in things.items():
                if (thing, home) == ("gradient", "device") and frees:
                    continue
                whole = question.zero_stage < _STAGE.get(thing, 1)
                pinned = home == "host" and declared.on_device
                yield (
                    "pinned" if pinned else home,
                    thing,
                    nbytes * size / (1 if whole else question.cards),
                )


def _beside(question: Question, declared: Declaration) -> Iterator[tuple[str, str, float]]:
    """Yield what the program takes beside that."""
    software, size = question.software, question.chosen / question.cards
    said = declared.homes["host"]
    for thing, nbytes in software.host_extra.items():
        if thing == "accumulator" and (question.accumulate == 1 or "sum" in said):
            continue
        if thing not in said:
            yield "pinned" if software.pinned else "host", thing, nbytes * size
    chunk = min(question.chunk_bytes / 4, size)
    for place in ("device", "host"):
        roles = {
            "gradient" if hop.thing in ("update", "weights") else hop.thing
            for hop in declared.hops
            if hop.nbytes and place in (hop.source, hop.target) and hop.thing not in said
        }
        where = "pinned" if place == "host" else place
        yield where, "ring", 4 * chunk * question.slots * len(roles)
    if software.frees and question.chosen:
        yield "device", "largest gradient", declared.weight_bytes * max(_tensors(question))
    yield "device", "activations", activation_bytes(question)
    yield "device", "context", software.device_bytes


def _tensors(question: Question) -> tuple[int, ...]:
    """Return the sizes of tensors; where they are not known, that of one matrix."""
    model = question.model
    if len(model.sizes) > 1:
        return model.sizes
    return (min(model.parameters, model.inner * model.width),)
