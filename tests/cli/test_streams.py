"""Every command on streams that are closed, gone, full, or short of letters."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adamoffload.cli import main

from commands import TALKS, arguments, one_sentence


def start(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command as a program does, on the streams that `sys` has."""
    if "lab1.py" in command:
        odd = "print('\u03b1\u0416\u6f22')\ndef first_moment(*_):\n    raise OSError('\\udcff')\n"
        (folder / "lab1.py").write_text(odd, "utf-8")
    monkeypatch.setattr(sys, "argv", ["adamoffload", *arguments(command)])
    try:
        return main()
    except SystemExit as exit_:
        return int(exit_.code or 0)


def usual(command: str) -> int:
    return 1 if "check" in command else 0  # the lab is not solved


def gone() -> io.TextIOWrapper:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


def full() -> io.TextIOWrapper:
    return open("/dev/full", "w", encoding="utf-8")


STREAMS: dict[str, Callable[[], Any]] = {"closed": lambda: None, "gone": gone, "full": full}


@pytest.mark.parametrize("command", TALKS)
@pytest.mark.parametrize("state", STREAMS)
@pytest.mark.parametrize("streams", [("stdout",), ("stderr",), ("stdout", "stderr")], ids="+".join)
def test_a_stream_that_cannot_be_written(
    command: str,
    state: str,
    streams: tuple[str, ...],
    folder: Path,
    undrawn: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # put back, since `main` replaces both
    broken = [STREAMS[state]() for _ in streams]
    for name, stream in zip(streams, broken, strict=True):
        monkeypatch.setattr(sys, name, stream)
    lost = state == "full" and "stdout" in streams  # someone waits for it
    assert start(command, folder, monkeypatch) == (2 if lost else usual(command))
    if lost and "stderr" not in streams:
        sys.stderr.flush()
        said = one_sentence(capsys)
        assert said == "adamoffload: error: standard output: No space left on device"
    for stream in broken:
        if stream is not None:
            stream.close()  # it holds nothing that it could complain about


@pytest.mark.parametrize("command", TALKS)
@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "ascii", "cp932"])
def test_an_encoding_without_some_of_the_letters(
    command: str, encoding: str, folder: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, buffer in shown.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding))
    inside = folder / "caf\u00e9 \u6f22 \udcff"
    inside.mkdir()
    monkeypatch.chdir(inside)
    assert start(command, inside, monkeypatch) == usual(command)
    assert shown["stdout"].getvalue().decode(encoding)


@pytest.mark.parametrize("output", ["caf\u00e9", "\u6f22", "\udcff"])
def test_a_path_of_which_the_terminal_lacks_a_letter(
    output: str, folder: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii"))
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(sys, "argv", ["adamoffload", *"report --steps 1 --output".split(), output])
    assert main() == 0
    escaped = output.encode("ascii", "backslashreplace")
    assert b"Report:  " + escaped + b"/report.html" in shown.getvalue()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirections", "code"),
    [
        (">&-", 0),
        ("2>&-", 0),
        ("<&- >&- 2>&-", 0),
        (">/dev/full", 2),
        ("2>/dev/full", 0),
        ("| true", 0),
        ("2>&1 | true", 0),
    ],
)
def test_a_process_ends_as_its_command_does(redirections: str, code: int, unbuffered: str) -> None:
    shell = f'"{sys.executable}" -m adamoffload lab list {redirections}; exit ${{PIPESTATUS[0]}}'
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "LC_ALL": "C"}
    run = subprocess.run(["bash", "-c", shell], env=environment, capture_output=True, text=True)
    assert run.returncode == code
    said = "adamoffload: error: standard output: No space left on device\n"
    assert run.stderr == (said if code else "")
