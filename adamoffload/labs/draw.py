"""What tasks are tried with: drawn at random, from the seed, so that no argument can be ignored."""

from __future__ import annotations

import zlib
from typing import Any, TypeAlias

import numpy as np

from adamoffload.labs.student import Student

__all__ = ["HYPER", "arrays", "hyper", "random"]

HYPER = (0.01, 0.9, 0.999, 1e-8)
"""Adam's learning rate, betas and epsilon as they usually are."""

_Float: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


def random(student: Student, task: str) -> np.random.Generator:
    """Return the random numbers of a task: others for each task and each seed.

    Parameters
    ----------
    student : Student
        Whose work is graded; it has the seed.
    task : str
        Any name for the task.
    """
    return np.random.default_rng([student.seed, zlib.crc32(task.encode())])


def hyper(rng: np.random.Generator) -> list[np.float32]:
    """Return a learning rate, beta1, beta2 and an epsilon that is not small, each float32."""
    drawn = (rng.uniform(0.001, 0.1), rng.uniform(0.5, 0.95), rng.uniform(0.8, 0.99))
    return [np.float32(number) for number in (*drawn, rng.uniform(0.05, 0.5))]


def arrays(rng: np.random.Generator, count: int, size: int = 101) -> list[_Float]:
    """Return float32 arrays of numbers of either sign and of moderate size."""
    return [rng.standard_normal(size).astype(np.float32) for _ in range(count)]
