from __future__ import annotations

import contextvars
import gc
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import pytest

import adamoffload as ao
from adamoffload.autodiff.functions import softmax_cross_entropy
from adamoffload.autodiff.tape import Traced, stop_gradient, value_and_grad
from adamoffload.device.backend import ResidencyError
from adamoffload.device.parameter import Parameter, stand_ins

import fake_cupy

Array = Any


def host(values: Any, name: str = "w") -> Parameter:
    return Parameter(np.array(values, dtype=np.float64), name)


def places() -> list[ao.Backend]:
    return [ao.get_backend("numpy"), ao.get_backend("sim"), fake_cupy.device()]


def grads_of(loss_fn: Callable[..., Any], *parameters: Parameter) -> tuple[Array, ...]:
    return value_and_grad(loss_fn, parameters)()[1]


def mlp(
    put: Callable[[Any], Any], sizes: tuple[int, ...] = (6, 5, 4, 3)
) -> tuple[Callable[[Any, Any], Any], list[Parameter]]:
    rng = np.random.default_rng(0)
    layers = [
        (
            Parameter(put(rng.standard_normal((a, b), np.float32)), f"fc{i}.weight"),
            Parameter(put(rng.standard_normal(b, np.float32)), f"fc{i}.bias"),
        )
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
    ]

    def loss(x: Any, labels: Any) -> Any:
        *hidden, (w_last, b_last) = layers
        for i, (w, b) in enumerate(hidden):
            x = np.tanh(x @ w + b) if i else np.maximum(x @ w + b, 0)
        return softmax_cross_entropy(x @ w_last + b_last, labels)

    return loss, [p for layer in layers for p in layer]


@pytest.fixture
def batch() -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((7, 6), np.float32), rng.integers(0, 3, 7)


@pytest.fixture
def _no_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# -- what comes out ---------------------------------------------------------------------------


def test_gradients_come_in_the_order_of_the_parameters() -> None:
    a, b = host([2.0, 3.0], "a"), host([5.0, 7.0], "b")
    loss, grads = value_and_grad(lambda scale: np.sum(a * a * b) * scale, [b, a])(10)
    assert loss == 10 * (4 * 5 + 9 * 7)
    assert [g.tolist() for g in grads] == [[40.0, 90.0], [200.0, 420.0]]


def test_the_call_takes_the_arguments_of_the_loss_function() -> None:
    w = host(3.0)

    def loss(x: float, *, shift: float = 0.0) -> Any:
        """Docs."""
        return w * x + shift

    step = value_and_grad(loss, [w])
    value, grads = step(2.0, shift=1.0)
    assert (value, grads) == (7.0, (2.0,))
    assert (step.__name__, step.__doc__) == ("loss", "Docs.")


def test_an_mlp_on_a_device_equals_the_host_bitwise(batch: tuple[Any, Any]) -> None:
    x, labels = batch
    device = ao.get_backend("numpy")
    loss_fn, parameters = mlp(lambda a: a)
    loss, grads = value_and_grad(loss_fn, parameters)(x, labels)
    there_fn, there = mlp(device.asarray)
    there_loss, there_grads = value_and_grad(there_fn, there)(
        device.asarray(x), device.asarray(labels)
    )
    assert loss.dtype == there_loss.dtype == np.float32
    assert device.owns(there_loss)
    assert loss == device.asnumpy(there_loss)
    for parameter, mine, other in zip(parameters, grads, there_grads, strict=True):
        assert device.owns(other)
        assert mine.shape == other.shape == parameter.shape
        assert mine.dtype == other.dtype == np.float32
        assert np.array_equal(mine, device.asnumpy(other))


def test_gradients_have_their_parameters_dtype() -> None:
    single = Parameter(np.ones(3, np.float32), "single")
    double = Parameter(np.ones(3, np.float64), "double")
    half = Parameter(np.ones(3, np.float16), "half")
    grads = grads_of(lambda: np.sum(single * double * half * np.arange(3.0)), single, double, half)
    assert [g.dtype for g in grads] == [np.float32, np.float64, np.float16]


def test_python_scalars_keep_float32() -> None:
    w = Parameter(np.ones((2, 3), np.float32), "w")
    seen = []

    def loss() -> Any:
        h = (1 - 2.0 * w**2 / 3 + 0.5) ** 3 + 2.0**w + np.maximum(w, 0) + np.where(w > 0, w, 0.0)
        h = h + np.mean(h) + np.max(h, axis=0) + np.std(h) + np.clip(h, 0.0, 1.0)
        seen.append(h.dtype)
        return np.mean(h)

    value, (grad,) = value_and_grad(loss, [w])()
    assert seen == [np.float32]
    assert value.dtype == grad.dtype == np.float32


