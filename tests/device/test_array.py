"""`DeviceArray` computes what NumPy computes, stays on its device, and counts every byte."""

from __future__ import annotations

import copy
import gc
import io
import operator
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import adamoffload as ao
from adamoffload.device.array import DeviceArray, MemoryPool, span, storage

ResidencyError = ao.ResidencyError
many = settings(deadline=None, derandomize=True, max_examples=25)


@pytest.fixture
def device() -> ao.Backend:
    return ao.get_backend("numpy")


@pytest.fixture
def x(device: ao.Backend) -> Any:
    return device.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))


def used(device: ao.Backend) -> int:
    return device.memory().used


def assert_same(device: ao.Backend, got: Any, expected: Any) -> None:
    """Compare bitwise: structure, dtype, shape and bytes."""
    if isinstance(expected, list | tuple):
        assert isinstance(got, list | tuple)
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(device, one, other)
        return
    expected = np.asarray(expected)
    host = device.asnumpy(got)
    assert host.dtype == expected.dtype
    assert host.shape == expected.shape
    assert host.tobytes() == expected.tobytes()


# -- the same numbers as NumPy ------------------------------------------------------------------

FLOATS = st.floats(-8, 8, width=32)
MATRICES = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=FLOATS)

ONE_ARRAY: list[Callable[[Any], Any]] = [
    lambda a: a + 1,
    lambda a: 1 - a,
    lambda a: 2.5 * a,
    lambda a: a * np.float32(0.1),
    lambda a: a * np.float64(0.1),
    lambda a: a / 3,
    lambda a: a // 2,
    lambda a: a % 3,
    lambda a: a**2,
    lambda a: -a,
    lambda a: +a,
    lambda a: abs(a),
    lambda a: a > 0,
    lambda a: ~(a > 0) & (a < 3) | (a == 1),
    lambda a: divmod(a, 2),
    lambda a: np.exp(a),
    lambda a: np.tanh(a),
    lambda a: np.sqrt(np.abs(a)),
    lambda a: np.modf(a),
    lambda a: np.frexp(a),
    lambda a: np.maximum(a, 0),
    lambda a: np.logaddexp(a, a),
    lambda a: a @ a.T,
    lambda a: np.add.reduce(a, axis=1),
    lambda a: np.add.reduce(a, axis=None),
    lambda a: np.add.reduce(a, axis=()),
    lambda a: np.multiply.accumulate(a, axis=0),
    lambda a: np.subtract.outer(a, a),
    lambda a: np.add.reduce(a, axis=0, keepdims=True, initial=2),
    lambda a: np.sum(a),
    lambda a: np.sum(a, axis=0),
    lambda a: np.sum(a, axis=(0, 1), keepdims=True),
    lambda a: np.sum(a, where=a > 0),
    lambda a: np.mean(a, axis=-1),
    lambda a: np.var(a),
    lambda a: np.std(a, axis=0),
    lambda a: np.max(a),
    lambda a: np.min(a, axis=1),
    lambda a: np.prod(a),
    lambda a: np.median(a),
    lambda a: np.quantile(a, [0.25, 0.5]),
    lambda a: np.ptp(a),
    lambda a: np.argmax(a, axis=1),
    lambda a: np.argmin(a),
    lambda a: np.any(a > 2),
    lambda a: np.all(a < 9),
    lambda a: np.count_nonzero(a),
    lambda a: np.cumsum(a),
    lambda a: np.cumprod(a, axis=1),
    lambda a: np.diff(a, axis=0),
    lambda a: np.sort(a, axis=0),
    lambda a: np.argsort(a, axis=1, kind="stable"),
    lambda a: np.unique(a),
    lambda a: np.unique(a, return_counts=True),
    lambda a: np.nonzero(a),
    lambda a: np.round(a, 1),
    lambda a: np.clip(a, -1, 1),
    lambda a: np.nan_to_num(a),
    lambda a: np.where(a > 0, a, 0),
    lambda a: np.where(a > 0, a, -a),
    lambda a: np.concatenate([a, a], axis=1),
    lambda a: np.concatenate((a, a)),
    lambda a: np.stack([a, a + 1], axis=-1),
    lambda a: np.vstack([a, a]),
    lambda a: np.hstack([a, a]),
    lambda a: np.split(a, 1),
    lambda a: np.split(a, [1], axis=1),
    lambda a: np.array_split(a, 3),
    lambda a: np.tile(a, (2, 1)),
    lambda a: np.repeat(a, 2, axis=0),
    lambda a: np.roll(a, 1),
    lambda a: np.flip(a, 0),
    lambda a: np.pad(a, [(1, 0), (0, 2)]),
    lambda a: np.reshape(a, -1),
    lambda a: np.ravel(a),
    lambda a: np.transpose(a),
    lambda a: np.swapaxes(a, 0, 1),
    lambda a: np.moveaxis(a, 0, 1),
    lambda a: np.expand_dims(a, 1),
    lambda a: np.squeeze(a[None]),
    lambda a: np.atleast_1d(a),
    lambda a: np.broadcast_to(a, (2, *a.shape)),
    lambda a: np.take(a, np.argmax(a, axis=1), axis=1),
    lambda a: np.take_along_axis(a, np.argsort(a, axis=1), axis=1),
    lambda a: np.tril(a),
    lambda a: np.diagonal(a),
    lambda a: np.trace(a),
    lambda a: np.dot(a, a.T),
    lambda a: np.inner(a, a),
    lambda a: np.outer(a, a),
    lambda a: np.einsum("ij,kj->ik", a, a),
    lambda a: np.tensordot(a, a, axes=([0, 1], [0, 1])),
    lambda a: np.linalg.norm(a),
    lambda a: np.zeros_like(a),
    lambda a: np.full_like(a, 7),
    lambda a: np.allclose(a, a),
    lambda a: np.array_equal(a, a + 1),
    lambda a: a.sum(),
    lambda a: a.mean(axis=0, keepdims=True),
    lambda a: a.reshape(-1, 1),
    lambda a: a.reshape((1, -1)),
    lambda a: a.astype(np.float64),
    lambda a: a.astype(int) + 1,
    lambda a: a.transpose(1, 0),
    lambda a: a.dot(a.T),
    lambda a: a.clip(0, 1),
    lambda a: a.copy(),
    lambda a: a.flatten(),
    lambda a: a[0],
    lambda a: a[-1, -1],
    lambda a: a[:, ::-1],
    lambda a: a[..., None, 0],
    lambda a: a[a > 0],
    lambda a: a[np.argmax(a, axis=1)[:1] * 0],
    lambda a: a[np.argmin(a) * 0],
]


