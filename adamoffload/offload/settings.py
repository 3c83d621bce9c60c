"""Reads the numbers of an Adam: constants of the rule and the loss scale, checked and rounded."""

from __future__ import annotations

from typing import Any

import numpy as np

from adamoffload.arguments import float32, floating, floating_type, number

__all__ = ["read_constants", "read_loss_scale"]


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


def read_constants(
    owner: str, beta1: Any, beta2: Any, eps: Any
) -> tuple[np.float32, np.float32, np.float32]:
    """Return beta1, beta2 and eps in float32; types are checked first, then ranges.

    Raises
    ------
    TypeError, ValueError
        If one is no float, out of its range, or a beta is 1 or eps is 0 after rounding.

    Examples
    --------
    >>> read_constants("AdamOffload", 0.5, 0.25, 1.0)
    (np.float32(0.5), np.float32(0.25), np.float32(1.0))
    """
    floating_type(owner, "beta1", beta1, "a float in (0, 1)")
    floating_type(owner, "beta2", beta2, "a float in (0, 1)")
    floating_type(owner, "eps", eps, "a float > 0")
    return (
        _read_beta(owner, "beta1", beta1),
        _read_beta(owner, "beta2", beta2),
        _read_eps(owner, eps),
    )


def _read_beta(owner: str, name: str, value: object) -> np.float32:
    beta = np.float32(floating(owner, name, value, above=0, below=1))
    if beta == 1:
        raise ValueError(f"{owner}: {name} must be < 1, also in float32, got {value}")
    return beta


def _read_eps(owner: str, value: object) -> np.float32:
    eps = float32(owner, "eps", floating(owner, "eps", value, above=0))
    if eps == 0:
        raise ValueError(f"{owner}: eps must be > 0, also in float32, got {value}")
    return eps
