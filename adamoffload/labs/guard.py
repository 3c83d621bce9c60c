"""Keeps a student's code to its own business: an audit hook, which cannot be taken out again.

It stops what a curious program does by ordinary means: to read the graders, to write into other
people's files, to start or end processes. It is no wall: who means harm finds a way around it, and
code from strangers belongs in a container.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["watch"]

_PROCESSES = (
    *("os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn"),
    *("os.startfile", "os.system", "pty.spawn", "subprocess.Popen"),
)
_FILES = (
    *("os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename"),
    *("os.rmdir", "os.symlink", "os.truncate", "os.utime", "shutil.rmtree"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def watch(labs: Path, own: Path) -> Callable[[], bool]:
    """Begin to refuse, in this process, what no lab needs.

    Parameters
    ----------
    labs : Path
        The folder with the labs, whose graders and scenarios are not for reading.
    own : Path
        The one folder that may be written to.

    Returns
    -------
    callable
        Says whether somebody has tried to read a grader, or to import from the labs. The code may
        hide the error that it got, but not this.
    """
    own = own.resolve()
    graders, scenarios = (
        {identity for file in labs.glob(f"lab*/**/{name}.*") if (identity := _identity(file))}
        for name in ("grader", "scenarios")
    )
    peeked: list[bool] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str | bytes):
            path = os.fsdecode(args[0])
            identity = _identity(path)
            if identity in graders or (identity is None and Path(path).name.startswith("grader.")):
                peeked.append(True)
                raise PermissionError("the graders' files are not for reading")
            if identity in scenarios or _of_another_process(path):
                raise PermissionError(f"{path} is not for reading")
            if args[2] & _WRITING and path != os.devnull:
                _inside(path, own)
        elif event == "import" and str(args[0]).startswith("adamoffload.labs.lab"):
            peeked.append(True)
            raise PermissionError("the graders' files are not for reading")
        elif event in _PROCESSES:
            raise PermissionError("a lab needs no other process")
        elif event in _FILES:
            for path in args[:2]:
                if isinstance(path, str | bytes):
                    _inside(os.fsdecode(path), own)

    sys.addaudithook(hook)
    return lambda: bool(peeked)


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Return what a file is, whatever its name: links to it are the same."""
    with contextlib.suppress(OSError, ValueError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def _of_another_process(path: str) -> bool:
    parts = Path(os.path.abspath(path)).parts[1:3]
    return len(parts) == 2 and parts[0] == "proc" and parts[1].isdigit() and parts[1] != _own_id()


def _own_id() -> str:
    return str(os.getpid())


def _inside(path: str, own: Path) -> None:
    if own not in Path(path).resolve().parents:
        raise PermissionError(f"{path} is not for writing; a lab needs no files")
