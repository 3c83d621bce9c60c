"""A file is whole or not there, and nothing else is left behind."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from adamoffload.files import check_writable, replacing


def test_the_file_is_there_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with replacing(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "ours") as file:
        file.write(b"")
    (tmp_path / "other").write_bytes(b"")
    modes = {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("ours", "other")}
    assert len(modes) == 1


@pytest.mark.parametrize("name", ["missing/out.txt", "folder"])
def test_an_error_of_the_system_names_the_path_that_was_asked_for(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught, replacing(tmp_path / name):
        pass
    assert caught.value.filename == str(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_an_error_about_another_file_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "out.txt"):
        (tmp_path / "input.txt").read_text()
    assert caught.value.filename == str(tmp_path / "input.txt")


def test_a_folder_that_cannot_be_synced_is_an_error_that_says_which_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.txt"
    path.write_bytes(b"old")
    real = os.fsync

    def fail_for_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(5, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    message = r"new file is in place, .* could not be synced: Input/output error"
    with pytest.raises(OSError, match=message) as caught, replacing(path) as file:
        file.write(b"new")
    assert (caught.value.errno, caught.value.filename) == (5, str(path))
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_ends_in_a_slash_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    for path in (f"{tmp_path}/file/", f"{tmp_path}/none/"):
        with pytest.raises(IsADirectoryError), replacing(path):
            pass
    assert (tmp_path / "file").read_bytes() == b"old"


def test_another_hard_link_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"old")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    with replacing(tmp_path / "one") as file:
        file.write(b"new")
    assert (tmp_path / "one").read_bytes() == b"new"
    assert (tmp_path / "two").read_bytes() == b"old"


def test_an_interrupt_as_soon_as_the_file_exists_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create_and_interrupt(path: str, mode: str) -> None:
        open(path, mode).close()
        raise KeyboardInterrupt

    monkeypatch.setattr("adamoffload.files.open", create_and_interrupt, raising=False)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with replacing(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_what_is_written_is_whole_however_much_the_system_takes_at_once(tmp_path: Path) -> None:
    with replacing(tmp_path / "out") as file:
        assert isinstance(file, io.BufferedIOBase)  # a raw file may write a part, and say so


def test_whether_a_file_can_be_written_is_known_beforehand(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"old")
    check_writable(path)
    check_writable(tmp_path / "new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"
    for wrong in (tmp_path, tmp_path / "none" / "file", path / "file"):
        with pytest.raises(OSError, match=str(wrong)):
            check_writable(wrong)
