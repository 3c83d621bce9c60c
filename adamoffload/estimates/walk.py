"""Lets the chunks of a step go through a strategy's hops on a virtual clock, without any data.

It issues what `adamoffload.offload.pipeline` issues, in the same order, and takes as long for it as
the ``sim`` backend does: where both can run, they have the same times to the last digit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from adamoffload.estimates.clock import Clock
from adamoffload.estimates.declared import Declaration
from adamoffload.estimates.hardware import Device, Pace
from adamoffload.plan.hops import LANE_OF, Hop, Lane

__all__ = ["Bar", "Costs", "Cut", "Walk", "carry"]


class Bar(NamedTuple):
    """What a lane did, for how long.

    Attributes
    ----------
    lane, what : str
        Who worked; the hop, or ``"forward"`` or ``"backward"``.
    chunk : int
        On which chunk, counted from 0.
    start_s, stop_s : float
        From when until when.
    """

    lane: Lane
    what: str
    chunk: int
    start_s: float
    stop_s: float


class Cut(NamedTuple):
    """A chunk: the elements of each tensor's part in it, and how many chunks it stands for."""

    parts: tuple[int, ...]
    stands_for: int = 1

    @property
    def size(self) -> int:
        """Elements."""
        return sum(self.parts)


@dataclass(frozen=True, slots=True)
class Costs:
    """How long hops take on a machine, for one share of the parameters.

    Attributes
    ----------
    declared : Declaration
        What the share's strategy says.
    device : Device
        Who prepares and applies.
    paces : dict from str to Pace
        Of each lane that copies.
    decays : bool
        Whether weights decay.
    l2 : bool
        Whether the decay is added to the gradient.
    host_bytes : float
        What the host's update moves for each parameter.
    chunk_s : float
        What the host needs for each chunk beside that.
    """

    declared: Declaration
    device: Device
    paces: dict[str, Pace]
    decays: bool
    l2: bool
    host_bytes: float
    chunk_s: float = 0.0

    def prepare(self, chunk: Cut) -> list[tuple[float, int]]:
        """Return bytes and elements of each kernel that prepares a chunk's gradient."""
        width = self.declared.weight_bytes
        wire = max((h.nbytes for h in self.declared.hops if h.part == "down"), default=width)
        if self.decays and self.l2 and (width == 4 or "master" not in self.declared.kept):
            return [(n * width * p, p) for p in chunk.parts for n in (2, 3)]
        if len(chunk.parts) == 1 and wire == width:
            return []  # the gradient itself is sent
        return [((width + wire) * chunk.size, chunk.size)]

    def apply(self, chunk: Cut) -> list[tuple[float, int]]:
        """Return bytes and elements of each kernel that brings a chunk's result to the weights."""
        width = self.declared.weight_bytes
        if "master" in self.declared.kept:
            wire = max((h.nbytes for h in self.declared.hops if h.part == "up"), default=width)
            return [((wire + width) * p, p) for p in chunk.parts]
        passes = (2, 3) if self.decays and not self.l2 else (3,)
        return [(n * width * p, p) for p in chunk.parts for n in passes]

    def whole(self, chunk: Cut) -> float:
        """Return what an update on the device moves: one kernel for everything."""
        return (3 * self.declared.weight_bytes + 2 * sum(self.declared.kept.values())) * chunk.size


class _Buffer:
    __slots__ = ("read_s", "written_s")

    def __init__(self) -> None:
        self.written_s = self.read_s = 0.0


_Slot = dict[tuple[str, str], _Buffer]
Operation = Callable[["_Chunk"], None]


@dataclass(frozen=True, slots=True)
class _Chunk:
    number: int
    cut: Cut
    slot: _Slot


