"""A class is graded: a row for whatever a file is, and nothing that a file prints counts."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

import pytest

from adamoffload.labs.gradebook import Row, common_reasons, feedback, grade, gradescope, table
from adamoffload.labs.grading import lab
from adamoffload.labs.roster import Submission, submissions

from submissions import InThisProcess, solution


def test_there_is_a_row_for_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adamoffload.labs.grading.Student", InThisProcess)
    wrong = solution(1).replace("return -lr_t * m", "return lr_t * m")
    files = {"ada": solution(1), "bob": wrong, "=cmd()": wrong, "dan": "def"}
    for name, source in files.items():
        (tmp_path / f"{name}.py").write_text(source)
    found = [*submissions(tmp_path), Submission("gone", tmp_path / "gone.py")]
    rows = [*grade(1, found, seed=5)]
    lines = [*csv.DictReader(io.StringIO(table(rows, lab(1), version="v", seed=5)))]
    assert {line["student"]: line["score"] for line in lines} == {
        "ada": "15",
        "bob": "13",
        "'=cmd()": "13",
        "dan": "0",
        "gone": "0",
    }
    by_name = {line["student"]: line for line in lines}
    assert by_name["ada"]["sha256"] == hashlib.sha256(solution(1).encode()).hexdigest()
    assert by_name["bob"]["The update"] == "0"
    assert by_name["bob"]["reasons"].startswith("The update: ")
    assert "FileNotFoundError" in by_name["gone"]["error"]
    assert {(line["seed"], line["version"], line["points"]) for line in lines} == {("5", "v", "15")}
    assert common_reasons(rows, 1)[0][:2] == (2, "The update")
    assert "13 of 15 points" in feedback(rows[2])
    assert "not graded" in feedback(rows[-1])


def test_gradescope_gets_what_it_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and types as in its specification of ``results.json``."""
    monkeypatch.setattr("adamoffload.labs.grading.Student", InThisProcess)
    (tmp_path / "bob.py").write_text(solution(1).replace("return -lr_t * m", "return lr_t * m"))
    (row,) = grade(1, submissions(tmp_path))
    found = json.loads(gradescope(row))
    assert set(found) == {"score", "execution_time", "output", "tests", "extra_data"}
    assert (found["score"], type(found["execution_time"])) == (13, int)
    assert sum(test["score"] for test in found["tests"]) == found["score"]
    assert sum(test["max_score"] for test in found["tests"]) == 15
    failed = [test for test in found["tests"] if test["status"] == "failed"]
    assert [test["name"] for test in failed] == ["The update"]
    assert {test["status"] for test in found["tests"]} == {"passed", "failed"}
    assert all(type(test["output"]) is str for test in found["tests"])
    gone = Row(Submission("x", tmp_path / "x.py"), None, "not graded", 0.1, "")
    assert json.loads(gradescope(gone))["score"] == 0


def test_a_table_of_nothing_has_a_head() -> None:
    rows: list[Row] = []
    assert table(rows, lab(1), version="v", seed=0).startswith("student,score,points,")
    assert common_reasons(rows) == []
