"""Traces, pages and tables of ledgers made of anything: refused in words, or right."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import writers

CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "ledgers").iterdir())
TIMES = st.floats() | st.floats(0, 10)
HOPS = st.builds(
    lambda head, size, times, name: (
        struct.pack("<BBBi", *head, size) + struct.pack("<ddB", *times, len(name)) + name
    ),
    st.tuples(*[st.integers(0, 255)] * 3),
    st.integers(-(2**31) + 1, 2**31 - 1),
    st.tuples(TIMES, TIMES),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(HOPS, max_size=5).map(b"".join))
def test_any_ledger_is_written_right_or_refused(data: bytes) -> None:
    assert writers.judge(data) in ("written", "refused", "no ledger")


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_fuzzing_found_stays_mended(path: Any) -> None:
    writers.judge(path.read_bytes())
