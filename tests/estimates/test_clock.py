"""The virtual clock, and memory that several share."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import adamoffload as ao
from adamoffload.estimates.clock import Clock, SharedMemory
from adamoffload.estimates.hardware import Host, Pace

takes = st.lists(
    st.tuples(st.floats(0, 10), st.floats(0.1, 50), st.floats(0.1, 20)), min_size=1, max_size=30
)


def test_alone_one_gets_all_that_it_can_take() -> None:
    assert SharedMemory(8).take(1, 16, 4) == 5
    assert SharedMemory(8).take(1, 16, math.inf) == 3


def test_who_comes_later_takes_what_is_left_and_then_all() -> None:
    memory = SharedMemory(8)
    assert memory.take(0, 24, 6) == 4
    assert memory.take(2, 20, 8) == 6  # 2 bytes a second until 4, and 8 from then on


def test_memory_without_a_limit_slows_nobody() -> None:
    memory = SharedMemory(math.inf)
    assert [memory.take(0, 6, 3) for _ in range(3)] == [2, 2, 2]


@given(takes)
def test_no_more_moves_than_the_memory_gives_and_nobody_is_faster_than_alone(
    many: list[tuple[float, float, float]],
) -> None:
    memory = SharedMemory(10)
    begin = min(start for start, _, _ in many)
    stops = [memory.take(*each) for each in many]
    for stop, (start, nbytes, rate) in zip(stops, many, strict=True):
        assert stop - start >= nbytes / min(rate, 10) * (1 - 1e-9)
    assert max(stops) - begin >= sum(nbytes for _, nbytes, _ in many) / 10 * (1 - 1e-9)


@given(takes)
def test_the_memory_does_not_idle_while_somebody_could_use_it(
    many: list[tuple[float, float, float]],
) -> None:
    memory = SharedMemory(10)
    stops = [memory.take(0, nbytes, math.inf) for _, nbytes, _ in many]
    assert stops[-1] == pytest.approx(sum(nbytes for _, nbytes, _ in many) / 10)


@given(takes)
def test_forgetting_the_past_changes_nothing(many: list[tuple[float, float, float]]) -> None:
    whole, short = SharedMemory(10), SharedMemory(10)
    for _ in range(3):
        for start, nbytes, rate in sorted(many):
            short.forget(start)
            assert short.take(start, nbytes, rate) == whole.take(start, nbytes, rate)


def test_adam_takes_the_bandwidth_that_copies_leave() -> None:
    clock = Clock(Host(memory_bytes_per_s=8, update_bytes_per_s=100))
    clock.carry("d2h", 0.0, 12, Pace(0.0, 6))  # until 2 s; it leaves 2 bytes a second
    assert clock.update(1, nbytes_each=20) == 4


def test_few_cores_do_not_reach_what_the_memory_gives() -> None:
    assert Clock(Host(memory_bytes_per_s=8, update_bytes_per_s=4)).update(1, 20) == 5


def test_a_known_time_per_parameter_takes_no_bandwidth() -> None:
    clock = Clock(Host(memory_bytes_per_s=8, ns_per_parameter=1e9))
    clock.update(3)
    assert clock.host_s == 3
    assert clock.carry("d2h", 0.0, 16, Pace(0.0, 100)) == 2


def test_a_latency_is_no_traffic() -> None:
    clock = Clock(Host(memory_bytes_per_s=8))
    assert clock.carry("d2h", 0.0, 8, Pace(3.0, 8)) == 4
    assert clock.update(1, 24) == 3


def step_s(**options: Any) -> float:
    import numpy as np

    device = ao.get_backend("sim", **options)
    w = ao.Parameter(device.asarray(np.ones(1 << 20, np.float32)), name="w")
    opt = ao.AdamOffload([w], chunk_bytes=1 << 18, engine="numpy")
    g = device.asarray(np.ones(1 << 20, np.float32))
    device.synchronize()
    start_s = device.now()
    opt([g])
    device.synchronize()
    return device.now() - start_s


def test_on_a_machine_adam_and_both_copies_share_the_hosts_memory() -> None:
    machine = ao.machines["rtx4090"]
    traffic = (28 + 4 + 4) * (1 << 20) / 36e9  # all of it passes the memory
    whole = step_s(machine=machine)
    assert traffic < whole < 1.3 * traffic  # the first copy down and the last one up stand alone
    free = step_s(machine=machine, host_ns_per_parameter=28 / 36)
    assert free < whole  # the override: copies cost Adam nothing


def test_a_machine_gives_device_memory_link_disk_and_host() -> None:
    device = ao.get_backend("sim", machine="laptop")
    assert device.memory().limit == ao.machines["laptop"].device_memory_bytes
