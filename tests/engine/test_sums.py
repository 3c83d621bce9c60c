"""Sums by row, beside NumPy's in float64 over each row by itself."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from adamoffload.engine.kernel import NumpyKernel
from adamoffload.engine.program import trace
from adamoffload.engine.sums import Rows

SMALLEST = np.float32(1e-16)
SIZES = {
    "one row": [200_000],
    "a row smaller than a segment": [7],
    "rows of whole segments": [512, 1024, 512],
    "rows that end inside segments": [513, 2000, 511, 5000],
    "several rows in a segment": [3, 1, 100, 4000, 5, 5],
    "many": [1] * 700 + [5000] + [31] * 100,
}


def kernel(engine: str) -> Any:
    """Return the kernel of an engine; its update is half of the gradient."""
    program = trace(lambda g, m, v, *, a: (g * a, m, v), ["g", "m", "v"], ["a"])
    if engine == "numba":
        pytest.importorskip("numba")
        from adamoffload.engine.fused import NumbaKernel

        return NumbaKernel(program)
    return NumpyKernel(program)


def check(engine: str, cuts: list[int], g: Any, m: Any, v: Any) -> None:
    """Compare all sums with those taken row by row."""
    rows, of, delta = Rows(cuts), kernel(engine), g * np.float32(0.5)
    wanted = [
        [np.sum(x[a:b].astype(np.float64) ** power) for a, b in pairwise(cuts)]
        for x, power in ((g, 2), (m, 2), (v, 2), (delta, 2), (v, 1))
    ]
    wanted += [[np.sum(v[a:b] < SMALLEST) for a, b in pairwise(cuts)]]
    wanted += [[np.sum(v[a:b] == np.inf) for a, b in pairwise(cuts)]]
    bad = [np.flatnonzero(~np.isfinite(g[a:b])) + a for a, b in pairwise(cuts)]
    arrays = g.copy(), m.copy(), v.copy()
    values = of.program.bind({"a": np.float32(0.5)})
    sums = of.summed(arrays, values, of.scratch(), SMALLEST, rows)
    np.testing.assert_allclose([*sums.by_row()], wanted, rtol=5e-6)
    assert sums.finite == all(np.isfinite(x).all() for x in (g, m, v))
    assert sums.nonfinite == [places[0] for places in bad if places.size]
    for found, expected in zip(arrays, (delta, m, v), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.fixture(params=SIZES)
def cuts(request: pytest.FixtureRequest) -> list[int]:
    """Return where rows begin and end."""
    return [0, *np.cumsum(SIZES[request.param]).tolist()]


@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 0.0])
def test_rows_are_summed_up_each_by_itself(cuts: list[int], scale: float, engine: str) -> None:
    rng = np.random.default_rng(0)
    g, m, v = rng.standard_normal((3, cuts[-1]), np.float32) * np.float32(scale)
    check(engine, cuts, g, m, np.abs(v))


@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e-25, 3e38])
def test_one_odd_element_spoils_its_own_row_alone(
    cuts: list[int], value: float, engine: str
) -> None:
    rng = np.random.default_rng(0)
    for place in {0, cuts[-1] // 2, cuts[-1] - 1}:
        arrays = rng.standard_normal((3, cuts[-1]), np.float32)
        arrays[2] **= 2
        arrays[:, place] = value
        with np.errstate(all="ignore"):
            check(engine, cuts, *arrays)


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_equal_numbers_do_not_add_up_to_a_large_error(engine: str) -> None:
    x = np.full(1 << 19, np.float32(0.1))
    check(engine, [0, 100, x.size], x, x, x)


def test_what_is_right_is_not_summed_up_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    taken_again = []

    def argwhere(condition: Any) -> Any:
        taken_again.append(np.count_nonzero(condition))
        return np.transpose(np.nonzero(condition))

    monkeypatch.setattr("adamoffload.engine.sums.np.argwhere", argwhere)
    x = np.ones(10_000, np.float32)
    Rows([0, x.size]).totals([x])
    assert taken_again == []
    x[5000:] = 0  # these may have been squares that underflowed
    Rows([0, 7000, x.size]).totals([x])
    assert taken_again == [1]
