"""A step as text."""

from __future__ import annotations

import adamoffload as ao
from adamoffload.estimates.drawing import drawn
from adamoffload.estimates.walk import Bar


def test_lanes_stand_in_order_and_the_disks_only_where_it_works() -> None:
    bars = [Bar("device", "forward", -1, 0, 1), Bar("host", "wait", 0, 0, 2)]
    assert [line[:6].strip() for line in drawn(bars, 2).splitlines()] == [
        *("device", "d2h", "host", "h2d", "f forw")
    ]
    disk = ao.estimate(1e9, strategy="disk").timeline
    assert "read   |" in disk
    assert "write  |" in disk


def test_what_takes_no_time_is_not_drawn() -> None:
    assert "p" not in drawn([Bar("device", "prepare", 0, 1, 1)], 2).splitlines()[0][8:-10]


def test_what_is_short_gets_one_character() -> None:
    line = drawn([Bar("h2d", "h2d", 0, 1, 1.0001)], 2, width=10).splitlines()[3]
    assert line == "h2d    |.....-....| 0.0001 s busy"


def test_the_published_step_sends_gradients_down_in_backward() -> None:
    lines = ao.estimate(
        "llama-2-7b", strategy="zero-offload", chunk_bytes=32 << 20
    ).timeline.splitlines()
    device, down, host, up = (line[8:72] for line in lines[:4])
    assert device.index("b") <= down.index("-") < device.index("a") + 1
    assert host.index("u") >= device.rindex("b")
    assert up.index("-") >= device.rindex("b")
