"""The ``numba`` engine: the same program, compiled into one fused loop.

`adamoffload.engine.program` has reduced the rule to float32 operations in a fixed order. Here they
become the body of a loop, in Python source that Numba compiles without any licence to reorder: each
element gives the same bits as NumPy. The loop runs in the threads of `adamoffload.engine.team`,
without the interpreter lock. `adamoffload.engine.cache` keeps the machine code.

Importing this module needs Numba (extra ``fast``).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from keyword import iskeyword
from typing import Any

import numba
import numpy as np

from adamoffload.engine.cache import compiled
from adamoffload.engine.program import Instruction, Program, Register

__all__ = ["NumbaKernel", "source"]

# What gives the bits of NumPy. Of a logarithm, say, there are as many versions as libraries.
_EXPRESSIONS: dict[np.ufunc, str] = {
    np.add: "{} + {}",
    np.subtract: "{} - {}",
    np.multiply: "{} * {}",
    np.divide: "{} / {}",
    np.negative: "-{}",
    np.positive: "{}",
    np.absolute: "abs({})",
    np.greater: "{} > {}",
    np.greater_equal: "{} >= {}",
    np.less: "{} < {}",
    np.less_equal: "{} <= {}",
    np.equal: "{} == {}",
    np.not_equal: "{} != {}",
    np.square: "{0} * {0}",
    # Of 0 and -0 NumPy takes the second, and its sign of -0 is 0; a NaN stays one in all three.
    np.maximum: "{0} if {0} > {1} or {0} != {0} else {1}",
    np.minimum: "{0} if {0} < {1} or {0} != {0} else {1}",
    np.sign: "{0} if {0} != {0} else np.float32({0} > 0) - np.float32({0} < 0)",
    **{
        ufunc: f"np.{ufunc.__name__}({', '.join(['{}'] * ufunc.nin)})"
        for ufunc in (np.sqrt, np.reciprocal, np.floor, np.ceil, np.trunc, np.rint, np.copysign)
    },
}


class NumbaKernel:
    """A program compiled into one loop over its arrays.

    Parameters
    ----------
    program : Program
        What to compile.

    Raises
    ------
    TypeError
        If the program computes in something else than float32, or with a function that would not
        give the bits of NumPy's.
    """

    name = "numba"
    block_size = 262_144  # one pass, nothing to keep in the cache: only few, equal shares matter

    def __init__(self, program: Program) -> None:
        self.program = program
        self._arguments = _arguments(program)
        array, scalar = numba.float32[::1], numba.float32
        self._types = [array] * len(program.arrays) + [scalar] * len(self._arguments)
        self._loop = compiled(source(program), numba.void(*self._types))

    def scratch(self) -> None:
        """Allocate nothing: intermediate values stay in registers of the processor."""

    def __call__(self, arrays: Sequence[Any], values: Sequence[Any], _: None) -> None:
        """Run the loop over one block of the arrays, in place."""
        self._loop(*arrays, *[np.float32(values[i]) for i in self._arguments])

    def watch(
        self, arrays: Sequence[Any], values: Sequence[Any], _: None, ends: Any, limits: Any
    ) -> Any:
        """Run the loop over one block, and sum up what it reads and leaves there.

        One call, since a thread that comes back from compiled code has to wait for the interpreter
        lock; where sums had calls of their own, that took longer than the update.
        """
        sums = np.zeros((len(ends), 1 + len(arrays), 5))
        scalars = [np.float32(values[i]) for i in self._arguments]
        self._watching(*arrays, *scalars, ends, limits, sums)
        return sums

    @cached_property
    def _watching(self) -> Callable[..., Any]:
        more = [numba.intp[::1], numba.float32[:, ::1], numba.float64[:, :, ::1]]
        free = {"reassoc", "contract"}  # sums may be taken in any order
        return compiled(
            _watching_source(self.program),
            numba.void(*self._types, *more),
            "watched",
            {"loop": {}, "add_up": {"fastmath": free}},
        )


def source(program: Program) -> str:
    """Return the loop as Python source.

    Examples
    --------
    >>> from adamoffload.engine.program import trace
    >>> print(source(trace(lambda x, *, a: (a * x + 1,), ["x"], ["a"])))
    import numpy as np
    <BLANKLINE>
    def loop(x, a, c2):
        for i in range(x.size):
            r0 = x[i]
            r0 = a * r0
            r0 = r0 + c2
            x[i] = r0
    """
    registers = program.registers
    for register in registers:
        weak = isinstance(register.value, bool | int | float)
        if register.dtype not in (np.float32, np.bool_) and not weak:
            raise TypeError(
                f"engine 'numba' computes in float32 only, but the rule computes "
                f"{register.name} in {register.dtype}; use engine='numpy'"
            )
    arrays = [(i, _argument(r.name)) for i, r in enumerate(registers) if r.kind == "array"]
    names = [_name(i, registers[i]) for i in _arguments(program)]
    lines = ["import numpy as np", ""]
    lines.append(f"def loop({', '.join([*(name for _, name in arrays), *names])}):")
    lines.append(f"    for i in range({arrays[0][1]}.size):")
    lines += [f"        r{i} = {name}[i]" for i, name in arrays]
    lines += [f"        {_statement(line, registers)}" for line in program.body]
    lines += [f"        {name}[i] = r{i}" for i, name in arrays]
    return "\n".join(lines)


def _arguments(program: Program) -> list[int]:
    """Return the registers that the loop reads and does not write: its scalar arguments."""
    used = {i for line in program.body for i in line.operands}
    return sorted(i for i in used if program.registers[i].kind not in ("array", "scratch"))


def _name(number: int, register: Register) -> str:
    if register.kind in ("array", "scratch"):
        return f"r{number}"
    return f"c{number}" if register.kind == "constant" else _argument(register.name)


def _argument(name: str) -> str:
    """Return a name that is none of the loop's own, nor a word of Python."""
    own = re.fullmatch(r"(i|np|abs|range|[rc]\d+)_*", name)
    return f"{name}_" if own or iskeyword(name.rstrip("_")) else name


