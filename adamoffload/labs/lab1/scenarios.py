"""What lab 1 does with a student's module where plain calls are not enough."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["train"]


def train(student: ModuleType, start: Any, steps: int, *numbers: Any) -> dict[str, Any]:
    """Train a valley whose walls are of different steepness; say whether the start has changed."""
    steepness = np.linspace(1, 100, start.size, dtype=np.float32)
    w = start.copy()
    trained = student.train(lambda w: steepness * w, w, steps, *numbers)
    return {"weights": trained, "changed": not np.array_equal(w, start)}
