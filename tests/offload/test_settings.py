"""`Settings`: describes itself as plain data, and says where a description differs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.offload.settings import Settings, read_description


def settings(rule: ao.Rule, **group: Any) -> Settings:
    device = ao.get_backend("numpy")
    parameters = [ao.Parameter(device.asarray(np.ones(2, np.float32)), name) for name in "ab"]
    groups = [{"params": parameters[:1], **group}, {"params": parameters[1:]}]
    return ao.Optimizer(groups, rule, strategy="adam-offload").settings


@pytest.mark.parametrize("name", ao.rules.__all__)
def test_a_description_can_be_read_and_differs_from_none_of_its_own(name: str) -> None:
    rule = getattr(ao.rules, name)(learning_rate=[0.5, 0.25], weight_decay=0.1)
    own = settings(rule, lr=ao.WarmUpLR(0.5, 3))
    text = json.dumps(own.description(), default=lambda x: x.tolist())
    read = read_description("test", json.loads(text))
    assert read["rule"] == name
    assert own.differences(read) == {}


def test_every_difference_is_said_in_words() -> None:
    own = settings(ao.rules.AdamW(beta1=0.5, weight_decay=0.0), lr=0.1)
    other = settings(ao.rules.AdamW(eps=1e-6), lr=0.2)
    found = own.differences(other.description())
    assert found["beta1"] == "beta1: 0.9 in the state, 0.5 here"
    assert found["eps"] == "eps: 1e-06 in the state, 1e-08 here"
    assert found["lr 0"] == "lr of 'a': 0.2 in the state, 0.1 here"
    assert found["weight_decay 1"] == "weight_decay of 'a', 'b': 0.01 in the state, 0.0 here"


def test_another_rule_is_one_difference() -> None:
    found = settings(ao.rules.Lion(0.1)).differences(settings(ao.rules.Adam(0.1)).description())
    assert found == {"rule": "rule: Adam in the state, Lion here"}


def test_numbers_of_a_step_are_rounded_once() -> None:
    own = settings(ao.rules.AdamW(learning_rate=0.1, weight_decay=0.3))
    numbers = own.coefficients(np.float32(0.1), np.float32(0.3), 7)
    assert numbers.keep == np.float32(1 - float(np.float32(0.1)) * float(np.float32(0.3)))
    assert numbers.l2 == 0
    exact = own.rule.scalars(np.float32(0.1), 7)
    assert numbers.scalars == {name: np.float32(x) for name, x in exact.items()}
    assert {type(x) for x in numbers.scalars.values()} == {np.float32}
