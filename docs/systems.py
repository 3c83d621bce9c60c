"""The systems that this library stands beside: a table whose rows are counted where they can be.

Each row says what a system sends per parameter and step, and how that is known. Where a strategy of
this library reproduces a system, the build runs it, reads its ledger, and fails if a byte differs.
"""

from __future__ import annotations

import re
import tempfile
import tomllib
from pathlib import Path
from typing import Literal, NamedTuple

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import adamoffload as ao

TABLE = Path(__file__).with_name("systems.toml")


class System(NamedTuple):
    """What a system sends.

    Attributes
    ----------
    design : str
        Its name, the type of its weights, and what goes down and up.
    bytes : list of str
        Bytes per parameter, down and up, with one backward pass per step; ``r`` is the fraction of
        the model that is offloaded.
    many : list of str
        The same with k passes, such as ``2k+4``.
    source : str
        How that is known.
    strategy : str
        The strategy that reproduces it, if there is one.
    weights : str
        The type of the weights that it reproduces it with.
    """

    design: str
    bytes: list[str]
    many: list[str]
    source: str = ""
    strategy: str = ""
    weights: Literal["float32", "bfloat16"] = "bfloat16"


def read() -> list[System]:
    """Return all systems, in the order of the file."""
    rows = tomllib.loads(TABLE.read_text("utf-8"))["system"]
    return [System(**row) for row in rows]


N = 8192  # elements: more than torchao's least tensor


def supported(system: System) -> bool:
    """Whether this version has a strategy that reproduces a system, with such weights."""
    if system.strategy not in ao.strategies:
        return False
    try:
        ao.strategies[system.strategy].bytes_per_parameter(ao.rules.AdamW(), system.weights)
    except ValueError:  # it cannot have such weights
        return False
    return True


def value(cell: str, k: int) -> float | None:
    """Return the bytes that a cell stands for; None if it is no number."""
    if not (found := re.fullmatch(r"(?:(\d+)k)?\+?(\d+)?r?", cell)):
        return None
    slope, constant = (int(part or 0) for part in found.groups())
    return slope * k + constant


def shown(cell: str) -> str:
    """Return a cell in reStructuredText."""
    return f":math:`{cell}`" if re.search("[kr]", cell) and value(cell, 1) is not None else cell


def counted(strategy: str, weights: str, k: int) -> tuple[float, float]:
    """Run one step of k micro-steps; return the bytes per parameter, down and up, in the ledger."""
    device, ledger = ao.get_backend("numpy"), ao.Ledger()
    w = ao.Parameter(device.zeros(N, weights), name="w")
    with tempfile.TemporaryDirectory() as folder:
        optimizer = ao.Optimizer(
            [w],
            ao.rules.AdamW(),
            strategy=strategy,
            accumulate=k,
            ledger=ledger,
            directory=folder if strategy == "disk" else None,
        )
        for _ in range(k):
            optimizer([device.zeros(N, weights)])
    return ledger.bytes("d2h", step=1) / N, ledger.bytes("h2d", step=1) / N


def known(system: System) -> str:
    """Return how a row is known, having counted it if that can be."""
    if not system.strategy or not supported(system):
        return system.source
    for k, cells in ((1, system.bytes), (3, system.many)):
        expected = tuple(value(cell, k) for cell in cells)
        got = counted(system.strategy, system.weights, k)
        if None not in expected and got != expected:
            raise ExtensionError(
                f"peers: {system.strategy} with {system.weights} weights and {k} micro-steps moves "
                f"{got[0]:g} bytes down and {got[1]:g} up, and {TABLE.name} says {', '.join(cells)}"
            )
    return f"**counted**, ``{system.strategy}``" + (f"; {system.source}" if system.source else "")


class SystemsTable(Directive):
    """All systems, with bytes per parameter and step."""

    def run(self) -> list[nodes.Node]:
        self.state.document.settings.record_dependencies.add(str(TABLE))
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 46 8 8 10 10 18", ""]
        rows = [
            ("Design, and what goes down; up", "Down", "Up", "Down, *k*", "Up, *k*", "Known from"),
            *((row.design, *map(shown, row.bytes + row.many), known(row)) for row in read()),
        ]
        for cells in rows:
            marks = ("   * - ", *["     - "] * (len(cells) - 1))
            lines += [mark + cell for mark, cell in zip(marks, cells, strict=True)]
        made = nodes.Element()
        self.state.nested_parse(StringList(lines, source="systems.py"), 0, made)
        return made.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("systems-table", SystemsTable)
    return {"parallel_read_safe": True}