@pytest.mark.parametrize("function", ONE_ARRAY)
@settings(many, max_examples=8)
@given(host=MATRICES)
def test_an_expression_is_bitwise_that_of_numpy(
    function: Callable[[Any], Any], host: np.ndarray[Any, Any]
) -> None:
    device = ao.get_backend("numpy")
    with np.errstate(all="ignore"):
        assert_same(device, function(device.asarray(host)), function(host))


@many
@given(data=st.data())
def test_two_operands_broadcast_and_promote_as_in_numpy(data: st.DataObject) -> None:
    device = ao.get_backend("numpy")
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3))
    dtypes = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8])
    a, b = (
        np.ones(shape, data.draw(dtypes)) * data.draw(st.integers(1, 9))
        for shape in shapes.input_shapes
    )
    for ufunc in (np.add, np.multiply, np.true_divide, np.arctan2, np.less):
        assert_same(device, ufunc(device.asarray(a), device.asarray(b)), ufunc(a, b))


@many
@given(batch=st.integers(0, 3), n=st.integers(1, 4), k=st.integers(1, 4), seed=st.integers(0, 99))
def test_matmul_is_batched(batch: int, n: int, k: int, seed: int) -> None:
    device = ao.get_backend("numpy")
    a = np.random.default_rng(seed).standard_normal((batch, n, k))
    b = np.random.default_rng(seed + 1).standard_normal((k, n))
    assert_same(device, device.asarray(a) @ device.asarray(b), a @ b)


