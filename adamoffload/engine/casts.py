"""Casts between float32 and 16 bits, on one block of memory: to nearest, stochastic, compensated.

In place, in NumPy, without a temporary beyond `Scratch`; `adamoffload.engine.fused_casts` does the
same in compiled loops, with the same bits. An element's result depends on nothing but itself, and,
for the stochastic cast, on where it stands.

- bfloat16 is the upper half of a float32. Rounding to nearest, ties to even, adds half a unit of
  the last place less one bit, plus the last bit kept, and cuts off the lower half [1]_.
- A NaN stays one, with its sign; from float32 it becomes the canonical one. Infinities, zeros with
  their signs and denormals are exact. What is beyond the largest number becomes infinite.
- Stochastic rounding adds 16 random bits and cuts off the lower half [2]_: a number goes up in
  magnitude with the probability of its distance from the one below, so that the mean is exact.

References
----------
.. [1] Of many: the function ``round_to_nearest_even`` of PyTorch, c10/util/BFloat16.h.
.. [2] P. Zamirai et al., "Revisiting BFloat16 Training", arXiv:2010.06192, section 3: stochastic
   rounding and Kahan summation of the weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from adamoffload.device.half import narrow_float16, widen_float16
from adamoffload.engine.random_bits import Stream, random_bits

__all__ = ["Scratch", "kahan", "narrow", "scratch", "stochastic", "widen"]

Float32 = np.ndarray[Any, np.dtype[np.float32]]
Half = np.ndarray[Any, np.dtype[Any]]

_SIGN, _NAN = np.uint32(0x80000000), np.uint32(0x7FC00000)


class Scratch(NamedTuple):
    """What the casts of a block compute in; see `scratch`."""

    places: Any
    bits: Any
    spare: Any
    mask: Any
    total: Any


def scratch(size: int) -> Scratch:
    """Allocate what the casts of one thread need, for blocks of up to `size` elements.

    Examples
    --------
    >>> sum(array.nbytes for array in scratch(1000))
    17000
    """
    places, (bits, spare) = np.arange(size, dtype=np.uint32), np.empty((2, size), np.uint32)
    return Scratch(places, bits, spare, np.empty(size, bool), np.empty(size, np.float32))


def widen(source: Half, target: Float32, scratch: Scratch) -> None:
    """Write 16-bit numbers into float32, which has all their values.

    Parameters
    ----------
    source : ndarray, shape (n,), float16 or bfloat16
        What is read.
    target : ndarray, shape (n,), float32
        What is written.
    scratch : Scratch
        The calling thread's.

    Examples
    --------
    >>> y = np.empty(2, np.float32)
    >>> widen(np.array([1.5, -2], np.float16), y, scratch(2))
    >>> y
    array([ 1.5, -2. ], dtype=float32)
    """
    bits = target.view(np.uint32)
    if source.dtype != np.float16:
        np.left_shift(source.view(np.uint16), np.uint32(16), out=bits)
        return
    n = target.size
    widen_float16(source, target, scratch.spare[:n], scratch.mask[:n])


def narrow(source: Float32, target: Half, scratch: Scratch) -> None:
    """Round float32 to 16 bits: to nearest, ties to even.

    Parameters
    ----------
    source : ndarray, shape (n,), float32
        What is read.
    target : ndarray, shape (n,), float16 or bfloat16
        What is written.
    scratch : Scratch
        The calling thread's.

    Examples
    --------
    >>> y = np.empty(2, np.float16)
    >>> narrow(np.array([1 + 2**-11, 1e-3], np.float32), y, scratch(2))
    >>> y
    array([1.   , 0.001], dtype=float16)
    """
    if target.dtype == np.float16:
        n = source.size
        narrow_float16(source, target, scratch.bits[:n], scratch.spare[:n], scratch.mask[:n])
        return
    bits, whole = scratch.bits[: source.size], source.view(np.uint32)
    np.right_shift(whole, 16, out=bits)
    np.bitwise_and(bits, 1, out=bits)
    np.add(bits, np.uint32(0x7FFF), out=bits)
    _cut(source, bits, target, scratch)


def stochastic(source: Float32, target: Half, scratch: Scratch, stream: Stream, start: int) -> None:
    """Round float32 to bfloat16: up or down, with the probability that makes the mean exact.

    Parameters
    ----------
    source, target, scratch
        As in `narrow`; `target` is bfloat16.
    stream : Stream
        Whose random bits.
    start : int
        Flat index in the parameter of the block's first element.

    Examples
    --------
    1 + 2**-9 lies a quarter of the way from 1 to the next number:

    >>> from adamoffload.device.half import bfloat16
    >>> x, y = np.full(1000, 1 + 2**-9, np.float32), np.empty(1000, bfloat16())
    >>> stochastic(x, y, scratch(1000), Stream(seed=0, step=1, parameter=0), start=0)
    >>> values, counts = np.unique(y.astype(np.float32), return_counts=True)
    >>> values.tolist(), counts.tolist()
    ([1.0, 1.0078125], [764, 236])
    """
    bits, spare = scratch.bits[: source.size], scratch.spare[: source.size]
    random_bits(stream, start, scratch.places[: source.size], bits, spare)
    _cut(source, bits, target, scratch)


def _cut(source: Float32, added: Any, target: Half, scratch: Scratch) -> None:
    """Write the upper half of `source` + `added`, in the integers of their bits."""
    whole = source.view(np.uint32)
    np.add(whole, added, out=added)
    mask = np.isnan(source, out=scratch.mask[: source.size])
    if mask.any():
        np.bitwise_and(whole, _SIGN, out=added, where=mask)
        np.bitwise_or(added, _NAN, out=added, where=mask)
    np.right_shift(added, 16, out=target.view(np.uint16), casting="unsafe")


def kahan(weights: Half, missing: Half, delta: Float32, scratch: Scratch) -> None:
    """Add `delta` to bfloat16 weights, and keep what rounding swallowed for the next time.

    In float32: ``t = missing + delta; w' = round(w + t); missing' = round(t + (w - w'))``.

    Parameters
    ----------
    weights, missing : ndarray, shape (n,), bfloat16
        The weights and what they lack; both are written.
    delta : ndarray, shape (n,), float32
        The whole change, decoupled weight decay included; it is overwritten.
    scratch : Scratch
        The calling thread's.

    Examples
    --------
    >>> from adamoffload.device.half import bfloat16
    >>> w, c = np.ones(1, bfloat16()), np.zeros(1, bfloat16())
    >>> for _ in range(8):
    ...     kahan(w, c, np.full(1, 2**-10, np.float32), scratch(1))
    >>> w.item(), (w + c).item()
    (1.0078125, 1.0078125)
    """
    old, total = scratch.spare[: delta.size].view(np.float32), scratch.total[: delta.size]
    widen(missing, total, scratch)
    np.add(total, delta, out=delta)
    widen(weights, old, scratch)
    narrow(np.add(old, delta, out=total), weights, scratch)
    widen(weights, total, scratch)
    np.subtract(old, total, out=total)
    narrow(np.add(delta, total, out=total), missing, scratch)
