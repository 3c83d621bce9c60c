"""Only data crosses between a grader and a student's code."""

from __future__ import annotations

import base64
import enum
import io
import json
import math
from collections import Counter, deque
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from adamoffload.labs.wire import Unsendable, decode, encode


class Color(enum.IntEnum):
    RED = 7


def test_only_data_crosses_the_wire() -> None:
    with pytest.raises(Unsendable):
        encode(object())
    with pytest.raises(Unsendable):
        encode([[print]])
    for line in (b"", b"{}", b'{"array": "AAAA"}', b'{"a": 1, "b": 2}', b"nonsense"):
        with pytest.raises(ValueError):
            decode(line)


def test_what_is_as_good_as_a_plain_value_arrives_as_one() -> None:
    sent = {
        "a": (i * i for i in range(3)),
        "b": Fraction(1, 4),
        "c": Decimal("3"),
        "d": np.str_("x"),
        "e": range(2),
        "f": {"k": 1}.values(),
        "g": Counter("aa"),
        "h": deque([1.5]),
        "i": Color.RED,
        "j": Decimal("nan"),
    }
    got = decode(encode(sent))
    assert math.isnan(got.pop("j"))
    assert got == {
        "a": [0, 1, 4],
        "b": 0.25,
        "c": 3,
        "d": "x",
        "e": [0, 1],
        "f": [1],
        "g": {"a": 2},
        "h": [1.5],
        "i": 7,
    }
    assert type(got["c"]) is int
    assert type(got["d"]) is str


def test_an_array_of_objects_is_no_message() -> None:
    data = io.BytesIO()
    np.save(data, np.zeros(3, "S0"))
    line = json.dumps({"array": base64.b64encode(data.getvalue()).decode()}).encode()
    with pytest.raises(ValueError, match="an array of dtype"):
        decode(line)