@pytest.mark.parametrize("scalar", [2, 2.0, True, np.float32(2), np.float64(2), np.int64(2), 2j])
def test_a_scalar_operand_promotes_as_in_numpy(device: ao.Backend, scalar: Any) -> None:
    host = np.ones(2, np.float32)
    assert_same(device, device.asarray(host) * scalar, host * scalar)
    assert_same(device, scalar * device.asarray(host), scalar * host)


@many
@given(data=st.data())
def test_basic_indexing_is_that_of_numpy_and_a_view(data: st.DataObject) -> None:
    device = ao.get_backend("numpy")
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=4))
    host = np.arange(np.prod(shape)).reshape(shape)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    array = device.asarray(host)
    before = used(device)
    view = array[index]
    assert_same(device, view, host[index])
    assert used(device) == before
    view[...] = -1
    host[index] = -1
    assert_same(device, array, host)


@many
@given(data=st.data())
def test_index_arrays_on_the_device_index_as_in_numpy(data: st.DataObject) -> None:
    device = ao.get_backend("numpy")
    host = np.arange(12.0).reshape(3, 4)
    rows = data.draw(hnp.arrays(np.int64, st.integers(0, 5), elements=st.integers(-3, 2)))
    mask = data.draw(hnp.arrays(bool, (3, 4)))
    array = device.asarray(host)
    assert_same(device, array[device.asarray(rows)], host[rows])
    assert_same(device, array[device.asarray(rows), 1:], host[rows, 1:])
    assert_same(device, array[device.asarray(mask)], host[mask])
    array[device.asarray(mask)] = 5
    host[mask] = 5
    array[device.asarray(rows)] = device.asarray(np.float64(7))
    host[rows] = 7
    assert_same(device, array, host)


# -- ufunc machinery ----------------------------------------------------------------------------


def test_out_is_written_and_returned(device: ao.Backend, x: Any) -> None:
    out = np.zeros_like(x)
    before = used(device)
    assert np.add(x, 1, out=out) is out
    assert used(device) == before
    assert_same(device, out, device.asnumpy(x) + 1)


def test_a_none_among_two_outputs_is_made(device: ao.Backend, x: Any) -> None:
    out = np.zeros_like(x)
    outputs: Any = (None, out)
    quotient, remainder = np.divmod(x, 2, out=outputs)
    assert remainder is out
    assert_same(device, (quotient, remainder), np.divmod(device.asnumpy(x), np.float32(2)))


def test_out_of_none_is_no_out(device: ao.Backend, x: Any) -> None:
    for out in (None, (None,)):
        none: Any = out
        assert_same(device, np.add(x, 1, out=none), device.asnumpy(x) + 1)


def test_out_of_an_array_function_is_returned(device: ao.Backend, x: Any) -> None:
    out = device.asarray(np.zeros(3, np.float32))
    assert np.sum(x, axis=0, out=out) is out
    assert x.sum(axis=0, out=out) is out
    assert_same(device, out, device.asnumpy(x).sum(axis=0))


def test_where_selects_what_is_written(device: ao.Backend, x: Any) -> None:
    np.add(x, 10, out=x, where=x > 2)
    assert_same(device, x, np.array([[0, 1, 2], [13, 14, 15]], np.float32))


@pytest.mark.parametrize("index", [0, slice(0, 1), "array"])
def test_at_adds_unbuffered(device: ao.Backend, x: Any, index: Any) -> None:
    expected = device.asnumpy(x)
    host_index = np.array([0, 0, 1]) if index == "array" else index
    np.add.at(expected, host_index, 1)
    np.add.at(x, device.asarray(host_index) if index == "array" else index, 1)
    assert_same(device, x, expected)


