"""`Strategy`: what is refused, which tensors it holds for, and the bytes that follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import adamoffload as ao
from adamoffload.plan.strategy import find_strategy

BYTES = {  # float32 weights: down, up, read, written; 16-bit ones, of 1 micro-step and of 3
    "resident": ((0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0)),
    "adam-offload": ((4, 4, 0, 0), None, None),
    "zero-offload": ((4, 4, 0, 0), (2, 2, 0, 0), (2, 2, 0, 0)),
    "zero-offload-delayed": ((4, 4, 0, 0), (2, 2, 0, 0), (2, 2, 0, 0)),
    "deepspeed-zero1": ((4, 4, 0, 0), (4, 2, 0, 0), (4, 2, 0, 0)),
    "deepspeed-zero2": ((4, 4, 0, 0), (4, 2, 0, 0), (10, 6, 0, 0)),
    "torchao": ((4, 4, 0, 0), (2, 2, 0, 0), (6, 2, 0, 0)),
    "megatron-hybrid": ((4, 4, 0, 0), (4, 4, 0, 0), (4, 4, 0, 0)),
    "gemini": ((4, 4, 0, 0), (2, 4, 0, 0), (2, 4, 0, 0)),
    "state-shuttle": ((8, 8, 0, 0), (8, 8, 0, 0), (8, 8, 0, 0)),
    "state-shuttle-master": ((12, 12, 0, 0), (12, 12, 0, 0), (12, 12, 0, 0)),
    "disk": ((4, 4, 12, 12), (2, 2, 12, 12), (2, 2, 12, 12)),
    "bf16-only": (None, (0, 0, 0, 0), (0, 0, 0, 0)),
    "bf16-stochastic": (None, (0, 0, 0, 0), (0, 0, 0, 0)),
    "bf16-kahan": (None, (0, 0, 0, 0), (0, 0, 0, 0)),
}
MEMORY = {  # device (weights and gradient included), host, disk: float32 weights, bfloat16 weights
    "resident": ((16, 0, 0), (16, 0, 0)),
    "adam-offload": ((8, 8, 0), None),
    "zero-offload": ((8, 12, 0), (4, 12, 0)),
    "zero-offload-delayed": ((8, 20, 0), (4, 16, 0)),
    "deepspeed-zero1": ((8, 12, 0), (4, 12, 0)),
    "deepspeed-zero2": ((8, 12, 0), (4, 12, 0)),
    "torchao": ((8, 12, 0), (4, 6, 0)),
    "megatron-hybrid": ((8, 12, 0), (4, 12, 0)),
    "gemini": ((8, 12, 0), (4, 12, 0)),
    "state-shuttle": ((8, 8, 0), (8, 8, 0)),
    "state-shuttle-master": ((8, 12, 0), (4, 12, 0)),
    "disk": ((8, 0, 12), (4, 0, 12)),
    "bf16-only": (None, (8, 0, 0)),
    "bf16-stochastic": (None, (8, 0, 0)),
    "bf16-kahan": (None, (10, 0, 0)),
}


def test_there_is_a_row_for_each_strategy() -> None:
    assert set(BYTES) == set(MEMORY) == {*ao.strategies}


@pytest.mark.parametrize("name", [*ao.strategies])
def test_bytes_and_memory_are_those_of_the_published_table(name: str) -> None:
    strategy, rule = ao.strategies[name], ao.rules.Adam()
    cases: Any = [("float32", 1), ("bfloat16", 1), ("float16", 3)]
    for (weights, micro_steps), expected in zip(cases, BYTES[name], strict=True):
        if expected is None or (weights == "float16" and strategy.rounding != "nearest"):
            with pytest.raises(ValueError, match=f"^{name}: "):
                strategy.bytes_per_parameter(rule, weights, micro_steps)
        else:
            moved = strategy.bytes_per_parameter(rule, weights, accumulate=micro_steps)
            assert tuple(moved.values()) == expected, weights
    for (weights, _), lies in zip(cases[:2], MEMORY[name], strict=True):
        if lies is not None:
            assert tuple(strategy.memory_per_parameter(rule, weights).values()) == lies


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sum_in": "host"}, "sum_in='host' needs the arithmetic on the host"),
        ({"delay": 1}, "delay=1 needs the arithmetic on the host"),
        ({"arithmetic": "host", "delay": 2}, "delay must be 0 or 1, got 2"),
        ({"rounding": "kahan", "master": "host"}, "for weights without a master"),
        ({"rounding": "stochastic", "arithmetic": "host"}, "for weights without a master"),
        ({"warmup_steps": 3}, "warmup_steps without a delay"),
        ({"gradient": "int8"}, "gradient must be one of weights, float32"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(changed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ao.Strategy(**changed)


def test_the_slots_of_a_rule_count() -> None:
    shuttle = ao.strategies["state-shuttle"]
    moved = {
        name: shuttle.bytes_per_parameter(getattr(ao.rules, name)(0.1), "float32")["d2h"]
        for name in ("SGD", "Lion", "Adagrad", "Adam", "AMSGrad")
    }
    assert moved == {"SGD": 0, "Lion": 4, "Adagrad": 4, "Adam": 8, "AMSGrad": 12}


@pytest.mark.parametrize(
    ("changed", "chosen"),
    [
        ({}, {0, 1, 2, 3}),
        ({"fraction": 0}, set()),
        ({"fraction": 0.1}, {0}),
        ({"fraction": 0.11}, {0, 1}),
        ({"fraction": 0.4, "side": "output"}, {3}),
        ({"fraction": 0.41, "side": "output"}, {2, 3}),
        ({"minimum_size": 20}, {1, 2, 3}),
        ({"minimum_size": 20, "fraction": 0.1}, {1}),
        ({"every": 2}, {0, 2}),
        ({"every": 2, "side": "output"}, {1, 3}),
    ],
)
def test_it_holds_for_whole_tensors_in_order(changed: dict[str, Any], chosen: set[int]) -> None:
    strategy = replace(ao.strategies["adam-offload"], **changed)
    assert strategy.chosen([10, 20, 30, 40]) == chosen


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"arithmetic": "disk"}, ValueError, "cannot run on the disk"),
        ({"arithmetic": "gpu"}, ValueError, "arithmetic must be"),
        ({"state": "hots"}, ValueError, "state must be"),
        ({"master": 3}, TypeError, "master"),
        ({"fraction": 1.5}, ValueError, r"in \[0, 1\], got 1.5"),
        ({"fraction": float("nan")}, ValueError, "fraction must be finite"),
        ({"fraction": "half"}, TypeError, "fraction must be a number"),
        ({"minimum_size": -1}, ValueError, "minimum_size"),
        ({"every": 0}, ValueError, "every"),
        ({"side": "left"}, ValueError, "side must be"),
        ({"name": 3}, TypeError, "name must be a string"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        ao.Strategy(**fields)
    assert "\n" not in str(caught.value)


def test_a_master_beside_float32_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="same numbers twice"):
        ao.Strategy(master="device").bytes_per_parameter(ao.rules.Adam(), "float32")


def test_an_unknown_name_comes_with_the_nearest() -> None:
    with pytest.raises(KeyError, match="near 'state-shuttle'"):
        ao.strategies["state-shutle"]


def test_a_strategy_is_found_by_itself_or_by_its_name() -> None:
    own = ao.Strategy(state="host")
    assert find_strategy("x", own) is own
    assert find_strategy("x", "disk") is ao.strategies["disk"]
    with pytest.raises(TypeError, match=r"x: strategy must be a name or .*, got 3"):
        find_strategy("x", 3)
    with pytest.raises(ValueError, match=r"x: strategy must be one of resident, .*near 'disk'"):
        find_strategy("x", "disc")


def test_the_mapping_of_strategies_is_a_mapping() -> None:
    assert len(ao.strategies) == len([*ao.strategies])
    assert repr(ao.strategies).startswith("strategies: resident, adam-offload, ")


@pytest.mark.parametrize("name", ["resident", "adam-offload"])
def test_gradients_that_add_up_take_four_bytes_more(name: str) -> None:
    strategy, rule = ao.strategies[name], ao.rules.Adam()
    one = strategy.memory_per_parameter(rule, "float32")
    assert strategy.memory_per_parameter(rule, "float32", accumulate=1) == one
    several = strategy.memory_per_parameter(rule, "float32", accumulate=2)
    assert several == {**one, "device": one["device"] + 4}
    moved = strategy.bytes_per_parameter(rule, "float32")
    assert strategy.bytes_per_parameter(rule, "float32", accumulate=1) == moved
    for method in (strategy.bytes_per_parameter, strategy.memory_per_parameter):
        with pytest.raises(ValueError, match="accumulate must be at least 1"):
            method(rule, "float32", accumulate=0)


def test_by_default_it_holds_for_everything() -> None:
    strategy = ao.Strategy()
    assert (strategy.fraction, strategy.minimum_size, strategy.every) == (1.0, 0, 1)
    assert strategy.conditions == []
    assert replace(strategy, every=2).conditions[0] == "for one tensor in 2"
    assert replace(strategy, fraction=0.99).conditions[0].startswith("for 99% of the model")
    assert replace(strategy, minimum_size=1).conditions[0].startswith("for tensors of 1 ")
