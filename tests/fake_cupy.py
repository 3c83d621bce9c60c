"""A CuPy in NumPy memory, which runs what is issued as late, or in as odd an order, as CUDA may.

Each stream is a queue. What is issued to it is done some time later: how much is done at each call
is drawn from a seeded generator, and waiting for an event does, beyond that, only what the event
needs. Memory is poisoned when it is allocated. So a missing order between streams gives wrong
numbers for some seed.

What is offered here is what the backend, the optimizers and the tape use, and it takes no more than
CuPy 13 and 14 take: `UFUNCS` and `SIGNATURES` are all that ``np.*`` finds, operands are admitted by
the rules of ``cupy.ndarray.__array_ufunc__`` and ``__array_function__`` (cupy/_core/core.pyx), and
`cupy_names.py` compares every public name of `OFFERED` with those of the real wheels.
"""

from __future__ import annotations

import inspect
import random
import sys
import threading
import types
import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

ROUNDING = 512

UFUNCS = frozenset(
    "absolute add arctan arctan2 bitwise_and bitwise_or bitwise_xor ceil cos cosh divide equal exp "
    "exp2 expm1 floor floor_divide greater greater_equal hypot invert isfinite isinf isnan "
    "left_shift less less_equal log log10 log1p log2 logaddexp logical_and logical_not logical_or "
    "logical_xor matmul maximum minimum multiply negative not_equal positive power reciprocal "
    "remainder right_shift rint sign signbit sin sinh sqrt square subtract tan tanh "
    "trunc".split()
)
"""The ufuncs that CuPy has under NumPy's names, so far as they are used."""

SIGNATURES = {
    name: inspect.signature(eval(f"lambda {parameters}: None"))
    for name, parameters in {
        "all": "a, axis=None, out=None, keepdims=False",
        "allclose": "a, b, rtol=1e-05, atol=1e-08, equal_nan=False",
        "amax": "a, axis=None, out=None, keepdims=False",
        "amin": "a, axis=None, out=None, keepdims=False",
        "any": "a, axis=None, out=None, keepdims=False",
        "argmax": "a, axis=None, dtype=None, out=None, keepdims=False",
        "argmin": "a, axis=None, dtype=None, out=None, keepdims=False",
        "argsort": "a, axis=-1, kind=None",
        "array_equal": "a1, a2, equal_nan=False",
        "broadcast_to": "array, shape",
        "clip": "a, a_min, a_max, out=None",
        "concatenate": "tup, axis=0, out=None, *, dtype=None, casting='same_kind'",
        "copy": "a, order='K'",
        "copyto": "dst, src, casting='same_kind', where=None",
        "count_nonzero": "a, axis=None",
        "cumsum": "a, axis=None, dtype=None, out=None",
        "dot": "a, b, out=None",
        "einsum": "*operands, **kwargs",
        "empty_like": "prototype, dtype=None, order='K', subok=None, shape=None",
        "expand_dims": "a, axis",
        "flip": "a, axis=None",
        "full_like": "a, fill_value, dtype=None, order='K', subok=None, shape=None",
        "hstack": "tup, *, dtype=None, casting='same_kind'",
        "isclose": "a, b, rtol=1e-05, atol=1e-08, equal_nan=False",
        "linalg.norm": "x, ord=None, axis=None, keepdims=False",
        "may_share_memory": "a, b, max_work=None",
        "max": "a, axis=None, out=None, keepdims=False",
        "mean": "a, axis=None, dtype=None, out=None, keepdims=False",
        "min": "a, axis=None, out=None, keepdims=False",
        "moveaxis": "a, source, destination",
        "ndim": "a",
        "ones_like": "a, dtype=None, order='K', subok=None, shape=None",
        "outer": "a, b, out=None",
        "pad": "array, pad_width, mode='constant', **kwargs",
        "ravel": "a, order='C'",
        "repeat": "a, repeats, axis=None",
        "reshape": "a, newshape, order='C'",
        "result_type": "*arrays_and_dtypes",
        "shape": "a",
        "size": "a, axis=None",
        "sort": "a, axis=-1, kind=None",
        "split": "ary, indices_or_sections, axis=0",
        "squeeze": "a, axis=None",
        "stack": "tup, axis=0, out=None, *, dtype=None, casting='same_kind'",
        "std": "a, axis=None, dtype=None, out=None, ddof=0, keepdims=False",
        "sum": "a, axis=None, dtype=None, out=None, keepdims=False",
        "swapaxes": "a, axis1, axis2",
        "take": "a, indices, axis=None, out=None",
        "take_along_axis": "a, indices, axis",
        "tensordot": "a, b, axes=2",
        "tile": "A, reps",
        "transpose": "a, axes=None",
        "tril": "m, k=0",
        "triu": "m, k=0",
        "var": "a, axis=None, dtype=None, out=None, ddof=0, keepdims=False",
        "vstack": "tup, *, dtype=None, casting='same_kind'",
        "where": "condition, x=None, y=None",
        "zeros_like": "a, dtype=None, order='K', subok=None, shape=None",
    }.items()
}
"""The functions that CuPy has under NumPy's names, and what CuPy 13 takes."""