ALIASING: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: np.sum((a + b) * np.ones((2, 3))),
    "sum": lambda a, b: np.sum(a + b),
    "views": lambda a, b: np.sum((a.reshape(3, 2) + b.reshape(3, 2)) * np.ones((3, 2))),
    "transposed": lambda a, b: np.sum((a.T + b.T) * np.ones((3, 2))),
    "concatenate": lambda a, b: np.sum(np.concatenate([a, b]) * np.ones((4, 3))),
    "twice": lambda a, b: np.sum((a + b + a + b) * np.ones((2, 3))),
    "0-d": lambda a, b: np.reshape(a[:1, :1] + b[:1, :1], ()),
}


@pytest.mark.parametrize("name", ALIASING)
def test_gradients_share_memory_with_nothing(name: str) -> None:
    a, b = host(np.ones((2, 3)), "a"), host(np.ones((2, 3)), "b")
    loss, (ga, gb) = value_and_grad(lambda: ALIASING[name](a, b), [a, b])()
    for g in (ga, gb):
        assert g.flags.c_contiguous
        assert g.flags.writeable
        assert not any(np.shares_memory(g, other) for other in (a.data, b.data, loss))
    assert not np.shares_memory(ga, gb)


def test_a_loss_that_is_a_parameter_is_copied() -> None:
    w = host(3.0)
    loss, (grad,) = value_and_grad(lambda: w, [w])()
    assert (float(loss), grad.shape, float(grad)) == (3.0, (), 1.0)
    w.data[...] = 0
    assert float(loss) == 3.0


def test_unlisted_parameters_are_constants() -> None:
    w, frozen = host([1.0, 2.0]), host([3.0, 4.0], "frozen")
    assert grads_of(lambda: np.sum(frozen * w), w)[0].tolist() == [3.0, 4.0]
    assert grads_of(lambda: np.sum(w * 2 + w * frozen), w)[0].tolist() == [5.0, 6.0]


def test_parameters_stand_anywhere_in_an_expression() -> None:
    w, v = host([[1.0, 2.0]]), host([[3.0, 4.0]], "v")

    def loss() -> Any:
        h = np.tanh(w)
        joined = np.concatenate([h, v, w]) + np.stack([v[0], h[0], v[0]])
        return np.sum(joined) + np.sum(h @ v.T) + np.sum(np.where(h > 0, v, w)) + len(v)

    slope = 1 - np.tanh([[1.0, 2.0]]) ** 2
    gw, gv = grads_of(loss, w, v)
    # h, w and v sum to w + 2 h + 3 v + h v + v: some roundings in another order.
    np.testing.assert_allclose(gw, 1 + 2 * slope + slope * [[3.0, 4.0]], rtol=1e-14)
    np.testing.assert_allclose(gv, 4 + np.tanh([[1.0, 2.0]]), rtol=1e-14)


def test_stop_gradient_gives_a_constant() -> None:
    w = host([1.0, 2.0])
    assert grads_of(lambda: np.sum(w * stop_gradient(w * 3)), w)[0].tolist() == [3.0, 6.0]
    assert stop_gradient(w) is w.data
    assert stop_gradient(5) == 5


def test_gradients_are_taken_anew_in_every_call() -> None:
    w = host([1.0, 2.0])
    step = value_and_grad(lambda: np.sum(w * w), [w])
    first = step()[1][0]
    w.data[...] = [3.0, 4.0]
    assert step()[1][0].tolist() == [6.0, 8.0]
    assert first.tolist() == [2.0, 4.0]


SPREAD: list[Callable[[Any, Any], Any]] = [
    lambda xp, w: xp.mean(w) + xp.sum(w * w),
    lambda xp, w: xp.sum(w * w) + xp.mean(w),
    lambda xp, w: xp.sum(xp.mean(w, axis=0)) + xp.sum(xp.mean(w, axis=1)),
    lambda xp, w: xp.sum(xp.einsum("ij,j->i", w, w[0])) + xp.sum(w.T) + xp.mean(w),
    lambda xp, w: xp.sum(xp.mean(w * 2) + w) + xp.mean(w * 2),
]


@pytest.mark.parametrize("loss", SPREAD)
def test_what_is_spread_over_an_array_can_be_added_to(loss: Callable[[Any, Any], Any]) -> None:
    # The gradient of a mean is one number seen as many: memory that cannot be written.
    data = np.arange(1.0, 7).reshape(2, 3)
    slope = autograd.grad(lambda w: loss(anp, w))(data)
    for place in (None, *places()):
        w = Parameter(data.copy() if place is None else place.asarray(data), "w")
        (g,) = grads_of(lambda w=w: loss(np, w), w)
        found = g if place is None else place.asnumpy(g)
        np.testing.assert_allclose(found, slope, rtol=1e-14)  # a few roundings


