"""Checkpoints: an optimizer's state and its parameters in one file, written whole or not at all.

`save` writes an `adamoffload.checkpoint.archive`, an ``.npz`` that NumPy alone can read, to a
temporary file that takes the place of the old one only when it is on the disk. `load` checks every
byte of the file, and everything in it against the optimizer, before anything changes. The format is
described on the page "Checkpoints" of the documentation.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import IO

import numpy as np

from adamoffload.arguments import describe, flag
from adamoffload.checkpoint.archive import BLOCK, CheckpointError, Reader, Writer
from adamoffload.checkpoint.header import KINDS, parsed, text_of
from adamoffload.checkpoint.layout import Item
from adamoffload.device.backend import Array, Backend, HostArray
from adamoffload.engine.team import available_cores
from adamoffload.files import reading, replacing
from adamoffload.offload import state
from adamoffload.offload.abstract import AbstractAdam

__all__ = ["CheckpointError", "load", "read", "save"]

_ALONE_BYTES = 4 << 20  # below that, threads cost more than they save
_HEADER_BYTES = 8 << 20  # what a header may take beyond four times the optimizer's own


def save(path: str | os.PathLike[str], optimizer: AbstractAdam) -> None:
    """Write an optimizer's state and its parameters to a file.

    Parameters
    ----------
    path : str or path-like
        Where to; a symbolic link is followed. What is there is replaced, whole, at the end: until
        then, and if anything fails, it stays as it is. The file is on the disk when this returns.
    optimizer : AdamOffload or Adam
        What to keep. The parameters come from the device through counted copies.

    Raises
    ------
    RuntimeError
        If a step or a load failed half-way: there is no state to keep.
    OSError
        If the file cannot be written; the old one is as it was.
    TypeError
        If `path` or `optimizer` is something else.

    Notes
    -----
    The data go to a file ``.adamoffload-*.tmp`` beside `path`, which takes its place after an
    ``fsync``. It is removed if something fails; a process that is killed leaves it behind. An
    existing file's permissions are kept, a new one's follow the umask.

    Examples
    --------
    >>> import tempfile, os
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.ones(3, np.float32)), name="w")
    >>> opt = ao.AdamOffload([w], learning_rate=0.5)
    >>> opt((device.asarray(np.zeros(3, np.float32)),))
    (True,)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.npz")
    ...     ao.save(path, opt)
    ...     v = ao.Parameter(device.asarray(np.zeros(3, np.float32)), name="w")  # to be replaced
    ...     resumed = ao.AdamOffload([v], learning_rate=0.5)
    ...     ao.load(path, resumed)
    ...     arrays = dict(np.load(path))
    >>> device.asnumpy(v.data), resumed.global_step, arrays["parameter/w"]
    (array([1., 1., 1.], dtype=float32), 1, array([1., 1., 1.], dtype=float32))
    """
    _check_optimizer("save", optimizer)
    with optimizer._lock:
        optimizer._integrity.settled(optimizer._settle)
        with replacing(path) as file:
            write_to(file, optimizer)


def write_to(file: IO[bytes], optimizer: AbstractAdam) -> None:
    """Write a checkpoint to a binary file that can seek; the caller holds the lock."""
    counters, places = state.counters_of(optimizer), state.places(optimizer)
    items = [Item(kind, name, array.shape) for (kind, name), array in places.items()]
    writer = Writer(file, lambda known: text_of(counters, known, version("adamoffload")), items)

    optimizer._backend.synchronize()  # also what others have issued may write the parameters

    def put(item: Item) -> None:
        writer.put(item, _blocks(places[item.kind, item.name], optimizer._backend))

    _for_each(items, put, places, optimizer._backend)
    writer.finish()


def _blocks(array: Array, backend: Backend) -> Iterator[HostArray]:
    flat = array.reshape(-1)
    scratch = np.empty(min(flat.size, BLOCK), np.float32)
    for begin in range(0, flat.size, BLOCK):
        block = flat[begin : begin + BLOCK]
        if backend.owns(block):
            host = scratch[: block.size]
            backend.d2h(block, host).wait()
            block = host
        yield block


def _for_each(
    items: Sequence[Item],
    act: Callable[[Item], None],
    places: Mapping[state.Key, Array],
    backend: Backend,
) -> None:
    """Act on each item, in threads if its array is on the host: a device has one caller."""
    near: list[Item] = []
    away: list[Item] = []
    for item in items:
        (away if backend.owns(places.get((item.kind, item.name))) else near).append(item)
    if sum(item.nbytes for item in items) < _ALONE_BYTES:
        for item in items:
            act(item)
        return
    with ThreadPoolExecutor(available_cores()) as pool:
        pending = [pool.submit(act, item) for item in near]
        try:
            for item in away:
                act(item)
            for done in pending:
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def load(path: str | os.PathLike[str], optimizer: AbstractAdam, *, strict: bool = True) -> None:
    """Take over the state and the parameters that a file holds.

    The file and what is in it are checked completely before anything changes. It does not matter on
    which backend, in which chunks, with which engine, or by which of `AdamOffload` and `Adam` it
    was made. The file is read twice, to check it and to copy it to its places, in little memory.

    Parameters
    ----------
    path : str or path-like
        From `save`.
    optimizer : AdamOffload or Adam
        With parameters of the same names and shapes; their values are replaced.
    strict : bool
        As in `AdamOffload.load_state_dict`, like what is restored of an assigned learning rate.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint, or a byte of it is not as it was written.
    ValueError, TypeError
        If the checkpoint is not one of this optimizer, or `path` or `optimizer` is something else.
    OSError
        If the file cannot be read; also for what is no regular file.

    Warns
    -----
    UserWarning
        If hyper-parameters differ and `strict` is False.

    Notes
    -----
    What is wrong with a file shows before anything changes. If the device or the disk fails after
    that, while arrays are replaced, the error says so, and the optimizer refuses to go on until a
    load succeeds. So it does after a step that failed half-way, and a load is what repairs it.
    """
    _check_optimizer("load", optimizer)
    flag("load", "strict", strict)
    shown = os.fspath(path)
    with reading(shown) as file, optimizer._lock:
        try:
            found = read(Reader(file, os.fstat(file.fileno()).st_size), optimizer)
        except CheckpointError as error:
            raise CheckpointError(f"load: {shown!r} cannot be loaded: {error}") from error.__cause__
        counters = state.adopt(optimizer, found.counters, strict, "load", stacklevel=3)
        take_over(replace(found, counters=counters), optimizer)


def take_over(found: Found, optimizer: AbstractAdam) -> None:
    """Replace an optimizer's arrays and counters by what `read` has found."""
    places, backend = state.places(optimizer), optimizer._backend
    with state.replacing(optimizer, found.counters) as touched:

        def fill(item: Item) -> None:
            key = item.kind, item.name
            touched.append(key)
            _fill(places[key].reshape(-1), found.reader, item, backend)

        _for_each(found.items, fill, places, backend)