_ABOUT = frozenset(
    ["may_share_memory", "ndim", "result_type", "shape", "size"]
)  # answered without computing
_VIEWS = frozenset(
    "broadcast_to expand_dims flip moveaxis ravel reshape squeeze swapaxes transpose".split()
)
_ADDED_BY_INDEX = "ilfdeILQq"  # dtypes of add.at
_DTYPES = "?bhilqBHILQefdFD"


class Cuda:
    """One GPU: streams, events, memory; and a log of what was asked of it.

    Parameters
    ----------
    seed : int
        Of the order in which things are done.
    eagerness : float
        Probability that a step that could be done is done at the next call; 0 is as late as can be.
    """

    def __init__(self, seed: int = 0, eagerness: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.eagerness = eagerness
        self.log: list[tuple[str, str]] = []
        self.pinned: list[int] = []
        self.ticks = 0
        self.streams: list[Stream] = []
        self.null = Stream(self)
        self.current = [self.null]
        self.next_address = ROUNDING
        self.lock = threading.RLock()
        self.local = threading.local()
        self.pool = Pool(self)
        self.allocator: Callable[[int], Pointer] = self.pool.malloc

    @property
    def number(self) -> int:
        """Return the number of the calling thread's GPU."""
        return getattr(self.local, "number", 0)

    @number.setter
    def number(self, number: int) -> None:
        self.local.number = number

    def blocked(self) -> int:
        """Return how often the host was made to wait."""
        return sum(what == "synchronize" for _, what in self.log)

    def on(self, what: str) -> set[str]:
        """Return the streams on which something was done."""
        return {stream for stream, done in self.log if done == what}

    def issue(self, what: str, run: Callable[[], object], stream: Stream | None = None) -> None:
        stream = stream or self.current[-1]
        with self.lock:
            self.log.append((stream._name, what))
            stream._queue.append(run)
            while self.random.random() < self.eagerness:
                ready = [s for s in self.streams if s._ready()]
                if not ready:
                    break
                self.random.choice(ready)._advance()

    def finish(self, done: Callable[[], bool], stream: Stream) -> None:
        """Do what is needed for `done`, and no more."""
        with self.lock:
            while not done():
                assert stream._queue, "waiting for what was never issued"
                head = stream._queue[0]
                if isinstance(head, Event):
                    self.finish(lambda event=head: event._tick is not None, head._stream)  # type: ignore[misc]
                stream._advance()

    def modules(self) -> dict[str, types.ModuleType]:
        """Return what to put into `sys.modules`."""
        array = type("ndarray", (Array,), {"_cuda": self})
        cuda = types.SimpleNamespace(
            Device=lambda number: Device(self, number),
            Event=lambda **options: Event(self, **options),
            MemoryPool=lambda: Pool(self),
            Stream=lambda non_blocking=False: Stream(self),
            get_allocator=lambda: self.allocator,
            get_current_stream=lambda: self.current[-1],
            get_elapsed_time=elapsed_ms,
            memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=types.SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                getDevice=lambda: self.number,
                getDeviceCount=lambda: 2,
                memGetInfo=lambda: (1 << 20, 1 << 30),
            ),
            set_allocator=lambda allocator: setattr(self, "allocator", allocator),
        )
        cupy, cupyx = types.ModuleType("cupy"), types.ModuleType("cupyx")
        vars(cupy).update(
            __version__="13.6.0",
            ndarray=array,
            cuda=cuda,
            empty=array._empty,  # type: ignore[attr-defined]
            ascontiguousarray=lambda x: x if x.flags.c_contiguous else x.copy(),
            get_default_memory_pool=lambda: self.pool,
        )
        vars(cupyx).update(empty_pinned=self.empty_pinned)
        return {"cupy": cupy, "cupyx": cupyx}

    def empty_pinned(self, size: int, dtype: Any) -> np.ndarray[Any, Any]:
        self.pinned.append(size)
        return poisoned((size,), np.dtype(dtype))


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


