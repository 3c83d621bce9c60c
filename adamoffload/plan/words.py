"""The words for what happens in a step, which texts and pictures of strategies share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from adamoffload.plan.hops import Stage

__all__ = ["html_table", "listed_things", "said", "said_to_move"]

_COPIED = {
    "d2h": ("goes", "go", "down"),
    "h2d": ("comes", "come", "up"),
    "read": ("comes", "come", "from the disk"),
    "write": ("goes", "go", "to the disk"),
}
_THE = {"gradient": "the gradient", "update": "the update", "weights": "the new weights"}
_GOES = ("update", "weights")  # up to the device, not back to where they are used


def listed_things(things: Sequence[str]) -> str:
    """Return names as a list in a sentence.

    Examples
    --------
    >>> listed_things(["m"]), listed_things(["m", "v", "master"])
    ('m', 'm, v and master')
    """
    *first, last = things
    return f"{', '.join(first)} and {last}" if first else last


def said(stage: Stage, rule: str, kept: Sequence[str]) -> str:
    """Return what happens in a stage.

    Parameters
    ----------
    stage : Stage
        Which.
    rule : str
        The rule's name.
    kept : sequence of str
        What the rule brings forward: its slots, and the master where there is one.

    Examples
    --------
    >>> said(Stage("d2h", "d2h", "device", "host", {"gradient": 4}), "Adam", ["m"])
    'the gradient goes down'
    >>> said(Stage("update", "host", "host", "host", {"update": 0}), "Adam", ["m", "v"])
    'runs Adam: new m and v, and the update'
    """
    (result, *_) = stage.things
    if stage.nbytes:
        things = [_THE.get(thing, thing) for thing in stage.things]
        one, many, where = _COPIED[stage.lane]
        if result in _GOES:
            one, many = "goes", "go"
        verb = one if len(things) == 1 and not things[0].endswith("s") else many
        return f"{listed_things(things)} {verb} {where}"
    if stage.name == "prepare":
        return "prepares the gradient: decay and loss scale"
    new = f": new {listed_things(kept)}" if kept else ""
    if stage.name == "update":
        return f"runs {rule}{new}{', and the update' if result == 'update' else ''}"
    if stage.arithmetic:
        takes = "adds the update to" if result == "update" else "renews"
        return f"prepares the gradient, runs {rule}{new}, {takes} the weights"
    return "adds it to the weights" if result == "update" else "they replace the weights"


def said_to_move(bytes_by_lane: Mapping[str, int]) -> str:
    """Return what moves in a step.

    Examples
    --------
    >>> said_to_move({"d2h": 4, "h2d": 4, "read": 0, "write": 0})
    '4 bytes down, 4 up'
    >>> said_to_move({"d2h": 0, "h2d": 0, "read": 0, "write": 0})
    'nothing moves'
    """
    way = {"d2h": "down", "h2d": "up", "read": "read", "write": "written"}
    moved = [(nbytes, way[lane]) for lane, nbytes in bytes_by_lane.items() if nbytes]
    parts = [f"{nbytes} bytes {where}" for nbytes, where in moved[:1]]
    return ", ".join([*parts, *(f"{n} {where}" for n, where in moved[1:])]) or "nothing moves"


def html_table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a small table for a notebook."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in rows
    )
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}</table>"
