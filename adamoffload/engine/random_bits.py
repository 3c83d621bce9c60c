"""Random bits for stochastic rounding: a pure function of where a number stands, in any order.

The generator is *triple32* [1]_, a 32-bit hash of three multiplications, of the element's index. A
64-bit key enters in two halves, one added to the index and one between the first two
multiplications: streams of two keys are then not one stream, shifted. There is no state, so the
bits do not depend on threads, blocks, engines or devices; where a library has no unsigned 32-bit
integers, signed ones compute the same.

References
----------
.. [1] C. Wellons, "Prospecting for Hash Functions", 2018, https://nullprogram.com/blog/2018/07/31/;
   bias and constants in https://github.com/skeeto/hash-prospector, "triple32".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from adamoffload.device.backend import Array

__all__ = ["Stream", "random_bits"]

_WORD = 0xFFFFFFFF
_START = (0x9E3779B9, 0x243F6A88)  # digits of the golden ratio, and of pi


class Stream(NamedTuple):
    """The random bits of one parameter in one step.

    Attributes
    ----------
    seed : int
        Of the optimizer, >= 0.
    step : int
        Its ``global_step``.
    parameter : int
        The parameter's place among the optimizer's.
    """

    seed: int
    step: int
    parameter: int

    def key(self, start: int = 0) -> tuple[int, int]:
        """Return the key, two 32-bit numbers, of 2**32 elements of which `start` is one.

        Examples
        --------
        >>> Stream(seed=0, step=1, parameter=0).key()
        (2063164374, 2466553524)
        """
        words = [word for number in self for word in (number & _WORD, number >> 32 & _WORD)]
        first, second = _START
        for word in (*words, start >> 32):
            first, second = _triple32(first ^ word), _triple32(second ^ word)
        return first, second


def random_bits(stream: Stream, start: int, places: Array, out: Array, spare: Array) -> None:
    """Fill `out` with 16 random bits for each of the elements from flat index `start` on.

    Parameters
    ----------
    stream : Stream
        Whose bits.
    start : int
        Flat index in the parameter of the first element.
    places : array, shape (n,), uint32 or int32
        0, 1, 2, ...
    out, spare : array, shape (n,), of the same type
        Where to, 0 to 65,535; and as much to compute in.

    Examples
    --------
    >>> places, (out, spare) = np.arange(3, dtype=np.uint32), np.empty((2, 3), np.uint32)
    >>> random_bits(Stream(seed=0, step=1, parameter=0), 1000, places, out, spare)
    >>> out
    array([ 4656, 32380, 55850], dtype=uint32)
    """
    left = (1 << 32) - (start & _WORD)  # elements that the key is good for
    if places.size > left:
        random_bits(stream, start, places[:left], out[:left], spare[:left])
        here = slice(left, None)
        random_bits(stream, start + left, places[: places.size - left], out[here], spare[here])
        return
    first, second = stream.key(start)
    np.add(places, _word((start & _WORD) + first & _WORD, out), out=out)
    _mix(out, spare, 17)
    np.multiply(out, _word(0xED5AD4BB, out), out=out)
    _mix(out, spare, 11)
    np.add(out, _word(second, out), out=out)
    np.multiply(out, _word(0xAC4C1B51, out), out=out)
    _mix(out, spare, 15)
    np.multiply(out, _word(0x31848BAB, out), out=out)
    _mix(out, spare, 14)
    _shift(out, 16, out)


def _mix(x: Array, spare: Array, shift: int) -> None:
    _shift(x, shift, spare)
    np.bitwise_xor(x, spare, out=x)


def _shift(x: Array, shift: int, out: Array) -> None:
    np.right_shift(x, shift, out=out)
    if out.dtype == np.int32:  # shifted in were copies of the sign
        np.bitwise_and(out, _WORD >> shift, out=out)


def _word(bits: int, like: Array) -> np.integer[Any]:
    """Return 32 bits as a number of the array's type."""
    word: np.integer[Any] = np.uint32(bits).view(like.dtype)
    return word


def _triple32(x: int) -> int:
    x ^= x >> 17
    x = x * 0xED5AD4BB & _WORD
    x ^= x >> 11
    x = x * 0xAC4C1B51 & _WORD
    x ^= x >> 15
    x = x * 0x31848BAB & _WORD
    return x ^ x >> 14
