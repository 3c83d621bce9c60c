"""One number, from four who do not ask each other: declared, predicted, recorded, counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import adamoffload as ao

RULES = {name: getattr(ao.rules, name) for name in ao.rules.__all__}
NAMES = [  # where float32 weights and nothing on the disk are enough
    name
    for name, strategy in ao.strategies.items()
    if strategy.state != "disk" and strategy.usual_weights == "float32"
]
SHAPES = [(7,), (3, 5), (64,), (), (2, 3, 4)]
LANES = ("d2h", "h2d", "read", "write")


class Run:
    """An optimizer with a ledger, from its first byte on."""

    def __init__(self, rule: str, strategy: ao.Strategy, backend: str, **options: Any) -> None:
        self.device, self.ledger = ao.get_backend(backend), ao.Ledger()
        self.parameters = [
            ao.Parameter(self.device.asarray(np.ones(shape, np.float32)), f"p{i}")
            for i, shape in enumerate(SHAPES)
        ]
        self.user = list(self.device.traffic())
        self.optimizer = ao.Optimizer(
            self.parameters,
            RULES[rule](learning_rate=0.1),
            strategy=strategy,
            ledger=self.ledger,
            chunk_bytes=40,
            **options,
        )

    def step(self, absent: tuple[int, ...] = ()) -> None:
        before = self.device.traffic().h2d
        given = [
            None if i in absent else self.device.asarray(np.full(p.shape, i + 1, np.float32))
            for i, p in enumerate(self.parameters)
        ]
        self.user[1] += self.device.traffic().h2d - before
        self.optimizer(given)

    def check_the_device(self) -> None:
        """Over the whole run, a lane of the ledger is what the device itself has counted."""
        down, up = self.device.traffic()
        assert self.ledger.bytes("d2h") == down - self.user[0]
        assert self.ledger.bytes("h2d") == up - self.user[1]


@pytest.mark.parametrize("backend", ["numpy", "sim"])
@pytest.mark.parametrize(("fraction", "minimum_size"), [(1.0, 0), (0.5, 0), (0.7, 10), (0.0, 0)])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", RULES)
def test_declared_predicted_recorded_and_counted_bytes_agree(
    rule: str, name: str, fraction: float, minimum_size: int, backend: str
) -> None:
    strategy = replace(ao.strategies[name], fraction=fraction, minimum_size=minimum_size)
    run = Run(rule, strategy, backend)
    sizes = [p.size for p in run.parameters]
    chosen = strategy.chosen(sizes)
    each = strategy.bytes_per_parameter(run.optimizer.rule, weights="float32")
    absent: list[tuple[int, ...]] = [(), (0,), (1, 2), (0, 1, 2, 3)]
    for gone in absent:
        run.step(gone)
    assert run.ledger.steps.tolist() == [1, 2, 3, 4]
    for lane in LANES:
        held = [sum(sizes[i] for i in chosen if i not in gone) for gone in absent]
        by_hand = [each[lane] * size for size in held]
        assert run.ledger.bytes_per_step(lane).tolist() == by_hand
        assert run.ledger.expected_per_step(lane).tolist() == by_hand
        assert run.optimizer.bytes_per_step[lane] == by_hand[0]  # nothing was absent
        for i, p in enumerate(run.parameters):
            steps = sum(i not in gone for gone in absent)
            moved = run.ledger.bytes(lane, parameter=p.name)
            assert moved == each[lane] * p.size * steps * (i in chosen)
    run.check_the_device()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_copied_outside_of_the_steps_is_recorded_there(name: str) -> None:
    run = Run("Adam", ao.strategies[name], "numpy", on_nonfinite="skip")
    size = sum(p.size for p in run.parameters)
    masters = 4 * size * bool(run.optimizer.master)
    assert run.ledger.bytes("d2h") == masters
    run.step()
    state = run.optimizer.state_dict()
    run.optimizer.load_state_dict(state)
    run.optimizer.reload_master()
    run.step()
    run.optimizer.to("resident")
    run.step()
    run.optimizer.to(name)
    run.step()
    run.check_the_device()
    checks = run.ledger.bytes("check")
    assert checks > 0
    in_steps = sum(event.nbytes for event in run.ledger.events if event.step is not None)
    expected = sum(int(run.ledger.expected_per_step(lane).sum()) for lane in LANES)
    assert in_steps == expected + checks


def test_a_probe_that_looks_at_a_device_is_recorded_outside_of_the_steps() -> None:
    probe = ao.Probe()
    run = Run("Adam", ao.strategies["state-shuttle"], "numpy", probe=probe)
    run.step()
    assert run.ledger.bytes("d2h", step=1) == run.optimizer.bytes_per_step["d2h"]
