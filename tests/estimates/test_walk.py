"""Where both can run, a walk has the times of the optimizer on ``sim``: to the last digit."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adamoffload as ao
from adamoffload.estimates.clock import Clock
from adamoffload.estimates.declared import declare
from adamoffload.estimates.walk import Bar, Costs, Cut, Walk, carry
from adamoffload.plan.chunks import plan_chunks
from adamoffload.plan.hops import LANE_OF

RULES: dict[str, ao.Rule] = {
    "Adam": ao.rules.Adam(),
    "Adam, L2": ao.rules.Adam(weight_decay=0.1),
    "AdamW": ao.rules.AdamW(),
}
ON_DEVICE: dict[str, ao.Rule] = {
    **RULES,
    "Lion": ao.rules.Lion(),
    "SGD": ao.rules.SGD(0.1),
    "AMSGrad": ao.rules.AMSGrad(),
}


def simulated(
    machine: ao.Machine, sizes: list[int], rule: ao.Rule, strategy: ao.Strategy, **options: Any
) -> tuple[float, list[Bar]]:
    """Return when a step begins on the simulator, and its hops."""
    device, ledger = ao.get_backend("sim", machine=machine, memory_bytes=1 << 30), ao.Ledger()
    w = [ao.Parameter(device.asarray(np.ones(n, np.float32)), f"p{i}") for i, n in enumerate(sizes)]
    on_disk = any(home == "disk" for _, home, _ in strategy.kept(rule))
    with tempfile.TemporaryDirectory() as directory:
        if on_disk:
            options["directory"] = directory
        opt = ao.Optimizer(w, rule, strategy=strategy, ledger=ledger, **options)
        gradients = [device.asarray(np.ones(n, np.float32)) for n in sizes]
        device.synchronize()
        begin_s = device.now()
        opt(gradients)
        device.synchronize()
        events = [e for e in ledger.events if e.step == 1]
        opt.close()
    return begin_s, [
        Bar(LANE_OF[e.hop], e.hop, -1 if e.chunk is None else e.chunk, e.start_s, e.stop_s)
        for e in events
    ]


def walked(
    machine: ao.Machine,
    sizes: list[int],
    rule: ao.Rule,
    strategy: ao.Strategy,
    begin_s: float,
    chunk_bytes: int,
    slots: int,
) -> list[Bar]:
    """Return the hops of the same step, estimated."""
    clock = Clock(machine.host())
    clock.host_s = begin_s
    chosen = strategy.chosen(sizes)
    shares = [
        (strategy, sorted(chosen)),
        (ao.strategies["resident"], [i for i in range(len(sizes)) if i not in chosen]),
    ]
    bars: list[Bar] = []
    walks: list[Walk] = []
    count = 0
    for how, members in shares:
        link, disk = machine.link().pace(pinned=True), machine.disk()
        paces = {"d2h": link, "h2d": link, "read": disk.pace("read"), "write": disk.pace("write")}
        decays = bool(rule.weight_decay)
        declared = declare(how, rule, "float32", 1)
        costs = Costs(declared, machine.device(), paces, decays, rule.decay == "l2", 28)
        walk = Walk(clock, costs, bars, slots)
        plan = plan_chunks(sizes, members, chunk_bytes // 4)
        cuts = [Cut(tuple(p.stop - p.start for p in chunk.pieces)) for chunk in plan]
        count += walk.plan(cuts, first=count)
        walks.append(walk)
    carry(walks)
    return bars


OTHERS = ("zero-offload-delayed", "bf16-only", "bf16-stochastic", "bf16-kahan")

machines = st.builds(
    lambda name, cards: replace(ao.machines[name], cards=cards),
    st.sampled_from([*ao.machines]),
    st.sampled_from([1, 3]),
)


@settings(max_examples=40, deadline=None)
@given(
    machine=machines,
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6),
    name=st.sampled_from(
        [n for n, s in ao.strategies.items() if s.usual_weights == "float32" and not s.delay]
    ),
    rule=st.sampled_from([*ON_DEVICE]),
    fraction=st.sampled_from([1.0, 0.5]),
    chunk_bytes=st.sampled_from([400, 4000, 4 << 20]),
    slots=st.integers(1, 4),
)
def test_its_times_are_those_of_the_optimizer(
    machine: ao.Machine,
    sizes: list[int],
    name: str,
    rule: str,
    fraction: float,
    chunk_bytes: int,
    slots: int,
) -> None:
    strategy = replace(ao.strategies[name], fraction=fraction)
    # The simulator charges the host for Adam, whatever the rule.
    what = (ON_DEVICE if strategy.arithmetic == "device" else RULES).get(rule, RULES["AdamW"])
    options = {"chunk_bytes": chunk_bytes, "slots": slots}
    begin_s, expected = simulated(machine, sizes, what, strategy, **options)
    assert walked(machine, sizes, what, strategy, begin_s, **options) == expected


def test_a_wrong_order_is_noticed() -> None:
    machine, rule, strategy = ao.machines["a100"], RULES["Adam"], ao.strategies["adam-offload"]
    begin_s, expected = simulated(machine, [4000], rule, strategy, chunk_bytes=4000, slots=2)
    assert walked(machine, [4000], rule, strategy, begin_s, 4000, 3) != expected


def costs(strategy: str, **changes: Any) -> Costs:
    from adamoffload.estimates.hardware import Device, Pace

    declared = declare(ao.strategies[strategy], RULES["Adam"], "float32", 1)
    lanes = ("d2h", "h2d", "read", "write")
    given = {"device": Device(1e30, 1e30), "paces": dict.fromkeys(lanes, Pace(0.0, 4.0))}
    return Costs(declared, **{**given, "decays": False, "l2": True, "host_bytes": 28, **changes})


def clock() -> Clock:
    from adamoffload.estimates.hardware import Host

    return Clock(Host(ns_per_parameter=2e9))


@pytest.mark.parametrize("chunks", [1, 5])
def test_one_by_one_nothing_overlaps(chunks: int) -> None:
    walk = Walk(clock(), costs("adam-offload"), [])
    walk.plan([Cut((1,))] * chunks)
    walk.one_by_one()
    assert walk.clock.host_s == chunks * (1 + 2 + 1)


def test_a_blocking_shuttle_waits_after_every_copy() -> None:
    walk = Walk(clock(), costs("state-shuttle"), [])
    walk.plan([Cut((1,))] * 5)
    walk.one_by_one()
    assert walk.clock.idle_s() == pytest.approx(5 * (2 + 2))


def test_what_went_down_before_only_has_to_be_updated_and_go_up() -> None:
    walk = Walk(clock(), costs("adam-offload"), [])
    for i in range(3):
        walk.go_down(i, Cut((1,)))
    walk.wait()
    assert walk.clock.host_s == 3
    carry([walk])
    assert walk.clock.idle_s() == 3 + 3 * 2 + 1


def test_a_step_late_the_host_updates_first_and_sends_at_the_end() -> None:
    walk = Walk(clock(), costs("adam-offload"), [])
    for i in range(3):
        walk.go_down(i, Cut((1,)))
    walk.update()
    assert walk.clock.host_s == 1 + 3 * 2
    walk.go_up()
    assert walk.clock.idle_s() == 7 + 3


def test_a_chunk_that_stands_for_many_pays_each_ones_latency() -> None:
    from adamoffload.estimates.hardware import Device, Pace

    lanes = ("d2h", "h2d", "read", "write")
    slow = costs(
        "adam-offload", paces=dict.fromkeys(lanes, Pace(1.0, 4.0)), device=Device(1e30, 1e30, 8.0)
    )
    walk = Walk(clock(), slow, [])
    walk.plan([Cut((10,), stands_for=10)])
    carry([walk])
    assert walk.clock.idle_s() == (10 + 10) + 10 * 2 + (10 + 10) + 10 * 8
