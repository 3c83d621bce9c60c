"""`LibraryArray`: an array of a library that does not answer ``np.*`` itself, made to do so.

CuPy's arrays answer NumPy's protocols, PyTorch's and dpnp's do not. This wrapper does it for them:
it looks a function up in the table of its `LibraryBackend`, by NumPy's own function, and calls what
it finds there on what it wraps. What the result's type is NumPy decides: a ufunc runs the loop that
NumPy would take for these operands.

So a new library takes a table of functions with NumPy's parameters, and the dozen methods of
`LibraryBackend`. Neither knows of adamoffload more than the contract of a device.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from adamoffload.device.array import MemoryPool
from adamoffload.device.backend import Backend, Memory
from adamoffload.device.hints import hint
from adamoffload.device.residency import (
    METHODS,
    OF_DATA,
    SEQUENCES,
    NotOursError,
    Resident,
)
from adamoffload.names import spelled

__all__ = ["Allocation", "Flags", "LibraryArray", "LibraryBackend"]


class Flags(NamedTuple):
    """How an array lies in memory, in NumPy's words."""

    c_contiguous: bool
    f_contiguous: bool
    owndata: bool
    writeable: bool = True


class Allocation:
    """Bytes of a device's memory, shared by all views of it and given back with the last."""

    __slots__ = ("_nbytes", "_pool")

    def __init__(self, nbytes: int, pool: MemoryPool) -> None:
        self._nbytes = 0  # in case reserve raises: then nothing is released either
        self._pool = pool
        if nbytes:
            pool.reserve(nbytes)
        self._nbytes = nbytes

    def __del__(self) -> None:
        if self._nbytes:
            self._pool.release(self._nbytes)


