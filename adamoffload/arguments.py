"""Checks of arguments, shared by everything a user constructs.

Each check returns the value in its plain Python type or raises `TypeError` (wrong kind of value)
or `ValueError` (right kind, out of range), with a message that names the owner, the argument,
what was expected, what came and, where one exists, the remedy. NumPy's real scalars count as the
Python numbers they stand for.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Set
from itertools import islice
from typing import Any

import numpy as np

__all__ = [
    "choice",
    "flag",
    "float32",
    "floating",
    "floating_type",
    "instance",
    "integer",
    "number",
    "positive_integer",
    "table",
]

_LONGEST_TABLE = 10_000_000
_LARGEST = float(np.finfo(np.float32).max)


def floating(
    owner: str,
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
) -> float:
    """Check a real number that must be spelled as a float: ``1.0``, not ``1``.

    Parameters
    ----------
    owner, name : str
        Who asks, and the argument's name; both stand in the message.
    value : object
        What the user gave.
    above, at_least, below : float, optional
        Bounds: exclusive, inclusive, exclusive.

    Returns
    -------
    float
        The value, finite and within the bounds.

    Raises
    ------
    TypeError
        If `value` is no Python or NumPy float.
    ValueError
        If it is not finite or out of bounds.

    Examples
    --------
    >>> floating("AdamOffload", "beta1", 1, above=0, below=1)
    Traceback (most recent call last):
    TypeError: AdamOffload: beta1 must be a float, got 1 (int)
    """
    floating_type(owner, name, value)
    return _in_range(owner, name, float(value), above, at_least, below)  # type: ignore[arg-type]  # just looked


def floating_type(owner: str, name: str, value: object, wanted: str = "a float") -> None:
    """Check the type alone, as `floating` does: where types come before ranges."""
    if not isinstance(value, float | np.floating):
        raise TypeError(f"{owner}: {name} must be {wanted}, got {describe(value)}")


def number(
    owner: str,
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
) -> float:
    """Check a real number: a Python or NumPy float, integer or bool.

    Parameters, returns and errors are those of `floating`.

    Examples
    --------
    >>> number("AdamOffload", "learning_rate", np.float32(0.5), at_least=0)
    0.5
    """
    if not isinstance(value, float | np.floating | int | np.integer | np.bool_):
        raise TypeError(f"{owner}: {name} must be a real number, got {describe(value)}")
    try:
        as_float = float(value)
    except OverflowError:  # a Python int beyond 1e308
        as_float = math.inf
    return _in_range(owner, name, as_float, above, at_least, None)


def integer(owner: str, name: str, value: object, *, at_least: int) -> int:
    """Check a whole number, Python's or NumPy's (a bool is not one).

    Examples
    --------
    >>> integer("CosineDecayLR", "step", np.int64(3), at_least=0)
    3
    """
    if not _is_integer(value):
        raise TypeError(f"{owner}: {name} must be an integer, got {describe(value)}")
    result = operator.index(value)  # type: ignore[arg-type]  # _is_integer has looked
    if result < at_least:
        raise ValueError(f"{owner}: {name} must be at least {at_least}, got {result}")
    return result


def positive_integer(owner: str, name: str, value: object) -> int:
    """Check a whole number of at least 1 (a bool is not one).

    Examples
    --------
    >>> positive_integer("WarmUpLR", "warmup_steps", 0)
    Traceback (most recent call last):
    ValueError: WarmUpLR: warmup_steps must be at least 1, got 0
    """
    return integer(owner, name, value, at_least=1)


def flag(owner: str, name: str, value: object) -> bool:
    """Check a bool; 0, 1 and ``np.bool_`` are not taken for one.

    Examples
    --------
    >>> flag("AdamOffload", "use_nesterov", 1)
    Traceback (most recent call last):
    TypeError: AdamOffload: use_nesterov must be True or False, got 1 (int)
    """
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be True or False, got {describe(value)}")
    return value


def choice(owner: str, name: str, value: object, known: Iterable[str]) -> str:
    """Check a string that must be one of a few.

    Examples
    --------
    >>> choice("AdamOffload", "engine", "numby", ("auto", "numpy", "numba"))
    Traceback (most recent call last):
    ValueError: AdamOffload: engine must be one of auto, numpy, numba, got 'numby'
    """
    if not isinstance(value, str):
        raise TypeError(f"{owner}: {name} must be a string, got {describe(value)}")
    known = tuple(known)
    if value not in known:
        raise ValueError(f"{owner}: {name} must be one of {', '.join(known)}, got {value!r}")
    return value


def float32(owner: str, name: str, value: float) -> np.float32:
    """Round to float32; refuse what becomes infinite.

    Examples
    --------
    >>> float32("AdamOffload", "learning_rate", 0.1)
    np.float32(0.1)
    """
    if abs(value) > _LARGEST:
        raise ValueError(f"{owner}: {name} must be finite in float32, got {value}")
    return np.float32(value)


def table(owner: str, name: str, value: object) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Check a sequence with one number a step: non-empty, 1-D, each finite and not negative.

    Parameters
    ----------
    owner, name : str
        Who asks, and the argument's name.
    value : iterable of real numbers
        A list, tuple, generator, 1-D ndarray, ...; consumed once.

    Returns
    -------
    ndarray, shape (n,), float64
        A copy.

    Raises
    ------
    TypeError
        If it is no iterable of numbers, or one without an order (dict, set).
    ValueError
        If it is text, empty, nested, or an entry is negative or not finite.

    Examples
    --------
    >>> table("AdamOffload", "learning_rate", [0.1, float("nan")])
    Traceback (most recent call last):
    ValueError: AdamOffload: learning_rate[1] must be finite, got nan
    """
    if isinstance(value, str):
        raise ValueError(
            f"{owner}: could not convert string to float: {name} is {value!r}, "
            f"expected a number, a sequence of numbers or a schedule"
        )
    try:  # a 0-D array has __iter__ and raises in it
        if isinstance(value, bytes | bytearray | Mapping | Set):
            raise TypeError
        iterator = iter(value)  # type: ignore[call-overload]  # just what is being found out
    except TypeError:
        hint = "; subclass LearningRateSchedule and define __call__" if callable(value) else ""
        raise TypeError(
            f"{owner}: {name} must be a real number, a sequence of them (one a step) or a "
            f"LearningRateSchedule, got {describe(value)}{hint}"
        ) from None
    entries = list(islice(iterator, _LONGEST_TABLE + 1))
    if len(entries) > _LONGEST_TABLE:
        raise ValueError(
            f"{owner}: {name} has more than {_LONGEST_TABLE:,} entries, or does not end; pass a "
            f"function of the step, or itertools.islice of it"
        )
    if not entries:
        raise ValueError(f"{owner}: {name} is an empty table, expected one number a step")
    numbers = np.empty(len(entries), np.float64)
    for i, entry in enumerate(entries):
        if isinstance(entry, list | tuple) or (isinstance(entry, np.ndarray) and entry.ndim > 0):
            raise ValueError(
                f"{owner}: {name} must have one dimension, a number a step, got a nested sequence"
            )
        if isinstance(entry, str):
            raise ValueError(
                f"{owner}: could not convert string to float: {name}[{i}] is {entry!r}"
            )
        if isinstance(entry, np.ndarray):
            entry = entry[()]
        numbers[i] = number(owner, f"{name}[{i}]", entry, at_least=0)
    return numbers


