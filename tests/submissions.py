"""Files handed in for a lab, graded: what the tests of the labs share."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adamoffload.labs.grading import Score, check, lab
from adamoffload.labs.sandbox import Sandbox
from adamoffload.labs.student import Student
from adamoffload.labs.wire import decode, encode

LABS = Path(__file__).parent / "labs"


def solution(number: int) -> str:
    return (LABS / f"lab{number}" / "solution.py").read_text()


def graded(tmp_path: Path, number: int, source: str | bytes) -> Score:
    path = tmp_path / f"lab{number}.py"
    path.write_bytes(source.encode() if isinstance(source, str) else source)
    return check(number, path)


def reasons(score: Score) -> dict[str, str]:
    return {result.task: result.reason for result in score.results if result.score < result.points}


class InThisProcess(Student):
    """Runs a file that is known to do no harm, in a third of the time."""

    def _start(self) -> None:
        self._process: Any = Sandbox(importlib.import_module(self._scenarios), self.part)
        self._load()

    def _answer(self, what: str, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            answer: dict[str, Any] = self._process.answer(decode(encode(request)))
        return answer

    def _stop(self) -> None:
        self._process = None


def quick_lab(number: int) -> Any:
    return replace(lab(number), limit_s=2.5)
