"""The random bits are uniform and independent, in every direction in which they are used.

Each statistic is a number of standard deviations; 4.5 of them are exceeded by chance once in
150,000 tests, and the generator is fixed, so that what passes passes always.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adamoffload.engine.random_bits import Stream, random_bits

N = 1 << 18
STREAMS = [
    Stream(seed, step, parameter)
    for seed in (0, 1, 2**40 + 3)
    for step in (1, 2, 1000)
    for parameter in (0, 1, 77)
]
LIMIT = 4.5

Array = np.ndarray[Any, np.dtype[Any]]


def drawn(stream: Stream, start: int = 0, count: int = N) -> Array:
    out, spare = np.empty((2, count), np.uint32)
    random_bits(stream, start, np.arange(count, dtype=np.uint32), out, spare)
    return out


def plain(stream: Stream, index: int) -> int:
    """The definition, element by element, in Python's integers."""
    first, second = stream.key(index)
    x = (index + first) % 2**32
    x = (x ^ x >> 17) * 0xED5AD4BB % 2**32
    x = ((x ^ x >> 11) + second) * 0xAC4C1B51 % 2**32
    x = (x ^ x >> 15) * 0x31848BAB % 2**32
    return (x ^ x >> 14) >> 16


def chi_square(values: Array, kinds: int) -> float:
    """Return by how many standard deviations the counts differ from equal ones."""
    expected = values.size / kinds
    counts = np.bincount(values, minlength=kinds)
    return float((np.sum((counts - expected) ** 2 / expected) - kinds + 1) / np.sqrt(2 * kinds))


def correlation(a: Array, b: Array) -> float:
    centred = [(x.astype(np.float64) - 32767.5) / 65536 for x in (a, b)]
    return float(np.mean(centred[0] * centred[1]) * 12 * np.sqrt(a.size))


@pytest.mark.parametrize("start", [0, 1, 12_345, 2**32 - 3, 2**32, 5 * 2**32 - 1])
def test_it_is_the_hash_that_it_says(start: int) -> None:
    stream = Stream(seed=2**33 + 7, step=3, parameter=5)
    expected = [plain(stream, index) for index in range(start, start + 8)]
    assert drawn(stream, start, 8).tolist() == expected


def test_no_two_steps_or_parameters_have_the_same_key() -> None:
    keys = {Stream(0, step, place).key() for step in range(100) for place in range(100)}
    assert len(keys) == 10_000
    assert len({first for first, _ in keys}) > 9_990  # of 32 bits each, by the birthday problem


@pytest.mark.parametrize("stream", STREAMS, ids=str)
def test_all_values_come_equally_often(stream: Stream) -> None:
    bits = drawn(stream)
    assert abs(chi_square(bits >> 8, 256)) < LIMIT
    assert abs(chi_square(bits & 255, 256)) < LIMIT
    mean = (bits.mean() - 32767.5) / 65536 * np.sqrt(12 * N)
    assert abs(mean) < LIMIT


@pytest.mark.parametrize("stream", STREAMS[::3], ids=str)
def test_neighbours_are_independent(stream: Stream) -> None:
    bits = drawn(stream)
    for lag in (1, 2, 3, 16, 256, 4096):
        assert abs(correlation(bits[lag:], bits[:-lag])) < LIMIT
    pairs = (bits[1:] >> 12) * 16 + (bits[:-1] >> 12)
    assert abs(chi_square(pairs, 256)) < LIMIT


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Stream(5, 101, 3), id="the next step"),
        pytest.param(Stream(5, 102, 3), id="the step after it"),
        pytest.param(Stream(5, 100, 4), id="the next parameter"),
        pytest.param(Stream(6, 100, 3), id="another seed"),
        pytest.param(Stream(5, 3, 100), id="step and parameter exchanged"),
        pytest.param(Stream(5 + 2**32, 100, 3), id="a seed of more bits"),
    ],
)
def test_streams_are_independent(other: Stream) -> None:
    here = Stream(seed=5, step=100, parameter=3)
    a, b = drawn(here), drawn(other)
    assert abs(correlation(a, b)) < LIMIT
    assert abs(chi_square((a >> 12) * 16 + (b >> 12), 256)) < LIMIT
    assert abs(np.mean(a == b) * 65536 - 1) < LIMIT * np.sqrt(65536 / N)
    for shift in (1, 2, 64):  # nor is one the other, shifted
        assert abs(correlation(a[shift:], b[:-shift])) < LIMIT


def test_each_bit_of_the_index_changes_half_of_the_bits() -> None:
    stream, rng = Stream(1, 2, 3), np.random.default_rng(0)
    index = rng.integers(0, 2**31, 800)
    base = np.array([plain(stream, int(i)) for i in index])
    for bit in range(31):
        changed = np.array([plain(stream, int(i) ^ 1 << bit) for i in index]) ^ base
        shares = [(changed >> out & 1).mean() for out in range(16)]
        assert np.max(np.abs(np.array(shares) - 0.5)) < LIMIT * 0.5 / np.sqrt(800)


def test_elements_that_are_2_to_32_apart_differ() -> None:
    stream = Stream(0, 1, 0)
    assert abs(correlation(drawn(stream, 0), drawn(stream, 2**32))) < LIMIT
