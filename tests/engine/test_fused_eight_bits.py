"""The compiled codes refuse nothing and allocate little; test_eight_bits.py tests what they are."""

from __future__ import annotations

import numpy as np
import pytest

fused_eight_bits = pytest.importorskip(
    "adamoffload.engine.fused_eight_bits", reason="needs the extra fast"
)


def test_no_elements_are_no_blocks() -> None:
    nothing = np.empty(0, np.float32)
    fused_eight_bits.encode(nothing, np.empty(0, np.uint8), nothing, None, signed=True)
