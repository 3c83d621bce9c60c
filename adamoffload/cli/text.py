"""Reads what was typed: numbers, sizes and bounds, with a message for whatever is none."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import Any

__all__ = ["UsageError", "checked", "natural", "positive", "real", "size", "sizes", "whole"]


class UsageError(Exception):
    """A wrong argument that only the command itself could recognise."""


def whole(text: str) -> int:
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def natural(text: str) -> int:
    """Read a whole number of at least 0."""
    value = whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return value


def positive(most: int) -> Callable[[str], int]:
    """Return what reads a whole number from 1 to `most`: what no machine could hold is refused."""

    def read(text: str) -> int:
        value = whole(text)
        if value < 1:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
        if value > most:
            raise argparse.ArgumentTypeError(f"expected at most {most:,}, got {text!r}")
        return value

    return read


def size(text: str) -> int:
    """Read a number of bytes, with K, M or G for powers of 1024; a million G at most."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    digits, unit = (
        (text[:-1], units[text[-1:].upper()]) if text[-1:].upper() in units else (text, 1)
    )
    if not re.fullmatch("0*[1-9][0-9]*", digits):
        raise argparse.ArgumentTypeError(
            f"expected bytes, such as 4194304, 4096K or 4M, got {text!r}"
        )
    if len(digits) > 16 or int(digits) * unit > 1 << 50:
        raise argparse.ArgumentTypeError(f"expected at most 1048576G, got {text!r}")
    return int(digits) * unit


def sizes(text: str) -> list[int]:
    """Read numbers of parameters, such as 1e6,1e7."""
    try:
        sizes = [float(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(size >= 1 and size.is_integer() for size in sizes):
        raise argparse.ArgumentTypeError(f"expected sizes, such as 1e6,1e7, got {text!r}")
    return [int(size) for size in sizes]


def real(text: str, wanted: str, at_least: float = -math.inf) -> float:
    """Read a number that is within the playground's bounds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value >= at_least and abs(value) <= 1e6):
        raise argparse.ArgumentTypeError(f"expected {wanted}, up to a million, got {text!r}")
    return value


def checked(read: Callable[[str], Any], text: str) -> Any:
    """Let `read` check the text; its message is for the user."""
    try:
        return read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
