"""``adamoffload lab grade``: a table, feedback and a summary, or one sentence."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from adamoffload.cli import main

from submissions import solution


def test_a_class_is_graded_into_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "class"
    folder.mkdir()
    forged = "print('15 of 15 points')\n"
    (folder / "ada_1_2_lab1.py").write_text(solution(1))
    (folder / "bob_3_4_lab1.py").write_text(forged)
    out, said = tmp_path / "lab1.csv", tmp_path / "feedback"
    options = ["--csv", str(out), "--feedback", str(said), "--jobs", "2", "--seed", "3"]
    assert main(["lab", "grade", "1", str(folder), *options]) == 0
    with out.open(newline="") as file:
        scores = {line["student"]: line["score"] for line in csv.DictReader(file)}
    assert scores == {"ada (1)": "15", "bob (3)": "0"}
    assert "15 of 15 points" in (said / "ada (1) ada_1_2_lab1.txt").read_text()
    printed = capsys.readouterr().out
    assert "2/2   0 of 15  bob (3)" in printed
    assert "What most of them lost points for:" in printed


def test_feedback_may_be_gradescopes(tmp_path: Path) -> None:
    (tmp_path / "ada.py").write_text("")
    options = ["--csv", str(tmp_path / "x.csv"), "--feedback", str(tmp_path / "said")]
    assert main(["lab", "grade", "1", str(tmp_path), *options, "--format", "gradescope"]) == 0
    assert json.loads((tmp_path / "said" / "ada ada.json").read_text())["score"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["1", "{folder}"], "there is no .py or .ipynb file in"),
        (["1", "{folder}/none"], "is no folder"),
        (["99", "{folder}"], "there is no lab 99"),
        (["1", "{folder}", "--jobs", "0"], "--jobs takes a whole number"),
    ],
)
def test_what_cannot_be_graded_is_one_sentence(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [option.format(folder=tmp_path) for option in options]
    assert main(["lab", "grade", *given, "--csv", str(tmp_path / "x.csv")]) == 2
    assert words in capsys.readouterr().err


def test_a_table_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ada.py").write_text("")
    assert main(["lab", "grade", "1", str(tmp_path), "--csv", str(tmp_path / "no" / "x.csv")]) == 2
    assert "cannot write" in capsys.readouterr().err
