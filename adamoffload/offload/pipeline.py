"""The pipeline: carries chunks through the hops that follow from a strategy.

For each chunk of the plan, in the strategy ``adam-offload``::

    device   g + decay*w, unscaled, into a staging slot      prepare (nothing for a plain gradient)
    link     it comes down to pinned host memory             d2h
    host     (until it has arrived)                          wait
    host     the rule writes the update over the gradient    update
    link     the update goes up into the slot                h2d
    device   w += update                                     apply

No list of hops is written here: `adamoffload.plan.hops` derives them, and each becomes one of five
operations. The slots form a ring: while one chunk is updated, the next comes down and the last goes
up. Every buffer has two tickets, of who wrote it and who read it last; an operation names what it
reads and writes, and what it must come ``after`` follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from adamoffload.device.backend import Array, Backend, Done, Ticket
from adamoffload.device.disk import Directory
from adamoffload.engine.kernel import Kernel
from adamoffload.engine.team import Workers
from adamoffload.observe.ledger import Ledger, Parts, Record
from adamoffload.observe.sampling import UNSEEN, Observer
from adamoffload.offload.arena import Arena
from adamoffload.offload.arithmetic import Arithmetic, Bound
from adamoffload.offload.integrity import LostUpdate
from adamoffload.plan.chunks import Chunk, plan_chunks
from adamoffload.plan.hops import Hop, Place
from adamoffload.plan.step import Step

__all__ = ["Pipeline", "Share"]

_FLOAT32 = np.dtype(np.float32)
_DONE = Done(0.0, 0.0)
_PLANS = 64  # of different absent parameters and classes, that are kept


class _Buffer:
    """Memory in one place: the tickets of who wrote it and who read it last."""

    __slots__ = ("read", "written")

    def __init__(self) -> None:
        self.written: Ticket = _DONE
        self.read: Ticket = _DONE


class _View:
    """An array, and the buffer that it is a part of."""

    __slots__ = ("array", "buffer")

    def __init__(self, array: Array, buffer: _Buffer) -> None:
        self.array = array
        self.buffer = buffer


class Share:
    """The parameters that one strategy holds for, with all that they need on their way.

    Parameters
    ----------
    backend : Backend
        The device.
    arena : Arena
        What is kept of them.
    hops : sequence of Hop
        What each chunk goes through.
    homes : mapping from str to str
        Where each thing in the arena lives.
    arithmetic : Arithmetic
        What computes.
    chunk_size, slots : int
        Elements of a chunk; slots of the ring, at most.

    Attributes
    ----------
    on_device : bool
        Whether the rule runs there.
    moves : bool
        Whether anything is copied.
    ring : dict from str to int
        Bytes of slots and scratch, by place.
    """

    def __init__(
        self,
        backend: Backend,
        arena: Arena,
        hops: Sequence[Hop],
        homes: Mapping[str, Place],
        arithmetic: Arithmetic,
        chunk_size: int,
        slots: int,
    ) -> None:
        self.arena, self.hops, self.homes, self.arithmetic = arena, hops, homes, arithmetic
        self.on_device = all(hop.lane != "host" for hop in hops)
        self.moves = any(hop.nbytes for hop in hops)
        self.chunk_size = min(chunk_size, arena.size)
        count = min(slots, -(-arena.size // self.chunk_size)) if self.moves else 1
        needed: dict[tuple[str, Place], None] = {}
        for hop in hops:
            if hop.nbytes:
                needed |= {(_role(hop.thing), place): None for place in (hop.source, hop.target)}
        away = [key for key in needed if homes.get(key[0]) != key[1]]
        self.slots = [
            {key: (_memory(backend, key[1], self.chunk_size), _Buffer()) for key in away}
            for _ in range(count)
        ]
        self.ring = dict.fromkeys(("device", "host"), 0)
        for slot in self.slots:
            for (_, place), (array, _) in slot.items():
                self.ring[place] += array.nbytes

    def forget(self) -> None:
        """Take the slots again without regard to what was in them; only when settled."""
        for slot in self.slots:
            for _, buffer in slot.values():
                buffer.written = buffer.read = _DONE


def _role(thing: str) -> str:
    """Return whose buffer a thing is in: what comes up takes the place of what went down."""
    return "gradient" if thing in ("update", "weights") else thing


def _memory(backend: Backend, place: Place, size: int) -> Array:
    if place == "device":
        return backend._empty((size,), _FLOAT32)
    return backend._empty_pinned(size, _FLOAT32)


class _Underway:
    """One step while the pipeline carries it out."""

    def __init__(self, step: Step, observer: Observer, pipeline: Pipeline) -> None:
        self.step, self.observer, self.bound = step, observer, Bound(step)
        self.pipeline, self.backend = pipeline, pipeline.backend
        self._temporary: dict[int, list[Array]] = {}

    def temporary(self, share: Share) -> list[Array]:
        """Return device memory for the arithmetic of a chunk: for the gradient, and scratch.

        It is allocated before anything changes and freed after the step. All chunks use the same,
        since the device works in order.
        """
        if id(share) not in self._temporary:
            registers = share.arithmetic.kernels[self.step.flush].program.registers
            dtypes = [_FLOAT32, *[r.dtype for r in registers if r.kind == "scratch"]]
            size = (share.chunk_size,)
            self._temporary[id(share)] = [self.backend._empty(size, dtype) for dtype in dtypes]
        return self._temporary[id(share)]


# Not bound to their chunk: what refers to itself keeps the device's memory until it is looked for.
Operation = Callable[["_ChunkRun", _Underway, Record], None]


class _ChunkRun:
    """A chunk with its views, and the operations of its four parts."""

    def __init__(self, pipeline: Pipeline, share: Share, chunk: Chunk, index: int) -> None:
        self.share, self.chunk, self.index = share, chunk, index
        self.position = chunk.start + pipeline.offsets[id(share)]  # in the optimizer's whole state
        self.size = chunk.size
        self.indices = tuple(piece.index for piece in chunk.pieces)
        self.parts: Parts = tuple((pipeline.names[p.index], p.stop - p.start) for p in chunk.pieces)
        flat = pipeline.flat
        self.weights = [flat[p.index][p.parameter_slice] for p in chunk.pieces]
        self.applied = _Buffer()  # the weights', as far as they are in this chunk
        self.cuts = [  # where only a part of a gradient is in the chunk
            (i, p.parameter_slice)
            for i, p in enumerate(chunk.pieces)
            if p.stop - p.start < flat[p.index].size
        ]
        slot = share.slots[chunk.index % len(share.slots)]
        self.views = {
            key: _View(array[: self.size], buffer) for key, (array, buffer) in slot.items()
        }
        where = slice(chunk.start, chunk.stop)
        for thing, home in share.homes.items():
            self.views[thing, home] = _View(share.arena.arrays[thing][where], _Buffer())
        place: Place = "device" if share.on_device else "host"
        if not share.on_device:
            self.staged = self.views["gradient", "device"]
            self.staging = self.staged.array
            self.targets = [self.staging[piece.chunk_slice] for piece in chunk.pieces]
            self.gradient = self.views["gradient", "host"]
        self.kept = [self.views[thing, place] for thing in share.arena.arrays]
        self.number = 0
        parts: dict[str, list[Operation]] = {"down": [], "fetch": [], "rest": [], "up": []}
        for hop in share.hops:
            parts[hop.part].append(self._operation(hop, pipeline.backend))
        self.begin = [*parts["down"], *parts["fetch"]]
        self.finish = [*parts["rest"], *parts["up"]]

    def _operation(self, hop: Hop, backend: Backend) -> Operation:
        if hop.nbytes:
            move = getattr(backend, hop.lane)
            role = _role(hop.thing)
            return partial(_copy, move, self.views[role, hop.source], self.views[role, hop.target])
        return {
            "prepare": _ChunkRun._prepare,
            "update": _ChunkRun._update,
            "apply": _ChunkRun._update_on_device if hop.part == "rest" else _ChunkRun._apply,
        }[hop.name]

    # -- operations -----------------------------------------------------------------------------

    def _prepare(self, underway: _Underway, record: Record) -> None:
        """Bring the gradient, decayed and unscaled, into the slot; a plain one can stay."""
        gradients, decays = self._gradients(underway.step)
        unscale, buffer = underway.pipeline.unscale, self.staged.buffer
        if len(gradients) == 1 and not decays[0] and unscale == 1:
            self.staged.array, work = gradients[0], _nothing
        else:
            self.staged.array = self.staging
            work = partial(self._stage, gradients, decays, self.staging, self.targets, unscale)
        after = (buffer.read, self.applied.written)
        buffer.written = underway.backend.run_on_device(work, after=after)
        record("prepare", self.size, 0, buffer.written)

    def _gradients(self, step: Step) -> tuple[list[Array], list[np.float32]]:
        gradients = [step.gradients[i] for i in self.indices]
        for i, cut in self.cuts:
            gradients[i] = gradients[i][cut]  # type: ignore[index]  # absent ones are in no chunk
        return gradients, [step.of(i).l2 for i in self.indices]

    def _stage(
        self,
        gradients: Sequence[Array],
        decays: Sequence[np.float32],
        staging: Array,
        targets: Sequence[Array],
        unscale: np.float32,
    ) -> None:
        if any(decays):
            for g, decay, w, target in zip(gradients, decays, self.weights, targets, strict=True):
                if decay:
                    # g + decay*w without a temporary: the device's memory is the scarce one.
                    np.multiply(w, decay, out=target)
                    np.add(g, target, out=target)
                else:
                    np.copyto(target, g)
        else:
            np.concatenate(gradients, out=staging)  # one call, however many they are
        if unscale != 1:
            np.multiply(staging, unscale, out=staging)

    def _update(self, underway: _Underway, record: Record) -> None:
        """Wait until everything is on the host, and run the rule there."""
        backend = underway.backend
        asked_s = backend.now()
        for view in (self.gradient, *self.kept):
            view.buffer.written.wait()
        record("wait", self.size, 0, Done(asked_s, backend.now()))
        self.staged.array = self.staging  # the gradient is down: let go of it,
        self.staged.buffer.read = _DONE  # and of the copy that was waited for
        self.number = underway.step.number
        updated = backend.run_on_host(partial(self._compute, underway), elements=self.size)
        record("update", self.size, 0, updated)
        for view in (self.gradient, *self.kept):
            view.buffer.written = updated

    def _compute(self, underway: _Underway) -> None:
        underway.step.touched.extend(self.indices)
        arithmetic, observer, flush = self.share.arithmetic, underway.observer, underway.step.flush
        arrays = [self.gradient.array, *[view.array for view in self.kept]]
        kernel = (arithmetic.watched if observer is not UNSEEN else arithmetic.kernels)[flush]
        spans = underway.bound.spans(kernel, self.chunk.segments)
        observer.update(underway.pipeline.workers, kernel, self.position, arrays, spans)
        if kernel is not arithmetic.kernels[flush]:  # it left the update where weights belong
            np.copyto(arrays[0], arrays[-1])

    def _apply(self, underway: _Underway, record: Record) -> None:
        """Add the update to the parameters, or let the new weights take their place."""
        buffer = self.staged.buffer
        work = partial(self._move, underway.step, self.targets)
        applied = underway.backend.run_on_device(work, after=(buffer.written,))
        buffer.read = self.applied.written = applied
        record("apply", self.size, 0, applied)

    def _move(self, step: Step, targets: Sequence[Array]) -> None:
        if "master" in self.share.homes:
            for w, target in zip(self.weights, targets, strict=True):
                np.copyto(w, target)
            return
        for i, w, target in zip(self.indices, self.weights, targets, strict=True):
            keep = step.of(i).keep
            if keep != 1:
                np.multiply(w, keep, out=w)
            np.add(w, target, out=w)

    def _update_on_device(self, underway: _Underway, record: Record) -> None:
        """Prepare, run the rule and apply, all on the device."""
        for loss in self.lost():  # errors travel along tickets, and here nobody else waits
            raise loss.error
        self.number = underway.step.number
        buffers = [view.buffer for view in self.kept]
        after = (self.applied.written, *[b.written for b in buffers], *[b.read for b in buffers])
        work = partial(self._compute_on_device, underway)
        updated = underway.backend.run_on_device(work, after=after)
        for buffer in (self.applied, *buffers):
            buffer.written = updated
        record("apply", self.size, 0, updated)

    def _compute_on_device(self, underway: _Underway) -> None:
        step, arithmetic = underway.step, self.share.arithmetic
        whole, *scratch = underway.temporary(self.share)
        staging = whole[: self.size]
        targets = [staging[piece.chunk_slice] for piece in self.chunk.pieces]
        arrays = [staging, *[view.array for view in self.kept]]
        passes = 3 + 2 * len(self.kept)  # gradient; weights and what is kept, read and written
        with underway.backend.fused(4 * passes * self.size):
            gradients, decays = self._gradients(step)
            self._stage(gradients, decays, staging, targets, underway.pipeline.unscale)
            if underway.observer is not UNSEEN:
                self._show(underway, arrays)
            kernel = arithmetic.kernels[step.flush]
            step.touched.extend(self.indices)  # what raised so far has changed nothing
            for start, stop, values in underway.bound.spans(kernel, self.chunk.segments):
                kernel([a[start:stop] for a in arrays], values, scratch)
            self._move(step, targets)

    def _show(self, underway: _Underway, arrays: Sequence[Array]) -> None:
        """Let the observer see the update: of copies, on the host."""
        shown = underway.pipeline.shown
        assert shown is not None, "there is one where there is a probe"
        kernel = shown.kernels[underway.step.flush]
        record = underway.pipeline.ledger.at()  # no part of what the step must move
        copies = [underway.backend.asnumpy(array, record=record) for array in arrays]
        if len(copies) > len(kernel.program.arrays):
            del copies[-1]  # the master: nobody looks at it
        spans = underway.bound.spans(kernel, self.chunk.segments)
        underway.observer.update(underway.pipeline.workers, kernel, self.position, copies, spans)

    # -- afterwards -----------------------------------------------------------------------------

    def lost(self) -> Iterator[LostUpdate]:
        """Wait for the chunk's last update; yield it if a part of it has failed."""
        homes = [self.views[key].buffer for key in self.share.homes.items()]
        for buffer in (self.applied, *homes):
            try:
                buffer.written.wait()
            except BaseException as error:
                if not _fails(buffer.written):  # we were interrupted while we waited
                    raise
                yield LostUpdate(self.number, self.indices, error)
                return


