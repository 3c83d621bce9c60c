"""Groups: one value for parameters that share their numbers, read in linear time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.offload.groups import read_parameters
from adamoffload.rules.rates import read_decay, read_rate

DEFAULTS = read_rate("test", 0.5), read_decay("test", 0.1)


def parameters(*names: str) -> list[ao.Parameter]:
    device = ao.get_backend("numpy")
    return [ao.Parameter(device.asarray(np.ones(2, np.float32)), name) for name in names]


def test_what_is_exempt_has_a_group_without_decay() -> None:
    found, groups, grouped = read_parameters(
        "test", parameters("w", "bn.beta"), *DEFAULTS, ["beta"]
    )
    assert [p.name for p in found] == ["w", "bn.beta"]
    assert [group.decay.at(0) for group in groups] == [np.float32(0.1), 0]
    assert not grouped
    _, groups, _ = read_parameters("test", parameters("w", "bn.beta"), *DEFAULTS)
    assert groups[0] is groups[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w, v: [w, v, w], "parameter 'w' is given twice"),
        (lambda w, v: [{"params": [w]}, {"params": [v, w]}], "'w' is in two places"),
        (lambda w, v: [{"params": [w], "lr2": 1}], "no key 'lr2'"),
        (lambda w, v: [{"lr": 1}], "needs the key 'params'"),
        (lambda w, v: [{"params": [w, v]}, {"order_params": [w]}], "every parameter once"),
        (lambda w, v: [w, {"params": [v]}], "Parameter objects only, or dicts"),
    ],
)
def test_what_is_wrong_is_one_sentence(make: Any, message: str) -> None:
    with pytest.raises((ValueError, KeyError, RuntimeError, TypeError), match=message):
        read_parameters("test", make(*parameters("w", "v")), *DEFAULTS)


def test_names_are_compared_a_number_of_times_that_is_linear() -> None:
    """Ten thousand parameters, in groups and in an order of their own."""
    device = ao.get_backend("numpy")
    whole = device.asarray(np.ones(10_000, np.float32))
    many = [ao.Parameter(whole[i : i + 1], f"p{i}") for i in range(10_000)]
    groups: list[Any] = [{"params": many[:5000]}, {"params": many[5000:], "lr": 0.25}]
    found, read, _ = read_parameters("test", [*groups, {"order_params": many[::-1]}], *DEFAULTS)
    assert [found[0].name, found[-1].name] == ["p9999", "p0"]
    assert [float(group.rate.at(0)) for group in (read[0], read[-1])] == [0.25, 0.5]
