"""The commands of the command line: what each writes, which of them talk, what they complain of."""

from __future__ import annotations

import pytest

WRITES = {
    "demo --epochs 1 --output": ["demo.png", "demo.json"],
    "report --steps 1 --output": [
        "report.html",
        "trace.json",
        "ledger.npz",
        "probe.npz",
        "ledger.csv",
        "probe.csv",
    ],
    "bench --sizes 1e3 --rounds 1 --output": ["bench.json", "bench.png"],
    "lab start 1": ["lab1.py", "lab1.rst"],
    **{
        f"trajectory --steps 1 --lr 0.1 --output {name}": [name]
        for name in ("t.png", "t.gif", "t.html")
    },
}
"""What each command writes, into the folder that follows, or that it runs in."""

FILES = [(command, name) for command, names in WRITES.items() for name in names]
TALKS = (
    *("backends", "estimate --model 1e6", "lab list", "--help", "--version"),
    *("lab check 1 lab1.py", *[*WRITES][:2]),
)


def arguments(command: str) -> list[str]:
    words = command.split()
    return [*words, "."] if words[-1] == "--output" or words[:2] == ["lab", "start"] else words


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("step ")]
    assert len(lines) == 1
    assert lines[0].startswith("adamoffload: error: ")
    return lines[0]
