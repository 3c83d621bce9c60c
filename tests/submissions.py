"""Files handed in for a lab, graded: what the tests of the labs share."""

from __future__ import annotations

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
        self.sandbox = Sandbox(self._path)
        self._exchange("", "load")
        self._ask = self._exchange  # type: ignore[method-assign]  # it is running

    def _answer(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            answer: dict[str, Any] = decode(encode(self.sandbox.answer(decode(encode(request)))))
        return answer


def quick_lab(number: int) -> Any:
    return replace(lab(number), limit_s=5.0)  # a busy machine takes seconds to import NumPy
