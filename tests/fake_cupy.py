"""A CuPy in NumPy memory, which runs what is issued as late, or in as odd an order, as CUDA may.

Each stream is a queue. What is issued to it is done some time later: how much is done at each call
is drawn from a seeded generator, and waiting for an event does, beyond that, only what the event
needs. Memory is poisoned when it is allocated. So a missing order between streams gives wrong
numbers for some seed. Only what the backend and the optimizers use is there.
"""

from __future__ import annotations

import random
import threading
import types
import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

ROUNDING = 512


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
        self.allocator: Callable[[int], Pointer] = Pool(self).malloc

    def blocked(self) -> int:
        """Return how often the host was made to wait."""
        return sum(what == "synchronize" for _, what in self.log)

    def on(self, what: str) -> set[str]:
        """Return the streams on which something was done."""
        return {stream for stream, done in self.log if done == what}

    def issue(self, what: str, run: Callable[[], object], stream: Stream | None = None) -> None:
        stream = stream or self.current[-1]
        self.log.append((stream.name, what))
        stream.queue.append(run)
        while self.random.random() < self.eagerness:
            ready = [s for s in self.streams if s.ready()]
            if not ready:
                break
            self.random.choice(ready).advance()

    def finish(self, done: Callable[[], bool], stream: Stream) -> None:
        """Do what is needed for `done`, and no more."""
        while not done():
            assert stream.queue, "waiting for what was never issued"
            head = stream.queue[0]
            if isinstance(head, Event):
                self.finish(lambda event=head: event.tick is not None, head.stream)  # type: ignore[misc]
            stream.advance()

    def modules(self) -> dict[str, types.ModuleType]:
        """Return what to put into `sys.modules`."""
        array = type("ndarray", (Array,), {"cuda": self})
        cuda = types.SimpleNamespace(
            Device=lambda number: Device(self),
            Event=lambda **options: Event(self, **options),
            MemoryPool=lambda: Pool(self),
            Stream=lambda non_blocking=False: Stream(self),
            get_current_stream=lambda: self.current[-1],
            get_elapsed_time=elapsed_ms,
            memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=types.SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                getDevice=lambda: 0,
                getDeviceCount=lambda: 1,
                memGetInfo=lambda: (1 << 20, 1 << 30),
            ),
            set_allocator=lambda allocator: setattr(self, "allocator", allocator),
        )
        cupy, cupyx = types.ModuleType("cupy"), types.ModuleType("cupyx")
        vars(cupy).update(
            __version__="13.6.0",
            ndarray=array,
            cuda=cuda,
            empty=array.empty,  # type: ignore[attr-defined]
            ascontiguousarray=lambda x: x if x.flags.c_contiguous else x.copy(),
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
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...

    def synchronize(self) -> None:
        self.cuda.log.append(("device", "synchronize"))
        for stream in self.cuda.streams:
            self.cuda.finish(lambda stream=stream: not stream.queue, stream)  # type: ignore[misc]


class Stream:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.name = f"stream {len(cuda.streams)}"
        self.queue: deque[Any] = deque()
        cuda.streams.append(self)

    def ready(self) -> bool:
        head = self.queue[0] if self.queue else None
        return head is not None and not (isinstance(head, Event) and head.tick is None)

    def advance(self) -> None:
        head = self.queue.popleft()
        self.cuda.ticks += 1
        if not isinstance(head, Event):
            with np.errstate(all="ignore"):
                head()

    def record(self, event: Event) -> Event:
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        assert event.stream is not None, "waiting for an event that was not recorded"
        self.cuda.log.append((self.name, "wait"))
        self.queue.append(event)

    def __enter__(self) -> Stream:
        self.cuda.current.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        assert self.cuda.current.pop() is self


class Event:
    def __init__(self, cuda: Cuda, disable_timing: bool = False) -> None:
        self.cuda = cuda
        self.timed = not disable_timing
        self.stream: Any = None
        self.tick: int | None = None

    def record(self, stream: Stream) -> None:
        self.stream = stream
        self.cuda.issue("record", lambda: setattr(self, "tick", self.cuda.ticks), stream)

    @property
    def done(self) -> bool:
        return self.tick is not None

    def synchronize(self) -> None:
        self.cuda.log.append(("event", "synchronize"))
        self.cuda.finish(lambda: self.done, self.stream)


def elapsed_ms(start: Event, stop: Event) -> float:
    assert start.timed
    assert stop.timed
    assert start.tick is not None
    assert stop.tick is not None
    return float(np.float32(stop.tick - start.tick))


class Pool:
    """Keeps what is freed for allocations of the same size, as CuPy's does at worst."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.used = 0
        self.limit = 0
        self.kept: Counter[int] = Counter()
        self.lock = threading.RLock()

    def malloc(self, nbytes: int) -> Pointer:
        size = -(-nbytes // ROUNDING) * ROUNDING
        with self.lock:
            if self.kept[size]:
                self.kept[size] -= 1
            elif self.limit and self.total_bytes() + size > self.limit:
                raise OutOfMemoryError
            self.used += size
            pointer = Pointer(self.cuda.next_address, self.cuda.current[-1])
            self.cuda.next_address += size
        weakref.finalize(pointer, self.free, size)
        return pointer

    def free(self, size: int) -> None:
        with self.lock:
            self.used -= size
            self.kept[size] += 1

    def free_all_blocks(self) -> None:
        with self.lock:
            self.kept.clear()

    def used_bytes(self) -> int:
        return self.used

    def total_bytes(self) -> int:
        with self.lock:
            return self.used + sum(size * count for size, count in self.kept.items())

    def get_limit(self) -> int:
        return self.limit

    def set_limit(self, size: int) -> None:
        self.limit = size


class Pointer:
    def __init__(self, ptr: int, stream: Stream, base: Pointer | None = None) -> None:
        self.ptr = ptr
        self.stream = stream  # in whose order the pool gives the memory out again
        self.base = base  # a view keeps the allocation alive
        self.device_id = 0


class Array(NDArrayOperatorsMixin):
    """`cupy.ndarray`: metadata at once, contents when the stream gets there."""

    cuda: Cuda

    def __init__(self, array: np.ndarray[Any, Any], data: Pointer) -> None:
        self.array = array
        self.data = data
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.size, self.nbytes, self.flags = array.size, array.nbytes, array.flags
        self.strides = array.strides

    @classmethod
    def empty(cls, shape: Any, dtype: Any = np.float64) -> Array:
        array = poisoned(shape, np.dtype(dtype))
        return cls(array, cls.cuda.allocator(array.nbytes))

    def view(self, array: np.ndarray[Any, Any]) -> Array:
        offset = array.__array_interface__["data"][0] - self.array.__array_interface__["data"][0]
        return type(self)(array, Pointer(self.data.ptr + offset, self.data.stream, self.data))

    def compute(self, function: Any, args: Any, kwargs: Any, out: Array | None) -> Array:
        with np.errstate(all="ignore"):
            like = np.asarray(function(*mapped(args, stand_in), **mapped(kwargs, stand_in)))
        out = self.empty(like.shape, like.dtype) if out is None else out

        def run() -> None:
            out.array[...] = function(*mapped(args, contents), **mapped(kwargs, contents))

        self.cuda.issue("kernel", run)
        return out

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        (out,) = kwargs.pop("out", (None,))
        mapped((inputs, out), refuse_host)
        if method == "at":
            self.cuda.issue("kernel", lambda: ufunc.at(*mapped(inputs, contents)))
            return None
        assert method == "__call__"
        return self.compute(ufunc, inputs, kwargs, out)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        mapped(args, refuse_host)
        if function is np.copyto:
            args[0][...] = args[1]
            return None
        if function is np.may_share_memory:
            return np.may_share_memory(*mapped(args, contents))
        kwargs = dict(kwargs)
        return self.compute(function, args, kwargs, kwargs.pop("out", None))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __getitem__(self, index: Any) -> Array:
        parts = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(part, Array) for part in parts):
            return self.view(self.array[index])
        if any(isinstance(part, Array) and part.dtype == bool for part in parts):
            stream = self.cuda.current[-1]  # CuPy waits to learn how many there are
            self.cuda.finish(lambda: not stream.queue, stream)
            bare = mapped(index, contents)
            return self.compute(
                lambda a: a[bare], (self,), {}, self.empty(self.array[bare].shape, self.dtype)
            )
        return self.compute(lambda a, i: a[i], (self, index), {}, None)

    def __setitem__(self, index: Any, value: Any) -> None:
        mapped((index, value), refuse_host)

        def run() -> None:
            self.array[mapped(index, contents)] = contents(value)

        self.cuda.issue("kernel", run)

    def astype(self, dtype: Any) -> Array:
        return self.compute(np.ndarray.astype, (self, dtype), {}, None)

    def reshape(self, *shape: Any) -> Array:
        array = self.array.reshape(*shape)
        if np.shares_memory(array, self.array):
            return self.view(array)
        return self.copy().reshape(*shape)

    def copy(self) -> Array:
        return self.compute(np.copy, (self,), {"order": "C"}, None)

    @property
    def T(self) -> Array:  # noqa: N802  (NumPy's name)
        return self.view(self.array.T)

    def get(
        self, stream: Stream | None = None, out: Any = None, blocking: bool = True
    ) -> np.ndarray[Any, Any]:
        assert self.flags.c_contiguous, "CuPy packs it on the current stream"
        assert out is not None
        assert out.flags.c_contiguous
        assert not blocking
        self.copy_later("d2h", lambda device, host: np.copyto(host, device), out, stream)
        return out  # type: ignore[no-any-return]

    def set(self, host: np.ndarray[Any, Any], stream: Stream | None = None) -> None:
        assert self.flags.c_contiguous, "CuPy refuses it"
        assert host.flags.c_contiguous, "CuPy packs it into memory that nobody keeps"
        self.copy_later("h2d", np.copyto, host, stream)

    def copy_later(
        self, what: str, copy: Callable[[Any, Any], None], host: Any, stream: Stream | None
    ) -> None:
        """Copy as CUDA does: whoever issues it keeps the memory of both sides until it is done."""
        stream = stream or self.cuda.current[-1]
        array, device_alive, host_alive = self.array, weakref.ref(self), weakref.ref(host)
        ordered = self.data.stream is stream  # the pool reuses the memory in the stream's order

        def run() -> None:
            host = host_alive()
            assert host is not None, "host memory freed while in flight"
            assert ordered or device_alive() is not None, "device memory freed while in flight"
            copy(array, host)

        self.cuda.issue(what, run, stream)


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to the arrays among arguments."""
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, function) for item in value)
    if isinstance(value, dict):
        return {key: mapped(item, function) for key, item in value.items()}
    return function(value)


def refuse_host(value: Any) -> None:
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")


def contents(value: Any) -> Any:
    return value.array if isinstance(value, Array) else value


def stand_in(value: Any) -> Any:
    return np.ones(value.shape, value.dtype) if isinstance(value, Array) else value