def poisoned(shape: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return np.full(shape, np.nan if dtype.kind in "fc" else 1, dtype)


class Device:
    def __init__(self, cuda: Cuda, number: int) -> None:
        self._cuda = cuda
        self._number = number
        self._before: list[int] = []

    def __enter__(self) -> None:
        self._before.append(self._cuda.number)
        self._cuda.number = self._number

    def __exit__(self, *exception: object) -> None:
        self._cuda.number = self._before.pop()

    def synchronize(self) -> None:
        self._cuda.log.append(("device", "synchronize"))
        for stream in self._cuda.streams:
            self._cuda.finish(lambda stream=stream: not stream._queue, stream)  # type: ignore[misc]


class Stream:
    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._name = f"stream {len(cuda.streams)}"
        self._queue: deque[Any] = deque()
        cuda.streams.append(self)

    def _ready(self) -> bool:
        head = self._queue[0] if self._queue else None
        return head is not None and not (isinstance(head, Event) and head._tick is None)

    def _advance(self) -> None:
        head = self._queue.popleft()
        self._cuda.ticks += 1
        if not isinstance(head, Event):
            with np.errstate(all="ignore"):
                head()

    def record(self, event: Event) -> Event:
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        assert event._stream is not None, "waiting for an event that was not recorded"
        self._cuda.log.append((self._name, "wait"))
        self._queue.append(event)

    def __enter__(self) -> Stream:
        self._cuda.current.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._cuda.current.pop() is self


class Event:
    def __init__(self, cuda: Cuda, disable_timing: bool = False) -> None:
        self._cuda = cuda
        self._timed = not disable_timing
        self._stream: Any = None
        self._tick: int | None = None

    def record(self, stream: Stream) -> None:
        self._stream = stream
        self._cuda.issue("record", lambda: setattr(self, "_tick", self._cuda.ticks), stream)

    @property
    def done(self) -> bool:
        return self._tick is not None

    def synchronize(self) -> None:
        self._cuda.log.append(("event", "synchronize"))
        assert self._stream is not None, "waiting for an event that was not recorded"
        self._cuda.finish(lambda: self.done, self._stream)


def elapsed_ms(start: Event, stop: Event) -> float:
    assert start._timed
    assert stop._timed
    assert start._tick is not None
    assert stop._tick is not None
    return float(np.float32(stop._tick - start._tick))


class Pool:
    """Keeps what is freed for allocations of the same size, as CuPy's does at worst.

    Like CuPy's it keeps the books of each GPU apart, and speaks of the current one's.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._books: dict[int, Book] = defaultdict(Book)

    @property
    def _here(self) -> Book:
        return self._books[self._cuda.number]

    def malloc(self, nbytes: int) -> Pointer:
        size = -(-nbytes // ROUNDING) * ROUNDING
        book = self._here
        with book.lock:
            if book.kept[size]:
                book.kept[size] -= 1
            elif book.limit and self.total_bytes() + size > book.limit:
                raise OutOfMemoryError
            book.used += size
            pointer = Pointer(self._cuda.next_address, self._cuda.current[-1])
            pointer.device_id = self._cuda.number
            self._cuda.next_address += size
        weakref.finalize(pointer, book.free, size)
        return pointer

    def free_all_blocks(self) -> None:
        with self._here.lock:
            self._here.kept.clear()

    def used_bytes(self) -> int:
        return self._here.used

    def total_bytes(self) -> int:
        book = self._here
        with book.lock:
            return book.used + sum(size * count for size, count in book.kept.items())

    def get_limit(self) -> int:
        return self._here.limit

    def set_limit(self, size: int) -> None:
        self._here.limit = size


class Book:
    """What a pool knows of one GPU."""

    def __init__(self) -> None:
        self.used = 0
        self.limit = 0
        self.kept: Counter[int] = Counter()
        self.lock = threading.RLock()

    def free(self, size: int) -> None:
        with self.lock:
            self.used -= size
            self.kept[size] += 1


class Pointer:
    def __init__(self, ptr: int, stream: Stream, base: Pointer | None = None) -> None:
        self.ptr = ptr
        self._stream = stream  # in whose order the pool gives the memory out again
        self._base = base  # a view keeps the allocation alive
        self.device_id = 0


class Array(NDArrayOperatorsMixin):
    """`cupy.ndarray`: metadata at once, contents when the stream gets there."""

    _cuda: Cuda

    def __init__(self, array: np.ndarray[Any, Any], data: Pointer) -> None:
        self._array = array
        self.data = data
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.size, self.nbytes, self.strides = array.size, array.nbytes, array.strides
        self.flags = types.SimpleNamespace(
            c_contiguous=array.flags.c_contiguous, owndata=data._base is None
        )  # CuPy's have no writeable

    @classmethod
    def _empty(cls, shape: Any, dtype: Any = np.float64) -> Array:
        dtype = np.dtype(dtype)
        if dtype.char not in _DTYPES:
            raise TypeError(f"Unsupported dtype {dtype}")
        array = poisoned(shape, dtype)
        return cls(array, cls._cuda.allocator(array.nbytes))

    @classmethod
    def _of(cls, array: np.ndarray[Any, Any]) -> Array:
        made = cls._empty(array.shape, array.dtype)
        made._array[...] = array
        return made

    def _viewed(self, array: np.ndarray[Any, Any]) -> Array:
        offset = array.__array_interface__["data"][0] - self._array.__array_interface__["data"][0]
        return type(self)(array, Pointer(self.data.ptr + offset, self.data._stream, self.data))

    def view(self, dtype: Any) -> Array:
        return self._viewed(self._array.view(dtype))

    def _compute(self, function: Any, args: Any, kwargs: Any, out: Array | None) -> Array:
        with np.errstate(all="ignore"):
            like = np.asarray(function(*mapped(args, stand_in), **mapped(kwargs, stand_in)))
        out = self._empty(like.shape, like.dtype) if out is None else out

        def run() -> None:
            out._array[...] = function(*mapped(args, contents), **mapped(kwargs, contents))

        self._cuda.issue("kernel", run)
        return out

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            if len(kwargs["out"]) != 1:
                raise ValueError("The 'out' parameter must have exactly one array value")
            kwargs["out"] = kwargs["out"][0]
        if method not in ("__call__", "at") or ufunc.__name__ not in UFUNCS:
            return NotImplemented
        given = (*inputs, kwargs["out"]) if "out" in kwargs else inputs
        if not all(map(admitted, given)):
            return NotImplemented
        for x in given:
            refuse_host(x)
        if method == "at":
            return self._add_at(ufunc, *inputs)
        if kwargs.keys() - {"out", "dtype", "casting"}:
            raise TypeError(f"Wrong arguments {kwargs}")
        out = kwargs.pop("out", None)
        return self._compute(ufunc, inputs, kwargs, out)

    def _add_at(self, ufunc: np.ufunc, target: Array, index: Any, value: Any) -> None:
        if ufunc is not np.add:
            raise NotImplementedError(f"`{ufunc.__name__}.at` is not supported yet")
        if target.dtype.char not in _ADDED_BY_INDEX:
            raise TypeError(f"cupy.add.at does not support {target.dtype}")
        self._cuda.issue(
            "kernel", lambda: np.add.at(target._array, contents(index), contents(value))
        )

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = f"{function.__module__}.{function.__name__}".removeprefix("numpy.")
        if name not in SIGNATURES:
            return NotImplemented
        if not all(issubclass(kind, Array | np.ndarray) for kind in types):
            return NotImplemented
        SIGNATURES[name].bind(*args, **kwargs)
        mapped([args, kwargs], refuse_host)
        if function is np.copyto:
            args[0][...] = args[1]
            return None
        if name in _ABOUT:
            return function(*mapped(args, contents), **mapped(kwargs, contents))
        if name == "split":
            return [self._viewed(part) for part in function(*mapped(args, contents))]
        if name in _VIEWS:
            array = function(*mapped(args, contents), **mapped(kwargs, contents))
            source = args[0]
            if not array.size or np.may_share_memory(array, source._array):
                return source._viewed(array)
        kwargs = dict(kwargs)
        return self._compute(function, args, kwargs, kwargs.pop("out", None))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __getitem__(self, index: Any) -> Array:
        parts = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(part, Array) for part in parts):
            return self._viewed(self._array[index])
        if any(isinstance(part, Array) and part.dtype == bool for part in parts):
            self._drain()  # CuPy waits for the number of elements that are selected
            parts = tuple(
                type(self)._of(found)
                for part in parts
                for found in (part._array.nonzero() if isinstance(part, Array) else (part,))
            )
        return self._compute(lambda x, *i: x[i], (self, *parts), {}, None)

    def __setitem__(self, index: Any, value: Any) -> None:
        mapped((index, value), refuse_host)

        def run() -> None:
            self._array[mapped(index, contents)] = contents(value)

        self._cuda.issue("kernel", run)

    def __len__(self) -> int:
        return len(self._array)

    def __float__(self) -> float:
        self._drain()
        return float(self._array)

    def _drain(self) -> None:
        stream = self._cuda.current[-1]
        event = stream.record(Event(self._cuda))
        event.synchronize()

    def astype(self, dtype: Any, *, copy: bool = True) -> Array:
        return self._compute(np.ndarray.astype, (self, dtype), {}, None)

    def reshape(self, *shape: Any) -> Array:
        array = self._array.reshape(*shape)
        if np.shares_memory(array, self._array):
            return self._viewed(array)
        return self.copy().reshape(*shape)

    def copy(self) -> Array:
        return self._compute(np.copy, (self,), {"order": "C"}, None)

    @property
    def T(self) -> Array:  # noqa: N802  (NumPy's name)
        return self._viewed(self._array.T)

    def get(
        self, stream: Stream | None = None, *, out: Any = None, blocking: bool = True
    ) -> np.ndarray[Any, Any]:
        assert self.flags.c_contiguous, "CuPy packs it on the current stream"
        assert out is not None
        assert out.flags.c_contiguous
        assert not blocking
        self._copy_later("d2h", lambda device, host: np.copyto(host, device), out, stream)
        return out  # type: ignore[no-any-return]

    def set(self, arr: np.ndarray[Any, Any], stream: Stream | None = None) -> None:
        assert self.flags.c_contiguous, "CuPy refuses it"
        assert arr.flags.c_contiguous, "CuPy packs it into memory that nobody keeps"
        self._copy_later("h2d", np.copyto, arr, stream)

    def _copy_later(
        self, what: str, copy: Callable[[Any, Any], None], host: Any, stream: Stream | None
    ) -> None:
        """Copy as CUDA does: whoever issues it keeps the memory of both sides until it is done."""
        stream = stream or self._cuda.current[-1]
        array, device_alive, host_alive = self._array, weakref.ref(self), weakref.ref(host)
        ordered = self.data._stream is stream  # the pool reuses the memory in the stream's order

        def run() -> None:
            host = host_alive()
            assert host is not None, "host memory freed while in flight"
            assert ordered or device_alive() is not None, "device memory freed while in flight"
            copy(array, host)

        self._cuda.issue(what, run, stream)


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to the arrays among arguments."""
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, function) for item in value)
    if isinstance(value, dict):
        return {key: mapped(item, function) for key, item in value.items()}
    return function(value)


