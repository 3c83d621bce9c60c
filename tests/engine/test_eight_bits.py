"""8-bit codes: those of bitsandbytes, the nearest by exhaustive search, alike in both engines."""

from __future__ import annotations

import importlib
import json
import tracemalloc
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from adamoffload.engine import eight_bits
from adamoffload.engine.eight_bits import BLOCK, blocks, dynamic_map

from reference import ORACLE

Array = np.ndarray[Any, np.dtype[Any]]
RECORDED = np.load(ORACLE / "bitsandbytes.npz")
signs = pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])


@pytest.fixture(params=["eight_bits", "fused_eight_bits"])
def engine(request: pytest.FixtureRequest) -> ModuleType:
    if request.param == "fused_eight_bits":
        pytest.importorskip("numba", reason="needs the extra fast")
    return importlib.import_module(f"adamoffload.engine.{request.param}")


def encoded(engine: ModuleType, x: Array, signed: bool) -> tuple[Array, Array]:
    codes, largest = np.empty(x.size, np.uint8), np.empty(blocks(x.size), np.float32)
    engine.encode(x, codes, largest, engine.scratch8(x.size), signed)
    return codes, largest


def decoded(engine: ModuleType, codes: Array, largest: Array, signed: bool) -> Array:
    x = np.empty(codes.size, np.float32)
    engine.decode(codes, largest, x, engine.scratch8(x.size), signed)
    return x


def recorded(name: str, signed: bool) -> Array:
    return np.asarray(RECORDED[f"{'signed' if signed else 'unsigned'}_{name}"])


def numbers(signed: bool) -> Array:
    x = RECORDED["x"]
    return np.asarray(x if signed else np.abs(x))


def all_kinds(signed: bool) -> Array:
    rng = np.random.default_rng(4)
    x = rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    x[:256], x[-100:] = 0, 1e-45
    return x if signed else np.abs(x)


# -- the map ------------------------------------------------------------------------------------


@signs
def test_the_map_is_that_of_bitsandbytes(signed: bool) -> None:
    """Which computes it in float32: 2 ULP."""
    ours, theirs = dynamic_map(signed).values, recorded("map", signed)
    assert ours.shape == (256,)
    assert np.all(np.diff(ours) > 0)
    assert np.max(np.abs(ours - theirs) / np.spacing(np.abs(theirs))) <= 2
    assert ours[dynamic_map(signed).zero] == 0


# -- codes --------------------------------------------------------------------------------------


@signs
def test_codes_are_those_of_bitsandbytes(engine: ModuleType, signed: bool) -> None:
    """But for zeros whose sign its optimizers keep, and a block of zeros, which it divides by 0."""
    x, theirs = numbers(signed), recorded("codes", signed).astype(int)
    codes, largest = encoded(engine, x, signed)
    np.testing.assert_array_equal(largest, recorded("absmax", signed))
    lowered = (codes == dynamic_map(signed).zero - 1) & (x < 0)
    differ = (codes != theirs) & (np.repeat(largest, BLOCK)[: x.size] > 0)
    assert np.all(lowered[differ]), "only numbers below 0 differ, that would be 0"
    assert np.all(theirs[differ] == dynamic_map(signed).zero)
    assert np.count_nonzero(differ) == (48 if signed else 0)
    if not signed:  # 0 is its code 0 then
        np.testing.assert_array_equal(codes, theirs)


@signs
def test_codes_decode_to_what_bitsandbytes_makes_of_them(engine: ModuleType, signed: bool) -> None:
    x = decoded(engine, recorded("codes", signed), recorded("absmax", signed), signed)
    theirs = recorded("decoded", signed)
    assert np.all(np.abs(x - theirs) <= 3 * np.spacing(np.abs(theirs)))  # 2 of the map, 1 here


@signs
def test_the_code_is_the_nearest_of_all(engine: ModuleType, signed: bool) -> None:
    """Searched for in float64; where the sign is seen to, it may be one away."""
    x, values = numbers(signed), dynamic_map(signed).values.astype(np.float64)
    codes, largest = encoded(engine, x, signed)
    scale = np.repeat(largest, BLOCK)[: x.size].astype(np.float64)
    part = np.divide(x, scale, out=np.zeros(x.size), where=scale > 0)
    off = np.abs(values[codes] - part)
    least = np.min(np.abs(values - part[:, None]), axis=1)
    nudged = (codes == dynamic_map(signed).zero - 1) & (part > values[codes])
    assert np.all((off <= least * (1 + 1e-6) + 1e-15) | nudged)


