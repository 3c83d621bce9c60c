"""`Crc32`: what zlib computes, for any length, in blocks of any size."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from adamoffload.checkpoint.crc32 import Crc32

DEGREE, MIDDLE = 91_639, 41_678


def of(data: np.ndarray[tuple[int], np.dtype[np.uint8]], block: int, start: int = 0) -> int:
    crc = Crc32(data.size, start)
    for begin in range(0, data.size, block):
        crc.update(data[begin : begin + block])
    return crc.value()


@pytest.mark.parametrize("size", [0, 7, 16 * DEGREE, 16 * DEGREE + 8, 16 * DEGREE + 17, 3_000_001])
@pytest.mark.parametrize("block", [1 << 13, 8 * MIDDLE, 8 * MIDDLE + 8, 1 << 19, 1 << 30])
def test_it_is_zlibs(size: int, block: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    for start in (0, 0xFFFFFFFF, 123_456_789):
        assert of(data, block, start) == zlib.crc32(data.data, start)


def test_every_bit_counts() -> None:
    data = np.zeros(2_000_003, np.uint8)
    original = of(data, 1 << 19)
    for place in (0, 3, 8 * MIDDLE, 8 * DEGREE - 1, 1_000_000, 2_000_002):
        data[place] ^= 1
        assert of(data, 1 << 19) != original
        data[place] ^= 1


def test_the_trinomial_is_a_multiple_of_the_polynomial() -> None:
    """y**DEGREE + y**MIDDLE + 1 = 0 modulo zlib's polynomial, y = x**64: by squaring."""

    def times(a: int, b: int) -> int:
        product = 0
        for i in range(b.bit_length()):
            product ^= (a << i) * (b >> i & 1)
        for i in reversed(range(32, product.bit_length())):
            product ^= (0x104C11DB7 << i - 32) * (product >> i & 1)
        return product

    def power(exponent: int) -> int:
        result, base = 1, 2
        while exponent:
            result, base = times(result, base) if exponent & 1 else result, times(base, base)
            exponent >>= 1
        return result

    assert power(64 * DEGREE) ^ power(64 * MIDDLE) == 1