# -- what one can ask for ---------------------------------------------------------------------


@pytest.mark.parametrize("make", [list, tuple, iter, lambda ps: {p.name: p for p in ps}.values()])
def test_parameters_are_any_iterable(make: Callable[[Any], Any]) -> None:
    a, b = host([2.0], "a"), host([3.0], "b")
    step = value_and_grad(lambda: np.sum(a * a * b), make([a, b]))
    for _ in range(2):
        assert [g.tolist() for g in step()[1]] == [[12.0], [4.0]]


def test_what_comes_with_the_loss_comes_out_as_plain_arrays() -> None:
    for place in (None, *places()):
        w = Parameter(np.ones(3) if place is None else place.asarray(np.ones(3)), "w")

        def loss(w: Any = w) -> Any:
            h = w * 2
            return np.sum(h), {"h": h, "pair": (h, [h[0], 7]), "text": "as it is"}

        (value, aux), (g,) = value_and_grad(loss, [w], has_aux=True)()
        arrays = [value, aux["h"], aux["pair"][0], aux["pair"][1][0], g]
        assert not any(isinstance(array, Traced) for array in arrays)
        if place is not None:
            assert all(map(place.owns, arrays))
            arrays = [place.asnumpy(array) for array in arrays]
        assert [np.asarray(a).tolist() for a in arrays] == [6, [2] * 3, [2] * 3, 2, [2] * 3]
        assert (aux["pair"][1][1], aux["text"]) == (7, "as it is")


@pytest.mark.parametrize("result", [1.0, (1.0,), [1.0, 2.0], (1.0, 2.0, 3.0)])
def test_has_aux_wants_a_pair(result: Any) -> None:
    w = host([1.0])
    with pytest.raises(TypeError, match=r"has_aux=True loss_fn must return \(loss, aux\), got"):
        value_and_grad(lambda: result, [w], has_aux=True)()


def test_an_unused_parameter_gets_zeros_or_none_as_one_asks() -> None:
    for place in (None, *places()):
        put = (lambda a: a) if place is None else place.asarray
        w, v = Parameter(put(np.ones(3)), "w"), Parameter(put(np.ones((2, 1), np.float32)), "v")
        loss, (g, none) = value_and_grad(lambda w=w: np.sum(w * 3), [w, v], unused="none")()
        assert none is None
        loss, (g, zeros) = value_and_grad(lambda w=w: np.sum(w * 3), [w, v], unused="zeros")()
        assert (zeros.shape, zeros.dtype) == ((2, 1), np.float32)
        if place is not None:
            assert place.owns(zeros)
            loss, g, zeros = map(place.asnumpy, (loss, g, zeros))
        assert (float(loss), g.tolist(), zeros.tolist()) == (9.0, [3.0] * 3, [[0.0]] * 2)
        assert not np.shares_memory(zeros, v.data if place is None else zeros * 1)


@pytest.mark.parametrize("constant", [2.5, 3, np.float64(2.5), np.array(2.5)])
def test_a_loss_without_any_parameter_is_all_unused(constant: Any) -> None:
    w = host([1.0, 2.0])
    assert value_and_grad(lambda: constant, [w], unused="none")() == (constant, (None,))
    assert value_and_grad(lambda: constant, [w], unused="zeros")()[1][0].tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="not depend on parameter 'w'"):
        value_and_grad(lambda: None, [w], unused="none")()
    with pytest.raises(ValueError, match="must be a scalar"):
        value_and_grad(lambda: np.ones(2), [w], unused="none")()


@pytest.mark.parametrize("unused", [None, "zero", True, 0])
def test_unused_is_one_of_three(unused: Any) -> None:
    with pytest.raises(ValueError, match="unused must be one of 'raise', 'zeros', 'none', got"):
        value_and_grad(lambda: 0.0, [host([1.0])], unused=unused)


def test_each_gradient_is_handed_over_when_it_is_final(batch: tuple[Any, Any]) -> None:
    for place in (None, *places()):
        put = (lambda a: a) if place is None else place.asarray
        loss_fn, parameters = mlp(put)
        x, labels = map(put, batch)
        loss, expected = value_and_grad(loss_fn, parameters)(x, labels)
        came: list[tuple[Parameter, Any]] = []
        step = value_and_grad(
            loss_fn, parameters, on_gradient=lambda *pair, came=came: came.append(pair)
        )
        value = step(x, labels)
        found = {p.name: g for p, g in came}
        assert len(came) == len(parameters)
        # The last layer's come first, and there is nothing to wait for.
        assert [p.name[:3] for p, _ in came] == ["fc2", "fc2", "fc1", "fc1", "fc0", "fc0"]
        for parameter, gradient in zip(parameters, expected, strict=True):
            mine = found[parameter.name]
            if place is not None:
                mine, gradient = place.asnumpy(mine), place.asnumpy(gradient)
            assert np.array_equal(mine, gradient)
        if place is not None:
            value, loss = place.asnumpy(value), place.asnumpy(loss)
        assert value == loss


