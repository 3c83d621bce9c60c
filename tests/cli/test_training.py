"""The commands that train: their options, and what can go wrong on a machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from adamoffload.cli import main


def test_a_backend_that_cannot_run_here_is_a_mistake_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["demo", "--backend", "cupy", "--output", str(tmp_path)]) == 2
    assert "--backend cupy: backend 'cupy' cannot run here" in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for option in ("--output", "--epochs", "--seed", "--backend", "--memory"):
        assert option in text


def test_a_result_that_cannot_be_written_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trace.json").mkdir()
    assert main(["report", "--steps", "1", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("adamoffload: error: --output")
    assert str(tmp_path / "trace.json") in error
    assert len(error.splitlines()) == 1
