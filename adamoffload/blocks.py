"""Runs the update rule over flat arrays in blocks that fit the processor's cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["update"]

Flat = np.ndarray[Any, np.dtype[np.float32]]

_BLOCK = 16_384
"""Elements of a block: its temporaries stay in a second-level cache of 1 MiB and more."""


def update(
    rule: Callable[[Flat, Flat, Flat], tuple[Flat, Flat, Flat]], g: Flat, m: Flat, v: Flat
) -> None:
    """Apply an elementwise rule in place.

    Parameters
    ----------
    rule : callable
        Takes g, m and v of a block and returns delta and the new m and v.
    g, m, v : ndarray, shape (n,), float32
        Gradient and moments. The gradient is overwritten by delta, the moments by the new ones.
    """
    for start in range(0, g.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        g[block], m[block], v[block] = rule(g[block], m[block], v[block])
