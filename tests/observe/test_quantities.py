"""What can be said of a rule, by what it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.observe.quantities import Quantities, rates
from adamoffload.plan.step import Coefficients


class Uncorrected(ao.rules.AdamW):
    """As AdamW, with the same constants, but another formula."""

    def scalars(self, lr: Any, t: int) -> Mapping[str, Any]:
        return super().scalars(lr, 10**6)


def coefficients(rule: ao.Rule, t: int) -> Coefficients:
    lr = np.float32(0.5)
    return Coefficients(lr, np.float32(0), np.float32(1), t, rule.scalars(lr, t))


def test_adam_has_all_names() -> None:
    names = Quantities.of(ao.rules.Adam())
    assert names.read == ("gradient", "m", "v", "step_size")
    assert names.norms == (*names.read, "sqrt_v")
    assert names.quantiles == (*names.norms, "rate", "ratio")
    assert names.series == (
        *("lr", "lr_t", "bias1", "bias2", "update_ratio", "eps_limited", "frozen"),
    )


def test_roots_are_those_of_slots_that_hold_squares() -> None:
    names = Quantities.of(ao.rules.AMSGrad())
    assert [names.read[k] for k in names.roots] == ["v", "v_max"]
    assert names.norms[5:] == ("sqrt_v", "sqrt_v_max")


def test_betas_alone_correct_no_bias() -> None:
    lion = ao.rules.Lion()
    assert Quantities.of(lion).series == ("lr", "update_ratio")
    assert rates(lion, Quantities.of(lion), coefficients(lion, 3))[:4] == (0.5, 0.5, 1, 1)


def test_of_a_formula_that_is_not_known_nothing_is_said() -> None:
    rule = Uncorrected()
    names = Quantities.of(rule)
    assert names.quantiles == ("gradient", "m", "v", "step_size", "sqrt_v")
    assert names.series == ("lr", "update_ratio")
    assert rates(rule, Quantities.of(rule), coefficients(rule, 3)) == (0.5, 0.5, 1, 1, 0)


def test_the_rates_of_adam_are_those_it_computes_with() -> None:
    rule = ao.rules.Adam(beta1=0.5, beta2=0.25, eps=1e-3)
    found = rates(rule, Quantities.of(rule), coefficients(rule, 2))
    assert (found.bias1, found.bias2, found.eps) == (0.75, 0.9375, 1e-3)
    assert found.lr_t == rule.scalars(np.float32(0.5), 2)["lr_t"]


def test_a_corrected_epsilon_is_a_smaller_one() -> None:
    rule = ao.rules.AdamW(beta1=0.9, beta2=0.99, eps=1e-3)
    m, v, t = 0.3, 0.7, 3
    lr, lr_t, *_, eps = rates(rule, Quantities.of(rule), coefficients(rule, t))
    as_published = lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)) ** 0.5 + 1e-3)
    assert lr_t * m / (v**0.5 + eps) == pytest.approx(as_published, rel=1e-12)


@pytest.mark.parametrize("t", [1, 2, 1000])
@pytest.mark.parametrize("rule", [ao.rules.Adam(), ao.rules.AdamW(), ao.rules.AMSGrad()], ids=str)
def test_the_rate_times_m_is_the_update(rule: ao.Rule, t: int) -> None:
    names = Quantities.of(rule)
    rng = np.random.default_rng(0)
    g, *before = np.abs(rng.standard_normal((1 + len(rule.slots), 50))) * 1e-7  # eps matters
    delta, *slots = rule.update(g, *before, **rule.scalars(np.float32(0.5), t))
    found = rates(rule, Quantities.of(rule), coefficients(rule, t))
    second = slots[rule.slots.index(names.squares[-1])]
    # lr_t is rounded to float32 in the rule of AdamOffload
    np.testing.assert_allclose(-delta, found.lr_t * slots[0] / (second**0.5 + found.eps), rtol=2e-7)
    assert found.lr == 0.5


def test_rules_show_what_they_keep() -> None:
    assert Quantities.of(ao.rules.SGD(0.1)).quantiles == ("gradient", "step_size")
    assert Quantities.of(ao.rules.Lion()).quantiles == ("gradient", "m", "step_size")
    assert Quantities.of(ao.rules.AMSGrad()).squares == ("v", "v_max")
    adagrad = Quantities.of(ao.rules.Adagrad())
    assert adagrad.quantiles == ("gradient", "v", "step_size", "sqrt_v", "rate")
