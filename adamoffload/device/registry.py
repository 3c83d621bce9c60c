"""Finds backends: plug-ins in the entry-point group ``adamoffload.backends``.

A plug-in is loaded when it is asked for by name, not before. One that cannot be loaded, or says
that it cannot run here, is listed with the reason and the remedy; two with one name are an error,
since which of them one gets would be luck. Our own backends are found the same way as anyone's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adamoffload.arguments import describe
from adamoffload.device.backend import Backend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUP", "BackendInfo", "available_backends", "get_backend"]

GROUP = "adamoffload.backends"
"""The entry-point group; an entry names a subclass of `Backend`."""


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What is known of an installed backend.

    Attributes
    ----------
    name : str
        What `get_backend` takes.
    available : bool
        Whether it can be used here.
    reason : str
        Why it can't, and what to do; empty if it can.
    """

    name: str
    available: bool
    reason: str = ""


def available_backends() -> dict[str, BackendInfo]:
    """Return every installed backend by name, with the reason for each that cannot run here.

    Examples
    --------
    >>> available_backends()["numpy"]
    BackendInfo(name='numpy', available=True, reason='')
    """
    infos = {}
    for name, entries in sorted(_installed().items()):
        try:
            reason = _load(name, entries).unavailable()
        except Exception as error:  # whatever a stranger's code raises: list it, and go on
            reason = str(error) or type(error).__name__
        infos[name] = BackendInfo(name, available=not reason, reason=reason)
    return infos


def get_backend(name: str, **options: Any) -> Backend:
    """Create a device.

    Parameters
    ----------
    name : str
        An installed backend: ``"numpy"``, ...; see `available_backends`.
    **options
        Passed to the backend, such as ``memory_bytes=64 << 20``.

    Returns
    -------
    Backend
        A new device with memory of its own.

    Raises
    ------
    ValueError
        If there is no such backend, or more than one.
    ImportError
        If it is installed but cannot be loaded.
    RuntimeError
        If it is installed but cannot run here; the message says why.
    TypeError
        If `name` is no string, the plug-in no `Backend`, or an option unknown to it.

    Examples
    --------
    >>> get_backend("numpy", memory_bytes=1 << 20).memory().limit
    1048576
    >>> get_backend("nunpy")
    Traceback (most recent call last):
    ValueError: no backend is called 'nunpy'; did you mean 'numpy'? Installed: ...
    """
    if not isinstance(name, str):
        raise TypeError(f"get_backend: name must be a string, got {describe(name)}")
    # Imported here: `import adamoffload` costs little more than `import numpy`.
    import difflib
    import inspect

    installed = _installed()
    if name not in installed:
        other = _ELSEWHERE.get(name.partition(":")[0].lower())
        close = difflib.get_close_matches(name, installed, n=1)
        if other in installed:
            close = [other]
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(
            f"no backend is called {name!r}{hint} Installed: "
            f"{', '.join(sorted(installed)) or 'none'}"
        )
    backend = _load(name, installed[name])
    reason = backend.unavailable()
    if reason:
        raise RuntimeError(f"backend {name!r} cannot run here: {reason}")
    known = inspect.signature(backend).parameters
    unknown = [option for option in options if option not in known]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        raise TypeError(
            f"backend {name!r} has no option {unknown[0]!r}; it takes: {', '.join(known) or 'none'}"
        )
    return backend(**options)


_ELSEWHERE = {"cuda": "cupy", "gpu": "cupy", "cpu": "numpy", "host": "numpy"}
"""By what other libraries call a device: the backend for it."""


def _installed() -> dict[str, list[EntryPoint]]:
    """Return the entry points by name; an installation seen twice on the path counts once."""
    from importlib.metadata import entry_points  # here, since it takes 10 ms to import

    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        entries = found.setdefault(entry.name, [])
        if entry.value not in [other.value for other in entries]:
            entries.append(entry)
    return found


def _load(name: str, entries: list[EntryPoint]) -> type[Backend]:
    if len(entries) > 1:
        sources = ", ".join(f"{entry.value} ({_distribution(entry)})" for entry in entries)
        raise ValueError(
            f"{len(entries)} plug-ins are called {name!r}: {sources}; uninstall all but one"
        )
    (entry,) = entries
    try:
        backend = entry.load()
    except Exception as error:  # whatever a stranger's module raises when it is imported
        raise ImportError(
            f"backend {name!r} ({entry.value}, from {_distribution(entry)}) cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not (isinstance(backend, type) and issubclass(backend, Backend)):
        raise TypeError(
            f"backend {name!r} ({entry.value}, from {_distribution(entry)}) must be a subclass of "
            f"adamoffload.device.backend.Backend, got {describe(backend)}"
        )
    return backend


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown distribution"
