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
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np

from adamoffload.program import Instruction, Program, Register

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
        self._loop = _compiled(source(program), program)

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


def _compiled(text: str, program: Program) -> Callable[..., None]:
    array, scalar = numba.float32[::1], numba.float32
    arguments = [array] * len(program.arrays) + [scalar] * len(_arguments(program))
    options: Any = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    try:
        function, cache = _from_cache_folder(text), True
    except OSError:  # a home that cannot be written to: compile in every process
        function, cache = _from_text(text), False
    compiler: Any = numba.njit(numba.void(*arguments), cache=cache, **options)
    loop: Callable[..., None] = compiler(function)
    return loop


def _from_cache_folder(text: str) -> Any:
    """Import the source from a file, since Numba caches only what has one."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adamoffload"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"loop_{digest}.py"
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False) as file:
            file.write(text + "\n")
        os.replace(file.name, path)  # atomic: another process may be doing the same
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
