"""Files that are replaced whole or not at all, and files that are files."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

__all__ = ["reading", "replacing"]


@contextmanager
def replacing(target: str) -> Iterator[IO[bytes]]:
    """Give a new file that takes the place of `target` if the block ends well."""
    with suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
        _check_regular(mode, target)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".adamoffload-{secrets.token_hex(8)}.tmp")
    file = open(temporary, "x+b", buffering=0)  # noqa: SIM115  (closed before it is replaced)
    try:
        with file:
            with suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
            yield file
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


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
    """Give a regular file, open for reading; anything else is an OSError."""
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
