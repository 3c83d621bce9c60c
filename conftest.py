"""Prepares the collection of tests and doctests.

The package is imported before pytest collects it: with ``--import-mode=importlib``, pytest executes
the first module of a package that it collects a second time, and a backend would no longer be a
subclass of the `Backend` that is looked up.
"""

import gc
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

import adamoffload  # noqa: F401

# The doctests of what needs an extra are collected where that is installed.
for_numba = ["cache", "fused", "fused_casts", "fused_eight_bits"]
collect_ignore = [] if find_spec("numba") else [f"adamoffload/engine/{x}.py" for x in for_numba]
for_torch = ["backends/adamoffload_torch", "tests/pytorch/fake_cuda.py"]
collect_ignore += [] if find_spec("torch") else for_torch
# A distribution of its own: `tests/backends/test_example_backend.py` installs and tests it.
collect_ignore += ["tests/example_backend"]

os.environ.setdefault("MPLBACKEND", "Agg")  # figures are looked at, not shown


def pytest_collection_finish() -> None:
    """Let no ``gc.collect()`` look at the tests and modules themselves.

    There are thousands of them. The contract collects some twenty times for each backend: with them
    it takes seconds, without them 0.3.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    """Close what a test has drawn: `pyplot` keeps figures, and warns when there are many."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        import matplotlib.pyplot as plt

        plt.close("all")
