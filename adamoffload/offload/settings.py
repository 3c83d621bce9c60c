"""Reads the numbers of an Adam: the loss scale, checked and rounded."""

from __future__ import annotations

import numpy as np

from adamoffload.arguments import float32, number

__all__ = ["read_loss_scale"]


def read_loss_scale(owner: str, value: object) -> tuple[float, np.float32]:
    """Return the loss scale and what gradients are multiplied by to undo it.

    Raises
    ------
    TypeError, ValueError
        If it is no number > 0, or its inverse is 0 or infinite in float32.

    Examples
    --------
    >>> read_loss_scale("AdamOffload", 1024)
    (1024.0, np.float32(0.0009765625))
    """
    scale = number(owner, "loss_scale", value, above=0)
    unscale = float32(owner, "1 / loss_scale", 1 / scale if scale > 1e-300 else np.inf)
    if unscale == 0:
        raise ValueError(f"{owner}: 1 / loss_scale must be > 0 in float32; loss_scale is {scale}")
    return scale, unscale
