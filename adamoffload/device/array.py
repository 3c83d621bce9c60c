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
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np
from numpy.lib.array_utils import byte_bounds

from adamoffload.arguments import positive_integer
from adamoffload.device.backend import DeviceMemoryError, HostArray, Memory
from adamoffload.device.half import any_half, compute, compute_at
from adamoffload.device.hints import hint
from adamoffload.device.residency import METHODS, OF_DATA, SEQUENCES, NotOursError, Resident
from adamoffload.names import spelled

if TYPE_CHECKING:
    from adamoffload.device.backend import Backend

__all__ = ["DeviceArray", "MemoryPool", "Observe", "address", "span", "storage"]

Observe: TypeAlias = Callable[[str, tuple[Any, ...], Any, Any], None]
"""Takes what was computed: NumPy's name for it, its arguments, the result, and where it was written
(``out``, or None for new arrays); see `MemoryPool`."""


class MemoryPool:
    """Counts a device's memory to the byte.

    Parameters
    ----------
    device : str
        The device's name, for messages.
    limit_bytes : int or None
        What may be in use at once; None for no limit.
    observe : callable, optional
        Called after every operation on the device's arrays that made or wrote an array: for a
        device that keeps its own time.

    Raises
    ------
    TypeError, ValueError
        If the limit is no whole number of at least 1.

    Examples
    --------
    >>> pool = MemoryPool("numpy", limit_bytes=100)
    >>> pool.reserve(80)
    0
    >>> pool.release(30)
    >>> pool.memory()
    Memory(used=50, peak=80, limit=100)
    """

    def __init__(
        self, device: str, limit_bytes: int | None, observe: Observe | None = None
    ) -> None:
        self.observe = observe
        self._device = device
        self._limit = (
            None if limit_bytes is None else positive_integer(device, "memory_bytes", limit_bytes)
        )
        self._used = 0
        self._peak = 0
        self._next_address = 0
        # Other threads wait. This one may come back in, from a signal handler or from __del__: so
        # bytes are counted before anything is decided, and each change is one line without a call.
        self._lock = threading.RLock()
        self._freed: deque[int] = deque()

    def reserve(self, nbytes: int) -> int:
        """Take `nbytes` and return their address, or raise `DeviceMemoryError` and take nothing.

        Addresses are the device's own and are never given out twice.
        """
        with self._lock:
            if self._freed:
                self._settle()
            self._used += nbytes
            if self._limit is not None and self._used > self._limit:
                self._used -= nbytes
                raise DeviceMemoryError(self._device, nbytes, self._used, self._limit)
            self._peak = self._used if self._used > self._peak else self._peak
            address, self._next_address = self._next_address, self._next_address + nbytes
            return address

    def release(self, nbytes: int) -> None:
        """Give `nbytes` back."""
        # Called from __del__, which may run anywhere, also where another thread holds the lock of
        # something that a thread in here waits for: an append waits for nobody.
        self._freed.append(nbytes)

    def memory(self) -> Memory:
        """Return what is used, what was used at most, and the limit."""
        with self._lock:
            self._settle()
            return Memory(self._used, self._peak, self._limit)

    def _settle(self) -> None:
        while self._freed:
            nbytes = self._freed.popleft()
            self._used -= nbytes


class _Block:
    """One allocation, shared by all views of it and released with the last."""

    __slots__ = ("_nbytes", "_pool", "address", "root")

    def __init__(self, root: HostArray, pool: MemoryPool) -> None:
        self._nbytes = 0  # in case reserve raises: then nothing is released either
        self._pool = pool
        self.root = root
        nbytes = root.nbytes
        self.address = pool.reserve(nbytes)
        self._nbytes = nbytes

    def __del__(self) -> None:
        if self._nbytes:
            self._pool.release(self._nbytes)


