"""The labs' graders: full marks for the solution, none for the empty file, the right reasons."""

from __future__ import annotations

import ast
import itertools
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adamoffload.labs.grading import NUMBERS, Task, check, lab, start
from adamoffload.labs.grading import graded as grade
from adamoffload.labs.student import Student

from submissions import LABS, InThisProcess, graded, reasons, solution


def wrong_solutions() -> Iterator[Any]:
    for number in NUMBERS:
        for wrong in tomllib.loads((LABS / f"lab{number}" / "wrong.toml").read_text())["wrong"]:
            yield pytest.param(number, wrong, id=f"{number}: {wrong['mistake']}")


@pytest.mark.parametrize("number", NUMBERS)
def test_the_solution_gets_full_marks(number: int, tmp_path: Path) -> None:
    score = graded(tmp_path, number, solution(number))
    assert reasons(score) == {}
    assert score.score == score.points


@pytest.mark.parametrize("number", NUMBERS)
def test_the_file_with_gaps_gets_none_and_is_told_what_to_do(number: int, tmp_path: Path) -> None:
    start(number, tmp_path)
    score = check(number, tmp_path / f"lab{number}.py")
    assert score.score == 0
    assert all("not done yet" in reason for reason in reasons(score).values())


@pytest.mark.parametrize("number", NUMBERS)
def test_an_empty_file_gets_none(number: int, tmp_path: Path) -> None:
    score = graded(tmp_path, number, "")
    assert score.score == 0
    assert all("keep the names" in reason for reason in reasons(score).values())


def test_a_truth_that_numpy_has_found_counts(tmp_path: Path) -> None:
    found = solution(7) + "\nSAME_BITS = [np.bool_(answer) for answer in SAME_BITS]\n"
    assert reasons(graded(tmp_path, 7, found)) == {}


@pytest.mark.parametrize(("number", "wrong"), list(wrong_solutions()))
def test_a_wrong_solution_loses_the_right_points_for_the_right_reason(
    number: int, wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adamoffload.labs.grading.Student", InThisProcess)
    right = solution(number)
    assert right.count(wrong["replace"]) == 1
    found = reasons(graded(tmp_path, number, right.replace(wrong["replace"], wrong["by"])))
    assert set(found) == set(wrong["lost"])
    for task, words in wrong["lost"].items():
        assert words in found[task]


@pytest.mark.parametrize("number", NUMBERS)
def test_each_lab_knows_six_plausible_mistakes(number: int) -> None:
    assert sum(case.values[0] == number for case in wrong_solutions()) >= 6


@pytest.mark.parametrize("number", NUMBERS)
def test_students_get_no_solution(number: int, tmp_path: Path) -> None:
    files = start(number, tmp_path)
    assert sorted(path.name for path in files) == [f"lab{number}.py", f"lab{number}.rst"]
    assert "NotImplementedError" in files[0].read_text()


@pytest.mark.parametrize("number", NUMBERS)
def test_the_statement_names_every_task_with_its_points(number: int, tmp_path: Path) -> None:
    statement = " ".join(start(number, tmp_path)[1].read_text().split())
    for task in lab(number).tasks:
        points = f"{task.points} point{'s' if task.points > 1 else ''}"
        assert f"**{task.name}** ({points})" in statement


@pytest.mark.parametrize("number", NUMBERS)
def test_what_the_statement_asks_to_try_runs_beside_the_solution(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    statement = start(number, tmp_path)[1].read_text()
    (tmp_path / f"lab{number}.py").write_text(solution(number))
    monkeypatch.syspath_prepend(tmp_path)
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", statement)
    for block in blocks:
        exec(textwrap.dedent(block), {})
    monkeypatch.delitem(sys.modules, f"lab{number}", raising=False)
    assert bool(capsys.readouterr().out) == bool(blocks)


ODD = ("[]", "'text'", "{}", "1j", "numpy.zeros((2, 0))", "(None, [1, 'x'])", "print")


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("number", NUMBERS)
def test_whatever_a_file_defines_there_is_a_score(
    number: int, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adamoffload.labs.grading.Student", InThisProcess)
    (given,) = (p for p in start(number, tmp_path) if p.suffix == ".py")
    odd = itertools.cycle(ODD[first:] + ODD[:first])
    source = ["import numpy"]
    for node in ast.parse(given.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            source.append(f"def {node.name}(*_, **__): return {next(odd)}")
        elif isinstance(node, ast.Assign):
            source.append(f"{ast.unparse(node.targets[0])} = {next(odd)}")
    score = graded(tmp_path, number, "\n".join(source))
    assert score.score == 0
    assert all(len(reason) > 10 for reason in reasons(score).values())


def test_a_reason_that_all_tasks_share_is_given_once(tmp_path: Path) -> None:
    score = graded(tmp_path, 1, "1 / 0")
    assert len(reasons(score)) == 8
    assert str(score).count("ZeroDivisionError") == 1
    assert str(graded(tmp_path, 1, solution(1))).endswith("\n\n15 of 15 points")


def test_what_a_file_prints_is_shown_before_the_points(tmp_path: Path) -> None:
    shown = str(graded(tmp_path, 1, "print('here')\n" + solution(1)))
    assert shown.index("Your code printed:\n  | here\n") < shown.index("The first step")
    assert "printed" not in str(graded(tmp_path, 1, solution(1)))


def test_a_result_that_a_grader_cannot_make_sense_of_is_no_points() -> None:
    def fail(_: Student) -> None:
        raise KeyError("surprise")

    anybody: Any = None
    result = grade(Task("x", 2, fail), anybody)
    assert (result.score, result.points) == (0, 2)
    assert "nothing that can be graded (KeyError: 'surprise')" in result.reason
