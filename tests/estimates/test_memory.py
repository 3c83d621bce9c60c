"""Bytes by place and kind, beside what others have counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import adamoffload as ao
from adamoffload.estimates.memory import activation_bytes
from adamoffload.estimates.software import Software, software_of

GB = 1e9
LLAMA = "llama-2-7b"


def memory(strategy: str, **options: Any) -> dict[str, float]:
    found = ao.estimate(LLAMA, strategy=strategy, machine="rtx4090", **options)
    return {place: nbytes / GB for place, nbytes in found.memory.items()}


def test_places_are_the_sums_of_their_holdings() -> None:
    for name in ("resident", "zero-offload", "disk", "state-shuttle"):
        found = ao.estimate(LLAMA, strategy=name)
        for place, kinds in {
            "device": ["device"],
            "host": ["host", "pinned"],
            "disk": ["disk"],
        }.items():
            held = sum(h.nbytes for h in found.holdings if h.place in kinds)
            assert held == found.memory[place]


def test_activations_by_the_formula_are_0_72_mb_a_token() -> None:
    asked = ao.estimate(LLAMA, strategy="zero-offload").question
    assert activation_bytes(asked) / asked.micro_tokens == pytest.approx(0.72e6, rel=0.02)
    kept = ao.estimate(LLAMA, strategy="zero-offload", recompute=False).question
    assert activation_bytes(kept) > 5 * activation_bytes(asked)
    given = ao.estimate(LLAMA, strategy="zero-offload", activation_bytes=3e9).question
    assert activation_bytes(given) == 3e9


@pytest.mark.parametrize(
    ("tokens", "published", "deepspeed"),
    [(2048, 15.8, 17.3), (4096, 17.2, 18.7), (8192, 20.2, 21.7), (12_288, 23.1, 24.6)],
)
def test_llama_on_a_card_of_24_gb(tokens: int, published: float, deepspeed: float) -> None:
    """Counted by hand: 13.5 GB of weights, 0.72 MB a token, 0.8 or 2.3 GB for the program."""
    more = 0.35  # the largest gradient and the ring, which the hand counts into the 0.8 GB
    one = {"tokens_per_step": tokens, "accumulate": 1}
    assert memory("zero-offload", **one)["device"] == pytest.approx(published + more, abs=0.15)
    assert memory("deepspeed-zero2", **one)["device"] == pytest.approx(deepspeed + more, abs=0.15)


def test_the_host_holds_what_is_published() -> None:
    assert memory("zero-offload")["host"] == pytest.approx(94, abs=0.5)  # 14 bytes
    assert memory("deepspeed-zero2")["host"] == pytest.approx(121, abs=0.5)  # 18
    assert memory("zero-offload-delayed")["host"] == pytest.approx(108, abs=0.5)  # 16
    many = {"tokens_per_step": 65_536}
    assert memory("deepspeed-zero2", **many)["host"] == pytest.approx(135, abs=0.5)  # 20
    assert memory("torchao")["host"] == pytest.approx(54, abs=0.5)  # 8


def test_what_does_not_fit_on_a_card_of_24_gb() -> None:
    assert memory("resident", tokens_per_step=128)["device"] > 108
    assert memory("torchao", tokens_per_step=128)["device"] > 27
    assert memory("deepspeed-zero1", tokens_per_step=256, accumulate=2)["device"] > 27
    assert memory("state-shuttle", tokens_per_step=128)["device"] > 27


def test_with_accumulation_deepspeed_does_not_go_into_128_gb() -> None:
    desktop = ao.machines["rtx4090"]
    assert desktop.host_memory_bytes == 128 << 30
    many = ao.estimate(LLAMA, strategy="deepspeed-zero2", machine=desktop, tokens_per_step=65_536)
    once = ao.estimate(LLAMA, strategy="deepspeed-zero2", machine=desktop)
    assert [many.fits, once.fits] == [False, True]
    assert many.lacks == ("host: 134.8 GB of 130.6",)


def test_pinned_memory_may_come_in_powers_of_two() -> None:
    exact = memory("deepspeed-zero2")["host"]
    rounded = memory("deepspeed-zero2", pinned_powers=True)["host"]
    assert exact < rounded < 2 * exact


@pytest.mark.parametrize(
    ("stage", "cards", "gigabytes"), [(1, 1, 120), (1, 64, 31.4), (2, 64, 16.6), (3, 64, 1.9)]
)
def test_stages_of_zero_take_what_its_first_figure_says(
    stage: int, cards: int, gigabytes: float
) -> None:
    """S. Rajbhandari et al., ZeRO, arXiv:1910.02054, figure 1: 7.5e9 parameters."""
    found = ao.estimate(
        7_500_000_000,
        strategy="resident",
        machine=replace(ao.machines["a100"], cards=64),
        cards=cards,
        zero_stage=stage,
        activation_bytes=0,
        tokens_per_step=64,
        software=Software(device_bytes=0),
    )
    assert found.memory["device"] / GB == pytest.approx(gigabytes, abs=0.05)


def test_beside_deepspeeds_own_estimators() -> None:
    """With offload both count 2 bytes on a card; without, it counts whole gradients beside parts.

    ``estimate_zero2_model_states_mem_needs`` in stage_1_and_2.py: 4 + 16 / ranks on a card, and 16
    on the host, times a factor of 1.5 for buffers.
    """
    machine, size = replace(ao.machines["a100"], cards=8), 7_500_000_000
    options: Any = {"machine": machine, "cards": 8, "zero_stage": 2, "activation_bytes": 0}
    program = replace(software_of("deepspeed-zero2"), device_bytes=0)
    ours = ao.estimate(size, strategy="deepspeed-zero2", software=program, **options)
    assert ours.memory["device"] == pytest.approx(2 * size, rel=0.02)
    assert 8 * ours.memory["host"] == pytest.approx(18 * size, rel=0.01)  # theirs: 24
    resident = ao.estimate(size, strategy="resident", software=Software(device_bytes=0), **options)
    theirs = 4 * size + 16 * size / 8
    assert theirs - resident.memory["device"] == pytest.approx(2 * size + 2 * size / 8)


def test_ranks_share_what_is_kept_and_not_the_weights() -> None:
    alone = ao.estimate(LLAMA, strategy="resident", machine="a100", activation_bytes=0)
    eight = ao.estimate(LLAMA, strategy="resident", machine="a100", activation_bytes=0, cards=8)
    size = ao.models[LLAMA].parameters
    assert alone.memory["device"] - eight.memory["device"] == pytest.approx(12 * size * 7 / 8)
