"""`DynamicLossScale`: PyTorch's values, step by step; its state; what it refuses."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

import adamoffload as ao

from reference import ORACLE

CASES: dict[str, Any] = json.loads((ORACLE / "torch_grad_scaler.json").read_text())["cases"]


@pytest.mark.parametrize("name", CASES)
def test_it_has_the_scales_of_torch_s_gradscaler(name: str) -> None:
    case = CASES[name]
    scale = ao.DynamicLossScale(**case["options"])
    weight = 0.0
    for step, bad in enumerate(case["nonfinite"]):
        used = scale.scale
        divisor = scale.update(found_nonfinite=bad)
        weight -= 0 if bad else used / divisor  # the gradient is 1, times the scale
        assert scale.scale == case["scales"][step]
        assert scale.state_dict()["_growth_tracker"] == case["trackers"][step]
        assert weight == pytest.approx(case["weights"][step], abs=1e-5)
    assert scale.state_dict() == case["state"]


def test_a_state_of_torch_s_can_be_gone_on_from() -> None:
    case = CASES["odd"]
    scale, other = ao.DynamicLossScale(**case["options"]), ao.DynamicLossScale()
    for bad in case["nonfinite"]:
        scale.update(bad)
    other.load_state_dict(case["state"])
    for bad in (False, False, True, False):
        assert other.update(bad) == scale.update(bad)
    assert other.state_dict() == scale.state_dict()


def test_with_the_quirk_a_step_that_grows_takes_half_the_gradient() -> None:
    """As DeepSpeed does when it is run; it counts from the second step on: its 3rd, 5th and 7th."""
    moves: dict[bool, list[float]] = {}
    for grows_first in (False, True):
        scale = ao.DynamicLossScale(growth_interval=2, grows_first=grows_first)
        moves[grows_first] = []
        for _ in range(6):
            gradient = 0.0625 * scale.scale
            moves[grows_first].append(gradient / scale.update(found_nonfinite=False))
    assert moves[False] == [0.0625] * 6
    assert moves[True] == [0.0625, 0.03125] * 3


def test_the_quirk_leaves_a_skipped_step_alone() -> None:
    scale = ao.DynamicLossScale(16.0, growth_interval=1, grows_first=True)
    assert scale.update(found_nonfinite=True) == 16
    assert scale.scale == 8


def test_its_inverse_is_always_finite() -> None:
    scale = ao.DynamicLossScale(growth_interval=1)
    for _ in range(300):
        scale.update(True)
    assert scale.scale == np.finfo(np.float32).tiny
    assert np.isfinite(np.float32(1 / scale.scale))
    for _ in range(300):
        scale.update(False)
    assert scale.scale == 2.0**127


def test_copies_go_their_own_way() -> None:
    scale = ao.DynamicLossScale(4.0, grows_first=True, growth_interval=1)
    for other in (copy.copy(scale), pickle.loads(pickle.dumps(scale))):
        assert other.update(False) == 8
    assert (scale.scale, repr(scale)) == (4, "DynamicLossScale(scale=4)")
    assert not hasattr(scale, "__dict__"), "a misspelt option would be kept"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"init_scale": 0.0}, ValueError, "init_scale must be > 0, got 0.0"),
        ({"init_scale": 1e39}, ValueError, "init_scale must be a normal number in float32"),
        ({"init_scale": 1e-40}, ValueError, "init_scale must be a normal number in float32"),
        ({"init_scale": float("inf")}, ValueError, "init_scale must be finite"),
        ({"init_scale": 65536}, TypeError, r"init_scale must be a float, got 65536 \(int\)"),
        ({"growth_factor": 1.0}, ValueError, "growth_factor must be > 1, got 1.0"),
        ({"backoff_factor": 1.0}, ValueError, r"backoff_factor must be in \(0, 1\), got 1.0"),
        ({"backoff_factor": 0.0}, ValueError, r"backoff_factor must be in \(0, 1\), got 0.0"),
        ({"growth_interval": 0}, ValueError, "growth_interval must be at least 1, got 0"),
        ({"growth_interval": 2.0}, TypeError, "growth_interval must be an integer"),
        ({"grows_first": 1}, TypeError, "grows_first must be True or False"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"DynamicLossScale: {message}"):
        ao.DynamicLossScale(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scale": -1.0}, ValueError, "scale must be > 0"),
        ({"growth_factor": 0.5}, ValueError, "growth_factor must be > 1"),
        ({"_growth_tracker": -1}, ValueError, "_growth_tracker must be at least 0"),
        ({"_growth_tracker": 2000}, ValueError, "_growth_tracker must be less than .* 2000, got"),
        ({"_growth_tracker": None}, TypeError, "_growth_tracker must be an integer"),
        ({"hysteresis": 2}, ValueError, "a state has the keys scale, .*, got scale,"),
    ],
)
def test_a_bad_state_is_refused_and_changes_nothing(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    scale = ao.DynamicLossScale(8.0)
    scale.update(False)
    before = scale.state_dict()
    with pytest.raises(error, match=message):
        scale.load_state_dict(ao.DynamicLossScale().state_dict() | change)
    for other, error in (({}, ValueError), ("state", TypeError)):
        bad: Any = other
        with pytest.raises(error, match="DynamicLossScale: "):
            scale.load_state_dict(bad)
    assert scale.state_dict() == before
    with pytest.raises(TypeError, match="found_nonfinite must be True or False"):
        scale.update(np.bool_(True))  # type: ignore[arg-type]  # what is refused
