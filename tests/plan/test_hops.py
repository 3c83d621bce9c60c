"""The hops that follow from a placement: paths between neighbours, there and back."""

from __future__ import annotations

import itertools

import pytest

from adamoffload.plan.hops import COPIES, Place, derive, legs

PLACES: tuple[Place, ...] = ("disk", "host", "device")


@pytest.mark.parametrize(("source", "target"), [*itertools.product(PLACES, PLACES)])
def test_a_way_goes_by_neighbours_and_back_the_same(source: Place, target: Place) -> None:
    way = legs(source, target)
    assert all(leg in COPIES for leg in way)
    assert [(b, a) for a, b in reversed(way)] == legs(target, source)
    assert len(way) == abs(PLACES.index(source) - PLACES.index(target))


@pytest.mark.parametrize("home", PLACES)
@pytest.mark.parametrize("arithmetic", ["host", "device"])
def test_what_is_fetched_goes_home_by_the_same_bytes(home: Place, arithmetic: Place) -> None:
    hops = derive([("m", home, 4)], arithmetic, 4, "update", 4)
    there = [h for h in hops if h.thing == "m" and h.part == "fetch"]
    back = [h for h in hops if h.thing == "m" and h.part == "rest"]
    assert [(h.source, h.target) for h in there] == legs(home, arithmetic)
    assert [(h.source, h.target) for h in back] == legs(arithmetic, home)
    assert sum(h.nbytes for h in there) == sum(h.nbytes for h in back)


def test_only_arithmetic_on_the_host_needs_the_gradient_there() -> None:
    names = [h.name for h in derive([], "device", 4, "update", 4)]
    assert names == ["apply"]
    names = [h.name for h in derive([], "host", 4, "update", 4)]
    assert names == ["prepare", "d2h", "update", "h2d", "apply"]
