"""Files that are either whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends without an error.

    Parameters
    ----------
    path : path-like
        What is written. A file that is there stays as it is until the new one is complete.

    Yields
    ------
    binary file
        Empty, in the folder of `path`; gone if the block raises.

    Raises
    ------
    OSError
        If the folder is missing or cannot be written, or `path` is a folder; it names `path`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "greeting.txt"
    >>> with replacing(path) as file:
    ...     _ = file.write(b"hello")
    >>> path.read_text()
    'hello'
    """
    target = Path(path)
    with _named(target):
        handle, temporary = tempfile.mkstemp(prefix=".adamoffload-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        with _named(target):
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp lets nobody else read
            os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """Let an error of the system name the file that was asked for."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None


def _umask() -> int:
    """Return which permissions new files lack; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