def _copy(
    move: Callable[..., Ticket],
    source: _View,
    target: _View,
    _: _ChunkRun,
    __: _Underway,
    record: Record,
) -> None:
    after = (source.buffer.written, target.buffer.written, target.buffer.read)
    ticket = move(source.array, target.array, after=after, record=record)
    source.buffer.read = target.buffer.written = ticket


def _fails(ticket: Ticket) -> bool:
    """Return whether a ticket raises whenever it is waited for."""
    try:
        ticket.wait()
    except BaseException:
        return True
    return False


def _nothing() -> None:
    """Leave the gradient as it is."""


class Pipeline:
    """Carries all chunks of all shares through a step.

    Parameters
    ----------
    backend : Backend
        The device.
    flat : sequence of device array, shape (size,), float32
        Flattened views of the parameters, in update order; updated in place.
    names : sequence of str
        The parameters' names, for the ledger.
    shares : sequence of Share
        Which of them goes which way.
    unscale : float32
        What a gradient is multiplied by after weight decay; 1 for nothing.
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
        unscale: np.float32,
        workers: Workers,
        shown: Arithmetic | None,
        ledger: Ledger,
        directory: Directory | None = None,
    ) -> None:
        self.backend, self.flat, self.names = backend, flat, names
        self.shares, self.unscale, self.workers, self.shown = shares, unscale, workers, shown
        self.ledger, self._directory = ledger, directory
        self.offsets, start = {}, 0
        for share in shares:
            self.offsets[id(share)] = start
            start += share.arena.size
        self._plans: dict[Any, list[_ChunkRun]] = {}
        self._current: list[_ChunkRun] = []

    @property
    def watched(self) -> list[Kernel]:
        """The kernels that run where somebody watches."""
        found = [] if self.shown is None else [*self.shown.kernels.values()]
        for share in self.shares:
            if not share.on_device:
                found += share.arithmetic.watched.values()
        return found

    @property
    def moves_state(self) -> bool:
        """Whether what is kept may be on its way home when a step has returned."""
        return any(hop.nbytes and hop.part == "rest" for share in self.shares for hop in share.hops)

    def host_arrays(self) -> list[Array]:
        """Return the arrays of what is kept on the host."""
        return [
            array
            for share in self.shares
            for array in share.arena.arrays.values()
            if isinstance(array, np.ndarray)
        ]

    def run(self, step: Step, observer: Observer) -> None:
        """Carry out a step.

        Parameters
        ----------
        step : Step
            What to compute with.
        observer : Observer
            Who sees each chunk's update.

        Notes
        -----
        The device may still be applying the last updates when this returns; what is issued to it
        next comes after them.
        """
        underway = _Underway(step, observer, self)
        ahead: deque[tuple[_ChunkRun, Record]] = deque()
        for run in self._planned(step):
            record = self.ledger.at(step.number, run.index, run.parts)
            for operation in run.begin:
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

    def _planned(self, step: Step) -> list[_ChunkRun]:
        absent = frozenset(i for i, g in enumerate(step.gradients) if g is None)
        key = absent, tuple(step.classes)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._made(absent, step.classes)
        if plan is not self._current:  # its buffers know nothing of those of another plan
            for run in self._current:
                for loss in run.lost():
                    raise loss.error
            self._current = plan
        return plan

    def _made(self, absent: frozenset[int], classes: Sequence[int]) -> list[_ChunkRun]:
        sizes = [w.size for w in self.flat]
        runs: list[_ChunkRun] = []
        for share in self.shares:
            chunks = plan_chunks(sizes, share.arena.indices, classes, share.chunk_size, absent)
            runs += [_ChunkRun(self, share, c, len(runs) + c.index) for c in chunks]
        return runs

    def settle(self) -> list[LostUpdate]:
        """Wait until nothing is in flight; return the updates of this step or the last that failed.

        An update may fail when `run` has returned, and the next step is the first to hear of it.
        """
        self.rest()
        for share in self.shares:
            share.forget()  # what has failed in a slot is nobody's loss
        return [loss for run in self._current for loss in run.lost()]

    def rest(self) -> None:
        """Wait until nothing is in flight, whatever has become of it."""
        self.workers.settle()
        if self._directory is not None:
            self._directory.settle()
        self.backend.synchronize()  # also for what was issued when its ticket got lost

    def close(self) -> None:
        """Remove the files; what is kept in them can be used no more."""
        if self._directory is not None:
            self._directory.close()

    def forget(self) -> None:
        """Forget, when settled, what became of earlier updates: all of the state is replaced."""
        self._plans.clear()
        self._current = []


def _finish(underway: _Underway, run: _ChunkRun, record: Record) -> None:
    for operation in run.finish:
        operation(run, underway, record)