def test_reduceat_takes_indices_on_the_device(device: ao.Backend) -> None:
    host, indices = np.arange(5.0), np.array([0, 2])
    got = np.add.reduceat(device.asarray(host), device.asarray(indices))
    assert_same(device, got, np.add.reduceat(host, indices))


@pytest.mark.parametrize("operator", ["iadd", "isub", "imul", "itruediv", "ipow", "ifloordiv"])
def test_an_in_place_operator_allocates_nothing(device: ao.Backend, x: Any, operator: str) -> None:
    expected = device.asnumpy(x)
    ufunc = {
        "iadd": np.add,
        "isub": np.subtract,
        "imul": np.multiply,
        "itruediv": np.true_divide,
        "ipow": np.power,
        "ifloordiv": np.floor_divide,
    }[operator]
    before = device.memory()
    same = getattr(x, f"__{operator}__")(2)
    assert same is x
    assert device.memory() == before
    assert_same(device, x, ufunc(expected, 2))


def test_a_reduction_is_a_0d_device_array(x: Any) -> None:
    for result in (np.sum(x), x.max(), np.add.reduce(x, axis=None), np.argmax(x), x[0, 0]):
        assert isinstance(result, DeviceArray)
        assert result.shape == ()


def test_a_comparison_of_whole_arrays_is_a_device_array(x: Any) -> None:
    assert isinstance(np.array_equal(x, x), DeviceArray)
    assert bool(np.allclose(x, x))


def test_metadata_functions_answer_on_the_host(x: Any) -> None:
    assert np.shape(x) == (2, 3)
    assert np.ndim(x) == 2
    assert np.size(x) == 6
    assert np.result_type(x, np.float64) == np.float64
    assert np.shares_memory(x, x[0]) is True


def test_attributes_are_those_of_the_array(device: ao.Backend, x: Any) -> None:
    assert (x.shape, x.dtype, x.ndim, x.size) == ((2, 3), np.float32, 2, 6)
    assert (x.nbytes, x.itemsize, x.strides, len(x)) == (24, 4, (12, 4), 2)
    assert x.device is device
    assert x.flags.c_contiguous
    assert not x.T.flags.c_contiguous


def test_iteration_yields_views_of_the_rows(device: ao.Backend, x: Any) -> None:
    for row in x:
        row += 1
    assert_same(device, x, np.arange(1, 7, dtype=np.float32).reshape(2, 3))


def test_fill_sets_every_element(device: ao.Backend, x: Any) -> None:
    x.fill(np.sum(x))
    assert_same(device, x, np.full((2, 3), 15, np.float32))


def test_repr_shows_no_numbers(device: ao.Backend, x: Any) -> None:
    assert repr(x) == f"{x}" == "DeviceArray(shape=(2, 3), dtype=float32, device='numpy')"
    assert device.traffic().d2h == 0


# -- no implicit way to the host, and none from it -----------------------------------------------


def host_like(x: Any) -> np.ndarray[Any, Any]:
    return np.zeros(x.shape, x.dtype)


