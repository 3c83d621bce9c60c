"""As which type a thing rests and travels, by name, and how many bytes that takes.

Besides NumPy's ``float32`` and ``float16`` there is ``bfloat16``, from `ml_dtypes`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np

from adamoffload.device.half import bfloat16

__all__ = ["WEIGHTS", "Format", "dtype_of", "each"]

Format = Literal["float32", "bfloat16", "float16"]

WEIGHTS: tuple[Format, ...] = ("float32", "bfloat16", "float16")
"""What the parameters can be."""

_ITEMSIZE: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@cache
def dtype_of(form: Format) -> np.dtype[Any]:
    """Return the dtype of an array in some format.

    Examples
    --------
    >>> dtype_of("float32"), dtype_of("bfloat16").itemsize
    (dtype('float32'), 2)
    """
    return bfloat16() if form == "bfloat16" else np.dtype(form)


def each(form: Format) -> int:
    """Return the bytes of an element.

    Examples
    --------
    >>> each("bfloat16")
    2
    """
    return _ITEMSIZE[form]
