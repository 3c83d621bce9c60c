"""State in 8 bits: a code for each number, and one float32 for each block of 256.

A block is divided by its largest magnitude, and each number becomes the code of the nearest value
of a map [1]_. The *dynamic map* has 256 values, between -1 and 1 (moments) or 0 and 1 (squares),
dense near 0: for each power of ten from 1e-6 to 1 the middles of equal parts of [0.1, 1], twice as
many parts from one power to the next, and 0 and 1 themselves.

- Between two values, the lower one is taken at exactly the middle. What is negative stays negative,
  however small: the code of 0 is lowered by one for it.
- NaN and infinities become 0, and count for no block's largest magnitude. A block of zeros has
  largest magnitude 0.
- Blocks begin at a tensor's first element; its last block may be shorter.

In place, in NumPy; `adamoffload.engine.fused_eight_bits` does the same in compiled loops.

References
----------
.. [1] T. Dettmers et al., "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861,
   sections 2.1 and 2.2; the map as in ``create_dynamic_map`` of bitsandbytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BLOCK", "Map", "Scratch8", "blocks", "decode", "dynamic_map", "encode", "scratch8"]

BLOCK = 256

Float32 = np.ndarray[Any, np.dtype[np.float32]]
UInt8 = np.ndarray[Any, np.dtype[np.uint8]]


class Map(NamedTuple):
    """The values that codes stand for, and how the nearest one is found without a search.

    The upper half of a float32 has sign, exponent and 7 bits of the significand; between two
    numbers that share it lies one middle at most. So it tells the code, or the one below it.

    Attributes
    ----------
    values : ndarray, shape (256,), float32
        Ascending.
    middles : ndarray, shape (256,), float32
        What lies between each value and the next one; infinite after the last.
    first : ndarray, shape (65536,), uint8
        The code of the smallest number with this upper half.
    zero : int
        The code of 0.
    """

    values: Float32
    middles: Float32
    first: UInt8
    zero: int


@cache
def dynamic_map(signed: bool) -> Map:
    """Return the dynamic map of 8 bits.

    Parameters
    ----------
    signed : bool
        Whether it has negative values.

    Examples
    --------
    >>> dynamic_map(signed=False).values[[0, 1, 2, 3, -2, -1]]
    array([0.000000e+00, 3.250000e-07, 7.750000e-07, 2.125000e-06,
           9.964844e-01, 1.000000e+00], dtype=float32)
    """
    values = [0.0, 1.0]
    for power in range(7):
        parts = 2**power if signed else 2 ** (power + 1)
        middles = 10.0 ** (power - 6) * (0.1 + 0.9 * (np.arange(parts) + 0.5) / parts)
        values += [*middles, *-middles] if signed else [*middles]
    sorted_values = np.sort(values).astype(np.float32)
    between = (sorted_values[:-1] + sorted_values[1:]) / 2
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    smallest = np.where(upper >> 31, upper | 0xFFFF, upper).astype(np.uint32).view(np.float32)
    first = np.searchsorted(between, np.nan_to_num(smallest)).astype(np.uint8)
    zero = int(np.searchsorted(sorted_values, 0))
    return Map(sorted_values, np.append(between, np.float32(np.inf)), first, zero)


def blocks(size: int) -> int:
    """Return how many blocks a tensor of `size` elements has.

    Examples
    --------
    >>> blocks(256), blocks(257)
    (1, 2)
    """
    return -(-size // BLOCK)


class Scratch8(NamedTuple):
    """What a block of work is computed in; see `scratch8`."""

    scaled: Any
    middles: Any
    index: Any
    mask: Any
    divisor: Any


def scratch8(size: int) -> Scratch8:
    """Allocate what one thread needs, for up to `size` elements.

    Examples
    --------
    >>> sum(array.nbytes for array in scratch8(1024))
    17424
    """
    scaled, middles = np.empty((2, size), np.float32)
    return Scratch8(
        scaled,
        middles,
        np.empty(size, np.intp),
        np.empty(size, bool),
        np.empty(blocks(size), np.float32),
    )


def encode(
    source: Float32, codes: UInt8, largest: Float32, scratch: Scratch8, signed: bool
) -> None:
    """Write numbers as codes and largest magnitudes.

    Parameters
    ----------
    source : ndarray, shape (n,), float32
        What is read: a tensor, or a part of it from the beginning of a block on.
    codes : ndarray, shape (n,), uint8
        What is written.
    largest : ndarray, shape (blocks(n),), float32
        What is written.
    scratch : Scratch8
        The calling thread's.
    signed : bool
        Whether there are negative numbers.

    Examples
    --------
    >>> x = np.array([3, -1.5, 0, 1e-9, np.nan], np.float32)
    >>> codes, largest, back = np.empty(5, np.uint8), np.empty(1, np.float32), np.empty_like(x)
    >>> encode(x, codes, largest, scratch8(5), signed=True)
    >>> codes, largest
    (array([255,  35, 127, 127, 127], dtype=uint8), array([3.], dtype=float32))
    >>> decode(codes, largest, back, scratch8(5), signed=True)
    >>> [round(float(number), 3) for number in back]
    [3.0, -1.502, 0.0, 0.0, 0.0]
    """
    scaled, mask = scratch.scaled[: source.size], scratch.mask[: source.size]
    np.abs(source, out=scaled)
    sound = np.isfinite(scaled, out=mask).all()
    if not sound:
        np.copyto(scaled, 0, where=np.logical_not(mask, out=mask))
    for rows, parts in _rows(scaled, largest):
        np.max(rows, axis=1, out=parts)
    divisor = scratch.divisor[: largest.size]
    np.copyto(divisor, largest)
    np.copyto(divisor, 1, where=largest == 0)
    np.copyto(scaled, source)
    if not sound:
        np.copyto(scaled, 0, where=mask)
    for rows, parts in _rows(scaled, divisor):
        np.divide(rows, parts[:, None], out=rows)
    _nearest(scaled, codes, scratch, dynamic_map(signed))
    if signed:
        np.signbit(scaled, out=mask)
        zeros = np.equal(
            codes, dynamic_map(signed).zero, out=scratch.index.view(bool)[: codes.size]
        )
        np.subtract(codes, np.logical_and(mask, zeros, out=mask).view(np.uint8), out=codes)


def decode(
    codes: UInt8, largest: Float32, target: Float32, scratch: Scratch8, signed: bool
) -> None:
    """Write the numbers that codes stand for; arguments are those of `encode`.

    Examples
    --------
    >>> codes, largest = np.array([127, 255], np.uint8), np.full(1, 0.5, np.float32)
    >>> x = np.empty(2, np.float32)
    >>> decode(codes, largest, x, scratch8(2), signed=True)
    >>> x
    array([0. , 0.5], dtype=float32)
    """
    index = scratch.index[: codes.size]
    np.copyto(index, codes)
    np.take(dynamic_map(signed).values, index, out=target, mode="clip")
    for rows, parts in _rows(target, largest):
        np.multiply(rows, parts[:, None], out=rows)


def _nearest(scaled: Float32, codes: UInt8, scratch: Scratch8, table: Map) -> None:
    """Write the code of the nearest value: looked up by the upper half, then compared once."""
    index, mask = scratch.index[: scaled.size], scratch.mask[: scaled.size]
    np.right_shift(scaled.view(np.uint32), 16, out=index)
    np.take(table.first, index, out=codes, mode="clip")
    np.copyto(index, codes)
    middles = scratch.middles[: scaled.size]
    np.take(table.middles, index, out=middles, mode="clip")
    np.add(codes, np.greater(scaled, middles, out=mask).view(np.uint8), out=codes)


def _rows(array: Float32, parts: Float32) -> Iterator[tuple[Any, Any]]:
    """Yield whole blocks as rows, and then the shorter one; with what there is one of for each."""
    whole = array.size // BLOCK
    if whole:
        yield array[: whole * BLOCK].reshape(whole, BLOCK), parts[:whole]
    if array.size % BLOCK:
        yield array[whole * BLOCK :].reshape(1, -1), parts[whole:]
