"""Numbers and sizes as they are typed: read, or refused with what was expected."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from adamoffload.cli.text import checked, natural, positive, real, size, sizes, whole


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (whole, "-3", -3),
        (natural, "0", 0),
        (positive(9), "1", 1),
        (positive(9), "9", 9),
        (size, "4194304", 4194304),
        (size, "4096K", 4194304),
        (size, "4m", 4194304),
        (size, "1G", 1 << 30),
        (sizes, "1e3,1e6,7", [1000, 1000000, 7]),
    ],
)
def test_what_is_typed_is_read(read: Callable[[str], Any], text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (whole, "1.5", "expected a whole number, got '1.5'"),
        (natural, "-1", "expected a whole number of at least 0, got '-1'"),
        (positive(9), "0", "expected a whole number of at least 1, got '0'"),
        (size, "", "expected bytes, such as 4194304, 4096K or 4M, got ''"),
        (size, "K", "expected bytes"),
        (size, "1048577G", "expected at most 1048576G, got '1048577G'"),
        (positive(9), "10", "expected at most 9, got '10'"),
        (size, "\u0664K", "expected bytes"),
        (size, "-4K", "expected bytes"),
        (sizes, "1e6,", "expected sizes, such as 1e6,1e7, got '1e6,'"),
        (sizes, "0.5", "expected sizes"),
        (sizes, "inf", "expected sizes"),
    ],
)
def test_what_is_none_is_refused(read: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        read(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("text", ["x", "nan", "-1", "1000001"])
def test_a_real_number_has_bounds(text: str) -> None:
    assert real("1e6", "a number", 0.0) == 1e6
    with pytest.raises(
        argparse.ArgumentTypeError, match=f"a number, up to a million, got '{text}'"
    ):
        real(text, "a number", 0.0)


def test_the_message_of_a_check_reaches_the_user() -> None:
    assert checked(int, "7") == 7
    with pytest.raises(argparse.ArgumentTypeError, match="invalid literal for int"):
        checked(int, "seven")
