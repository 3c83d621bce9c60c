"""Compares what we think CuPy has with what the installed one has. No GPU is needed.

Run in an environment with CuPy and NumPy and nothing of ours: ``python tests/cupy_names.py``. The
names are those that the backend's source uses, and those that its stand-in (`fake_cupy.py`) offers;
signatures are compared where Python can read them, if only from the first line of a docstring.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

import fake_cupy

BACKEND = Path(__file__).parents[1] / "backends" / "adamoffload_cupy" / "__init__.py"


def used(source: str) -> set[str]:
    """Return the dotted names that begin with ``cupy``, ``cupyx`` or ``self._cupy``."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        dotted = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        match = re.fullmatch(r"(?:self\._)?(cupyx?(?:\.\w+)+)", dotted)
        if match:
            names.add(match[1])
    return names


def found(dotted: str) -> Any:
    """Return what a dotted name stands for in the installed CuPy."""
    first, *rest = dotted.split(".")
    return reduce(getattr, rest, __import__(first))


def signature(function: Any) -> inspect.Signature | None:
    """Return a signature, which a compiled function has in its docstring at best."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        pass
    first, _, _ = (inspect.getdoc(function) or "").partition("\n")
    match = re.fullmatch(r"[\w.]+\((?:self(?:, )?)?(.*?)\)(?: ->.*)?", first)
    try:
        return inspect.signature(eval(f"lambda self, {match[1]}: None")) if match else None
    except SyntaxError:
        return None


def differences(ours: inspect.Signature, theirs: inspect.Signature) -> Iterator[str]:
    """Say what a call that ours takes would meet in theirs."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    there = [p for p in theirs.parameters.values() if p.kind in positional]
    any_number = any(p.kind is p.VAR_POSITIONAL for p in theirs.parameters.values())
    any_name = any(p.kind is p.VAR_KEYWORD for p in theirs.parameters.values())
    for i, mine in enumerate(ours.parameters.values()):
        if mine.kind in (mine.VAR_POSITIONAL, mine.VAR_KEYWORD):
            if mine.kind not in (p.kind for p in theirs.parameters.values()):
                yield f"takes no {mine}"
        elif mine.kind in positional:
            if i >= len(there):
                if not any_number and not (any_name or mine.name in theirs.parameters):
                    yield f"has no parameter {mine.name!r} in place {i}"
            elif there[i].name != mine.name:
                yield f"calls parameter {i} {there[i].name!r}, not {mine.name!r}"
            elif there[i].default is mine.empty and mine.default is not mine.empty:
                yield f"requires {mine.name!r}"
        elif mine.name not in theirs.parameters and not any_name:
            yield f"has no parameter {mine.name!r}"
    for other in there:
        if other.default is other.empty and other.name not in ours.parameters:
            yield f"requires {other.name!r}"


def faults() -> Iterator[str]:
    """Say what the installed CuPy lacks or has otherwise."""
    import cupy

    for name in sorted(used(BACKEND.read_text(encoding="utf-8"))):
        try:
            found(name)
        except AttributeError:
            yield f"the backend uses {name}, which does not exist"
    for name in sorted(fake_cupy.UFUNCS):
        ufunc = getattr(cupy, name, None)
        if ufunc is None or not callable(ufunc):
            yield f"cupy.{name} does not exist"
        elif name != getattr(np, name).__name__:
            yield f"np.{name} is another ufunc's alias, and looked up under that one's name"
    for name, ours in fake_cupy.SIGNATURES.items():
        try:
            theirs = signature(found(f"cupy.{name}"))
        except AttributeError:
            yield f"cupy.{name} does not exist"
            continue
        if theirs is not None:
            yield from (f"cupy.{name} {fault}" for fault in differences(ours, theirs))
    for path, played in fake_cupy.OFFERED.items():
        real = found(f"cupy.{path}")
        for name in [name for name in dir(played) if not name.startswith("_")]:
            if not hasattr(real, name):
                yield f"cupy.{path}.{name} does not exist"
                continue
            theirs, method = signature(getattr(real, name)), getattr(played, name)
            if theirs is not None and callable(method):
                ours = inspect.signature(method)
                yield from (f"cupy.{path}.{name} {fault}" for fault in differences(ours, theirs))


if __name__ == "__main__":
    import cupy

    wrong = list(faults())
    print(*wrong, f"CuPy {cupy.__version__}: {len(wrong)} differences", sep="\n")
    sys.exit(bool(wrong))
