"""What strategies say, as an estimate takes it."""

from __future__ import annotations

from typing import Any

import pytest

import adamoffload as ao
from adamoffload.estimates.declared import declare

RULE = ao.rules.AdamW()
REFUSED = {
    ("bfloat16", "adam-offload"),
    *(("float32", name) for name in ("bf16-only", "bf16-stochastic", "bf16-kahan")),
}
HELD = {name: how for name, how in ao.strategies.items() if name != "adam-offload"}  # in 16 bits


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ao.strategies)
def test_it_is_what_the_strategy_says(name: str, weights: Any, accumulate: int) -> None:
    strategy = ao.strategies[name]
    if (weights, name) in REFUSED:
        with pytest.raises(ValueError, match=f"^{name}: "):
            declare(strategy, RULE, weights, accumulate)
        return
    declared = declare(strategy, RULE, weights, accumulate)
    assert declared.hops == strategy.hops(RULE, weights)
    assert declared.moved == strategy.bytes_per_parameter(RULE, weights, accumulate)
    assert declared.homes == strategy.homes(RULE, weights, accumulate)
    assert any(declared.micro.values()) == (accumulate > 1 and strategy.sum_in != "device")
    assert declared.on_device == (strategy.arithmetic == "device")


def test_it_is_known_which_compute_what_a_resident_optimizer_does() -> None:
    others = {n for n, how in HELD.items() if not declare(how, RULE, "bfloat16", 1).same}
    assert others == {
        *("zero-offload-delayed", "torchao", "bf16-only", "bf16-stochastic", "bf16-kahan")
    }
