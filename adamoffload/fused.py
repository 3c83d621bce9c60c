"""The ``numba`` engine: the same program, compiled into one fused loop.

`adamoffload.program` has reduced the rule to float32 operations in a fixed order. Here they become
the body of a loop, in Python source that Numba compiles without any licence to reorder: each
element gives the same bits as NumPy. The loop runs in the threads of `adamoffload.blocks`, without
the interpreter lock. The source lies in the user's cache folder, where Numba keeps the machine code
beside it, so that only the first process ever waits for the compiler.

Importing this module needs Numba (extra ``fast``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np

from adamoffload.files import replacing
from adamoffload.program import Instruction, Program, Register
from adamoffload.sums import Rows, Sums

__all__ = ["NumbaKernel", "source"]

_OPERATORS = {
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
        If the program computes in something else than float32.
    """

    name = "numba"
    block_size = 262_144  # one pass, nothing to keep in the cache: only few, equal shares matter

    def __init__(self, program: Program) -> None:
        self.program = program
        self._arguments = _arguments(program)
        array, scalar = numba.float32[::1], numba.float32
        arguments = [array] * len(program.arrays) + [scalar] * len(self._arguments)
        self._loop = _compiled(source(program), numba.void(*arguments))

    def squares(self, g: Any, rows: Rows) -> Sums:
        """Do what `adamoffload.sums.squares` does, compiled on first use."""
        return _summed_up(_squares(), g, rows=rows, count=1)

    def sums(self, m: Any, v: Any, delta: Any, smallest: Any, rows: Rows) -> Sums:
        """Do what `adamoffload.sums.sums` does, compiled on first use."""
        return _summed_up(_sums(), m, v, delta, smallest, rows=rows, count=6)

    def scratch(self) -> None:
        """Allocate nothing: intermediate values stay in registers of the processor."""

    def __call__(self, arrays: Sequence[Any], values: Sequence[Any], _: None) -> None:
        """Run the loop over one block of the arrays, in place."""
        self._loop(*arrays, *[np.float32(values[i]) for i in self._arguments])


def source(program: Program) -> str:
    """Return the loop as Python source.

    Examples
    --------
    >>> from adamoffload.program import trace
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
    call = f"np.{line.ufunc.__name__}({', '.join(['{}'] * line.ufunc.nin)})"
    pattern = _OPERATORS.get(line.ufunc, call)
    return f"r{line.result} = {pattern.format(*operands)}"


_SQUARES = """\
import numpy as np

def loop(x, cuts, out):
    for row in range(cuts.size - 1):
        total = 0.0
        for start in range(cuts[row], cuts[row + 1], 4096):
            part = x[start : min(start + 4096, cuts[row + 1])]
            xx = np.float32(0)
            for i in range(part.size):
                xx += part[i] * part[i]
            if 1e-27 < xx < np.inf:
                total += xx
            else:
                for i in range(part.size):
                    total += np.float64(part[i]) ** 2
        out[0, row] = total"""

_SUMS = """\
import numpy as np

def loop(m, v, delta, smallest, cuts, out):
    for row in range(cuts.size - 1):
        mm = vv = dd = total = 0.0
        small = infinite = 0
        for start in range(cuts[row], cuts[row + 1], 4096):
            stop = min(start + 4096, cuts[row + 1])
            a, b, c = m[start:stop], v[start:stop], delta[start:stop]
            aa = bb = cc = once = np.float32(0)
            below = np.int32(0)
            for i in range(a.size):
                aa += a[i] * a[i]
                bb += b[i] * b[i]
                cc += c[i] * c[i]
                once += b[i]
                below += np.int32(b[i] < smallest)
            small += below
            if 1e-27 < min(aa, bb, cc, once) and max(aa, bb, cc, once) < np.inf:
                mm += aa
                vv += bb
                dd += cc
                total += once
            else:
                for i in range(a.size):
                    mm += np.float64(a[i]) ** 2
                    vv += np.float64(b[i]) ** 2
                    dd += np.float64(c[i]) ** 2
                    total += b[i]
                    infinite += b[i] == np.inf
        out[0, row], out[1, row], out[2, row] = mm, vv, dd
        out[3, row], out[4, row], out[5, row] = total, small, infinite"""


@cache
def _squares() -> Callable[..., None]:
    """Compile `adamoffload.sums.squares`: there the order of addition does not matter.

    Float32 is twice as fast as float64 and does for 4096 elements, unless it overflows or
    underflows.
    """
    array, cuts, out = numba.float32[::1], numba.int64[::1], numba.float64[:, ::1]
    return _compiled(_SQUARES, numba.void(array, cuts, out), fastmath={"reassoc"})


@cache
def _sums() -> Callable[..., None]:
    """Compile `adamoffload.sums.sums`, likewise."""
    array, cuts, out = numba.float32[::1], numba.int64[::1], numba.float64[:, ::1]
    signature = numba.void(array, array, array, numba.float32, cuts, out)
    return _compiled(_SUMS, signature, fastmath={"reassoc"})


def _summed_up(loop: Callable[..., None], *arguments: Any, rows: Rows, count: int) -> Sums:
    totals = np.empty((count, rows.count))
    loop(*arguments, rows.cuts, totals)
    return Sums(bool(np.isfinite(totals).all()), lambda: [*totals], totals.nbytes)


def _compiled(text: str, signature: Any, **options: Any) -> Callable[..., Any]:
    options |= {"nogil": True, "error_model": "numpy", "boundscheck": False}
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
