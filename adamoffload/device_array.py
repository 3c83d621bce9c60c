"""`DeviceArray`: an array in the memory of a device that is made of NumPy memory.

Backends without hardware (``numpy``, ``sim``, yours) build on it. ``np.*`` reaches it through
NumPy's own protocols, NEP 13 for ufuncs and NEP 18 for other functions, so the expression that
runs on the host runs here. It promises what a real device would enforce: no implicit way to the
host, no operands from elsewhere, and every byte counted in a `MemoryPool`, from the operation that
makes an array to the death of its last view.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, final

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from adamoffload.arguments import positive_integer
from adamoffload.backend import DeviceMemoryError, Memory, ResidencyError

if TYPE_CHECKING:
    from adamoffload.backend import Backend

__all__ = ["DeviceArray", "MemoryPool", "storage"]


class MemoryPool:
    """Counts a device's memory to the byte.

    Parameters
    ----------
    device : str
        The device's name, for messages.
    limit_bytes : int or None
        What may be in use at once; None for no limit.

    Raises
    ------
    TypeError, ValueError
        If the limit is no whole number of at least 1.

    Examples
    --------
    >>> pool = MemoryPool("numpy", limit_bytes=100)
    >>> pool.reserve(80)
    >>> pool.release(30)
    >>> pool.memory()
    Memory(used=50, peak=80, limit=100)
    """

    def __init__(self, device: str, limit_bytes: int | None) -> None:
        self._device = device
        self._limit = (
            None if limit_bytes is None else positive_integer(device, "memory_bytes", limit_bytes)
        )
        self._used = 0
        self._peak = 0
        self._lock = threading.Lock()
        self._freed: deque[int] = deque()

    def reserve(self, nbytes: int) -> None:
        """Take `nbytes`, or raise `DeviceMemoryError` and take nothing."""
        with self._lock:
            self._settle()
            if self._limit is not None and self._used + nbytes > self._limit:
                raise DeviceMemoryError(self._device, nbytes, self._used, self._limit)
            self._used += nbytes
            self._peak = max(self._peak, self._used)

    def release(self, nbytes: int) -> None:
        """Give `nbytes` back."""
        # Called from __del__, which the garbage collector may run anywhere, also inside
        # `reserve`: taking the lock here could deadlock, an append cannot.
        self._freed.append(nbytes)

    def memory(self) -> Memory:
        """Return what is used, what was used at most, and the limit."""
        with self._lock:
            self._settle()
            return Memory(self._used, self._peak, self._limit)

    def _settle(self) -> None:
        while self._freed:
            self._used -= self._freed.popleft()


class _Block:
    """One allocation, shared by all views of it and released with the last."""

    __slots__ = ("_nbytes", "_pool", "root")

    def __init__(self, root: np.ndarray[Any, Any], pool: MemoryPool) -> None:
        self._nbytes = 0  # in case reserve raises: then nothing is released either
        self._pool = pool
        self.root = root
        pool.reserve(root.nbytes)
        self._nbytes = root.nbytes

    def __del__(self) -> None:
        if self._nbytes:
            self._pool.release(self._nbytes)


@final
class DeviceArray(NDArrayOperatorsMixin):
    """An n-dimensional array on a device; computes with ``np.*``, operators and methods.

    Operands are arrays on the same device and Python or NumPy scalars. Slices are views that keep
    their allocation alive. ``float(x)``, ``int(x)``, ``bool(x)`` and ``x.item()`` of a one-element
    array are explicit copies, and counted as such.

    Made by a backend: ``device.asarray(...)``.

    Raises
    ------
    ResidencyError
        From any operation that would have to copy between host and device, or between devices.
    DeviceMemoryError
        From any operation whose result does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> x = device.asarray(np.ones((2, 3), np.float32))
    >>> np.exp(x) @ x.T
    DeviceArray(shape=(2, 2), dtype=float32, device='numpy')
    >>> x + np.ones((2, 3), np.float32)
    Traceback (most recent call last):
    adamoffload.backend.ResidencyError: an operand is a host ndarray and the other is on device \
