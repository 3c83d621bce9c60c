"""Which pieces of the arena cross the link: the plan of a step's chunks.

The plan cuts the arena (`adamoffload.offload.arena`) into chunks of one size: a large parameter
spans several, small ones share one. A chunk is what crosses the link at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Chunk", "Piece", "Segment", "plan_chunks"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one parameter, flattened, in one chunk.

    Attributes
    ----------
    index : int
        The parameter's place in update order.
    start, stop : int
        The part's elements in the flattened parameter.
    offset : int
        Where the part begins in the chunk.
    """

    index: int
    start: int
    stop: int
    offset: int

    @property
    def chunk_slice(self) -> slice:
        """The part's elements in the chunk."""
        return slice(self.offset, self.offset + self.stop - self.start)

    @property
    def parameter_slice(self) -> slice:
        """The part's elements in the flattened parameter."""
        return slice(self.start, self.stop)


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of a chunk in which all parameters have one learning rate.

    Attributes
    ----------
    index : int
        A parameter of the run (its place in update order): the rate is that parameter's.
    start, stop : int
        Elements in the chunk.
    """

    index: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the arena that crosses the link at once.

    Attributes
    ----------
    index : int
        Its place in the plan.
    start, stop : int
        Elements in the arena.
    pieces : tuple of Piece
        Which parameters it holds.
    segments : tuple of Segment
        Which learning rates it needs.
    """

    index: int
    start: int
    stop: int
    pieces: tuple[Piece, ...]
    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


def plan_chunks(
    sizes: Sequence[int], order: Sequence[int], rates: Sequence[object], chunk_size: int
) -> tuple[Chunk, ...]:
    """Cut an arena into chunks.

    Parameters
    ----------
    sizes : sequence of int
        Elements of each parameter, in update order.
    order : sequence of int
        How they follow each other in the arena.
    rates : sequence
        The learning rate of each, in update order; neighbours with one rate object share a
        segment.
    chunk_size : int
        Elements of a chunk; the last one may be smaller.

    Examples
    --------
    A parameter of 5 elements and one of 2, in chunks of 4:

    >>> rate = object()
    >>> for chunk in plan_chunks([5, 2], [0, 1], [rate, rate], 4):
    ...     print(chunk.start, chunk.stop, [(p.index, p.start, p.stop) for p in chunk.pieces])
    0 4 [(0, 0, 4)]
    4 7 [(0, 4, 5), (1, 0, 2)]
    """
    chunks: list[Chunk] = []
    pieces: list[Piece] = []
    filled = 0

    def close() -> None:
        start = chunks[-1].stop if chunks else 0
        segments = _segments(pieces, rates)
        chunks.append(Chunk(len(chunks), start, start + filled, tuple(pieces), segments))

    for index in order:
        start = 0
        while start < sizes[index]:
            stop = min(sizes[index], start + chunk_size - filled)
            pieces.append(Piece(index, start, stop, filled))
            filled += stop - start
            start = stop
            if filled == chunk_size:
                close()
                pieces, filled = [], 0
    if pieces:
        close()
    return tuple(chunks)


def _segments(pieces: Sequence[Piece], rates: Sequence[object]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    for piece in pieces:
        stop = piece.chunk_slice.stop
        if segments and rates[segments[-1].index] is rates[piece.index]:
            segments[-1] = Segment(segments[-1].index, segments[-1].start, stop)
        else:
            segments.append(Segment(piece.index, piece.offset, stop))
    return tuple(segments)
