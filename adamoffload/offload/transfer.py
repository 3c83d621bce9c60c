"""Copies an array from any place to any other: what is done once, outside of a step."""

from __future__ import annotations

import numpy as np

from adamoffload.device.backend import Array, Backend, HostArray, Stored
from adamoffload.observe.ledger import Record, ignore

__all__ = ["on_host", "transfer"]

_BLOCK = 1 << 20


def transfer(backend: Backend, source: Array, target: Array, record: Record = ignore) -> None:
    """Copy an array to another place, and wait until it is there.

    Between device and disk it goes through little memory on the host, in blocks.

    Parameters
    ----------
    backend : Backend
        The device.
    source, target : device array, ndarray or DiskArray
        Of equal shape, C-contiguous but on the device. Where their types differ, the host casts:
        what has fewer bits is rounded to the nearest.
    record : callable
        From `Ledger.at`.

    Raises
    ------
    OSError
        Whatever a copy raises; a part of `target` may have been replaced then.
    """
    same = source.dtype == target.dtype
    if backend.owns(source) and backend.owns(target):
        backend.run_on_device(lambda: np.copyto(target, source, casting="same_kind")).wait()
    elif same and isinstance(source, np.ndarray):
        _from_host(backend, source, target, record)
    elif same and isinstance(target, np.ndarray):
        _to_host(backend, source, target, record)
    else:
        source, target = source.reshape(-1), target.reshape(-1)
        size = min(_BLOCK, target.size)
        given = np.empty(size, source.dtype)
        taken = given if same else np.empty(size, target.dtype)
        for start in range(0, target.size, _BLOCK):
            block = slice(start, min(start + _BLOCK, target.size))
            before, after = (x[: block.stop - start] for x in (given, taken))
            if isinstance(source, np.ndarray):
                before = source[block]
            else:
                _to_host(backend, source[block], before, record)
            if not same:
                np.copyto(after, before, casting="same_kind")
            _from_host(backend, after, target[block], record)


def on_host(backend: Backend, source: Array, record: Record = ignore) -> HostArray:
    """Return a new host array of what is in an array, wherever it is."""
    target = np.empty(source.shape, source.dtype)
    transfer(backend, source, target, record)
    return target


def _to_host(backend: Backend, source: Array, target: HostArray, record: Record) -> None:
    if isinstance(source, Stored):
        backend.read(source, target, record=record).wait()
        return
    backend.d2h(source, target, record=record).wait()


def _from_host(backend: Backend, source: HostArray, target: Array, record: Record) -> None:
    if isinstance(target, np.ndarray):
        np.copyto(target, source)
    elif isinstance(target, Stored):
        backend.write(np.asarray(source, order="C"), target, record=record).wait()
    else:
        computed = backend.run_on_device(_nothing)  # what is in the queue may still write `target`
        source = np.asarray(source, order="C")
        backend.h2d(source, target, after=(computed,), record=record).wait()


def _nothing() -> None:
    """Only be a place in the device's queue."""
