"""Only data crosses between a grader and a student's code."""

from __future__ import annotations

import pytest

from adamoffload.labs.wire import Unsendable, decode, encode


def test_only_data_crosses_the_wire() -> None:
    with pytest.raises(Unsendable):
        encode(object())
    with pytest.raises(Unsendable):
        encode([[print]])
    for line in (b"", b"{}", b'{"array": "AAAA"}', b'{"a": 1, "b": 2}', b"nonsense"):
        with pytest.raises(ValueError):
            decode(line)