def instance(owner: str, name: str, value: object, kind: type, wanted: str = "") -> None:
    """Check that a value is of a type, which the message calls `wanted`, or by its name.

    Examples
    --------
    >>> instance("timeline", "ledger", "run 1", int)
    Traceback (most recent call last):
    TypeError: timeline: ledger must be an int, got 'run 1' (str)
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0].lower() in "aeiou" else "a"
        wanted = wanted or f"{article} {kind.__name__}"
        raise TypeError(f"{owner}: {name} must be {wanted}, got {describe(value)}")


def describe(value: object) -> str:
    """Return how a message shows a value: its repr, cut short, and its type.

    Examples
    --------
    >>> describe("abc")
    "'abc' (str)"
    """
    try:
        shown = repr(value)
    except Exception:  # an int of 5,000 digits has none, nor has an object that is broken
        shown = "\n"
    if len(shown) > 40 or "\n" in shown:
        return f"an object of type {type(value).__name__}"
    return f"{shown} ({type(value).__name__})"


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _in_range(
    owner: str,
    name: str,
    value: float,
    above: float | None,
    at_least: float | None,
    below: float | None,
) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{owner}: {name} must be finite, got {value}")
    if above is not None and below is not None and not above < value < below:
        raise ValueError(f"{owner}: {name} must be in ({above}, {below}), got {value}")
    if above is not None and not value > above:
        raise ValueError(f"{owner}: {name} must be > {above}, got {value}")
    if at_least is not None and not value >= at_least:
        raise ValueError(f"{owner}: {name} must be >= {at_least}, got {value}")
    return value