def _fill(target: Array, reader: Reader, item: Item, backend: Backend) -> None:
    if not backend.owns(target):
        deque(reader.blocks(item, target), maxlen=0)
        return
    begin = 0
    for block in reader.blocks(item):
        backend.h2d(block, target[begin : begin + block.size]).wait()
        begin += block.size


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint, all of whose bytes have been checked."""

    reader: Reader
    counters: state.Counters
    items: list[Item]


def read(reader: Reader, optimizer: AbstractAdam) -> Found:
    """Check every byte of a checkpoint, and that its arrays are those of an optimizer.

    Raises
    ------
    CheckpointError
        If it is no checkpoint, or a byte of it is not as it was written.
    ValueError
        If it is one of other parameters. No array has been read then.
    """
    own = [Item(kind, name, array.shape) for (kind, name), array in state.places(optimizer).items()]
    text = reader.header(_HEADER_BYTES + 4 * len(text_of(state.counters_of(optimizer), own, "")))
    counters, items = parsed(text)
    for kind in KINDS:
        shapes = {item.name: item.shape for item in items if item.kind == kind}
        what = "the file's value" if kind == "parameter" else kind
        state.check_shapes("load", what, shapes, optimizer, holder="the file")
    reader.check(text, items)

    def check(item: Item) -> None:
        for block in reader.blocks(item):
            if item.kind == "moment2" and state.is_negative(block):
                raise CheckpointError(f"moment2 of {item.name[:100]!r} is negative somewhere")

    _for_each(items, check, {}, optimizer._backend)
    return Found(reader, counters, items)


def _check_optimizer(owner: str, optimizer: object) -> None:
    if not isinstance(optimizer, AbstractAdam):
        raise TypeError(
            f"{owner}: optimizer must be an AdamOffload or Adam, got {describe(optimizer)}; "
            f"it comes after the path"
        )
