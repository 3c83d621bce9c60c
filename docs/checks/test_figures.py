"""Figure A of the start page draws what is declared."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Any:
    if os.environ.get("ADAMOFFLOAD_REQUIRE_DOCS") != "1":
        pytest.importorskip("sphinx_gallery")
    monkeypatch.syspath_prepend(DOCS)
    yield __import__("figures")
    del sys.modules["figures"]


def test_each_decision_halves_what_is_on_the_device(figures: Any) -> None:
    places = [homes["device"] for homes in figures.decisions().values()]
    assert [sum(things.values()) for things in places] == [16, 16, 8, 4, 2]


def test_nothing_that_leaves_the_device_is_lost_but_its_bits(figures: Any) -> None:
    for label, homes in figures.decisions().items():
        things = {what for place in homes.values() for what in place}
        assert {"weights", "gradient", "m", "v"} <= things, label
        assert ("master" in things) == (homes["device"]["weights"] == 2), label


def test_the_bars_are_as_high_as_their_bytes(figures: Any) -> None:
    texts = {text.get_text() for text in figures.three_decisions().axes[0].texts}
    assert {"112 GB", "56 GB", "28 GB", "14 GB", "host\n98 GB", "24 GB card"} <= texts
