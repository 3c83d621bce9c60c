"""The way between a device of PyTorch's and the host: at once, or on streams of CUDA.

On the CPU and on an Apple GPU a copy is done when it returns. On an NVIDIA GPU each direction has a
stream of its own, ordered with others by events alone; what is computed stays on the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from adamoffload.device.backend import Backend, HostArray, Ticket
from adamoffload.device.events import Events, Streams, arriving

__all__ = ["CudaLink", "HostLink"]


class HostLink:
    """Copies that are done when they return.

    Parameters
    ----------
    torch : module
        PyTorch.
    backend : Backend
        Whose link it is.
    """

    def __init__(self, torch: Any, backend: Backend) -> None:
        self._torch = torch
        self._run = backend._run

    def down(self, source: Any, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        """Copy a tensor to the host."""

        def copy() -> None:
            if is_dense(target):  # in all of PyTorch's threads, where NumPy has one
                tensor_of(self._torch, target).copy_(source)
            else:
                np.copyto(target, ndarray_of(self._torch, source.cpu(), target.dtype))

        return self._run(copy, after)

    def up(self, source: HostArray, target: Any, after: tuple[Ticket, ...]) -> Ticket:
        """Copy a host array to a tensor."""
        return self._run(lambda: target.copy_(readable(self._torch, source)), after)

    def compute(self, function: Callable[[], object], after: tuple[Ticket, ...]) -> Ticket:
        """Compute after tickets."""
        return self._run(function, after)

    def synchronize(self) -> None:
        """Wait for what an Apple GPU still computes."""
        if self._torch.backends.mps.is_available():
            self._torch.mps.synchronize()

    def empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        """Return host memory: there is nothing to pin."""
        return np.empty(size, dtype)


class _CudaEvents(Events):
    """PyTorch's events."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda

    def record(self, stream: Any, *, timed: bool = True) -> Any:
        event = self._cuda.Event(enable_timing=timed)
        event.record(stream)
        return event

    def done(self, event: Any) -> bool:
        return bool(event.query())

    def seconds(self, start: Any, stop: Any) -> float:
        return float(start.elapsed_time(stop)) / 1e3  # from milliseconds


class CudaLink:
    """Copies on two streams of an NVIDIA GPU.

    Memory in flight is kept alive until its event is done: PyTorch's allocator would give it out
    again in the order of the stream that it came from, which is not that of the copy.

    Parameters
    ----------
    torch : module
        PyTorch.
    backend : Backend
        Whose link it is.
    device : torch.device
        Which GPU.
    """

    def __init__(self, torch: Any, backend: Backend, device: Any) -> None:
        self._torch, self._cuda, self._device = torch, torch.cuda, device
        self._streams = Streams(
            _CudaEvents(self._cuda), lambda: self._cuda.Stream(device), backend.now
        )

    def down(self, source: Any, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        """Issue a copy to the host."""
        stream = self._streams.down
        with self._cuda.device(self._device):
            start = self._begin(stream, after)
            arrived, finish = arriving(target, packed=is_dense(target))
            host = tensor_of(self._torch, arrived)
            with self._cuda.stream(stream):  # so that it is packed there, too
                packed = source.contiguous()
                host.copy_(packed, non_blocking=True)
            return self._streams.end(stream, start, (source, packed, target, host), finish)

    def up(self, source: HostArray, target: Any, after: tuple[Ticket, ...]) -> Ticket:
        """Issue a copy to the device."""
        stream = self._streams.up
        if not is_dense(source):  # the host packs it, and must not before it is complete
            for ticket in after:
                ticket.wait()
        host = readable(self._torch, source)
        with self._cuda.device(self._device):
            start = self._begin(stream, after)
            with self._cuda.stream(stream):
                target.copy_(host, non_blocking=True)
            return self._streams.end(stream, start, (source, host, target))

    def compute(self, function: Callable[[], object], after: tuple[Ticket, ...]) -> Ticket:
        """Issue a computation to the caller's stream."""
        with self._cuda.device(self._device):
            return self._streams.compute(self._current(), function, after)

    def synchronize(self) -> None:
        """Wait for everything that was issued to the GPU, on any stream."""
        self._cuda.synchronize(self._device)
        self._streams.finish()

    def empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        """Return page-locked host memory."""
        bytes_ = self._torch.empty(size * dtype.itemsize, dtype=self._torch.uint8, pin_memory=True)
        pinned: HostArray = bytes_.numpy().view(dtype)
        return pinned

    def _begin(self, stream: Any, after: tuple[Ticket, ...]) -> Any:
        return self._streams.begin(stream, self._current(), after)

    def _current(self) -> Any:
        return self._cuda.current_stream(self._device)


def is_dense(host: HostArray) -> bool:
    """Return whether a host array can be a tensor as it lies."""
    return host.flags.c_contiguous and min(host.strides, default=0) >= 0


def readable(torch: Any, host: HostArray) -> Any:
    """Return a host array as a tensor to read from: a copy, where a tensor cannot be so."""
    # A tensor has neither negative strides nor a flag that says that it must not be written.
    return tensor_of(torch, host if is_dense(host) and host.flags.writeable else host.copy())


def tensor_of(torch: Any, host: HostArray) -> Any:
    """Return a host array as a tensor: the same memory."""
    if host.dtype.name == "bfloat16":
        return torch.from_numpy(host.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(host)


def ndarray_of(torch: Any, tensor: Any, dtype: np.dtype[Any]) -> HostArray:
    """Return a tensor on the CPU as a host array: the same memory."""
    found = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    array: HostArray = found.numpy().view(dtype)
    return array
