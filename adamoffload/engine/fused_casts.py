"""The casts of `adamoffload.engine.casts` as compiled loops: one pass each, with the same bits.

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
from adamoffload.engine.random_bits import Stream

__all__ = ["kahan", "narrow", "scratch", "stochastic", "widen"]

Float32 = np.ndarray[Any, np.dtype[np.float32]]
Half = np.ndarray[Any, np.dtype[Any]]


def scratch(size: int) -> None:
    """Allocate nothing: intermediate values stay in registers of the processor."""


def widen(source: Half, target: Float32, scratch: None) -> None:  # noqa: ARG001
    """Write 16-bit numbers into float32; see `adamoffload.engine.casts.widen`."""
    loop = _loop(f"widen_{source.dtype.name}")
    loop(source.view(np.uint16), target)


def narrow(source: Float32, target: Half, scratch: None) -> None:  # noqa: ARG001
    """Round float32 to 16 bits, to nearest; see `adamoffload.engine.casts.narrow`."""
    loop = _loop(f"narrow_{target.dtype.name}")
    loop(source, target.view(np.uint16))


def stochastic(
    source: Float32,
    target: Half,
    scratch: None,  # noqa: ARG001
    stream: Stream,
    start: int,
) -> None:
    """Round float32 to bfloat16, up or down; see `adamoffload.engine.casts.stochastic`."""
    half, loop = target.view(np.uint16), _loop("stochastic_bfloat16")
    while source.size:
        count = (1 << 32) - start % (1 << 32)  # elements that the key is good for
        first, second = stream.key(start)
        begin = np.uint32((start + first) % (1 << 32))
        loop(source[:count], half[:count], begin, np.uint32(second))
        source, half, start = source[count:], half[count:], start + count


def kahan(weights: Half, missing: Half, delta: Float32, scratch: None) -> None:  # noqa: ARG001
    """Add `delta` to weights with compensation; see `adamoffload.engine.casts.kahan`."""
    _loop("kahan_bfloat16")(weights.view(np.uint16), missing.view(np.uint16), delta)


# -- what is compiled: each of these functions stands alone, but for the first three ------------


def upper(bits: Any, added: Any) -> Any:
    """Return the upper half of a float32's `bits` + `added`; a NaN stays one."""
    if bits & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
        return (bits >> np.uint32(16)) & np.uint32(0x8000) | np.uint32(0x7FC0)
    return np.uint32(bits + added) >> np.uint32(16)


def nearest(x: Any) -> Any:
    """Return the bits of the bfloat16 next to a float32."""
    bits = np.float32(x).view(np.uint32)
    return upper(bits, np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))


def single(half: Any) -> Any:
    """Return the float32 that a bfloat16 is, from its bits."""
    return np.uint32(np.uint32(half) << np.uint32(16)).view(np.float32)


def widen_bfloat16(source: Any, target: Any) -> None:
    """Shift the bits up."""
    for i in range(source.size):
        target[i] = single(source[i])


def narrow_bfloat16(source: Any, target: Any) -> None:
    """Round to the upper half."""
    for i in range(source.size):
        target[i] = nearest(source[i])


def widen_float16(source: Any, target: Any) -> None:
    """Put the bits in their place, and scale by what the biases of the exponents differ."""
    for i in range(source.size):
        rest = np.uint32(source[i] & np.uint16(0x7FFF))
        scaled = np.uint32(rest << np.uint32(13)).view(np.float32) * np.float32(2.0**112)
        bits = np.float32(scaled).view(np.uint32)
        if rest >= np.uint32(0x7C00):
            bits |= np.uint32(0x7F800000)
        if rest > np.uint32(0x7C00):
            bits |= np.uint32(0x00400000)
        bits |= np.uint32(source[i] & np.uint16(0x8000)) << np.uint32(16)
        target[i] = np.uint32(bits).view(np.float32)


def narrow_float16(source: Any, target: Any) -> None:
    """Round to 11 bits, or, below the normal numbers, to a multiple of 2**-24."""
    for i in range(source.size):
        bits = np.float32(source[i]).view(np.uint32)
        rest = np.uint32(bits & np.uint32(0x7FFFFFFF))
        if rest > np.uint32(0x7F800000):
            half = np.uint32(0x7E00)
        elif rest >= np.uint32(0x47800000):  # 2**16
            half = np.uint32(0x7C00)
        elif rest < np.uint32(0x38800000):  # 2**-14
            x = np.uint32(rest).view(np.float32) + np.float32(0.5) - np.float32(0.5)
            half = np.uint32(x * np.float32(2.0**24))
        else:
            odd = (rest >> np.uint32(13)) & np.uint32(1)
            half = np.uint32(rest + np.uint32(0x0FFF) + odd - np.uint32(0x38000000)) >> np.uint32(
                13
            )
        target[i] = half | ((bits >> np.uint32(16)) & np.uint32(0x8000))


def stochastic_bfloat16(source: Any, target: Any, first: Any, second: Any) -> None:
    """Add the upper half of a hash of the index, and cut off the lower half."""
    for i in range(source.size):
        x = np.uint32(np.uint32(i) + first)
        x = np.uint32((x ^ (x >> np.uint32(17))) * np.uint32(0xED5AD4BB))
        x = np.uint32((x ^ (x >> np.uint32(11))) + second)
        x = np.uint32(x * np.uint32(0xAC4C1B51))
        x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x31848BAB))
        x ^= x >> np.uint32(14)
        target[i] = upper(np.float32(source[i]).view(np.uint32), np.uint32(x >> np.uint32(16)))


def kahan_bfloat16(weights: Any, missing: Any, delta: Any) -> None:
    """Add with compensation."""
    for i in range(delta.size):
        old, t = single(weights[i]), single(missing[i]) + delta[i]
        weights[i] = nearest(old + t)
        missing[i] = nearest(t + (old - single(weights[i])))


@cache
def _loop(name: str) -> Callable[..., Any]:
    """Compile one of them: at its first call, and then once in the lifetime of a cache folder."""
    half, float32, word = numba.uint16[::1], numba.float32[::1], numba.uint32
    loops: dict[Callable[..., Any], Any] = {
        widen_bfloat16: numba.void(half, float32),
        narrow_bfloat16: numba.void(float32, half),
        widen_float16: numba.void(half, float32),
        narrow_float16: numba.void(float32, half),
        stochastic_bfloat16: numba.void(float32, half, word, word),
        kahan_bfloat16: numba.void(half, half, float32),
    }
    ((loop, signature),) = [item for item in loops.items() if item[0].__name__ == name]
    head = "from __future__ import annotations\nimport numba\nimport numpy as np\n"
    inlined = ["@numba.njit\n" + inspect.getsource(f) for f in (upper, nearest, single)]
    text = "\n\n".join([head, *inlined, inspect.getsource(loop)])
    return compiled(text, signature, name)
