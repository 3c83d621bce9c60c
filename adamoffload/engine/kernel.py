"""How a program runs on one block of memory: a kernel for each engine.

The result does not depend on the block: every element is computed by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from adamoffload.arguments import choice
from adamoffload.engine.program import Program
from adamoffload.engine.sums import array_sums

__all__ = ["ENGINES", "Blockwise", "Flat", "Kernel", "NumpyKernel", "Span", "kernel_type"]

ENGINES = ("auto", "numpy", "numba")

Flat = np.ndarray[Any, np.dtype[np.float32]]

Span = tuple[int, int, Sequence[Any]]
"""Elements from start to stop, and the bound values that they are computed with."""


class Blockwise(Protocol):
    """What runs a program on blocks.

    Attributes
    ----------
    name : str
        The engine's name.
    program : Program
        What it runs.
    block_size : int
        Elements of a block, at most.
    """

    name: str
    program: Program
    block_size: int

    def scratch(self) -> Any:
        """Allocate what one thread needs."""

    def __call__(self, arrays: Sequence[Any], values: Sequence[Any], scratch: Any, /) -> None:
        """Run the program on one block of its arrays, in place.

        Parameters
        ----------
        arrays : sequence of ndarray, shape (n,)
            Of a `Kernel`, float32, and as many as the program has.
        values : sequence
            Of a `Kernel`, what `Program.bind` returned.
        scratch : object
            The calling thread's.
        """


class Kernel(Blockwise, Protocol):
    """A program made ready to run on blocks of float32."""

    def watch(
        self, arrays: Sequence[Flat], values: Sequence[Any], scratch: Any, ends: Any, limits: Any, /
    ) -> Any:
        """Run the program on one block, and sum up what it reads and leaves there.

        Parameters
        ----------
        arrays, values, scratch
            As in a call.
        ends : ndarray, shape (parts,), intp
            Where each part of the block ends; each begins where the last one ends.
        limits : ndarray, shape (parts, 1 + arrays), float32
            What the elements are compared with, or `NO_LIMIT`.

        Returns
        -------
        ndarray, shape (parts, 1 + arrays, 5), float64
            What `adamoffload.engine.sums.array_sums` says of the first array before, of the others
            after, and of the first after.
        """


class NumpyKernel:
    """Calls a program's ufuncs on a block, one after the other.

    The arrays may be a device's as well: whatever has ufuncs with ``out=``.

    Parameters
    ----------
    program : Program
        What to run.

    Notes
    -----
    The block size is a measured compromise (``tests/benchmarks/block_size.py``). Three arrays and
    a scratch buffer of 128k elements take 2 MiB, about what a second-level cache holds. Smaller
    blocks lose more by handing over the interpreter lock, which costs two threads some 6 us a
    ufunc: 1.4 ns a parameter with 128k elements, 1.8 with 64k, 2.6 with 32k, on two cores.
    """

    name = "numpy"
    block_size = 1 << 17

    def __init__(self, program: Program) -> None:
        self.program = program
        kinds = [register.kind for register in program.registers]
        self._arrays = [i for i, kind in enumerate(kinds) if kind == "array"]
        self._scratch = [i for i, kind in enumerate(kinds) if kind == "scratch"]
        self._body = [(line.ufunc, line.operands, line.result) for line in program.body]

    def scratch(self, empty: Callable[[int, Any], Any] = np.empty) -> list[Any]:
        """Allocate the scratch buffers of one thread; `empty` takes a size and a dtype."""
        registers = self.program.registers
        return [empty(self.block_size, registers[i].dtype) for i in self._scratch]

    def __call__(self, arrays: Sequence[Any], values: Sequence[Any], scratch: Any) -> None:
        """Run the program on one block of the arrays, in place."""
        registers = list(values)
        for i, array in zip(self._arrays, arrays, strict=True):
            registers[i] = array
        size = arrays[0].size
        for i, buffer in zip(self._scratch, scratch, strict=True):
            registers[i] = buffer[:size]
        for ufunc, operands, result in self._body:
            ufunc(*[registers[i] for i in operands], out=registers[result])

    @np.errstate(all="ignore")
    def watch(
        self, arrays: Sequence[Any], values: Sequence[Any], scratch: Any, ends: Any, limits: Any
    ) -> Any:
        """Run the program on one block, and sum up what it reads and leaves there."""
        parts = [slice(*ends) for ends in pairwise([0, *ends.tolist()])]
        before = [array_sums(arrays[0][part]) for part in parts]
        self(arrays, values, scratch)
        after = [*arrays[1:], arrays[0]]
        sums = [
            [first, *[array_sums(x[part], its[k]) for k, x in enumerate(after, 1)]]
            for part, first, its in zip(parts, before, limits.tolist(), strict=True)
        ]
        return np.array(sums, np.float64).reshape(len(parts), 1 + len(arrays), 5)


def kernel_type(owner: str, engine: object) -> Callable[[Program], Kernel]:
    """Return the kernel of an engine.

    Parameters
    ----------
    owner : str
        Who asks, for messages.
    engine : str
        ``"numpy"``, ``"numba"``, or ``"auto"``: Numba if it is installed and has all that the
        program calls.

    Raises
    ------
    TypeError, ValueError
        If there is no such engine.
    ImportError
        If Numba was asked for and is not installed.
    """
    if choice(owner, "engine", engine, ENGINES) == "numpy":
        return NumpyKernel
    try:
        from adamoffload.engine.fused import NumbaKernel
    except ImportError as error:
        if engine == "auto":
            return NumpyKernel
        raise ImportError(
            f"{owner}: engine 'numba' needs Numba ({error}); install it with "
            f"python3 -m pip install 'adamoffload[fast]'"
        ) from error

    def numba_if_possible(program: Program) -> Kernel:
        try:
            return NumbaKernel(program)
        except TypeError:
            return NumpyKernel(program)

    return numba_if_possible if engine == "auto" else NumbaKernel
