"""How an arena is cut: every element once, classes apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adamoffload.plan.chunks import plan_chunks, segments


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
    st.integers(1, 12),
    st.lists(st.sampled_from("ab"), min_size=6, max_size=6),
)
def test_every_element_is_in_one_chunk(
    sizes: list[int], random: object, chunk_size: int, classes: list[str]
) -> None:
    order = [*range(len(sizes))]
    random.shuffle(order)  # type: ignore[attr-defined]  # a random.Random
    begins, position = {}, 0
    for index in order:
        begins[index] = position
        position += sizes[index]
    seen = []
    for number, chunk in enumerate(plan_chunks(sizes, order, chunk_size)):
        assert chunk.index == number
        assert 0 < chunk.size <= chunk_size
        for piece in chunk.pieces:
            assert chunk.start + piece.offset == begins[piece.index] + piece.start
            seen += [(piece.index, k) for k in range(piece.start, piece.stop)]
        assert sum(p.stop - p.start for p in chunk.pieces) == chunk.size
        found = segments(chunk.pieces, classes)
        covered = [k for s in found for k in range(s.start, s.stop)]
        assert covered == [*range(chunk.size)]
        for segment in found:
            inside = [p for p in chunk.pieces if segment.start <= p.offset < segment.stop]
            assert {classes[p.index] for p in inside} == {classes[segment.index]}
    everything = [(i, k) for i in order for k in range(sizes[i])]
    assert seen == everything


def test_neighbours_of_one_class_share_a_segment() -> None:
    (chunk,) = plan_chunks([2, 3, 1], [0, 1, 2], 100)
    classes = ["a", "a", "b"]
    assert [(s.start, s.stop) for s in segments(chunk.pieces, classes)] == [(0, 5), (5, 6)]
    later = segments(chunk.pieces[1:], classes, start=2)
    assert [(s.index, s.start, s.stop) for s in later] == [(1, 0, 3), (2, 3, 4)]


def test_a_piece_says_which_elements_of_its_parameter_go_where_in_the_chunk() -> None:
    _, second = plan_chunks([2, 5], [0, 1], 4)
    assert [(p.parameter_slice, p.chunk_slice) for p in second.pieces] == [
        (slice(2, 5), slice(0, 3))
    ]
