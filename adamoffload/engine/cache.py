"""The cache of compiled loops: a folder that nobody else can write to, or none.

Numba keeps machine code beside a function's source, and runs what it finds there. So the source of
a loop lies in the user's cache folder, and only the first process ever waits for the compiler. A
folder that is a link, belongs to somebody else or can be written to by others is not used, with a
warning, once. Files that are not as they were written are compiled anew.

Importing this module needs Numba (extra ``fast``).
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numba

from adamoffload.files import replacing

__all__ = ["compiled"]


def compiled(
    text: str,
    signature: Any,
    name: str = "loop",
    within: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **options: Any,
) -> Callable[..., Any]:
    """Compile a function of a source, or take it from the cache.

    Parameters
    ----------
    text : str
        Python source that defines it.
    signature : numba signature
        What it is called with.
    name : str
        Which function of the source.
    within : mapping from str to mapping
        Functions of the source that are compiled into it, with options of their own.
    **options
        For ``numba.njit``.

    Warns
    -----
    UserWarning
        If the cache folder could hold what somebody else has written; once.

    Examples
    --------
    >>> twice = "def twice(x): return x + x"
    >>> compiled(twice, numba.float32(numba.float32), "twice")(1.5)
    3.0
    """

    def function(file: str) -> Any:
        module = _module(text, file)
        for other, own in within.items():
            setattr(module, other, numba.njit(**_OPTIONS, **own)(getattr(module, other)))
        return getattr(module, name)

    path = _source_file(text)
    for again in (False, True) if path else ():
        assert path is not None
        with suppress(Exception):  # whatever a damaged pickle raises, or a disk that is full
            if again or not _intact(path):
                for file in _written_by_numba(path):
                    file.unlink()
            made = numba.njit(signature, cache=True, **_OPTIONS, **options)(function(str(path)))
            _seal(path)
            return made  # type: ignore[no-any-return]  # Numba has no types
    alone: Callable[..., Any] = numba.njit(signature, **_OPTIONS, **options)(
        function("<adamoffload>")
    )
    return alone


_OPTIONS: Mapping[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}


def _module(text: str, file: str) -> ModuleType:
    module = ModuleType(f"adamoffload_{Path(file).stem}")
    exec(compile(text, file, "exec"), module.__dict__)
    sys.modules[module.__name__] = module  # Numba looks it up when it reads its cache
    return module


def _source_file(text: str) -> Path | None:
    """Return the file with a source, in a folder of our own; None if there can be none."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = _folder(Path(home) / "adamoffload")
        if folder is None:
            return None
        data = f"{text}\n".encode()
        path = folder / f"loop_{hashlib.sha256(data).hexdigest()[:16]}.py"
        if not path.exists() or path.read_bytes() != data:
            with replacing(path) as file:  # another process may be doing the same
                file.write(data)
    except (OSError, RuntimeError):  # it cannot be written to, or there is no home
        return None
    return path


@cache
def _folder(folder: Path) -> Path | None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    why = _trouble(folder)
    if not why:
        return folder
    warnings.warn(
        f"engine 'numba': {why}; so compiled loops are not kept, and every process compiles them "
        f"anew. Delete {folder}, or set XDG_CACHE_HOME to a folder of your own",
        UserWarning,
        stacklevel=2,
    )
    return None


def _trouble(folder: Path) -> str:
    """Return what makes a folder one that others may have written to; nothing, if all is well."""
    if not hasattr(os, "geteuid"):  # Windows has no modes, and keeps a user's folders apart
        return ""
    private = not os.lstat(folder).st_mode & 0o077  # then nobody gets at what is in it
    for path in [folder, *folder.rglob("*")]:
        with suppress(FileNotFoundError):  # another process's temporary file
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                return f"{path} is a symbolic link"
            if found.st_uid != os.geteuid():
                return f"{path} belongs to another user"
            if found.st_mode & 0o022 and not (private and path != folder):
                return f"{path} can be written to by others"
    return ""


# -- what Numba has written -------------------------------------------------------------------


def _written_by_numba(path: Path) -> list[Path]:
    return sorted((path.parent / "__pycache__").glob(f"{path.stem}.*"))


def _checksum(path: Path) -> bytes:
    digest = hashlib.sha256()
    for file in _written_by_numba(path):
        digest.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest().encode()


def _intact(path: Path) -> bool:
    seal = path.with_suffix(".sha256")
    return seal.exists() and seal.read_bytes() == _checksum(path)


def _seal(path: Path) -> None:
    if not _intact(path):
        with replacing(path.with_suffix(".sha256")) as file:
            file.write(_checksum(path))
