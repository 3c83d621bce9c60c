"""Breaks the labs' solutions mechanically, and sees whether their graders notice.

``python tests/mutants.py`` makes every mutant of every lab, grades each in a process of its own,
and prints the table: mutants, killed, on the right task. ``python tests/mutants.py 5`` takes lab 5,
and lists those that live. A mutant that computes the same is in ``labs/equivalent.toml``, with the
reason.
"""

from __future__ import annotations

import ast
import contextlib
import multiprocessing
import signal
import sys
import tempfile
import tomllib
import unittest.mock
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from adamoffload.labs import grading
from adamoffload.labs.reasons import Mistake

from submissions import LABS, InThisProcess, solution

LIMIT_S = 3
_OPERATORS: dict[type[ast.AST], tuple[type[Any], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult, ast.Div),
    ast.Pow: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot, ast.Eq),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
_FIXED = {"lr": 0.01, "lr_t": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "scale": 64}
_NAMES = {"min": "max", "max": "min", "sum": "max", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """A solution with one thing changed: in which function or constant, from what to what.

    `node` is the number of what is changed among all nodes of the file, `new` takes its place.
    """

    lab: int
    where: str
    before: str
    after: str
    node: int
    new: ast.AST | None = field(compare=False, repr=False)

    @property
    def source(self) -> str:
        """The broken file."""
        tree = ast.parse(solution(self.lab))
        old = [*ast.walk(tree)][self.node]
        return ast.unparse(ast.fix_missing_locations(_Replaced(old, self.new).visit(tree)))


def changes(node: ast.AST, function: ast.FunctionDef | None) -> Iterator[Any]:
    """Yield what a node may be replaced by: another node, or None to delete a statement."""
    match node:
        case ast.BinOp(left, op, right):
            for other in _OPERATORS.get(type(op), ()):
                yield ast.BinOp(left, other(), right)
            if isinstance(op, ast.Sub | ast.Div | ast.FloorDiv | ast.Pow):
                yield ast.BinOp(right, op, left)
            yield from (left, right)
        case ast.AugAssign(target, op, value):
            for other in _OPERATORS.get(type(op), ()):
                yield ast.AugAssign(target, other(), value)
            yield None
        case ast.Compare(left, [op], [right]):
            for other in _OPERATORS.get(type(op), ()):
                yield ast.Compare(left, [other()], [right])
        case ast.BoolOp(op, values):
            yield ast.BoolOp(_OPERATORS[type(op)][0](), values)
            yield from values
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1 if isinstance(value, int) else 2 * value)
        case ast.Constant("d2h" | "h2d" as value):
            yield ast.Constant({"d2h": "h2d", "h2d": "d2h"}[value])
        case ast.Call(func, args, keywords):
            commutes = ast.unparse(func) in ("min", "max", "np.add", "np.multiply")
            for i in range(0 if commutes else len(args) - 1):
                swapped = [*args[:i], args[i + 1], args[i], *args[i + 2 :]]
                yield ast.Call(func, swapped, keywords)
            for i in range(len(keywords)):
                if keywords[i].arg != "strict":
                    yield ast.Call(func, args, keywords[:i] + keywords[i + 1 :])
            if len(args) == 1 and not keywords:
                yield args[0]
            if isinstance(func, ast.Name) and func.id in _NAMES:
                yield ast.Call(ast.Name(_NAMES[func.id]), args, keywords)
        case ast.Tuple(elts) if len(elts) > 1:
            for i in range(len(elts) - 1):
                yield ast.Tuple([*elts[:i], elts[i + 1], elts[i], *elts[i + 2 :]])
        case ast.IfExp(_, body, orelse):
            yield from (body, orelse)
        case ast.If(_, body, orelse):
            yield ast.If(ast.Constant(True), body, orelse)
            yield None
        case ast.Expr(ast.Constant()):
            return
        case ast.Expr() | ast.Assign() | ast.For() | ast.While() | ast.Return() | ast.Raise():
            yield None
        case ast.Name(name, ast.Load()) if function is not None:
            names = [arg.arg for arg in function.args.args if arg.arg != "self"]
            if name in names and len(names) > 1:
                yield ast.Name(names[(names.index(name) + 1) % len(names)])
            if name in _FIXED and name in names:
                yield ast.Constant(_FIXED[name])


class _Replaced(ast.NodeTransformer):
    """Replaces the node with one number, in the order in which they are visited."""

    def __init__(self, old: ast.AST, new: ast.AST | None) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        if node is self.old:
            return ast.Pass() if self.new is None else self.new
        return self.generic_visit(node)


