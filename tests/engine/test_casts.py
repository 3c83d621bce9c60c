"""Casts of blocks: the same bits in NumPy and Numba; exact where they can be, else unbiased."""

from __future__ import annotations

import importlib
import tracemalloc
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from adamoffload.device.half import bfloat16
from adamoffload.engine import casts
from adamoffload.engine.random_bits import Stream

BFLOAT16, FLOAT16 = bfloat16(), np.dtype(np.float16)
STREAM = Stream(seed=1, step=2, parameter=3)

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(params=["casts", "fused_casts"])
def engine(request: pytest.FixtureRequest) -> ModuleType:
    if request.param == "fused_casts":
        pytest.importorskip("numba", reason="needs the extra fast")
    return importlib.import_module(f"adamoffload.engine.{request.param}")


both = pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)


def patterns() -> Array:
    """Return float32 of all kinds: random bits, ties, what over- or underflows, NaN, infinities."""
    rng = np.random.default_rng(8)
    some = rng.standard_normal(20_000) * 10.0 ** rng.uniform(-12, 6, 20_000)
    bits = [
        rng.integers(0, 2**32, 40_000, dtype=np.uint32),
        some.astype(np.float32).view(np.uint32),
        np.arange(1 << 16, dtype=np.uint32) << 16 | 0x8000,  # ties of bfloat16
        np.arange(1 << 19, dtype=np.uint32)[::8] << 13 | 0x1000,  # of float16
        np.arange(1 << 10, dtype=np.uint32) << 13 | 0x38000000,
        np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000], np.uint32),
        np.array([0x7F800000, 0xFF800000, 0x7F7FFFFF, 0xFF7FFFFF, 0, 0x80000000], np.uint32),
        np.array([0x477FEFFF, 0x477FF000, 0x477FFFFF, 0x47800000], np.uint32),  # around 65,520
    ]
    return np.concatenate(bits).view(np.float32)


def narrowed(engine: ModuleType, x: Array, dtype: np.dtype[Any]) -> Array:
    y = np.empty(x.size, dtype)
    engine.narrow(x, y, engine.scratch(x.size))
    return y


def widened(engine: ModuleType, x: Array) -> Array:
    y = np.empty(x.size, np.float32)
    engine.widen(x, y, engine.scratch(x.size))
    return y


def rounded(engine: ModuleType, x: Array, stream: Stream = STREAM, start: int = 0) -> Array:
    y = np.empty(x.size, BFLOAT16)
    engine.stochastic(x, y, engine.scratch(x.size), stream, start)
    return y


def single(x: Array) -> Array:
    return x.astype(np.float32)


@both
def test_rounding_is_that_of_the_library_of_the_type(
    engine: ModuleType, dtype: np.dtype[Any]
) -> None:
    x = patterns()
    with np.errstate(all="ignore"):
        expected = x.astype(dtype)
    result, sound = narrowed(engine, x, dtype), ~np.isnan(x)
    np.testing.assert_array_equal(result.view(np.uint16)[sound], expected.view(np.uint16)[sound])
    assert np.isnan(single(result)[~sound]).all()
    np.testing.assert_array_equal(np.signbit(single(result)), np.signbit(x))


@both
def test_all_65536_patterns_widen_exactly(engine: ModuleType, dtype: np.dtype[Any]) -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):
        expected = x.astype(np.float32)
    result, sound = widened(engine, x), ~np.isnan(expected)
    np.testing.assert_array_equal(result.view(np.uint32)[sound], expected.view(np.uint32)[sound])
    assert np.isnan(result[~sound]).all()
    np.testing.assert_array_equal(np.signbit(result), np.signbit(expected))
    again = narrowed(engine, result, dtype).view(np.uint16)
    np.testing.assert_array_equal(again[sound], x.view(np.uint16)[sound])


def test_a_number_that_bfloat16_has_is_never_changed(engine: ModuleType) -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(BFLOAT16)
    wide = widened(engine, x)
    result, sound = rounded(engine, wide), ~np.isnan(wide)
    np.testing.assert_array_equal(result.view(np.uint16)[sound], x.view(np.uint16)[sound])
    assert np.isnan(single(result)[~sound]).all()


def test_stochastic_rounding_goes_to_one_of_the_two_neighbours(engine: ModuleType) -> None:
    x = patterns()
    x = x[np.isfinite(x) & (np.abs(x) < 3e38)]
    y = single(rounded(engine, x))
    toward = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)
    away = ((x.view(np.uint32) | 0xFFFF) + np.uint32(1)).view(np.float32)
    exact = x.view(np.uint32) & 0xFFFF == 0
    assert np.all((y == toward) | ((y == away) & ~exact))


@pytest.mark.parametrize("part", [1, 7, 0x1000, 0x5555, 0x8000, 0xC001, 0xFFFF])
def test_stochastic_rounding_goes_up_as_often_as_it_should(engine: ModuleType, part: int) -> None:
    n = 1 << 18
    for base in (0x3F800000, 0xC2480000, 0x00030000):  # 1, -50 and a denormal number
        x = np.full(n, base | part, np.uint32).view(np.float32)
        ups = np.count_nonzero(rounded(engine, x).view(np.uint16) != base >> 16)
        share = part / 65536
        assert abs(ups - n * share) < 4.5 * np.sqrt(n * share * (1 - share)) + 1


