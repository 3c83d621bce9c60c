"""A checkpoint of other parameters: which of them are the optimizer's, and what that leaves open.

A parameter is loaded with all of its state, or not at all: by name, where shape and type are the
same. One that is not loaded keeps its value, its slots, and its own count of updates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from adamoffload.checkpoint.archive import Entry
from adamoffload.device.backend import Array
from adamoffload.names import short
from adamoffload.offload.state import Counters, Key

__all__ = ["Loaded", "compared", "joined", "narrowed"]


class Loaded(NamedTuple):
    """What a load has left out; nothing, if all three are empty.

    Attributes
    ----------
    missing : tuple of str
        Names of the optimizer's parameters that the file lacks; they are as they were.
    unexpected : tuple of str
        Names of parameters in the file that the optimizer has not.
    different : mapping from str to str
        For each parameter that has another shape or type in the file, how it differs. It is as it
        was.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    different: Mapping[str, str] = {}


def compared(entries: Sequence[Entry], arrays: Mapping[Key, Array]) -> Loaded:
    """Compare the parameters in a file with those of an optimizer."""
    there = {e.name: (e.shape, e.dtype) for e in entries if e.kind == "parameter"}
    here = {
        name: (x.shape, x.dtype.name) for (kind, name), x in arrays.items() if kind == "parameter"
    }
    return Loaded(
        missing=tuple(name for name in here if name not in there),
        unexpected=tuple(name for name in there if name not in here),
        different={
            name: f"{_shown(*there[name])} in the file, {_shown(*own)} here"
            for name, own in here.items()
            if there.get(name, own) != own
        },
    )


def _shown(shape: tuple[int, ...], dtype: str) -> str:
    return f"{dtype} of shape {shape}"


def narrowed(header: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return a checkpoint's header as if it knew these parameters only."""
    counters = dict(header["counters"])
    for key in {"missed", "learning_rates", "constants"} & {*counters}:
        counters[key] = {name: x for name, x in counters[key].items() if name in names}
    if "frozen" in counters:
        counters["frozen"] = [name for name in counters["frozen"] if name in names]
    groups = [
        {**group, "params": [name for name in group["params"] if name in names]}
        for group in header["hyperparameters"]["groups"]
    ]
    hyperparameters = {**header["hyperparameters"], "groups": groups}
    return {**header, "counters": counters, "hyperparameters": hyperparameters}


def joined(
    saved: Counters, own: Counters, names: Sequence[str], loaded: Collection[str]
) -> Counters:
    """Return the counters of a file, and of what is not loaded the optimizer's own.

    Raises
    ------
    ValueError
        If one of the latter has had more updates than the file has steps.
    """
    missed = list(saved.missed)
    left = [i for i, name in enumerate(names) if name not in loaded]
    for i in left:
        updates = own.global_step - own.missed[i]
        if updates > saved.global_step:
            raise ValueError(
                f"load: {short(names[i])} stays as it is, with {updates} updates, which are more "
                f"than the file's {saved.global_step} steps; load into a new optimizer, or only "
                f"the parameters, with only='parameters'"
            )
        missed[i] = saved.global_step - updates
    stay = {names[i] for i in left}
    return saved._replace(
        missed=tuple(missed),
        frozen=saved.frozen | (own.frozen & stay),
        rates={**saved.rates, **{name: x for name, x in own.rates.items() if name in stay}},
        constants={
            **saved.constants,
            **{name: x for name, x in own.constants.items() if name in stay},
        },
    )