class Walk:
    """Chunks of one share on their way.

    Parameters
    ----------
    clock : Clock
        Whose lanes they use.
    costs : Costs
        How long each hop takes.
    bars : list of Bar
        Where to write down what the lanes do; shares of one step have one list.
    slots : int
        Chunks on their way at once.

    Attributes
    ----------
    moves : bool
        Whether anything is copied.
    """

    def __init__(self, clock: Clock, costs: Costs, bars: list[Bar], slots: int = 3) -> None:
        self.clock, self.costs, self.bars, self.slots = clock, costs, bars, slots
        homes = costs.declared.homes.items()
        home = {(t, place) for place, things in homes for t in things if t in costs.declared.kept}
        moving = [hop for hop in costs.declared.hops if hop.nbytes]
        used = {(_role(hop.thing), place) for hop in moving for place in (hop.source, hop.target)}
        self._away = [*(used - home)]  # where a chunk needs a buffer: it is not at home there
        self._parts: dict[str, list[Operation]] = {"down": [], "fetch": [], "rest": [], "up": []}
        for hop in costs.declared.hops:
            self._parts[hop.part].append(self._operation(hop))
        self.moves = any(hop.nbytes for hop in costs.declared.hops)
        self._chunks: list[_Chunk] = []
        self._below = False  # whether their gradients went down before the step

    def plan(self, cuts: Sequence[Cut], first: int = 0) -> int:
        """Say which chunks there are, numbered from `first`; return how many."""
        ring = [self._new_slot() for _ in range(min(self.slots, len(cuts)))]
        self._chunks = [_Chunk(first + i, cut, ring[i % len(ring)]) for i, cut in enumerate(cuts)]
        return len(cuts)

    def go_down(self, number: int, cut: Cut) -> None:
        """Let a chunk's gradient leave now: it rests on the host until the step."""
        chunk = _Chunk(number, cut, self._new_slot())
        self._chunks.append(chunk)
        self._below = True
        self._do(chunk, "down")

    def arrived(self, cuts: Sequence[Cut]) -> None:
        """Say that these chunks' gradients rest on the host already."""
        self._chunks = [_Chunk(i, c, self._new_slot()) for i, c in enumerate(cuts)]
        self._below = True

    def one_by_one(self) -> None:
        """Carry the chunks through as a program in which nothing overlaps."""
        if self.costs.declared.on_device:
            for chunk in self._chunks:
                for part in ("fetch", "rest", "up"):
                    self._do(chunk, part)
                    self.wait()
            return
        parts = [("fetch", "rest"), ("up",)]
        for group in parts if self._below else [("down",), *parts]:
            for chunk in self._chunks:
                self._do(chunk, *group)
            self.wait()

    def update(self) -> None:
        """Let the host update what went down, and nothing go up yet."""
        for chunk in self._chunks:
            self._do(chunk, "fetch", "rest")

    def go_up(self) -> None:
        """Let go up what was updated."""
        for chunk in self._chunks:
            self._do(chunk, "up")

    def wait(self) -> None:
        """Let the host wait until nothing is in flight."""
        self.clock.host_s = self.clock.idle_s()

    # -- inside ---------------------------------------------------------------------------------

    def _new_slot(self) -> _Slot:
        return {key: _Buffer() for key in self._away}

    def _do(self, chunk: _Chunk, *parts: str) -> None:
        for part in parts:
            for operation in self._parts[part]:
                operation(chunk)

    def _operation(self, hop: Hop) -> Operation:
        if hop.nbytes:
            return self._copying(hop)
        if hop.name == "prepare":
            return self._prepare
        if hop.name == "update":
            return self._update
        return self._update_on_device if hop.part == "rest" else self._apply

    def _copying(self, hop: Hop) -> Operation:
        lane, pace, each = hop.lane, self.costs.paces[hop.lane], hop.nbytes
        assert lane in ("d2h", "h2d", "read", "write"), "what copies"
        source, target = (_role(hop.thing), hop.source), (_role(hop.thing), hop.target)
        reads, writes = source in self._away, target in self._away
        clock, record = self.clock, self.bars.append

        def copy(chunk: _Chunk) -> None:
            ready_s = chunk.slot[source].written_s if reads else 0.0
            if writes:
                ready_s = max(ready_s, chunk.slot[target].written_s, chunk.slot[target].read_s)
            start_s = clock.start(lane, ready_s)
            its = Pace(pace.latency_s * chunk.cut.stands_for, pace.bytes_per_s)
            stop_s = clock.carry(lane, start_s, each * chunk.cut.size, its)
            if reads:
                chunk.slot[source].read_s = stop_s
            if writes:
                chunk.slot[target].written_s = stop_s
            record(Bar(lane, lane, chunk.number, start_s, stop_s))

        return copy

    def _prepare(self, chunk: _Chunk) -> None:
        staged = chunk.slot["gradient", "device"]
        work = self.costs.prepare(chunk.cut)
        staged.written_s = self._on_device("prepare", chunk, staged.read_s, work)

    def _update(self, chunk: _Chunk) -> None:
        clock, asked_s = self.clock, self.clock.host_s
        here = [buffer for (_, place), buffer in chunk.slot.items() if place == "host"]
        start_s = clock.host_s = max(asked_s, *(buffer.written_s for buffer in here))
        self.bars.append(Bar("host", "wait", chunk.number, asked_s, start_s))
        chunk.slot["gradient", "device"].read_s = 0.0
        clock.host_s += self.costs.chunk_s * chunk.cut.stands_for
        clock.update(chunk.cut.size, self.costs.host_bytes)
        self.bars.append(Bar("host", "update", chunk.number, start_s, clock.host_s))
        for buffer in here:
            buffer.written_s = clock.host_s

    def _apply(self, chunk: _Chunk) -> None:
        staged = chunk.slot["gradient", "device"]
        work = self.costs.apply(chunk.cut)
        staged.read_s = self._on_device("apply", chunk, staged.written_s, work)

    def _update_on_device(self, chunk: _Chunk) -> None:
        here = [b for (role, p), b in chunk.slot.items() if p == "device" and role != "gradient"]
        ready_s = max((max(b.written_s, b.read_s) for b in here), default=0.0)
        work = [(self.costs.whole(chunk.cut), 0)]
        stop_s = self._on_device("apply", chunk, ready_s, work)
        for buffer in here:
            buffer.written_s = stop_s

    def _on_device(
        self, what: str, chunk: _Chunk, ready_s: float, work: Sequence[tuple[float, int]]
    ) -> float:
        clock, device = self.clock, self.costs.device
        start_s = clock.start("device", ready_s)
        clock.occupy("device", start_s, 0.0)
        more_s = (chunk.cut.stands_for - 1) * device.launch_s
        for nbytes, elements in work:
            at_s = clock.start("device", 0.0)
            clock.occupy("device", at_s, device.seconds(nbytes, elements) + more_s)
        stop_s = clock.start("device", 0.0)
        self.bars.append(Bar(LANE_OF["apply"], what, chunk.number, start_s, stop_s))
        return stop_s


def carry(walks: Sequence[Walk]) -> None:
    """Carry all chunks of all shares through a step, in one loop, as the pipeline does."""
    ahead: deque[tuple[Walk, _Chunk]] = deque()
    for walk in walks:
        ring = min(walk.slots, len(walk._chunks))
        for chunk in walk._chunks:
            walk._do(chunk, *([] if walk._below else ["down"]), "fetch")
            if not walk.moves:
                walk._do(chunk, "rest", "up")
                continue
            ahead.append((walk, chunk))
            if len(ahead) == ring:
                _finish(*ahead.popleft())
    while ahead:
        _finish(*ahead.popleft())


def _finish(walk: Walk, chunk: _Chunk) -> None:
    walk._do(chunk, "rest", "up")


def _role(thing: str) -> str:
    """Return whose buffer a thing is in: what comes up takes the place of what went down."""
    return "gradient" if thing in ("update", "weights") else thing