TO_HOST: dict[str, Callable[[Any], Any]] = {
    "asarray": lambda x: np.asarray(x),
    "array": lambda x: np.array(x),
    "array of list": lambda x: np.array([x, x]),
    "array of 0-D list": lambda x: np.array([x[0, 0], x[0, 1]]),
    "array as objects": lambda x: np.array([x, 1], dtype=object),
    "ascontiguousarray": lambda x: np.ascontiguousarray(x),
    "full": lambda x: np.full(3, x[0, 0]),
    "arange": lambda x: np.arange(x[0, 0]),
    "float32": lambda x: np.float32(x[0, 0]),
    "assign all": lambda x: host_like(x).__setitem__(Ellipsis, x),
    "assign row": lambda x: host_like(x).__setitem__(0, x[0]),
    "assign list": lambda x: host_like(x)[0].__setitem__([0, 1], [x[0, 0], x[0, 1]]),
    "host index": lambda x: host_like(x)[x.astype(int)],
    "host mask": lambda x: host_like(x).__setitem__(x > 1, 0),
    "host dot": lambda x: host_like(x).dot(x),
    "host put": lambda x: host_like(x).put(0, x[0, 0]),
    "r_": lambda x: np.r_[x, x],
    "testing equal": lambda x: np.testing.assert_array_equal(x, host_like(x)),
    "testing allclose": lambda x: np.testing.assert_allclose(host_like(x), x),
    "concatenate nested": lambda x: np.concatenate([[x, x], [x, x]]),
    "random": lambda x: np.random.default_rng(0).normal(x),
    "format": lambda x: f"{x[0, 0]:.3f}",
    "pickle": lambda x: pickle.dumps(x),
}

MIXED: dict[str, Callable[[Any, Any], Any]] = {
    "left": lambda x, h: x + h,
    "right": lambda x, h: h + x,
    "host in place": lambda x, h: h.__iadd__(x),
    "device in place": lambda x, h: x.__iadd__(h),
    "matmul": lambda x, h: h.T @ x,
    "list operand": lambda x, h: x + h.tolist(),
    "0-D host array": lambda x, h: x + np.array(1.0),
    "out": lambda x, h: np.add(x, x, out=h),
    "out from host": lambda x, h: np.add(h, h, out=x),
    "where": lambda x, h: np.add(x, x, out=x, where=h > 0),
    "where list": lambda x, h: np.add(x, x, out=x, where=[True, True, False]),
    "function out": lambda x, h: np.sum(x, axis=0, out=h[0]),
    "concatenate": lambda x, h: np.concatenate([x, h]),
    "concatenate list": lambda x, h: np.concatenate([x, h.tolist()]),
    "nested list": lambda x, h: np.concatenate([x, [h[0], h[1]]]),
    "stack tuple": lambda x, h: np.stack((h, x)),
    "np.where": lambda x, h: np.where(x > 0, h, x),
    "np.where list": lambda x, h: np.where([True, False, True], x, x),
    "dot list": lambda x, h: np.dot(x, [1, 2, 3]),
    "method dot": lambda x, h: x.dot(h.T),
    "method dot list": lambda x, h: x.dot([1, 2, 3]),
    "take list": lambda x, h: np.take(x, [0, 1]),
    "take method": lambda x, h: x.take([0, 1]),
    "clip keyword": lambda x, h: np.clip(x, None, a_max=h),
    "index": lambda x, h: x[np.array([0, 1])],
    "mask": lambda x, h: x[h > 0],
    "index list": lambda x, h: x[[0, 1]],
    "index range": lambda x, h: x[range(2)],
    "index in tuple": lambda x, h: x[0, np.array([0])],
    "setitem": lambda x, h: x.__setitem__(Ellipsis, h),
    "setitem list": lambda x, h: x.__setitem__(0, [1, 2, 3]),
    "setitem index": lambda x, h: x.__setitem__(np.array([0]), 1),
    "at": lambda x, h: np.add.at(x, np.array([0]), 1),
    "reduceat list": lambda x, h: np.add.reduceat(x, [0, 1]),
    "copyto device": lambda x, h: np.copyto(x, h),
    "copyto host": lambda x, h: np.copyto(h, x),
    "copyto list": lambda x, h: np.copyto(x, [1, 2, 3]),
}


@pytest.mark.parametrize("way", TO_HOST)
def test_there_is_no_implicit_way_to_the_host(device: ao.Backend, x: Any, way: str) -> None:
    with pytest.raises(ResidencyError, match=r"asnumpy\(x\)|float\(x\)"):
        TO_HOST[way](x)
    assert device.traffic().d2h == 0


