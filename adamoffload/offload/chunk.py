"""A chunk on its way: where its parts of everything are, and what is done with them at each hop.

For each chunk of the plan, in the strategy ``adam-offload``::

    device   g + decay*w, unscaled, into a staging slot      prepare (nothing for a plain gradient)
    link     it comes down to pinned host memory             d2h
    host     (until it has arrived)                          wait
    host     the rule writes the update over the gradient    update
    link     the update goes up into the slot                h2d
    device   w += update                                     apply

No list of hops is written here: `adamoffload.plan.hops` derives them from a strategy, and each
becomes one of six operations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from adamoffload.device.backend import Array, Backend, Done, Ticket
from adamoffload.engine.converted import Converted, narrow
from adamoffload.engine.kernel import Kernel
from adamoffload.engine.random_bits import Stream
from adamoffload.engine.team import Workers
from adamoffload.observe.ledger import Ledger, Parts, Record
from adamoffload.observe.sampling import UNSEEN, Observer
from adamoffload.offload.arithmetic import Arithmetic, Bound
from adamoffload.offload.decide import StepDecays
from adamoffload.offload.integrity import LostUpdate
from adamoffload.offload.rounding import move_16_bits
from adamoffload.offload.share import DONE, Buffer, Role, Share, View
from adamoffload.plan.chunks import Chunk, Piece, Segment, segments
from adamoffload.plan.hops import Hop, Place
from adamoffload.plan.step import Step

__all__ = ["Arriving", "Kind", "Run", "Seat", "Surroundings", "Underway", "Way", "lost"]


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What all chunks of a pipeline share.

    Attributes
    ----------
    backend : Backend
        The device.
    flat : sequence of device array, shape (size,)
        Flattened views of the parameters, in update order; updated in place.
    names : sequence of str
        The parameters' names, for the ledger.
    workers : Workers
        Who computes on the host.
    shown : Arithmetic or None
        The rule for the host, for who watches what a device computes.
    ledger : Ledger
        Where the hops are recorded.
    leaving : deque of (Ticket, array)
        Gradients that are kept until they are down.
    """

    backend: Backend
    flat: Sequence[Array]
    names: Sequence[str]
    workers: Workers
    shown: Arithmetic | None
    ledger: Ledger
    leaving: deque[tuple[Ticket, Array]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True, eq=False)
class Arriving:
    """The gradients of a micro-step, as far as they have come.

    Attributes
    ----------
    gradients : list of device array or None
        Flattened, in update order.
    l2 : callable
        What times a parameter is added to its gradient, given its index.
    unscale : float32
        What they are multiplied by.
    scaled : bool
        Whether the multiplication comes first; else decay does.
    """

    gradients: list[Array | None]
    l2: Callable[[int], np.float32]
    unscale: np.float32
    scaled: bool


# Not bound to their run: what refers to itself keeps the device's memory until it is looked for.
Operation = Callable[["Run", "Underway", Record], None]

Kind = tuple[bool, bool, bool]
"""What a micro-step is for a parameter: the first, the last, and whether there is a gradient."""


def _l2(step: Step, index: int) -> np.float32:
    return step.of(index).l2


Way = tuple["Seat", Kind, int, int]
"""The pieces of a chunk from one to another (both 0 for all), and what is done with them."""


