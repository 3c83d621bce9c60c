"""Steps in 16 and 8 bits: plain references, recordings of PyTorch and DeepSpeed, and casts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.device.half import bfloat16
from adamoffload.engine import casts, eight_bits
from adamoffload.engine.random_bits import Stream

import plain_16bits as plain
from differences import SIXTEEN_BITS
from plain_rules import change, ulps
from reference import ORACLE

BFLOAT16 = bfloat16()
Array = np.ndarray[Any, np.dtype[Any]]

TORCH = np.load(ORACLE / "torch_bfloat16.npz")
CASES: dict[str, dict[str, Any]] = json.loads((ORACLE / "torch_bfloat16.json").read_text())["cases"]
DEEPSPEED = np.load(ORACLE / "deepspeed.npz")
OPTIONS: dict[str, Any] = json.loads((ORACLE / "deepspeed.json").read_text())["options"]


def places(x: Array) -> Array:
    """Return bfloat16 as whole numbers, in order: neighbours differ by 1."""
    bits = x.view(np.uint16).astype(np.int64)
    return np.where(bits >= 0x8000, 0x8000 - bits, bits)


# -- recorded -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_without_a_master_steps_are_those_of_torch_s_fused_adamw(name: str) -> None:
    """The weights and v to the bit; m in 998 of 1,000 elements, and in the others to one place."""
    rule = ao.rules.AdamW(**CASES[name])
    recorded = {key: TORCH[f"{name}_{key}"].view(BFLOAT16) for key in "wmv"}
    differ: list[Any] = []
    for index in range(len(TORCH["g"])):
        before, after = ({key: pair[i][index] for key, pair in recorded.items()} for i in (0, 1))
        g = plain.gradient([TORCH["g"][index].view(BFLOAT16)])
        found = plain.without_master(rule, before["w"], g, before, index)
        assert np.any(before["w"] != after["w"])
        assert found["weights"].tobytes() == after["w"].tobytes()
        assert found["v"].tobytes() == after["v"].tobytes()
        distance = np.abs(places(found["m"]) - places(after["m"]))
        assert np.max(distance) <= 1, SIXTEEN_BITS["torch"]
        differ.append(np.count_nonzero(distance))
    assert sum(differ) <= 2


def test_a_master_s_steps_are_those_of_deepspeed() -> None:
    """Three micro-steps, summed in bfloat16; moments to 1 ULP, from betas as it rounds them."""
    beta1, beta2 = (float(np.float32(beta)) for beta in OPTIONS["betas"])
    rule = ao.rules.AdamW(OPTIONS["lr"], beta1, beta2, OPTIONS["eps"], OPTIONS["weight_decay"])
    for index in range(len(DEEPSPEED["g"])):
        before, after = (
            {key: DEEPSPEED[key][index][i] for key in ("weights", "master", "m", "v")}
            for i in (0, 1)
        )
        g = plain.gradient([*DEEPSPEED["g"][index].view(BFLOAT16)])
        found = plain.with_master(rule, before["weights"].view(BFLOAT16), g, before, index)
        assert ulps(found["m"], after["m"], np.maximum(np.abs(before["m"]), np.abs(g))) <= 1
        assert ulps(found["v"], after["v"], after["v"]) <= 1
        # Its running product of beta2 is off by 2**-25 a step, where 1 - beta2 is 2**-10 a step;
        # half of it remains behind the root, and that of the other product is a hundredth of it.
        apart = np.abs(found["master"].astype(np.float64) - after["master"])
        moved = np.abs(after["master"].astype(np.float64) - before["master"])
        place = np.spacing(np.maximum(np.abs(after["master"]), np.abs(before["master"])))
        assert np.all(apart <= 2 * place + 2**-15 * moved), SIXTEEN_BITS["deepspeed"]
        same = found["weights"].view(np.uint16) == after["weights"]
        assert np.count_nonzero(~same) <= 1
        rounded = after["master"].astype(BFLOAT16)
        assert rounded.tobytes() == after["weights"].tobytes(), "weights are the master, rounded"


def test_deepspeed_rounds_the_betas_first() -> None:
    """With betas as given, v differs as 1 - float32(0.999) does from 0.001: 1 part in 78,000."""
    beta1, beta2 = OPTIONS["betas"]
    rule = ao.rules.AdamW(OPTIONS["lr"], beta1, beta2, OPTIONS["eps"], OPTIONS["weight_decay"])
    before = {key: DEEPSPEED[key][0][0] for key in ("master", "m", "v")}
    g = plain.gradient([*DEEPSPEED["g"][0].view(BFLOAT16)])
    found = plain.with_master(rule, np.zeros(75, BFLOAT16), g, before, 0)
    factor = (1 - float(np.float32(0.999))) / 0.001
    assert 0.99998 < factor < 0.99999, SIXTEEN_BITS["deepspeed"]
    np.testing.assert_allclose(found["v"] * factor, DEEPSPEED["v"][0][1], rtol=3e-7)


def test_a_sum_in_bfloat16_is_not_that_of_float32() -> None:
    one, little = np.ones(1, BFLOAT16), np.full(1, 2**-9, BFLOAT16)
    assert plain.gradient([one, little, little]) == 1
    assert plain.gradient([little, little, one], factor=0.5) == np.float32((1 + 2**-8) / 2).astype(
        BFLOAT16
    )


OPERATIONS = {
    "exp": np.exp,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    "sum": lambda x: np.sum(x, 1),
    "mean": lambda x: np.mean(x, 1),
    "cumsum": lambda x: np.cumsum(x, 1),
    "matmul": lambda x: x @ x.T,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_device_computes_in_bfloat16_as_torch_does(name: str) -> None:
    device = ao.get_backend("numpy")
    operation: Any = OPERATIONS[name]
    found = device.asnumpy(operation(device.asarray(TORCH["x"].view(BFLOAT16))))
    distance = np.abs(places(found) - places(TORCH[f"op_{name}"]))
    # float32 sums and functions differ in their last bits, which decides about a tie, rarely.
    assert np.max(distance) <= 1
    assert np.count_nonzero(distance) <= distance.size // 200


# -- the engines' casts compute what the references say -----------------------------------------

RULE = ao.rules.AdamW(1e-3, weight_decay=0.1)


def state(size: int = 3000) -> tuple[Array, Array, dict[str, Array]]:
    rng = np.random.default_rng(21)
    w, g = (rng.standard_normal(size) * 10.0 ** rng.uniform(-3, 0, size) for _ in range(2))
    m, v = 0.1 * rng.standard_normal(size), rng.random(size) ** 4
    slots = {"m": m.astype(BFLOAT16), "v": v.astype(BFLOAT16)}
    return w.astype(BFLOAT16), g.astype(np.float32), slots


def test_stochastic_rounding() -> None:
    w, g, slots = state()
    bits = plain.random_bits(seed=2**35 + 1, step=7, parameter=2, shape=w.shape)
    expected = plain.stochastic(RULE, w, g, slots, 6, bits)
    wide = {name: plain.single(x) for name, x in slots.items()}
    decayed, delta, _ = change(RULE, plain.single(w), g, wide, 6)
    found, scratch = np.empty_like(w), casts.scratch(w.size)
    casts.stochastic(decayed + delta, found, scratch, Stream(2**35 + 1, 7, 2), start=0)
    assert found.tobytes() == expected["weights"].tobytes()
    nearest = plain.without_master(RULE, w, g, slots, 6)
    assert 0.1 < np.mean(nearest["weights"] != expected["weights"]) < 0.6
    for name in slots:
        assert expected[name].tobytes() == nearest[name].tobytes()


def test_compensated_rounding() -> None:
    w, g, slots = state()
    slots["missing"] = (plain.single(w) * np.float32(2**-10)).astype(BFLOAT16)
    expected = plain.kahan(RULE, w, g, slots, 6)
    old, wide = plain.single(w), {name: plain.single(x) for name, x in slots.items()}
    decayed, delta, _ = change(RULE, old, g, wide, 6)
    missing = slots["missing"].copy()
    casts.kahan(w, missing, (decayed - old) + delta, casts.scratch(w.size))
    assert w.tobytes() == expected["weights"].tobytes()
    assert missing.tobytes() == expected["missing"].tobytes()


@pytest.mark.parametrize("size", [256, 3000])
def test_state_in_8_bits(size: int) -> None:
    """Three steps: codes as searched for, and weights that follow float32 state closely."""
    rng, count = np.random.default_rng(3), eight_bits.blocks(size)
    w = exact = rng.standard_normal(size).astype(np.float32)
    zero = {"m": eight_bits.dynamic_map(True).zero, "v": 0}
    slots: Any = {f"{name}_codes": np.full(size, code, np.uint8) for name, code in zero.items()}
    slots |= {f"{name}_largest": np.zeros(count, np.float32) for name in zero}
    float_slots = {name: np.zeros(size, np.float32) for name in zero}
    for index in range(3):
        g = (rng.standard_normal(size) * 10.0 ** rng.uniform(-4, 0, size)).astype(np.float32)
        expected = plain.in_8_bits(RULE, w, g, slots, index)
        wide = {}
        for name in zero:
            codes, largest = slots[f"{name}_codes"], slots[f"{name}_largest"]
            wide[name] = np.empty(size, np.float32)
            scratch = eight_bits.scratch8(size)
            eight_bits.decode(codes, largest, wide[name], scratch, name == "m")
        decayed, delta, new = change(RULE, w, g, wide, index)
        for name in zero:
            codes, largest = np.empty(size, np.uint8), np.empty(count, np.float32)
            eight_bits.encode(new[name], codes, largest, eight_bits.scratch8(size), name == "m")
            assert codes.tobytes() == expected[f"{name}_codes"].tobytes()
            assert largest.tobytes() == expected[f"{name}_largest"].tobytes()
        assert (decayed + delta).tobytes() == expected["w"].tobytes()
        w, slots = expected["w"], expected
        decayed, delta, float_slots = change(RULE, exact, g, float_slots, index)
        exact = decayed + delta
    assert np.mean(np.abs(w - exact)) < 0.1 * 3e-3  # of three steps of the learning rate


# -- why there is a master ----------------------------------------------------------------------


def test_v_cannot_decay_in_bfloat16() -> None:
    """beta2 = 0.999 takes off less than half a last place, so that v stays where it is."""
    w, v = np.ones(4, BFLOAT16), np.array([1.0, 0.5078125, 3e-5, 1e-12]).astype(BFLOAT16)
    slots: dict[str, Array] = {"m": np.zeros(4, BFLOAT16), "v": v}
    for index in range(50):
        new = plain.without_master(RULE, w, np.zeros(4, np.float32), slots, index)
        slots = {"m": new["m"], "v": new["v"]}
    np.testing.assert_array_equal(slots["v"], v)
