"""16-bit weights without a master: as the plain references, on a device, whatever the chunks."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import adamoffload as ao

import plain_16bits
from library_of_numpy import LibraryOfNumpy
from rounding import rounds_as_the_host_does

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
RULES = [
    ao.rules.AdamW(learning_rate=0.01, weight_decay=0.1),
    ao.rules.Lion(learning_rate=0.01),
    ao.rules.SGD(learning_rate=0.1),
]


def trained(rule: ao.Rule, strategy: str, backend: str, steps: int, **options: Any) -> Any:
    device, rng = ao.get_backend(backend), np.random.default_rng(3)
    values = [rng.standard_normal(n).astype(BFLOAT16) for n in (50, 7)]
    parameters = [ao.Parameter(device.asarray(x), f"p{i}") for i, x in enumerate(values)]
    optimizer = ao.Optimizer(parameters, rule, strategy=strategy, **options)
    given = [[rng.standard_normal(x.size).astype(BFLOAT16) for x in values] for _ in range(steps)]
    for gradients in given:
        optimizer([device.asarray(g) for g in gradients])
    return [device.asnumpy(p.data) for p in parameters], values, given


@pytest.mark.parametrize("backend", ["numpy", "sim"])
@pytest.mark.parametrize("chunk_bytes", [12, 1 << 20])
@pytest.mark.parametrize("strategy", ["bf16-only", "bf16-stochastic", "bf16-kahan"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_run_is_that_of_the_plain_reference(
    rule: ao.Rule, strategy: str, chunk_bytes: int, backend: str
) -> None:
    steps = 4
    found, weights, given = trained(rule, strategy, backend, steps, chunk_bytes=chunk_bytes, seed=7)
    for k, w in enumerate(weights):
        slots: Any = {slot: np.zeros_like(w) for slot in rule.slots}
        slots["missing"] = np.zeros_like(w)
        for i in range(steps):
            g = given[i][k].astype(np.float32)
            if strategy == "bf16-stochastic":
                bits = plain_16bits.random_bits(7, i, k, w.shape)
                new: Any = plain_16bits.stochastic(rule, w, g, slots, i, bits)
            elif strategy == "bf16-kahan":
                new = plain_16bits.kahan(rule, w, g, slots, i)
            else:
                new = plain_16bits.without_master(rule, w, g, slots, i)
            w, slots = new["weights"], {**slots, **new}
        np.testing.assert_array_equal(found[k].view(np.uint16), w.view(np.uint16))


def test_another_seed_rounds_otherwise() -> None:
    one, two = (trained(RULES[0], "bf16-stochastic", "numpy", 2, seed=seed)[0] for seed in (0, 1))
    assert not np.array_equal(one[0], two[0])


@pytest.mark.parametrize(
    "device", [ao.get_backend("numpy"), LibraryOfNumpy()], ids=lambda d: d.name
)
def test_the_device_rounds_as_the_host_does(device: ao.Backend) -> None:
    for start in (5, 2**32 - 100):  # there, the bits come from two keys
        rounds_as_the_host_does(device, start)