'numpy'; nothing is copied implicitly: call device.asarray(x) first
    """

    __slots__ = ("__weakref__", "_array", "_block", "_device", "_pool")

    def __init__(
        self,
        array: np.ndarray[Any, Any],
        device: Backend,
        pool: MemoryPool,
        block: _Block | None = None,
    ) -> None:
        self._array = array
        self._device = device
        self._pool = pool
        self._block = _Block(array, pool) if block is None else block

    # -- attributes ---------------------------------------------------------------------------

    @property
    def device(self) -> Backend:
        """The backend whose memory this is."""
        return self._device

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self._array.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._array.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._array.size

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self._array.nbytes

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self._array.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes to the next element along each dimension."""
        return self._array.strides

    @property
    def flags(self) -> Any:
        """Memory layout, as in NumPy."""
        return self._array.flags

    @property
    def T(self) -> DeviceArray:  # noqa: N802  (NumPy's name)
        """The transposed view."""
        return self._view(self._array.T)

    # -- NumPy's protocols --------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        try:
            if method == "at":  # the second operand is an index
                target, index, *values = inputs
                operands = [self._operand(target), self._index(index), *map(self._operand, values)]
            else:
                operands = [self._operand(x) for x in inputs]
            if kwargs:
                kwargs = {key: self._tree(value) for key, value in kwargs.items()}
        except _NotOurs:
            return NotImplemented
        result = getattr(ufunc, method)(*operands, **kwargs)
        if out is not None:
            return out[0] if len(out) == 1 else out
        return self._wrap(result, ())

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any
    ) -> Any:
        if function not in _FUNCTIONS:
            raise TypeError(
                f"np.{function.__name__} does not run on device {self._device.name!r}; compute on "
                f"the host with device.asnumpy(x), or compose it from functions that do"
            )
        sources: list[DeviceArray] = []
        try:
            result = function(*self._tree(args, sources), **self._tree(kwargs, sources))
        except _NotOurs:
            return NotImplemented
        if function in _METADATA:
            return result
        out = kwargs.get("out")
        return self._wrap(result, sources) if out is None else out

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        raise ResidencyError(
            f"an array on device {self._device.name!r} is not converted to a host array "
            f"implicitly; call device.asnumpy(x)"
        )

    # -- indexing and methods -----------------------------------------------------------------

    def __getitem__(self, index: Any) -> DeviceArray:
        index = self._index(index)
        result = self._array[index]
        if isinstance(result, np.generic):  # one element: a 0-D view, so that it can be written to
            result = self._array[(*index, ...) if isinstance(index, tuple) else (index, ...)]
        return self._owned(result, (self,))

    def __setitem__(self, index: Any, value: Any) -> None:
        try:
            self._array[self._index(index)] = self._operand(value)
        except _NotOurs:
            raise TypeError(
                f"cannot assign an object of type {type(value).__name__} into an array on device "
                f"{self._device.name!r}; call device.asarray(x) first"
            ) from None

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in _METHODS:
            return partial(self._method, name)
        raise AttributeError(
            f"an array on device {self._device.name!r} has no attribute {name!r}; NumPy's full "
            f"interface is on the host: device.asnumpy(x)"
        )

    def _method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        sources = [self]
        result = getattr(self._array, name)(
            *self._tree(args, sources), **self._tree(kwargs, sources)
        )
        out = kwargs.get("out")
        return self._wrap(result, sources) if out is None else out

    def item(self) -> Any:
        """Copy the one element to the host and return it as a Python number."""
        return self._device.asnumpy(self).item()

    def __float__(self) -> float:
        return float(self._device.asnumpy(self))

    def __int__(self) -> int:
        return int(self._device.asnumpy(self))

    def __bool__(self) -> bool:
        return bool(self._device.asnumpy(self))

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self._device.name!r})"

    # -- into and out of the device's memory --------------------------------------------------

    def _operand(self, value: Any) -> Any:
        """Return the NumPy array or scalar behind an operand."""
        if type(value) is DeviceArray:
            if value._device is not self._device:
                raise ResidencyError(
                    f"operands are on different devices, {self._device!r} and "
                    f"{value._device!r}; copy over the host: a.asarray(b.asnumpy(x))"
                )
            return value._array
        if isinstance(value, _SCALARS):
            return value
        if isinstance(value, np.ndarray):
            raise ResidencyError(
                f"an operand is a host ndarray and the other is on device "
                f"{self._device.name!r}; nothing is copied implicitly: call device.asarray(x) first"
            )
        raise _NotOurs

    def _tree(self, value: Any, sources: list[DeviceArray] | None = None) -> Any:
        """Apply `_operand` inside lists, tuples and dicts; note the arrays met in `sources`."""
        if isinstance(value, DeviceArray):
            if sources is not None:
                sources.append(value)
            return self._operand(value)
        if isinstance(value, list | tuple):
            return type(value)([self._tree(item, sources) for item in value])
        if isinstance(value, dict):
            return {key: self._tree(item, sources) for key, item in value.items()}
        if isinstance(value, np.ndarray) or hasattr(value, "__array_function__"):
            return self._operand(value)
        return value  # an axis, a dtype, a subscript string, ...

    def _index(self, index: Any) -> Any:
        if isinstance(index, tuple):
            return tuple(map(self._index, index))
        if isinstance(index, list):
            raise ResidencyError("an index list is on the host; call device.asarray(indices) first")
        if isinstance(index, DeviceArray | np.ndarray):
            return self._operand(index)
        return index  # an int, slice, None or Ellipsis

    def _view(self, array: np.ndarray[Any, Any]) -> DeviceArray:
        return DeviceArray(array, self._device, self._pool, self._block)

    def _owned(
        self, array: np.ndarray[Any, Any], sources: list[DeviceArray] | tuple[DeviceArray, ...]
    ) -> DeviceArray:
        """Wrap an array, as a view if it lives in the allocation of one of `sources`."""
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        for source in sources:
            if source._block.root is root:
                return DeviceArray(array, self._device, self._pool, source._block)
        return DeviceArray(array, self._device, self._pool, _Block(root, self._pool))

    def _wrap(self, result: Any, sources: list[DeviceArray] | tuple[()]) -> Any:
        if isinstance(result, np.ndarray):
            return self._owned(result, sources)
        if isinstance(result, np.generic | bool):
            return DeviceArray(np.asarray(result), self._device, self._pool)
        if isinstance(result, list | tuple):
            wrapped = [self._wrap(item, sources) for item in result]
            named = hasattr(result, "_fields")
            return type(result)(*wrapped) if named else type(result)(wrapped)
        return result


