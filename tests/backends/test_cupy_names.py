"""The check of CuPy's names: what it must find is put there. The real wheels are CI's business."""

from __future__ import annotations

import inspect
import sys
import types
from typing import Any

import pytest

import cupy_names
import fake_cupy


def test_it_finds_the_names_that_the_backend_uses() -> None:
    source = "self._cupy.cuda.Event(); import cupyx; cupyx.empty_pinned(3); cupy.empty; np.add"
    assert cupy_names.used(source) == {
        "cupy.cuda", "cupy.cuda.Event", "cupy.empty", "cupyx.empty_pinned",
    }  # fmt: skip
    assert "cupy.cuda.get_elapsed_time" in cupy_names.used(cupy_names.BACKEND.read_text())


@pytest.mark.parametrize(
    ("ours", "theirs", "fault"),
    [
        (lambda a, b: None, lambda a: None, "has no parameter 'b' in place 1"),
        (lambda a, axis=0: None, lambda a, dim=0: None, "calls parameter 1 'dim', not 'axis'"),
        (lambda a=None: None, lambda a: None, "requires 'a'"),
        (lambda: None, lambda a: None, "requires 'a'"),
        (lambda *, out=None: None, lambda a=0: None, "has no parameter 'out'"),
        (lambda **keywords: None, lambda a=0: None, "takes no **keywords"),
    ],
)
def test_it_says_what_would_fail(ours: Any, theirs: Any, fault: str) -> None:
    (found,) = cupy_names.differences(inspect.signature(ours), inspect.signature(theirs))
    assert found == fault


def test_it_says_nothing_where_theirs_takes_more() -> None:
    ours = inspect.signature(lambda a, axis=None, *, out=None: None)
    for theirs in (
        lambda a, axis=None, dtype=None, out=None: None,
        lambda a, axis=0, out=None, **more: None,
        lambda *args, **kwargs: None,
    ):
        assert not list(cupy_names.differences(ours, inspect.signature(theirs)))


def test_it_reads_the_signature_of_a_compiled_function_from_its_docstring() -> None:
    class Compiled:
        __doc__ = "get(self, stream=None, order=u'C', out=None) -> ndarray\n\nCopies."
        __signature__ = "none"

        def __call__(self) -> None: ...

    found = cupy_names.signature(Compiled())
    assert found is not None
    assert list(found.parameters) == ["self", "stream", "order", "out"]


def test_it_finds_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = types.ModuleType("cupy")
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", types.ModuleType("cupyx"))
    monkeypatch.setattr(fake_cupy, "OFFERED", {})
    found = list(cupy_names.faults())
    assert "the backend uses cupy.cuda.Event, which does not exist" in found
    assert "cupy.tanh does not exist" in found
    assert "cupy.take_along_axis does not exist" in found
