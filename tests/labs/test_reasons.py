"""Reasons: a sentence, the points that are due all the same, and nothing that moves a cursor."""

from __future__ import annotations

import pytest

from adamoffload.labs.reasons import Mistake, printable


def test_a_mistake_keeps_no_points_unless_it_says_so() -> None:
    assert Mistake("x").kept == 0
    assert Mistake("x", 2).kept == 2
    assert str(Mistake("x", 2)) == "x"


@pytest.mark.parametrize("c", ["\x1b", "\r", "\b", "\x9b", "\u202e", "\u2066", "\udcff", "\x00"])
def test_what_controls_a_terminal_is_escaped(c: str) -> None:
    shown = printable(f"a{c}b")
    assert shown.isprintable()
    assert shown.startswith("a\\")


def test_letters_and_lines_stay() -> None:
    assert printable("αβ 中\n\tx") == "αβ 中\n\tx"
