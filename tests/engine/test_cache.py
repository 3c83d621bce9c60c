"""The cache of compiled loops: used by nobody else, trusted only where nobody else can write."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")
cache: Any = pytest.importorskip("adamoffload.engine.cache")

TEXT = "def loop(x):\n    x[0] += 1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache._folder.cache_clear()
    return tmp_path / "adamoffload"


def works() -> tuple[int, int]:
    """Compile the loop, and see that it runs; return how often the cache was hit and missed."""
    loop = cache.compiled(TEXT, numba.void(numba.float32[::1]))
    x = np.zeros(2, np.float32)
    loop(x)
    assert x.tolist() == [1, 0]
    return sum(loop.stats.cache_hits.values()), sum(loop.stats.cache_misses.values())


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_compiled_is_found_again(folder: Path) -> None:
    assert works() == (0, 1)
    assert folder.stat().st_mode & 0o777 == 0o700
    before = [path.read_bytes() for path in files(folder)]
    assert works() == (1, 0)
    assert [path.read_bytes() for path in files(folder)] == before
    assert not [path for path in files(folder) if path.suffix == ".pyc"]  # nobody reads one


@pytest.mark.parametrize("suffix", [".py", ".nbi", ".nbc", ".sha256"])
@pytest.mark.parametrize("damage", ["a byte", "a pickle", "empty"])
def test_what_is_damaged_is_compiled_anew(suffix: str, damage: str, folder: Path) -> None:
    works()
    (path,) = (path for path in files(folder) if path.suffix == suffix)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    planted = b"cos\n_exit\n(I70\ntR."  # would end this process
    path.write_bytes({"a byte": bytes(data), "a pickle": planted, "empty": b""}[damage])
    # A source that is put right is the one that the machine code was made from.
    assert works() == ((1, 0) if suffix == ".py" else (0, 1))
    assert works() == (1, 0)


def test_what_numba_cannot_read_is_compiled_anew(folder: Path) -> None:
    works()
    (index,) = (path for path in files(folder) if path.suffix == ".nbi")
    index.write_bytes(b"no pickle")
    cache._seal(*folder.glob("*.py"))  # as if it had been written so
    assert works() == (0, 1)
    assert works() == (1, 0)


def foreign(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)


def linked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def a_link_in_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "__pycache__" / "x").symlink_to(folder)


def open_to_the_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o720)


def open_to_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o702)


def open_below(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o710)
    (folder / "__pycache__").chmod(0o770)


WHY = {
    foreign: "adamoffload belongs to another user",
    linked: "adamoffload is a symbolic link",
    a_link_in_it: "x is a symbolic link",
    open_to_the_group: "adamoffload can be written to by others",
    open_to_all: "adamoffload can be written to by others",
    open_below: "__pycache__ can be written to by others",
}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners and modes")
@pytest.mark.parametrize("spoil", WHY, ids=lambda spoil: spoil.__name__)
def test_a_folder_that_others_may_have_written_to_is_not_used(
    spoil: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works()
    spoil(folder, monkeypatch)
    cache._folder.cache_clear()
    for path in files(folder):
        path.write_bytes(b"planted")
    with pytest.warns(UserWarning, match=rf"engine 'numba': .*{WHY[spoil]}; so .* Delete "):
        assert works() == (0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert works() == (0, 1)  # and is told once
    assert all(path.read_bytes() == b"planted" for path in files(folder))


def test_files_that_a_umask_leaves_open_are_safe_in_a_private_folder(folder: Path) -> None:
    works()
    for path in folder.rglob("*"):
        path.chmod(0o777)
    cache._folder.cache_clear()
    assert works() == (1, 0)


@pytest.mark.parametrize("missing", ["HOME", "parent"])
def test_without_a_place_it_is_compiled_in_memory(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", "" if missing == "HOME" else str(blocked))
    monkeypatch.setenv("HOME", str(blocked))
    assert works() == (0, 1)
    assert works() == (0, 1)


def test_missing_parents_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a" / "b"))
    assert works() == (0, 1)
    assert (tmp_path / "a" / "b" / "adamoffload").is_dir()


def test_what_does_not_compile_is_an_error_and_not_a_loop(folder: Path) -> None:
    with pytest.raises(numba.TypingError):
        cache.compiled("def loop(x):\n    x.nothing()", numba.void(numba.float32[::1]))
