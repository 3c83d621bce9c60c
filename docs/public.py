"""Fails the build if a public name is documented nowhere."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Container, Iterator
from importlib import import_module
from importlib.metadata import distribution

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import adamoffload

GROUP = "adamoffload.backends"
logger = logging.getLogger(__name__)


def public_names() -> Iterator[tuple[str, object]]:
    """Yield each name that a user may type in full, and what it is.

    Those are the names in ``__all__`` of each of our packages, and our backends.
    """
    inner = pkgutil.walk_packages(adamoffload.__path__, "adamoffload.")
    packages = ["adamoffload", *(found.name for found in inner if found.ispkg)]
    for module in map(import_module, packages):
        for name in getattr(module, "__all__", ()):
            what = getattr(module, name)
            yield what.__name__ if inspect.ismodule(what) else f"{module.__name__}.{name}", what
    for point in distribution("adamoffload").entry_points.select(group=GROUP):
        yield f"{point.module}.{point.attr}", point.load()


def methods(owner: type) -> Iterator[str]:
    """Yield the public methods and properties that a class has from us."""
    ours = [base for base in owner.__mro__ if base.__module__.startswith("adamoffload")]
    for base in ours:
        for name, member in vars(base).items():
            method = inspect.isroutine(member) or isinstance(member, property | classmethod)
            if method and not name.startswith(("_", "test_")):
                yield name


def undocumented(documented: Container[str]) -> Iterator[str]:
    """Yield the public names that are not in `documented`: a base's method stands for all."""
    public = dict(public_names())
    for name, what in public.items():
        if name not in documented:
            yield name
        if isinstance(what, type):
            owners = [other for other, base in public.items() if base in what.__mro__]
            for method in dict.fromkeys(methods(what)):
                if not any(f"{owner}.{method}" in documented for owner in owners):
                    yield f"{name}.{method}"


def check(_: Sphinx, env: BuildEnvironment) -> None:
    """Warn of each, which the build takes for an error."""
    for name in undocumented(env.domains.python_domain.objects):
        logger.warning("public, but documented nowhere: %s", name, type="public")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
