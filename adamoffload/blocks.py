"""Runs a program over flat arrays: in blocks that fit the cache, on all cores.

A `Team` of threads shares the blocks; NumPy gives up the interpreter lock inside every ufunc on
more than a few hundred elements, so they run at the same time. The result does not depend on the
blocks or the threads: every element is computed by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from adamoffload.arguments import describe, positive_integer
from adamoffload.program import Program

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["ENGINES", "Kernel", "NumpyKernel", "Span", "Team", "available_cores", "kernel_type"]

ENGINES = ("auto", "numpy", "numba")

Flat = np.ndarray[Any, np.dtype[np.float32]]

Span = tuple[int, int, Sequence[Any]]
"""Elements from start to stop, and the bound values that they are computed with."""


class Kernel(Protocol):
    """A program made ready to run on blocks.

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

    def __call__(self, arrays: Sequence[Flat], values: Sequence[Any], scratch: Any, /) -> None:
        """Run the program on one block of the arrays, in place."""


class NumpyKernel:
    """Calls a program's ufuncs on a block, one after the other.

    Parameters
    ----------
    program : Program
        What to run.

    Notes
    -----
    The block size is a measured compromise, see ``tests/benchmarks/block_size.py``. A block of
    three arrays and one scratch buffer of 64k elements takes 1 MiB, which stays in a second-level
    cache; smaller blocks lose time in handing over the interpreter lock, 24 times a block.
    """

    name = "numpy"
    block_size = 65_536

    def __init__(self, program: Program) -> None:
        self.program = program
        kinds = [register.kind for register in program.registers]
        self._arrays = [i for i, kind in enumerate(kinds) if kind == "array"]
        self._scratch = [i for i, kind in enumerate(kinds) if kind == "scratch"]
        self._body = [(line.ufunc, line.operands, line.result) for line in program.body]

    def scratch(self) -> list[np.ndarray[Any, Any]]:
        """Allocate the scratch buffers of one thread."""
        registers = self.program.registers
        return [np.empty(self.block_size, registers[i].dtype) for i in self._scratch]

    def __call__(self, arrays: Sequence[Flat], values: Sequence[Any], scratch: Any) -> None:
        """Run the program on one block of the arrays, in place."""
        registers = list(values)
        for i, array in zip(self._arrays, arrays, strict=True):
            registers[i] = array
        size = arrays[0].size
        for i, buffer in zip(self._scratch, scratch, strict=True):
            registers[i] = buffer[:size]
        for ufunc, operands, result in self._body:
            ufunc(*[registers[i] for i in operands], out=registers[result])


class Team:
    """Threads that share the blocks of an update; the calling thread is one of them.

    Parameters
    ----------
    threads : int, optional
        How many; as many as this process may use cores, if left out.

    Examples
    --------
    >>> import numpy as np
    >>> from adamoffload.program import trace
    >>> kernel = NumpyKernel(trace(lambda x, *, a: (a * x,), ["x"], ["a"]))
    >>> x = np.ones(100_000, np.float32)
    >>> values = kernel.program.bind({"a": np.float32(3)})
    >>> Team(threads=2).run(kernel, [x], [(0, 50_000, values)])
    >>> x[49_998:50_002]
    array([3., 3., 1., 1.], dtype=float32)
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = (
            available_cores()
            if threads is None
            else positive_integer("AdamOffload", "threads", threads)
        )
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = 0
        self._scratch: dict[tuple[int, int], Any] = {}

    def run(self, kernel: Kernel, arrays: Sequence[Flat], spans: Sequence[Span]) -> None:
        """Run a kernel over spans of the arrays; return when all is done.

        Parameters
        ----------
        kernel : Kernel
            What to run.
        arrays : sequence of ndarray, shape (n,), float32
            The program's arrays; updated in place.
        spans : sequence of Span
            Which elements, and what they are computed with; they do not overlap.
        """
        blocks = self._blocks(kernel, spans)
        helpers = min(self.threads, len(blocks)) - 1
        queue = iter(blocks)  # next() is atomic: each block is taken once

        def work(member: int) -> None:
            scratch = self._scratch_of(kernel, member)
            with np.errstate(all="ignore"):  # a thread starts with NumPy's defaults
                for start, stop, values in queue:
                    kernel([array[start:stop] for array in arrays], values, scratch)

        if helpers <= 0:
            work(0)
            return
        pool = self._threads()
        futures = [pool.submit(work, member) for member in range(1, helpers + 1)]
        try:
            work(0)
        finally:  # whatever happens here, nobody may still be writing afterwards
            errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error

    def _blocks(self, kernel: Kernel, spans: Sequence[Span]) -> list[Span]:
        size = sum(stop - start for start, stop, _ in spans)
        # Enough blocks for all, but none so small that waking a thread costs more than it does.
        step = min(kernel.block_size, max(_SMALLEST_SHARE, -(-size // self.threads)))
        return [
            (begin, min(begin + step, stop), values)
            for start, stop, values in spans
            for begin in range(start, stop, step)
        ]

    def _scratch_of(self, kernel: Kernel, member: int) -> Any:
        key = (id(kernel), member)
        if key not in self._scratch:
            self._scratch[key] = kernel.scratch()
        return self._scratch[key]

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None or self._pool_process != os.getpid():  # threads do not survive a fork
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self.threads - 1, "adamoffload")
            self._pool_process = os.getpid()
        return self._pool


_SMALLEST_SHARE = 16_384


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def kernel_type(owner: str, engine: object) -> Callable[[Program], Kernel]:
    """Return the kernel of an engine.

    Parameters
    ----------
    owner : str
        Who asks, for messages.
    engine : str
        ``"numpy"``, ``"numba"``, or ``"auto"``: Numba if it is installed.

    Raises
    ------
    TypeError, ValueError
        If there is no such engine.
    ImportError
        If Numba was asked for and is not installed.
    """
    if not isinstance(engine, str):
        raise TypeError(f"{owner}: engine must be a string, got {describe(engine)}")
    if engine not in ENGINES:
        raise ValueError(f"{owner}: engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if engine == "numpy":
        return NumpyKernel
    try:
        from adamoffload.fused import NumbaKernel
    except ImportError as error:
        if engine == "auto":
            return NumpyKernel
        raise ImportError(
            f"{owner}: engine 'numba' needs Numba ({error}); install it with "
            f"python3 -m pip install 'adamoffload[fast]'"
        ) from error
    return NumbaKernel