def test_a_gradient_is_final_after_the_last_use_of_its_parameter() -> None:
    w, v = host([2.0], "w"), host([3.0], "v")
    came: list[Any] = []

    def loss() -> Any:
        h = w * v  # v's only use is the deepest; w is used again on the way
        return np.sum(np.exp(h) * w + w)

    value = value_and_grad(loss, [w, v], on_gradient=lambda p, g: came.append((p.name, g)))()
    assert dict(came)["w"] == pytest.approx(3 * 2 * np.exp(6) + np.exp(6) + 1, rel=1e-15)
    assert dict(came)["v"] == pytest.approx(2 * 2 * np.exp(6), rel=1e-15)
    assert len(came) == 2
    assert value == pytest.approx(2 * np.exp(6) + 2, rel=1e-15)


def test_a_loss_that_is_a_parameter_hands_its_gradient_over() -> None:
    w, v = host(3.0), host(1.0, "v")
    came: list[Any] = []
    step = value_and_grad(
        lambda: (w, "aux"),
        [w, v],
        on_gradient=lambda p, g: came.append((p.name, float(g))),
        has_aux=True,
        unused="zeros",
    )
    assert step() == (3.0, "aux")
    assert came == [("v", 0.0), ("w", 1.0)]
    came.clear()
    value_and_grad(lambda: w, [w, v], on_gradient=lambda p, g: came.append(p), unused="none")()
    assert came == [w]


@pytest.mark.usefixtures("_no_gc")
def test_a_gradient_that_was_handed_over_is_not_kept() -> None:
    device = ao.get_backend("numpy")
    layers = [Parameter(device.asarray(np.ones((50, 50))), f"w{i}") for i in range(6)]
    x = device.asarray(np.ones((1, 50)))

    def loss() -> Any:
        h = x
        for w in layers:
            h = h @ w
        return np.sum(h)

    before = device.memory().used
    value_and_grad(loss, layers, on_gradient=lambda w, gradient: None)()
    # One gradient at a time, beside the rows of the forward pass.
    assert device.memory().peak - before < 2 * 50 * 50 * 8


def test_an_exception_of_the_callback_passes_through() -> None:
    w, v = host([1.0]), host([1.0], "v")
    seen: list[str] = []

    def refuse(parameter: Parameter, gradient: Any) -> None:
        seen.append(parameter.name)
        raise KeyError(parameter.name)

    with pytest.raises(KeyError, match="v"):
        value_and_grad(lambda: np.sum(np.exp(w) * v), [w, v], on_gradient=refuse)()
    assert seen == ["v"]
    assert not stand_ins.get()
    assert grads_of(lambda: np.sum(w * v), w)[0].tolist() == [1.0]


def test_on_gradient_is_callable() -> None:
    with pytest.raises(TypeError, match="on_gradient must be callable, such as optim"):
        value_and_grad(lambda: 0.0, [host([1.0])], on_gradient=[])  # type: ignore[call-overload]


ARCTAN2 = (
    lambda out, y, x: lambda g: g * x / (x * x + y * y),
    lambda out, y, x: lambda g: -g * y / (x * x + y * y),
)


def test_a_derivative_can_be_added_for_one_loss_function() -> None:
    y, x = np.array([0.5, -1.0]), np.array([2.0, 0.3])
    slopes = autograd.grad(lambda pair: anp.sum(anp.arctan2(*pair) ** 2))((y, x))
    for place in (None, *places()):
        put = (lambda a: a) if place is None else place.asarray
        a, b = Parameter(put(y), "y"), Parameter(put(x), "x")

        def loss(a: Any = a, b: Any = b) -> Any:
            return np.sum(np.arctan2(a, b) ** 2)

        grads = value_and_grad(loss, [a, b], derivatives={np.arctan2: ARCTAN2})()[1]
        for mine, slope in zip(grads, slopes, strict=True):
            mine = mine if place is None else place.asnumpy(mine)
            np.testing.assert_allclose(mine, slope, rtol=1e-14)  # a few roundings
        with pytest.raises(TypeError, match=r"np\.arctan2 has no derivative"):
            value_and_grad(loss, [a, b])()


