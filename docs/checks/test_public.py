"""The build of the site would notice a public name that is documented nowhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

import adamoffload as ao

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Any:
    if os.environ.get("ADAMOFFLOAD_REQUIRE_DOCS") != "1":
        pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS)
    yield __import__("public")
    del sys.modules["public"]


def test_every_name_that_a_user_types_must_be_documented(public: Any) -> None:
    missing = set(public.undocumented([]))
    assert {f"adamoffload.{name}" for name in ao.__all__} - missing == {"adamoffload.surfaces"}
    assert "adamoffload.playground.surfaces" in missing  # a module is documented where it is
    assert {f"adamoffload.plots.{name}" for name in ao.plots.__all__} <= missing
    assert {"adamoffload_numpy.NumpyBackend", "adamoffload.testing.BackendContract"} <= missing


def test_so_must_the_methods_of_a_class_and_of_its_base(public: Any) -> None:
    missing = set(public.undocumented([]))
    assert {"adamoffload.AdamOffload.get_lr", "adamoffload.Parameter.shape"} <= missing
    assert not {name for name in missing if name.rpartition(".")[2].startswith(("_", "test_"))}


def test_the_name_that_was_forgotten_is_the_one_that_is_told(public: Any) -> None:
    everything = set(public.undocumented([]))
    for forgotten in ("adamoffload.plots.COLORS", "adamoffload.AdamOffload.get_lr"):
        assert list(public.undocumented(everything - {forgotten})) == [forgotten]


def test_a_method_is_documented_with_its_base(public: Any) -> None:
    everything = set(public.undocumented([]))
    assert not list(public.undocumented(everything - {"adamoffload_numpy.NumpyBackend.asarray"}))
