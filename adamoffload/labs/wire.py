"""What crosses between a grader and a student's code: plain values and arrays, no code.

A message is one line of JSON, in which an array is its ``.npy`` bytes in base64. Reading one
creates numbers, strings, lists, dicts and arrays of numbers, whatever it says: unlike a pickle, it
cannot call anything, so that what a student's process answers is harmless to the grader's. What is
as good as a plain value arrives as one: a generator as a list, a fraction as a number.
"""

from __future__ import annotations

import base64
import io
import json
from collections import deque
from collections.abc import Iterator, KeysView, ValuesView
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

__all__ = ["Unsendable", "decode", "encode"]

_DEPTH = 20
_KINDS = "biufc"
_SEQUENCES = (list, deque, range, Iterator, KeysView, ValuesView)


class Unsendable(TypeError):
    """A value is neither plain data nor an array of numbers."""


def encode(value: Any) -> bytes:
    """Return a value as one line.

    Parameters
    ----------
    value : None, bool, int, float, str, ndarray of numbers, list, tuple or dict with str keys
        What to send; tuples arrive as tuples, NumPy scalars as scalars.

    Raises
    ------
    Unsendable
        If there is anything else in it.

    Examples
    --------
    >>> decode(encode({"x": np.arange(3, dtype=np.int32), "pair": (1, None)}))
    {'x': array([0, 1, 2], dtype=int32), 'pair': (1, None)}
    """
    return json.dumps(_plain(value, _DEPTH)).encode() + b"\n"


def decode(line: bytes) -> Any:
    """Return the value that a line of `encode` holds.

    Raises
    ------
    ValueError
        If the line is not one.
    """
    try:
        return _value(json.loads(line))
    except (KeyError, TypeError, RecursionError, EOFError) as error:
        raise ValueError(f"not a message: {error!r}") from None


def _plain(value: Any, depth: int) -> Any:
    if depth == 0:
        raise Unsendable("a value that is nested too deeply")
    if isinstance(value, str):  # np.str_ as well
        return str.__str__(value)
    if isinstance(value, np.ndarray | np.generic):
        return _array(value)
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, int | float | Fraction | Decimal):
        near = float(value)
        return int(value) if not isinstance(value, float) and near.is_integer() else near
    if isinstance(value, _SEQUENCES):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(item, depth - 1) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        items = {str.__str__(key): _plain(item, depth - 1) for key, item in value.items()}
        return {"dict": items}
    raise Unsendable(f"an object of type {type(value).__name__}")


def _array(value: np.ndarray[Any, Any] | np.generic) -> dict[str, str]:
    array = np.asarray(value)
    if array.dtype.kind not in _KINDS:
        raise Unsendable(f"an array of dtype {array.dtype}")
    data = io.BytesIO()
    np.lib.format.write_array(data, array, allow_pickle=False)
    kind = "array" if isinstance(value, np.ndarray) else "scalar"
    return {kind: base64.b64encode(data.getvalue()).decode()}


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    if kind == "tuple":
        return tuple(_value(item) for item in content)
    if kind == "dict":
        return {str(key): _value(item) for key, item in content.items()}
    data = io.BytesIO(base64.b64decode(content, validate=True))
    array = np.lib.format.read_array(data, allow_pickle=False)
    if array.dtype.kind not in _KINDS:
        raise ValueError(f"not a message: an array of dtype {array.dtype}")
    return array[()] if kind == "scalar" else array
