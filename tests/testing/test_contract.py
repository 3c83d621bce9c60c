"""The contract holds for what is right, and bites what is broken: each sentence has a mistake.

Each broken backend of `broken_backends` must fail the test that stands beside it, with the message
that names its fault. The table is printed in ``docs/backends.rst``, and a test compares the two.
"""

from __future__ import annotations

import functools
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import adamoffload as ao
from adamoffload.device.array import MemoryPool
from adamoffload.device.backend import Memory
from adamoffload.testing import BackendContract, NewDevice

from broken_backends import BROKEN, Broken, LazyHooks, PlainBackend, PlainHooks, sentences
from example_backend.adamoffload_background import BackgroundBackend
from lazy_backend import LazyBackend

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs" / "backends.rst"

UNTESTED = {  # they tell a plug-in's author what follows, and promise nothing
    "Nothing else may be assumed about what has happened already.",
    "An error here says that the device itself cannot be relied upon.",
    "An array is on the wrong side of the link, or on the wrong device.",
    "A backend owns memory on a device and knows the way between that memory and the host.",
}


class TestNumpyBackend(BackendContract):
    @pytest.fixture
    def new_device(self) -> NewDevice:
        return functools.partial(ao.get_backend, "numpy")


class TestSimBackend(BackendContract):
    @pytest.fixture
    def new_device(self) -> NewDevice:
        return functools.partial(ao.get_backend, "sim")


class TestLazyBackend(BackendContract):
    @pytest.fixture
    def new_device(self) -> NewDevice:
        return LazyBackend


class TestBackgroundBackend(BackendContract):
    @pytest.fixture
    def new_device(self) -> NewDevice:
        return BackgroundBackend


class PagedBackend(PlainBackend):
    """Its memory comes in pages of 512 bytes and is kept when it is freed; it knows few dtypes."""

    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(memory_bytes)
        self.pool = PagedPool(self.name, memory_bytes)


class PagedPool(MemoryPool):
    def reserve(self, nbytes: int) -> int:
        return super().reserve(-(-nbytes // 512) * 512)

    def release(self, nbytes: int) -> None:
        super().release(-(-nbytes // 512) * 512)

    def memory(self) -> Memory:
        used, peak, limit = super().memory()
        return Memory(used, min(2 * peak, limit or 2 * peak), limit)


class TestPagedBackend(BackendContract):
    allocation_bytes = 512
    exact_peak = False
    several_devices = False
    dtypes = "bef"

    @pytest.fixture
    def new_device(self) -> NewDevice:
        return PagedBackend


# -- it bites -------------------------------------------------------------------------------------


class Quick(BackendContract):
    elements = 1 << 12


TESTS = [name for name in dir(BackendContract) if name.startswith("test_")]


def fault(backend: Any, test: str) -> str:
    """Return what a test of the contract finds in a backend."""
    try:
        getattr(Quick(), f"test_{test}")(backend)
    except Exception as error:
        return str(error)
    return ""


@pytest.mark.parametrize("base", [PlainHooks, LazyHooks])
@pytest.mark.parametrize("test", TESTS)
def test_what_they_are_made_from_is_right(base: NewDevice, test: str) -> None:
    assert not fault(base, test.removeprefix("test_"))


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.mistake)
def test_a_broken_backend_fails_where_it_is_broken(case: Broken) -> None:
    assert case.message in fault(case.backend, case.test)


def test_every_sentence_of_the_contract_is_broken_by_some_backend() -> None:
    assert {case.sentence for case in BROKEN} == {*sentences()} - UNTESTED
    assert {*sentences()} > UNTESTED


def test_every_test_of_the_contract_finds_some_mistake() -> None:
    # It rests on asarray, which is final: a plug-in that breaks it has broken owns() before.
    found = {f"test_{case.test}" for case in BROKEN}
    assert {*TESTS} - found == {"test_asarray_of_its_own_array_returns_it"}


def test_without_the_fixture_the_contract_says_what_is_missing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from adamoffload.testing import BackendContract
        class TestMine(BackendContract):
            pass
        """
    )
    result = pytester.runpytest_inprocess("-k", "round_trip", "-p", "no:cacheprovider")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*TestMine must define the fixture new_device*"])


def table() -> str:
    """Return the broken backends as the page shows them, in the order of the contract."""
    order = sentences()
    cases = sorted(
        BROKEN, key=lambda case: (order.index(case.sentence), TESTS.index(f"test_{case.test}"))
    )
    rows = [("The contract says", "A backend that breaks it", "The test that tells")]
    for sentence, group in groupby(cases, key=lambda case: case.sentence):
        for case in group:
            rows.append((sentence, case.mistake, f"``{case.test}``"))
            sentence = ""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 40 35 25", ""]
    for row in rows:
        for first, cell in zip("*  ", row, strict=True):
            lines.append(f"   {first} - {cell}".rstrip())
    return "\n".join(lines) + "\n"


def test_the_page_shows_this_table() -> None:
    assert table() in PAGE.read_text(), f"{PAGE.name} must contain:\n\n{table()}"
