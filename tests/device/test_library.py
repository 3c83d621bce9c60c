"""The wrapper that makes a library's arrays answer ``np.*``: here the library is NumPy itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.testing import BackendContract, NewDevice

from library_of_numpy import LibraryOfNumpy


class TestLibraryOfNumpy(BackendContract):
    elements = 1 << 12

    @pytest.fixture
    def new_device(self) -> NewDevice:
        return LibraryOfNumpy


@pytest.fixture
def device() -> LibraryOfNumpy:
    return LibraryOfNumpy()


def put(device: ao.Backend, *values: Any, dtype: Any = np.float32) -> Any:
    return device.asarray(np.array(values, dtype))


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int32, np.int64, np.float16, np.float32])
@pytest.mark.parametrize("number", [True, 2, 0.5, np.float32(0.5), np.float64(0.5), np.int8(3)])
@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.divide, np.less, np.maximum])
def test_a_ufunc_returns_the_type_that_numpy_returns(
    device: LibraryOfNumpy, ufunc: np.ufunc, number: Any, dtype: Any
) -> None:
    host = np.array([1, 1, 1], dtype)
    for left, right in ((host, number), (number, host)):
        there = [device.asarray(x) if x is host else x for x in (left, right)]
        expected, found = ufunc(left, right), ufunc(*there)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(device.asnumpy(found), expected)


def test_out_is_written_also_where_it_overlaps_an_operand(device: LibraryOfNumpy) -> None:
    host = np.arange(6, dtype=np.float32)
    x = device.asarray(host)
    assert np.add(x[:-1], x[1:], out=x[1:]) is not None
    np.add(host[:-1], host[1:].copy(), out=host[1:])
    np.testing.assert_array_equal(device.asnumpy(x), [0, 1, 3, 5, 7, 9])


def test_out_of_another_type_follows_numpys_casting(device: LibraryOfNumpy) -> None:
    x, whole = put(device, 1.5, 2.5), put(device, 0, 0, dtype=np.int32)
    half = put(device, 0, 0, dtype=np.float16)
    np.add(x, x, out=half)
    np.testing.assert_array_equal(device.asnumpy(half), np.array([3, 5], np.float16))
    with pytest.raises(TypeError, match="cannot write float32 into out, of int32"):
        np.add(x, x, out=whole)


def test_what_does_not_run_is_named(device: LibraryOfNumpy) -> None:
    x = put(device, 1, 2)
    with pytest.raises(TypeError, match=r"np\.add\.reduce does not run on device 'library'"):
        np.add.reduce(x)
    with pytest.raises(TypeError, match=r"np\.add with where does not run"):
        np.add(x, x, where=np.True_)
    with pytest.raises(AttributeError, match="NumPy's full interface is on the host"):
        x.tobytes()


def test_flags_and_strides_are_numpys(device: LibraryOfNumpy) -> None:
    host = np.zeros((2, 3, 1), np.float32)
    views: list[Callable[[Any], Any]] = [
        lambda a: a,
        lambda a: a.T,
        lambda a: a[:, 1:],
        lambda a: a[:1],
        lambda a: a[:0],
    ]
    for view in views:
        mine, theirs = view(device.asarray(host)), view(host)
        assert mine.flags.c_contiguous == theirs.flags.c_contiguous
        assert mine.flags.f_contiguous == theirs.flags.f_contiguous
        assert mine.strides == theirs.strides
    x = device.asarray(host)
    assert x.flags.owndata
    assert not x[1:].flags.owndata


def test_methods_are_those_of_the_functions(device: LibraryOfNumpy) -> None:
    host = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = device.asarray(host)
    uses: list[Callable[[Any], Any]] = [
        lambda a: a.sum(axis=0),
        lambda a: a.transpose(1, 0),
        lambda a: a.transpose(),
        lambda a: a.reshape(3, 2),
        lambda a: a.reshape(-1),
        lambda a: a.T.flatten(),
        lambda a: a.astype(np.int32),
        lambda a: a.clip(1, 3),
        lambda a: a.T.copy(),
    ]
    for use in uses:
        np.testing.assert_array_equal(device.asnumpy(use(x)), use(host))
    assert x.T.copy().flags.c_contiguous
    assert (len(x), [part.shape for part in x], float(x[1, 2])) == (2, [(3,), (3,)], 5.0)


def test_assigning_what_is_elsewhere_is_refused(device: LibraryOfNumpy) -> None:
    x = put(device, 1, 2)
    with pytest.raises(ao.ResidencyError, match=r"call device\.asarray"):
        x[0] = np.zeros(1)
    with pytest.raises(TypeError, match="cannot assign an object of type str"):
        x[0] = "1"
    with pytest.raises(ao.ResidencyError, match="operands are on different devices"):
        x + put(LibraryOfNumpy(), 1, 2)


def test_memory_of_others_is_wrapped_without_being_counted(device: LibraryOfNumpy) -> None:
    host = np.zeros(3, np.float32)
    x = device._wrapped(host)
    x += 1
    assert (host == 1).all()
    assert device.memory().used == 0
    assert np.may_share_memory(x[1:], x)
    assert not np.may_share_memory(x[1:], x[:1])
    np.testing.assert_array_equal(np.from_dlpack(x), host)


def test_bytes_seen_as_another_type_are_counted_once(device: LibraryOfNumpy) -> None:
    x = put(device, 1.0, -2.0)
    bits = x.view(np.int32)
    assert device.memory().used == 8
    assert not bits.flags.owndata
    bits &= 0x7FFFFFFF
    assert device.asnumpy(x).tolist() == [1, 2]
    with pytest.raises(TypeError, match="view: int64 takes other bytes than float32"):
        x.view(np.int64)
