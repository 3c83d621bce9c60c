"""Every number of every command: what no machine can hold is refused in a sentence."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adamoffload.cli import _parser, main

NUMBERS = {
    "demo": ["--epochs", "--seed", "--memory"],
    "report": ["--steps", "--seed", "--memory"],
    "trajectory": ["--steps", "--lr", "--start", "--noise", "--seed", "--compare", "--function"],
    "bench": ["--sizes", "--rounds"],
    "estimate": [
        *("--tokens", "--accumulate", "--sequence", "--cards", "--zero-stage"),
    ],
    "lab start": ["number"],
    "lab check": ["number", "--seed"],
    "lab grade": ["number", "--jobs", "--seed"],
}
"""Whatever is read from text, by command."""

QUICK = {
    "demo": ["--epochs", "1"],
    "report": ["--steps", "1"],
    "trajectory": ["--steps", "1", "--lr", "0.1"],
    "bench": ["--sizes", "1e3", "--rounds", "1"],
    "estimate": ["--model", "1e8"],
    "lab grade": [],
}
VALUES = ["1" + "0" * n for n in (12, 21, 400, 5000)] + ["1e12", "1e400", "-1", "nan", "0"]
SETTINGS = ["lr", "beta1", "beta2", "eps"]


def written(option: str, value: str) -> list[list[str]]:
    """Return how a value can stand in the place of an argument."""
    if option == "--compare":
        return [[option, f"adam:{setting}={value}"] for setting in SETTINGS]
    if option == "--start":
        return [[option, f"{value},1"]]
    return [[value] if option == "number" else [option, value]]


CASES = [
    (command, words)
    for command, options in NUMBERS.items()
    for option in options
    for value in VALUES
    for words in written(option, value)
]


@pytest.mark.parametrize(
    ("command", "words"), CASES, ids=lambda part: part if isinstance(part, str) else part[-1][:30]
)
def test_a_number_is_taken_or_refused_in_a_sentence(
    command: str,
    words: list[str],
    folder: Path,
    undrawn: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quick = QUICK.get(command, [])
    where = ["."] if command.startswith("lab") else []
    where += ["--csv", "marks.csv"] if command == "lab grade" else []
    try:
        code = main([*command.split(), *quick, *words, *where])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    said = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("step ")]
    assert (code, len(said)) in ((0, 0), (2, 1))


def test_paths_by_the_dozen_are_refused_before_they_are_walked(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adamoffload.playground.run", lambda *_, **__: pytest.fail("it ran"))
    assert main(["trajectory", "--compare", ",".join(["adam"] * 59)]) == 2
    said = capsys.readouterr().err
    assert said == "adamoffload: error: --compare: at most 49 paths can be told apart, got 59\n"


def test_every_number_is_tried() -> None:
    read = {
        command: [(x.option_strings or [x.dest])[-1] for x in parser._actions if of_text(x)]
        for command, parser in commands(_parser())
    }
    for command, options in read.items():
        assert set(options) == set(NUMBERS.get(command, [])), command


def of_text(action: argparse.Action) -> bool:
    return action.type not in (None, Path) and action.dest != "output"


def commands(parser: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield f"{above}{name}", below
                yield from commands(below, f"{above}{name} ")
