"""Every file of every command, and every way in which it can fail: a sentence, no half files."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adamoffload.cli import main

from commands import FILES, WRITES, arguments, one_sentence


@pytest.mark.parametrize(("command", "name"), FILES)
def test_a_folder_in_the_place_of_a_result(
    command: str, name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).mkdir()
    assert main(arguments(command)) == 2
    assert name in one_sentence(capsys)
    assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize("command", WRITES)
@pytest.mark.parametrize("output", [__file__, f"{__file__}/below", "/proc/none", "x" * 300])
def test_a_place_where_nothing_can_be_written(
    command: str, output: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(command)
    suffix = Path(words[-1]).suffix
    assert main([*words[:-1], f"{output}/x{suffix}" if suffix else output]) == 2
    assert output in one_sentence(capsys)
    assert not [*folder.iterdir()]


@pytest.mark.parametrize(("command", "name"), FILES)
def test_a_disk_that_is_full_when_a_result_is_written(
    command: str,
    name: str,
    folder: Path,
    undrawn: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(source: str, target: str, replace: Callable[[str, str], None] = os.replace) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    if name == "report.html":
        monkeypatch.undo()  # its page is what is tested
        monkeypatch.chdir(folder)
    monkeypatch.setattr(os, "replace", refuse)
    assert main(arguments(command)) == 2
    sentence = one_sentence(capsys)
    assert "No space left on device" in sentence
    assert "None" not in sentence
    left = {path.name for path in folder.iterdir()}
    assert name not in left
    assert left < set(WRITES[command])  # those that are whole, and no temporary file


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow: a real error of a real write, in the middle of it."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("command", WRITES)
def test_nothing_is_left_of_what_a_full_disk_has_cut_short(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk():
        assert main(arguments(command)) == 2
    assert os.strerror(errno.EFBIG) in one_sentence(capsys)
    assert not [*folder.iterdir()]
