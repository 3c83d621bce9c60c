"""Which pieces of the arena cross the link: the plan of a step's chunks.

The plan cuts the arena (`adamoffload.offload.arena`) into chunks of one size: a large parameter
spans several, small ones share one. A chunk is what crosses the link at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Chunk", "Piece", "Segment", "plan_chunks", "segments"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one parameter, flattened, in one chunk.

    Attributes
    ----------
    index : int
        The parameter's index in update order.
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
    """A run of pieces in which all parameters are of one class.

    Attributes
    ----------
    index : int
        A parameter of the run, by its index in update order.
    start, stop : int
        Elements, counted from the first piece.
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
        Its index in the plan.
    start, stop : int
        Elements in the arena.
    pieces : tuple of Piece
        Which parameters it holds.
    """

    index: int
    start: int
    stop: int
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


def plan_chunks(sizes: Sequence[int], order: Sequence[int], chunk_size: int) -> tuple[Chunk, ...]:
    """Cut an arena into chunks.

    Parameters
    ----------
    sizes : sequence of int
        Elements of each parameter, in update order.
    order : sequence of int
        How they follow each other in the arena.
    chunk_size : int
        Elements of a chunk, at most.

    Examples
    --------
    A parameter of 5 elements and one of 2, in chunks of 4:

    >>> for chunk in plan_chunks([5, 2], [0, 1], 4):
    ...     print(chunk.start, chunk.stop, [(p.index, p.start, p.stop) for p in chunk.pieces])
    0 4 [(0, 0, 4)]
    4 7 [(0, 4, 5), (1, 0, 2)]
    """
    chunks: list[Chunk] = []
    pieces: list[Piece] = []
    position = filled = 0  # of the next element in the arena, and in the chunk

    def close() -> None:
        nonlocal pieces, filled
        if pieces:
            chunks.append(Chunk(len(chunks), position - filled, position, tuple(pieces)))
        pieces, filled = [], 0

    for index in order:
        start = 0
        while start < sizes[index]:
            stop = min(sizes[index], start + chunk_size - filled)
            pieces.append(Piece(index, start, stop, filled))
            filled += stop - start
            position += stop - start
            start = stop
            if filled == chunk_size:
                close()
    close()
    return tuple(chunks)


def segments(
    pieces: Sequence[Piece], classes: Sequence[object], start: int = 0
) -> tuple[Segment, ...]:
    """Join neighbouring pieces of one class.

    Parameters
    ----------
    pieces : sequence of Piece
        Neighbours in a chunk.
    classes : sequence
        What each parameter is computed with, in update order.
    start : int
        Where the first begins in the chunk.

    Examples
    --------
    >>> (chunk,) = plan_chunks([5, 2, 3], [0, 1, 2], 10)
    >>> segments(chunk.pieces, ["a", "a", "b"])
    (Segment(index=0, start=0, stop=7), Segment(index=2, start=7, stop=10))
    """
    found: list[Segment] = []
    for piece in pieces:
        begin, stop = piece.offset - start, piece.chunk_slice.stop - start
        if found and classes[found[-1].index] == classes[piece.index]:
            found[-1] = Segment(found[-1].index, found[-1].start, stop)
        else:
            found.append(Segment(piece.index, begin, stop))
    return tuple(found)
