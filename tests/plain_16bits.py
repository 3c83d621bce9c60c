"""Steps with 16-bit weights, in plain NumPy: what the strategies must compute, to the bit.

Each function takes one parameter's arrays and returns them after the step of a 0-based index. The
arithmetic in between is `plain_rules.step`, in float32. `weights` are in their own type, float16 or
bfloat16; `gradient` too, unless it says otherwise; `factor` is the clip factor over the loss scale.
None of it imports an engine: casts are those of NumPy and ml_dtypes, the random bits are computed
here in 64-bit integers, and codes are searched for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import adamoffload as ao

import plain_rules

Array = np.ndarray[Any, np.dtype[Any]]
Slots = Mapping[str, Array]


def single(x: Array) -> Array:
    """Return float32."""
    return x.astype(np.float32)


def gradient(micro_steps: Sequence[Array], factor: float = 1.0) -> Array:
    """Return the gradient of a step: summed in its own type, then float32, then scaled.

    DeepSpeed, runtime/zero/stage_1_and_2.py: each micro-step is added to the sum in 16 bits.
    """
    total = micro_steps[0]
    for g in micro_steps[1:]:
        total = (single(total) + single(g)).astype(total.dtype)
    return single(total) * np.float32(factor) if factor != 1 else single(total)


def with_master(rule: ao.Rule, weights: Array, g: Array, slots: Slots, index: int) -> Slots:
    """Update a float32 master, of which the weights are a rounded copy.

    P. Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, section 3.1.
    """
    state = {name: slots[name] for name in rule.slots}
    new = plain_rules.step(rule, slots["master"], g, state, index)
    master = new.pop("w")
    return {"weights": master.astype(weights.dtype), "master": master, **new}


def without_master(rule: ao.Rule, weights: Array, g: Array, slots: Slots, index: int) -> Slots:
    """Keep weights and slots in the weights' type; round all of them once, at the end.

    The strategies `torchao` and `bf16-only`: PyTorch's fused AdamW on 16-bit tensors, which torchao
    runs on the host (aten/src/ATen/native/cpu/FusedAdamKernel.cpp): the weights are updated by the
    slots of this step before these are rounded.
    """
    wide = {name: single(slots[name]) for name in rule.slots}
    new = plain_rules.step(rule, single(weights), g, wide, index)
    rounded = {name: x.astype(weights.dtype) for name, x in new.items()}
    return {"weights": rounded.pop("w"), **rounded}


def stochastic(
    rule: ao.Rule, weights: Array, g: Array, slots: Slots, index: int, bits: Array
) -> Slots:
    """Round the weights up or down by `bits`, of `random_bits`; round slots to nearest.

    P. Zamirai et al., "Revisiting BFloat16 Training", arXiv:2010.06192, section 3; as torchao does,
    torchao/optim/quant_utils.py: a carry into the upper half makes the magnitude larger.
    """
    wide = {name: single(slots[name]) for name in rule.slots}
    new = plain_rules.step(rule, single(weights), g, wide, index)
    whole = new.pop("w").view(np.uint32)
    half = (whole >> 16) + ((whole & 0xFFFF) + bits >= 0x10000)
    rounded = {name: x.astype(weights.dtype) for name, x in new.items()}
    return {"weights": half.astype(np.uint16).view(weights.dtype), **rounded}


def kahan(rule: ao.Rule, weights: Array, g: Array, slots: Slots, index: int) -> Slots:
    """Keep what rounding takes from the weights, and add it the next time.

    As optimi's ``kahan_sum``, optimi/adamw.py: compensation += update; old = weights; weights +=
    compensation; compensation += old - weights. What decay takes is part of the update.
    """
    old, wide = single(weights), {name: single(slots[name]) for name in rule.slots}
    decayed, delta, new = plain_rules.change(rule, old, g, wide, index)
    t = single(slots["missing"]) + ((decayed - old) + delta)
    half = (old + t).astype(weights.dtype)
    missing = (t + (old - single(half))).astype(weights.dtype)
    rounded = {name: x.astype(weights.dtype) for name, x in new.items()}
    return {"weights": half, "missing": missing, **rounded}


def in_8_bits(rule: ao.Rule, w: Array, g: Array, slots: Slots, index: int) -> Slots:
    """Keep slots as codes, ``<slot>_codes`` and ``<slot>_largest``; w is float32, shape (n,).

    T. Dettmers et al., arXiv:2110.02861, section 2; bitsandbytes, csrc/kernels.cu: w is updated by
    the slots before these are quantised, and the sign of a moment is kept.
    """
    parts = [(f"{slot}_codes", f"{slot}_largest", slot == "m") for slot in rule.slots]
    wide = [decode(slots[codes], slots[sizes], signed) for codes, sizes, signed in parts]
    state = dict(zip(rule.slots, wide, strict=True))
    new = plain_rules.step(rule, w, g, state, index)
    result = {"w": new["w"]}
    for (codes, sizes, signed), slot in zip(parts, rule.slots, strict=True):
        result[codes], result[sizes] = encode(new[slot], signed)
    return result


def decode(codes: Array, largest: Array, signed: bool) -> Array:
    return np.asarray(values(signed)[codes] * np.repeat(largest, 256)[: codes.size])


def encode(x: Array, signed: bool) -> tuple[Array, Array]:
    """Return codes and the largest magnitude of each block; what is not finite counts as 0."""
    x = np.where(np.isfinite(x), x, np.float32(0))
    largest = np.array([np.max(np.abs(x[i : i + 256])) for i in range(0, x.size, 256)])
    scale = np.repeat(np.where(largest > 0, largest, np.float32(1)), 256)[: x.size]
    table = values(signed)
    codes = np.searchsorted((table[:-1] + table[1:]) / 2, x / scale)
    if signed:
        codes -= (table[codes] == 0) & np.signbit(x)
    return codes.astype(np.uint8), largest


def values(signed: bool) -> Array:
    """Return the dynamic map: bitsandbytes/functional.py, ``create_dynamic_map``, in float64."""
    found = [0.0, 1.0]
    for exponent in range(7):
        edges = np.linspace(0.1, 1, 2 ** (exponent + (not signed)) + 1)
        means = 10.0 ** (exponent - 6) * (edges[:-1] + edges[1:]) / 2
        found += [*means, *-means] if signed else [*means]
    return np.sort(found).astype(np.float32)


def random_bits(seed: int, step: int, parameter: int, shape: tuple[int, ...]) -> Array:
    """Return 16 bits for each element: triple32 of its index, in 64-bit integers.

    C. Wellons, https://github.com/skeeto/hash-prospector. The key, 64 bits, is triple32 as well,
    over the 32-bit words of seed, step, parameter, and of the index above 2**32.
    """
    key = [0x9E3779B9, 0x243F6A88]
    for number in (seed, step, parameter):
        for word in (number % 2**32, number >> 32):
            key = [triple32(half ^ word) for half in key]
    key = [triple32(half) for half in key]  # no element here is beyond 2**32
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    return np.reshape(triple32((index + key[0]) % 2**32, key[1]) >> 16, shape)


def triple32(x: Any, added: int = 0) -> Any:
    x = (x ^ x >> 17) * 0xED5AD4BB % 2**32
    x = ((x ^ x >> 11) + added) % 2**32 * 0xAC4C1B51 % 2**32
    x = (x ^ x >> 15) * 0x31848BAB % 2**32
    return x ^ x >> 14
