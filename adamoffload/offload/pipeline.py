"""The pipeline: carries the chunks of all shares through a step.

The slots of a share form a ring: while one chunk is updated, the next comes down and the last goes
up. What happens to a chunk at each hop is in ``adamoffload.offload.chunk``; no strategy is named in
either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from adamoffload.device.backend import Array, Backend
from adamoffload.device.disk import Directory
from adamoffload.engine.kernel import Kernel
from adamoffload.engine.team import Workers
from adamoffload.observe.ledger import Ledger, Record
from adamoffload.offload.arithmetic import Arithmetic
from adamoffload.offload.chunk import Kind, Run, Seat, Surroundings, Underway, Way, lost
from adamoffload.offload.integrity import LostUpdate
from adamoffload.offload.share import Share
from adamoffload.plan.chunks import plan_chunks

__all__ = ["ONLY", "Pipeline"]

_KEPT = 64  # ways of a chunk, for different absent parameters

ONLY: Kind = (True, True, True)
"""A micro-step that is a whole step, with a gradient."""


class Pipeline:
    """Carries all chunks of all shares through a step.

    Parameters
    ----------
    backend : Backend
        The device.
    flat : sequence of device array, shape (size,)
        Flattened views of the parameters, in update order; updated in place.
    names : sequence of str
        The parameters' names, for the ledger.
    shares : sequence of Share
        Which of them goes which way.
    workers : Workers
        Who computes on the host.
    shown : Arithmetic, optional
        The rule for the host, for who watches what a device computes.
    ledger : Ledger
        Where the hops are recorded.
    directory : Directory or None
        Where files are; open until `close`.
    """

    def __init__(
        self,
        backend: Backend,
        flat: Sequence[Array],
        names: Sequence[str],
        shares: Sequence[Share],
        workers: Workers,
        shown: Arithmetic | None,
        ledger: Ledger,
        directory: Directory | None = None,
    ) -> None:
        self.around = Surroundings(backend, flat, names, workers, shown, ledger)
        self.backend, self.flat, self.names = backend, flat, names
        self.shares, self._directory = shares, directory
        start = 0  # of a share, in the whole state
        self.share_of: dict[int, Share] = {}
        self._seats: list[Seat] = []
        self._seats_of: list[list[Seat]] = [[] for _ in flat]
        sizes = [w.size for w in flat]
        for share in shares:
            chunks = plan_chunks(sizes, share.arena.indices, share.chunk_size)
            for chunk in chunks:
                seat = Seat(share, chunk, len(self._seats), start)
                self._seats.append(seat)
                for i in seat.indices:
                    self._seats_of[i].append(seat)
            self.share_of |= dict.fromkeys(share.arena.indices, share)
            start += share.arena.size
        self._whole: dict[Kind, list[Run]] = {}
        self._made: dict[Any, Run] = {}
        self._waiting: dict[Seat, dict[int, Kind]] = {}

    @property
    def watched(self) -> list[Kernel]:
        """The kernels that run where somebody watches."""
        found = [] if self.around.shown is None else [*self.around.shown.kernels.values()]
        for share in self.shares:
            if not share.on_device:
                found += share.arithmetic.watched.values()
        return found

    @property
    def moves_state(self) -> bool:
        """Whether what is kept may be on its way home when a step has returned."""
        return any(hop.format and hop.part == "rest" for s in self.shares for hop in s.hops())

    def host_arrays(self) -> list[Array]:
        """Return the arrays of what is kept on the host."""
        return [
            array
            for share in self.shares
            for array in share.arena.arrays.values()
            if isinstance(array, np.ndarray)
        ]

    # -- a step whose gradients come together ---------------------------------------------------

    def run(self, underway: Underway, kinds: Sequence[Kind | None]) -> None:
        """Carry out a step that has been decided.

        Parameters
        ----------
        underway : Underway
            The step, and its gradients.
        kinds : sequence of Kind or None
            For each parameter, which of its micro-steps this is; None to leave it alone.

        Notes
        -----
        The device may still be applying the last updates when this returns; what is issued to it
        next comes after them.
        """
        self._carry(underway, self._runs(kinds), gone=False)

    def finish(self, underway: Underway) -> None:
        """Carry out a step that has been decided, and whose gradients are down."""
        self._carry(underway, self._in_turn(underway.gone), gone=True)
        self.around.leaving.clear()

    def send(self, underway: Underway, kinds: Sequence[Kind | None]) -> None:
        """Bring gradients down, and no more: of a micro-step, or of a step that is late."""
        for way in self._ways(kinds):
            self._down(underway, way)

    def _carry(self, underway: Underway, runs: Iterable[Run], *, gone: bool) -> None:
        ahead: deque[tuple[Run, Record]] = deque()
        for run in runs:
            record = self.around.ledger.at(underway.step.number, run.seat.index, run.parts)
            for operation in run.fetch if gone else run.begin:
                operation(run, underway, record)
            if not run.share.moves:
                _finish(underway, run, record)
                continue
            ahead.append((run, record))
            # Not earlier: the device works in order, and what prepares the chunk after next would
            # stand behind this chunk's `apply`, so that the link has nothing to bring down.
            if len(ahead) == len(run.share.slots):
                _finish(underway, *ahead.popleft())
        while ahead:
            _finish(underway, *ahead.popleft())

    def _runs(self, kinds: Sequence[Kind | None]) -> list[Run]:
        kind = kinds[0]
        if kind is None or kinds.count(kind) != len(kinds):
            return self._in_turn(self._ways(kinds))
        if kind not in self._whole:  # usually
            self._whole[kind] = self._in_turn(self._ways(kinds))
        return self._whole[kind]

    def _in_turn(self, ways: Iterable[Way]) -> list[Run]:
        """Let chunks take the slots of their share's ring in turn."""
        turns, runs = dict.fromkeys(map(id, self.shares), 0), []
        for seat, kind, start, stop in ways:
            turn, turns[id(seat.share)] = turns[id(seat.share)], turns[id(seat.share)] + 1
            runs.append(self._run((seat, kind, start, stop), turn))
        return runs

    def _run(self, way: Way, turn: int) -> Run:
        """Return the way of some pieces through a slot."""
        seat, kind, start, stop = way
        slot = turn % len(seat.share.slots)
        key = seat.index, kind, start, stop, slot
        if key not in self._made:  # here, not in the seat: nothing may refer to itself
            if len(self._made) >= _KEPT * len(self._seats):
                self._made.clear()
            pieces = seat.chunk.pieces[start : stop or None]
            self._made[key] = Run(self.around, seat, pieces, kind, seat.share.slots[slot])
        return self._made[key]

    def _ways(self, kinds: Sequence[Kind | None]) -> list[Way]:
        return [way for seat in self._seats for way in _parts(seat, kinds)]

    # -- a step whose gradients come one by one -------------------------------------------------

    def arrive(self, underway: Underway, index: int, kind: Kind) -> bool:
        """Let a gradient leave as soon as the chunks that it is in are complete.

        Return whether all of it is down, or on its way, so that its memory is not needed here.
        """
        share = self.share_of[index]
        if not share.on_device and not share.rests:
            share.rest()
        gone = True
        for seat in self._seats_of[index]:
            waiting = self._waiting.setdefault(seat, {})
            waiting[index] = kind
            if len(waiting) == len(seat.indices) and len({*waiting.values()}) == 1:
                del self._waiting[seat]
                self._down(underway, (seat, kind, 0, 0))
            else:
                gone = False
        return gone and not share.on_device

    def arrived(self, underway: Underway) -> None:
        """Let the gradients leave that still wait for neighbours, which have none."""
        for seat, kinds in self._waiting.items():
            own: list[Kind | None] = [None] * len(self.flat)
            for i, kind in kinds.items():
                own[i] = kind
            for way in _parts(seat, own):
                self._down(underway, way)
        self._waiting = {}

    def renew(self, but: int | None, summed: Collection[int]) -> None:
        """Forget, when settled, what became of gradients on the host: other ones will come.

        Those in the place `but` are still to be applied, and the sums of some parameters are kept.
        """
        for seat in self._seats:
            for i, view in enumerate(seat.rests):
                if i != but:
                    view.buffer.forget()
            total = seat.views.get(("sum", "host"))
            if total is not None and not any(i in summed for i in seat.indices):
                total.buffer.forget()

    def drop(self) -> None:
        """Let no gradient wait for its neighbours any more: its step was given up."""
        self._waiting = {}

    def _down(self, underway: Underway, way: Way) -> None:
        run = self._run(way, len(underway.gone))
        record = self.around.ledger.at(underway.number, run.seat.index, run.parts)
        for operation in run.down:
            operation(run, underway, record)
        underway.gone.append(way)

    # -- afterwards -----------------------------------------------------------------------------

    def settle(self, late: Underway | None = None) -> list[LostUpdate]:
        """Wait until nothing is in flight; return the updates of this step or the last that failed.

        An update may fail when `run` has returned, and the next step is the first to hear of it.
        So may what is there of a step that is `late`, which then can be applied no more.
        """
        self.rest()
        for share in self.shares:
            share.forget()  # what has failed in a slot is nobody's loss
        losses = [loss for seat in self._seats for loss in seat.lost()]
        if late is not None:
            for seat in dict.fromkeys(way[0] for way in late.gone):
                losses += seat.lost_gradient(late)
            for i, (_, ticket) in late.squares.items():
                losses += lost([ticket], late.number, (i,))
        return losses

    def rest(self) -> None:
        """Wait until nothing is in flight, whatever has become of it."""
        self.around.workers.settle()
        if self._directory is not None:
            self._directory.settle()
        self.backend.synchronize()  # also for what was issued when its ticket got lost
        self.around.leaving.clear()

    def close(self) -> None:
        """Remove the files; what is kept in them can be used no more."""
        if self._directory is not None:
            self._directory.close()

    def forget(self) -> None:
        """Forget, when settled, what became of earlier updates: all of the state is replaced."""
        for seat in self._seats:
            seat.forget()


def _parts(seat: Seat, kinds: Sequence[Kind | None]) -> list[Way]:
    ways: list[Way] = []
    start = 0
    for kind, group in groupby(kinds[i] for i in seat.indices):
        stop = start + sum(1 for _ in group)
        if kind is not None:
            whole = stop - start == len(seat.indices)
            ways.append((seat, kind, 0, 0) if whole else (seat, kind, start, stop))
        start = stop
    return ways


def _finish(underway: Underway, run: Run, record: Record) -> None:
    for operation in run.finish:
        operation(run, underway, record)