def test_small_updates_survive_on_average(engine: ModuleType) -> None:
    """200 steps of 2**-12 from 1: to nearest, nothing happens; stochastic, the mean is right."""
    n, steps = 4096, 200
    w = np.ones(n, np.float32)
    for step in range(steps):
        w = single(rounded(engine, w + np.float32(2**-12), Stream(0, step, 0)))
    change = steps * 2**-12
    assert abs(w.mean() - 1 - change) < 4.5 * np.sqrt(change * 2**-7 / n)
    assert (narrowed(engine, np.full(1, 1 + 2**-12, np.float32), BFLOAT16) == 1).all()


def test_any_cut_into_blocks_gives_the_same_bits(engine: ModuleType) -> None:
    x = patterns()[:10_000]
    whole = rounded(engine, x, start=2**32 - 5_000)
    parts = [
        rounded(engine, x[a:b], start=2**32 - 5_000 + a)
        for a, b in ((0, 1), (1, 4_999), (4_999, 5_003), (5_003, 10_000))
    ]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_kahan_keeps_what_rounding_swallows(engine: ModuleType) -> None:
    """In bfloat16, 1 + 2**-12 is 1; with compensation, 1,000 such steps arrive."""
    rng = np.random.default_rng(1)
    start = single(rng.uniform(0.5, 2, 300).astype(BFLOAT16))
    delta = (rng.uniform(-1, 1, 300) * 2**-12).astype(np.float32)
    w, c = start.astype(BFLOAT16), np.zeros(300, BFLOAT16)
    scratch = engine.scratch(300)
    for _ in range(1000):
        engine.kahan(w, c, delta.copy(), scratch)
    exact = start.astype(np.float64) + 1000 * delta.astype(np.float64)
    # c is at most half a last place of w, 2**-7 below 4, and rounded to 8 bits in each step.
    drift = 1000 * 2**-7 * 2**-9
    assert np.max(np.abs(single(w).astype(np.float64) + single(c) - exact)) < drift
    assert np.all(np.abs(single(w) - exact) <= 2**-8 * np.abs(exact) + drift)
    assert np.max(np.abs(exact - start)) > 10 * drift


def test_kahan_is_what_it_says(engine: ModuleType) -> None:
    rng = np.random.default_rng(2)
    w = rng.standard_normal(5_000).astype(BFLOAT16)
    c = (rng.standard_normal(5_000) * 2e-3).astype(BFLOAT16)
    delta = (rng.standard_normal(5_000) * 1e-2).astype(np.float32)
    t = single(c) + delta
    new = (single(w) + t).astype(BFLOAT16)
    missing = (t + (single(w) - single(new))).astype(BFLOAT16)
    engine.kahan(w, c, delta, engine.scratch(5_000))
    assert (w.tobytes(), c.tobytes()) == (new.tobytes(), missing.tobytes())


def test_both_engines_give_the_same_bits() -> None:
    """Also those of a NaN, but for the sign of one that arithmetic makes."""
    pytest.importorskip("numba", reason="needs the extra fast")
    fused = importlib.import_module("adamoffload.engine.fused_casts")
    x = patterns()
    halves = np.arange(1 << 16, dtype=np.uint16)
    for dtype in (FLOAT16, BFLOAT16):
        assert narrowed(casts, x, dtype).tobytes() == narrowed(fused, x, dtype).tobytes()
        half = halves.view(dtype)
        assert widened(casts, half).tobytes() == widened(fused, half).tobytes()
    for start in (0, 999, 2**32 - 7):
        a, b = (rounded(module, x, start=start) for module in (casts, fused))
        assert a.tobytes() == b.tobytes()
    results: list[Any] = []
    for module in (casts, fused):
        w, c = narrowed(casts, x, BFLOAT16), narrowed(casts, np.roll(x, 1), BFLOAT16)
        with np.errstate(all="ignore"):
            delta = np.roll(x, 2) * np.float32(1e-3)
            module.kahan(w, c, delta, module.scratch(x.size))
        results.append(single(np.concatenate([w, c])))
    sound = ~np.isnan(results[0])
    np.testing.assert_array_equal(sound, ~np.isnan(results[1]))
    assert results[0][sound].tobytes() == results[1][sound].tobytes()


def test_a_block_allocates_nothing(engine: ModuleType) -> None:
    """Beyond NumPy's buffers of a few thousand elements, which do not grow with the block."""
    n = 1 << 17
    x = np.linspace(-2, 2, n, dtype=np.float32)
    y, c = np.zeros((2, n), BFLOAT16)
    scratch = engine.scratch(n)

    def work() -> None:
        engine.narrow(x, y, scratch)
        engine.widen(y, x, scratch)
        engine.stochastic(x, y, scratch, STREAM, 0)
        engine.kahan(y, c, x, scratch)

    work()
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < n