@pytest.mark.parametrize("way", MIXED)
def test_host_and_device_do_not_mix(device: ao.Backend, x: Any, way: str) -> None:
    traffic = device.traffic()
    before = device.asnumpy(x)
    with pytest.raises(ResidencyError, match=r"call device\.asarray\("):
        MIXED[way](x, np.ones((2, 3), np.float32))
    assert_same(device, x, before)
    assert device.traffic().h2d == traffic.h2d


def test_save_is_refused_and_names_the_explicit_copy(x: Any) -> None:
    with pytest.raises(TypeError, match=r"np\.save .*device\.asnumpy\(x\)"):
        np.save(io.BytesIO(), x)


def test_there_is_no_buffer_and_no_array_interface(x: Any) -> None:
    with pytest.raises(TypeError):
        memoryview(x)
    with pytest.raises(TypeError):
        np.frombuffer(x)
    assert not hasattr(x, "__array_interface__")  # DLPack is asked for by name: `Resident`


ACROSS: list[Callable[[Any, Any], Any]] = [
    lambda x, y: x + y,
    lambda x, y: np.add(x, x, out=y),
    lambda x, y: np.concatenate([x, y]),
    lambda x, y: x[y.astype(bool)],
    lambda x, y: x.__setitem__(Ellipsis, y),
    lambda x, y: x.dot(y),
]


@pytest.mark.parametrize("function", ACROSS)
def test_two_devices_do_not_mix(x: Any, function: Callable[[Any, Any], Any]) -> None:
    other = ao.get_backend("numpy")
    with pytest.raises(ResidencyError, match=r"different devices.*a\.asarray\(b\.asnumpy\(x\)\)"):
        function(x, other.asarray(np.ones((2, 3), np.float32)))


def test_a_residency_error_is_a_type_error() -> None:
    assert issubclass(ResidencyError, TypeError)


@pytest.mark.parametrize("name", ["linspace", "fft.fft", "polyval"])
def test_an_unsupported_function_says_so(x: Any, name: str) -> None:
    function = operator.attrgetter(name)(np)
    with pytest.raises(TypeError, match=rf"^np\.{name} does not run on device 'numpy'.*asnumpy"):
        function(x, 1)


def test_an_unknown_attribute_points_to_the_host(x: Any) -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'tolist'.*asnumpy"):
        x.tolist()


def test_an_operand_of_another_kind_is_a_type_error(x: Any) -> None:
    for stranger in (None, "text", object()):
        with pytest.raises(TypeError):
            x + stranger
        with pytest.raises(TypeError):
            x[...] = stranger


# -- explicit copies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("convert", "expected"), [(float, 5.0), (int, 5), (bool, True), (complex, 5 + 0j)]
)
def test_a_conversion_is_explicit_and_counted(
    device: ao.Backend, x: Any, convert: Any, expected: Any
) -> None:
    for one in (x[1, 2], x[1:, 2:]):
        before = device.traffic().d2h
        got = convert(one)
        assert type(got) is convert
        assert got == expected
        assert device.traffic().d2h == before + 4


def test_item_returns_a_python_number(device: ao.Backend, x: Any) -> None:
    assert type(x[1, 2].item()) is float
    assert device.traffic().d2h == 4


@pytest.mark.parametrize(
    ("convert", "error"), [(float, TypeError), (int, TypeError), (bool, ValueError)]
)
def test_a_refused_conversion_copies_nothing(
    device: ao.Backend, x: Any, convert: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"shape \(2, 3\)"):
        convert(x)
    assert device.traffic().d2h == 0


def test_copy_and_deepcopy_stay_on_the_device(device: ao.Backend, x: Any) -> None:
    for twin in (copy.copy(x), copy.deepcopy(x)):
        assert twin.device is device
        assert not np.shares_memory(twin, x)
        assert_same(device, twin, device.asnumpy(x))