class Underway:
    """What a step's operations work with; one for each micro-step.

    Parameters
    ----------
    around : Surroundings
        What all chunks share.
    arriving : Arriving
        Its gradients.
    number : int
        The step's, counted from 1.
    decays : StepDecays
        Its weight decays.
    rest : int
        Which of the places where gradients rest on the host is theirs.
    """

    def __init__(
        self,
        around: Surroundings,
        arriving: Arriving,
        number: int,
        decays: StepDecays,
        rest: int = 0,
    ) -> None:
        self.around, self.backend = around, around.backend
        self.arriving, self.number, self.decays, self.rest = arriving, number, decays, rest
        self.kinds: list[Kind | None] = [None] * len(arriving.gradients)  # of what is still here
        self.gone: list[Way] = []  # what is down, or on its way, in the order in which it left
        self.squares: dict[int, tuple[Array, Ticket]] = {}  # of the norms of its gradients
        self.again: list[int] = []  # whose sums it changes, of those that were submitted
        self.step: Any = None  # a Step, once it is decided
        self.observer: Observer = UNSEEN
        self.early = False  # whether they come one by one
        self.leaving: Array | None = None  # a gradient that goes down as it is
        self._temporary: dict[int, list[Array]] = {}

    def decided(self, step: Step, observer: Observer) -> None:
        """Take the numbers of the step, and who sees each chunk's update."""
        self.step, self.observer, self.bound = step, observer, Bound(step)
        decays = partial(_l2, step)
        self.arriving = replace(self.arriving, gradients=[*step.gradients], l2=decays)

    @property
    def unscale(self) -> np.float32:
        """What gradients are multiplied by: behind a barrier it is known when that is passed."""
        return self.arriving.unscale if self.step is None else self.step.unscale

    def temporary(self, share: Share) -> list[Array]:
        """Return device memory for the arithmetic of a chunk.

        It is allocated before anything changes and freed after the step. All chunks use the same,
        since the device works in order.
        """
        if id(share) not in self._temporary:
            self._temporary[id(share)] = share.temporary(self.step.flush)
        return self._temporary[id(share)]


class Seat:
    """A chunk of the plan: its views of everything at home."""

    def __init__(self, share: Share, chunk: Chunk, index: int, offset: int) -> None:
        self.share, self.chunk, self.index = share, chunk, index
        self.position = chunk.start + offset  # in the optimizer's whole state
        self.indices = tuple(piece.index for piece in chunk.pieces)
        self.views: dict[Role, View] = {}
        self.where = slice(chunk.start, chunk.stop)
        for thing, (home, _) in share.homes.items():
            self.views[thing, home] = View(share.arena.arrays[thing][self.where], Buffer())
        if share.sums is not None:
            self.views["sum", "host"] = View(share.sums[self.where], Buffer())
        self.rests: list[View] = []
        self.applied = Buffer()  # the weights', as far as they are in this chunk
        self.number, self.moved = 0, self.indices  # the last update, and whose it was

    def resting(self, rest: int) -> View | None:
        """Return where the gradient rests on the host; None if it does not."""
        while len(self.rests) < len(self.share.rests):
            array = self.share.rests[len(self.rests)][self.where]
            self.rests.append(View(array, Buffer()))
        return self.rests[rest] if self.rests else None

    def forget(self) -> None:
        """Forget what became of earlier updates."""
        for view in (*self.views.values(), *self.rests):
            view.buffer.forget()
        self.applied.forget()

    def lost(self) -> Iterator[LostUpdate]:
        """Wait for the last update; yield it if a part of it has failed."""
        homes = [self.views[thing, home].buffer for thing, (home, _) in self.share.homes.items()]
        tickets = [buffer.written for buffer in (self.applied, *homes)]
        yield from lost(tickets, self.number, self.moved)

    def lost_gradient(self, late: Underway) -> Iterator[LostUpdate]:
        """Wait for the gradients of a step that is late; yield their update if they are lost."""
        view = self.resting(late.rest)
        if view is not None:
            yield from lost([view.buffer.written], late.number, self.indices)


