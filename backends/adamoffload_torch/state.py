"""A parameter's state as tensors and numbers, as ``torch.save`` takes them, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from adamoffload_torch.layout import Layout
from adamoffload_torch.link import ndarray_of, tensor_of
from adamoffload_torch.types import numpy_type

__all__ = ["packed", "unpacked"]


def packed(
    arrays: Mapping[str, np.ndarray[Any, Any]], layout: Layout, steps: int
) -> dict[str, Any]:
    """Return host arrays by slot as tensors of the parameter's shape, and the number of updates."""
    tensors = {kind: layout.unpacked(tensor_of(torch, x)) for kind, x in arrays.items()}
    return {"step": steps, **tensors}


def unpacked(
    state: Mapping[str, Any], kinds: Iterable[str], layout: Layout, name: str
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the host arrays of some slots; a master may be missing.

    Raises
    ------
    ValueError
        If a slot or the number of updates is missing.
    """
    missing = [kind for kind in ("step", *kinds) if kind not in state and kind != "master"]
    if missing:
        raise ValueError(
            f"load_state_dict: the state of {name!r} lacks {', '.join(map(repr, missing))}; it is "
            f"of another rule, or of another optimizer"
        )
    here = {kind: layout.packed(state[kind].detach().cpu()) for kind in kinds if kind in state}
    return {
        kind: np.ascontiguousarray(ndarray_of(torch, tensor, numpy_type(tensor.dtype)))
        for kind, tensor in here.items()
    }
