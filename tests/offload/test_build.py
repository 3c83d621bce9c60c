"""What a strategy needs is allocated once; a host that is too small is told beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.offload import build


def make(strategy: str = "adam-offload") -> Any:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(100, np.float32)), "w")
    return ao.Optimizer([w], ao.rules.Adam(), strategy=strategy)


def test_a_host_without_the_memory_is_a_warning_with_the_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "_free_bytes", lambda: 799)
    message = "strategy 'adam-offload' keeps 800 bytes on the host, which has 799 free"
    with pytest.warns(UserWarning, match=message) as warned:
        make()
    assert warned[0].filename == __file__
    make("resident")  # keeps nothing there


def test_a_host_that_does_not_tell_is_not_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_free_bytes", lambda: None)
    make()


def test_this_host_has_some_memory_or_does_not_tell() -> None:
    free = build._free_bytes()
    assert free is None or free > 1 << 20
