"""Rules are values: compared, hashed, copied and shown by what they were made from."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload import rules
from adamoffload.rules.rates import read_decay, read_rate
from adamoffload.rules.rule import with_flush

KINDS = [getattr(rules, name) for name in rules.__all__]
RULES = [kind(learning_rate=0.25, weight_decay=0.5) for kind in KINDS]


@dataclass(frozen=True)
class Stranger(ao.Rule):
    """A rule with nothing but what it must have."""

    def scalars(self, lr: Any, t: int) -> dict[str, Any]:
        return {"lr": lr}

    def update(self, g: Any, *, lr: Any) -> tuple[Any]:
        return (-lr * g,)


def test_they_stand_in_order_of_difficulty() -> None:
    assert rules.__all__ == ["SGD", "Lion", "Adagrad", "Adam", "AdamW", "AMSGrad"]
    slots = [len(rule.slots) for rule in RULES]
    assert slots == sorted(slots) == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_is_equal_to_one_of_the_same_arguments_and_to_no_other(kind: Any) -> None:
    for value in (0.25, [0.5, 0.25], np.array([0.5, 0.25]), np.array(0.25)):
        rule = kind(learning_rate=value)
        assert rule == kind(learning_rate=value) == copy.deepcopy(rule)
        assert rule == pickle.loads(pickle.dumps(rule))
        assert hash(rule) == hash(kind(learning_rate=value))
        assert rule != kind(learning_rate=[0.5, 0.125])
        assert rule != dataclasses.replace(rule, weight_decay=0.75)
    assert len({kind(learning_rate=0.25, weight_decay=0.5), *RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_frozen(rule: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.learning_rate = 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shown_makes_the_same_rule(kind: Any) -> None:
    rule = kind(learning_rate=0.25, weight_decay=0.5)
    assert eval(repr(rule), vars(rules)) == rule


def test_a_long_table_is_shown_short() -> None:
    rule = rules.Lion(learning_rate=np.linspace(1, 0, 1001))
    assert "learning_rate=<1001 learning rates: 1, 0.999, ..., 0>" in repr(rule)


def test_tables_are_read_once_and_cannot_change() -> None:
    table = np.array([0.5, 0.25])
    from_array, from_generator = (rules.AdamW(rate) for rate in (table, (x for x in (0.5, 0.25))))
    table[:] = 0
    assert from_array == from_generator
    again = dataclasses.replace(from_generator, eps=1e-6)
    assert read_rate("test", again.learning_rate).at(1) == 0.25
    with pytest.raises(RuntimeError, match="AdamW: the learning_rate table has 2 entries"):
        read_rate("test", again.learning_rate).at(2)
    with pytest.raises(ValueError, match="read-only"):
        from_array.learning_rate.source[0] = 7


@pytest.mark.parametrize("kind", KINDS)
def test_rates_and_decays_may_be_functions_of_the_step(kind: Any) -> None:
    rule = kind(learning_rate=lambda step: 1 / (1 + step), weight_decay=lambda step: 0.5**step)
    assert read_rate("test", rule.learning_rate).at(3) == 0.25
    assert read_decay("test", rule.weight_decay).at(2) == 0.25
    schedule = ao.ExponentialDecayLR(0.5, 0.5, 1)
    assert read_rate("test", kind(learning_rate=schedule).learning_rate).at(1) == 0.25


def test_what_is_not_said_has_a_default() -> None:
    rule = Stranger()
    assert (rule.learning_rate, rule.weight_decay, rule.slots, rule.decay) == (1e-3, 0, (), "l2")


@pytest.mark.parametrize("rule", [Stranger(), *RULES])
def test_arguments_of_update_are_not_modified(rule: ao.Rule) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.random(5, np.float32) for _ in range(1 + len(rule.slots))]
    copies = [array.copy() for array in arrays]
    results = rule.update(*arrays, **rule.scalars(np.float32(0.25), 1))
    assert len(results) == len(arrays)
    np.testing.assert_array_equal(arrays, copies)


def test_flush_leaves_normal_numbers_and_no_others_below() -> None:
    smallest = np.finfo(np.float32).smallest_normal
    slot = np.array([smallest, smallest / 2, -smallest, np.nan, np.inf, 0], np.float32)
    _, kept = with_flush(lambda g, m: (g, m), True, slot, slot)
    np.testing.assert_array_equal(kept[:3], [smallest, 0, -smallest])
    assert np.isnan(kept[3])
