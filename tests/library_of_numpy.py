"""A backend on the wrapper for libraries' arrays, whose library is NumPy itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from adamoffload.device import half
from adamoffload.device.backend import HostArray, Ticket
from adamoffload.device.library import LibraryArray, LibraryBackend


class Array(LibraryArray):
    __slots__ = ()


SUMS = (
    np.clip,
    np.max,
    np.min,
    np.sum,
    np.mean,
    np.var,
    np.std,
    np.cumsum,
    np.einsum,
    np.dot,
    np.linalg.norm,
)


class Table(dict[Any, Callable[..., Any]]):
    """All of NumPy, on plain arrays; what NumPy returns as a scalar is an array here."""

    def get(self, function: Any, default: Any = None) -> Any:
        return _computing(function)


@cache
def _computing(function: Any) -> Callable[..., Any]:
    def compute(*args: Any, **kwargs: Any) -> Any:
        flat = [x for arg in args for x in (arg if isinstance(arg, list | tuple) else [arg])]
        if half.any_half(flat) and (isinstance(function, np.ufunc) or function in SUMS):
            result = half.compute(function, args, kwargs)
        else:
            result = function(*args, **kwargs)
        return np.asarray(result) if isinstance(result, np.generic | bool) else result

    return compute


class LibraryOfNumpy(LibraryBackend):
    name = "library"
    array_type = Array
    library_type = np.ndarray
    functions = Table()

    def _d2h(self, source: Any, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: np.copyto(target, source._array), after)

    def _h2d(self, source: HostArray, target: Any, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: np.copyto(target._array, source), after)

    def _new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return np.empty(shape, dtype)

    def _dtype(self, array: Any) -> np.dtype[Any]:
        found: np.dtype[Any] = array.dtype
        return found

    def _strides(self, array: Any) -> tuple[int, ...]:
        return tuple(array.strides)

    def _pointer(self, array: Any) -> int:
        return int(array.__array_interface__["data"][0])

    def _is_view(self, array: Any, source: Any) -> bool:
        return np.may_share_memory(array, source) if array.size else array.base is source

    def _cast(self, array: Any, dtype: np.dtype[Any]) -> Any:
        return array.astype(dtype)

    def _view(self, array: Any, dtype: np.dtype[Any]) -> Any:
        return array.view(dtype)

    def _scalar(self, value: Any, dtype: np.dtype[Any]) -> Any:
        return np.asarray(value, dtype)

    def _assign(self, target: Any, source: Any) -> None:
        np.copyto(target, source, casting="unsafe")

    def _get(self, array: Any, index: Any) -> Any:
        part = array[index]
        if isinstance(part, np.generic):  # a view of one element
            return array[(*index, ...) if isinstance(index, tuple) else (index, ...)]
        return part

    def _set(self, array: Any, index: Any, value: Any) -> None:
        array[index] = value

    def _add_at(self, array: Any, index: Any, values: Any) -> None:
        np.add.at(array, index, values)
