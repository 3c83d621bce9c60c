"""The questions the other way round: what they find is on the edge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import adamoffload as ao
from adamoffload.estimates.estimate import answer
from adamoffload.estimates.machines import Figure
from adamoffload.estimates.models import Model
from adamoffload.estimates.question import MICRO_TOKENS
from adamoffload.estimates.search import (
    best_fraction,
    host_that_hides,
    largest_model,
    tokens_for,
    with_fraction,
)


def asked(strategy: str = "zero-offload", parameters: Any = "gpt2-xl", **options: Any) -> Any:
    return ao.estimate(parameters, strategy=strategy, machine="rtx4090", **options).question


def test_a_little_less_than_the_smallest_fraction_does_not_fit() -> None:
    question = asked()
    found = best_fraction(question)
    assert found.smallest is not None
    assert answer(with_fraction(question, found.smallest)).fits
    assert not answer(with_fraction(question, found.smallest - 2e-3)).fits
    assert found.closed_form == pytest.approx(found.smallest, abs=0.03)


def test_the_fastest_is_the_smallest_where_the_host_is_slower_than_the_device() -> None:
    found = best_fraction(asked())
    assert found.fastest.question.strategy.fraction == found.smallest
    assert all(found.fastest.step_s <= each.step_s for each in found.tried if each.fits)


def test_where_nothing_fits_there_is_no_smallest_fraction() -> None:
    found = best_fraction(asked(parameters=1e12))
    assert found.smallest is None
    assert found.closed_form == 1


def test_a_small_model_need_not_be_offloaded() -> None:
    found = best_fraction(asked(parameters="gpt2"))
    assert (found.smallest, found.closed_form) == (0, 0)


def test_a_model_a_little_larger_than_the_largest_does_not_fit() -> None:
    question = asked(parameters=1e9)
    largest = largest_model(question)
    assert answer(replace(question, model=Model.of_size(largest))).fits
    assert not answer(replace(question, model=Model.of_size(int(largest * 1.002)))).fits
    assert largest > 2 * largest_model(asked("resident", 1e9))


def test_from_so_many_tokens_on_the_overhead_is_small() -> None:
    tokens = tokens_for(asked(parameters=1e9))
    assert tokens is not None
    for factor, small in ((1.0, True), (0.9, False)):
        many = round(tokens * factor)
        count = -(-many // MICRO_TOKENS)
        found = answer(asked(parameters=1e9, tokens_per_step=many, accumulate=count))
        assert (found.overhead <= 0.051) is small


def test_deepspeeds_floor_is_removed_by_no_batch() -> None:
    assert tokens_for(asked("deepspeed-zero2", 1e9)) is None
    assert host_that_hides(asked("deepspeed-zero2", 1e9)) is None


def test_such_a_host_would_hide_it() -> None:
    question = asked(parameters=1e9, tokens_per_step=65_536)
    rate = host_that_hides(question)
    assert rate is not None
    figure = Figure(rate, rate, rate)
    machine = replace(question.machine, host_bytes_per_s=figure, core_bytes_per_s=figure)
    assert answer(replace(question, machine=machine)).overhead == pytest.approx(0.05, abs=0.005)
