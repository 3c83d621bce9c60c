"""Break the code a little, many times, and see whether a test notices.

``python tests/mutate.py plan`` does it to a room of `adamoffload`, ``python tests/mutate.py
plan/hops.py offload/arena.py`` to some modules. In a copy of the project one place is changed: a
comparison, an operator, a number, a condition, a statement that is left out. Then the module's own
tests run, and if they pass, those of its room. Who passes both has survived: a test is missing, or
the change changes nothing. The latter are listed, with the reason, in ``tests/equivalent.txt``.

``--sample 20`` takes that many of a module at random, always the same ones.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
NEEDED = ("adamoffload", "backends", "tests", "docs", "conftest.py", "pyproject.toml", "README.md")

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class Mutant(NamedTuple):
    """A module with one change."""

    module: str
    line: int
    before: str
    """The statement's first line, as the file has it."""
    change: str
    text: str

    @property
    def key(self) -> str:
        """What says which one it is, also when lines have moved."""
        return f"{self.module} | {self.before} | {self.change}"


# -- what is changed --------------------------------------------------------------------------


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, in the order of its text."""
    lines, tree = source.splitlines(), ast.parse(source)
    for path in _places(tree):
        for change in _changes(_at(tree, path)):
            changed = copy.deepcopy(tree)
            said = change(changed, path)
            line = _at(tree, path).lineno  # type: ignore[attr-defined]  # each of them has one
            yield Mutant(module, line, lines[line - 1].strip(), said, ast.unparse(changed))


Path_ = tuple[Any, ...]


def _at(tree: ast.AST, path: Path_) -> ast.AST:
    found: Any = tree
    for step in path:
        found = found[step] if isinstance(step, int) else getattr(found, step)
    return found  # type: ignore[no-any-return]


def _places(node: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yield the way to each node that may be changed: no annotations, messages, imports."""
    if isinstance(node, list):
        for i, entry in enumerate(node):
            yield from _places(entry, (*path, i))
        return
    if not isinstance(node, ast.AST) or isinstance(node, ast.JoinedStr | ast.Import | ast.Assert):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if hasattr(node, "lineno"):
        yield path
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list", "bases", "ctx"):
            if isinstance(node, ast.Raise) and name == "exc":
                continue  # the words of a message
            yield from _places(value, (*path, name))


def _changes(node: ast.AST) -> Iterator[Any]:
    """Yield what may be done to a node: functions that do it in a tree, and say what they did."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            yield _swap(("ops", i), operator)
    elif isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in _SWAPS:
        if not any(
            isinstance(part, ast.Constant | ast.JoinedStr) and not _is_number(part)
            for part in (getattr(node, "left", None), getattr(node, "right", None))
        ):
            yield _swap(("op",), node.op)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield _replace(lambda old: old.operand, "not dropped")
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield _replace(lambda old: ast.Constant(not old.value), f"{node.value} -> {not node.value}")
    elif _is_number(node):
        yield _replace(lambda old: ast.Constant(old.value + 1), f"{node.value} + 1")  # type: ignore[attr-defined]
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield _negate
    elif isinstance(node, ast.Return) and node.value is not None:
        if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield _replace(lambda _: ast.Return(ast.Constant(None)), "returns None")
    elif isinstance(node, ast.Raise | ast.AugAssign | ast.Continue | ast.Break) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant | ast.Yield)
    ):
        yield _replace(lambda _: ast.Pass(), "left out")


def _is_number(node: Any) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _swap(where: Path_, operator: ast.AST) -> Any:
    new = _SWAPS[type(operator)]

    def change(tree: ast.AST, path: Path_) -> str:
        _set(tree, (*path, *where), new())
        return f"{type(operator).__name__} -> {new.__name__}"

    return change


def _replace(make: Any, said: str) -> Any:
    def change(tree: ast.AST, path: Path_) -> str:
        _set(tree, path, ast.copy_location(make(_at(tree, path)), _at(tree, path)))
        return said

    return change


def _negate(tree: ast.AST, path: Path_) -> str:
    test: Any = _at(tree, (*path, "test"))
    _set(tree, (*path, "test"), ast.UnaryOp(ast.Not(), test))
    return "condition negated"


def _set(tree: ast.AST, path: Path_, value: ast.AST) -> None:
    parent: Any = _at(tree, path[:-1])
    if isinstance(path[-1], int):
        parent[path[-1]] = value
    else:
        setattr(parent, path[-1], value)
    ast.fix_missing_locations(tree)


# -- who notices ------------------------------------------------------------------------------


class Project:
    """A copy of the project, in which tests run in processes forked off one that has imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in NEEDED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "_build", "tutorials")
                shutil.copytree(source, folder / name, ignore=ignored)
            else:
                shutil.copy(source, folder / name)

    def passes(self, tests: list[str], limit_s: float) -> bool:
        """Return whether tests pass in the copy; what takes too long does not."""
        child = os.fork()
        if not child:
            self._run(tests)
        end = time.monotonic() + limit_s
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status == 0
            if time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return False
            time.sleep(0.02)

    def _run(self, tests: list[str]) -> None:
        code = 70
        try:
            os.setsid()
            os.chdir(self.folder)
            output = os.open(os.devnull, os.O_WRONLY)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.dont_write_bytecode = True
            paths = [str(self.folder), str(self.folder / "backends")]
            os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # processes that a test starts
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            sys.path[:0] = paths
            import pytest

            quiet = "ignore::pytest.PytestAssertRewriteWarning"  # Hypothesis is imported already
            options = ["-n", "0", "-x", "-q", "-p", "no:cacheprovider", "-W", quiet]
            code = int(pytest.main([*options, *tests]))
        finally:
            sys.stdout.flush()
            os._exit(code)