def storage(array: DeviceArray) -> np.ndarray[Any, Any]:
    """Return the NumPy memory behind a device array: for the copies of a backend, and only those.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> storage(ao.get_backend("numpy").asarray(np.arange(3)))
    array([0, 1, 2])
    """
    return array._array


class _NotOurs(Exception):
    """An operand belongs to a library that may know what to do with it."""


_SCALARS = (bool, int, float, complex, np.generic)

_METHODS = frozenset(
    "all any argmax argmin astype clip copy cumsum dot fill flatten max mean min prod ravel repeat "
    "reshape squeeze std sum swapaxes take transpose var".split()
)

_METADATA = frozenset(
    [np.may_share_memory, np.ndim, np.result_type, np.shape, np.shares_memory, np.size]
)

_FUNCTIONS = (
    _METADATA
    | frozenset(
        getattr(np, name)
        for name in (
            "all allclose amax amin any argmax argmin argsort array_equal array_split atleast_1d "
            "atleast_2d average broadcast_arrays broadcast_to clip concatenate copy copyto "
            "count_nonzero cumprod cumsum diag diagonal diff dot einsum empty_like expand_dims flip "
            "full_like hstack inner isclose kron matrix_transpose max mean median min "
            "moveaxis nan_to_num nanmax nanmean nanmin nansum nonzero ones_like outer pad partition "
            "permute_dims prod ptp put_along_axis quantile ravel repeat reshape roll rollaxis "
            "searchsorted sort split squeeze stack std sum swapaxes take take_along_axis tensordot "
            "tile trace transpose tril triu unique var vdot vstack where zeros_like"
        ).split()
    )
    | frozenset([np.linalg.norm])
)