def _written(number: int, tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Yield what the student has written, by name: methods too, and constants."""
    folder = Path(grading.__file__).parent / f"lab{number}"
    given = {ast.dump(node) for node in ast.walk(ast.parse((folder / "student.py").read_text()))}
    for node in tree.body:
        if ast.dump(node) in given:
            continue
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and ast.dump(part) not in given:
                    yield f"{node.name}.{part.name}", part
        elif isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node


@cache
def mutants(number: int) -> list[Mutant]:
    """Return every mutant of a lab's solution."""
    tree = ast.parse(solution(number))
    place = {id(node): i for i, node in enumerate(ast.walk(tree))}
    found = {}
    for where, part in _written(number, tree):
        function = part if isinstance(part, ast.FunctionDef) else None
        given = [] if function is None else [*ast.walk(function.args)]
        for node in [*ast.walk(part)][1:]:
            for new in [] if node in given else changes(node, function):
                after = "pass" if new is None else ast.unparse(new)
                if after != ast.unparse(node):
                    mutant = Mutant(number, where, _line(node), after, place[id(node)], new)
                    found[place[id(node)], after] = mutant
    return [*found.values()]


def _line(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0]


@cache
def _same() -> set[tuple[int, str, str, str]]:
    listed = tomllib.loads((LABS / "equivalent.toml").read_text())
    return {
        (int(lab.removeprefix("lab")), case["where"], case["before"], case["after"])
        for lab, cases in listed.items()
        for case in cases
    }


def equivalent(mutant: Mutant) -> bool:
    """Whether a mutant is known to compute the same."""
    return (mutant.lab, mutant.where, mutant.before, mutant.after) in _same()


def owners(number: int, where: str) -> set[str]:
    """Return the tasks that a function or constant is written for."""
    helpers = {"_ordinal": "ulp_distance", "Background._copy": "Background"}
    names = {where, where.partition(".")[0], helpers.get(where, "")}
    return {task.name for task in grading.lab(number).tasks if names & {*task.defines}}


class Impatient(InThisProcess):
    """Stops a call that does not end."""

    def _answer(self, what: str, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        signal.alarm(LIMIT_S)
        try:
            return super()._answer(what, request, limit_s)
        finally:
            signal.alarm(0)


def _stop(*_: object) -> None:
    raise Mistake("still running")


def lost(mutant: Mutant) -> list[str]:
    """Grade a mutant in this process; return the tasks in which it loses points."""
    signal.signal(signal.SIGALRM, _stop)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"lab{mutant.lab}.py"
        path.write_text(mutant.source)
        with unittest.mock.patch("adamoffload.labs.grading.Student", Impatient):
            score = grading.check(mutant.lab, path)
    return [result.task for result in score.results if result.score < result.points]


def _lost_elsewhere(mutant: Mutant) -> list[str]:
    """Grade a mutant in a process of its own, which may hang or die."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(lost(mutant)), daemon=True)
    process.start()
    there.close()
    found = ["it died"]
    if here.poll(20 * LIMIT_S):
        with contextlib.suppress(EOFError):
            found = here.recv()
    process.kill()
    process.join()
    here.close()
    return found


def main(numbers: list[int], judge: Callable[[Mutant], list[str]] = _lost_elsewhere) -> None:
    """Print the table."""
    print("lab  mutants  equivalent  killed  on the right task  elsewhere too")
    for number in numbers:
        every = mutants(number)
        alive, right, more, same = [], 0, [], 0
        for mutant in every:
            if equivalent(mutant):
                same += 1
                continue
            tasks, own = {*judge(mutant)}, owners(number, mutant.where)
            if not tasks:
                alive.append(mutant)
            right += bool(tasks & own)
            if tasks & own and tasks - own:
                more.append((mutant, tasks - own))
            elif tasks and not tasks & own:
                print(f"  elsewhere: {mutant.where}: {mutant.before} -> {mutant.after}: {tasks}")
        total = len(every) - same
        print(
            f"{number:>3}{len(every):>9}{same:>12}{total - len(alive):>8}"
            f"{right:>12} ({right / total:.1%}){len(more):>10}",
            flush=True,
        )
        for mutant in alive:
            print(f"  alive: {mutant.where}: {mutant.before} -> {mutant.after}", flush=True)


if __name__ == "__main__":
    main([int(number) for number in sys.argv[1:]] or [*grading.NUMBERS])
