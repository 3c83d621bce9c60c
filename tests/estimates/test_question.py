"""What an estimate is asked: checked before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import adamoffload as ao
from adamoffload.estimates.question import cut, read_model


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"parameters": 0}, r"parameters must be in \[1, 1e\+15\], got 0"),
        ({"parameters": -7e9}, "parameters must be in"),
        ({"parameters": float("nan")}, "parameters must be in"),
        ({"parameters": float("inf")}, "parameters must be in"),
        ({"parameters": 1e30}, "parameters must be in"),
        ({"parameters": 1.5}, "parameters must be a whole number, got 1.5"),
        ({"parameters": "lama-2-7b"}, r"got 'lama-2-7b' \(near 'llama-2-7b'\)"),
        ({"parameters": []}, "parameters must not be empty"),
        ({"parameters": None}, "parameters must be a number, sizes, a model"),
        ({"parameters": True}, "parameters must be a number"),
        ({"parameters": [3, "x"]}, "parameters must be a number, got 'x'"),
        ({"strategy": "zero-ofload"}, r"near 'zero-offload'"),
        ({"machine": "rtx4080"}, r"near 'rtx4090'"),
        ({"weights": "int8"}, "weights must be"),
        ({"rule": "adam"}, "rule must be an adamoffload.Rule"),
        ({"tokens_per_step": 0}, "tokens_per_step must be in"),
        ({"tokens_per_step": "8k"}, "tokens_per_step must be a number"),
        ({"accumulate": 0}, "accumulate must be"),
        ({"cards": 2}, "cards must be at most 1, got 2"),
        ({"cards": 0}, "cards must be"),
        ({"zero_stage": 4}, "zero_stage must be 1, 2 or 3, got 4"),
        ({"sequence_length": -1}, "sequence_length must be"),
        ({"recompute": 1}, "recompute must be"),
        ({"activation_bytes": -1}, "activation_bytes must be in"),
        ({"software": "deepspeed"}, "software must be"),
        ({"chunk_bytes": 3}, "chunk_bytes must be"),
        ({"slots": 0}, "slots must be"),
        ({"strategy": "adam-offload"}, "adam-offload: bfloat16 weights need a master"),
    ],
)
def test_a_wrong_argument_is_named(change: dict[str, Any], match: str) -> None:
    given = {"parameters": 7e9, "strategy": "zero-offload", **change}
    with pytest.raises((TypeError, ValueError), match=match):
        ao.estimate(given.pop("parameters"), **given)


def test_a_model_may_be_given_in_five_ways() -> None:
    class Tensor:
        def numel(self) -> int:
            return 5

    class Module:
        def parameters(self) -> list[Tensor]:
            return [Tensor(), Tensor()]

    device = ao.get_backend("numpy")
    parameter = ao.Parameter(device.asarray(np.ones((2, 3), np.float32)), "w")
    assert read_model(ao.models["gpt2"]) is read_model("gpt2")
    assert read_model(1e9).parameters == 10**9
    assert read_model(Module()).sizes == (5, 5)
    assert read_model([parameter, 4]).sizes == (6, 4)


def test_micro_batches_have_at_most_8192_tokens_unless_it_is_said() -> None:
    def micro(**options: Any) -> tuple[int, float]:
        asked = ao.estimate(1e6, strategy="resident", machine="a100", **options).question
        return asked.accumulate, asked.micro_tokens

    assert micro(tokens_per_step=8192) == (1, 8192)
    assert micro(tokens_per_step=131_072) == (16, 8192)
    assert micro(tokens_per_step=131_072, cards=8) == (2, 8192)
    assert micro(tokens_per_step=131_072, accumulate=2) == (2, 65_536)


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=5),
    st.integers(1, 10**5),
    st.integers(1, 50),
)
def test_chunks_hold_every_element_once(sizes: list[int], chunk_size: int, limit: int) -> None:
    cuts = cut(sizes, chunk_size, limit)
    assert sum(each.size for each in cuts) == sum(sizes)
    assert len(cuts) <= limit
    assert all(each.size <= chunk_size * each.stands_for for each in cuts)


def test_without_tensors_a_fraction_is_taken_of_the_whole() -> None:
    from dataclasses import replace

    half = replace(ao.strategies["zero-offload"], fraction=0.5)
    assert ao.estimate(7e9, strategy=half).question.chosen == 3.5e9
    chosen = ao.estimate("llama-2-7b", strategy=half).question.chosen
    model = ao.models["llama-2-7b"]
    assert model.parameters / 2 <= chosen < model.parameters / 2 + max(model.sizes)