# -- memory to the byte ---------------------------------------------------------------------------


@pytest.fixture
def no_gc() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


VIEWS: list[Callable[[Any], Any]] = [
    lambda x: x[0],
    lambda x: x[0, 0],
    lambda x: x[0][1:][::-1],
    lambda x: x.T,
    lambda x: x.reshape(-1),
    lambda x: np.transpose(x)[0],
    lambda x: np.broadcast_to(x, (4, 2, 3)),
    lambda x: np.split(x, 2)[1],
    lambda x: np.diagonal(x),
    lambda x: np.einsum("ij->ji", x),
    lambda x: x.astype(np.float32, copy=False),
    lambda x: np.atleast_1d(x),
]


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("view", VIEWS)
def test_memory_lives_exactly_as_long_as_its_last_view(view: Callable[[Any], Any]) -> None:
    device = ao.get_backend("numpy")
    base = device.asarray(np.zeros((2, 3), np.float32))
    seen = view(base)
    assert used(device) == 24
    del base
    assert used(device) == 24
    del seen
    assert used(device) == 0


@pytest.mark.usefixtures("no_gc")
def test_an_expression_frees_its_temporaries() -> None:
    device = ao.get_backend("numpy")
    x = device.asarray(np.zeros(100, np.float32))
    y = np.exp(x * 2 + 1) - x
    assert used(device) == 800
    assert device.memory().peak == 1200
    del y
    assert used(device) == 400


def test_a_new_result_is_counted_to_the_byte(device: ao.Backend, x: Any) -> None:
    kept = [x + 1, x > 0, np.sum(x), x[x > 1], np.stack([x, x]), np.divmod(x, 2)]
    assert used(device) == 24 + 24 + 6 + 4 + 16 + 48 + 48
    del kept
    assert used(device) == 24


@pytest.mark.parametrize(
    ("operation", "requested"),
    [
        (lambda x: x + 1, 400),
        (lambda x: x.copy(), 400),
        (lambda x: np.concatenate([x, x]), 800),
    ],
)
def test_a_result_that_does_not_fit_is_refused_and_changes_nothing(
    operation: Callable[[Any], Any], requested: int
) -> None:
    device = ao.get_backend("numpy", memory_bytes=1000)
    x = device.asarray(np.arange(100, dtype=np.float32))
    y = device.asarray(np.zeros(100, np.float32))
    with pytest.raises(ao.DeviceMemoryError) as caught:
        operation(x)
    error = caught.value
    assert (error.requested_bytes, error.used_bytes, error.limit_bytes) == (requested, 800, 1000)
    assert device.memory() == (800, 800, 1000)
    assert_same(device, x, np.arange(100, dtype=np.float32))
    del y
    if requested <= 600:
        operation(x)


def test_of_two_results_none_stays_if_one_does_not_fit() -> None:
    device = ao.get_backend("numpy", memory_bytes=100)
    x = device.asarray(np.zeros(10, np.float32))
    with pytest.raises(ao.DeviceMemoryError) as caught:
        np.divmod(x, 2)
    assert caught.value.used_bytes == 80
    assert used(device) == 40


def test_a_result_that_fits_exactly_is_made() -> None:
    device = ao.get_backend("numpy", memory_bytes=800)
    x = device.asarray(np.zeros(100, np.float32))
    y = x + 1
    assert device.memory() == (800, 800, 800)
    with pytest.raises(ao.DeviceMemoryError):
        device.asarray(np.zeros(1, np.int8))
    del y


