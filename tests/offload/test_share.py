"""What a share keeps ready: a ring of slots, places where gradients rest, and no more."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import adamoffload as ao

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def share_of(strategy: str | ao.Strategy, dtype: Any = np.float32, **options: Any) -> Any:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.zeros(1000, dtype), "w")
    options = {"chunk_bytes": 400, "slots": 3, **options}
    optimizer = ao.Optimizer([w], ao.rules.Adam(), strategy=strategy, **options)
    (share,) = optimizer._pipeline.shares
    return share


@pytest.mark.parametrize(
    ("strategy", "dtype", "device", "host"),
    [  # of a slot, for each element
        ("resident", np.float32, 0, 0),
        ("adam-offload", np.float32, 4, 4),  # the update takes the gradient's place
        ("zero-offload", BFLOAT16, 2, 2),
        ("deepspeed-zero1", BFLOAT16, 4 + 2, 4 + 2),
        ("gemini", BFLOAT16, 2 + 4, 2 + 4),
        ("state-shuttle", np.float32, 8, 0),
        ("state-shuttle-master", BFLOAT16, 12, 0),
    ],
)
def test_a_slot_has_a_buffer_for_what_is_away_from_home(
    strategy: str, dtype: Any, device: int, host: int
) -> None:
    share = share_of(strategy, dtype)
    assert share.ring == {"device": 3 * 100 * device, "host": 3 * 100 * host}


def test_stochastic_rounding_counts_what_it_computes_bits_in() -> None:
    assert share_of("bf16-stochastic", BFLOAT16).ring == {"device": 3 * 4 * 100, "host": 0}


def test_gradients_rest_on_the_host_where_they_are_late_or_submitted() -> None:
    assert not share_of("zero-offload").rests
    late = share_of("zero-offload-delayed", BFLOAT16)
    assert [rest.nbytes for rest in late.rests] == [2000, 2000]
    assert share_of("deepspeed-zero2", BFLOAT16, accumulate=2).sums.nbytes == 2000
    assert share_of("deepspeed-zero2", BFLOAT16).sums is None