@final
class DeviceArray(Resident):
    """An n-dimensional array on a device; computes with ``np.*``, operators and methods.

    Operands are arrays on the same device and Python or NumPy scalars. Slices are views that keep
    their allocation alive; whatever NumPy returns as a scalar is a 0-D array here, still on the
    device. ``float(x)``, ``int(x)``, ``bool(x)`` and ``x.item()`` of a one-element array are
    explicit copies, and counted as such.

    Made by a backend: ``device.asarray(...)``.

    Parameters
    ----------
    array : ndarray
        The device's memory; owns its data, unless `block` is given.
    device : Backend
        Whose memory it is.
    pool : MemoryPool
        Where its bytes are counted.
    block : optional
        The allocation that `array` is a view of; a new one if left out.

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
    adamoffload.device.backend.ResidencyError: an operand is a host ndarray and the other is on \
device 'numpy'; nothing is copied implicitly: call device.asarray(x) first
    """

    __slots__ = ("_block", "_pool")

    _array: HostArray

    def __init__(
        self,
        array: HostArray,
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
        device = self._device
        try:
            if method in _INDEXED:
                target, index, *values = inputs
                operands = [self._operand(target), self._index(index), *map(self._operand, values)]
            else:  # `_operand` spelled out for the usual case, which halves its cost
                operands = [
                    x._array if type(x) is DeviceArray and x._device is device else self._operand(x)
                    for x in inputs
                ]
            keywords = {key: self._keyword(key, value) for key, value in kwargs.items()}
        except NotOursError:
            return NotImplemented
        call = ufunc if method == "__call__" else getattr(ufunc, method)
        if any_half(operands) or "dtype" in keywords:
            in_float32 = compute_at if method == "at" else compute
            result = in_float32(call, operands, keywords)
        else:
            result = call(*operands, **keywords)
        out = kwargs.get("out")
        if self._pool.observe is not None:
            return self._observed(ufunc.__name__, method, inputs, kwargs, result)
        if out is None:
            return self._made(result)
        return out[0] if len(out) == 1 else self._filled(result, out)

    def _filled(self, result: Any, out: tuple[DeviceArray | None, ...]) -> tuple[Any, ...]:
        return tuple(
            self._made(part) if given is None else given
            for part, given in zip(result, out, strict=True)
        )

    def _observed(
        self, name: str, method: str, inputs: tuple[Any, ...], kwargs: Any, result: Any
    ) -> Any:
        """Wrap what a ufunc returned, and report the operation."""
        out = kwargs.get("out")
        if out is None:
            made = self._made(result)
        else:
            made = out[0] if len(out) == 1 else self._filled(result, out)
        assert self._pool.observe is not None
        written = inputs[0] if method == "at" else out
        self._pool.observe(name, (*inputs, kwargs.get("where")), made, written)
        return made

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any
    ) -> Any:
        if function not in _FUNCTIONS:
            raise TypeError(
                f"{spelled(function)} does not run on device {self._device.name!r}; compute on "
                f"the host with device.asnumpy(x), or compose it from functions that do"
            )
        try:
            return self._call(function, function, args, kwargs)
        except NotOursError:
            return NotImplemented

    # -- indexing and methods -----------------------------------------------------------------

    def __getitem__(self, index: Any) -> DeviceArray:
        index = self._index(index)
        result = self._array[index]
        if isinstance(result, np.generic):  # one element: a 0-D view, so that it can be written to
            result = self._array[(*index, ...) if isinstance(index, tuple) else (index, ...)]
        return self._taken("take", self._owned(result, [self]))

    def _taken(self, name: str, result: DeviceArray) -> DeviceArray:
        """Return `result`, reporting it if it is no view: a view costs nothing."""
        if self._pool.observe is not None and result._block is not self._block:
            self._pool.observe(name, (self,), result, None)
        return result

    def __setitem__(self, index: Any, value: Any) -> None:
        try:
            place = self._index(index)
            self._array[place] = self._operand(value)
            if self._pool.observe is not None:
                part = np.asarray(self._array[place])
                viewed = np.may_share_memory(part, self._array)  # not if indexed by an array
                self._pool.observe("copyto", (value,), None, self._view(part) if viewed else self)
        except NotOursError:
            raise self._cannot_assign(value) from None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in METHODS:
            return partial(self._method, name)
        raise AttributeError(
            f"an array on device {self._device.name!r} has no attribute {name!r}; "
            + (hint(name) or "NumPy's full interface is on the host: device.asnumpy(x)"),
            name=name,
            obj=self,
        )

    def _method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        function = getattr(np, name, None)
        try:
            return self._call(function, getattr(self._array, name), args, kwargs)
        except NotOursError:  # x.dot(parameter): let NumPy ask the other operand
            if function is None:
                raise TypeError(f"{name}: unexpected argument among {args} {kwargs}") from None
            return function(self, *args, **kwargs)

    def reshape(self, *shape: Any, **kwargs: Any) -> DeviceArray:
        """Return the elements in another shape: a view, or a copy if the layout demands one."""
        result = self._owned(self._array.reshape(*shape, **kwargs), [self])
        return self._taken("copy", result)

    def view(self, dtype: Any) -> DeviceArray:
        """Return the same bytes as elements of another type of the same size: a view.

        Raises
        ------
        TypeError
            If the size differs.
        """
        if np.dtype(dtype).itemsize != self.dtype.itemsize:
            raise TypeError(f"view: {np.dtype(dtype)} takes other bytes than {self.dtype}")
        return self._view(self._array.view(dtype))

    def __copy__(self) -> DeviceArray:
        return self._taken("copy", self._wrap(self._array.copy(), []))

    def __deepcopy__(self, memo: Any) -> DeviceArray:
        return self.__copy__()

    # -- into and out of the device's memory --------------------------------------------------

    def _keyword(self, key: str, value: Any) -> Any:
        """Apply `_operand` to what a ufunc's keyword argument holds."""
        if key == "out":
            if len(value) == 1:
                return self._operand(value[0])
            return tuple([None if target is None else self._operand(target) for target in value])
        return self._operand(value) if key == "where" else self._tree(value)

    def _call(
        self, function: Any, call: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """Run NumPy's `function`, as `call`, on the arrays behind its arguments."""
        if function in OF_DATA:
            for value in (*args, *kwargs.values()):
                if isinstance(value, SEQUENCES):
                    self._operand(value)  # raises: a list here is data, not an axis or a shape
        sources = [self]
        operands = [self._tree(value, sources) for value in args]
        keywords = {key: self._tree(value, sources) for key, value in kwargs.items()}
        halves = any_half([source._array for source in sources])
        if halves and function is np.nan_to_num:  # to NumPy bfloat16 has no largest number
            raise TypeError(
                "np.nan_to_num does not run in 16 bits on a device; "
                "write np.where(np.isfinite(x), x, 0)"
            )
        if function in _ARITHMETIC and (halves or "dtype" in keywords):
            given = operands if call is function else [self._array, *operands]
            result = compute(function, given, keywords)
        else:
            result = call(*operands, **keywords)
        if function in _METADATA:
            return result
        out = kwargs.get("out")
        made = self._wrap(result, sources) if out is None else out
        if self._pool.observe is not None:
            name = getattr(function, "__name__", "copy")
            taken = args if call is function else (self, *args)
            if name in _INTO_FIRST and args:
                out, taken = args[0], args[1:]
            named = [value for key, value in kwargs.items() if key != "out"]
            self._pool.observe(name, (*taken, *named), made, out)
        return made

    def _view(self, array: HostArray) -> DeviceArray:
        return DeviceArray(array, self._device, self._pool, self._block)

    def _owned(self, array: HostArray, sources: list[DeviceArray]) -> DeviceArray:
        """Wrap an array, as a view if it lives in the allocation of one of `sources`."""
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        for source in sources:
            if source._block.root is root:
                return DeviceArray(array, self._device, self._pool, source._block)
        return DeviceArray(array, self._device, self._pool, _Block(root, self._pool))

    def _made(self, result: Any) -> Any:
        """Wrap what a ufunc returned: never a view of an operand."""
        if type(result) is np.ndarray and result.base is None:  # nearly always, and 0.4 us faster
            return DeviceArray(result, self._device, self._pool)
        return self._wrap(result, [])

    def _wrap(self, result: Any, sources: list[DeviceArray]) -> Any:
        if isinstance(result, np.ndarray):
            return self._owned(result, sources)
        if isinstance(result, (np.generic, int)):
            return DeviceArray(np.asarray(result), self._device, self._pool)
        if isinstance(result, SEQUENCES):
            wrapped: list[Any] = []
            try:
                for item in result:
                    wrapped.append(self._wrap(item, sources))  # noqa: PERF401  (freed below)
            except DeviceMemoryError:
                wrapped.clear()  # the traceback keeps this frame alive: all or nothing, now
                raise
            named = hasattr(result, "_fields")
            return type(result)(*wrapped) if named else type(result)(wrapped)
        return result


def address(array: DeviceArray) -> int:
    """Return where a contiguous array begins in its device's memory.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> x = ao.get_backend("numpy").asarray(np.zeros(10, np.float32))
    >>> address(x[5:]) - address(x)
    20
    """
    block, data = array._block, array._array
    if data is block.root:  # nearly always, and 0.7 us faster
        return block.address
    return block.address + _pointer(data) - _pointer(block.root)


def span(array: DeviceArray) -> tuple[int, int]:
    """Return the address of an array's first byte, in any layout, and that after its last.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> x = ao.get_backend("numpy").asarray(np.zeros(10, np.float32))
    >>> span(x[::-2])
    (4, 40)
    """
    block, data = array._block, array._array
    if data is block.root:
        return block.address, block.address + data.nbytes
    low, high = byte_bounds(data)
    shift = block.address - _pointer(block.root)
    return low + shift, high + shift


def _pointer(array: HostArray) -> int:
    return int(array.__array_interface__["data"][0])


def storage(array: DeviceArray) -> HostArray:
    """Return the NumPy memory behind a device array: for the copies of a backend, and only those.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> storage(ao.get_backend("numpy").asarray(np.arange(3)))
    array([0, 1, 2])
    """
    return array._array


_INTO_FIRST = frozenset(["copyto", "put_along_axis"])  # functions that write their first argument

_INDEXED = frozenset(["at", "reduceat"])  # ufunc methods whose second operand is an index

_METADATA = frozenset(
    [np.may_share_memory, np.ndim, np.result_type, np.shape, np.shares_memory, np.size]
)

# What a device computes in float32 where its operands have 16 bits; all others move or choose.
_ARITHMETIC = frozenset(
    getattr(np, name)
    for name in (
        "allclose amax amin argmax argmin average clip cumprod cumsum diff dot einsum inner "
        "isclose kron max mean median min nanmax nanmean nanmin nansum outer prod ptp quantile "
        "round std sum tensordot trace var vdot"
    ).split()
).union([np.linalg.norm])

_FUNCTIONS = frozenset(
    getattr(np, name)
    for name in (
        "all allclose amax amin any argmax argmin argsort array_equal array_split atleast_1d "
        "atleast_2d average broadcast_arrays broadcast_to clip concatenate copy copyto "
        "count_nonzero cumprod cumsum diag diagonal diff dot einsum empty_like expand_dims flip "
        "full_like hstack inner isclose kron matrix_transpose max mean median min moveaxis "
        "nan_to_num nanmax nanmean nanmin nansum nonzero ones_like outer pad partition "
        "permute_dims prod ptp put_along_axis quantile ravel repeat reshape roll rollaxis round "
        "searchsorted sort split squeeze stack std sum swapaxes take take_along_axis tensordot "
        "tile trace transpose tril triu unique var vdot vstack where zeros_like"
    ).split()
).union(_METADATA, [np.linalg.norm])
