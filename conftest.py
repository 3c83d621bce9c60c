"""Prepares the collection of tests and doctests.

The package is imported before pytest collects it: with ``--import-mode=importlib``, pytest executes
the first module of a package that it collects a second time, and a backend would no longer be a
subclass of the `Backend` that is looked up.
"""

from importlib.util import find_spec

import adamoffload  # noqa: F401

# The doctests of what needs an extra are collected where that is installed.
collect_ignore = [] if find_spec("numba") else ["adamoffload/fused.py"]
# A distribution of its own: `tests/test_example_backend.py` installs it and runs its tests.
collect_ignore += ["tests/example_backend"]
