"""How 16-bit weights without a master are moved: to the nearest, by chance, or with compensation.

Arithmetic is in float32, and what comes out is rounded once. An update of less than half the
distance between two neighbours is lost then; stochastic rounding lets it through with the right
probability (Gupta et al., arXiv:1502.02551, section 3), and Kahan summation keeps it for later
(Kahan, "Further Remarks on Reducing Truncation Errors", 1965).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adamoffload.device.backend import Array
from adamoffload.engine.random_bits import Stream, random_bits

__all__ = ["move_16_bits"]

_SIGN, _NAN = -0x8000, 0x7FC0  # of bfloat16, in an int32: also the bits above its sign


def move_16_bits(
    w: Array,
    delta: Array,
    keep: np.float32,
    scratch: Sequence[Array],
    *,
    missing: Array | None = None,
    bits: tuple[Stream, int, Sequence[Array]] | None = None,
) -> None:
    """Add an update to bfloat16 weights, in place, on any device.

    Parameters
    ----------
    w : array, shape (n,), bfloat16
        The weights.
    delta : array, shape (n,), float32
        The update; overwritten.
    keep : float32
        What the weights are multiplied by first.
    scratch : sequence of array, shape (n,), float32
        One, or two with `missing`; overwritten.
    missing : array, shape (n,), bfloat16, optional
        What the weights lack, which compensated summation adds the next time.
    bits : tuple, optional
        For stochastic rounding: whose random bits, the flat index of the first element, and three
        arrays, int32: 0, 1, 2, ... and two to compute in.
    """
    old = scratch[0]
    np.copyto(old, w)
    if missing is not None:
        total = scratch[1]
        if keep != 1:  # decay is a part of the change
            np.multiply(old, keep, out=total)
            np.subtract(total, old, out=total)
            np.add(delta, total, out=delta)
        np.copyto(total, missing)
        np.add(total, delta, out=delta)
        np.add(old, delta, out=total)
        np.copyto(w, total, casting="same_kind")
        np.copyto(total, w)
        np.subtract(old, total, out=total)
        np.add(delta, total, out=total)
        np.copyto(missing, total, casting="same_kind")
        return
    if keep != 1:
        np.multiply(old, keep, out=old)
    np.add(old, delta, out=old)
    if bits is None:
        np.copyto(w, old, casting="same_kind")
    else:
        _stochastic(old, w, *bits)


def _stochastic(
    source: Array, target: Array, stream: Stream, start: int, arrays: Sequence[Array]
) -> None:
    """Round as `adamoffload.engine.casts.stochastic` does, without looking at values.

    In signed integers, since PyTorch computes with no others.
    """
    places, rounded, spare = arrays
    random_bits(stream, start, places, rounded, spare)
    np.equal(source, source, out=spare)
    np.negative(spare, out=spare)  # all bits; none for a NaN,
    np.bitwise_and(rounded, spare, out=rounded)  # to which nothing is added,
    np.add(source.view(np.int32), rounded, out=rounded)
    np.right_shift(rounded, 16, out=rounded)
    np.bitwise_or(spare, _SIGN, out=spare)
    np.bitwise_and(rounded, spare, out=rounded)  # which keeps its sign,
    np.invert(spare, out=spare)
    np.bitwise_and(spare, _NAN, out=spare)
    np.bitwise_or(rounded, spare, out=rounded)  # and becomes the canonical one
    np.copyto(target.view(np.int16), rounded, casting="unsafe")
