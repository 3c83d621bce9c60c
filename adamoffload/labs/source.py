"""Reads a student's file without running it: its length, which lab it is of, what it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from adamoffload.labs.student import Cheating, Mistake

__all__ = ["given_names", "refuse"]

_LONGEST_BYTES = 1 << 20


def refuse(source: bytes, number: int, others: Sequence[int], forbidden: Sequence[str]) -> None:
    """Say why a file is not worth running, if there is a reason.

    Parameters
    ----------
    source : bytes
        What the file holds.
    number : int
        The lab that it is to solve.
    others : sequence of int
        The labs that it may be of instead.
    forbidden : sequence of str
        Modules, or names in them, that it may not import.

    Raises
    ------
    Mistake
        If the file is too long or too deeply nested to be read, or is that of another lab.
    Cheating
        If it imports what is forbidden.

    Examples
    --------
    >>> refuse(b"import torch", 1, (), ["torch"])
    Traceback (most recent call last):
    adamoffload.labs.student.Cheating: line 1 imports torch, which solves the lab; write it yourself
    """
    if len(source) > _LONGEST_BYTES:
        raise Mistake("the file is longer than 1 MiB; a lab's file has a few kilobytes")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # loading it will say what is wrong
    except (MemoryError, RecursionError):  # what the parser says of an expression without end
        raise Mistake("Python cannot read the file: an expression is nested too deeply") from None
    _refuse_another_lab(_defined(tree), number, others)
    _refuse_imports(tree, forbidden)


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


def _refuse_imports(tree: ast.Module, forbidden: Sequence[str]) -> None:
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        for name in names:
            if any(name == module or name.startswith(f"{module}.") for module in forbidden):
                line = getattr(node, "lineno", 0)
                raise Cheating(
                    f"line {line} imports {name}, which solves the lab; write it yourself"
                )
