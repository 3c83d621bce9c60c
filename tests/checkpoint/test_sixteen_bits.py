"""Checkpoints of 16-bit weights: every bit, under another strategy, and what a master is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import adamoffload as ao
from adamoffload.offload.transfer import on_host

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
RULE = ao.rules.AdamW(learning_rate=0.125, weight_decay=0.25)


def build(strategy: str, dtype: Any = BFLOAT16, **options: Any) -> ao.Optimizer:
    device, rng = ao.get_backend("numpy"), np.random.default_rng(0)
    values = [rng.standard_normal(n, np.float32).astype(dtype) for n in (50, 7)]
    parameters = [ao.Parameter(device.asarray(x), f"p{i}") for i, x in enumerate(values)]
    return ao.Optimizer(parameters, RULE, strategy=strategy, **options)


def train(optimizer: ao.Optimizer, first: int, last: int) -> None:
    for i in range(first, last):
        rng, device = np.random.default_rng(i), optimizer.backend
        optimizer(
            [
                device.asarray(rng.standard_normal(p.size, np.float32).astype(p.dtype))
                for p in optimizer.parameters
            ]
        )


def bits(optimizer: ao.Optimizer) -> dict[Any, bytes]:
    arrays = optimizer.state.arrays()
    return {key: on_host(optimizer.backend, x).tobytes() for key, x in arrays.items()}


@pytest.mark.parametrize(
    ("strategy", "other"),
    [
        ("zero-offload", "zero-offload"),
        ("zero-offload", "resident"),
        ("resident", "gemini"),
        ("state-shuttle", "deepspeed-zero1"),
        ("bf16-only", "bf16-only"),
        ("bf16-kahan", "bf16-kahan"),
        ("bf16-stochastic", "bf16-stochastic"),
    ],
)
@pytest.mark.parametrize("how", ["file", "dict"])
def test_a_run_goes_on_bitwise(strategy: str, other: str, how: str, tmp_path: Path) -> None:
    whole, begun, resumed = build(strategy), build(strategy), build(other)
    train(whole, 0, 5)
    train(begun, 0, 3)
    ao.save(tmp_path / "run.npz", begun)
    if how == "file":
        ao.load(tmp_path / "run.npz", resumed)
    else:
        ao.load(tmp_path / "run.npz", resumed, only="parameters")
        resumed.load_state_dict(begun.state_dict())
    train(resumed, 3, 5)
    assert bits(resumed) == bits(whole)


def test_numpy_opens_the_file_and_finds_the_bits(tmp_path: Path) -> None:
    optimizer = build("bf16-only")
    ao.save(tmp_path / "run.npz", optimizer)
    arrays = dict(np.load(tmp_path / "run.npz"))
    own = optimizer.backend.asnumpy(optimizer.parameters[0].data)
    np.testing.assert_array_equal(arrays["parameter/p0"], own.view(np.uint16))


def test_without_a_master_in_the_file_it_says_what_is_lost(tmp_path: Path) -> None:
    ao.save(tmp_path / "run.npz", build("bf16-only"))
    with pytest.warns(UserWarning, match=r"no master weights of .*p0.*what rounding took"):
        ao.load(tmp_path / "run.npz", build("zero-offload"))


def test_weights_of_another_type_are_refused(tmp_path: Path) -> None:
    ao.save(tmp_path / "run.npz", build("zero-offload"))
    with pytest.raises(ValueError, match=r"type float32, got .* 'bfloat16' .*in the file"):
        ao.load(tmp_path / "run.npz", build("zero-offload", np.float32))


def test_a_dynamic_scale_goes_on(tmp_path: Path) -> None:
    scale = ao.DynamicLossScale(init_scale=8.0, growth_interval=2)
    optimizer = build("zero-offload", np.float16, loss_scale=scale)
    train(optimizer, 0, 3)
    ao.save(tmp_path / "run.npz", optimizer)
    other = ao.DynamicLossScale()
    ao.load(tmp_path / "run.npz", build("zero-offload", np.float16, loss_scale=other))
    assert other.state_dict() == scale.state_dict()
    assert other.scale == 16.0