class Run:
    """The way of a chunk, or of some neighbours in it, through the hops of a micro-step."""

    def __init__(
        self,
        around: Surroundings,
        seat: Seat,
        pieces: Sequence[Piece],
        kind: Kind,
        slot: Mapping[Role, View],
    ) -> None:
        self.seat, self.share, self.pieces = seat, seat.share, pieces
        self.first, self.last, self.given = kind
        self.around = seat.share.strategy.sum_in == "round trip" and not (self.first and self.last)
        start, stop = pieces[0].offset, pieces[-1].chunk_slice.stop
        self.size, self.position = stop - start, seat.position + start
        self.cut = None if self.size == seat.chunk.size else slice(start, stop)
        self.indices = tuple(piece.index for piece in pieces)
        self.parts: Parts = tuple((around.names[p.index], p.stop - p.start) for p in pieces)
        flat = around.flat
        self.weights = [flat[p.index][p.parameter_slice] for p in pieces]
        self.cuts = [  # where only a part of a gradient is in the chunk
            (i, p.parameter_slice)
            for i, p in enumerate(pieces)
            if p.stop - p.start < flat[p.index].size
        ]
        self.places = [slice(p.offset - start, p.chunk_slice.stop - start) for p in pieces]
        own = slice(0, self.size)
        self.views = {role: view[own] for role, view in slot.items()}
        self.views |= {role: self._own(view) for role, view in seat.views.items()}
        place: Place = "device" if self.share.on_device else "host"
        arena = self.share.arena
        self.kept = [self.views[thing, place] for thing in arena.computed]
        self._classes: Sequence[int] = ()
        self._segments: tuple[Segment, ...] = ()
        parts: dict[str, list[Operation]] = {"down": [], "fetch": [], "rest": [], "up": []}
        for hop in self.share.hops(first=self.first, last=self.last):
            parts[hop.part].append(self._operation(hop, around.backend))
        if not self.given and not self.around:  # of earlier micro-steps, whose sum is on the host
            parts["down"] = parts["down"][-1:]
        self.down, self.fetch = parts["down"], parts["fetch"]
        self.begin = [*parts["down"], *parts["fetch"]]
        self.finish = [*parts["rest"], *parts["up"]]

    def _own(self, view: View) -> View:
        return view if self.cut is None else view[self.cut]

    def _operation(self, hop: Hop, backend: Backend) -> Operation:
        if hop.format:
            move = getattr(backend, hop.lane)
            if hop.thing == "gradient":
                return partial(_gradient_down, move)
            if hop.thing == self.share.result:
                return partial(_result_up, move)
            source, target = self.views[hop.thing, hop.source], self.views[hop.thing, hop.target]
            return partial(_copy, move, source, target)
        return {
            "prepare": Run._add_up if self.around else Run._prepare,
            "accumulate": Run._accumulate,
            "update": Run._update,
            "apply": Run._update_on_device if hop.part == "rest" else Run._apply,
        }[hop.name]

    def on_host(self, rest: int) -> View:
        """Return where the gradient is on the host."""
        view = self.seat.resting(rest)
        return self.views["gradient", "host"] if view is None else self._own(view)

    def segments(self, step: Step) -> tuple[Segment, ...]:
        """Return the runs of one class."""
        if self._classes is not step.classes:
            self._segments = segments(self.pieces, step.classes, self.pieces[0].offset)
            self._classes = step.classes
        return self._segments

    # -- down -------------------------------------------------------------------------------------

    def _gradients(self, arriving: Arriving) -> list[Array]:
        gradients: list[Any] = [arriving.gradients[i] for i in self.indices]
        for i, cut in self.cuts:
            if gradients[i] is not None:
                gradients[i] = gradients[i][cut]
        return gradients

    def _prepare(self, underway: Underway, record: Record) -> None:
        """Bring the gradient, decayed and unscaled, into the slot; a plain one can stay."""
        arriving, staged = underway.arriving, self.views["gradient", "device"]
        gradients = self._gradients(arriving)
        late = arriving.scaled and self.share.scales_late
        decays = [np.float32(0)] if late else [arriving.l2(i) for i in self.indices]
        unscale = np.float32(1) if late else underway.unscale
        after = (staged.buffer.read, self.seat.applied.written)
        work: Callable[[], None] = _nothing
        plain = len(gradients) == 1 and not decays[0] and unscale == 1
        if plain and gradients[0].dtype == staged.array.dtype:
            underway.leaving = gradients[0]
        else:
            underway.leaving = None
            targets = [staged.array[place] for place in self.places]
            work = partial(
                self._stage,
                gradients,
                decays,
                staged.array,
                targets,
                unscale,
                arriving,
                self.weights,
            )
        staged.buffer.written = underway.backend.run_on_device(work, after=after)
        record("prepare", self.size, 0, staged.buffer.written)

    def _stage(
        self,
        gradients: Sequence[Array],
        decays: Sequence[np.float32],
        staging: Array,
        targets: Sequence[Array],
        unscale: np.float32,
        arriving: Arriving,
        bases: Sequence[Array],
    ) -> None:
        if any(decays) and not arriving.scaled:
            for g, decay, w, target in zip(gradients, decays, bases, targets, strict=True):
                if decay:
                    # g + decay*w without a temporary: the device's memory is the scarce one.
                    np.multiply(w, decay, out=target)
                    np.add(g, target, out=target)
                else:
                    np.copyto(target, g)
        elif len(gradients) > 1 and gradients[0].dtype == staging.dtype:
            np.concatenate(gradients, out=staging)  # one call, however many they are
        else:
            for g, target in zip(gradients, targets, strict=True):
                np.copyto(target, g)
        if unscale != 1:
            np.multiply(staging, unscale, out=staging)
        if any(decays) and arriving.scaled:
            for decay, w, target in zip(decays, bases, targets, strict=True):
                if decay:
                    np.add(target, np.multiply(w, decay, dtype=np.float32), out=target)

    def _add_up(self, underway: Underway, record: Record) -> None:
        """Add the gradient to the sum that has come up."""
        total, gradients = self.views["sum", "device"], self._gradients(underway.arriving)
        staged = self.views["gradient", "device"]

        def work() -> None:
            for g, place in zip(gradients, self.places, strict=True):
                if self.first:
                    np.copyto(total.array[place], g)
                elif g is not None:
                    np.add(total.array[place], g, out=total.array[place])
            if self.last:
                np.copyto(staged.array, total.array)

        after = (total.buffer.written, total.buffer.read, staged.buffer.read)
        added = underway.backend.run_on_device(work, after=after)
        total.buffer.written = staged.buffer.written = added
        record("prepare", self.size, 0, added)

    def _accumulate(self, underway: Underway, record: Record) -> None:
        """Add the gradient to the sum, or in the last micro-step the sum to the gradient."""
        total, gradient = self.views["sum", "host"], self.on_host(underway.rest)
        for view in (gradient, total):
            view.buffer.written.wait()

        def work() -> None:
            if self.first:
                np.copyto(total.array, gradient.array, casting="same_kind")
            elif self.given:
                np.add(total.array, gradient.array, out=total.array, casting="same_kind")
            if self.last:
                np.copyto(gradient.array, total.array)

        # Read two, write one, of an update's seven.
        added = underway.backend.run_on_host(work, elements=self.size * 3 // 7)
        gradient.buffer.written = total.buffer.written = added
        record("accumulate", self.size, 0, added)

    # -- the update -------------------------------------------------------------------------------

    def _update(self, underway: Underway, record: Record) -> None:
        """Wait until everything is on the host, and run the rule there."""
        backend = underway.backend
        gradient = self.on_host(underway.rest)
        result = self._result(gradient)
        asked_s = backend.now()
        for view in (gradient, *self.kept):
            view.buffer.written.wait()
        if result is not gradient:
            result.buffer.read.wait()
        staged = self.views["gradient", "device"].buffer
        if staged.read is gradient.buffer.written:  # the copy down, which was waited for
            staged.read = DONE
        record("wait", self.size, 0, Done(asked_s, backend.now()))
        self.seat.number, self.seat.moved = underway.step.number, self.indices
        work = partial(self._compute, underway, gradient.array, result.array)
        updated = backend.run_on_host(work, elements=self.size)
        record("update", self.size, 0, updated)
        for view in (gradient, result, *self.kept):
            view.buffer.written = updated

    def _result(self, gradient: View) -> View:
        own = self.views[self.share.result, "host"]
        return gradient if own.buffer is self.views["gradient", "host"].buffer else own

    def _compute(self, underway: Underway, gradient: Array, result: Array) -> None:
        step, observer = underway.step, underway.observer
        step.touched.extend(self.indices)
        workers, arithmetic = underway.around.workers, self.share.arithmetic
        kept = [view.array for view in self.kept]
        late = step.scaled and self.share.scales_late
        segments = self.segments(step)
        watched = observer is not UNSEEN
        kernel = (arithmetic.watched if watched else arithmetic.kernels)[step.flush]
        if result is gradient and not late and self.share.plain:
            spans = underway.bound.spans(kernel, segments)
            observer.update(workers, kernel, self.position, [gradient, *kept], spans)
            if kernel is not arithmetic.kernels[step.flush]:  # it left the update there
                np.copyto(gradient, kept[-1])
        elif watched:
            self._compute_watched(underway, kernel, [gradient, *kept], result, late)
        else:
            converted = arithmetic.converted[step.flush]
            spans = underway.bound.spans(kernel, segments, converted=True, late=late)
            workers.update(converted, [gradient, *kept, result], spans)

    def _compute_watched(
        self, underway: Underway, kernel: Kernel, given: list[Array], result: Array, late: bool
    ) -> None:
        """Show an observer float32 arrays: the whole chunk is widened."""
        step, segments = underway.step, self.segments(underway.step)
        wide = [np.empty(self.size, np.float32) for _ in range(len(given) + 1)]
        loaded = Converted.load(given, wide, step.unscale if late else None, 0)
        for segment in segments if late else ():
            if l2 := step.of(segment.index).l2:
                part = slice(segment.start, segment.stop)
                np.add(loaded[0][part], loaded[-1][part] * l2, out=loaded[0][part])
        spans = underway.bound.spans(kernel, segments)
        workers = underway.around.workers
        underway.observer.update(workers, kernel, self.position, loaded, spans)
        has_master = kernel is not self.share.arithmetic.kernels[step.flush]
        narrow(loaded[-1] if has_master else loaded[0], result)
        for array, x in zip(given[1:], loaded[1:], strict=True):
            if array is not x:
                narrow(x, array)

    def _update_on_device(self, underway: Underway, record: Record) -> None:
        """Prepare, run the rule and apply, all on the device."""
        for loss in self.seat.lost():  # errors travel along tickets, and here nobody else waits
            raise loss.error
        self.seat.number, self.seat.moved = underway.step.number, self.indices
        buffers = [view.buffer for view in self.kept]
        applied = self.seat.applied
        after = (applied.written, *[b.written for b in buffers], *[b.read for b in buffers])
        work = partial(self._compute_on_device, underway)
        updated = underway.backend.run_on_device(work, after=after)
        for buffer in (applied, *buffers):
            buffer.written = updated
        record("apply", self.size, 0, updated)

    def _compute_on_device(self, underway: Underway) -> None:
        step, share, arriving = underway.step, self.share, underway.arriving
        whole, *temporary = underway.temporary(share)
        staging = whole[: self.size]
        targets = [staging[place] for place in self.places]
        with underway.backend.fused(share.bytes_on_device * self.size):
            gradients = self._gradients(arriving)
            decays = [step.of(i).l2 for i in self.indices]
            arrays, kept = [staging], [view.array for view in self.kept]
            bases = self.weights
            if "master" in share.homes:  # what the update is added to
                bases = [kept[-1][place] for place in self.places]
            self._stage(gradients, decays, staging, targets, step.unscale, arriving, bases)
            for array in kept:
                if array.dtype == np.float32:
                    arrays.append(array)
                else:
                    arrays.append(temporary.pop(0)[: self.size])
                    np.copyto(arrays[-1], array)
            if underway.observer is not UNSEEN:
                self._show(underway, arrays)
            kernel = share.arithmetic.kernels[step.flush]
            scratch = temporary[len(temporary) - len(kernel.program.scratch) :]
            step.touched.extend(self.indices)  # what raised so far has changed nothing
            for start, stop, values in underway.bound.spans(kernel, self.segments(step)):
                kernel([a[start:stop] for a in arrays], values, scratch)
            for array, x in zip(kept, arrays[1:], strict=True):
                if array is not x:
                    narrow(x, array)
            self._move(underway, targets, temporary)

    def _show(self, underway: Underway, arrays: Sequence[Array]) -> None:
        """Let the observer see the update: of copies, on the host."""
        shown = underway.around.shown
        assert shown is not None, "there is one where there is a probe"
        kernel = shown.kernels[underway.step.flush]
        record = underway.around.ledger.at()  # no part of what the step must move
        copies = [underway.backend.asnumpy(array, record=record) for array in arrays]
        if len(copies) > len(kernel.program.arrays):
            del copies[-1]  # the master: nobody looks at it
        spans = underway.bound.spans(kernel, self.segments(underway.step))
        underway.observer.update(underway.around.workers, kernel, self.position, copies, spans)

    # -- up ---------------------------------------------------------------------------------------

    def _apply(self, underway: Underway, record: Record) -> None:
        """Add the update to the parameters, or let the new weights take their place."""
        result = self.views[self.share.result, "device"]
        targets = [result.array[place] for place in self.places]
        work = partial(self._move, underway, targets)
        applied = underway.backend.run_on_device(work, after=(result.buffer.written,))
        result.buffer.read = self.seat.applied.written = applied
        record("apply", self.size, 0, applied)

    def _move(
        self, underway: Underway, targets: Sequence[Array], temporary: Sequence[Array] = ()
    ) -> None:
        step, share = underway.step, self.share
        if share.result == "weights":
            for w, target in zip(self.weights, targets, strict=True):
                np.copyto(w, target, casting="same_kind")
        elif share.weights == "float32":
            for i, w, target in zip(self.indices, self.weights, targets, strict=True):
                keep = step.of(i).keep
                if keep != 1:
                    np.multiply(w, keep, out=w)
                np.add(w, target, out=w)
        else:
            self._move_16_bits(step, targets, temporary)

    def _move_16_bits(
        self, step: Step, targets: Sequence[Array], temporary: Sequence[Array]
    ) -> None:
        lost, places = self.views.get(("compensation", "device")), self.share.places
        for piece, w, target, place in zip(
            self.pieces, self.weights, targets, self.places, strict=True
        ):
            bits = None
            if places:
                stream = Stream(step.seed, step.number - 1, piece.index)
                bits = stream, piece.start, [array[: w.size] for array in places]
            move_16_bits(
                w,
                target,
                step.of(piece.index).keep,
                [array[: w.size] for array in temporary[: 1 if lost is None else 2]],
                missing=None if lost is None else lost.array[place],
                bits=bits,
            )


def _gradient_down(
    move: Callable[..., Ticket], run: Run, underway: Underway, record: Record
) -> None:
    staged, target = run.views["gradient", "device"], run.on_host(underway.rest)
    buffer = target.buffer
    source = staged.array if underway.leaving is None else underway.leaving
    after = (staged.buffer.written, buffer.written, buffer.read)
    ticket = move(source, target.array, after=after, record=record)
    staged.buffer.read = buffer.written = ticket
    if underway.early:
        leaving = underway.around.leaving
        leaving.append((ticket, source))
        if len(leaving) > len(run.share.slots):  # so that no more than a ring's worth is kept
            leaving.popleft()[0].wait()
    underway.leaving = None


def _result_up(move: Callable[..., Ticket], run: Run, underway: Underway, record: Record) -> None:
    _copy(
        move,
        run._result(run.on_host(underway.rest)),
        run.views[run.share.result, "device"],
        run,
        underway,
        record,
    )


def _copy(
    move: Callable[..., Ticket],
    source: View,
    target: View,
    _: Run,
    __: Underway,
    record: Record,
) -> None:
    after = (source.buffer.written, target.buffer.written, target.buffer.read)
    ticket = move(source.array, target.array, after=after, record=record)
    source.buffer.read = target.buffer.written = ticket


def lost(tickets: Sequence[Ticket], number: int, indices: tuple[int, ...]) -> Iterator[LostUpdate]:
    """Wait for the parts of an update; yield it if one has failed."""
    for ticket in tickets:
        try:
            ticket.wait()
        except BaseException as error:
            if not _fails(ticket):  # we were interrupted while we waited
                raise
            yield LostUpdate(number, indices, error)
            return


def _fails(ticket: Ticket) -> bool:
    """Return whether a ticket raises whenever it is waited for."""
    try:
        ticket.wait()
    except BaseException:
        return True
    return False


def _nothing() -> None:
    """Leave the gradient as it is."""
