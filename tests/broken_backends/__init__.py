"""Right backends, each with one mistake that an author could make, for the contract to find.

Each is noted with the sentence of the contract that it breaks, and the test that must say so.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from adamoffload.device import backend
from adamoffload.device.array import DeviceArray, MemoryPool, address, storage
from adamoffload.device.backend import (
    Array,
    Backend,
    DeviceMemoryError,
    HostArray,
    Memory,
    ResidencyError,
    Ticket,
)
from adamoffload.testing.promises import poisoned

from lazy_backend import DONE, Later, LazyArray, LazyBackend

__all__ = ["BROKEN", "DONE", "Broken", "LazyHooks", "PlainBackend", "PlainHooks", "broken"]

Kind = TypeVar("Kind", bound=type[Backend])


@dataclass(frozen=True)
class Broken:
    """A broken backend.

    Attributes
    ----------
    backend : type of Backend
        Made with ``memory_bytes``, as `NewDevice` asks.
    sentence : str
        What the contract says.
    test : str
        The contract's test that fails, without ``test_``.
    mistake : str
        What is wrong, in words.
    message : str
        Part of what the test says.
    """

    backend: type[Any]
    sentence: str
    test: str
    mistake: str
    message: str


BROKEN: list[Broken] = []


def broken(sentence: str, test: str, mistake: str, message: str) -> Callable[[Kind], Kind]:
    """Note a backend's mistake; a part of the sentence that no other has is enough."""

    def note(kind: Kind) -> Kind:
        BROKEN.append(Broken(kind, spelled_out(sentence), test, mistake, message))
        return kind

    return note


def sentences() -> list[str]:
    """Return what the contract says of a plug-in, from the docstrings that say it."""
    said = [backend.__doc__ or ""]
    said += [
        inspect.getdoc(thing) or ""
        for thing in (
            ResidencyError,
            DeviceMemoryError,
            Ticket.wait,
            Ticket.start_s,
            Ticket.stop_s,
            Ticket.seconds,
            Backend.owns,
            Backend.memory,
            Backend._empty,
            Backend._address,
            Backend._d2h,
            Backend._h2d,
            Backend.unavailable,
            Backend.now,
            Backend.synchronize,
            Backend._empty_pinned,
            Backend.run_on_device,
            Backend.run_on_host,
            Backend.traffic,
        )
    ]
    said[0] = said[0].partition("\n\n")[2].partition("What a plug-in implements")[0] + "".join(
        said[0].partition("Ordering is explicit. ")[2].partition("`adamoffload.testing")[0]
    )
    prose = [textwrap.dedent(text).partition("\nParameters\n")[0] for text in said]
    found = [re.split(r"(?<=\.)\s+(?=[A-Z`])", " ".join(text.split())) for text in prose]
    return [sentence for text in found for sentence in text if sentence]


def spelled_out(part: str) -> str:
    """Return the one sentence of the contract that has this part."""
    (whole,) = [sentence for sentence in sentences() if part in sentence]
    return whole


class PlainBackend(Backend):
    """What many broken ones are made from: right, and done when its calls return."""

    name = "plain"

    def __init__(self, memory_bytes: int | None = None) -> None:
        self.pool = MemoryPool(self.name, memory_bytes)
        super().__init__()

    def owns(self, array: object) -> bool:
        return isinstance(array, DeviceArray) and array.device is self

    def memory(self) -> Memory:
        return self.pool.memory()

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return DeviceArray(poisoned(shape, dtype), self, self.pool)

    def _address(self, array: Array) -> int:
        return address(array)

    def _d2h(self, source: Array, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: np.copyto(target, storage(source)), after)

    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: np.copyto(storage(target), source), after)


class PlainHooks(PlainBackend):
    """A plain backend that copies by `down` and `up`, between arrays of NumPy."""

    def down(self, source: HostArray, target: HostArray) -> None:
        self.move(source, target)

    def up(self, source: HostArray, target: HostArray) -> None:
        self.move(source, target)

    def move(self, source: HostArray, target: HostArray) -> None:
        np.copyto(target, source)

    def _d2h(self, source: Array, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: self.down(storage(source), target), after)

    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: self.up(source, storage(target)), after)


class LazyHooks(LazyBackend):
    """A lazy backend whose four kinds of work start after what `waits` returns."""

    def waits(
        self, kind: str, after: tuple[Ticket, ...], source: Any = None, target: Any = None
    ) -> tuple[Ticket, ...]:
        return after

    def _d2h(self, source: LazyArray, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return super()._d2h(source, target, self.waits("d2h", after, source, target))

    def _h2d(self, source: HostArray, target: LazyArray, after: tuple[Ticket, ...]) -> Ticket:
        return super()._h2d(source, target, self.waits("h2d", after, source, target))

    def run_on_device(
        self, function: Callable[[], object], *, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        return super().run_on_device(function, after=self.waits("run_on_device", after))

    def run_on_host(
        self, function: Callable[[], object], *, elements: int, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        after = self.waits("run_on_host", after)
        return super().run_on_host(function, elements=elements, after=after)


def ours(device: Backend, ticket: Ticket) -> bool:
    """Return whether a ticket is the device's own, or of none."""
    return ticket is DONE or (isinstance(ticket, Later) and ticket.device is device)


from broken_backends import copies, memory, operations, order, residency, tickets  # noqa: E402, F401
