"""The command line: what it prints, what it refuses, and the demo from end to end."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

import adamoffload as ao
from adamoffload.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--epochs", "0"], "--epochs: expected a whole number of at least 1, got '0'"),
        (["demo", "--epochs", "x"], "--epochs: expected a whole number, got 'x'"),
        (["demo", "--seed", "-1"], "--seed: expected a whole number of at least 0, got '-1'"),
        (["demo", "--memory", "4X"], "--memory: expected bytes, such as 4194304, 4096K or 4M"),
        (["demo", "--memory", "0"], "--memory: expected bytes"),
        (["demo", "--memory", "1M"], "--memory 1048576: too little, even with Adam on the host"),
        (["demo", "--memory", "3000K"], "--memory 3072000: too little, even with Adam"),
        (["demo", "--backend", "nunpy"], "did you mean 'numpy'?"),
        (["demo", "--output", __file__], "--output"),
        (
            ["trajectory", "--function", "rosenbrok"],
            "called 'rosenbrok'; did you mean 'rosenbrock'",
        ),
        (["trajectory", "--compare", "adm"], "no optimizer is called 'adm'; did you mean 'adam'?"),
        (["trajectory", "--compare", "adam,"], "no optimizer is called ''. There are: adam, "),
        (["trajectory", "--compare", "sgd:beta=1"], "sgd has no setting 'beta'"),
        (["trajectory", "--compare", "sgd:lr=1:lr=2"], "sgd is given lr twice; give it once"),
        (["trajectory", "--lr", "x"], "--lr: expected a number, or 'best', up to a million, got"),
        (["trajectory", "--lr", "-1"], "--lr: expected a number, or 'best'"),
        (["trajectory", "--start", "1"], "--start: expected two numbers, such as -1.5,2, got '1'"),
        (["trajectory", "--start", "-1.5,x"], "--start: expected two numbers"),
        (["trajectory", "--start", "1,nan"], "--start: expected two numbers"),
        (["trajectory", "--noise", "-1"], "--noise: expected a number of at least 0"),
        (["trajectory", "--noise", "inf"], "--noise: expected a number of at least 0"),
        (["trajectory", "--steps", "0"], "--steps: expected a whole number of at least 1"),
        (["trajectory", "--output", "x.bmp"], "--output: expected a file that ends in .png, .svg"),
        (["trajectory", "--output", f"{__file__}/x.png"], "test_cli.py/x.png: "),
        (["trajectory", "--backend", "nunpy"], "did you mean 'numpy'?"),
        (["demo", "--colour"], "unrecognized arguments: --colour"),
        (["report", "--steps", "0"], "--steps: expected a whole number of at least 1, got '0'"),
        (["report", "--link", "string"], "--backend sim: sim: link 'string' is unknown"),
        (["report", "--backend", "numpy", "--link", "x"], "backend 'numpy' has no option 'link'"),
        (["report", "--memory", "1M"], "--memory 1048576: too little, even with Adam on the host"),
        (["report", "--output", __file__], "--output"),
        (["dance"], "invalid choice: 'dance'"),
        ([], "required: COMMAND"),
    ],
)
def test_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"adamoffload {version('adamoffload')}\n"
    assert ao.__version__ == version("adamoffload")
