"""The pipeline: every chunk's way from the gradient on the device to the parameter and back.

For each chunk of the plan::

    device   g + decay*w, unscaled, into a staging slot      prepare (nothing for a plain gradient)
    link     it comes down to pinned host memory             d2h
    host     (until it has arrived)                          wait
    host     Adam writes the update over the gradient        update
    link     the update goes up into the slot                h2d
    device   w += update                                     apply

The slots form a ring of `RING`: while chunk i is updated, chunk i+1 comes down and chunk i-1 goes
up. Only tickets order the hops, so a slot is taken again when its last ``apply`` is done. The
memory that is neither parameter, gradient nor moment is the ring, whatever the model's size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from adamoffload.device.backend import Array, Backend, Done, Ticket
from adamoffload.observe.ledger import Ledger, Parts, Record
from adamoffload.offload.integrity import Issued, Loss
from adamoffload.plan.chunks import Chunk
from adamoffload.plan.step import Step

__all__ = ["RING", "Pipeline", "Update"]

RING = 3
"""Slots: one coming down, one being updated, one going up."""

_FLOAT32 = np.dtype(np.float32)


_NOTHING_APPLIED = Issued(0, (), Done(0.0, 0.0))


Update = Callable[[Chunk, np.ndarray[Any, np.dtype[np.float32]]], None]
"""What happens to a chunk in its host slot: the gradient there becomes the update."""


class _Slot:
    """A staging buffer on either side of the link, and the last update that it held."""

    __slots__ = ("applied", "device", "host")

    def __init__(self, backend: Backend, size: int) -> None:
        self.device = backend._empty((size,), _FLOAT32)
        self.host = backend._empty_pinned(size, _FLOAT32)
        self.applied = _NOTHING_APPLIED


class _Route:
    """A chunk and the views that it meets on its way: they are the same in every step."""

    __slots__ = (
        "chunk",
        "cuts",
        "host",
        "parameters",
        "parts",
        "places",
        "slot",
        "staged",
        "targets",
    )

    def __init__(
        self, chunk: Chunk, slot: _Slot, parameters: Sequence[Array], names: Sequence[str]
    ) -> None:
        self.chunk = chunk
        self.places = tuple(piece.index for piece in chunk.pieces)
        self.slot = slot
        self.staged = slot.device[: chunk.size]
        self.host = slot.host[: chunk.size]
        self.targets = [self.staged[piece.chunk_slice] for piece in chunk.pieces]
        self.parameters = [parameters[p.index][p.parameter_slice] for p in chunk.pieces]
        self.parts: Parts = tuple((names[p.index], p.stop - p.start) for p in chunk.pieces)
        self.cuts = [  # where only a part of a gradient is in the chunk
            (i, piece.parameter_slice)
            for i, piece in enumerate(chunk.pieces)
            if piece.stop - piece.start < parameters[piece.index].size
        ]


class Pipeline:
    """Carries chunks through the hops.

    Parameters
    ----------
    backend : Backend
        The device.
    parameters : sequence of device array, shape (size,), float32
        Flattened views of the parameters, in update order; updated in place.
    names : sequence of str
        The parameters' names, for the ledger.
    plan : sequence of Chunk
        What to carry.
    unscale : float32
        What a gradient is multiplied by after weight decay; 1 for nothing.
    ledger : Ledger
        Where the hops are recorded.

    Raises
    ------
    DeviceMemoryError
        If the ring does not fit on the device.
    """

    def __init__(
        self,
        backend: Backend,
        parameters: Sequence[Array],
        names: Sequence[str],
        plan: Sequence[Chunk],
        unscale: np.float32,
        ledger: Ledger,
    ) -> None:
        self._backend = backend
        self._unscale = unscale
        self._ledger = ledger
        slot_size = max(chunk.size for chunk in plan)
        self._slots = [_Slot(backend, slot_size) for _ in range(min(RING, len(plan)))]
        self._routes = [
            _Route(chunk, self._slots[chunk.index % len(self._slots)], parameters, names)
            for chunk in plan
        ]

    @property
    def ring_bytes(self) -> int:
        """Bytes of the ring on the device; as many are pinned on the host."""
        return sum(slot.host.nbytes for slot in self._slots)

    def run(self, step: Step, update: Update) -> None:
        """Carry all chunks through one step.

        Parameters
        ----------
        step : Step
            Its gradients and weight decays.
        update : callable
            Takes a chunk and its host slot, and overwrites the gradient there by the update.

        Notes
        -----
        The device may still be applying the last updates when this returns; what is issued to it
        next comes after them.
        """
        coming_down: deque[tuple[_Route, Record, Ticket]] = deque()
        for route in self._routes:
            record = self._ledger.at(step.number, route.chunk.index, route.parts)
            coming_down.append((route, record, self._bring_down(route, step, record)))
            # Not earlier: the device works in order, and what prepares the chunk after next would
            # stand behind this chunk's `apply`, so that the link has nothing to bring down.
            if len(coming_down) == RING:
                self._send_up(step.number, update, *coming_down.popleft())
        while coming_down:
            self._send_up(step.number, update, *coming_down.popleft())

    def settle(self) -> list[Loss]:
        """Wait until nothing is in flight; return the updates of this step or the last that failed.

        An update may fail when `run` has returned, and the next step is the first to hear of it.
        """
        self._backend.synchronize()  # also for what was issued when its ticket got lost
        return [loss for slot in self._slots for loss in slot.applied.lost()]

    def forget(self) -> None:
        """Take the slots again without regard to what was in them; only when settled."""
        for slot in self._slots:
            slot.applied = _NOTHING_APPLIED

    def _bring_down(self, route: _Route, step: Step, record: Record) -> Ticket:
        chunk = route.chunk
        gradients = [step.gradients[piece.index] for piece in chunk.pieces]
        for i, cut in route.cuts:
            gradients[i] = gradients[i][cut]
        decays = [step.decays[p.index] for p in chunk.pieces]
        if len(gradients) == 1 and not decays[0] and self._unscale == 1:
            source, prepare = gradients[0], _nothing  # it can go down from where it is
        else:
            source, prepare = route.staged, partial(_stage, route, gradients, decays, self._unscale)
        ready = self._backend.run_on_device(prepare, after=(route.slot.applied.ticket,))
        record("prepare", chunk.size, 0, ready)
        return self._backend.d2h(source, route.host, after=(ready,), record=record)

    def _send_up(
        self, number: int, update: Update, route: _Route, record: Record, arrived: Ticket
    ) -> None:
        backend, chunk = self._backend, route.chunk
        size = chunk.size
        asked_s = backend.now()
        arrived.wait()
        record("wait", size, 0, Done(asked_s, backend.now()))
        updated = backend.run_on_host(partial(update, chunk, route.host), elements=size)
        record("update", size, 0, updated)
        sent = backend.h2d(route.host, route.staged, after=(updated,), record=record)
        applied = backend.run_on_device(partial(_apply, route), after=(sent,))
        route.slot.applied = Issued(number, route.places, applied)
        record("apply", size, 0, applied)


def _nothing() -> None:
    """Leave the gradient as it is."""


def _stage(
    route: _Route, gradients: list[Array], decays: list[np.float32], unscale: np.float32
) -> None:
    """Gather a chunk's gradients in its slot, decayed and unscaled."""
    if any(decays):
        pieces = zip(gradients, decays, route.parameters, route.targets, strict=True)
        for gradient, decay, parameter, target in pieces:
            if decay:
                # g + decay*w without a temporary: the device's memory is the scarce one.
                np.multiply(parameter, decay, out=target)
                np.add(gradient, target, out=target)
            else:
                np.copyto(target, gradient)
    else:
        np.concatenate(gradients, out=route.staged)  # one call, however many they are
    if unscale != 1:
        np.multiply(route.staged, unscale, out=route.staged)


def _apply(route: _Route) -> None:
    """Add the updates to the parameters."""
    for parameter, target in zip(route.parameters, route.targets, strict=True):
        np.add(parameter, target, out=parameter)
