"""`LazyBackend`: the most asynchronous device that the contract allows, without a thread.

Nothing happens before it must: work and copies run when their ticket is waited for, when something
that is waited for depends on them, or when the device is used directly. Whoever forgets a ticket
sees what the target held before, every time, where hardware would show it once in a while. What
fails says so to nobody but those who wait for its ticket, or for one that came ``after`` it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from adamoffload.device.array import DeviceArray, MemoryPool, address, storage
from adamoffload.device.backend import Backend, Done, HostArray, Memory, ResidencyError, Ticket
from adamoffload.testing.promises import poisoned

DONE = Done(0.0, 0.0)


class Later(Ticket):
    """Something that runs when it is waited for, after the tickets it depends on."""

    def __init__(
        self,
        device: LazyBackend,
        action: Callable[[], object],
        after: tuple[Ticket, ...],
        behind: Ticket = DONE,
    ) -> None:
        self.device, self.action, self.after, self.behind = device, action, after, behind
        self.times: tuple[float, float] | None = None
        self.error: BaseException | None = None

    def wait(self) -> None:
        with self.device.lock:
            self.finish()
            if self.error is not None:
                raise self.error

    def finish(self) -> None:
        """Run it, if it has not; what it raises is for those who wait."""
        with self.device.lock:
            if self.times is not None:
                return
            if isinstance(self.behind, Later):
                self.behind.finish()
            start_s, self.times = 0.0, (0.0, 0.0)  # an interrupt must not make it run a second time
            try:
                for ticket in self.after:
                    ticket.wait()
                start_s = self.device.now()
                self.action()
            except BaseException as error:
                self.error = error
            self.times = start_s, self.device.now()
            self.action, self.after, self.behind = _nothing, (), DONE  # keeps no array alive

    @property
    def start_s(self) -> float:
        self.wait()
        assert self.times
        return self.times[0]

    @property
    def stop_s(self) -> float:
        self.wait()
        assert self.times
        return self.times[1]


def _nothing() -> None:
    """Do nothing."""


class LazyArray(NDArrayOperatorsMixin):
    """A device array whose device finishes its queue before the array is computed with."""

    def __init__(self, data: DeviceArray, device: LazyBackend) -> None:
        self.data, self.device = data, device

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return self.device.compute(getattr(ufunc, method), inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self.device.compute(function, args, kwargs)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise ResidencyError("call device.asnumpy(x)")

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, LazyArray) for part in parts):
            return self.device.compute(self.data.__getitem__, (index,), {})
        return LazyArray(self.data[index], self.device)  # a view, which reads nothing

    def __setitem__(self, index: Any, value: Any) -> None:
        self.device.compute(self.data.__setitem__, (index, value), {})

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.data, name)
        if isinstance(found, DeviceArray):
            return LazyArray(found, self.device)
        if callable(found):
            return lambda *args, **kwargs: self.device.compute(found, args, kwargs)
        return found


class LazyBackend(Backend):
    """A device in host memory that puts everything off; work on it runs in order."""

    name = "lazy"

    def __init__(self, memory_bytes: int | None = None) -> None:
        self.lock = threading.RLock()
        self.queued: Ticket = DONE  # the last work issued; each runs behind the one before
        self.working = False  # whether the queue is running, and what is computed belongs to it
        self.in_flight: list[Later] = []
        self.pool = MemoryPool(self.name, memory_bytes)
        super().__init__()

    def owns(self, array: object) -> bool:
        return isinstance(array, LazyArray) and getattr(array, "device", None) is self

    def memory(self) -> Memory:
        return self.pool.memory()

    def synchronize(self) -> None:
        for ticket in self.in_flight.copy():
            ticket.finish()

    def run_on_device(
        self, function: Callable[[], object], *, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        with self.lock:
            self.queued = self.later(lambda: self.work(function), after, self.queued)
            return self.queued

    def work(self, function: Callable[[], object]) -> None:
        self.working = True
        try:
            function()
        finally:
            self.working = False

    def compute(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Compute now, with arrays of this device among the arguments."""
        with self.lock:
            if not self.working and isinstance(self.queued, Later):
                self.queued.finish()
            return _wrapped(function(*_bare(args), **_bare(kwargs)), self)

    def later(
        self, action: Callable[[], object], after: tuple[Ticket, ...], behind: Ticket = DONE
    ) -> Later:
        with self.lock:
            ticket = Later(self, action, after, behind)
            self.in_flight = [t for t in self.in_flight if t.times is None] + [ticket]
            return ticket

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> LazyArray:
        return LazyArray(DeviceArray(poisoned(shape, dtype), self, self.pool), self)

    def _address(self, array: LazyArray) -> int:
        return address(array.data)

    def _d2h(self, source: LazyArray, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return self.later(lambda: np.copyto(target, storage(source.data)), after)

    def _h2d(self, source: HostArray, target: LazyArray, after: tuple[Ticket, ...]) -> Ticket:
        return self.later(lambda: np.copyto(storage(target.data), source), after)

    def _read(self, source: Any, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return self.later(lambda: source.read(target), after)

    def _write(self, source: HostArray, target: Any, after: tuple[Ticket, ...]) -> Ticket:
        return self.later(lambda: target.write(source), after)


def _bare(value: Any) -> Any:
    """Return `value` with the arrays inside lazy arrays in their place."""
    if isinstance(value, LazyArray):
        return value.data
    if isinstance(value, list | tuple):
        return type(value)(_bare(item) for item in value)
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    return value


def _wrapped(value: Any, device: LazyBackend) -> Any:
    """Return `value`, or a lazy array if it is an array."""
    return LazyArray(value, device) if isinstance(value, DeviceArray) else value
