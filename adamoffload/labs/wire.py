"""What crosses between a grader and a student's code: plain values and arrays, no code.

A message is one line of JSON, in which an array is its ``.npy`` bytes in base64. Reading one
creates numbers, strings, lists, dicts and arrays of numbers, whatever it says: unlike a pickle, it
cannot call anything, so that what a student's process answers is harmless to the grader's.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np

__all__ = ["Unsendable", "decode", "encode"]

_DEPTH = 20


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
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise Unsendable(f"an array of dtype {array.dtype}")
        data = io.BytesIO()
        np.lib.format.write_array(data, array, allow_pickle=False)
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: base64.b64encode(data.getvalue()).decode()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(item, depth - 1) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _plain(item, depth - 1) for key, item in value.items()}}
    raise Unsendable(f"an object of type {type(value).__name__}")


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
    return array[()] if kind == "scalar" else array