def test_an_added_derivative_comes_before_ours() -> None:
    w = host([1.0, 2.0])
    for function, f in {
        np.exp: lambda: np.sum(np.exp(w)),
        np.sum: lambda: np.sum(w),
        np.dot: lambda: np.dot(w, np.ones(2)),  # composed, otherwise
        np.sign: lambda: np.sign(w)[0],  # a constant, otherwise
    }.items():
        seven = {function: (lambda out, x, *_: lambda g: np.full_like(x, 7.0),)}
        (g,) = value_and_grad(f, [w], derivatives=seven)()[1]
        assert g.tolist() == [7.0, 7.0]


def test_an_added_derivative_of_the_wrong_shape_is_named() -> None:
    w = host([[1.0, 2.0]])
    for wrong in (np.ones(3), np.ones((3, 1))):
        added = {np.arctan: (lambda out, x, wrong=wrong: lambda g: wrong,)}
        with pytest.raises(ValueError, match=r"a gradient of shape \(3,.* operand of .*\(1, 2\)"):
            value_and_grad(lambda: np.sum(np.arctan(w)), [w], derivatives=added)()


@pytest.mark.parametrize(
    ("derivatives", "message"),
    [
        ([np.exp], "derivatives must be a dict such as"),
        ({"exp": ()}, "'exp' .str. is no function"),
        ({np.exp: 3}, "derivatives of exp must be a tuple with a callable for each operand, got 3"),
        ({np.exp: (None,)}, "derivatives of exp must be a tuple with a callable"),
    ],
)
def test_bad_derivatives(derivatives: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        value_and_grad(lambda: 0.0, [host([1.0])], derivatives=derivatives)


# -- errors -----------------------------------------------------------------------------------


def test_loss_fn_must_be_callable() -> None:
    with pytest.raises(TypeError, match=r"loss_fn must be callable, got 3 \(int\)"):
        value_and_grad(3, [host([1.0])])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        (host([1.0]), TypeError, "parameters must be a list, tuple or other iterable of Parameter"),
        (3, TypeError, r"parameters must be a list, tuple or other iterable .*got 3 \(int\)"),
        ({"w": host([1.0])}, TypeError, r"iterable of Parameter, got .*pass its \.values\(\)"),
        (iter(()), ValueError, "must not be empty"),
        ([], ValueError, "must not be empty"),
        ([host([1.0]), np.ones(3)], TypeError, r"parameters\[1\] must be a Parameter, got .*array"),
        ("w", TypeError, r"parameters\[0\] must be a Parameter, got 'w' \(str\)"),
        ([Parameter(np.ones(3, int), "i")], TypeError, "'i' must hold floating-point .*int64"),
        ([Parameter(np.ones(3, complex), "c")], TypeError, "'c' must hold floating-point"),
        ([host([1.0])] * 2, ValueError, "'w' is listed twice"),
    ],
)
def test_bad_parameters(parameters: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        value_and_grad(lambda: 0.0, parameters)


def test_a_loss_that_is_no_scalar_names_the_remedy() -> None:
    w = host([1.0, 2.0])
    with pytest.raises(ValueError, match=r"scalar, got shape \(2,\); end loss_fn with np.mean"):
        grads_of(lambda: w * 2, w)


@pytest.mark.parametrize("result", [None, 1.0, np.ones(())])
def test_a_loss_that_is_not_traced_names_the_cause(result: Any) -> None:
    w = host([1.0, 2.0], "fc.weight")
    with pytest.raises(ValueError, match=r"not depend on parameter 'fc.weight'.*not w\.data"):
        grads_of(lambda: result, w)


def test_an_unused_parameter_is_never_a_silent_zero() -> None:
    w, v = host([1.0, 2.0]), host([1.0, 2.0], "fc.bias")
    with pytest.raises(ValueError, match=r"not depend on parameter 'fc.bias'.*not w\.data"):
        grads_of(lambda: np.sum(w * v.data), w, v)
    many = [host(1.0, f"p{i}") for i in range(5)]
    with pytest.raises(ValueError, match="parameters 'p0', 'p1', 'p2' and 2 more;"):
        grads_of(lambda: np.sum(w), w, *many)


WITHOUT_DERIVATIVE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "function": (lambda h: np.median(h), "np.median has no derivative here; compose it"),
    "submodule": (lambda h: np.linalg.det(h), "np.linalg.det has no derivative"),
    "ufunc": (lambda h: np.arctan2(h, h), "np.arctan2 has no derivative"),
    "ufunc method": (lambda h: np.add.reduce(h), r"np.add.reduce has no derivative"),
    "accumulate": (lambda h: np.multiply.accumulate(h), r"np.multiply.accumulate has no"),
    "keyword": (lambda h: np.sum(h, initial=1.0), "np.sum, called so.*'initial'"),
    "masked keyword": (lambda h: np.sum(h, where=h > 0, dtype=float), "np.sum, called so.*'dtype'"),
    "masked max": (lambda h: np.max(h, where=h > 0), "np.max, called so.*'initial'"),
    "masked product": (lambda h: np.prod(h, where=h > 0), "np.prod has no derivative"),
    "masked out": (lambda h: np.sum(h, where=h > 0, out=np.empty(())), "np.sum: .*in place"),
    "ufunc keyword": (lambda h: np.exp(h, where=h > 0), "np.exp with where has no derivative"),
    "dtype": (lambda h: np.add(h, h, dtype=np.float32), "np.add with dtype has no derivative"),
    "positional": (lambda h: np.sum(h, 0, None), "np.sum, called so"),
    "order": (lambda h: np.reshape(h, (3, 2), order="F"), "np.reshape, called so.*'order'"),
    "by name": (lambda h: np.sum(a=h), "np.sum, with a traced array here or by name,"),
    "bound": (lambda h: np.clip(h, h - 1, 2.0), "np.clip, with a traced array here"),
    "bound by name": (lambda h: np.clip(h, a_min=h, a_max=None), "np.clip, with a traced array"),
    "condition": (lambda h: np.where(h, h, 0), "np.where, called so.*constant"),
    "einsum of nine": (lambda h: np.einsum(",".join(["ij"] * 9), *[h] * 9), "np.einsum, with"),
    "einsum of lists": (lambda h: np.einsum(h, [0, 1], h, [0, 1]), "np.einsum, called so"),
    "einsum trace": (lambda h: np.einsum("ii,ij->i", h[:, :2], h), "np.einsum, called so"),
    "pad": (lambda h: np.pad(h, 1, "reflect"), "np.pad, called so.*by 'reflect'"),
    "spectral norm": (lambda h: np.linalg.norm(h, 2), "np.linalg.norm, called so.*2-norm of a vec"),
    "norm of order": (lambda h: np.linalg.norm(h, 1, axis=0), "np.linalg.norm, called so.*ord=1"),
    "sort kind": (lambda h: np.sort(h, kind="stable"), "np.sort, called so.*'kind'"),
    "mode": (lambda h: np.take(h, 0, mode="clip"), "np.take, called so.*'mode'"),
    "out": (lambda h: np.add(h, h, out=np.empty((2, 3))), r"np.add: .*in place \(out=, \+=\)"),
    "sum out": (lambda h: np.sum(h, axis=0, out=np.empty(3)), "np.sum: .*in place"),
    "asarray": (lambda h: np.asarray(h), "not converted.*do it outside"),
    "list": (lambda h: np.array([h, h]), "not converted.*do it outside"),
    "float": (lambda h: float(h[0, 0]), "not converted.*do it outside"),
    "int": (lambda h: int(h[0, 0]), "not converted"),
    "bool": (lambda h: bool(h[0, 0]), "not converted"),
    "item": (lambda h: h[0, 0].item(), "not converted"),
    "complex": (lambda h: np.sum(h * 1j), "complex numbers have no derivative"),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_DERIVATIVE)
