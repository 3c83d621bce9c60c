"""What a type checker must refuse, and must know.

Each line that it refuses has a comment for just that error, and one that is not needed is an error
itself (``warn_unused_ignores``): so mypy tests this file, and Python that it is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.device.backend import HostArray


def built() -> tuple[ao.Backend, ao.Parameter, ao.AdamOffload]:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.zeros(3), name="w")
    return device, w, ao.AdamOffload([w])


def test_names_that_do_not_exist() -> None:
    device, w, optimizer = built()
    with pytest.raises(AttributeError):
        ao.AdamOfload([])  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        ao.rules.AdamV()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        device.asnmupy(w.data)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        optimizer.zero_grad()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        optimizer.learningrate = 3  # type: ignore[attr-defined]


def test_arguments_that_do_not_exist_or_are_of_another_type() -> None:
    _, w, optimizer = built()
    with pytest.raises(TypeError):
        ao.rules.AdamW(lr=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        ao.AdamOffload([w], betas=(0.9, 0.999))  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        ao.Optimizer([w], "adam")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        optimizer.load_state_dict(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ao.get_backend(0)  # type: ignore[arg-type]


def test_what_is_known() -> None:
    device, w, optimizer = built()
    assert_type(ao.get_backend("numpy"), ao.Backend)
    assert_type(device.asnumpy(w.data), HostArray)
    assert_type(optimizer([w.data * 2]), tuple[bool, ...])
    assert_type(optimizer.memory(), ao.OffloadMemory)
    assert_type(optimizer.global_step, int)
    if TYPE_CHECKING:
        assert_type(ao.load("path", optimizer), ao.Loaded)
        assert_type(np.mean(device.asnumpy(w.data)).item(), float)
