"""Checkpoints: an optimizer's state and its parameters in one file, written whole or not at all.

`save` writes an `adamoffload.checkpoint.archive` to a temporary file, which takes the place of the
old one only when it is on the disk. `load` checks the whole file, and what it says against the
optimizer, before anything changes. The format is described on the page "Checkpoints" of the
documentation.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib.metadata import version
from itertools import filterfalse
from typing import IO, Any, NamedTuple

import numpy as np

from adamoffload.arguments import choice, describe, flag
from adamoffload.checkpoint.archive import BLOCK, CheckpointError, Entry, Reader, refused, write
from adamoffload.checkpoint.partial import Loaded, compared, joined, narrowed
from adamoffload.device.backend import Array, Backend, HostArray
from adamoffload.engine.team import available_cores
from adamoffload.files import reading, replacing
from adamoffload.names import check_keys, check_names, listed, short
from adamoffload.offload.loss_scale import DynamicLossScale
from adamoffload.offload.optimizer import Optimizer
from adamoffload.offload.state import (
    EXTRAS,
    Counters,
    Key,
    Saved,
    adopt,
    is_negative,
    read_counters,
)
from adamoffload.offload.transfer import transfer
from adamoffload.plan.formats import WEIGHTS

__all__ = ["CheckpointError", "Loaded", "load", "read", "save"]

FORMAT = "adamoffload checkpoint"
VERSION = 2


def save(path: str | os.PathLike[str], optimizer: Optimizer) -> None:
    """Write an optimizer's state and its parameters to a file.

    Parameters
    ----------
    path : str or path-like
        Where to; a symbolic link is followed. What is there is replaced, whole, at the end: until
        then, and if anything fails, it stays as it is. The file is on the disk when this returns.
    optimizer : Optimizer
        What to keep. The parameters come from the device through counted copies.

    Raises
    ------
    RuntimeError
        If a step or a load failed half-way: there is no state to keep.
    OSError
        If the file cannot be written. The old one is as it was, unless the message says that the
        new one is in its place and only its folder could not be synced.
    TypeError
        If `path` or `optimizer` is something else.

    Warns
    -----
    UserWarning
        If an object that computes a rate or a decay has changed since construction: what state it
        has is not saved.

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
    ...     _ = ao.load(path, resumed)
    ...     arrays = dict(np.load(path))
    >>> device.asnumpy(v.data), resumed.global_step, arrays["parameter/w"]
    (array([1., 1., 1.], dtype=float32), 1, array([1., 1., 1.], dtype=float32))
    """
    _check_optimizer("save", optimizer)
    optimizer.settings.warn_of_unsaved("save", 2)
    with optimizer.exclusive(), replacing(path) as file:
        write_to(file, optimizer)


def write_to(file: IO[bytes], optimizer: Optimizer) -> None:
    """Write a checkpoint to a binary file that can seek; the optimizer is at rest."""
    arrays = (
        (Entry(kind, name, array.shape, array.dtype.name), _blocks(array, optimizer.backend))
        for (kind, name), array in optimizer.state.arrays().items()
    )
    plain = optimizer.counters.plain(optimizer.settings)
    if optimizer.scale_state is not None:
        plain["loss_scale"] = optimizer.scale_state
    write(file, _header(plain), arrays)


def _blocks(array: Array, backend: Backend) -> Iterator[HostArray]:
    """Yield an array in blocks; what is not on the host comes through counted copies."""
    flat = array.reshape(-1)
    scratch = np.empty(min(flat.size, BLOCK), array.dtype)
    for begin in range(0, flat.size, BLOCK):
        block = flat[begin : begin + BLOCK]
        if not isinstance(block, np.ndarray):
            transfer(backend, block, scratch[: block.size])
            block = scratch[: block.size]
        yield block


def load(
    path: str | os.PathLike[str],
    optimizer: Optimizer,
    *,
    strict: bool = True,
    only: str | None = None,
) -> Loaded:
    """Take over the state and the parameters that a file holds.

    The file and what is in it are checked completely before anything changes. It does not matter on
    which backend, in which chunks, with which engine, or under which strategy it
    was made. The file is read twice, to check it and to copy it to its places, in little memory.

    Parameters
    ----------
    path : str or path-like
        From `save`.
    optimizer : Optimizer
        With parameters of the same names and shapes; their values are replaced.
    strict : bool
        Refuse a checkpoint of other parameters or hyper-parameters. If False, hyper-parameters stay
        as they are here, as in `AdamOffload.load_state_dict`; and of the parameters those are
        loaded that the file has by name, shape and type, each with its state. The others stay as
        they are, with a count of updates of their own, which corrects their bias.
    only : str, optional
        ``"parameters"``: load the parameters' values, and master weights where both have them,
        whatever the rule and the strategy. The optimizer's state stays as it is.

    Returns
    -------
    Loaded
        What was left out: ``missing``, ``unexpected`` and ``different`` parameters. With `strict`,
        nothing.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint, or a byte of it is not as it was written.
    ValueError, TypeError
        If the checkpoint is not one of this optimizer, or has none of its parameters; if one that
        stays has had more updates than the file has steps; or if an argument is something else.
    RuntimeError
        If something would stay as it is, and an earlier step or load has left it in pieces.
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

    Examples
    --------
    A model that has grown: what was trained before is loaded, and ``"new"`` begins.

    >>> import tempfile, os
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w, v, new = (ao.Parameter(device.zeros(3), name=name) for name in ("w", "w", "new"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.npz")
    ...     ao.save(path, ao.AdamOffload([w]))
    ...     ao.load(path, ao.AdamOffload([v, new]), strict=False)
    Loaded(missing=('new',), unexpected=(), different={})
    """
    _check_optimizer("load", optimizer)
    flag("load", "strict", strict)
    if only is not None:
        choice("load", "only", only, ["parameters"])
    shown = os.fspath(path)
    with reading(shown) as file:
        try:
            found = read(file, optimizer, strict=strict, only=only)
        except CheckpointError as error:
            raise CheckpointError(f"load: {shown!r} cannot be loaded: {error}") from error.__cause__
        settings, own = optimizer.settings, optimizer.counters
        counters = own
        if found.saved is not None:
            options: Any = {"strict": strict, "stacklevel": 3, "names": found.names}
            counters = adopt("load", found.saved, settings, own, **options)
            counters = joined(counters, own, settings.names, found.names)
        whole = only is None and len(found.names) == len(settings.names)
        _warn_of_lost_bits(found, optimizer)
        with nullcontext() if whole else optimizer.exclusive():  # what stays must be whole itself
            take_over(found, counters, optimizer)
    return found.loaded


class Found(NamedTuple):
    """A checkpoint that has been checked: every array is one of the optimizer's, and undamaged."""

    reader: Reader
    saved: Saved | None
    """None if only the parameters are wanted."""
    entries: list[Entry]
    names: list[str]
    """The parameters to load."""
    loaded: Loaded
    scale: Any
    """State of a dynamic loss scale, or None."""


def read(
    file: IO[bytes], optimizer: Optimizer, *, strict: bool = True, only: str | None = None
) -> Found:
    """Check a checkpoint from its first byte to its last, and that it has an optimizer's arrays.

    Raises
    ------
    CheckpointError
        If it is no checkpoint, or damaged.
    ValueError
        If it is one of other parameters, or of another rule. No array has been read then.
    """
    reader = Reader(file)
    with refused():
        header = _as_version_2(reader.header)
        listed = reader.entries(header["arrays"])
    wanted = {key: x for key, x in optimizer.state.arrays().items() if _is_taken(key[0], only)}
    entries = [entry for entry in listed if _is_taken(entry.kind, only)]
    names, loaded = [*optimizer.settings.names], Loaded()
    if not strict:
        loaded = compared(entries, wanted)
        left = {*loaded.missing, *loaded.different}
        names = [name for name in names if name not in left]
        known = {*names}
        entries = [entry for entry in entries if entry.name in known]
        wanted = {key: x for key, x in wanted.items() if key[1] in known}
        if not names:
            raise ValueError(f"load: the file has none of the optimizer's parameters: {loaded}")
        with refused():
            header = narrowed(header, known)
    with refused():
        saved = None if only else _saved(header, optimizer)
    _check_arrays(entries, wanted)
    squares = optimizer.rule.squares

    def check(entry: Entry) -> None:
        for block in reader.blocks(entry):
            if entry.kind in squares and is_negative(block):
                raise CheckpointError(f"{entry.kind} of {short(entry.name)} is negative somewhere")

    _for_each(listed, check)
    scale = None if only else header["counters"].get("loss_scale")
    if scale is not None:
        with refused():
            DynamicLossScale().load_state_dict(scale)
    return Found(reader, saved, entries, names, loaded, scale)


def _is_taken(kind: str, only: str | None) -> bool:
    return only is None or kind in ("parameter", "master")


def _check_arrays(entries: Sequence[Entry], arrays: Mapping[Key, Array]) -> None:
    """Refuse arrays that are not those of an optimizer, by kind, name, shape and type.

    A master may be there or not: beside float32 weights it is the same numbers. What rests in
    another type is cast.
    """
    own: dict[str, dict[str, Array]] = {}
    found: dict[str, dict[str, Entry]] = {kind: {} for kind, *_ in entries}
    for (kind, name), array in arrays.items():
        own.setdefault(kind, {})[name] = array
    for entry in entries:
        found[entry.kind][entry.name] = entry
    extras = [(kind, found.pop(kind, {}), own.pop(kind, {})) for kind in EXTRAS]
    check_names("load", "the file", found, own)
    for kind, named in own.items():
        check_names("load", f"{kind} in the file", found[kind], named)
    both = [
        (kind, x, there[name])
        for kind, there, here in extras
        for name, x in here.items()
        if name in there
    ]
    both += [
        (k, array, found[k][name]) for k, named in own.items() for name, array in named.items()
    ]
    for kind, array, entry in both:
        cast = kind != "parameter" and entry.dtype in WEIGHTS
        if entry.shape != array.shape or (entry.dtype != array.dtype.name and not cast):
            raise ValueError(
                f"load: {kind} of {short(entry.name)} must have the shape {array.shape} and the "
                f"type {array.dtype}, got {entry.shape} and {describe(entry.dtype)} in the file"
            )


def take_over(found: Found, counters: Counters, optimizer: Optimizer) -> None:
    """Replace an optimizer's arrays by what `read` has found, and its counters."""
    arrays, backend = optimizer.state.arrays(), optimizer.backend
    entries = [entry for entry in found.entries if entry[:2] in arrays]
    with optimizer.replacing(counters) as touched:

        def fill(entry: Entry) -> None:
            target = arrays[entry[:2]].reshape(-1)
            touched.append(entry[:2])
            if isinstance(target, np.ndarray) and entry.dtype == target.dtype.name:
                deque(found.reader.blocks(entry, target), maxlen=0)
                return
            begin = 0
            for block in found.reader.blocks(entry):
                transfer(backend, block, target[begin : begin + block.size])
                begin += block.size

        away = {key for key, array in arrays.items() if not isinstance(array, np.ndarray)}
        _for_each(entries, fill, away)
        filled = {entry[:2] for entry in entries}
        for kind, name in [(kind, name) for kind in EXTRAS for name in found.names]:
            if (kind, name) not in arrays.keys() - filled:
                continue
            touched.append((kind, name))
            if kind == "master":
                transfer(backend, arrays["parameter", name], arrays[kind, name])
            else:  # nothing was lost so far
                arrays[kind, name][...] = 0
    optimizer.take_scale(found.scale)


def _warn_of_lost_bits(found: Found, optimizer: Optimizer) -> None:
    have = {entry.name for entry in found.entries if entry.kind == "master"}
    without = [name for name in found.names if name in optimizer.master and name not in have]
    if without and optimizer.settings.weights != "float32":
        warnings.warn(
            f"load: the file has no master weights of {listed(without)}; they begin as the "
            f"{optimizer.settings.weights} weights, and what rounding took from these is lost",
            UserWarning,
            stacklevel=3,
        )


def _for_each(
    entries: Sequence[Entry], act: Callable[[Entry], object], away: Container[Key] = ()
) -> None:
    """Act on each entry, in threads if its array is large and on the host.

    A device has one caller, and for small arrays threads cost more than they save.
    """

    def alone(entry: Entry) -> bool:
        return math.prod(entry.shape) <= BLOCK or entry[:2] in away

    with ThreadPoolExecutor(available_cores()) as pool:
        pending = pool.map(act, filterfalse(alone, entries))
        for entry in filter(alone, entries):
            act(entry)
        deque(pending, maxlen=0)  # raises what one of them has raised


# -- the header -------------------------------------------------------------------------------


def _header(plain: dict[str, Any]) -> dict[str, Any]:
    """Return what a header says of an optimizer, but for its arrays."""
    header = {"format": FORMAT, "version": VERSION, "adamoffload": version("adamoffload")}
    plain = _plain(plain)
    return {**header, "hyperparameters": plain.pop("hyperparameters"), "counters": plain}


def _plain(value: Any) -> Any:
    """Return what JSON can hold; a float32 is the shortest number that reads back as the same."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | np.ndarray):
        return [_plain(entry) for entry in value]
    return float(str(value)) if isinstance(value, np.float32) else value


def _as_version_2(header: Any) -> dict[str, Any]:
    """Return a header as this version writes it, also one of version 1, of adamoffload 0.1.0."""
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CheckpointError(f"its header does not say that it is an {FORMAT}")
    number = header.get("version")
    if type(number) is not int or number not in (1, VERSION):
        raise CheckpointError(
            f"its format is version {describe(number)}, written by adamoffload "
            f"{describe(header.get('adamoffload'))}; this one reads versions 1 and {VERSION}"
        )
    if number == VERSION:
        return header
    arrays = [
        {**entry, "kind": _SLOTS.get(entry["kind"], entry["kind"]), "dtype": "float32"}
        for entry in header["arrays"]
    ]
    return {**header, "arrays": arrays, "counters": {key: header[key] for key in _COUNTERS}}


_SLOTS = {"moment1": "m", "moment2": "v"}
_COUNTERS = ("global_step", "beta1_power", "beta2_power", "learning_rate")
_OPTIONAL = (
    *("beta1_power", "beta2_power", "missed", "frozen", "learning_rates", "constants"),
    "loss_scale",
)


def _saved(header: dict[str, Any], optimizer: Optimizer) -> Saved:
    """Check the counters and the hyper-parameters of a header."""
    counters, hyperparameters = header["counters"], header["hyperparameters"]
    keys = ("global_step", "learning_rate", *_OPTIONAL)
    check_keys("its header", "counters", counters, keys, _OPTIONAL)
    state = {**counters, "hyperparameters": hyperparameters}
    return read_counters("its header", state, optimizer.settings.names)


def _check_optimizer(owner: str, optimizer: object) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"{owner}: optimizer must be an optimizer of adamoffload, got {describe(optimizer)}; "
            f"it comes after the path"
        )
