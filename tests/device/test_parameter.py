"""`Parameter`: an array with a name, and like its array in every expression."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.device.parameter import stand_ins

DATA = np.arange(1, 7, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def device() -> ao.Backend:
    return ao.get_backend("numpy")


@pytest.fixture
def w(device: ao.Backend) -> ao.Parameter:
    return ao.Parameter(device.asarray(DATA), name="fc.weight")


EXPRESSIONS: list[Callable[[Any, Any], Any]] = [
    lambda w, x: w + x,
    lambda w, x: x + w,
    lambda w, x: w * 2.0,
    lambda w, x: 2.0 - w,
    lambda w, x: w @ x.T,
    lambda w, x: x @ w.T,
    lambda w, x: w + w,
    lambda w, x: -w,
    lambda w, x: w > x,
    lambda w, x: np.exp(w),
    lambda w, x: np.maximum(x, w),
    lambda w, x: np.add.reduce(w, axis=0),
    lambda w, x: np.sum(w, axis=1),
    lambda w, x: np.mean(w),
    lambda w, x: np.concatenate([w, x]),
    lambda w, x: np.stack((x, w, w)),
    lambda w, x: np.where(w > 2, w, x),
    lambda w, x: np.einsum("ij,kj->ik", w, x),
    lambda w, x: np.dot(x, w.T),
    lambda w, x: x.dot(w.T),
    lambda w, x: np.reshape(w, -1),
    lambda w, x: np.transpose(w),
    lambda w, x: w.T,
    lambda w, x: w.reshape(3, 2),
    lambda w, x: w.reshape((6,)),
    lambda w, x: w[0],
    lambda w, x: w[:, 1:],
    lambda w, x: w[..., None],
    lambda w, x: w[x > 1],
    lambda w, x: np.stack(list(w)),
    lambda w, x: np.zeros_like(w),
    lambda w, x: np.sum(x, where=w > 2),
    lambda w, x: w.sum(axis=0) + w.mean(),
    lambda w, x: w.copy(),
    lambda w, x: w.max() - w.min(axis=1),
    lambda w, x: w.astype(np.float64),
    lambda w, x: w.transpose(1, 0).ravel(),
    lambda w, x: w == 3,
    lambda w, x: w != x,
    lambda w, x: np.equal(w, w),
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_it_is_its_array_in_an_expression(
    device: ao.Backend, w: ao.Parameter, expression: Callable[[Any, Any], Any]
) -> None:
    x = DATA - 2
    got = device.asnumpy(expression(w, device.asarray(x)))
    expected = expression(DATA, x)
    assert got.dtype == expected.dtype
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_on_the_host_it_is_its_ndarray(expression: Callable[[Any, Any], Any]) -> None:
    w = ao.Parameter(DATA.copy(), name="w")
    x = DATA - 2
    assert np.array_equal(expression(w, x), expression(DATA, x))


def test_in_place_on_an_array_takes_a_parameter(device: ao.Backend, w: ao.Parameter) -> None:
    x = device.asarray(DATA)
    x += w
    assert np.array_equal(device.asnumpy(x), DATA + DATA)


ASSIGNMENTS: list[Callable[[Any, Any], Any]] = [
    lambda w, x: np.add(x, 1, out=w),
    lambda w, x: np.add(w, 1, out=w),
    lambda w, x: w.__iadd__(1),
    lambda w, x: np.sum(x[None], axis=0, out=w),
    lambda w, x: np.divmod(x, 2, out=(x, w)),
    lambda w, x: np.add.at(w, 0, 1),
]


@pytest.mark.parametrize("assign", ASSIGNMENTS)
def test_an_expression_cannot_assign_it(
    device: ao.Backend, w: ao.Parameter, assign: Callable[[Any, Any], Any]
) -> None:
    with pytest.raises(TypeError, match=r"'fc\.weight' cannot be assigned.*out=parameter\.data"):
        assign(w, device.asarray(DATA))
    assert np.array_equal(device.asnumpy(w.data), DATA)


def test_its_array_can_be_written(device: ao.Backend, w: ao.Parameter) -> None:
    np.multiply(w, 2, out=w.data)
    assert np.array_equal(device.asnumpy(w.data), DATA * 2)


def test_it_keeps_the_array_it_was_given(device: ao.Backend) -> None:
    array = device.asarray(DATA)
    assert ao.Parameter(array, name="w").data is array


def test_attributes_are_those_of_its_array(device: ao.Backend, w: ao.Parameter) -> None:
    assert (w.name, w.shape, w.size) == ("fc.weight", (2, 3), 6)
    assert w.dtype == np.float32
    assert (w.ndim, len(w), w.backend) == (2, 2, device)


def test_data_and_name_cannot_be_replaced(w: ao.Parameter) -> None:
    for attribute in ("data", "name", "shape", "anything"):
        with pytest.raises(AttributeError):
            setattr(w, attribute, None)


def test_a_0d_parameter_is_a_parameter(device: ao.Backend) -> None:
    w = ao.Parameter(device.asarray(np.float32(3)), name="scale")
    assert (w.shape, w.size, w.ndim) == ((), 1, 0)
    assert float(w * 2) == 6


@pytest.mark.parametrize("name", ["beta", "a.b/c d", "ünïcode", "0", " "])
def test_any_name_will_do(device: ao.Backend, name: str) -> None:
    assert ao.Parameter(device.asarray(DATA), name=name).name == name


@pytest.mark.parametrize("name", [None, 1, b"w", ["w"]])
def test_a_name_is_a_string(device: ao.Backend, name: Any) -> None:
    with pytest.raises(TypeError, match="name must be a string, got"):
        ao.Parameter(device.asarray(DATA), name=name)


def test_a_name_is_not_empty(device: ao.Backend) -> None:
    with pytest.raises(ValueError, match="name must not be empty"):
        ao.Parameter(device.asarray(DATA), name="")


@pytest.mark.parametrize("data", [None, 1.0, [1.0, 2.0], "data", np.float32(1)])
def test_data_is_an_array(data: Any) -> None:
    with pytest.raises(TypeError, match=r"'w': data must be an array on a device"):
        ao.Parameter(data, name="w")


def test_data_is_no_other_parameter(w: ao.Parameter) -> None:
    with pytest.raises(TypeError, match="data must be an array on a device"):
        ao.Parameter(w, name="w")


@pytest.mark.parametrize("view", [lambda x: x.T, lambda x: x[:, 1:], lambda x: x[:, ::-1]])
def test_data_is_contiguous(device: ao.Backend, view: Callable[[Any], Any]) -> None:
    for array in (device.asarray(DATA), DATA.copy()):
        with pytest.raises(ValueError, match=r"must be C-contiguous.*pass data\.copy\(\)"):
            ao.Parameter(view(array), name="w")


def test_it_is_not_converted_to_a_host_array(w: ao.Parameter) -> None:
    with pytest.raises(ao.ResidencyError, match=r"device\.asnumpy\(parameter\.data\)"):
        np.asarray(w)


def test_on_the_host_it_converts_to_its_array() -> None:
    data = DATA.copy()
    w = ao.Parameter(data, name="w")
    assert np.shares_memory(np.asarray(w), data)
    assert np.asarray(w, dtype=np.float64).dtype == np.float64
    assert w.backend is None


def test_a_host_operand_is_refused_as_for_its_array(w: ao.Parameter) -> None:
    for mix in (lambda: w + DATA, lambda: DATA + w, lambda: np.concatenate([w, DATA])):
        with pytest.raises(ao.ResidencyError):
            mix()


def test_a_repr_shows_name_shape_dtype_and_backend(w: ao.Parameter) -> None:
    assert repr(w) == "Parameter('fc.weight', shape=(2, 3), dtype=float32, backend=numpy)"
    assert repr(ao.Parameter(DATA.copy(), "h")).endswith("backend=host)")


def test_a_stand_in_takes_its_place_and_no_others(device: ao.Backend, w: ao.Parameter) -> None:
    other = ao.Parameter(device.asarray(DATA), name="other")
    token = stand_ins.set({id(w): device.asarray(np.zeros((2, 3), np.float32))})
    try:
        results = [np.sum(w), np.sum(w.T), np.sum(w[0]), np.sum(w.reshape(-1)), np.add(w, 0).sum()]
        assert [float(result) for result in results] == [0] * 5
        assert float(np.sum(other)) == 21
    finally:
        stand_ins.reset(token)
    assert float(np.sum(w)) == 21


def test_it_is_found_by_identity(device: ao.Backend, w: ao.Parameter) -> None:
    v = ao.Parameter(device.asarray(DATA), name="fc.weight")
    assert w in [v, w]
    assert w not in [v]
    assert [v, w].index(w) == 1
    assert {w: 1, v: 2}[v] == 2
    assert len({w, v, w}) == 2
    assert (w == w, w == v, w != v, w != w) == (True, False, True, False)
    frozen = ao.Parameter(DATA.copy(), name="frozen")
    assert frozen not in [w, v]


def test_methods_do_not_write(w: ao.Parameter) -> None:
    copied = w.copy()
    copied[...] = 0
    assert float(w.sum()) == 21
    for name in ("fill", "sort", "put", "resize", "partition"):
        assert not hasattr(w, name)


def test_methods_are_traced() -> None:
    w = ao.Parameter(DATA.astype(np.float64), name="w")
    (g,) = ao.value_and_grad(lambda: w.sum() * w.mean() + w.copy()[0, 0], [w])()[1]
    expected = np.full((2, 3), 3.5 + 21 / 6)
    expected[0, 0] += 1
    np.testing.assert_array_equal(g, expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numpy", r"device\.asnumpy\(x\), of a Parameter its \.data"),
        ("grad", "gradients are returned, not kept: .*value_and_grad"),
        ("requires_grad", "second argument of value_and_grad"),
        ("backward", "gradients are returned"),
        ("detach", "stop_gradient"),
        ("anything", r"its array is \.data"),
    ],
)
def test_what_it_does_not_have_has_a_hint(w: ao.Parameter, name: str, message: str) -> None:
    with pytest.raises(
        AttributeError, match=rf"'fc\.weight' has no attribute '{name}'; .*{message}"
    ):
        getattr(w, name)


@pytest.mark.parametrize("attempt", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_is_neither_copied_nor_pickled(w: ao.Parameter, attempt: Callable[[Any], Any]) -> None:
    for parameter in (w, ao.Parameter(DATA.copy(), "fc.weight")):
        with pytest.raises(
            TypeError, match=r"'fc\.weight' is neither copied.*w\.copy\(\).*asnumpy"
        ):
            attempt(parameter)
