"""The README says what is so: its example runs, its commands are the two that CI runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    loss, ledger = capsys.readouterr().out.split(maxsplit=1)
    assert 0 < float(loss) < 2
    # 8 parameters of 4 bytes, 100 steps
    assert "3,200 bytes d2h, 3,200 bytes h2d" in ledger


def test_there_are_exactly_two_commands() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3 ")]
    assert commands == [
        "python3 -m pip install -e . && python3 -m adamoffload demo",
        'python3 -m pip install -e ".[test]" && python3 -m pytest',
    ]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
