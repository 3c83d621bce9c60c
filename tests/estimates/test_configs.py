"""DeepSpeed's configuration: read key by key, written, and the round trip."""

from __future__ import annotations

from typing import Any

import pytest

import adamoffload as ao
from adamoffload.estimates.configs import emit_deepspeed, read_deepspeed

SIZE = 3 * 10**9


def zero(stage: int, **offload: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"stage": stage}
    if offload:
        given["offload_optimizer"] = offload
    return {"bf16": {"enabled": True}, "zero_optimization": given}


@pytest.mark.parametrize(
    ("document", "strategy", "stage"),
    [
        ({}, "resident", 1),
        (zero(1), "resident", 1),
        (zero(3), "resident", 3),
        (zero(1, device="cpu"), "deepspeed-zero1", 1),
        (zero(2, device="cpu"), "deepspeed-zero2", 2),
        (zero(2, device="none"), "resident", 2),
        (zero(3, device="nvme"), "disk", 3),
    ],
)
def test_stage_and_device_make_the_strategy(
    document: dict[str, Any], strategy: str, stage: int
) -> None:
    found = read_deepspeed(document, SIZE)
    assert (found.strategy.name, found.zero_stage) == (strategy, stage)


def test_rule_weights_and_micro_steps_are_read() -> None:
    document = {
        "fp16": {"enabled": True},
        "optimizer": {"type": "Lion", "params": {"lr": 1e-4}},
        "gradient_accumulation_steps": 4,
        "train_micro_batch_size_per_gpu": 2,
        "wall_clock_breakdown": True,
    }
    found = read_deepspeed(document, SIZE)
    assert (found.rule, found.weights) == ("Lion", "float16")
    assert (found.accumulate, found.micro_batch) == (4, 2)
    assert found.ignored == ("optimizer.params.lr", "wall_clock_breakdown")
    assert read_deepspeed({"gradient_accumulation_steps": "auto"}, SIZE).accumulate == 1


@pytest.mark.parametrize(
    ("document", "note"),
    [
        (zero(2, device="cpu", ratio=0.5), "ratio has an effect in stage 3 only"),
        (zero(2, device="cpu", pin_memory=False), "copies are pageable and block"),
        (
            {**zero(2, device="cpu"), "data_types": {"grad_accum_dtype": "fp32"}},
            "grad_accum_dtype has no effect in stage 2",
        ),
        (zero(3, device="cpu"), "stage 3 is estimated as stage 2"),
    ],
)
def test_what_has_no_effect_is_said(document: dict[str, Any], note: str) -> None:
    assert any(note in said for said in read_deepspeed(document, SIZE).notes)


def test_a_ratio_needs_more_than_one_sub_group() -> None:
    document = zero(3, device="cpu", ratio=0.5)
    assert any("one sub-group" in said for said in read_deepspeed(document, 10**9).notes)
    assert read_deepspeed(document, 10**9).strategy.fraction == 1
    assert not any("sub-group" in said for said in read_deepspeed(document, SIZE).notes)
    assert read_deepspeed(document, SIZE).strategy.fraction == 0.5


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ([], "configuration must be a dict"),
        (zero(4), "stage must be 1, 2 or 3"),
        (zero(0, device="cpu"), "stage must be 1, 2 or 3 to offload, got 0"),
        (zero(2, device="gpu"), "device must be none, cpu or nvme, got 'gpu'"),
        (zero(2, device=3), "device must be a string"),
        (zero(2, device="cpu", ratio=-1), "ratio must be a number >= 0"),
        ({"gradient_accumulation_steps": 0}, "must be a whole number >= 1, got 0"),
    ],
)
def test_what_is_no_such_configuration_is_refused(document: Any, match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        read_deepspeed(document, SIZE)


@pytest.mark.parametrize("strategy", ["resident", "deepspeed-zero1", "deepspeed-zero2"])
@pytest.mark.parametrize("weights", ["bfloat16", "float16", "float32"])
def test_what_can_be_mapped_makes_the_round_trip(strategy: str, weights: Any) -> None:
    if weights == "float32" and strategy != "resident":
        return
    asked = ao.estimate(
        SIZE,
        strategy=strategy,
        weights=weights,
        accumulate=4,
        tokens_per_step=4 * 8192,
        sequence_length=2048,
    ).question
    found = read_deepspeed(emit_deepspeed(asked), SIZE)
    assert (found.strategy, found.weights) == (asked.strategy, asked.weights)
    assert (found.accumulate, found.micro_batch) == (4, 4)
    assert found.software == asked.software
    assert not found.notes
    assert not found.ignored


def test_what_deepspeed_has_not_is_not_emitted() -> None:
    with pytest.raises(ValueError, match="DeepSpeed has no strategy 'state-shuttle'"):
        emit_deepspeed(ao.estimate(SIZE, strategy="state-shuttle").question)
