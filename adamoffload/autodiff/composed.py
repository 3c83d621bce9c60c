"""NumPy's functions that have derivatives because what they are composed of here has them.

Each takes the place of NumPy's own while a loss function is traced, and is plain ``np.*`` code
itself. A reduction with ``where=`` is composed as well, since not every device library has that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from adamoffload.autodiff.derivatives import numbered

__all__ = ["COMPOSED", "MASKED"]

Composed = Callable[..., Any]


def _stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    return np.concatenate([np.expand_dims(x, axis) for x in arrays], axis)


def _hstack(tup: Sequence[Any]) -> Any:
    arrays = [x if np.ndim(x) else np.reshape(x, 1) for x in tup]
    return np.concatenate(arrays, 0 if arrays[0].ndim == 1 else 1)


def _vstack(tup: Sequence[Any]) -> Any:
    return np.concatenate([x if np.ndim(x) > 1 else np.reshape(x, (1, -1)) for x in tup], 0)


def _split(ary: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    length, parts = ary.shape[axis], indices_or_sections
    if isinstance(parts, int | np.integer):
        if length % parts:
            raise ValueError(f"np.split: axis {axis} of length {length} has no {parts} equal parts")
        parts = range(length // parts, length, length // parts)
    before = (slice(None),) * (axis % ary.ndim)
    return [ary[(*before, slice(*edge))] for edge in itertools.pairwise((0, *parts, length))]


def _take(a: Any, indices: Any, axis: int | None = None) -> Any:
    if axis is None:
        return np.ravel(a)[indices]
    return a[(*(slice(None),) * (axis % a.ndim), indices)]


def _sort(a: Any, axis: int | None = -1) -> Any:
    if axis is None:
        return _sort(np.ravel(a))
    return np.take_along_axis(a, np.argsort(a, axis=axis), axis=axis)


def _repeat(a: Any, repeats: Any, axis: int | None = None) -> Any:
    if axis is None:
        return _repeat(np.ravel(a), repeats, 0)
    axis %= a.ndim
    if not isinstance(repeats, int | np.integer):
        return _take(a, np.repeat(numbered(a, a.shape[axis]), repeats), axis)
    times, length = int(repeats), a.shape[axis]
    before, after = a.shape[:axis], a.shape[axis + 1 :]
    spread = np.broadcast_to(np.expand_dims(a, axis + 1), (*before, length, times, *after))
    return np.reshape(spread, (*before, length * times, *after))


def _tile(A: Any, reps: int | Sequence[int]) -> Any:  # noqa: N803  (NumPy's name)
    times = tuple(reps) if isinstance(reps, Sequence) else (reps,)
    shape = (1,) * (len(times) - A.ndim) + A.shape
    times = (1,) * (A.ndim - len(times)) + times
    apart = np.reshape(A, [n for length in shape for n in (1, length)])
    spread = np.broadcast_to(apart, [n for pair in zip(times, shape, strict=True) for n in pair])
    return np.reshape(spread, [a * b for a, b in zip(times, shape, strict=True)])


def _dot(a: Any, b: Any) -> Any:
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return a * b
    return np.tensordot(a, b, (-1, -2)) if np.ndim(b) > 2 else a @ b


def _outer(a: Any, b: Any) -> Any:
    return np.reshape(a, (-1, 1)) * np.reshape(b, -1)


def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    if isinstance(axes, int | np.integer):
        axes = range(-int(axes), 0), range(int(axes))
    left, right = (list(i) if isinstance(i, Sequence) else [int(i)] for i in axes)
    left, right = [i % a.ndim for i in left], [i % b.ndim for i in right]
    rows = [i for i in range(a.ndim) if i not in left]
    columns = [i for i in range(b.ndim) if i not in right]
    heights, widths = [a.shape[i] for i in rows], [b.shape[i] for i in columns]
    common = [a.shape[i] for i in left]
    if common != [b.shape[i] for i in right]:
        raise ValueError(f"np.tensordot: shapes {a.shape} and {b.shape} differ along axes={axes}")
    length = math.prod(common)
    flat = np.reshape(np.transpose(a, rows + left), (math.prod(heights), length))
    other = np.reshape(np.transpose(b, right + columns), (length, math.prod(widths)))
    return np.reshape(flat @ other, heights + widths)


COMPOSED: dict[Callable[..., Any], Composed] = {
    np.stack: _stack,
    np.hstack: _hstack,
    np.vstack: _vstack,
    np.split: _split,
    np.take: _take,
    np.sort: _sort,
    np.repeat: _repeat,
    np.tile: _tile,
    np.dot: _dot,
    np.outer: _outer,
    np.tensordot: _tensordot,
    np.matrix_transpose: lambda x, /: np.swapaxes(x, -1, -2),
}


def _count(a: Any, where: Any, axis: Any, keepdims: bool) -> Any:
    mask = np.broadcast_to(where, a.shape)
    return np.sum(mask, axis=axis, keepdims=keepdims).astype(a.dtype)


def _sum(a: Any, axis: Any = None, *, where: Any, keepdims: bool = False) -> Any:
    return np.sum(np.where(where, a, 0), axis=axis, keepdims=keepdims)


def _mean(a: Any, axis: Any = None, *, where: Any, keepdims: bool = False) -> Any:
    total = _sum(a, axis, where=where, keepdims=keepdims)
    return total / _count(a, where, axis, keepdims)


def _var(a: Any, axis: Any = None, *, where: Any, ddof: int = 0, keepdims: bool = False) -> Any:
    squares = np.square(a - _mean(a, axis, where=where, keepdims=True))
    total = _sum(squares, axis, where=where, keepdims=keepdims)
    return total / (_count(a, where, axis, keepdims) - ddof)


def _std(a: Any, axis: Any = None, *, where: Any, ddof: int = 0, keepdims: bool = False) -> Any:
    return np.sqrt(_var(a, axis, where=where, ddof=ddof, keepdims=keepdims))


def _max(a: Any, axis: Any = None, *, where: Any, initial: float, keepdims: bool = False) -> Any:
    found = np.max(np.where(where, a, initial), axis=axis, keepdims=keepdims)
    return np.maximum(found, initial)


def _min(a: Any, axis: Any = None, *, where: Any, initial: float, keepdims: bool = False) -> Any:
    found = np.min(np.where(where, a, initial), axis=axis, keepdims=keepdims)
    return np.minimum(found, initial)


MASKED: dict[Callable[..., Any], Composed] = {
    np.sum: _sum,
    np.mean: _mean,
    np.var: _var,
    np.std: _std,
    np.max: _max,
    np.amax: _max,
    np.min: _min,
    np.amin: _min,
}
"""What takes the place of a reduction that is called with ``where=``."""
