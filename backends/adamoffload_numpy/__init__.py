"""The ``numpy`` backend: a device made of separate host memory.

The simplest complete backend, and the one that the others are compared with. Arrays on it are real
copies in their own memory, limited and counted to the byte; everything runs at once, so every
ticket is done when it is returned. It knows of adamoffload only the contract.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np

from adamoffload.device.array import DeviceArray, MemoryPool, address, storage
from adamoffload.device.backend import Backend, HostArray, Memory, Ticket

__all__ = ["NumpyBackend"]


@final
class NumpyBackend(Backend):
    """A device in host memory, with real copies and a memory limit.

    Parameters
    ----------
    memory_bytes : int, optional
        Bytes that may be in use at once; no limit if left out.

    Raises
    ------
    TypeError, ValueError
        If `memory_bytes` is no whole number of at least 1.

    Examples
    --------
    >>> import numpy as np
    >>> device = NumpyBackend(memory_bytes=100)
    >>> x = device.asarray(np.zeros(20, np.float32))
    >>> x + 1
    Traceback (most recent call last):
    adamoffload.device.backend.DeviceMemoryError: device 'numpy' is out of memory: 80 bytes \
requested with 80 of 100 in use; free arrays, use smaller batches or chunks, or create the device \
with a larger memory_bytes
    """

    name = "numpy"

    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__()
        self._pool = MemoryPool(self.name, memory_bytes)

    def owns(self, array: object) -> bool:
        """Return whether `array` lives in this device's memory."""
        return isinstance(array, DeviceArray) and array.device is self

    def memory(self) -> Memory:
        """Return the bytes used, at peak, and allowed."""
        return self._pool.memory()

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        return DeviceArray(np.empty(shape, dtype), self, self._pool)

    def _address(self, array: DeviceArray) -> int:
        return address(array)

    def _d2h(self, source: DeviceArray, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: np.copyto(target, storage(source)), after)

    def _h2d(self, source: HostArray, target: DeviceArray, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: np.copyto(storage(target), source), after)
