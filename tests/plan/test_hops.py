"""Hops that follow from where things live, and the lanes that carry them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.plan.hops import (
    COPIES,
    HOPS,
    LANE_OF,
    LANES,
    Declared,
    Place,
    Stage,
    bytes_by_lane,
    derive,
    legs,
    moving,
    stages,
    working,
)

PLACES: tuple[Place, ...] = ("disk", "host", "device")
OFFLOAD = derive([("m", "host", "float32"), ("v", "host", "float32")], "host")
SHUTTLE = derive([("m", "host", "float32"), ("v", "host", "float32")], "device")
DISK = derive([("m", "disk", "float32"), ("master", "disk", "float32")], "host", result="weights")


@pytest.mark.parametrize(
    ("hops", "expected"),
    [
        (OFFLOAD, "prepare d2h:gradient update h2d:update apply"),
        (SHUTTLE, "h2d:m h2d:v apply d2h:m d2h:v"),
        (
            DISK,
            "prepare d2h:gradient read:m read:master update write:m write:master h2d:weights apply",
        ),
        (derive([("m", "device", "float32")], "device"), "apply"),
        (derive([("m", "disk", "float32")], "device"), "read:m h2d:m apply d2h:m write:m"),
    ],
)
def test_a_copy_stands_between_where_a_thing_lives_and_where_it_is_used(
    hops: Any, expected: str
) -> None:
    found = [f"{hop.name}:{hop.thing}" if hop.nbytes else hop.name for hop in hops]
    assert found == expected.split()


def test_a_thing_comes_up_after_it_was_read() -> None:
    kept: list[Any] = [("m", "host", "float32"), ("master", "disk", "float32")]
    shuttle = stages(derive(kept, "device", result="weights"))
    assert [(stage.name, [*stage.things]) for stage in shuttle] == [
        ("read", ["master"]),
        ("h2d", ["m", "master"]),
        ("apply", ["weights"]),
        ("d2h", ["m", "master"]),
        ("write", ["master"]),
    ]


def test_every_hop_is_in_the_lane_that_its_name_says() -> None:
    for hop in (*OFFLOAD, *SHUTTLE, *DISK):
        assert LANE_OF[hop.name] == hop.lane
        assert bool(hop.nbytes) == (hop.source != hop.target)


def test_bytes_are_summed_by_the_lane_of_the_copy() -> None:
    assert bytes_by_lane(OFFLOAD) == {"d2h": 4, "h2d": 4, "read": 0, "write": 0}
    assert bytes_by_lane(SHUTTLE) == {"d2h": 8, "h2d": 8, "read": 0, "write": 0}
    assert bytes_by_lane(DISK) == {"d2h": 4, "h2d": 4, "read": 8, "write": 8}


def test_each_hop_takes_the_time_of_one_lane_and_a_wait_of_none() -> None:
    busy = [hop for lane in LANES for hop in working(lane)]
    assert sorted(busy) == sorted(set(HOPS) - {"wait"})
    assert working("wait") == ("wait",)


def test_each_copy_counts_in_one_lane_and_a_check_in_that_of_the_gradients() -> None:
    counted = [hop for lane in (*LANES, "net") for hop in moving(lane)]
    assert sorted(counted) == ["check", "d2h", "h2d", "read", "write"]
    assert moving("d2h") == ("check", "d2h")


@pytest.mark.parametrize("ask", [working, moving])
def test_what_is_neither_hop_nor_lane_is_refused(ask: Any) -> None:
    with pytest.raises(ValueError, match=r"hop must be one of check, prepare, .*got 'down'"):
        ask("down")


@pytest.mark.parametrize(("hops", "where"), [(OFFLOAD, "update"), (SHUTTLE, "apply")])
def test_the_arithmetic_is_the_update_or_where_the_device_does_it_apply(
    hops: Any, where: str
) -> None:
    assert Declared("Adam", hops, frozenset()).arithmetic == where


@pytest.mark.parametrize(("source", "target"), [*itertools.product(PLACES, PLACES)])
def test_a_way_goes_by_neighbours_and_back_the_same(source: Place, target: Place) -> None:
    way = legs(source, target)
    assert all(leg in COPIES for leg in way)
    assert [(b, a) for a, b in reversed(way)] == legs(target, source)
    assert len(way) == abs(PLACES.index(source) - PLACES.index(target))


@pytest.mark.parametrize("home", PLACES)
@pytest.mark.parametrize("arithmetic", ["host", "device"])
def test_what_is_fetched_goes_home_by_the_same_bytes(home: Place, arithmetic: Place) -> None:
    hops = derive([("m", home, "float32")], arithmetic)
    there = [h for h in hops if h.thing == "m" and h.part == "fetch"]
    back = [h for h in hops if h.thing == "m" and h.part == "rest"]
    assert [(h.source, h.target) for h in there] == legs(home, arithmetic)
    assert [(h.source, h.target) for h in back] == legs(arithmetic, home)
    assert sum(h.nbytes for h in there) == sum(h.nbytes for h in back)


def test_only_arithmetic_on_the_host_needs_the_gradient_there() -> None:
    names = [h.name for h in derive([], "device")]
    assert names == ["apply"]
    names = [h.name for h in derive([], "host")]
    assert names == ["prepare", "d2h", "update", "h2d", "apply"]


def test_a_stage_computes_only_where_it_says_so() -> None:
    assert not Stage("d2h", "d2h", "device", "host", {"gradient": 4}).arithmetic


@pytest.mark.parametrize(
    ("sum_in", "first", "between", "last"),
    [
        ("device", "", "", "prepare d2h:gradient"),
        ("resent", "prepare d2h:gradient", "prepare d2h:gradient", "prepare d2h:gradient"),
        (
            "round trip",
            "prepare d2h:sum",
            "h2d:sum prepare d2h:sum",
            "h2d:sum prepare d2h:sum d2h:gradient",
        ),
        ("host", *["prepare d2h:gradient accumulate"] * 3),
    ],
)
def test_micro_steps_bring_down_what_does_not_stay_on_the_device(
    sum_in: Any, first: str, between: str, last: str
) -> None:
    for flags, expected in (((True, False), first), ((False, False), between)):
        hops = derive([], "host", sum_in=sum_in, first=flags[0], last=flags[1])
        assert [f"{h.name}:{h.thing}" if h.format else h.name for h in hops] == expected.split()
    hops = derive([], "host", sum_in=sum_in, first=False, last=True)
    down = [f"{h.name}:{h.thing}" if h.format else h.name for h in hops if h.part == "down"]
    assert down == last.split()


def test_a_declaration_counts_the_bytes_of_its_micro_steps() -> None:
    strategy, rule = ao.strategies["deepspeed-zero2"], ao.rules.Adam()
    declared = Declared(
        "Adam",
        strategy.hops(rule, "bfloat16", first=False),
        frozenset("w"),
        strategy.hops(rule, "bfloat16", last=False),
        strategy.hops(rule, "bfloat16", first=False, last=False),
        strategy.hops(rule, "bfloat16"),
    )
    moved = declared.moved("d2h", np.array([10, 10, 5]), np.array([1, 2, 3]))
    assert moved.tolist() == [40, 80, 50]
