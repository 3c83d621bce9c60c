"""Copies in flight: who may rely on their data, and NaN for everyone else.

A copy's target holds NaN from the moment the copy is issued. The data arrives

- for the host when it waits for the copy's ticket, or for one that came ``after`` it;
- for the device's queue with the first work that is ordered ``after`` the copy, and for all work
  behind that, since the queue runs in order.

That is *happens-before*, not time: what would be right only because a copy happened to be fast
enough is wrong here too. Where two operations meet in one place and neither is ordered after the
other, the copies among them are torn: their target stays NaN.

=====================================  ===========================
done without waiting                   what comes of it
=====================================  ===========================
target read                            it is NaN
target or source written, by a copy    the copy is torn
target or source written, on device    the copy is torn
source not computed yet                the copy is torn
target still used by the device        the copy is torn
source written by the host             `Flights.settle` raises
=====================================  ===========================

It knows nothing of time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from adamoffload.device.array import DeviceArray, span
from adamoffload.device.backend import HostArray, Stored

__all__ = ["Flight", "Flights", "meet"]

Span = tuple[int, int]

_NOTHING = np.empty(0)

_SAMPLE = 8192  # words of a large host array that are looked at
_EXPLAINED = 100  # torn copies of which it is known why
_REMEMBERED = 1 << 16  # device operations the host has not waited for; races with older are missed


class Flight:
    """One copy, from its issue until the host knows that it is done."""

    __slots__ = (
        *("_data", "_seal", "device_span", "host_span"),
        *("name", "source", "target", "upward", "why"),
    )

    _seal: tuple[int, bytes] | None
    name: str
    """``"d2h number 3"``: the third copy of the device, which goes down."""
    why: str
    """What has torn it, if it is torn."""

    kinds = ("d2h", "h2d")

    def __init__(self, memory: HostArray, where: Span, host: HostArray, *, upward: bool) -> None:
        self.upward = upward
        self.source, self.target = (host, memory) if upward else (memory, host)
        self.device_span, self.host_span = where, byte_bounds(host)
        self.name = self.why = ""
        self._data: HostArray | None = self.source
        self._seal = None

    @property
    def torn(self) -> bool:
        """Whether its target stays NaN."""
        return bool(self.why)

    @property
    def target_span(self) -> Span:
        """Where its target is."""
        return self.device_span if self.upward else self.host_span

    def races(self, other: Flight) -> bool:
        """Return whether one of the two copies writes what the other reads or writes."""
        device = (self.upward or other.upward) and meet(self.device_span, other.device_span)
        host = not (self.upward and other.upward) and meet(self.host_span, other.host_span)
        return device or host

    def depart(self) -> None:
        """Poison the target, and seal a source that the host could write to."""
        if self.upward:
            self._seal = _checksum(self.source)
        self.target[...] = _poison(self.target.dtype)

    def reach_device(self) -> None:
        """Let the device rely on it: the target is there, and the source may be overwritten."""
        if self.upward:
            self.arrive()
        elif self._data is self.source:
            self._data = self.source.copy()

    def arrive(self) -> None:
        """Put the data into the target."""
        if self._data is not None:  # a torn target may have been written to meanwhile
            self.target[...] = _poison(self.target.dtype) if self.torn else self._data
        self._data = None

    def spoilt(self) -> bool:
        """Return, once, whether the host has written to the source."""
        seal, self._seal = self._seal, None
        return seal is not None and seal != _checksum(self.source)

    def forget(self) -> None:
        """Let go of the memory: tickets, and a ledger that holds them, outlive the copy."""
        self.source = self.target = _NOTHING


class DiskFlight(Flight):
    """A copy to or from a disk, which stands where the device does.

    The file is read and written at once: what fails, fails at the call that asked for it.
    """

    __slots__ = ("_array",)

    kinds = ("read", "write")

    def __init__(self, array: Stored, host: HostArray, *, upward: bool) -> None:
        super().__init__(_NOTHING, array.span, host, upward=upward)
        self._array = array

    def depart(self) -> None:
        """Move the data, and show it to nobody yet."""
        if self.upward:
            self._array.write(self.source)
            self._data = None
        else:
            self._data = self._array.read()
        super().depart()

    def arrive(self) -> None:
        """Put what was read into the target."""
        if self.upward and self.torn:
            self._array.write(np.full(self._array.shape, np.nan, np.float32))
        super().arrive()


class Flights:
    """All copies that the host has not waited for.

    Attributes
    ----------
    computed : int
        Operations issued to the device's queue so far.
    host_computed : int
        How many of them the host knows to be done.
    device_knows : set of Flight
        Copies that the device's queue is ordered after.
    """

    def __init__(self) -> None:
        self._open: dict[Flight, None] = {}  # in the order of issue
        self._touched: deque[tuple[int, Span, bool]] = deque(maxlen=_REMEMBERED)
        self._spoilt = False
        self._issued = 0
        self._torn: deque[tuple[Span, str]] = deque(maxlen=_EXPLAINED)
        self.device_knows: set[Flight] = set()
        self.computed = 0
        self.host_computed = 0

    def open(self, flight: Flight) -> bool:
        """Return whether the host has not waited for it yet."""
        return flight in self._open

    def issue(self, flight: Flight, known: Collection[Flight], computed: int) -> None:
        """Start a copy that is ordered after the copies `known` and the first `computed` works."""
        self._issued += 1
        flight.name = f"{flight.kinds[flight.upward]} number {self._issued}"
        for other in tuple(self._open):
            if flight.races(other):
                if (
                    other in known
                ):  # complete it: nobody else may look there before `flight` is done
                    other.arrive()
                    self._spoilt |= other.spoilt()
                else:
                    other.why = f"{flight.name} uses its memory, and is not ordered after it"
                    flight.why = f"it uses memory of {other.name}, and is not ordered after it"
        if self._in_use(flight, max(computed, self.host_computed)):
            flight.why = "the device's queue uses its array, and it is not ordered after that"
        flight.depart()
        self._open[flight] = None

    def _in_use(self, flight: Flight, computed: int) -> bool:
        for number, where, written in reversed(self._touched):
            if number <= computed:
                return False
            if (flight.upward or written) and meet(flight.device_span, where):
                return True
        return False

    def compute(self, reads: Iterable[DeviceArray], writes: Iterable[DeviceArray]) -> None:
        """Note an operation of the device's queue."""
        self.computed += 1
        for array in reads:
            self._touched.append((self.computed, span(array), False))
        for array in writes:
            where = span(array)
            self._touched.append((self.computed, where, True))
            for flight in tuple(self._open):  # a signal handler may issue one in between
                if flight not in self.device_knows and meet(flight.device_span, where):
                    flight.why = "the device writes to its array, and that is not ordered after it"

    def reach_device(self, known: Collection[Flight]) -> None:
        """Order the device's queue after the copies `known`."""
        for flight in tuple(self._open):
            if flight in known and flight not in self.device_knows:
                flight.reach_device()
                self.device_knows.add(flight)

    def settle(self, known: Collection[Flight] | None = None, computed: int | None = None) -> None:
        """Let the host know that copies and the first `computed` works are done; None for all.

        Raises
        ------
        RuntimeError
            If it wrote to the source of a copy before.
        """
        spoilt, self._spoilt = self._spoilt, False
        for flight in [f for f in self._open if known is None or f in known]:
            flight.arrive()
            spoilt |= flight.spoilt()
            if flight.torn:
                self._torn.append((flight.target_span, f"{flight.name} is torn: {flight.why}"))
            flight.forget()
            del self._open[flight]
            self.device_knows.discard(flight)
        done = self.computed if computed is None else computed
        self.host_computed = max(self.host_computed, done)
        while self._touched and self._touched[0][0] <= self.host_computed:
            self._touched.popleft()
        if spoilt:
            raise RuntimeError(
                "sim: a host array was written to while it was being copied to the device or the "
                "disk; wait for the copy's ticket first"
            )

    def explain(self, where: Span) -> str:
        """Say which copy into a place is not done, or was torn, and why; the last one, if any."""
        for flight in reversed(self._open):
            if meet(flight.target_span, where):
                if flight.torn:
                    return f"{flight.name} is torn: {flight.why}"
                return f"nobody has waited for the ticket of {flight.name}"
        told = (said for span, said in reversed(self._torn) if meet(span, where))
        return next(told, "no copy into it is under way, and none was torn")


def meet(one: Span, other: Span) -> bool:
    """Return whether two ranges of addresses have a byte in common."""
    return one[0] < other[1] and other[0] < one[1]


def _poison(dtype: np.dtype[Any]) -> Any:
    """Return NaN, or the integer farthest from zero."""
    if dtype.kind in "iu":
        return np.iinfo(dtype).min or np.iinfo(dtype).max
    return np.nan if dtype.kind in "fc" else True


def _checksum(array: HostArray) -> tuple[int, bytes]:
    """Return what changes with the bytes of an array, or of a sample if it has more than 64 KiB.

    The sample is evenly spaced, so that a write to a whole piece of the array is always seen. To
    look at every byte, twice for each copy, would make up a sixth of the simulated step.
    """
    if not array.flags.c_contiguous:
        return 0, array.tobytes()
    flat = array.reshape(-1).view(np.uint8)
    whole = flat.size // 8 * 8
    sample = flat[:whole].view(np.uint64)[:: max(1, whole // 8 // _SAMPLE)]
    return int(np.add.reduce(sample)), flat[whole:].tobytes()
