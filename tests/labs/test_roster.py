"""Whose file it is: as Canvas and Moodle write names, and as people do."""

from __future__ import annotations

from pathlib import Path

import pytest

from adamoffload.labs.roster import owner, submissions


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("doeada_12345_67890_lab3.py", "doeada (12345)"),
        ("doeada_LATE_12345_67890_lab3-2.ipynb", "doeada (12345)"),
        ("Ada Doe_812_assignsubmission_file_/lab3.py", "Ada Doe (812)"),
        ("Ada Doe_812_assignsubmission_file_lab3.py", "Ada Doe (812)"),
        ("班/李 明/lab3.py", "李 明"),
        ("Zoë/lab3 (1).py", "Zoë"),
        ("ada_doe.py", "ada_doe"),
        ("x/my_lab.py", "my_lab"),
    ],
)
def test_a_name_is_read_as_it_was_written(path: str, name: str) -> None:
    assert owner(Path(path)) == name


def test_what_is_no_submission_is_left_out(tmp_path: Path) -> None:
    for name in ("b.py", "a.ipynb", "notes.txt", ".hidden.py", "__pycache__/c.py", "d/lab1.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "folder.py").mkdir()
    assert [found.student for found in submissions(tmp_path)] == ["a", "b", "d"]


def test_a_second_file_of_one_student_is_noted(tmp_path: Path) -> None:
    for name in ("doe_1_2_lab1.py", "doe_1_3_lab1-1.py", "roe_4_5_lab1.py"):
        (tmp_path / name).write_text("")
    notes = [found.note for found in submissions(tmp_path)]
    assert notes == ["one of 2 files of this name"] * 2 + [""]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(NotADirectoryError):
        submissions(tmp_path / "x")
