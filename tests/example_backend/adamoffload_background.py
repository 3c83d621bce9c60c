"""The ``background`` backend: host memory behind a link that copies while the host computes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from adamoffload.device.array import DeviceArray, MemoryPool, address, storage
from adamoffload.device.backend import Backend, HostArray, Memory, Ticket


class Copy(Ticket):
    """A copy that the link makes when its turn comes."""

    def __init__(self, times: Future[tuple[float, float]]) -> None:
        self._times = times

    def wait(self) -> None:
        """Block until the copy is made, and raise what it raised."""
        self._times.result()

    @property
    def start_s(self) -> float:
        """When it began; waits until it is done."""
        return self._times.result()[0]

    @property
    def stop_s(self) -> float:
        """When it ended; waits until it is done."""
        return self._times.result()[1]


class BackgroundBackend(Backend):
    """A device whose memory is the host's, and whose link is a thread."""

    name = "background"

    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__()
        self._pool = MemoryPool(self.name, memory_bytes)
        self._link = ThreadPoolExecutor(max_workers=1)

    def owns(self, array: object) -> bool:
        """Return whether `array` lives here."""
        return isinstance(array, DeviceArray) and array.device is self

    def memory(self) -> Memory:
        """Return the bytes used, at peak, and allowed."""
        return self._pool.memory()

    def synchronize(self) -> None:
        """Wait for the link: it works in order, so the last is done when all are."""
        self._link.submit(int).result()

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        return DeviceArray(np.empty(shape, dtype), self, self._pool)

    def _address(self, array: DeviceArray) -> int:
        return address(array)

    def _d2h(self, source: DeviceArray, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return Copy(self._link.submit(self._copy, storage(source), target, after))

    def _h2d(self, source: HostArray, target: DeviceArray, after: tuple[Ticket, ...]) -> Ticket:
        return Copy(self._link.submit(self._copy, source, storage(target), after))

    def _copy(
        self, source: HostArray, target: HostArray, after: tuple[Ticket, ...]
    ) -> tuple[float, float]:
        for ticket in after:
            ticket.wait()
        start_s = self.now()
        np.copyto(target, source)
        return start_s, self.now()
