"""A whole step: closed forms that the walk comes close to."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

import adamoffload as ao
from adamoffload.estimates.software import Software
from adamoffload.estimates.step import compute_s, simulate

N = 10**9
ALONE = replace(
    ao.machines["a100"],
    cards=1,
    host_bytes_per_s=100e9,  # type: ignore[arg-type]  # numbers are read
    half_tokens=0,  # type: ignore[arg-type]
    link_latency_s=0,  # type: ignore[arg-type]
    launch_s=0,  # type: ignore[arg-type]
)
NO_SHARING = replace(ALONE, host_bytes_per_s=1e15, core_bytes_per_s=100e9 / 128)  # type: ignore[arg-type]
LINK = 24e9


def asked(strategy: str, machine: ao.Machine = NO_SHARING, **options: Any) -> Any:
    return ao.estimate(N, strategy=strategy, machine=machine, **options)


def test_forward_and_backward_take_their_flops() -> None:
    forward_s, backward_s = compute_s(asked("resident").question)
    assert forward_s == pytest.approx(2 * N * 8192 / (312e12 * 0.45))
    assert backward_s == 3 * forward_s
    forward_s, backward_s = compute_s(asked("resident", recompute=False).question)
    assert backward_s == 2 * forward_s


def test_a_small_micro_batch_reaches_half_of_the_rate() -> None:
    machine = replace(NO_SHARING, half_tokens=2048)  # type: ignore[arg-type]
    small = asked("resident", machine, tokens_per_step=2048).question
    assert sum(compute_s(small)) == pytest.approx(
        2 * sum(compute_s(replace(small, machine=NO_SHARING)))
    )


def test_resident_is_the_passes_and_one_tour_of_the_devices_memory() -> None:
    found = asked("resident")
    assert found.overhead == 0
    assert found.step_s == pytest.approx(found.compute_s + 30 * N / 1631e9, rel=1e-3)


@pytest.mark.parametrize("tokens", [64, 8192, 100_000])
def test_published(tokens: int) -> None:
    """fwd + max(bwd, 2N/link) + max(28N/host, 2N/link), and the first and last chunk."""
    found = asked("zero-offload", tokens_per_step=tokens, accumulate=1)
    forward_s, backward_s = compute_s(found.question)
    host_s = max(28 * N / 100e9, 2 * N / LINK)
    expected = forward_s + max(backward_s, 2 * N / LINK) + host_s
    assert found.step_s == pytest.approx(expected, rel=0.02)


def test_deepspeed_overlaps_nothing() -> None:
    found = asked("deepspeed-zero2")
    parts = 4 * N / LINK + 42 * N / 77e9 + 2 * N / LINK
    assert found.step_s == pytest.approx(found.compute_s + parts, rel=0.02)
    many = asked("deepspeed-zero2", tokens_per_step=4 * 8192)
    more = (2 * 4 + 2 * 3) * N / LINK
    assert many.step_s == pytest.approx(many.compute_s + parts + more, rel=0.02)


def test_a_step_late_the_host_is_hidden_and_the_way_up_is_not() -> None:
    found = asked("zero-offload-delayed", tokens_per_step=65_536, accumulate=1)
    assert found.step_s == pytest.approx(found.compute_s + 2 * N / LINK, rel=0.02)
    short = asked("zero-offload-delayed", tokens_per_step=64)
    assert short.step_s == pytest.approx(28 * N / 100e9 + 2 * N / LINK, rel=0.02)


def test_a_shuttle_is_bound_by_one_direction_and_a_blocking_one_by_both() -> None:
    found = asked("state-shuttle")
    assert found.step_s == pytest.approx(found.compute_s + 8 * N / LINK, rel=0.02)
    blocking = asked("state-shuttle", software=Software(overlap=False))
    assert blocking.step_s > found.compute_s + 16 * N / LINK


def test_the_host_may_update_while_backward_runs() -> None:
    during = replace(asked("zero-offload").question.software, during=True)
    found = asked("zero-offload", tokens_per_step=65_536, accumulate=1, software=during)
    assert found.step_s == pytest.approx(found.compute_s + 2 * N / LINK, rel=0.02)


def test_the_memory_of_the_host_is_shared() -> None:
    """28 bytes of Adam and 2 of the way up go through the same memory."""
    alone, shared = asked("zero-offload"), asked("zero-offload", ALONE)
    assert shared.step_s - alone.step_s == pytest.approx(2 * N / 100e9, rel=0.1)


def test_tensors_cost_where_each_has_an_optimizer() -> None:
    options: Any = {"chunk_bytes": 64 << 20, "software": Software(overlap=False)}
    cheap = ao.estimate("llama-2-7b", strategy="megatron-hybrid", **options)
    costly = replace(cheap.question, software=Software(overlap=False, tensor_s=1e-3))
    assert simulate(costly).step_s - cheap.step_s == pytest.approx(0.291, rel=0.01)


@pytest.mark.parametrize("strategy", ["zero-offload", "deepspeed-zero2", "state-shuttle", "disk"])
def test_chunks_that_stand_for_many_change_next_to_nothing(strategy: str) -> None:
    question = ao.estimate(N, strategy=strategy).question
    whole = simulate(question)
    assert whole.stands_for == 1
    assert simulate(question, limit=200).step_s == pytest.approx(whole.step_s, rel=0.02)
    assert simulate(question, limit=200).stands_for == math.ceil(whole.chunks / 200)


def test_pageable_copies_take_longer() -> None:
    software = replace(asked("deepspeed-zero2").question.software, pinned=False)
    slow = asked("deepspeed-zero2", software=software)
    more = asked("deepspeed-zero2").step_s + 4 * 6 * N / LINK
    assert slow.step_s == pytest.approx(more, rel=0.02)


def test_ranks_share_the_optimizer_and_the_host() -> None:
    """Two cards have twice the link, and the same memory beneath it."""
    two = replace(ALONE, cards=2, core_bytes_per_s=1e12)  # type: ignore[arg-type]
    options = {"tokens_per_step": 8192, "accumulate": 1}
    one_of_two = asked("zero-offload", two, cards=1, **options)
    both = asked("zero-offload", two, cards=2, **options)
    assert both.compute_s == pytest.approx(one_of_two.compute_s / 2)
    assert both.optimizer_s == pytest.approx(one_of_two.optimizer_s / 2, rel=0.02)
