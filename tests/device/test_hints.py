"""Hints stand where other libraries have an attribute and we do not."""

from __future__ import annotations

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.device import hints


def test_a_hint_stands_in_no_attributes_place() -> None:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(3, np.float32)), "w")
    for name in hints._HINTS:
        for owner in (w, w.data):
            with pytest.raises(AttributeError) as caught:
                getattr(owner, name)
            assert hints.hint(name) in str(caught.value)
            assert caught.value.name == name


def test_other_names_have_no_hint() -> None:
    assert hints.hint("shape") == hints.hint("") == ""
