"""Imports the package before pytest collects it.

With ``--import-mode=importlib``, pytest executes the first module of a package that it collects a
second time, and a backend would no longer be a subclass of the `Backend` that is looked up.
"""

import adamoffload  # noqa: F401
