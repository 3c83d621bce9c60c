"""Every derivative against central differences, HIPS autograd, and the same code on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import adamoffload as ao
from adamoffload.autodiff.composed import COMPOSED, MASKED
from adamoffload.autodiff.derivatives import CONSTANT, DERIVATIVES
from adamoffload.autodiff.tape import value_and_grad
from adamoffload.device.parameter import Parameter

import fake_cupy

Case = Callable[..., Any]

# The simulator's arrays are the numpy backend's; CuPy's go by other rules.
DEVICES = [ao.get_backend("numpy"), ao.get_backend("sim"), fake_cupy.device()]

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    # In (0.5, 2.5): inside every domain, clear of poles, and never twice the same.
    return np.asarray(np.random.default_rng(seed).uniform(0.5, 2.5, shape))


def gradients(
    f: Case, arrays: list[Any], weights: Any, put: Callable[[Any], Any]
) -> tuple[Any, ...]:
    parameters = [Parameter(put(array.copy()), f"p{i}") for i, array in enumerate(arrays)]
    constant = put(weights)
    step = value_and_grad(lambda: np.sum(f(np, *parameters) * constant), parameters)
    return step()[1]


def differences(f: Case, arrays: list[Any], weights: Any) -> list[Any]:
    h = 1e-6
    results = []
    for i, array in enumerate(arrays):
        result = np.empty_like(array)
        for place in np.ndindex(array.shape):
            ends = []
            for shift in (h, -h):
                moved = array.copy()
                moved[place] += shift
                ends.append(np.sum(f(np, *arrays[:i], moved, *arrays[i + 1 :]) * weights))
            result[place] = (ends[0] - ends[1]) / (2 * h)
        results.append(result)
    return results


def check(f: Case, *arrays: Any, hips: Case | None = None, device: Case | None = None) -> None:
    weights = numbers(np.shape(f(np, *arrays)), 7)
    ours = gradients(f, list(arrays), weights, lambda x: x)
    for mine, array in zip(ours, arrays, strict=True):
        assert isinstance(mine, np.ndarray)
        assert mine.shape == array.shape
        assert mine.dtype == array.dtype
        assert mine.flags.c_contiguous
        assert mine.flags.writeable

    # The truncation error of the difference is of the order h**2 = 1e-12, its rounding error
    # eps / h = 2e-10, both times the size of the function and its derivatives (up to 1e3).
    for mine, slope in zip(ours, differences(f, list(arrays), weights), strict=True):
        np.testing.assert_allclose(mine, slope, rtol=1e-6, atol=1e-6)

    oracle = hips or f
    slopes = autograd.grad(
        lambda xs: anp.sum(oracle(anp, *xs) * weights),
    )(tuple(arrays))
    for mine, slope in zip(ours, slopes, strict=True):
        # Two orders of the same few float64 operations: some units in the last place, of terms
        # that may cancel.
        np.testing.assert_allclose(mine, slope, rtol=1e-11, atol=1e-11)

    for place in DEVICES:
        there = gradients(device or f, list(arrays), weights, place.asarray)
        for mine, other in zip(ours, there, strict=True):
            assert np.array_equal(mine, place.asnumpy(other)), place


UNARY = (
    "negative reciprocal square sqrt absolute exp exp2 expm1 log log2 log10 log1p sin cos tan "
    "arctan sinh cosh tanh"
).split()


@pytest.mark.parametrize("name", UNARY)
@given(shape=shapes, seed=seeds)
@quick
def test_unary_ufuncs(name: str, shape: tuple[int, ...], seed: int) -> None:
    x = numbers(shape, seed)
    # tan has a pole at pi / 2; some of the others are tried with negative numbers too.
    x = np.asarray(x / 2 - 0.25 if name == "tan" else x)
    x = np.negative(x, out=x) if name in ("absolute", "sin", "tanh", "square") and seed % 2 else x
    check(lambda xp, x: getattr(xp, name)(x), x)


def test_positive_is_the_identity() -> None:
    x = numbers((3,), 0)
    check(lambda xp, x: +x, x, hips=lambda xp, x: x)


BINARY = "add subtract multiply divide power maximum minimum logaddexp".split()


@pytest.mark.parametrize("name", BINARY)
@given(together=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3), seed=seeds)
@quick
def test_binary_ufuncs_undo_broadcasting(
    name: str, together: hnp.BroadcastableShapes, seed: int
) -> None:
    a, b = together.input_shapes
    check(lambda xp, x, y: getattr(xp, name)(x, y), numbers(a, seed), numbers(b, seed + 1))


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("scalar", [2, 1.5, 3, np.float64(1.25)])
def test_binary_ufuncs_with_a_constant_on_either_side(name: str, scalar: Any) -> None:
    x = numbers((2, 3), 3)
    check(lambda xp, x: getattr(xp, name)(x, scalar), x)
    check(lambda xp, x: getattr(xp, name)(scalar, x), x)


def test_operators_with_scalars() -> None:
    x = numbers((2, 3), 3)
    check(lambda xp, x: (1 - x) / 3 + 2 / (x * 2 - 9) - (-x) ** 2 + x**-1.5 + 2.0**x + abs(x), x)


@pytest.mark.parametrize("exponent", [0, 1, 2, 2.0, 3, -1, 0.5])
def test_power_of_negative_and_zero_bases(exponent: float) -> None:
    x = np.array([-1.5, 2.0, -0.5, 0.0])[: 4 if exponent >= 1 or exponent == 0 else 3]
    x = abs(x) if exponent == 0.5 else x
    check(lambda xp, x: x**exponent, x)


def test_zero_to_the_zero_has_slope_zero() -> None:
    zero = np.zeros(2)
    x, y = gradients(lambda xp, x, y: x**y, [zero, zero], np.ones(2), lambda a: a)
    assert x.tolist() == y.tolist() == [0.0, 0.0]


@given(
    shapes=hnp.mutually_broadcastable_shapes(
        signature="(m?,k),(k,n?)->(m?,n?)", max_dims=2, max_side=3
    ),
    seed=seeds,
)
@settings(quick, max_examples=60)
def test_matmul_of_one_two_and_more_dimensions(shapes: hnp.BroadcastableShapes, seed: int) -> None:
    a, b = shapes.input_shapes
    check(lambda xp, x, y: xp.matmul(x, y), numbers(a, seed), numbers(b, seed + 1))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 2, 3), (3, 2)), ((), (2,)),
        ((2, 3), (2, 3, 2)), ((3,), (2, 3, 2)),
    ],
)  # fmt: skip
def test_dot(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check(lambda xp, x, y: xp.dot(x, y), numbers(a, 1), numbers(b, 2))


@pytest.mark.parametrize(
    ("subscripts", "a", "b"),
    [
        ("ij,jk->ik", (2, 3), (3, 2)),
        ("bhid, bhjd -> bhij", (2, 1, 3, 2), (2, 1, 2, 2)),
        ("i,j->ji", (2,), (3,)),
        ("ij,ij->i", (2, 3), (2, 3)),
    ],
)
def test_einsum(subscripts: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    plain = subscripts.replace(" ", "")
    check(
        lambda xp, x, y: xp.einsum(subscripts, x, y),
        numbers(a, 1),
        numbers(b, 2),
        hips=lambda xp, x, y: xp.einsum(plain, x, y),
    )


EINSUMS: list[tuple[str, tuple[tuple[int, ...], ...]]] = [
    ("ij->ji", ((2, 3),)),
    ("ij->i", ((2, 3),)),
    ("ij->", ((2, 3),)),
    ("...ij->...j", ((2, 2, 3),)),
    ("...j,jk->...k", ((2, 4, 3), (3, 2))),
    ("...ij,...jk->...ik", ((2, 2, 3), (3, 2))),
    ("i...,...->i...", ((2, 4, 3), (1, 3))),
    ("ij,jk", ((2, 3), (3, 2))),
    ("ij,k->k", ((2, 3), (2,))),
    ("ij,kj->k", ((2, 1), (4, 3))),
    ("ij,ij,ij->i", ((2, 3), (2, 3), (2, 3))),
    ("bi,io,o->b", ((4, 2), (2, 3), (3,))),
    ("...i,ij,...j->...", ((2, 3), (3, 2), (2, 2))),
]


@pytest.mark.parametrize(("subscripts", "shapes"), EINSUMS)
def test_einsum_of_any_number_of_operands(
    subscripts: str, shapes: tuple[tuple[int, ...], ...]
) -> None:
    def in_explicit_steps(xp: Any, *xs: Any) -> Any:
        # HIPS autograd writes no letter that only one operand has: this sums it first.
        if subscripts == "ij,k->k":
            return xp.sum(xs[0]) * xs[1]
        if subscripts == "ij,kj->k":
            return xp.sum(xs[0]) * xp.sum(xs[1], axis=1)
        if subscripts in ("ij->i", "ij->"):
            return xp.sum(xs[0], axis=1 if subscripts == "ij->i" else None)
        if subscripts == "...ij->...j":
            return xp.sum(xs[0], axis=1)
        return xp.einsum(subscripts if "->" in subscripts else "ij,jk->ik", *xs)

    arrays = [numbers(shape, i) for i, shape in enumerate(shapes)]
    check(lambda xp, *xs: xp.einsum(subscripts, *xs), *arrays, hips=in_explicit_steps)


@pytest.mark.parametrize(("k", "shape"), [(0, (3, 3)), (1, (2, 4)), (-1, (2, 3, 3))])
def test_triangles(k: int, shape: tuple[int, ...]) -> None:
    check(lambda xp, x: xp.tril(x, k) * xp.triu(x * x, k - 1), numbers(shape, 1))


@pytest.mark.parametrize(("shape", "axis"), [((4,), 0), ((2, 3), 1), ((2, 3), -2), ((2, 3), None)])
def test_cumsum(shape: tuple[int, ...], axis: int | None) -> None:
    check(lambda xp, x: xp.cumsum(x, axis=axis), numbers(shape, 1))
    check(lambda xp, x: (x * x).cumsum(axis), numbers(shape, 1))


@pytest.mark.parametrize("axis", [-1, 0, None])
def test_sort(axis: int | None) -> None:
    x = numbers((3, 4), 1)
    order = np.argsort(x, axis=axis)
    rows, columns = np.indices(x.shape)
    index: Any = {-1: (rows, order), 0: (order, columns), None: order}[axis]
    check(
        lambda xp, x: xp.sort(x, axis=axis),
        x,
        hips=lambda xp, x: (xp.ravel(x) if axis is None else x)[index],
    )


@pytest.mark.parametrize("width", [1, (1, 2), ((0, 2), (1, 0))])
def test_pad(width: Any) -> None:
    check(lambda xp, x: xp.pad(x, width, "constant", constant_values=3.0), numbers((2, 3), 1))
    check(lambda xp, x: xp.pad(x, width), numbers((2, 3), 1), hips=lambda xp, x: xp.pad(
        x, np.broadcast_to(width, (2, 2)).tolist(), "constant"))  # fmt: skip


@pytest.mark.parametrize(("repeats", "axis"), [(3, None), (2, 0), (2, -1), ([1, 0, 2], 1)])
def test_repeat(repeats: Any, axis: int | None) -> None:
    places = np.repeat(np.arange(6).reshape(2, 3), repeats, axis)
    check(
        lambda xp, x: xp.repeat(x, repeats, axis=axis),
        numbers((2, 3), 1),
        hips=lambda xp, x: xp.ravel(x)[places],
    )
    check(
        lambda xp, x: (x * x).repeat(repeats, axis),
        numbers((2, 3), 1),
        hips=lambda xp, x: xp.ravel(x * x)[places],
    )


@pytest.mark.parametrize("reps", [2, (2, 1), (3, 1, 2), (2,)])
def test_tile(reps: Any) -> None:
    places = np.tile(np.arange(6).reshape(2, 3), reps)
    check(
        lambda xp, x: xp.tile(x, reps),
        numbers((2, 3), 1),
        hips=lambda xp, x: xp.ravel(x)[places],
    )


@pytest.mark.parametrize("axes", [0, 1, 2, ([1], [0]), ([0, 1], [1, 0]), (-1, 0)])
def test_tensordot_and_outer(axes: Any) -> None:
    x, y = numbers((3, 3), 1), numbers((3, 3), 2)
    check(lambda xp, x, y: xp.tensordot(x, y, axes=axes), x, y)
    check(
        lambda xp, x, y: xp.outer(x, y),
        x,
        y,
        hips=lambda xp, x, y: xp.reshape(x, (-1, 1)) * xp.reshape(y, (1, -1)),
    )


@pytest.mark.parametrize(
    ("shape", "ord", "axis"),
    [((4,), None, None), ((4,), 2, None), ((2, 3), None, None), ((2, 3), "fro", None),
     ((2, 3), 2, 1), ((2, 3), None, 0), ((2, 3, 2), "fro", (0, 2)), ((2, 3, 2), None, -1)],
)  # fmt: skip
def test_norm(shape: tuple[int, ...], ord: Any, axis: Any) -> None:  # noqa: A002
    check(
        lambda xp, x: xp.linalg.norm(x, ord, axis, keepdims=axis is not None),
        numbers(shape, 1),
        hips=lambda xp, x: xp.sqrt(xp.sum(x * x, axis=axis, keepdims=axis is not None)),
    )


def test_the_norm_has_slope_zero_at_zero() -> None:
    rows = np.array([[0.0, 0.0], [3.0, 4.0]])
    (g,) = gradients(lambda xp, x: xp.linalg.norm(x, axis=1), [rows], np.ones(2), lambda a: a)
    assert g[0].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(g[1], [0.6, 0.8], rtol=4e-16)  # two roundings


@pytest.mark.parametrize("shapes", [((3,), (2,)), ((2, 2), (2, 3)), ((), (2,)), ((2, 1, 2),) * 2])
def test_hstack(shapes: Any) -> None:
    check(lambda xp, x, y: xp.hstack([x, y, x]), *(numbers(shape, 1) for shape in shapes))


@pytest.mark.parametrize("shapes", [((3,), (2, 3)), ((2, 2), (1, 2)), ((), (2, 1))])
def test_vstack(shapes: Any) -> None:
    check(lambda xp, x, y: xp.vstack((x, y)), *(numbers(shape, 1) for shape in shapes))


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", ["sum", "mean", "var", "std", "max", "amax", "min", "amin"])
def test_reductions_of_a_part(name: str, keepdims: bool, axis: Any) -> None:
    mask = np.indices((3, 4, 3)).sum(0) % 4 != 1  # two at least along each axis
    extra: Any = {"initial": 1.5} if name in ("max", "amax", "min", "amin") else {}
    keywords: Any = {"axis": axis, "keepdims": keepdims, **extra}

    def by_weights(xp: Any, x: Any) -> Any:
        def total(x: Any, keepdims: bool = keepdims) -> Any:
            return xp.sum(x * mask, axis=axis, keepdims=keepdims)

        count, kept = np.sum(mask, axis, keepdims=keepdims), np.sum(mask, axis, keepdims=True)
        if name in ("sum", "mean"):
            return total(x) / (count if name == "mean" else 1)
        if name in ("var", "std"):
            var = total((x - total(x, True) / kept) ** 2) / count
            return var if name == "var" else xp.sqrt(var)
        found = getattr(xp, name.removeprefix("a"))(
            xp.where(mask, x, 1.5), axis=axis, keepdims=keepdims
        )
        return xp.maximum(found, 1.5) if "max" in name else xp.minimum(found, 1.5)

    def on_device(xp: Any, x: Any) -> Any:
        return getattr(xp, name)(x, where=x.backend.asarray(mask), **keywords)

    check(
        lambda xp, x: getattr(xp, name)(x, where=mask, **keywords),
        numbers((3, 4, 3), 1),
        hips=by_weights,
        device=on_device,
    )


def test_copy_and_types_keep_the_gradient() -> None:
    x = numbers((2, 3), 1)
    check(lambda xp, x: (x * x).copy() + np.copy(x), x, hips=lambda xp, x: x * x + x)
    check(lambda xp, x: (x * x).flatten()[1:], x)
    single = Parameter(x.astype(np.float32), "w")
    seen: list[Any] = []

    def loss() -> Any:
        wide = (single * 2).astype(np.float64)
        seen.extend([wide.dtype, type((single * 2).astype(np.int32))])
        return np.sum(wide * wide)

    (g,) = value_and_grad(loss, [single])()[1]
    assert seen == [np.float64, np.ndarray]
    assert g.dtype == np.float32
    np.testing.assert_array_equal(g, 8 * single.data)


@st.composite
def reductions(draw: st.DrawFn) -> tuple[tuple[int, ...], Any, bool]:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=2, max_side=3))
    axis = draw(
        st.none()
        | st.integers(-len(shape), len(shape) - 1)
        | hnp.valid_tuple_axes(len(shape), min_size=1)
    )
    return shape, axis, draw(st.booleans())


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "amax", "amin", "var", "std"])
@given(case=reductions(), seed=seeds)
@settings(quick, max_examples=20)
def test_reductions(name: str, case: tuple[tuple[int, ...], Any, bool], seed: int) -> None:
    shape, axis, keepdims = case
    check(
        lambda xp, x: getattr(xp, name)(x, axis=axis, keepdims=keepdims),
        numbers(shape, seed),
        hips=lambda xp, x: getattr(xp, name.removeprefix("a"))(x, axis=axis, keepdims=keepdims),
    )


@pytest.mark.parametrize("name", ["var", "std"])
def test_degrees_of_freedom(name: str) -> None:
    check(lambda xp, x: getattr(xp, name)(x, axis=1, ddof=1), numbers((2, 4), 1))


def test_ties_of_max_share_and_ties_of_maximum_go_to_the_second() -> None:
    x = np.array([1.0, 3.0, 3.0])
    y = np.array([1.0, 0.0, 4.0])
    assert gradients(lambda xp, x: xp.max(x), [x], np.ones(()), lambda a: a)[0].tolist() == [
        0.0, 0.5, 0.5,
    ]  # fmt: skip
    for f in (np.maximum, np.minimum):
        first, second = gradients(lambda xp, x, y, f=f: f(x, y), [x, y], np.ones(3), lambda a: a)
        assert (first[0], second[0]) == (0.0, 1.0)
        assert (first + second).tolist() == [1.0, 1.0, 1.0]


SHAPING: dict[str, tuple[tuple[int, ...], Case]] = {
    "reshape": ((2, 6), lambda xp, x: xp.reshape(x, (3, -1))),
    "reshape method": ((2, 6), lambda xp, x: x.reshape(3, 2, 2) + x.reshape((3, 2, 2))),
    "ravel": ((2, 3), lambda xp, x: xp.ravel(x)),
    "transpose": ((2, 3, 4), lambda xp, x: xp.transpose(x)),
    "T": ((2, 3), lambda xp, x: x.T @ x),
    "swapaxes": ((2, 3, 4), lambda xp, x: xp.swapaxes(x, 0, -1)),
    "moveaxis": ((2, 3, 4), lambda xp, x: xp.moveaxis(x, 0, 2)),
    "expand_dims": ((2, 3), lambda xp, x: xp.expand_dims(x, 1)),
    "squeeze": ((2, 1, 3), lambda xp, x: xp.squeeze(x, axis=1)),
    "squeeze all": ((1, 2, 1), lambda xp, x: xp.squeeze(x)),
    "where": ((2, 3), lambda xp, x: xp.where(x > 1.5, x * x, xp.exp(x))),
    "where scalar": ((2, 3), lambda xp, x: xp.where(x > 1.5, x, 0.0)),
    "clip": ((2, 3), lambda xp, x: xp.clip(x, 1.0, 2.0)),
    "concatenate": ((2, 3), lambda xp, x: xp.concatenate([x, xp.exp(x), x], axis=1)),
    "concatenate negative": ((2, 3), lambda xp, x: xp.concatenate((x, x[:, 1:]), axis=-1)),
    "stack": ((2, 3), lambda xp, x: xp.stack([x, x * x], axis=1)),
    "stack last": ((2, 3), lambda xp, x: xp.stack([x, x * x], axis=-1)),
    "split": ((4, 2), lambda xp, x: xp.split(x, 2)[0] * xp.split(x, 2)[1]),
    "split places": ((2, 5), lambda xp, x: xp.split(x, [1, 3], axis=1)[1]),
    "iteration": ((3, 2), lambda xp, x: sum(row * row for row in x)),
    "len": ((3, 2), lambda xp, x: x * len(x) * x.size * x.ndim * x.shape[1]),
    "0-d": ((), lambda xp, x: x * x),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPING)
def test_shaping(name: str) -> None:
    shape, f = SHAPING[name]
    check(f, numbers(shape, 5))


def methods(x: Any) -> Any:
    return (
        x.sum(axis=0) * x.mean() + x.max(2) * x.min() + x.std() + x.var()
        + x.swapaxes(0, 2).squeeze(1).ravel()[0] + x.transpose(2, 0, 1)[0] + x.take(2)
    )  # fmt: skip


# What HIPS autograd lacks or does differently, with the same in its words.
REWORDED: dict[str, tuple[tuple[int, ...], Case, Case]] = {
    "broadcast_to": (
        (3, 1), lambda xp, x: xp.broadcast_to(x, (2, 3, 4)), lambda xp, x: x + np.zeros((2, 3, 4))
    ),
    "flip": ((3, 2), lambda xp, x: xp.flip(x, 0), lambda xp, x: x[::-1]),
    "flip all": ((3, 2), lambda xp, x: xp.flip(x), lambda xp, x: x[::-1, ::-1]),
    "matrix_transpose": (
        (2, 3, 4), lambda xp, x: xp.matrix_transpose(x), lambda xp, x: xp.swapaxes(x, 1, 2)
    ),
    "transpose negative": (
        (2, 3, 4),
        lambda xp, x: xp.transpose(x, (1, -1, 0)),
        lambda xp, x: xp.transpose(x, (1, 2, 0)),
    ),
    "transpose method": (
        (2, 3, 4), lambda xp, x: x[:].transpose(1, 2, 0) * x[:].T[0, 0, 0],
        lambda xp, x: xp.transpose(x, (1, 2, 0)) * x[0, 0, 0]
    ),
    "clip one side": (
        (2, 3), lambda xp, x: xp.clip(x, None, 2.0), lambda xp, x: xp.minimum(x, 2.0)
    ),
    "concatenate flat": (
        (2, 3),
        lambda xp, x: xp.concatenate([x, x], axis=None),
        lambda xp, x: xp.concatenate([xp.ravel(x), xp.ravel(x)]),
    ),
    "methods": (
        (2, 1, 3),
        lambda xp, x: methods(x[:]),
        lambda xp, x: xp.sum(x, axis=0) * xp.mean(x) + xp.max(x, 2) * xp.min(x) + xp.std(x)
        + xp.var(x) + x[0, 0, 0] + x[:, :, 0] + x[0, 0, 2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REWORDED)
def test_shaping_in_other_words(name: str) -> None:
    shape, f, hips = REWORDED[name]
    check(f, numbers(shape, 5), hips=hips)


@given(index=hnp.basic_indices((3, 4, 2), allow_newaxis=True, allow_ellipsis=True), seed=seeds)
@settings(quick, max_examples=40)
def test_basic_indexing(index: Any, seed: int) -> None:
    check(lambda xp, x: x[index], numbers((3, 4, 2), seed))


@st.composite
def integer_indices(draw: st.DrawFn) -> Any:
    rows = hnp.arrays(np.int64, draw(hnp.array_shapes(max_dims=2, max_side=4)),
                      elements=st.integers(-3, 2))  # fmt: skip
    index = draw(rows)
    kind = draw(st.sampled_from(["rows", "rows of a slice", "middle", "pairs"]))
    if kind == "rows":
        return index
    if kind == "rows of a slice":
        return (index, slice(1, None))
    if kind == "middle":
        return (slice(None), index, None)
    return (index, index % 2)


@given(index=integer_indices(), seed=seeds)
@settings(quick, max_examples=40)
def test_gathering_adds_up_repeated_indices(index: Any, seed: int) -> None:
    def on_device(xp: Any, x: Any) -> Any:
        put = x.backend.asarray
        parts = index if isinstance(index, tuple) else (index,)
        return x[tuple(put(part) if isinstance(part, np.ndarray) else part for part in parts)]

    check(lambda xp, x: x[index], numbers((3, 3, 2), seed), device=on_device)


def test_slices_beside_index_arrays() -> None:
    ids = np.array([2, 0, 2, -1])

    x = numbers((4, 3, 2), 3)
    check(
        lambda xp, x: x[1:, ids][:, :, 1] * x[ids[0], :, ids[0] % 2][ids],
        x,
        device=lambda xp, x: (
            x[1:, x.backend.asarray(ids)][:, :, 1] * x[2, :, 0][x.backend.asarray(ids)]
        ),
    )


def test_boolean_masks() -> None:
    mask = np.array([[True, False, True], [False, False, True]])
    check(
        lambda xp, x: x[mask] * 2,
        numbers((2, 3), 1),
        device=lambda xp, x: x[x.backend.asarray(mask)] * 2,
    )
    check(lambda xp, x: x[x > 1.5], numbers((2, 3), 1))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_take(axis: int | None) -> None:
    ids = np.array([[0, 2], [2, 2]])
    before = () if axis is None else (slice(None),) * (axis % 2)
    check(
        lambda xp, x: xp.take(x, ids, axis=axis),
        numbers((3, 3), 1),
        hips=lambda xp, x: (xp.ravel(x) if axis is None else x)[(*before, ids)],
        device=lambda xp, x: xp.take(x, x.backend.asarray(ids), axis=axis),
    )


@pytest.mark.parametrize(("axis", "rows", "columns"), [(1, 3, 2), (-1, 3, 5), (0, 4, 4), (1, 1, 2)])
def test_take_along_axis_adds_up_repeated_indices(axis: int, rows: int, columns: int) -> None:
    ids = np.random.default_rng(3).integers(0, 3, (rows, columns))
    other = np.arange(3)[:, None] if axis % 2 else np.arange(4)[None, :]
    index = (other, ids) if axis % 2 else (ids, other)
    check(
        lambda xp, x: xp.take_along_axis(x, ids, axis=axis),
        numbers((3, 4), 1),
        hips=lambda xp, x: x[index],
        device=lambda xp, x: xp.take_along_axis(x, x.backend.asarray(ids), axis=axis),
    )


def test_take_along_axis_undoes_broadcasting() -> None:
    ids = np.array([[0, 2], [2, 2], [1, 0]])
    check(
        lambda xp, x: xp.take_along_axis(x, ids, axis=1),
        numbers((1, 4), 1),
        hips=lambda xp, x: x[0, ids],
        device=lambda xp, x: xp.take_along_axis(x, x.backend.asarray(ids), axis=1),
    )


def test_a_value_used_many_times_adds_up() -> None:
    def f(xp: Any, x: Any, y: Any) -> Any:
        h = x * y
        return h * h + xp.exp(h) + h + x.T[0] * h

    check(f, numbers((3, 3), 1), numbers((3, 3), 2))


def test_every_operation_of_the_tables_is_tested_here() -> None:
    with open(__file__, encoding="utf-8") as file:
        words = set(file.read().replace("(", " ").replace('"', " ").replace(".", " ").split())
    operators = {"positive", "erf"}  # erf: test_functions.py
    missing = {f.__name__ for f in (*DERIVATIVES, *COMPOSED, *MASKED)} - words - operators
    assert not missing


def test_constant_functions_return_plain_arrays() -> None:
    x = Parameter(numbers((2, 3), 1), "x")
    kinds: list[Any] = []

    def loss() -> Any:
        kinds.extend([type(x > 1), type(np.sign(x)), type(np.floor(x)), type(np.argmax(x, axis=1))])
        kinds.extend([type(np.zeros_like(x * 2)), np.shape(x * 2), np.ndim(x * 2), len(x * 2)])
        assert np.allclose(x * 2, 2 * x.data)
        return np.sum(x * (x > 1))

    value_and_grad(loss, [x])()
    assert kinds == [np.ndarray] * 5 + [(2, 3), 2, 2]
    assert not CONSTANT & DERIVATIVES.keys()
