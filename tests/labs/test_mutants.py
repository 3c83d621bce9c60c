"""Broken solutions lose points where they are broken: a sample of what `mutants.py` makes."""

from __future__ import annotations

import random
import tomllib

import pytest

from adamoffload.labs.grading import NUMBERS

from mutants import equivalent, lost, mutants, owners
from submissions import LABS

SAMPLE = {1: 8, 2: 8, 3: 4, 4: 3, 5: 8, 6: 6, 7: 4, 8: 3}


@pytest.mark.parametrize("number", NUMBERS)
def test_a_mutant_loses_points_on_its_own_task_and_on_no_other(number: int) -> None:
    every = [mutant for mutant in mutants(number) if not equivalent(mutant)]
    assert len(every) > 100
    for mutant in random.Random(number).sample(every, SAMPLE[number]):
        tasks = {*lost(mutant)}
        assert tasks, mutant
        assert tasks <= owners(number, mutant.where), mutant


def test_every_mutant_that_is_called_equivalent_exists() -> None:
    listed = tomllib.loads((LABS / "equivalent.toml").read_text())
    for lab, cases in listed.items():
        every = {(m.where, m.before, m.after) for m in mutants(int(lab[3:]))}
        for case in cases:
            assert (case["where"], case["before"], case["after"]) in every
            assert case["why"]
