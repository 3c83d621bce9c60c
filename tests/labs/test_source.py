"""What a student's file says before it is run: imports, and which lab it is of."""

from __future__ import annotations

from pathlib import Path

import pytest

from adamoffload.labs.grading import NUMBERS, check, start

from submissions import graded, reasons, solution


@pytest.mark.parametrize("number", NUMBERS)
def test_the_graders_side_may_not_be_imported(number: int, tmp_path: Path) -> None:
    source = f"{solution(number)}\nfrom adamoffload.labs.lab{number} import scenarios\n"
    assert graded(tmp_path, number, source).score == 0


def test_importing_what_solves_the_lab_is_worth_nothing(tmp_path: Path) -> None:
    score = graded(tmp_path, 1, "from adamoffload.rules.adam import adam\nadam\n" + solution(1))
    assert score.score == 0
    assert "line 1 imports adamoffload.rules.adam" in score.results[0].reason


@pytest.mark.parametrize(
    "line",
    [
        "from adamoffload.device.array import DeviceArray, MemoryPool",
        "from adamoffload import get_backend",
        "import adamoffload_numpy as anything",
    ],
)
def test_a_name_that_solves_the_lab_may_not_be_imported(line: str, tmp_path: Path) -> None:
    name = line.split()[-1]
    score = graded(tmp_path, 8, f"{solution(8)}\n{line}\n{name}\n")
    assert score.score == 0
    assert "which solves the lab" in score.results[0].reason


@pytest.mark.parametrize("number", NUMBERS)
def test_the_file_of_another_lab_is_named(number: int, tmp_path: Path) -> None:
    other = number % len(NUMBERS) + 1
    start(other, tmp_path)
    score = check(number, tmp_path / f"lab{other}.py")
    assert score.score == 0
    words = f"this is the file of lab {other}: adamoffload lab check {other} FILE"
    assert set(reasons(score).values()) == {words}


def test_what_is_of_two_labs_is_graded_as_either(tmp_path: Path) -> None:
    both = solution(1) + start(2, tmp_path)[0].read_text()
    assert reasons(graded(tmp_path, 1, both)) == {}
