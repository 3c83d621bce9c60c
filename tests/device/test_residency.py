"""What arrays of all devices have in common, on one made of NumPy memory and one of a library."""

from __future__ import annotations

import copy
import pickle
from operator import methodcaller
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.device.residency import METHODS, OF_DATA

from library_of_numpy import LibraryOfNumpy

ITEM = methodcaller("item")


@pytest.fixture(params=[lambda: ao.get_backend("numpy"), LibraryOfNumpy], ids=["own", "library"])
def device(request: pytest.FixtureRequest) -> ao.Backend:
    made: ao.Backend = request.param()
    return made


def test_one_element_is_a_number_and_its_copy_is_counted(device: ao.Backend) -> None:
    x = device.asarray(np.array([2.5], np.float32))
    before = device.traffic().d2h
    assert (float(x), int(x), complex(x), bool(x), x.item()) == (2.5, 2, 2.5, True, 2.5)
    assert device.traffic().d2h == before + 5 * 4


def test_more_elements_are_no_number_and_nothing_is_copied(device: ao.Backend) -> None:
    x = device.asarray(np.ones(2, np.float32))
    before = device.traffic()
    for convert, error in (
        (float, TypeError),
        (bool, ValueError),
        (lambda x: x.item(), ValueError),
    ):
        with pytest.raises(error, match=r"only an array of one element .* shape \(2,\)"):
            convert(x)
    assert device.traffic() == before


@pytest.mark.parametrize(
    "leave",
    [np.asarray, pickle.dumps, lambda x: format(x, ".3f"), lambda x: [0, 1][x : x + 1]],
    ids=["asarray", "pickle", "format", "index"],
)
def test_there_is_no_implicit_way_to_the_host(device: ao.Backend, leave: Any) -> None:
    with pytest.raises(TypeError):
        leave(device.asarray(np.float32(1)))


def test_copies_are_copies(device: ao.Backend) -> None:
    x = device.asarray(np.ones(2, np.float32))
    for other in (copy.copy(x), copy.deepcopy(x)):
        other.fill(3)
        assert device.owns(other)
    np.testing.assert_array_equal(device.asnumpy(x), [1, 1])


def test_dlpack_hands_over_the_memory_itself(device: ao.Backend) -> None:
    x = device.asarray(np.zeros(3, np.float32))
    before = device.traffic()
    shared = np.from_dlpack(x)
    x[1] = 5
    assert device.traffic() == before
    np.testing.assert_array_equal(shared, [0, 5, 0])


def test_lists_are_shapes_or_data(device: ao.Backend) -> None:
    x = device.asarray(np.ones(6, np.float32))
    assert np.reshape(x, [2, 3]).shape == (2, 3)
    with pytest.raises(ao.ResidencyError, match="an operand is a host list"):
        np.dot(x, [1.0] * 6)
    with pytest.raises(ao.ResidencyError, match="an index list is on the host"):
        x[[0, 1]]
    assert np.dot in OF_DATA
    assert "reshape" in METHODS
