"""The command ``trajectory``: what it prints and draws."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adamoffload.cli import main
from adamoffload.playground.descent import OPTIMIZERS
from adamoffload.playground.surfaces import SURFACES


@pytest.mark.parametrize(
    ("name", "begin"), [("a.png", b"\x89PNG"), ("b.svg", b"<?xml"), ("new/c.html", b"<!DOCTYPE")]
)
def test_trajectory_draws_what_it_is_told(
    name: str, begin: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "--function rosenbrock --lr 0.1 --steps 2 --start -1.5,2 --noise 0.1".split()
    output = tmp_path / name
    compare = ["--compare", "adam,sgd,adam:beta2=0.9:lr=0.01"]
    assert main(["trajectory", *arguments, *compare, "--output", str(output)]) == 0
    assert output.read_bytes().startswith(begin)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:-1]] == [
        "adam, lr=0.1",
        "sgd, lr=0.1",
        "adam, lr=0.01, beta2=0.9",
    ]
    assert lines[-1] == f"Picture: {output}"


def test_trajectory_does_no_work_for_a_picture_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adamoffload.playground.run", lambda *_, **__: pytest.fail("it ran"))
    folder = tmp_path / "a.png"
    folder.mkdir()
    assert main(["trajectory", "--output", str(folder)]) == 2
    assert f"--output {folder}: Is a directory" in capsys.readouterr().err


def test_trajectory_help_names_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["trajectory", "--help"])
    text = re.sub(r"-\n\s+", "-", capsys.readouterr().out)  # lines break after hyphens, too
    words = {word.strip(",;") for word in text.split()}
    assert {*SURFACES, *OPTIMIZERS} <= words


def test_trajectory_says_what_its_numbers_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "x.png")
    assert main(["trajectory", "--compare", "sgd", "--lr", "0", "--output", output]) == 0
    header, row = capsys.readouterr().out.splitlines()[:2]
    assert header.split(maxsplit=1) == ["optimizer", "loss above the minimum, after 200 steps"]
    # Rosenbrock at (-1.2, 1), 24.2, where a rate of 0 leaves it
    assert row.split() == ["sgd,", "lr=0", "24"]


def test_trajectory_says_who_diverged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "a.png")
    assert main(["trajectory", "--compare", "sgd", "--lr", "0.1", "--output", output]) == 0
    assert "diverged at step" in capsys.readouterr().out