def test_many_threads_that_allocate_and_free_end_at_zero() -> None:
    device = ao.get_backend("numpy")
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for n in range(1, 200):
            x = device.asarray(np.zeros(n, np.float32))
            (x[: n // 2] + 1).reshape(-1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert used(device) == 0
    assert device.memory().peak <= 8 * 199 * 4 * 2


def test_the_pool_counts_reservations_and_their_peak() -> None:
    pool = MemoryPool("dev", 100)
    pool.reserve(60)
    pool.reserve(40)
    pool.release(60)
    assert pool.memory() == (40, 100, 100)
    with pytest.raises(ao.DeviceMemoryError, match="61 bytes requested with 40 of 100 in use"):
        pool.reserve(61)
    assert pool.memory() == (40, 100, 100)


@pytest.mark.parametrize(
    ("limit", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("1", TypeError)]
)
def test_the_pool_refuses_a_limit_that_is_none(limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="dev: memory_bytes must be"):
        MemoryPool("dev", limit)


def test_storage_is_the_memory_itself(device: ao.Backend, x: Any) -> None:
    storage(x)[0, 0] = 9
    assert float(x[0, 0]) == 9


# -- other libraries' operands --------------------------------------------------------------------


class Foreign:
    """Answers for itself, like a tape's variable."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> str:
        return "ufunc"

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> str:
        return "function"


def test_an_operand_with_protocols_of_its_own_is_asked(x: Any) -> None:
    foreign: Any = Foreign()
    assert np.add(x, foreign) == "ufunc"
    assert np.add(foreign, x) == "ufunc"
    assert np.concatenate([x, foreign]) == "function"
    assert x.dot(foreign) == "function"


def test_a_method_refuses_a_foreign_argument_that_numpy_does_not_dispatch(x: Any) -> None:
    with pytest.raises(TypeError):
        x.flatten(Foreign())


# -- what is reported to a device that keeps time -------------------------------------------------


def test_every_operation_that_makes_or_writes_an_array_is_observed() -> None:
    seen: list[tuple[str, bool]] = []
    device = ao.get_backend("numpy")
    x = device.asarray(np.ones((2, 2), np.float32))
    device._pool.observe = lambda name, inputs, made, out: seen.append((name, out is None))  # type: ignore[attr-defined]
    y = x + 1
    np.add(x, y, out=y)
    np.add.at(x, device.asarray(np.array([0, 1])), 1)
    np.divmod(x, 2, out=(y, None))  # type: ignore[arg-type]
    x.sum()
    np.copyto(x, y)
    x[0] = 2
    x.copy()
    x[device.asarray(np.array([0]))]
    x[0], x.T.reshape(-1), np.shape(x)
    assert seen == [
        ("add", True),
        ("add", False),
        ("add", False),
        ("divmod", False),
        ("sum", True),
        ("copyto", False),
        ("copyto", False),
        ("copy", True),
        ("take", True),
        ("copy", True),  # x.T is not contiguous
    ]


def test_the_span_of_a_view_is_inside_that_of_its_array() -> None:
    x = ao.get_backend("numpy").asarray(np.zeros((4, 8), np.float32))
    start, stop = span(x)
    assert stop - start == 128
    assert span(x[1]) == (start + 32, start + 64)
    assert span(x[::-1, 2:4]) == (start + 8, start + 112)
    assert span(x.T) == (start, stop)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numpy", r"device\.asnumpy"),
        ("grad", "value_and_grad"),
        ("tofile", "NumPy's full interface"),
    ],
)
def test_what_an_array_does_not_have_has_a_hint(x: Any, name: str, message: str) -> None:
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}'; .*{message}"):
        getattr(x, name)


def test_what_merely_says_that_it_is_a_device_array_is_none() -> None:
    class Liar:
        @property
        def __class__(self) -> Any:
            return DeviceArray

        @__class__.setter
        def __class__(self, _: Any) -> None: ...

    class Mute:
        @property
        def __class__(self) -> Any:
            raise RuntimeError("no comment")

        @__class__.setter
        def __class__(self, _: Any) -> None: ...

    assert not isinstance(Liar(), DeviceArray)
    assert not isinstance(Mute(), DeviceArray)
