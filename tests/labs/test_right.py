"""Solutions that are right and look otherwise lose no points, with any seed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adamoffload.labs.grading import NUMBERS, check

from submissions import LABS, InThisProcess, graded, reasons, solution


def variants() -> Iterator[Any]:
    for lab, cases in tomllib.loads((LABS / "right.toml").read_text()).items():
        for case in cases:
            number = int(lab.removeprefix("lab"))
            yield pytest.param(number, case["replace"], id=f"{number}: {case['variant']}")


@pytest.mark.parametrize(("number", "replace"), list(variants()))
def test_a_right_variant_gets_full_marks(
    number: int, replace: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adamoffload.labs.grading.Student", InThisProcess)
    source = solution(number)
    for old, new in replace:
        assert source.count(old) == 1
        source = source.replace(old, new)
    assert reasons(graded(tmp_path, number, source)) == {}


@pytest.mark.parametrize("number", NUMBERS)
def test_the_solution_is_right_with_every_seed(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adamoffload.labs.grading.Student", InThisProcess)
    path = tmp_path / f"lab{number}.py"
    path.write_text(solution(number))
    for seed in (1, 20261201):
        score = check(number, path, seed)
        assert reasons(score) == {}
        assert score.as_dict()["seed"] == seed
