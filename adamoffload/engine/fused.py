"""The ``numba`` engine: the same program, compiled into one fused loop.

`adamoffload.engine.program` has reduced the rule to float32 operations in a fixed order. Here they
become the body of a loop, in Python source that Numba compiles without any licence to reorder: each
element gives the same bits as NumPy. The loop runs in the threads of `adamoffload.engine.team`,
without the interpreter lock. The source lies in the user's cache folder, where Numba keeps the
machine code beside it, so that only the first process ever waits for the compiler.

Importing this module needs Numba (extra ``fast``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numba
import numpy as np

from adamoffload.engine.program import Instruction, Program, Register
from adamoffload.engine.sums import Rows, Sums
from adamoffload.files import replacing

__all__ = ["NumbaKernel", "source", "summing_source"]

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
        arguments = [array] * len(program.arrays) + [scalar] * len(self._arguments)
        self._loop = _compiled(source(program), numba.void(*arguments))

    def scratch(self) -> None:
        """Allocate nothing: intermediate values stay in registers of the processor."""

    def __call__(self, arrays: Sequence[Any], values: Sequence[Any], _: None) -> None:
        """Run the loop over one block of the arrays, in place."""
        self._loop(*arrays, *[np.float32(values[i]) for i in self._arguments])

    def summed(
        self,
        arrays: Sequence[Any],
        values: Sequence[Any],
        _: None,
        smallest: np.float32,
        rows: Rows,
    ) -> Sums:
        """Run the loop and sum up (`adamoffload.engine.sums`), a few thousand elements at a time.

        Before and after they are updated, these are in the processor's nearest cache.
        """
        totals, nonfinite = np.empty((7, rows.count)), np.empty(rows.count, np.int64)
        scalars = [np.float32(values[i]) for i in self._arguments]
        self._summing_loop(*arrays, *scalars, smallest, rows.cuts, totals, nonfinite)
        finite = math.isfinite(totals.sum())
        found = [] if finite else nonfinite[nonfinite >= 0].tolist()
        return Sums(lambda: totals, finite, found, totals.nbytes)

    @cached_property
    def _summing_loop(self) -> Callable[..., Any]:
        array, scalar = numba.float32[::1], numba.float32
        types = [array] * 3 + [scalar] * (len(self._arguments) + 1)
        cuts, totals = numba.int64[::1], numba.float64[:, ::1]
        return _compiled(summing_source(self.program), numba.void(*types, cuts, totals, cuts))


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
    arrays = [i for i, register in enumerate(registers) if register.kind == "array"]
    names = [_name(i, registers[i]) for i in _arguments(program)]
    lines = ["import numpy as np", ""]
    lines.append(f"def loop({', '.join([*program.arrays, *names])}):")
    lines.append(f"    for i in range({program.arrays[0]}.size):")
    lines += [f"        r{i} = {registers[i].name}[i]" for i in arrays]
    lines += [f"        {_statement(line, registers)}" for line in program.body]
    lines += [f"        {registers[i].name}[i] = r{i}" for i in arrays]
    return "\n".join(lines)


def _arguments(program: Program) -> list[int]:
    """Return the registers that the loop reads and does not write: its scalar arguments."""
    used = {i for line in program.body for i in line.operands}
    return sorted(i for i in used if program.registers[i].kind not in ("array", "scratch"))


def _name(number: int, register: Register) -> str:
    if register.kind in ("array", "scratch"):
        return f"r{number}"
    return f"c{number}" if register.kind == "constant" else register.name


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


_SUMMING = """\
import numpy as np
from numba import njit

@njit(error_model="numpy", boundscheck=False)
{update}

@njit(fastmath={{"reassoc"}}, boundscheck=False)
def square(x):
    total = np.float32(0)
    for i in range(x.size):
        total += x[i] * x[i]
    return total

@njit(fastmath={{"reassoc"}}, boundscheck=False)
def several(m, v, delta, smallest):
    mm = vv = dd = once = np.float32(0)
    small = np.int32(0)
    for i in range(m.size):
        mm += m[i] * m[i]
        vv += v[i] * v[i]
        dd += delta[i] * delta[i]
        once += v[i]
        small += np.int32(v[i] < smallest)
    return mm, vv, dd, once, small

def loop({arguments}, smallest, cuts, totals, nonfinite):
    for row in range(cuts.size - 1):
        gg = mm = vv = dd = once = 0.0
        small = infinite = 0
        nonfinite[row] = -1
        for start in range(cuts[row], cuts[row + 1], 4096):
            stop = min(start + 4096, cuts[row + 1])
            a, b, c = g[start:stop], m[start:stop], v[start:stop]
            part = square(a)
            if 1e-27 < part < np.inf:
                gg += part
            else:
                for i in range(a.size):
                    gg += np.float64(a[i]) ** 2
                    if nonfinite[row] < 0 and not np.isfinite(a[i]):
                        nonfinite[row] = start + i
            update({call})
            parts = several(b, c, a, smallest)
            small += parts[4]
            if 1e-27 < min(parts[:4]) and max(parts[:4]) < np.inf:
                mm += parts[0]
                vv += parts[1]
                dd += parts[2]
                once += parts[3]
            else:
                for i in range(a.size):
                    mm += np.float64(b[i]) ** 2
                    vv += np.float64(c[i]) ** 2
                    dd += np.float64(a[i]) ** 2
                    once += c[i]
                    infinite += c[i] == np.inf
        totals[0, row], totals[1, row], totals[2, row], totals[3, row] = gg, mm, vv, dd
        totals[4, row], totals[5, row], totals[6, row] = once, small, infinite"""


def summing_source(program: Program) -> str:
    """Return a loop that sums up while it runs the program, as Python source.

    The program's own loop stays as it is, to the bit. In the sums the order of addition does not
    matter, so that the compiler may choose it; float32 is twice as fast as float64 and does for
    4096 elements, unless it overflows or underflows.
    """
    scalars = [f"s{i}" for i in _arguments(program)]
    return _SUMMING.format(
        update=source(program).partition("\n\n")[2].replace("def loop", "def update"),
        arguments=", ".join(["g", "m", "v", *scalars]),
        call=", ".join(["a", "b", "c", *scalars]),
    )


def _compiled(text: str, signature: Any) -> Callable[..., Any]:
    options: Any = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    try:
        function, cached = _from_cache_folder(text), True
    except OSError:  # a home that cannot be written to: compile in every process
        function, cached = _from_text(text), False
    compiler: Any = numba.njit(signature, cache=cached, **options)
    loop: Callable[..., Any] = compiler(function)
    return loop


def _from_cache_folder(text: str) -> Any:
    """Import the source from a file, since Numba caches only what has one."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adamoffload"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"loop_{digest}.py"
    if not path.exists():
        with replacing(path) as file:  # another process may be doing the same
            file.write(f"{text}\n".encode())
    if path.read_text() != text + "\n":
        raise OSError(f"{path} does not hold what was written to it")
    spec = importlib.util.spec_from_file_location(f"adamoffload_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Numba looks the module up when it reads its cache
    spec.loader.exec_module(module)
    return module.loop


def _from_text(text: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(compile(text, "<adamoffload>", "exec"), namespace)
    return namespace["loop"]