def _statement(line: Instruction, registers: Sequence[Register]) -> str:
    operands = []
    for i in line.operands:
        name = _name(i, registers[i])
        mask = registers[i].dtype == np.bool_ and registers[line.result].dtype != np.bool_
        operands.append(f"np.float32({name})" if mask else name)
    if line.ufunc not in _EXPRESSIONS:
        raise TypeError(
            f"engine 'numba' has no np.{line.ufunc.__name__} that gives the bits of NumPy's; "
            f"use engine='numpy'"
        )
    return f"r{line.result} = {_EXPRESSIONS[line.ufunc].format(*operands)}"


def add_up(x: Any, before: int, limit: Any, sums: Any) -> None:
    """Add the sums of a segment to `array_sums` of what comes before it."""
    squares, total, below = np.float32(0), np.float32(0), np.int32(0)
    for i in range(x.size):
        squares += x[i] * x[i]
    sound = 1e-26 < squares < np.inf  # else they have overflowed, or lost digits
    if sound:
        sums[0] += squares
    else:
        for i in range(x.size):
            sums[0] += np.float64(x[i]) ** 2
    if limit >= 0:
        for i in range(x.size):
            total += x[i]
            below += np.int32(x[i] < limit)
        sums[2] += below
        if sound:
            sums[1] += total
        else:
            for i in range(x.size):
                sums[1] += x[i]
                sums[3] += x[i] == np.inf
    if sums[4] == before:  # all finite so far
        finite = x.size if sound else 0
        while finite < x.size and np.isfinite(x[finite]):
            finite += 1
        sums[4] += finite


def _watching_source(program: Program) -> str:
    """Return a loop around `loop`: by segments, which are in the cache when they are summed up."""
    count = len(program.arrays)
    arrays = [f"x{k}" for k in range(count)]
    scalars = [f"c{k}" for k in range(len(_arguments(program)))]
    segments = [f"s{k}" for k in range(count)]

    def add(k: int) -> str:
        where = f"first - start, limits[part, {k}], sums[part, {k}]"
        return f"            add_up(s{k % count}, {where})"

    lines = [
        *("from __future__ import annotations", source(program), "", inspect.getsource(add_up)),
        f"def watched({', '.join([*arrays, *scalars])}, ends, limits, sums):",
        "    start = 0",
        "    for part in range(ends.size):",
        "        for first in range(start, ends[part], 1024):",
        "            last = min(first + 1024, ends[part])",
        *(f"            s{k} = x{k}[first:last]" for k in range(count)),
        add(0),
        f"            loop({', '.join([*segments, *scalars])})",
        *map(add, range(1, count + 1)),
        "        start = ends[part]",
    ]
    return "\n".join(lines)
