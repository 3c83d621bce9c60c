"""The table of systems is counted, and a wrong byte in it ends the build."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def systems(monkeypatch: pytest.MonkeyPatch) -> Any:
    if os.environ.get("ADAMOFFLOAD_REQUIRE_DOCS") != "1":
        pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS)
    yield __import__("systems")
    del sys.modules["systems"]


def test_a_row_that_a_strategy_reproduces_is_counted(systems: Any) -> None:
    rows = [system for system in systems.read() if systems.supported(system)]
    in_16_bits = {row.strategy for row in rows if row.weights == "bfloat16"}
    assert {"zero-offload", "deepspeed-zero2", "torchao", "gemini"} <= in_16_bits
    assert all("**counted**" in systems.known(row) for row in rows)


def test_a_row_of_a_strategy_that_there_is_not_keeps_its_source(systems: Any) -> None:
    row = systems.read()[1]._replace(strategy="none such")
    assert systems.known(row) == "code [ms]_"


@pytest.mark.parametrize("wrong", [{"bytes": ["2", "4"]}, {"many": ["4", "4k"]}])
def test_a_row_that_is_wrong_ends_the_build(systems: Any, wrong: dict[str, list[str]]) -> None:
    with pytest.raises(Exception, match=r"moves 4 bytes down and 4 up, and systems\.toml says"):
        systems.known(systems.read()[0]._replace(**wrong))


def test_cells_are_read_as_formulas(systems: Any) -> None:
    cells = ["4", "2k", "2k+4", "4r", "–", "0 to 8"]
    assert [systems.value(cell, 3) for cell in cells] == [4, 6, 10, 4, None, None]
