"""PyTorch's CUDA in host memory: what is issued is done as late, or in as odd an order, as may be.

The streams and events are those of `fake_cupy`. Tensors on the device are of the class `Late`: what
PyTorch is told to do with them, down to a ``copy_``, goes into the queue of the current stream. A
result has its shape at once, and poison until the stream gets there; a write happens when it gets
there. Views cost nothing. A copy on a stream other than the one that memory came from asserts, when
it is made, that whoever issued it has kept both tensors alive.
"""

from __future__ import annotations

import threading
import types
import weakref
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from adamoffload_torch.backend import TorchBackend
from adamoffload_torch.functions import FUNCTIONS
from adamoffload_torch.link import CudaLink
from adamoffload_torch.types import torch_type

from fake_cupy import Cuda, Event, Stream, elapsed_ms

_ABOUT = frozenset(
    "__get__ stride is_contiguous size dim numel nelement data_ptr untyped_storage element_size "
    "is_floating_point is_complex __len__ __repr__".split()
)
_WRITES = frozenset("copy_ fill_ index_put_ __setitem__ zero_".split())
_COUNTED = frozenset("nonzero repeat_interleave".split())
"""What the host must wait for, since the shape of the result depends on values."""


class Late(torch.Tensor):  # type: ignore[misc]  # PyTorch is not seen by type checkers
    """A tensor on the device."""

    cuda: Cuda

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.__name__
        with torch._C.DisableTorchFunctionSubclass():
            if name in _ABOUT:
                return func(*args, **kwargs)
            if name in _WRITES or kwargs.get("out") is not None:
                return cls._write(func, name, args, kwargs)
            if name in _COUNTED or _selects_by_mask(name, args):
                cls._drain()
                return _mapped(func(*_mapped(args, _plain), **_mapped(kwargs, _plain)), cls._late)
            return cls._compute(func, args, kwargs)

    @classmethod
    def _write(cls, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        stream = cls.cuda.current[-1]
        beside = stream is not cls.cuda.null
        watched = [weakref.ref(x) for x in args if isinstance(x, torch.Tensor)] if beside else []
        given, named = _mapped(args, _plain), _mapped(kwargs, _plain)

        def run() -> None:
            for alive in watched:
                assert alive() is not None, "memory freed while in flight"
            func(*given, **named)

        cls.cuda.issue("copy" if beside else "kernel", run)
        return kwargs.get("out") if kwargs.get("out") is not None else args[0]

    @classmethod
    def _compute(cls, func: Any, args: Any, kwargs: Any) -> Any:
        given, named = _mapped(args, _plain), _mapped(kwargs, _plain)
        likely = func(*_mapped(given, _stand_in), **_mapped(named, _stand_in))
        made = func(*given, **named) if _is_view(func, given, named) else None
        if made is not None:
            return _mapped(made, cls._late)
        results = _mapped(likely, cls.poisoned_like)
        plain = _mapped(results, _plain)

        def run() -> None:
            _write_all(plain, func(*given, **named))

        cls.cuda.issue("kernel", run)
        return results

    @classmethod
    def _late(cls, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and not isinstance(value, cls):
            return value.as_subclass(cls)
        return value

    @classmethod
    def poisoned_like(cls, value: Any) -> Any:
        """Return a new tensor on the device, of the shape and type of one."""
        if not isinstance(value, torch.Tensor):
            return value
        poison = torch.nan if value.is_floating_point() or value.is_complex() else 1
        return torch.empty_like(value).fill_(poison).as_subclass(cls)

    @classmethod
    def _drain(cls) -> None:
        stream = cls.cuda.current[-1]
        stream.record(Event(cls.cuda)).synchronize()


def _is_view(func: Any, args: Any, kwargs: Any) -> bool:
    """Return whether a function returns a part of what it was given; it is called for that."""
    sources: set[int] = set()
    _mapped([args, kwargs], lambda x: sources.add(_storage(x)))
    found: list[int] = []
    _mapped(func(*args, **kwargs), lambda x: found.append(_storage(x)))
    return bool(found) and all(pointer and pointer in sources for pointer in found)


def _storage(value: Any) -> int:
    return value.untyped_storage().data_ptr() if isinstance(value, torch.Tensor) else 0


def _selects_by_mask(name: str, args: Any) -> bool:
    found: list[bool] = []
    if name == "__getitem__":
        _mapped(args[1], lambda x: found.append(getattr(x, "dtype", None) == torch.bool))
    return any(found) or (name == "where" and len(args) == 1)


def _mapped(value: Any, function: Any) -> Any:
    if isinstance(value, list | tuple):
        items = [_mapped(item, function) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {key: _mapped(item, function) for key, item in value.items()}
    return function(value)


def _plain(value: Any) -> Any:
    return value.as_subclass(torch.Tensor) if isinstance(value, Late) else value


def _stand_in(value: Any) -> Any:
    # As an index 0 is in range, and as a number 1 is in the domain of all functions.
    if not isinstance(value, torch.Tensor):
        return value
    inexact = value.is_floating_point() or value.is_complex()
    return torch.ones_like(value) if inexact else torch.zeros_like(value)


def _write_all(targets: Any, sources: Any) -> None:
    if isinstance(targets, torch.Tensor):
        targets.copy_(sources)
    elif isinstance(targets, list | tuple):
        for target, source in zip(targets, sources, strict=True):
            _write_all(target, source)


class CurrentStreams(threading.local):
    """The streams that a thread has made its current ones, the last on top: as CUDA, for each."""

    def __init__(self, null: Stream) -> None:
        self._streams = [null]

    def __getitem__(self, place: int) -> Stream:
        return self._streams[place]

    def append(self, stream: Stream) -> None:
        self._streams.append(stream)

    def pop(self) -> Stream:
        return self._streams.pop()


class TorchEvent(Event):
    """``torch.cuda.Event``."""

    def query(self) -> bool:
        return self.done

    def elapsed_time(self, stop: Event) -> float:
        return elapsed_ms(self, stop)


def device(cuda: Cuda, memory_bytes: int | None = None) -> Any:
    """Return the torch backend on a stand-in GPU."""
    cuda.current = CurrentStreams(cuda.null)  # type: ignore[assignment]
    late: type[Late] = type("Late", (Late,), {"cuda": cuda})

    def synchronize(_: Any) -> None:
        for stream in cuda.streams:
            cuda.finish(lambda stream=stream: not stream._queue, stream)  # type: ignore[misc]

    def empty(size: int, *, dtype: Any, pin_memory: bool) -> Any:
        assert pin_memory
        return torch.full((size,), 255, dtype=dtype)

    fake = types.SimpleNamespace(
        bfloat16=torch.bfloat16,
        empty=empty,
        from_numpy=torch.from_numpy,
        uint8=torch.uint8,
        cuda=types.SimpleNamespace(
            Event=lambda enable_timing: TorchEvent(cuda, disable_timing=not enable_timing),
            Stream=lambda _: Stream(cuda),
            current_stream=lambda _: cuda.current[-1],
            device=lambda _: nullcontext(),
            stream=lambda stream: stream,
            synchronize=synchronize,
        ),
    )

    def new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return late.poisoned_like(torch.empty(shape, dtype=torch_type(dtype)))

    made: Any = TorchBackend("cpu", memory_bytes)
    made._link = CudaLink(fake, made, made.device)
    made.functions = FUNCTIONS
    made._new = new
    return made
