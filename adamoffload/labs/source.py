"""Reads what a student hands in without running it: which lab it is of, what it imports."""

from __future__ import annotations

import ast
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamoffload.labs.reasons import Cheating, Mistake

__all__ = ["Source", "given_names", "read", "refuse", "without_unused"]

_LONGEST_BYTES = 1 << 20
_LABS = "adamoffload.labs"
_IMPORTERS = frozenset({"__import__", "import_module", "find_spec", "run_module"})


@dataclass(frozen=True, slots=True)
class Source:
    """A student's code.

    Attributes
    ----------
    name : str
        The file's name, for tracebacks.
    code : bytes
        The code; that of a notebook is its cells, one after the other.
    begins : tuple of int
        The line of the code with which each cell of a notebook begins; empty for a plain file.
    """

    name: str
    code: bytes
    begins: tuple[int, ...] = ()

    def where(self, line: int) -> str:
        """Return where a line is, as its author sees it.

        Examples
        --------
        >>> Source("lab1.py", b"").where(3), Source("lab1.ipynb", b"", (1, 3)).where(4)
        ('line 3', 'cell 2, line 2')
        """
        cell = bisect_right(self.begins, line)
        return f"cell {cell}, line {line - self.begins[cell - 1] + 1}" if cell else f"line {line}"


def read(path: Path) -> Source:
    """Read a Python file or a notebook.

    Of a notebook, the code cells count, less the lines that only IPython reads (``%`` and ``!``).

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    Mistake
        If it is too long, or a notebook that cannot be read.
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        code = file.read(_LONGEST_BYTES + 1)
    notebook = path.suffix == ".ipynb" or (code.lstrip().startswith(b"{") and b'"cells"' in code)
    if len(code) > _LONGEST_BYTES:
        more = "; clear the outputs of the notebook" if notebook else ""
        raise Mistake(f"the file is longer than 1 MiB; a lab's file has a few kilobytes{more}")
    return _notebook(path.name, code) if notebook else Source(path.name, code)


def _notebook(name: str, text: bytes) -> Source:
    lines: list[str] = []
    begins: list[int] = []
    try:
        for cell in json.loads(text)["cells"]:
            if cell["cell_type"] == "code":
                begins.append(len(lines) + 1)
                lines += [_python(line) for line in "".join(cell["source"]).splitlines()]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Mistake(
            "the notebook cannot be read; save it again, or hand in the code as a .py file"
        ) from None
    return Source(name, "\n".join([*lines, ""]).encode(errors="replace"), tuple(begins))


def _python(line: str) -> str:
    """Return a line of a notebook's cell; what is IPython's own becomes ``pass``."""
    bare = line.lstrip()
    indent = line[: len(line) - len(bare)]
    return f"{indent}pass" if bare.startswith(("%", "!")) else line


def refuse(code: bytes, number: int, others: Sequence[int], forbidden: Sequence[str]) -> None:
    r"""Say why a file is not worth running, if there is a reason.

    Parameters
    ----------
    code : bytes
        What the file holds.
    number : int
        The lab that it is to solve.
    others : sequence of int
        The labs that it may be of instead.
    forbidden : sequence of str
        Modules, or names in them, that it may not import and use.

    Raises
    ------
    Mistake
        If the file is too deeply nested to be read, or is that of another lab.
    Cheating
        If it imports what is forbidden, and uses it, or anything of the labs.

    Examples
    --------
    >>> refuse(b"import torch\ntorch.ones(3)", 1, (), ["torch"])
    Traceback (most recent call last):
    adamoffload.labs.reasons.Cheating: line 1 imports torch, which solves the lab; write it yourself
    """
    tree = _parsed(code)
    if tree is None:
        return  # loading it will say what is wrong
    _refuse_another_lab(_defined(tree), number, others)
    for node, name in _forbidden(tree, (*forbidden, _LABS)):
        if _is_of(name, [_LABS]) or not _unused(tree, node):
            line = getattr(node, "lineno", 0)
            raise Cheating(f"line {line} imports {name}, which solves the lab; write it yourself")


def without_unused(code: bytes, forbidden: Sequence[str]) -> bytes:
    r"""Return code in which forbidden imports that nothing uses are ``pass``, on the same lines.

    Examples
    --------
    >>> without_unused(b"import torch\nimport math, torch as t\nmath.pi", ["torch"])
    b'pass\nimport math\nmath.pi'
    """
    tree = _parsed(code)
    found = {id(node): node for node, _ in _forbidden(tree, forbidden)} if tree else {}
    lines = code.splitlines(keepends=True)
    for node in found.values():
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        node.names = [alias for alias in node.names if not _is_of(_full(node, alias), forbidden)]
        new = ast.unparse(node).encode() if node.names else b"pass"
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        start, stop = node.col_offset, node.end_col_offset or 0
        rest = lines[last][stop:]
        blank = [b"\n"] * (last - first)
        lines[first : last + 1] = [lines[first][:start] + new + rest, *blank]
    return b"".join(lines)


def given_names(number: int) -> frozenset[str]:
    """Return the names that the file of a lab comes with.

    Parameters
    ----------
    number : int
        Which lab, from 1.

    Examples
    --------
    >>> sorted(given_names(1))[:2]
    ['ALTERNATING', 'FIRST_STEP_SIZES']
    """
    file = Path(__file__).parent / f"lab{number}" / "student.py"
    return _defined(ast.parse(file.read_bytes()))


def _parsed(code: bytes) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError):
        return None
    except (MemoryError, RecursionError):  # what the parser says of an expression without end
        raise Mistake("Python cannot read the file: an expression is nested too deeply") from None


def _defined(tree: ast.Module) -> frozenset[str]:
    return frozenset(_names(tree))


def _names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _refuse_another_lab(found: frozenset[str], number: int, others: Sequence[int]) -> None:
    """Refuse a file with all names of another lab, and with none that only this one has."""
    own = found & given_names(number)
    for other in others:
        names = given_names(other)
        if other != number and names <= found and own <= names:
            raise Mistake(f"this is the file of lab {other}: adamoffload lab check {other} FILE")


def _is_of(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _full(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    return alias.name if isinstance(node, ast.Import) else f"{node.module or ''}.{alias.name}"


def _forbidden(tree: ast.Module, forbidden: Sequence[str]) -> Iterator[tuple[ast.AST, str]]:
    """Yield each import of what is forbidden, also by a function that takes a module's name."""
    for node in ast.walk(tree):
        names: list[Any] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [_full(node, alias) for alias in node.names]
        elif isinstance(node, ast.Call) and _last_name(node.func) in _IMPORTERS:
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
        elif isinstance(node, ast.Subscript) and _last_name(node.value) == "modules":
            names = [node.slice.value] if isinstance(node.slice, ast.Constant) else []
        for name in names:
            if isinstance(name, str) and _is_of(name, forbidden):
                yield node, name


def _last_name(node: ast.AST) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def _unused(tree: ast.Module, node: ast.AST) -> bool:
    """Whether `node` is an import of names that stand nowhere else in the file."""
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return False
    bound = {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    used = {other.id for other in ast.walk(tree) if isinstance(other, ast.Name)}
    return "*" not in bound and not bound & used