def test_an_operation_without_derivative_is_named(name: str) -> None:
    operation, message = WITHOUT_DERIVATIVE[name]
    w = host(np.ones((2, 3)))
    with pytest.raises(TypeError, match=message):
        grads_of(lambda: operation(w * 2), w)


def test_in_place_operations_are_refused() -> None:
    w = host(np.ones((2, 3)))

    def add() -> Any:
        h = w * 2
        h += 1
        return np.sum(h)

    def add_to_array() -> Any:
        h = np.zeros((2, 3))
        h += w
        return np.sum(h)

    def assign() -> Any:
        h = w * 2
        h[0] = 1
        return np.sum(h)

    with pytest.raises(TypeError, match=r"np.add: .*in place.*write x = x \+ y"):
        grads_of(add, w)
    with pytest.raises(TypeError, match=r"np.add: .*in place"):
        grads_of(add_to_array, w)
    with pytest.raises(TypeError, match=r"cannot be changed in place.*np.where"):
        grads_of(assign, w)


def test_unknown_attributes_name_the_way_out() -> None:
    w = host(np.ones((2, 3)))
    for name, message in {
        "byteswap": r"np\.\* functions and operators, and stop_gradient\(x\)",
        "grad": r"gradients are returned.*value_and_grad\(loss_fn, parameters\)",
        "backward": "gradients are returned",
        "requires_grad": "second argument of value_and_grad",
        "detach": "stop_gradient",
        "numpy": r"device\.asnumpy",
    }.items():
        with pytest.raises(AttributeError, match=rf"no attribute '{name}'; .*{message}"):
            grads_of(lambda name=name: getattr(w * 2, name), w)


