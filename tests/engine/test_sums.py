"""Sums by row, beside NumPy's in float64 over each row by itself."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from adamoffload.engine.kernel import Kernel, kernel_type
from adamoffload.engine.program import trace
from adamoffload.engine.sums import NO_LIMIT

SIZES = {
    "one row": [120_000],
    "a row smaller than a segment": [7],
    "rows of whole segments": [512, 1024, 512],
    "large rows": [70_001, 10_000, 9_000],
    "several small rows": [3, 1, 100, 4000, 5, 5],
    "many": [1] * 700 + [5000] + [31] * 100,
}


@pytest.fixture(params=["numpy", "numba"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """Return the kernel of an engine, of a rule that exchanges its two arrays."""
    if request.param == "numba":
        pytest.importorskip("numba")
    return kernel_type("test", request.param)(trace(lambda x, y: (y, x), ["x", "y"], []))


@pytest.fixture(params=SIZES)
def cuts(request: pytest.FixtureRequest) -> list[int]:
    """Return where rows begin and end."""
    return [0, *np.cumsum(SIZES[request.param]).tolist()]


def wanted(row: Any, limit: Any) -> list[Any]:
    """Return all sums of a row in float64."""
    wide, finite = row.astype(np.float64), [*np.isfinite(row), False].index(False)
    if limit == NO_LIMIT:
        return [np.sum(wide**2), 0, 0, 0, finite]
    return [np.sum(wide**2), wide.sum(), np.sum(row < limit), np.sum(row == np.inf), finite]


def check(kernel: Kernel, cuts: list[int], x: Any, smallest: Any) -> None:
    """Compare all sums with those taken row by row, before the update and after it."""
    y, rows = 1 - x, list(pairwise(cuts))
    limits = np.full((len(rows), 3), NO_LIMIT, np.float32)
    limits[:, 1] = smallest
    arrays, values = [x.copy(), y.copy()], kernel.program.bind({})
    with np.errstate(all="ignore"):
        sums = kernel.watch(arrays, values, kernel.scratch(), np.array(cuts[1:]), limits)
        for row, (a, b), (_, limit, _) in zip(sums, rows, limits, strict=True):
            # the first before, the second after, which was the first, and the first after
            for found, row_of, its in zip(row, (x, x, y), (NO_LIMIT, limit, NO_LIMIT), strict=True):
                np.testing.assert_allclose(found, wanted(row_of[a:b], its), rtol=5e-6)
    np.testing.assert_array_equal(arrays, [y, x])


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-20, 1e30, 0.0])
def test_rows_are_summed_up_each_by_itself(cuts: list[int], scale: float, kernel: Kernel) -> None:
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_normal(cuts[-1], np.float32)) * np.float32(scale)
    smallest = rng.uniform(0.1, 2, len(cuts) - 1).astype(np.float32)  # another for each row
    check(kernel, cuts, x, smallest)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e-25, 3e38])
def test_one_odd_element_spoils_its_own_row_alone(
    cuts: list[int], value: float, kernel: Kernel
) -> None:
    rng = np.random.default_rng(0)
    for at in {0, cuts[-1] // 2, cuts[-1] - 1}:
        x = rng.uniform(0.1, 1, cuts[-1]).astype(np.float32)
        x[at] = value
        check(kernel, cuts, x, np.full(len(cuts) - 1, 1e-16, np.float32))


def test_sums_beyond_float32_are_right(kernel: Kernel) -> None:
    x = np.full(10_000, 3e38, np.float32)
    check(kernel, [0, 10, 9000, 10_000], x, np.full(3, 1, np.float32))


def test_equal_numbers_do_not_add_up_to_a_large_error(kernel: Kernel) -> None:
    x = np.full(1 << 17, np.float32(0.1))
    check(kernel, [0, 100, x.size], x, np.full(2, 0.2, np.float32))
