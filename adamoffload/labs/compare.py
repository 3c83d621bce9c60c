"""Compares what a student answers, numbers, lists or arrays, and says in words what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adamoffload.labs.reasons import Mistake
from adamoffload.labs.student import Student

__all__ = [
    "Partly",
    "close_to",
    "equal",
    "near",
    "number",
    "prediction",
    "predictions",
    "same",
    "shown",
]


class Partly(str):
    """A sentence that names a mistake, and the points that are due in spite of it.

    Examples
    --------
    >>> Partly(1, "the square root is missing").kept
    1
    """

    kept: int
    __slots__ = ("kept",)

    def __new__(cls, kept: int, sentence: str) -> Partly:
        """Make a sentence of its points."""
        made = super().__new__(cls, sentence)
        made.kept = kept
        return made


def prediction(student: Student, name: str) -> Any:
    """Return a constant that the student was to fill in.

    Parameters
    ----------
    student : Student
        Whose file it is in.
    name : str
        What it is called there.

    Raises
    ------
    Mistake
        If it is still None, or gone.
    """
    value = student.value(name)
    if value is None:
        raise Mistake(f"not done yet: {name} is None")
    return value


def predictions(student: Student, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return a dict of constants that the student was to fill in.

    Parameters
    ----------
    student : Student
        Whose file it is in.
    name : str
        What it is called there.
    keys : tuple of str
        The keys it came with.

    Raises
    ------
    Mistake
        If a value is still None, or the dict has other keys.
    """
    found = prediction(student, name)
    if not isinstance(found, dict):
        raise Mistake(f"{name} should stay a dict, not {_kind(found)}")
    for key in keys:
        if key not in found:
            raise Mistake(f"{name} has lost its key {key!r}; keep the keys it came with")
        if found[key] is None:
            raise Mistake(f"not done yet: {name}[{key!r}] is None")
    return {key: found[key] for key in keys}


def number(what: str, found: object) -> float:
    """Return an answer that should be a finite number.

    Parameters
    ----------
    what : str
        How to call it.
    found : object
        The answer.

    Raises
    ------
    Mistake
        If it is anything else; True and False are no numbers here.

    Examples
    --------
    >>> number("`bytes_up`", "12")
    Traceback (most recent call last):
    adamoffload.labs.reasons.Mistake: `bytes_up` is of type str; expected a number
    """
    array = np.asarray(found) if isinstance(found, np.ndarray | np.generic) else found
    if isinstance(array, np.ndarray) and array.shape == () and array.dtype.kind in "iuf":
        found = array.item()
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise Mistake(f"{what} is {_kind(found)}; expected a number{_no_return(found)}")
    try:
        value = float(found)
    except OverflowError:  # a whole number beyond all floats
        value = math.inf
    if not math.isfinite(value):
        raise Mistake(f"{what} is {value}; expected a finite number")
    return value


def shown(value: float) -> str:
    """Return a number as a sentence shows it: a whole one with all its digits.

    Parameters
    ----------
    value : float
        The number.

    Examples
    --------
    >>> shown(2.0**26), shown(2 / 3), shown(1e20)
    ('67108864', '0.666667', '1e+20')
    """
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def near(
    what: str,
    found: object,
    expected: float,
    *,
    rtol: float = 1e-6,
    known: Mapping[Any, float] | None = None,
    otherwise: str = "",
) -> None:
    """Require a number, and say what may have gone wrong if it is another.

    Parameters
    ----------
    what : str
        How to call it.
    found : object
        The answer.
    expected : float
        What is right.
    rtol : float
        Difference allowed, relative to what is expected.
    known : mapping from str to float
        What plausible mistakes give, by a sentence that names the mistake.
    otherwise : str
        What to say of any other mistake, in place of the right number.

    Raises
    ------
    Mistake
        If it is not what is expected.

    Examples
    --------
    >>> near("the time", 4.0, 2.0, known={"it counts both directions": 4.0})
    Traceback (most recent call last):
    adamoffload.labs.reasons.Mistake: the time is wrong: it counts both directions
    """
    value = number(what, found)
    if math.isclose(value, expected, rel_tol=rtol):
        return
    _recognise(what, known, lambda wrong: math.isclose(value, wrong, rel_tol=rtol))
    raise Mistake(f"{what} is {shown(value)}{f': {otherwise}' if otherwise else _not(expected)}")


