"""The ledger: every hop of every step, what crossed the link, and when.

A hop is one stage that a chunk of the arena goes through in a step::

    prepare   device   decay and unscale the gradient into a staging slot
    d2h       link     the gradient goes down, device to host
    wait      host     the host waits for a ticket
    update    host     Adam: gradient in, update out, moments advanced
    h2d       link     the update goes up, host to device
    apply     device   the update is added to the parameters

Times are seconds on the clock of the backend that the hop ran on (`Backend.now`). The module knows
nothing of devices: whatever has a start and a stop can be recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["HOPS", "NO_LEDGER", "Event", "Hop", "Ledger", "NullLedger", "Record", "ignore"]

Hop = Literal["prepare", "d2h", "wait", "update", "h2d", "apply"]

HOPS: tuple[Hop, ...] = ("prepare", "d2h", "wait", "update", "h2d", "apply")
"""The hops in the order in which a chunk meets them."""


class Timed(Protocol):
    """What a recorded hop must know: when it began and when it ended, in seconds."""

    @property
    def start_s(self) -> float: ...

    @property
    def stop_s(self) -> float: ...


Record = Callable[[Hop, int, int, Timed], None]
"""Takes hop, elements, bytes over the link, and ticket; `Ledger.at` makes one."""


def ignore(hop: Hop, elements: int, nbytes: int, ticket: Timed) -> None:
    """Record nothing."""


@dataclass(frozen=True, slots=True)
class Event:
    """One hop of one chunk.

    Attributes
    ----------
    hop : str
        One of `HOPS`.
    step : int or None
        The optimizer step, counted from 1; None for a copy outside a step.
    chunk : int or None
        The chunk's index in the plan, counted from 0; None for a copy outside a step.
    elements : int
        Parameters that the hop handled.
    nbytes : int
        Bytes that crossed the link: 0 unless the hop is ``d2h`` or ``h2d``.
    start_s, stop_s : float
        Begin and end in seconds on the backend's clock.
    """

    hop: Hop
    step: int | None
    chunk: int | None
    elements: int
    nbytes: int
    start_s: float
    stop_s: float

    @property
    def seconds(self) -> float:
        """How long the hop took."""
        return self.stop_s - self.start_s


class Ledger:
    """Collects the events of one or more optimizers.

    Pass it to ``AdamOffload(..., ledger=ledger)``. Recording one hop is one append; the events'
    times are read from their tickets when asked for.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.ones(1000, np.float32)), name="w")
    >>> ledger = ao.Ledger()
    >>> opt = ao.AdamOffload([w], ledger=ledger)
    >>> opt((device.asarray(np.ones(1000, np.float32)),))
    (True,)
    >>> ledger.bytes("d2h"), ledger.bytes("h2d"), ledger.bytes()
    (4000, 4000, 8000)
    >>> [event.hop for event in ledger.events if event.hop != "wait"]
    ['prepare', 'd2h', 'update', 'h2d', 'apply']
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Hop, int | None, int | None, int, int, Timed]] = []

    def at(self, step: int | None = None, chunk: int | None = None) -> Record:
        """Return a function that records hops of this step and chunk."""
        entries = self._entries  # list.append is atomic: threads may share a ledger

        def record(hop: Hop, elements: int, nbytes: int, ticket: Timed) -> None:
            entries.append((hop, step, chunk, elements, nbytes, ticket))

        return record

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything recorded so far, in the order in which it was issued.

        Hops still in flight are waited for, since only then their times are known.
        """
        return tuple(
            Event(hop, step, chunk, elements, nbytes, ticket.start_s, ticket.stop_s)
            for hop, step, chunk, elements, nbytes, ticket in tuple(self._entries)
        )

    def bytes(self, hop: Hop | None = None, *, step: int | None = None) -> int:
        """Return the bytes that crossed the link: in all, by direction, or in one step."""
        return sum(entry[4] for entry in self._select(hop, step))

    def seconds(self, hop: Hop | None = None, *, step: int | None = None) -> float:
        """Return the summed duration of the hops, which may have overlapped each other."""
        return sum(entry[5].stop_s - entry[5].start_s for entry in self._select(hop, step))

    def clear(self) -> None:
        """Forget everything recorded."""
        self._entries.clear()

    def _select(
        self, hop: Hop | None, step: int | None
    ) -> list[tuple[Hop, int | None, int | None, int, int, Timed]]:
        if hop is not None and hop not in HOPS:
            raise ValueError(f"Ledger: hop must be one of {', '.join(HOPS)}, got {hop!r}")
        return [
            entry
            for entry in tuple(self._entries)
            if hop in (None, entry[0]) and step in (None, entry[1])
        ]

    def __len__(self) -> int:
        return len(self._entries)

    def __bool__(self) -> bool:
        return True  # an empty ledger is still one

    def __repr__(self) -> str:
        return (
            f"Ledger({len(self)} hops, {self.bytes('d2h'):,} bytes d2h, "
            f"{self.bytes('h2d'):,} bytes h2d)"
        )


class NullLedger(Ledger):
    """A ledger that records nothing: what an optimizer has when none was given."""

    def at(self, step: int | None = None, chunk: int | None = None) -> Record:  # noqa: ARG002
        """Return a function that does nothing."""
        return ignore


NO_LEDGER = NullLedger()
"""The one `NullLedger` that everything without a ledger shares."""
