"""The blackboard: each line's right side is what its left side gives."""

from __future__ import annotations

import re

import pytest

import adamoffload as ao
from adamoffload.estimates.work import assumptions, lines


@pytest.mark.parametrize("strategy", ["zero-offload", "deepspeed-zero2", "state-shuttle", "disk"])
def test_the_arithmetic_is_right(strategy: str) -> None:
    found = ao.estimate(1e9, strategy=strategy, tokens_per_step=20_000)
    checked = 0
    for line in lines(found):
        if said := re.search(r": ([\d.]+) B x ([\d.e+]+) / ([\d.]+) GB/s = ([\d.e-]+) s", line):
            each, size, rate, seconds = map(float, said.groups())
            assert seconds == pytest.approx(each * size / (rate * 1e9), rel=0.06)
            checked += 1
    assert checked >= 2


def test_step_and_overhead_close() -> None:
    found = ao.estimate(1e9, strategy="deepspeed-zero2", tokens_per_step=20_000)
    assert found.step_s == pytest.approx(found.compute_s + found.optimizer_s - found.hidden_s)
    assert any(line.startswith("overhead: ") for line in lines(found))


def test_every_figure_of_the_machine_stands_there_with_its_source() -> None:
    found = ao.estimate(1e9, strategy="zero-offload", machine="a100", cards=2)
    said = assumptions(found)
    assert sum("(" in line for line in said) >= len(found.question.machine.figures)
    assert "the network between cards is not counted" in said
    assert any("attention" in line for line in said)
    large = ao.estimate(1e12, strategy="zero-offload")
    assert any("chunks are walked as one" in line for line in assumptions(large))
