"""Models have the parameters that their authors publish, to the last one."""

from __future__ import annotations

import pytest

import adamoffload as ao
from adamoffload.estimates.models import Model

PUBLISHED = {  # of the checkpoints; of tied ones, each number once
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_parameters_are_as_many_as_published(name: str) -> None:
    model = ao.models[name]
    assert model.parameters == sum(model.sizes) == PUBLISHED[name]
    assert model.source


@pytest.mark.parametrize("name", [name for name in ao.models if name.startswith("zero-offload")])
def test_the_rungs_of_the_ladder_are_what_they_are_called(name: str) -> None:
    called = float(name.rpartition("-")[2][:-1]) * 1e9
    assert ao.models[name].parameters == pytest.approx(called, rel=0.13)


def test_an_unknown_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(KeyError, match=r"no model 'llama-3-7b' \(near 'llama-3-8b'\)"):
        ao.models["llama-3-7b"]


@pytest.mark.parametrize("size", [1, 10**6, 10**9, 7 * 10**11])
def test_a_number_alone_has_the_shape_that_is_usual(size: int) -> None:
    model = Model.of_size(size)
    assert model.parameters == size
    counted = 12 * model.layers * model.width**2
    assert size < 10**8 or counted == pytest.approx(size, rel=0.1)


def test_attention_is_four_fifths_of_a_long_sequence() -> None:
    model = ao.models["qwen3-0.6b"]
    share = 1 - model.forward_flops() / model.forward_flops(65_536)
    assert share == pytest.approx(0.86, abs=0.01)
