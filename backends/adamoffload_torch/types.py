"""The element types that NumPy and PyTorch share, each by the other's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["CODES", "numpy_type", "torch_type"]

CODES = "?bBhiqefdFD"
"""NumPy's codes of the types that PyTorch computes with; it stores more unsigned ones, no more."""

_NUMPY: dict[torch.dtype, np.dtype[Any]] = {
    getattr(torch, np.dtype(code).name): np.dtype(code) for code in CODES
}
_TORCH = {dtype: kind for kind, dtype in _NUMPY.items()}


def _load_bfloat16() -> None:
    """Let both tables know bfloat16, which NumPy has from ml_dtypes."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise TypeError("torch: NumPy has no bfloat16 of its own; pip install ml_dtypes") from None
    _NUMPY[torch.bfloat16] = np.dtype(bfloat16)
    _TORCH[np.dtype(bfloat16)] = torch.bfloat16


def numpy_type(kind: torch.dtype) -> np.dtype[Any]:
    """Return NumPy's dtype for PyTorch's.

    Raises
    ------
    TypeError
        If NumPy has none.

    Examples
    --------
    >>> import torch
    >>> numpy_type(torch.float32)
    dtype('float32')
    """
    found = _NUMPY.get(kind)
    if found is not None:
        return found
    if kind == torch.bfloat16:
        _load_bfloat16()
        return _NUMPY[kind]
    raise TypeError(f"torch: a tensor of {kind} has no element type here; they are {_listed()}")


def torch_type(dtype: np.dtype[Any]) -> torch.dtype:
    """Return PyTorch's dtype for NumPy's.

    Raises
    ------
    TypeError
        If PyTorch has none that it computes with.

    Examples
    --------
    >>> import numpy as np
    >>> torch_type(np.dtype("int64"))
    torch.int64
    """
    found = _TORCH.get(dtype)
    if found is not None:
        return found
    if dtype.name == "bfloat16":
        _load_bfloat16()
        return _TORCH[dtype]
    raise TypeError(f"torch: there are no tensors of {dtype}; element types are {_listed()}")


def _listed() -> str:
    return ", ".join(dtype.name for dtype in _TORCH)
