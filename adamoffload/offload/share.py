"""A share: the parameters that one strategy holds for, with all that they need on their way.

It has a ring of slots, which chunks take in turn. In a slot is a buffer for each thing, in each
place, that a chunk touches and that is not the thing's home. Every buffer has two tickets, of who
wrote it and who read it last: an operation names what it reads and writes, and what it must come
``after`` follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adamoffload.device.backend import Array, Backend, Done, HostArray, Ticket
from adamoffload.offload.arena import Arena
from adamoffload.offload.arithmetic import Arithmetic
from adamoffload.plan.formats import Format, dtype_of, each
from adamoffload.plan.hops import Hop, Place
from adamoffload.plan.strategy import Strategy
from adamoffload.rules.rule import Rule

__all__ = ["DONE", "Buffer", "Role", "Share", "View"]

DONE = Done(0.0, 0.0)

Role = tuple[str, Place]
"""A thing in a place."""


class Buffer:
    """Memory in one place: the tickets of who wrote it and who read it last."""

    __slots__ = ("read", "written")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Take it again without regard to what was in it."""
        self.written: Ticket = DONE
        self.read: Ticket = DONE


class View:
    """An array, and the buffer that it is a part of."""

    __slots__ = ("array", "buffer")

    def __init__(self, array: Array, buffer: Buffer) -> None:
        self.array = array
        self.buffer = buffer

    def __getitem__(self, where: slice) -> View:
        return View(self.array[where], self.buffer)


class Share:
    """The parameters that one strategy holds for.

    Parameters
    ----------
    backend : Backend
        The device.
    strategy : Strategy
        What lives where.
    rule : Rule
        What is computed.
    weights : str
        Format of the parameters.
    arena : Arena
        What is kept of them.
    arithmetic : Arithmetic
        What computes.
    chunk_size, slots : int
        Elements of a chunk; slots of the ring, at most.
    accumulate : int
        Micro-steps to a step.

    Attributes
    ----------
    homes : dict from str to (str, str)
        Where each thing in the arena lives, and as what.
    result : str
        ``"weights"`` or ``"update"``: what comes out of the arithmetic.
    on_device : bool
        Whether the rule runs there.
    scales_late : bool
        Whether a master lies beside the host's arithmetic, so that gradients can be scaled and
        decayed there.
    plain : bool
        Whether everything is float32.
    bytes_on_device : int
        What the device reads and writes of its memory for each parameter, if the rule runs there.
    moves : bool
        Whether anything is copied.
    rests : list of ndarray
        Where whole gradients lie on the host until they are applied: none, one, or with a delay
        two, which are used in turn.
    places : list of array
        0, 1, 2, ..., and two arrays to compute random bits in; where rounding is stochastic.
    ring : dict from str to int
        Bytes of slots, by place.
    """

    def __init__(
        self,
        backend: Backend,
        strategy: Strategy,
        rule: Rule,
        weights: Format,
        arena: Arena,
        arithmetic: Arithmetic,
        chunk_size: int,
        slots: int,
        accumulate: int,
    ) -> None:
        self.backend, self.strategy, self.rule, self.weights = backend, strategy, rule, weights
        self.arena, self.arithmetic = arena, arithmetic
        self.homes = {thing: (home, form) for thing, home, form in strategy.kept(rule, weights)}
        self.result = strategy.carries(weights)
        self.on_device = strategy.arithmetic == "device"
        self.scales_late = "master" in self.homes and not self.on_device
        self.accumulate = accumulate
        forms = [form for _, form in self.homes.values()]
        self.plain = {weights, *forms} == {"float32"}
        self.bytes_on_device = 3 * each(weights) + 2 * sum(each(form) for form in forms)
        hops = self.all_hops()
        self.moves = any(hop.format for hop in hops)
        self.chunk_size = min(chunk_size, arena.size)
        count = min(slots, -(-arena.size // self.chunk_size)) if self.moves else 1
        self.rests: list[HostArray] = []
        self.crossing: Format = weights if strategy.gradient == "weights" else "float32"
        for _ in range(2 * strategy.delay):
            self.rest()
        self.sums: HostArray | None = None
        if accumulate > 1 and strategy.sum_in in ("round trip", "host"):
            self.sums = backend._empty_pinned(arena.size, dtype_of(weights))
        self.slots = [self._slot(hops) for _ in range(count)]
        self.places: list[Array] = []
        if strategy.rounding == "stochastic":
            first = backend.asarray(np.arange(self.chunk_size, dtype=np.int32))
            more = [backend._empty((self.chunk_size,), first.dtype) for _ in range(2)]
            self.places = [first, *more]
        self.ring = dict.fromkeys(("device", "host"), 0)
        for slot in self.slots:
            for place, nbytes in {
                id(v): (p, v.array.nbytes) for (_, p), v in slot.items()
            }.values():
                self.ring[place] += nbytes
        self.ring["device"] += sum(array.nbytes for array in self.places)

    def hops(self, *, first: bool = True, last: bool = True) -> tuple[Hop, ...]:
        """Return what a chunk goes through in a micro-step."""
        return self.strategy.hops(self.rule, self.weights, first=first, last=last)

    def all_hops(self) -> list[Hop]:
        """Return what a chunk goes through in all micro-steps, each kind of these once."""
        if self.accumulate == 1:
            return [*self.hops()]
        several = [(True, False), (False, False), (False, True), (True, True)]
        return [hop for first, last in several for hop in self.hops(first=first, last=last)]

    def rest(self) -> None:
        """Let gradients lie on the host until they are applied."""
        size = self.arena.size
        self.rests.append(self.backend._empty_pinned(size, dtype_of(self.crossing)))

    def _slot(self, hops: Sequence[Hop]) -> dict[Role, View]:
        needed: dict[Role, Format] = {}
        for hop in hops:
            if hop.format:
                needed |= {(hop.thing, place): hop.format for place in (hop.source, hop.target)}
        elsewhere = {(thing, home) for thing, (home, _) in self.homes.items()} | {("sum", "host")}
        # What comes up takes the place of what went down, if it is of the same format.
        shared = needed.get((self.result, "host")) == needed.get(("gradient", "host"))
        if shared:
            elsewhere |= {(self.result, "host"), (self.result, "device")}
        slot = {
            role: View(self._memory(role[1], form), Buffer())
            for role, form in needed.items()
            if role not in elsewhere
        }
        if shared and ("gradient", "host") in slot:
            slot[self.result, "host"] = slot["gradient", "host"]
            slot[self.result, "device"] = slot["gradient", "device"]
        return slot

    def _memory(self, place: Place, form: Format) -> Array:
        if place == "device":
            return self.backend._empty((self.chunk_size,), dtype_of(form))
        return self.backend._empty_pinned(self.chunk_size, dtype_of(form))

    def temporary(self, flush: bool) -> list[Array]:
        """Allocate the device's memory for the arithmetic of a chunk: all chunks use the same."""
        scratch = self.arithmetic.kernels[flush].program.scratch
        rounds = self.weights != "float32" and self.result == "update"
        narrow = [form for _, form in self.homes.values() if form != "float32"]
        wide = [np.dtype(np.float32)] * (1 + len(narrow) + rounds)
        size = (self.chunk_size,)
        return [self.backend._empty(size, dtype) for dtype in (*wide, *scratch)]

    def forget(self) -> None:
        """Take the slots again without regard to what was in them; only when settled."""
        for slot in self.slots:
            for view in slot.values():
                view.buffer.forget()