def test_mixed_host_and_device_operands_raise_the_residency_error() -> None:
    device = ao.get_backend("numpy")
    w = Parameter(device.asarray(np.ones(3, np.float32)), "w")
    for loss in (
        lambda: np.sum(w * np.ones(3, np.float32)),
        lambda: np.sum(np.ones(3, np.float32) * (w * 2)),
        lambda: np.sum(np.where(np.ones(3, bool), w, 0)),
    ):
        with pytest.raises(ResidencyError, match=r"device\.asarray"):
            grads_of(loss, w)


def test_an_error_in_the_loss_leaves_the_parameters_as_they_were() -> None:
    w = host([1.0, 2.0])

    def fail() -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        grads_of(fail, w)
    assert not stand_ins.get()
    assert isinstance(w * 2, np.ndarray)


def test_gradients_of_gradients_are_refused() -> None:
    w = host([1.0, 2.0])
    inner = value_and_grad(lambda: np.sum(w * w), [w])
    with pytest.raises(RuntimeError, match="inside another loss function"):
        grads_of(lambda: np.sum(inner()[1][0] * w), w)


def test_split_into_unequal_parts_is_refused() -> None:
    w = host(np.ones(5))
    with pytest.raises(ValueError, match="length 5 has no 2 equal parts"):
        grads_of(lambda: np.split(w, 2)[0], w)


# -- memory -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_gc")
def test_after_the_call_only_loss_and_gradients_are_alive(batch: tuple[Any, Any]) -> None:
    device = ao.get_backend("numpy")
    loss_fn, parameters = mlp(device.asarray)
    x, labels = map(device.asarray, batch)
    step = value_and_grad(loss_fn, parameters)
    before = device.memory().used
    loss, grads = step(x, labels)
    assert device.memory().used - before == 4 + sum(4 * p.size for p in parameters)
    del loss, grads
    assert device.memory().used == before


@pytest.mark.usefixtures("_no_gc")
def test_a_failed_call_leaves_nothing_behind() -> None:
    device = ao.get_backend("numpy")
    w = Parameter(device.asarray(np.ones(100, np.float32)), "w")
    before = device.memory().used
    for loss in (
        lambda: np.median(np.exp(w)),
        lambda: np.exp(w),
        lambda: np.sum(np.exp(w) * 1j),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            grads_of(loss, w)
        del caught
        # An exception's traceback and the frames in it are a cycle of pytest's, not ours.
        gc.collect()
        assert device.memory().used == before


@pytest.mark.usefixtures("_no_gc")
def test_no_reference_cycles(batch: tuple[Any, Any]) -> None:
    loss_fn, parameters = mlp(lambda a: a)
    step = value_and_grad(loss_fn, parameters)
    step(*batch)
    gc.collect()
    step(*batch)
    assert gc.collect() == 0


@pytest.mark.usefixtures("_no_gc")
def test_peak_memory_is_what_the_derivatives_need() -> None:
    layers, nbytes = 20, 4 * 10_000
    device = ao.get_backend("numpy")
    w = Parameter(device.asarray(np.full(10_000, 0.1, np.float32)), "w")

    def loss() -> Any:
        h = w
        for _ in range(layers):
            h = np.tanh(2 * h + w)  # of three results the derivative needs the last
        return np.mean(h)

    device_before = device.memory()
    value_and_grad(loss, [w])()
    # The way back starts with the results of tanh, and frees one of them in each step. Beside them
    # there are the gradient of w so far, added to in place, and two arrays of the step itself.
    assert device.memory().peak - device_before.used <= (layers + 3) * nbytes + 8


@pytest.mark.usefixtures("_no_gc")
def test_contributions_to_one_gradient_are_added_in_place() -> None:
    device = ao.get_backend("numpy")
    w = Parameter(device.asarray(np.ones((100, 100), np.float32)), "w")
    x = device.asarray(np.ones(100, np.float32))
    before = device.memory().used
    value_and_grad(lambda: np.sum(w @ x) + np.sum(w @ x) + np.sum(w @ x), [w])()
    # The gradient and the contribution that is being added, beside a few vectors.
    assert device.memory().peak - before < 2.5 * 40_000


@pytest.mark.usefixtures("_no_gc")
def test_a_traced_array_kept_outside_keeps_only_its_value_and_is_a_constant() -> None:
    device = ao.get_backend("numpy")
    w = Parameter(device.asarray(np.full(1000, 0.5, np.float32)), "w")
    kept: list[Any] = []

    def loss() -> Any:
        h = np.tanh(np.exp(w) if not kept else w + np.square(kept[-1]))
        kept.append(np.multiply(h, 2))
        return np.sum(kept[-1])

    step = value_and_grad(loss, [w])
    before = device.memory().used
    step()
    assert device.memory().used == before + 4000
    assert repr(kept[0]) == "Traced(shape=(1000,), dtype=float32)"
    (grad,) = step()[1]
    old = device.asnumpy(kept[0].value)[0]
    # One rounding of float32 in each of a handful of operations.
    slope = 2 * (1 - np.tanh(0.5 + old**2) ** 2)
    np.testing.assert_allclose(device.asnumpy(grad), slope, rtol=1e-5)
    del grad
    assert device.memory().used == before + 8000


def test_a_long_chain_needs_no_recursion() -> None:
    w = host([1.0])

    def loss() -> Any:
        h = w * 1.0
        for _ in range(20_000):
            h = h + 1.0
        return np.sum(h)

    assert grads_of(loss, w)[0].tolist() == [1.0]
    with pytest.raises(ValueError, match="scalar"):
        grads_of(lambda: np.expand_dims(loss(), 0), w)


# -- threads ----------------------------------------------------------------------------------


def test_threads_do_not_disturb_each_other() -> None:
    device = ao.get_backend("numpy")
    loss_fn, parameters = mlp(device.asarray)
    step = value_and_grad(loss_fn, parameters)
    rng = np.random.default_rng(2)
    batches = [
        (device.asarray(rng.standard_normal((5, 6), np.float32)), device.asarray(labels))
        for labels in rng.integers(0, 3, (40, 5))
    ]

    def run(batch: tuple[Any, Any]) -> list[bytes]:
        loss, grads = step(*batch)
        return [device.asnumpy(array).tobytes() for array in (loss, *grads)]

    expected = [run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, batches)) == expected


