"""What is composed returns what NumPy's own function returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adamoffload.autodiff.composed import COMPOSED, MASKED

X = np.random.default_rng(0).standard_normal((3, 4))
Y = np.random.default_rng(1).standard_normal((4, 3))
CUBE = np.random.default_rng(2).standard_normal((2, 4, 3))
MASK = np.indices((3, 4)).sum(0) % 3 != 1

CALLS: list[Callable[[Any], Any]] = [
    lambda f: f(np.stack)([X, X], axis=-1),
    lambda f: f(np.hstack)([X, Y.T]),
    lambda f: f(np.hstack)((X[0], Y[0], 1.0)),
    lambda f: f(np.vstack)([X[0], X]),
    lambda f: np.concatenate(f(np.split)(X, [1, 3], axis=1), axis=1),
    lambda f: f(np.split)(X, indices_or_sections=3)[2],
    lambda f: f(np.take)(X, np.array([[5, 0]])),
    lambda f: f(np.take)(X, indices=np.array([2, 0]), axis=-1),
    lambda f: f(np.sort)(X, axis=0),
    lambda f: f(np.sort)(X, None),
    lambda f: f(np.repeat)(X, 3),
    lambda f: f(np.repeat)(X, [2, 0, 1], axis=0),
    lambda f: f(np.repeat)(X, 0, axis=1),
    lambda f: f(np.tile)(X, (2, 1, 3)),
    lambda f: f(np.tile)(CUBE, 2),
    lambda f: f(np.dot)(X, Y),
    lambda f: f(np.dot)(X, 3.0),
    lambda f: f(np.dot)(X, CUBE),
    lambda f: f(np.outer)(X, Y),
    lambda f: f(np.tensordot)(X, X),
    lambda f: f(np.tensordot)(X, Y, axes=0),
    lambda f: f(np.tensordot)(X, CUBE, axes=(1, 1)),
    lambda f: f(np.tensordot)(CUBE, CUBE, axes=([0, -1], [0, 2])),
    lambda f: f(np.tensordot)(X[:, :0], Y[:0], axes=1),
    lambda f: f(np.matrix_transpose)(CUBE),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_it_returns_what_numpy_returns(call: Callable[[Any], Any]) -> None:
    found, expected = call(COMPOSED.__getitem__), call(lambda function: function)
    assert found.shape == expected.shape
    # A product may sum in another order: some units in the last place, of terms of the order of 1.
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-14)


def test_every_composed_function_is_called_here() -> None:
    called: list[Any] = []

    def note(function: Any) -> Any:
        called.append(function)
        return function

    for call in CALLS:
        call(note)
    assert {*called} == COMPOSED.keys()


def test_axes_that_do_not_fit_are_refused_as_numpy_refuses_them() -> None:
    for tensordot in (np.tensordot, COMPOSED[np.tensordot]):
        with pytest.raises(ValueError):  # 12 numbers each, in another arrangement
            tensordot(X, Y)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, (0, 1)])
@pytest.mark.parametrize("function", MASKED)
def test_a_reduction_of_a_part_returns_what_numpy_returns(
    function: Any, axis: Any, keepdims: bool
) -> None:
    keywords: Any = {"axis": axis, "keepdims": keepdims, "where": MASK}
    if function in (np.max, np.amax, np.min, np.amin):
        keywords["initial"] = 0.1
    np.testing.assert_allclose(
        MASKED[function](X, **keywords), function(X, **keywords), rtol=1e-14
    )  # two orders of summing
