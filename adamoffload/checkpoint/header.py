"""The header of a checkpoint: its counters, its hyper-parameters and a list of its arrays, in JSON.

One content has one text, and a text that is not the one of its content is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from re import fullmatch
from typing import Any

import numpy as np

from adamoffload.arguments import describe
from adamoffload.checkpoint.archive import CheckpointError
from adamoffload.checkpoint.layout import Item, member_name
from adamoffload.names import check_names
from adamoffload.offload.state import MOMENTS, Counters, read_counters

__all__ = ["KINDS", "VERSION", "parsed", "text_of"]

FORMAT = "adamoffload checkpoint"
VERSION = 1
KINDS = ("parameter", *MOMENTS)
"""Of which arrays there is one for each parameter, in the order of the file."""

_COUNTERS = tuple(field.name for field in fields(Counters))
_KEYS = ("format", "version", "adamoffload", *_COUNTERS, "arrays")
_ARRAY_KEYS = ("member", "kind", "name", "shape", "dtype", "crc32")


def text_of(counters: Counters, items: Sequence[Item], written_by: str) -> bytes:
    """Return the header: JSON, a line for each entry and each array, one text for one content."""
    entries = {"format": FORMAT, "version": VERSION, "adamoffload": written_by}
    entries.update({name: getattr(counters, name) for name in _COUNTERS})
    lines = [f"{json.dumps(key)}: {_ENCODER.encode(value)}" for key, value in entries.items()]
    arrays = [
        (member_name(item.kind, item.name, i), *item[:2], [*item.shape], "<f4", f"{item.crc32:08x}")
        for i, item in enumerate(items)
    ]
    listed = ",\n".join(
        _ENCODER.encode(dict(zip(_ARRAY_KEYS, array, strict=True))) for array in arrays
    )
    return ("{" + ",\n".join(lines) + ',\n"arrays": [\n' + listed + "\n]}\n").encode("ascii")


def _plain(value: Any) -> Any:
    """Return what stands for a NumPy value: the shortest number that reads back as the same."""
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value]
    short = float(str(value))
    return short if np.float32(short) == value else float(value)


_ENCODER = json.JSONEncoder(default=_plain, allow_nan=False)


def parsed(text: bytes) -> tuple[Counters, list[Item]]:
    """Read a header back.

    Raises
    ------
    CheckpointError
        If it is not, to the letter, what `text_of` makes of what it says.
    """
    try:
        header = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its header is no JSON: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CheckpointError(f"its header does not say that it is an {FORMAT}")
    if type(header.get("version")) is not int or header["version"] != VERSION:
        raise CheckpointError(
            f"its format is version {describe(header.get('version'))}, written by adamoffload "
            f"{describe(header.get('adamoffload'))}; this one reads version {VERSION}"
        )
    try:
        check_names("its header", "the object", header, _KEYS)
        if not isinstance(header["adamoffload"], str):
            raise TypeError("its header: adamoffload must be a version, as text")
        counters = read_counters("its header", header)
        items = _items(header["arrays"])
        canonical = text_of(counters, items, header["adamoffload"])
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(str(error)) from error
    if canonical != text:
        raise CheckpointError(
            "its header is not as it was written: another text of the same meaning"
        )
    return counters, items


def _items(arrays: Any) -> list[Item]:
    if not isinstance(arrays, list):
        raise TypeError("its header: arrays must be a list")
    items = []
    for i, entry in enumerate(arrays):
        if not isinstance(entry, dict) or tuple(entry) != _ARRAY_KEYS:
            raise ValueError(f"its header: arrays[{i}] must have the keys {', '.join(_ARRAY_KEYS)}")
        kind, name, shape = entry["kind"], entry["name"], entry["shape"]
        if kind not in KINDS or not isinstance(name, str) or not name:
            raise ValueError(f"its header: arrays[{i}] has no known kind or no name")
        if not isinstance(shape, list) or len(shape) > 64 or not all(map(_is_length, shape)):
            raise ValueError(f"its header: arrays[{i}] has no shape of whole numbers >= 1")
        if not isinstance(entry["crc32"], str) or not fullmatch("[0-9a-f]{8}", entry["crc32"]):
            raise ValueError(f"its header: arrays[{i}] has no crc32 of eight hexadecimal digits")
        items.append(Item(kind, name, tuple(shape), int(entry["crc32"], 16)))
    third = len(items) // 3
    expected = [(kind, *item[1:3]) for kind in KINDS for item in items[:third]]
    names = {item.name for item in items[:third]}
    if [item[:3] for item in items] != expected or not 0 < third == len(names):
        raise ValueError(
            f"its header: arrays must be the same names and shapes for each of {', '.join(KINDS)}"
        )
    return items


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**63
