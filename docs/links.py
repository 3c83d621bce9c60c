"""Makes single backticks link to what they name, and keeps the inventories of other projects.

A default role that knows names as users type them: `Ledger`, `Probe.series`, `value_and_grad`.
What begins with a capital, has a dot, or stands in ``adamoffload.__all__`` must be documented, here
or in an inventory; any other word is a parameter's name, and is set in italics.

The inventories list the few names of other projects that these pages mention, so that a build needs
no network: ``docs/inventories/PROJECT.txt``, a line each, with its kind and its address there.
"""

from __future__ import annotations

import builtins
import zlib
from inspect import ismodule
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole

import adamoffload

INVENTORIES = Path(__file__).parent / "inventories"


class Name(SphinxRole):
    """A name of the library, or of a parameter."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        tilde, name = "~" * self.text.startswith("~"), self.text.lstrip("~.")
        role = self.env.domains.python_domain.role("obj")
        assert role is not None
        target = name
        if name in adamoffload.__all__:
            what = getattr(adamoffload, name)
            target = f"{name} <{what.__name__ if ismodule(what) else f'adamoffload.{name}'}>"
        elif names_something(name):
            target = f"{tilde}.{name}"  # the dot: in any module
        rest = (self.lineno, self.inliner, self.options, self.content)
        return role("obj", self.rawtext, target, *rest)


def names_something(text: str) -> bool:
    """Whether single backticks around a text promise that it is documented."""
    return text[:1].isupper() or "." in text or text in adamoffload.__all__


def in_italics(
    _: Sphinx, __: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.TextElement
) -> nodes.emphasis | None:
    """Show what names nothing as a parameter."""
    if node["reftype"] == "obj" and not names_something(node["reftarget"]):
        return nodes.emphasis("", shown.astext())
    return None


def inventory(project: str) -> str:
    """Write a project's inventory in Sphinx's own form, and return its path."""
    lines = (INVENTORIES / f"{project}.txt").read_text("utf-8").splitlines()
    entries = [line.split() for line in lines if line and not line.startswith("#")]
    body = "".join(f"{name} {kind} 1 {page} -\n" for name, kind, page in entries)
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    path = INVENTORIES / f"{project}.inv"
    compressed = "# The remainder of this file is compressed using zlib.\n"
    path.write_bytes((head + compressed).encode() + zlib.compress(body.encode()))
    return str(path)


def links_of_types() -> dict[str, str]:
    """Return what the types in a docstring's tables link to: our classes, and others' by name."""
    ours = {name: getattr(adamoffload, name) for name in adamoffload.__all__}
    links = {name: f"adamoffload.{name}" for name, what in ours.items() if isinstance(what, type)}
    links |= {
        name: f":exc:`python:{name}`"
        for name, what in vars(builtins).items()
        if isinstance(what, type) and issubclass(what, Exception)
    }
    links |= {
        "Axes": "matplotlib.axes.Axes",
        "Figure": "matplotlib.figure.Figure",
        "Path": "pathlib.Path",
        "array": "array",  # of a device, too
    }
    return links


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("name", Name())
    app.connect("missing-reference", in_italics, priority=900)  # after the inventories
    return {"parallel_read_safe": True}