def test_stand_ins_are_seen_by_the_thread_of_the_call_only() -> None:
    w = host([1.0, 2.0])
    kinds: list[type] = []

    def look() -> None:
        kinds.append(type(w * 2))

    def loss() -> Any:
        # A fresh context: from Python 3.14 on a thread may inherit its starter's.
        thread = threading.Thread(target=contextvars.Context().run, args=(look,))
        thread.start()
        thread.join()
        look()
        return np.sum(w)

    grads_of(loss, w)
    assert kinds == [np.ndarray, Traced]


def test_importing_loads_numpy_only() -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import adamoffload.autodiff.functions; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "sys.exit(str(new - set(sys.stdlib_module_names) - {'adamoffload', 'numpy'}) "
        "if new - set(sys.stdlib_module_names) - {'adamoffload', 'numpy'} else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("float32_loss", [False, True])
def test_gradients_in_16_bits_are_those_of_float64_up_to_its_rounding(
    name: str, float32_loss: bool
) -> None:
    """A few roundings of half a last place each: 4 of them, of the largest element."""
    device = ao.get_backend("numpy")
    rng = np.random.default_rng(3)
    w, b = rng.standard_normal((8, 16)) / 4, rng.standard_normal(16) / 4
    v, table = rng.standard_normal((16, 3)) / 4, rng.standard_normal((5, 8)) / 2
    words, labels = rng.integers(0, 5, 12), rng.integers(0, 3, 12)
    there = [Parameter(device.asarray(x, name), f"w{i}") for i, x in enumerate((w, b, v, table))]
    exact = [host(device.asnumpy(p.data).astype(np.float64), p.name) for p in there]

    def loss(parameters: list[Parameter], put: Callable[[Any], Any]) -> Any:
        w, b, v, table = parameters
        logits = np.tanh(table[put(words)] @ w + b) @ v
        if float32_loss and put is not np.asarray:
            logits = logits.astype(np.float32)
        return softmax_cross_entropy(logits, put(labels))

    value, gradients = value_and_grad(lambda: loss(there, device.asarray), there)()
    expected, exact_gradients = value_and_grad(lambda: loss(exact, np.asarray), exact)()
    last = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[name]
    assert value.dtype == (np.float32 if float32_loss else there[0].dtype)
    assert abs(float(value) - expected) <= 4 * last * expected
    for got, want, parameter in zip(gradients, exact_gradients, there, strict=True):
        assert (got.dtype, got.shape) == (parameter.dtype, parameter.shape)
        difference = np.abs(device.asnumpy(got).astype(np.float64) - want)
        assert np.max(difference) <= 4 * last * np.max(np.abs(want))


def test_a_cast_to_16_bits_passes_the_gradient_on_rounded() -> None:
    device = ao.get_backend("numpy")
    w = Parameter(device.asarray(np.array([1.0, 2.0], np.float32)), "w")
    (g,) = grads_of(lambda: np.sum(w.astype("bfloat16") * (1 + 2**-7)), w)
    assert g.dtype == np.float32
    np.testing.assert_array_equal(device.asnumpy(g), np.full(2, 1 + 2**-7, np.float32))
