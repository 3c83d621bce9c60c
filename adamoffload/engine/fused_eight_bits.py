"""The codes of `adamoffload.engine.eight_bits` in compiled loops: one pass, with the same bits.

Importing this module needs Numba (extra ``fast``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

from adamoffload.engine.cache import compiled
from adamoffload.engine.eight_bits import Float32, UInt8, dynamic_map

__all__ = ["decode", "encode", "scratch8"]


def scratch8(size: int) -> None:
    """Allocate nothing: intermediate values stay in registers of the processor."""


def encode(
    source: Float32,
    codes: UInt8,
    largest: Float32,
    scratch: None,  # noqa: ARG001
    signed: bool,
) -> None:
    """Write numbers as codes; see `adamoffload.engine.eight_bits.encode`."""
    table = dynamic_map(signed)
    lowered = table.zero if signed else 256  # the code that is lowered for negative numbers
    bits = source.view(np.uint32)
    _loops()[0](source, bits, codes, largest, table.middles, table.first, lowered)


def decode(
    codes: UInt8,
    largest: Float32,
    target: Float32,
    scratch: None,  # noqa: ARG001
    signed: bool,
) -> None:
    """Write the numbers that codes stand for; see `adamoffload.engine.eight_bits.decode`."""
    _loops()[1](codes, largest, target, dynamic_map(signed).values)


def encode_loop(
    source: Any, bits: Any, codes: Any, largest: Any, middles: Any, first: Any, lowered: Any
) -> None:
    """Find the largest magnitude of a block, by its bits, then the code of each number in it."""
    scaled = np.empty(256, np.float32)
    for block in range(largest.size):
        start, stop = 256 * block, min(256 * block + 256, source.size)
        size = np.uint32(0)
        for i in range(start, stop):  # magnitudes are in the order of their bits
            magnitude = bits[i] & np.uint32(0x7FFFFFFF)
            size = max(size, magnitude if magnitude < np.uint32(0x7F800000) else np.uint32(0))
        largest[block] = np.uint32(size).view(np.float32)
        divisor = largest[block] if size else np.float32(1)
        for i in range(start, stop):  # apart from the look-up, or it would be done one by one
            sound = bits[i] & np.uint32(0x7FFFFFFF) < np.uint32(0x7F800000)
            scaled[i - start] = source[i] / divisor if sound else np.float32(0)
        for i in range(start, stop):
            x = scaled[i - start]
            code = np.uint32(first[np.float32(x).view(np.uint32) >> np.uint32(16)])
            code += np.uint32(x > middles[code])
            codes[i] = code - np.uint32(code == lowered and np.signbit(x))


def decode_loop(codes: Any, largest: Any, target: Any, values: Any) -> None:
    """Look up and scale."""
    for block in range(largest.size):
        for i in range(256 * block, min(256 * block + 256, codes.size)):
            target[i] = values[codes[i]] * largest[block]


@cache
def _loops() -> list[Callable[..., Any]]:
    """Compile both: at the first call, and then once in the lifetime of a cache folder."""
    codes, bits, float32 = numba.uint8[::1], numba.uint32[::1], numba.float32[::1]
    head = "from __future__ import annotations\nimport numpy as np\n\n\n"
    return [
        compiled(head + inspect.getsource(loop), numba.void(*arguments), loop.__name__)
        for loop, arguments in (
            (encode_loop, (float32, bits, codes, float32, float32, codes, numba.uint32)),
            (decode_loop, (codes, float32, float32, float32)),
        )
    ]