def equal(
    what: str, found: object, expected: object, *, known: Mapping[Any, object] | None = None
) -> None:
    """Require numbers, strings, or lists of them, and say where they differ.

    Tuples, lists and arrays are the same here, and so are 4 and 4.0.

    Parameters
    ----------
    what : str
        How to call it.
    found : object
        The answer.
    expected : object
        What is right.
    known : mapping from str to object
        What plausible mistakes give, by a sentence that names the mistake.

    Raises
    ------
    Mistake
        If it is not what is expected.

    Examples
    --------
    >>> equal("`plan`", [(0, 4), (4, 7)], [(0, 4), (4, 8)])
    Traceback (most recent call last):
    adamoffload.labs.reasons.Mistake: `plan`[1][1] is 7, expected 8
    """
    given, right = _plain(found), _plain(expected)
    if given == right:
        return
    if given is None:
        raise Mistake(f"{what} is None{_no_return(given)}")
    _recognise(what, known, lambda wrong: given == _plain(wrong))
    raise Mistake(_difference(what, given, right))


def close_to(
    what: str,
    found: object,
    expected: np.ndarray[Any, Any],
    *,
    rtol: float = 1e-5,
    known: Mapping[Any, Any] | None = None,
) -> None:
    """Require an array of numbers, and say what may have gone wrong if it is another.

    Parameters
    ----------
    what : str
        How to call it, such as "`update` returns delta, which".
    found : object
        What the student's code returned.
    expected : ndarray
        What is right: shape and dtype count as well.
    rtol : float
        Difference allowed, relative to the largest expected magnitude; 0 for equal bits.
    known : mapping from str to ndarray
        What plausible mistakes give, by a sentence that names the mistake.

    Raises
    ------
    Mistake
        If it is not what is expected.

    Examples
    --------
    >>> close_to("delta", np.ones(3), np.ones(3, np.float32))
    Traceback (most recent call last):
    adamoffload.labs.reasons.Mistake: delta has dtype float64; expected float32
    """
    if not isinstance(found, np.ndarray | np.generic):
        kind = "an array" if expected.ndim else f"a {expected.dtype} number"
        raise Mistake(f"{what} is {_kind(found)}; expected {kind}{_no_return(found)}")
    array = np.asarray(found)
    if array.shape != expected.shape:
        raise Mistake(f"{what} has shape {array.shape}; expected {expected.shape}")
    if array.dtype != expected.dtype:
        raise Mistake(f"{what} has dtype {array.dtype}; expected {expected.dtype}")
    if same(array, expected, rtol=rtol):
        return
    _recognise(what, known, lambda wrong: same(array, np.asarray(wrong), rtol=rtol))
    flat, right = array.ravel(), expected.ravel()
    with np.errstate(all="ignore"):
        i = int(np.argmax(~np.isclose(flat, right, rtol=rtol, atol=0, equal_nan=True)))
    raise Mistake(f"{what} is wrong: element {i} is {flat[i]!s}, expected {right[i]!s}")


def _recognise(what: str, known: Mapping[Any, Any] | None, same: Callable[[Any], bool]) -> None:
    """Raise the sentence of the first known mistake that gives the same answer."""
    for sentence, wrong in (known or {}).items():
        if same(wrong):
            raise Mistake(f"{what} is wrong: {sentence}", getattr(sentence, "kept", 0))


def same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], *, rtol: float = 1e-5) -> bool:
    """Return whether two arrays are equal, up to `rtol` of the largest magnitude in `b`.

    Examples
    --------
    >>> same(np.array([1.0, 1e-9]), np.array([1.0, 0.0])), same(np.array([1.0]), np.array([2.0]))
    (True, False)
    """
    if rtol == 0:
        return bool(np.array_equal(a, b, equal_nan=True))
    scale = float(np.max(np.abs(b), initial=0.0, where=np.isfinite(b)))
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=rtol * scale, equal_nan=True))


def _difference(what: str, found: Any, expected: Any) -> str:
    if not isinstance(expected, list):
        return f"{what} is {_short(found)}{_not(expected)}"
    if not isinstance(found, list):
        return f"{what} is {_kind(found)}; expected a list of {len(expected)}"
    if len(found) != len(expected):
        return f"{what} has length {len(found)}, expected {len(expected)}"
    at = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
    return _difference(f"{what}[{at}]", found[at], expected[at])


def _not(expected: object) -> str:
    right = shown(expected) if isinstance(expected, float) else _short(expected)
    return f", expected {right}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _no_return(found: object) -> str:
    return "; did you forget `return`?" if found is None else ""


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
