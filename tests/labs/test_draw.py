"""What graders try: others for each task and seed, the same for the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from adamoffload.labs.draw import HYPER, arrays, hyper, random


class WithSeed:
    def __init__(self, seed: int) -> None:
        self.seed = seed


def drawn(seed: int, task: str) -> list[float]:
    student: Any = WithSeed(seed)
    return [float(x) for x in random(student, task).uniform(size=3)]


def test_numbers_depend_on_the_seed_and_on_the_task_alone() -> None:
    assert drawn(1, "a") == drawn(1, "a")
    assert len({*map(tuple, (drawn(s, t) for s in range(3) for t in "abc"))}) == 9


def test_no_hyper_parameter_stands_for_another() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        numbers = hyper(rng)
        assert all(isinstance(number, np.float32) for number in numbers)
        assert len({*numbers}) == 4
        assert not {*map(np.float32, HYPER)} & {*numbers}


def test_arrays_are_float32_and_differ() -> None:
    a, b = arrays(np.random.default_rng(0), 2, 5)
    assert a.dtype == b.dtype == np.float32
    assert a.shape == (5,)
    assert not np.array_equal(a, b)
