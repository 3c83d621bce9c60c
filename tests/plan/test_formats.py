"""Formats by name, and what an element takes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from adamoffload.plan.formats import WEIGHTS, dtype_of, each


@pytest.mark.parametrize(
    ("form", "dtype"),
    [("float32", np.float32), ("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)],
)
def test_a_format_is_a_dtype_by_name(form: Any, dtype: Any) -> None:
    assert form in WEIGHTS
    assert dtype_of(form) == np.dtype(dtype)
    assert dtype_of(form).name == form
    assert each(form) == np.dtype(dtype).itemsize