def test_every_middle_goes_to_the_lower_code(engine: ModuleType) -> None:
    for signed in (True, False):
        middles = dynamic_map(signed).middles[:-1]
        one = np.float32(1)  # the largest, so that nothing is scaled
        codes, _ = encoded(engine, np.append(one, middles), signed)
        np.testing.assert_array_equal(codes[1:], np.arange(255))
        above, _ = encoded(engine, np.append(one, np.nextafter(middles, one + one)), signed)
        expected = np.arange(1, 256)
        if signed:  # what is just above the last of the negative ones is negative itself
            expected[dynamic_map(signed).zero - 1] -= 1
        np.testing.assert_array_equal(above[1:], expected)


def test_each_code_is_its_own_value_s(engine: ModuleType) -> None:
    """What was decoded is encoded to the same codes: a state that rests does not drift."""
    for signed in (True, False):
        codes = np.arange(256, dtype=np.uint8)
        for size in (1.0, 3.7e-3, 8.1e12):
            largest = np.array([size], np.float32)
            again, size_again = encoded(engine, decoded(engine, codes, largest, signed), signed)
            np.testing.assert_array_equal(again, codes)
            np.testing.assert_array_equal(size_again, largest)


def test_what_is_negative_stays_so(engine: ModuleType) -> None:
    x = np.array([1, -1e-12, 1e-12, 0, -1e-45], np.float32)
    codes, largest = encoded(engine, x, signed=True)
    back = decoded(engine, codes, largest, signed=True)
    np.testing.assert_array_equal(np.signbit(back), [False, True, False, False, True])
    assert (back[1], back[2], back[3]) == (np.float32(-5.5e-7), 0, 0)


@signs
def test_nan_and_infinities_become_zero_and_harm_no_neighbour(
    engine: ModuleType, signed: bool
) -> None:
    x = np.array([2, np.nan, np.inf, 1, np.nan], np.float32)
    if signed:
        x[2] = -np.inf
    codes, largest = encoded(engine, x, signed)
    clean = np.nan_to_num(x, nan=0, posinf=0, neginf=0)
    expected, expected_largest = encoded(engine, clean, signed)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(largest, expected_largest)
    assert decoded(engine, codes, largest, signed)[[1, 2, 4]].tolist() == [0, 0, 0]
    only, size = encoded(engine, np.full(3, np.nan, np.float32), signed)
    assert (size.tolist(), decoded(engine, only, size, signed).tolist()) == ([0], [0, 0, 0])


@signs
def test_zeros_and_denormals(engine: ModuleType, signed: bool) -> None:
    x = np.zeros(2 * BLOCK, np.float32)
    x[BLOCK:] = 1e-45 * np.arange(BLOCK)
    codes, largest = encoded(engine, x, signed)
    back = decoded(engine, codes, largest, signed)
    assert largest[0] == 0
    np.testing.assert_array_equal(back[:BLOCK], 0)
    assert np.max(np.abs(back - x)) <= 1e-45 * 2  # of up to 255


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000, 4096])
def test_a_tensor_may_be_cut_at_blocks(engine: ModuleType, size: int) -> None:
    x = all_kinds(signed=True)[:size]
    whole, largest = encoded(engine, x, signed=True)
    assert largest.size == blocks(size)
    for cut in range(BLOCK, size, BLOCK):
        parts = [encoded(engine, part, signed=True) for part in (x[:cut], x[cut:])]
        np.testing.assert_array_equal(np.concatenate([codes for codes, _ in parts]), whole)
        np.testing.assert_array_equal(np.concatenate([sizes for _, sizes in parts]), largest)


@signs
def test_both_engines_give_the_same_bits(signed: bool) -> None:
    pytest.importorskip("numba", reason="needs the extra fast")
    fused = importlib.import_module("adamoffload.engine.fused_eight_bits")
    x = all_kinds(signed)
    here, there = (encoded(engine, x, signed) for engine in (eight_bits, fused))
    for a, b in zip(here, there, strict=True):
        assert a.tobytes() == b.tobytes()
    backs = [decoded(engine, *here, signed).tobytes() for engine in (eight_bits, fused)]
    assert backs[0] == backs[1]


def test_a_block_allocates_nothing(engine: ModuleType) -> None:
    """Beyond NumPy's buffers of a few thousand elements, which do not grow with the block."""
    n = 1 << 17
    x, codes = np.linspace(-2, 2, n, dtype=np.float32), np.empty(n, np.uint8)
    largest, scratch = np.empty(blocks(n), np.float32), engine.scratch8(n)

    def work() -> None:
        engine.encode(x, codes, largest, scratch, True)
        engine.decode(codes, largest, x, scratch, True)

    work()
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < n


def test_the_recording_says_what_made_it() -> None:
    about = json.loads((ORACLE / "bitsandbytes.json").read_text())
    assert about["block"] == BLOCK