class LibraryBackend(Backend):
    """A device whose arrays are a library's, wrapped.

    A subclass names the library's class of arrays, the wrapper's class and the table, and
    implements what is abstract here: each takes the library's own arrays.

    Parameters
    ----------
    memory_bytes : int, optional
        Bytes that may be in use at once; no limit if left out. Counted is what ``np.*`` and this
        backend allocate, not what the library does for others.

    Raises
    ------
    TypeError, ValueError
        If `memory_bytes` is no whole number of at least 1.
    """

    array_type: type[LibraryArray]
    """Wraps the library's arrays."""
    library_type: type[Any]
    """The library's own class of arrays."""
    functions: Mapping[Any, Callable[..., Any]]
    """By NumPy's function or ufunc: the same on the library's arrays, with NumPy's parameters."""

    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__()
        self._pool = MemoryPool(self.name, memory_bytes)

    def owns(self, array: object) -> bool:
        """Return whether `array` is wrapped by this device."""
        return isinstance(array, LibraryArray) and array._device is self

    def memory(self) -> Memory:
        """Return the bytes used, at peak, and allowed: of what was allocated here."""
        return self._pool.memory()

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> LibraryArray:
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        allocation = Allocation(nbytes, self._pool)  # before there is an array
        return self.array_type(self._new(shape, dtype), self, allocation, owner=True)

    def _address(self, array: LibraryArray) -> int:
        return self._pointer(array._array)

    def _wrapped(self, array: Any) -> LibraryArray:
        """Wrap an array that somebody else allocated, whose bytes are not counted."""
        return self.array_type(array, self, Allocation(0, self._pool))

    # -- what a library is asked for ------------------------------------------------------------

    @abstractmethod
    def _new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Allocate a C-contiguous array, uninitialised."""

    @abstractmethod
    def _dtype(self, array: Any) -> np.dtype[Any]:
        """Return NumPy's element type of an array."""

    @abstractmethod
    def _strides(self, array: Any) -> tuple[int, ...]:
        """Return the bytes to the next element along each dimension."""

    @abstractmethod
    def _pointer(self, array: Any) -> int:
        """Return the address of the first element."""

    @abstractmethod
    def _is_view(self, array: Any, source: Any) -> bool:
        """Return whether both lie in the same allocation."""

    @abstractmethod
    def _cast(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """Return the array in another element type."""

    @abstractmethod
    def _view(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """Return the same memory as elements of another type of the same size."""

    @abstractmethod
    def _scalar(self, value: Any, dtype: np.dtype[Any]) -> Any:
        """Return a number as an operand of a ufunc."""

    @abstractmethod
    def _assign(self, target: Any, source: Any) -> None:
        """Write an array, broadcast and in another element type if need be, or a number."""

    @abstractmethod
    def _get(self, array: Any, index: Any) -> Any:
        """Return what an index selects: a view, where NumPy returns one."""

    @abstractmethod
    def _set(self, array: Any, index: Any, value: Any) -> None:
        """Write to what an index selects."""

    @abstractmethod
    def _add_at(self, array: Any, index: Any, values: Any) -> None:
        """Add to what an index selects, as often as it selects it."""


class LibraryArray(Resident):
    """An array of a device library; computes with ``np.*``, operators and methods.

    Made by a backend: ``device.asarray(...)``. What holds for `DeviceArray` holds here.

    Parameters
    ----------
    array : array
        The library's.
    device : LibraryBackend
        Whose memory it is.
    allocation : Allocation
        What it is a view of.
    owner : bool
        Whether it is all of it.
    """

    __slots__ = ("_allocation", "_owner")

    _device: LibraryBackend

    def __init__(
        self, array: Any, device: LibraryBackend, allocation: Allocation, *, owner: bool = False
    ) -> None:
        self._array = array
        self._device = device
        self._allocation = allocation
        self._owner = owner

    # -- attributes ---------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        return tuple(self._array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self._device._dtype(self._array)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._array.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self._array.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.size * self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes to the next element along each dimension."""
        return self._device._strides(self._array)

    @property
    def flags(self) -> Flags:
        """Memory layout, as in NumPy."""
        shape, strides, itemsize = self.shape, self.strides, self.itemsize
        return Flags(
            _is_packed(shape[::-1], strides[::-1], itemsize),
            _is_packed(shape, strides, itemsize),
            self._owner,
        )

    @property
    def T(self) -> Any:  # noqa: N802  (NumPy's name)
        """The transposed view."""
        return np.transpose(self)

    # -- NumPy's protocols --------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        device, out = self._device, kwargs.pop("out", (None,))[0]
        function = device.functions.get(ufunc)
        if method == "at" and ufunc is np.add and not kwargs:
            target, index, values = inputs
            device._add_at(self._operand(target), self._index(index), self._operand(values))
            return None
        if function is None or method != "__call__" or kwargs:
            raise self._missing(ufunc, method, kwargs)
        try:
            operands = [self._operand(x) for x in inputs]
            target = None if out is None else self._operand(out)
        except NotOursError:
            return NotImplemented
        *types, made = _loop(ufunc, tuple([self._kind(x) for x in operands]))
        fitted = [self._fitted(x, t) for x, t in zip(operands, types, strict=True)]
        if out is None:
            return self._new_array(function(*fitted))
        if made == out.dtype and self._may_write(out, inputs, fitted):
            function(*fitted, out=target)
            return out
        if not np.can_cast(made, out.dtype, "same_kind"):
            raise TypeError(f"{spelled(ufunc)}: cannot write {made} into out, of {out.dtype}")
        device._assign(target, function(*fitted))
        return out

    def _kind(self, operand: Any) -> Any:
        """Return what NumPy chooses a loop by: a dtype, or the class of a Python number."""
        if isinstance(operand, self._device.library_type):
            return self._device._dtype(operand)
        if isinstance(operand, np.generic):
            return operand.dtype
        return np.dtype(bool) if isinstance(operand, bool) else type(operand)

    def _fitted(self, operand: Any, dtype: np.dtype[Any]) -> Any:
        device = self._device
        if not isinstance(operand, device.library_type):
            return device._scalar(operand, dtype)
        return operand if device._dtype(operand) == dtype else device._cast(operand, dtype)

    def _may_write(self, out: LibraryArray, inputs: Any, fitted: Any) -> bool:
        """Return whether the library may write to `out` while it still reads the operands."""
        shapes = [x.shape for x in fitted if isinstance(x, self._device.library_type)]
        if not shapes or any(tuple(shape) != out.shape for shape in shapes if len(shape)):
            return False
        for x in inputs:
            shared = isinstance(x, LibraryArray) and x._allocation is out._allocation
            if shared and not _is_same(x, out):
                return False
        return True

    def _missing(self, function: Any, method: str, kwargs: Any) -> TypeError:
        name = spelled(function) + ("" if method == "__call__" else f".{method}")
        name += f" with {', '.join(kwargs)}" if kwargs else ""
        return TypeError(
            f"{name} does not run on device {self._device.name!r}; compute on the host with "
            f"device.asnumpy(x), or compose it from functions that do"
        )

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any
    ) -> Any:
        if function in _METADATA:
            return _METADATA[function](*args, **kwargs)
        compute = self._device.functions.get(function)
        if compute is None:
            raise self._missing(function, "__call__", {})
        sources: list[Any] = []
        try:
            if function in OF_DATA:
                for value in (*args, *kwargs.values()):
                    if isinstance(value, SEQUENCES):
                        self._operand(value)  # raises: a list here is data, not an axis or a shape
            operands = [self._tree(value, sources) for value in args]
            named = {key: self._tree(value, sources) for key, value in kwargs.items()}
        except NotOursError:
            return NotImplemented
        target = None if function in _INTO else named.pop("out", None)
        result = compute(*operands, **named)
        if target is not None:
            self._device._assign(target, result)
        if "out" in kwargs:
            return kwargs["out"]
        return self._brought(result, sources)

    # -- indexing and methods -----------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        return self._brought(self._device._get(self._array, self._index(index)), [self])

    def __setitem__(self, index: Any, value: Any) -> None:
        try:
            self._device._set(self._array, self._index(index), self._operand(value))
        except NotOursError:
            raise self._cannot_assign(value) from None

    def _index(self, index: Any) -> Any:
        backwards = isinstance(index, slice) and index.step is not None and index.step < 0
        if backwards and not self._device.negative_strides:
            raise ValueError(
                f"an array on device {self._device.name!r} has no view in reverse order; "
                f"np.flip(x, axis) copies it so"
            )
        return super()._index(index)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in METHODS:
            return partial(getattr(np, name), self)
        raise AttributeError(
            f"an array on device {self._device.name!r} has no attribute {name!r}; "
            + (hint(name) or "NumPy's full interface is on the host: device.asnumpy(x)"),
            name=name,
            obj=self,
        )

    def reshape(self, *shape: Any) -> Any:
        """Return the elements in another shape: a view, or a copy if the layout demands one."""
        return np.reshape(self, shape[0] if len(shape) == 1 else shape)

    def view(self, dtype: Any) -> Any:
        """Return the same bytes as elements of another type of the same size: a view.

        Raises
        ------
        TypeError
            If the size differs, or the library has no such elements.
        """
        device, kind = self._device, np.dtype(dtype)
        if kind.itemsize != self.itemsize:
            raise TypeError(f"view: {kind} takes other bytes than {self.dtype}")
        return device.array_type(device._view(self._array, kind), device, self._allocation)

    def transpose(self, *axes: Any) -> Any:
        """Return the view with its axes reversed, or in the given order."""
        return np.transpose(self, axes[0] if len(axes) == 1 else axes or None)

    def astype(self, dtype: Any) -> Any:
        """Return a copy in another element type."""
        copy = self._device._empty(self.shape, np.dtype(dtype))
        self._device._assign(copy._array, self._array)
        return copy

    def copy(self, order: Any = "C") -> Any:
        """Return a copy, C-contiguous unless `order` is ``"K"``."""
        return np.copy(self, order=order)

    def flatten(self) -> Any:
        """Return a copy in one dimension."""
        return self.copy().reshape(-1)

    def __copy__(self) -> Any:
        return np.copy(self)

    def __deepcopy__(self, memo: Any) -> Any:
        return np.copy(self)

    # -- into and out of the library ------------------------------------------------------------

    def _new_array(self, array: Any) -> LibraryArray:
        """Wrap what an operation allocated."""
        device = self._device
        size = int(np.prod(array.shape, dtype=np.int64))
        allocation = Allocation(size * device._dtype(array).itemsize, device._pool)
        return device.array_type(array, device, allocation, owner=True)

    def _brought(self, result: Any, sources: list[Any]) -> Any:
        """Wrap what a function returned, as a view if it lies in the memory of a source."""
        device = self._device
        if isinstance(result, SEQUENCES):
            return type(result)([self._brought(part, sources) for part in result])
        if not isinstance(result, device.library_type):
            return result
        for source in sources:
            if device._is_view(result, source._array):
                return device.array_type(result, device, source._allocation)
        return self._new_array(result)


def _is_packed(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """Return whether elements follow each other without gaps, the first axis the fastest."""
    if 0 in shape:
        return True
    for length, stride in zip(shape, strides, strict=True):
        if length > 1 and stride != itemsize:
            return False
        itemsize *= length
    return True


def _is_same(x: LibraryArray, y: LibraryArray) -> bool:
    """Return whether two arrays are the same elements in the same order."""
    here, there = x._device._address(x), y._device._address(y)
    return here == there and (x.shape, x.strides, x.dtype) == (y.shape, y.strides, y.dtype)


@functools.lru_cache(maxsize=4096)
def _loop(ufunc: np.ufunc, kinds: tuple[Any, ...]) -> tuple[np.dtype[Any], ...]:
    """Return the element types with which NumPy would compute, and that of the result.

    bfloat16 takes the part of float16, beside which it becomes float32.
    """
    brief = {kind for kind in kinds if _is_bfloat16(kind)}
    if not brief:
        return ufunc.resolve_dtypes((*kinds, None))
    (bfloat16,), half = brief, np.dtype(np.float16)
    part = np.dtype(np.float32) if half in kinds else half
    found = ufunc.resolve_dtypes((*[part if kind in brief else kind for kind in kinds], None))
    return tuple([bfloat16 if part == half == dtype else dtype for dtype in found])


def _is_bfloat16(kind: Any) -> bool:
    return isinstance(kind, np.dtype) and kind.type.__name__ == "bfloat16"


def _span(x: LibraryArray) -> tuple[int, int]:
    """Return the address of the first byte, and the one after the last."""
    start = x._device._address(x)
    if not x.size:
        return start, start
    ends = [(length - 1) * s for length, s in zip(x.shape, x.strides, strict=True)]
    low = start + sum(end for end in ends if end < 0)
    return low, start + sum(end for end in ends if end > 0) + x.itemsize


def _may_share_memory(a: Any, b: Any, max_work: Any = None) -> bool:  # noqa: ARG001
    if not isinstance(a, LibraryArray) or not isinstance(b, LibraryArray):
        return False
    (first, end), (second, stop) = _span(a), _span(b)
    return a._device is b._device and first < stop and second < end


def _result_type(*values: Any) -> np.dtype[Any]:
    return np.result_type(*[x.dtype if isinstance(x, LibraryArray) else x for x in values])


def _size(a: Any, axis: int | None = None) -> int:
    return int(a.size if axis is None else a.shape[axis])


_INTO = frozenset([np.concatenate])
"""Functions of the table that take ``out=`` themselves; of the others the result is copied."""

_METADATA: dict[Any, Callable[..., Any]] = {
    np.may_share_memory: _may_share_memory,
    np.shares_memory: _may_share_memory,
    np.result_type: _result_type,
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.size: _size,
}