def _tests(module: str) -> tuple[list[str], list[str]]:
    """Return a module's own tests, with its examples, and those of its room."""
    room, name = module.split("/")
    own = f"tests/{room}/test_{name}"
    others = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tests" / room).glob("test_*.py"))
    return [own, f"adamoffload/{module}"], [path for path in others if path != own]


def _equivalent() -> set[str]:
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []
    return {line.rpartition(" | ")[0] for line in lines if line and not line.startswith("#")}


def _modules(given: Sequence[str]) -> list[str]:
    folder = ROOT / "adamoffload"
    paths = [p for name in given for p in ([folder / name] if name.endswith(".py") else _in(name))]
    return [str(path.relative_to(folder)) for path in paths]


def _in(room: str) -> list[Path]:
    found = sorted((ROOT / "adamoffload" / room).glob("*.py"))
    return [path for path in found if path.name != "__init__.py"]


class Score(NamedTuple):
    """How many mutants were noticed, how many not, and how many change nothing."""

    killed: int
    survived: int
    equivalent: int

    def __str__(self) -> str:
        share = self.killed / max(self.killed + self.survived, 1)
        return f"{self.killed} killed, {self.survived} survived ({share:.1%}), " + (
            f"{self.equivalent} equivalent"
        )


def judge(project: Project, module: str, sample: int | None, known: Container[str]) -> Score:
    """Try the mutants of a module, and print those that survive."""
    target = project.folder / "adamoffload" / module
    original = target.read_text()
    found = [*mutants(module, original)]
    if sample is not None and sample < len(found):
        chosen = random.Random(module).sample(range(len(found)), sample)
        found = [found[i] for i in sorted(chosen)]
    suites = []
    for tests in _tests(module):
        begin = time.monotonic()
        if not project.passes(tests, 600):
            raise SystemExit(f"{', '.join(tests)}: fails as it is")
        suites.append((tests, 5 + 4 * (time.monotonic() - begin)))
    counts = {"killed": 0, "survived": 0, "equivalent": 0}
    for mutant in found:
        verdict = "equivalent"
        if mutant.key not in known:
            target.write_text(mutant.text)
            noticed = not all(project.passes(*suite) for suite in suites)
            target.write_text(original)
            verdict = "killed" if noticed else "survived"
        if verdict == "survived":
            print(f"survived, line {mutant.line}: {mutant.key}", flush=True)
        counts[verdict] += 1
    return Score(**counts)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="+", help="rooms, or modules: plan, offload/arena.py")
    parser.add_argument("--sample", type=int, help="of each module; all if left out")
    arguments = parser.parse_args()
    for package in ("numpy", "hypothesis.extra.numpy", "pytest", "numba"):  # once, for all
        with suppress(ImportError):
            import_module(package)
    known, scores = _equivalent(), []
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        for module in _modules(arguments.modules):
            scores.append(judge(project, module, arguments.sample, known))
            print(f"{module}: {scores[-1]}", flush=True)
    print(f"in all: {Score(*map(sum, zip(*scores, strict=True)))}")


if __name__ == "__main__":
    main()
