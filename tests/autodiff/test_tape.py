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

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.autodiff.functions import softmax_cross_entropy
from adamoffload.autodiff.tape import Traced, stop_gradient, value_and_grad
from adamoffload.device.backend import ResidencyError
from adamoffload.device.parameter import Parameter, stand_ins

Array = Any


def host(values: Any, name: str = "w") -> Parameter:
    return Parameter(np.array(values, dtype=np.float64), name)


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


# -- errors -----------------------------------------------------------------------------------


def test_loss_fn_must_be_callable() -> None:
    with pytest.raises(TypeError, match=r"loss_fn must be callable, got 3 \(int\)"):
        value_and_grad(3, [host([1.0])])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        (host([1.0]), TypeError, "parameters must be a list or tuple of Parameter"),
        ({"w": host([1.0])}, TypeError, "parameters must be a list or tuple of Parameter"),
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
    "function": (lambda h: np.sort(h), "np.sort has no derivative here; compose it"),
    "submodule": (lambda h: np.linalg.det(h), "np.linalg.det has no derivative"),
    "ufunc": (lambda h: np.arctan2(h, h), "np.arctan2 has no derivative"),
    "ufunc method": (lambda h: np.add.reduce(h), r"np.add.reduce has no derivative"),
    "accumulate": (lambda h: np.multiply.accumulate(h), r"np.multiply.accumulate has no"),
    "keyword": (lambda h: np.sum(h, where=h > 0), "np.sum, called so.*'where'"),
    "ufunc keyword": (lambda h: np.exp(h, where=h > 0), "np.exp with where has no derivative"),
    "dtype": (lambda h: np.add(h, h, dtype=np.float32), "np.add with dtype has no derivative"),
    "positional": (lambda h: np.sum(h, 0, None), "np.sum, called so"),
    "order": (lambda h: np.reshape(h, (3, 2), order="F"), "np.reshape, called so.*'order'"),
    "by name": (lambda h: np.sum(a=h), "np.sum, with a traced array here or by name,"),
    "bound": (lambda h: np.clip(h, h - 1, 2.0), "np.clip, with a traced array here"),
    "bound by name": (lambda h: np.clip(h, a_min=h, a_max=None), "np.clip, with a traced array"),
    "condition": (lambda h: np.where(h, h, 0), "np.where, called so.*constant"),
    "einsum": (lambda h: np.einsum("...j,jk->...k", h, h.T), "np.einsum, called so"),
    "einsum of one": (lambda h: np.einsum("ij->ji", h), "np.einsum, called so"),
    "einsum of three": (lambda h: np.einsum("ij,ij,ij->i", h, h, h), "np.einsum, with"),
    "einsum trace": (lambda h: np.einsum("ii,ij->i", h[:, :2], h), "np.einsum, called so"),
    "einsum lost": (lambda h: np.einsum("ij,k->k", h, h[0]), "np.einsum, called so"),
    "mode": (lambda h: np.take(h, 0, mode="clip"), "np.take with mode has no derivative"),
    "dot": (lambda h: np.dot(h, h.reshape(1, 3, 2)), "np.dot with more than two dimensions"),
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
    with pytest.raises(AttributeError, match=r"no attribute 'astype'; .*stop_gradient"):
        grads_of(lambda: (w * 2).astype(int), w)


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
        lambda: np.sort(np.exp(w)),
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
