"""Files that are replaced whole or not at all, and files that are files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

__all__ = ["check_writable", "reading", "replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` when the block ends without an error.

    Parameters
    ----------
    path : str or path-like
        What is written; a symbolic link is followed. A file that is there stays as it is until the
        new one is on the disk, and leaves it its permissions. The new one belongs to who writes it,
        and other hard links keep the old one.

    Yields
    ------
    binary file
        Empty, in the folder of `path`; gone if the block raises.

    Raises
    ------
    OSError
        If the folder is missing or cannot be written, or `path` is no regular file; it names
        `path`. What was there is as it was, unless the message says that the new file is in place,
        and only its folder could not be synced: then a loss of power may still bring the old one
        back.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "greeting.txt"
    >>> with replacing(path) as file:
    ...     _ = file.write(b"hello")
    >>> path.read_text()
    'hello'
    """
    shown = os.fsdecode(path)
    if shown.endswith(os.sep):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), shown)
    target = os.path.realpath(shown)  # a link stays
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".adamoffload-{os.urandom(8).hex()}.tmp")
    with suppress(FileNotFoundError):
        _check_regular(os.stat(target).st_mode, shown)
    try:  # also an interrupt that comes as soon as the file exists must remove it
        with _named(shown):
            file = open(temporary, "xb")  # noqa: SIM115  (closed before it is moved)
        with file:
            with suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        with _named(shown):
            os.replace(temporary, target)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:  # of a write: the disk is full
            error.filename = shown
        with suppress(OSError):
            os.unlink(temporary)
        raise
    try:
        _sync_folder(folder)
    except OSError as error:
        what = f"the new file is in place, but its folder could not be synced: {error.strerror}"
        raise OSError(error.errno, what, shown) from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise what `replacing` would, before there is anything to write."""
    with suppress(_NothingToWrite), replacing(path):
        raise _NothingToWrite


class _NothingToWrite(Exception):
    pass


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Let an error of the system name the file that was asked for, not the temporary one."""
    try:
        yield
    except FileNotFoundError as error:
        raise OSError(error.errno, "its folder does not exist; create it first", path) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _sync_folder(folder: str) -> None:
    """Put the new name on the disk too, where directories can be opened."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def reading(path: str) -> Iterator[IO[bytes]]:
    """Open a regular file for reading; anything else is an OSError."""
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        _check_regular(os.fstat(file.fileno()).st_mode, path)
        yield file


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe, which is opened only to be refused, need not have a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_regular(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
