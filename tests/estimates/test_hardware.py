"""Parts of a machine: how long what they do takes."""

from __future__ import annotations

import math

import pytest

from adamoffload.estimates.hardware import Disk, Host, Link, Pace


def test_a_copy_takes_its_latency_and_its_bytes() -> None:
    assert Pace(0.5, 4).seconds(6) == 2
    assert Link(4, 0.5).seconds(6, pinned=True) == 2
    assert Disk(4, 2, 0.5).seconds("read", 6) == 2
    assert Disk(4, 2, 0.5).seconds("write", 6) == 3.5


def test_pageable_memory_slows_the_bytes_and_not_the_latency() -> None:
    assert Link(4, 0.5, 2).seconds(6, pinned=False) == 3.5


@pytest.mark.parametrize("bad", [0, -1, math.nan])
@pytest.mark.parametrize("name", ["memory_bytes_per_s", "update_bytes_per_s"])
def test_a_hosts_bandwidth_is_positive(name: str, bad: float) -> None:
    with pytest.raises(ValueError, match=f"Host: {name} must be a finite number > 0"):
        Host(**{name: bad})


def test_a_host_without_any_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="something is the limit"):
        Host()
    with pytest.raises(ValueError, match="ns_per_parameter must be a finite number >= 0"):
        Host(ns_per_parameter=-1)
