"""What strategies say: in float32 by themselves, in 16 bits by the design's table."""

from __future__ import annotations

import pytest

import adamoffload as ao
from adamoffload.estimates.declared import KNOWN, declare, find

RULE = ao.rules.AdamW()


@pytest.mark.parametrize("name", ao.strategies)
def test_in_float32_it_is_what_the_strategy_says(name: str) -> None:
    strategy = ao.strategies[name]
    declared = declare(strategy, RULE, "float32", 1)
    assert declared.hops == strategy.hops(RULE)
    assert declared.moved == strategy.bytes_per_parameter(RULE)
    assert declared.homes == strategy.homes(RULE)
    assert not any(declared.micro.values())


@pytest.mark.parametrize(
    ("name", "k", "down", "up"),
    [
        ("resident", 1, 0, 0),
        ("zero-offload", 1, 2, 2),
        ("zero-offload", 4, 2, 2),
        ("zero-offload-delayed", 3, 2, 2),
        ("deepspeed-zero1", 3, 4, 2),
        ("deepspeed-zero2", 1, 4, 2),
        ("deepspeed-zero2", 3, 10, 6),
        ("torchao", 1, 2, 2),
        ("torchao", 3, 6, 2),
        ("megatron-hybrid", 1, 4, 4),
        ("gemini", 1, 2, 4),
        ("state-shuttle", 1, 8, 8),
        ("state-shuttle-master", 1, 12, 12),
        ("disk", 1, 2, 2),
    ],
)
def test_in_16_bits_its_bytes_are_those_of_the_table(name: str, k: int, down: int, up: int) -> None:
    moved = declare(find("test", name), RULE, "bfloat16", k).moved
    disk = 12 if name == "disk" else 0
    assert moved == {"d2h": down, "h2d": up, "read": disk, "write": disk}


@pytest.mark.parametrize(
    ("name", "device", "host", "disk"),
    [
        ("resident", 16, 0, 0),
        ("zero-offload", 4, 12, 0),
        ("torchao", 4, 6, 0),
        ("state-shuttle", 8, 8, 0),
        ("state-shuttle-master", 4, 12, 0),
        ("disk", 4, 0, 12),
    ],
)
def test_and_so_is_its_memory(name: str, device: int, host: int, disk: int) -> None:
    homes = declare(find("test", name), RULE, "bfloat16", 1).homes
    assert {place: sum(things.values()) for place, things in homes.items()} == {
        "device": device,
        "host": host,
        "disk": disk,
    }


def test_what_16_bit_weights_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="adam-offload: weights must be float32, got bfloat16"):
        declare(ao.strategies["adam-offload"], RULE, "bfloat16", 1)


def test_lions_one_slot_is_shuttled_alone() -> None:
    moved = declare(ao.strategies["state-shuttle"], ao.rules.Lion(), "bfloat16", 1).moved
    assert (moved["d2h"], moved["h2d"]) == (4, 4)


def test_a_delayed_strategy_is_a_step_late() -> None:
    assert declare(find("test", "zero-offload-delayed"), RULE, "bfloat16", 1).delay == 1
    assert declare(find("test", "zero-offload"), RULE, "bfloat16", 1).delay == 0


def test_it_is_known_which_compute_what_a_resident_optimizer_does() -> None:
    held = {name: how for name, how in KNOWN.items() if name != "adam-offload"}
    others = {n for n, how in held.items() if not declare(how, RULE, "bfloat16", 1).same}
    assert {"zero-offload-delayed", "torchao"} <= others
    assert not others & {"resident", "zero-offload", "deepspeed-zero2", "state-shuttle", "disk"}


def test_an_unknown_strategy_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got 'deepspeed-zero3' \(near 'deepspeed-zero2'\)"):
        find("estimate", "deepspeed-zero3")
    with pytest.raises(TypeError, match="strategy must be a name or"):
        find("estimate", 3)
    assert set(ao.strategies) <= set(KNOWN)
