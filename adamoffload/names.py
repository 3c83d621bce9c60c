"""Compares names of arrays and entries, and says which come closest where they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adamoffload.arguments import describe

__all__ = ["check_keys", "check_names", "listed", "short", "spelled"]

_SHOWN = 4  # names that a message spells out


def check_keys(
    owner: str, what: str, value: Any, keys: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """Refuse what is no mapping with these keys."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{owner}: {what} must be a dict, got {describe(value)}")
    check_names(owner, what, value, keys, optional)


def check_names(
    owner: str,
    what: str,
    found: Iterable[Any],
    expected: Iterable[str],
    optional: Sequence[str] = (),
) -> None:
    """Refuse names that are missing or not expected, with those that come closest.

    Examples
    --------
    >>> check_names("AdamOffload", "moment1", ["fc.weigth"], ["fc.weight"])
    Traceback (most recent call last):
    ValueError: AdamOffload: moment1 lacks 'fc.weight' (there is 'fc.weigth')
    """
    found, expected = dict.fromkeys(found), dict.fromkeys(expected)
    missing = [name for name in expected if name not in found and name not in optional]
    unexpected = [name for name in found if name not in expected]
    wrong = []
    lacking = listed(missing, unexpected, "there is")
    if missing:
        wrong.append(f"lacks {lacking}")
    if unexpected:
        near = [name for name in missing if name not in optional]
        if len(unexpected) > len(missing) or lacking == listed(missing):  # not named there
            wrong.append("has the unexpected " + listed(unexpected, near or [*expected], "near"))
    if wrong:
        raise ValueError(f"{owner}: {what} {' and '.join(wrong)}")


def listed(names: Sequence[Any], candidates: Sequence[Any] = (), word: str = "near") -> str:
    """Spell out the first names, each with the candidate that comes closest."""
    from difflib import get_close_matches  # for messages only

    near = [name[:100] for name in candidates if isinstance(name, str)][:1000]
    parts = []
    for name in names[:_SHOWN]:
        close = get_close_matches(name[:100], near, 1) if isinstance(name, str) else []
        shown = short(name)
        parts.append(f"{shown} ({word} {short(close[0])})" if close else shown)
    more = len(names) - _SHOWN
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def short(name: Any) -> str:
    """Return how a message shows a name, which may be of any length."""
    shown = repr(name) if isinstance(name, str) else describe(name)
    return shown if len(shown) <= 80 else f"{shown[:60]}... ({len(shown)} characters)"


def spelled(function: Any) -> str:
    """Return how a function of NumPy's is written in a program.

    Examples
    --------
    >>> import numpy as np
    >>> spelled(np.linalg.norm), spelled(np.add)
    ('np.linalg.norm', 'np.add')
    """
    module = getattr(function, "__module__", None) or "numpy"  # a ufunc has none
    return f"{module.replace('numpy', 'np', 1)}.{function.__name__}"
