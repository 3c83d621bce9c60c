"""A kernel on arrays in other formats: widened, scaled, decayed, run, narrowed; block by block."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from adamoffload.engine.converted import Converted
from adamoffload.engine.kernel import NumpyKernel
from adamoffload.engine.program import trace
from adamoffload.engine.team import Workers

HALF = np.dtype(ml_dtypes.bfloat16)


def rule(g: Any, m: Any, master: Any, *, a: Any) -> Any:
    m = m + a * g
    return master - m, m, master - m


@pytest.mark.parametrize("l2", [0, np.float32(0.25)])
@pytest.mark.parametrize("scale", [None, np.float32(0.5)])
@pytest.mark.parametrize("master", [np.dtype(np.float32), HALF])
@pytest.mark.parametrize("in_place", [True, False])
def test_every_block_is_widened_computed_and_narrowed_once(
    l2: Any, scale: Any, master: Any, in_place: bool
) -> None:
    rng = np.random.default_rng(0)
    size = 2 * Converted.block_size + 37
    g, m, w = (rng.standard_normal(size, np.float32) for _ in range(3))
    given = [g.astype(HALF), m.astype(HALF), w.astype(master)]
    result = given[0] if in_place else np.empty(size, np.float32)
    g32, m32, w32 = (x.astype(np.float32) for x in given)
    if scale is not None:
        g32 = g32 * scale
    if l2:
        g32 = g32 + w32 * l2
    m32 = m32 + np.float32(0.75) * g32
    kernel = Converted(NumpyKernel(trace(rule, ["g", "m", "master"], ["a"])))
    bound = kernel.program.bind({"a": np.float32(0.75)})
    Workers(2).update(kernel, [*given, result], [(0, size, [bound, scale, l2])])
    np.testing.assert_array_equal(given[1], m32.astype(HALF))
    np.testing.assert_array_equal(given[2], (w32 - m32).astype(master))
    np.testing.assert_array_equal(result, (w32 - m32).astype(result.dtype))