def contents(value: Any) -> Any:
    return value._array if isinstance(value, Array) else value


def stand_in(value: Any) -> Any:
    if not isinstance(value, Array):
        return value
    # As an index 0 is in range, and as a number 1 is in the domain of all functions.
    return (np.ones if value.dtype.kind in "fc" else np.zeros)(value.shape, value.dtype)


def admitted(value: Any) -> bool:
    """Return whether CuPy's ufuncs look at a value at all: ``_scalar.scalar_type_set`` or array."""
    scalar = type(value) in (int, float, bool, complex) or (
        isinstance(value, np.generic) and value.dtype.char in _DTYPES
    )
    return scalar or isinstance(value, Array | np.ndarray)


def refuse_host(value: Any) -> None:
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")


OFFERED = {
    "ndarray": Array,
    "cuda.Device": Device,
    "cuda.Event": Event,
    "cuda.MemoryPointer": Pointer,
    "cuda.MemoryPool": Pool,
    "cuda.Stream": Stream,
}
"""The classes of CuPy that are played here; what they have in public, CuPy's have too."""


def device(cuda: Cuda | None = None) -> Any:
    """Return the cupy backend on a stand-in GPU, for tests of what computes on devices."""
    import pytest

    import adamoffload as ao
    from adamoffload_cupy import CupyBackend

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CupyBackend, "_open_devices", weakref.WeakValueDictionary())
        for name, module in (cuda or Cuda(eagerness=0.9)).modules().items():
            patch.setitem(sys.modules, name, module)
        return ao.get_backend("cupy")
