"""DeepSpeed's configuration, as far as an estimate is concerned: read, and written.

Keys and defaults are those of DeepSpeed 0.19 (``runtime/zero/config.py``, ``offload_config.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from adamoffload.arguments import describe
from adamoffload.estimates.question import Question
from adamoffload.estimates.software import Software, software_of
from adamoffload.plan.strategy import Strategy, strategies

__all__ = ["Config", "emit_deepspeed", "read_deepspeed"]

_SUB_GROUP = 1e9
_RULES = {"adam": "AdamW", "adamw": "AdamW", "lion": "Lion", "adagrad": "Adagrad", "sgd": "SGD"}


@dataclass(frozen=True)
class Config:
    """What a configuration says.

    Attributes
    ----------
    strategy : Strategy
        What lives where.
    software : Software
        The program, with pinned memory or without.
    rule, weights : str
        What is computed, and the dtype of the parameters.
    zero_stage, accumulate : int
        As for `adamoffload.estimate`.
    micro_batch : int or None
        Sequences of a micro-batch on one card.
    ignored : tuple of str
        Keys that an estimate has no use for.
    notes : tuple of str
        What has no effect, or not the one that one may expect.
    """

    strategy: Strategy
    software: Software
    rule: str
    weights: str
    zero_stage: int
    accumulate: int
    micro_batch: int | None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def read_deepspeed(document: Any, parameters: int) -> Config:
    """Return what a DeepSpeed configuration says of a model of so many parameters.

    Raises
    ------
    TypeError, ValueError
        If it is no such configuration, or asks for what no strategy declares.

    Examples
    --------
    >>> zero = {"stage": 2, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}
    >>> found = read_deepspeed({"bf16": {"enabled": True}, "zero_optimization": zero}, 10**9)
    >>> found.strategy.name, found.zero_stage, found.notes
    ('deepspeed-zero2', 2, ('ratio has an effect in stage 3 only',))
    """
    given = _Keys(document)
    stage = given.whole("zero_optimization.stage", 0, least=0)
    device = given.text("zero_optimization.offload_optimizer.device", "none")
    ratio = given.number("zero_optimization.offload_optimizer.ratio", 1.0)
    pinned = bool(given.get("zero_optimization.offload_optimizer.pin_memory", True))
    group = given.number("zero_optimization.sub_group_size", _SUB_GROUP)
    overlap = given.get("zero_optimization.overlap_comm", None)
    summed = given.get("data_types.grad_accum_dtype", None)
    if stage > 3 or (device != "none" and stage == 0):
        raise ValueError(f"DeepSpeed: stage must be 1, 2 or 3 to offload, got {stage}")
    notes = []
    if ratio < 1 and stage < 3:
        notes.append("ratio has an effect in stage 3 only")
    elif ratio < 1 and group >= parameters:
        notes.append(
            "ratio has no effect: the model is one sub-group, so all of it is on the host; "
            "make sub_group_size smaller"
        )
    if summed is not None and stage == 2 and device != "none":
        notes.append("grad_accum_dtype has no effect in stage 2 with offload: sums are in 16 bits")
    if device != "none" and not pinned:
        notes.append("pin_memory is off: copies are pageable and block")
        if overlap:
            notes.append("overlap_comm has no effect on copies that are not pinned")
    if stage == 3 and device == "cpu":
        notes.append("stage 3 is estimated as stage 2; it carries 2 bytes more each way")
    strategy = strategies[_strategy(stage, device)]
    if stage == 3 and group < parameters:
        strategy = replace(strategy, fraction=ratio)
    return Config(
        strategy=strategy,
        software=replace(software_of(strategy.name), pinned=pinned),
        rule=_RULES.get(given.text("optimizer.type", "AdamW").lower(), "AdamW"),
        weights=given.weights(),
        zero_stage=max(1, stage),
        accumulate=given.whole("gradient_accumulation_steps", 1, least=1),
        micro_batch=given.get("train_micro_batch_size_per_gpu", None),
        ignored=tuple(given.rest()),
        notes=tuple(notes),
    )


def _strategy(stage: int, device: str) -> str:
    names = {"none": "resident", "nvme": "disk", "cpu": f"deepspeed-zero{min(stage, 2)}"}
    if device not in names:
        raise ValueError(
            f"DeepSpeed: offload_optimizer.device must be none, cpu or nvme, got {device!r}"
        )
    return names[device]


def emit_deepspeed(question: Question) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a question.

    Raises
    ------
    ValueError
        If DeepSpeed has no such strategy.
    """
    name = question.strategy.name
    stages = {"resident": question.zero_stage, "deepspeed-zero1": 1, "deepspeed-zero2": 2}
    if name not in stages:
        raise ValueError(f"DeepSpeed has no strategy {name!r}; it has {', '.join(stages)}")
    zero: dict[str, Any] = {"stage": stages[name]}
    if name != "resident":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": question.software.pinned}
    document: dict[str, Any] = {"gradient_accumulation_steps": question.accumulate}
    if question.weights != "float32":
        document["bf16" if question.weights == "bfloat16" else "fp16"] = {"enabled": True}
    if question.sequence_length:
        size = round(question.micro_tokens / question.sequence_length)
        document["train_micro_batch_size_per_gpu"] = max(1, size)
    document["optimizer"] = {"type": type(question.rule).__name__}
    return {**document, "zero_optimization": zero}


class _Keys:
    """A document whose keys are ticked off as they are read."""

    def __init__(self, document: Any) -> None:
        if not isinstance(document, Mapping):
            raise TypeError(f"DeepSpeed: configuration must be a dict, got {describe(document)}")
        self._values = dict(_flat("", document))
        self._read: set[str] = set()

    def get(self, key: str, default: Any) -> Any:
        self._read.add(key)
        value = self._values.get(key, default)
        return default if value == "auto" else value

    def number(self, key: str, default: float) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise TypeError(f"DeepSpeed: {key} must be a number >= 0, got {describe(value)}")
        return float(value)

    def whole(self, key: str, default: int, *, least: int) -> int:
        value = self.number(key, default)
        if value != int(value) or value < least:
            raise ValueError(f"DeepSpeed: {key} must be a whole number >= {least}, got {value:g}")
        return int(value)

    def text(self, key: str, default: str) -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            raise TypeError(f"DeepSpeed: {key} must be a string, got {describe(value)}")
        return value

    def weights(self) -> str:
        enabled = [self.get(f"{name}.enabled", False) is True for name in ("bf16", "fp16")]
        return "bfloat16" if enabled[0] else "float16" if enabled[1] else "float32"

    def rest(self) -> list[str]:
        return [key for key in self._values if key not in self._read]


def _flat(prefix: str, document: Mapping[str, Any]) -> Any:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value
