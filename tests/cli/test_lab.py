"""The command ``lab``: labs are listed, started and checked, and mistakes are one line."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from adamoffload.cli import main
from adamoffload.labs.grading import NUMBERS, lab, start

from submissions import LABS


def test_a_lab_is_started_solved_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "start", "1", str(tmp_path / "here")]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path / "here" / "lab1.rst") in out
    assert f"adamoffload lab check 1 {tmp_path / 'here' / 'lab1.py'}" in out
    shutil.copyfile(LABS / "lab1" / "solution.py", tmp_path / "here" / "lab1.py")
    assert main(["lab", "check", "1", str(tmp_path / "here" / "lab1.py")]) == 0
    assert "15 of 15 points" in capsys.readouterr().out


def test_a_folder_stands_for_the_file_that_was_put_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(LABS / "lab1" / "solution.py", tmp_path / "lab1.py")
    assert main(["lab", "check", "1", str(tmp_path)]) == 0
    assert "15 of 15 points" in capsys.readouterr().out


def test_the_labs_are_listed_with_their_titles_and_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["lab", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(number) for number in NUMBERS]
    for number, line in zip(NUMBERS, lines, strict=True):
        assert lab(number).title in line
        assert re.search(r"\d+ minutes$", line)


def test_a_score_below_the_maximum_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = (p for p in start(1, tmp_path) if p.suffix == ".py")
    assert main(["lab", "check", "1", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["lab"], report["score"], report["points"]) == (1, 0, 15)


def test_starting_twice_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(1, tmp_path)
    (tmp_path / "lab1.py").write_text("my work")
    assert main(["lab", "start", "1", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "lab1.py").read_text() == "my work"


@pytest.mark.parametrize("arguments", [["start", "99", "x"], ["check", "0", "x"]])
def test_an_unknown_lab_is_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", *arguments]) == 2
    assert "there is no lab" in capsys.readouterr().err


def test_a_missing_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "check", "1", "no/such/file.py"]) == 2
    assert "there is no file no/such/file.py; adamoffload lab start" in capsys.readouterr().err


def test_a_device_that_never_ends_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "check", "1", "/dev/zero"]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_a_file_where_the_folder_should_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").touch()
    for directory in ("taken", "taken/below"):
        assert main(["lab", "start", "1", str(tmp_path / directory)]) == 2
        assert f"{directory} cannot be a folder" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_a_terminal_cannot_show_is_escaped(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = "print('\u03b1')\ndef first_moment(*_):\n    raise ValueError('\\udcff')\n"
    (tmp_path / "lab1.py").write_text(odd, "utf-8")
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # put back, since `main` replaces it
    monkeypatch.setattr(sys, "argv", ["adamoffload", "lab", "check", "1", str(tmp_path)])
    assert main() == 1
    terminal.seek(0)
    shown = terminal.read()
    assert {"ascii": "\\u03b1", "utf-8": "\u03b1"}[encoding] in shown
    assert "line 3: `first_moment` raised ValueError: \\udcff" in shown


def test_a_name_that_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "start", "1", str(tmp_path / ("x" * 300))]) == 2
    assert "(File name too long); choose another folder" in capsys.readouterr().err
    assert main(["lab", "check", "1", "x" * 300]) == 2
    assert capsys.readouterr().err.rstrip().endswith("File name too long")
