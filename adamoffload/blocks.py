"""Runs a program over flat arrays: in blocks that fit the cache, on all cores.

A `Team` of threads shares the blocks; NumPy gives up the interpreter lock inside every ufunc on
more than a few hundred elements, so they run at the same time. The result does not depend on the
blocks or the threads: every element is computed by itself.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from adamoffload.arguments import choice, positive_integer
from adamoffload.backend import on_fork
from adamoffload.program import Program
from adamoffload.sums import Rows, Sums, summed

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

    def summed(
        self,
        arrays: Sequence[Flat],
        values: Sequence[Any],
        scratch: Any,
        smallest: np.float32,
        rows: Rows,
        /,
    ) -> Sums:
        """Run the program on arrays of any size, in place, and sum up: `adamoffload.sums`."""


class NumpyKernel:
    """Calls a program's ufuncs on a block, one after the other.

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

    def summed(
        self,
        arrays: Sequence[Flat],
        values: Sequence[Any],
        scratch: Any,
        smallest: np.float32,
        rows: Rows,
    ) -> Sums:
        """Run the program on arrays of any size, in place, and sum up: `adamoffload.sums`."""
        g, m, v = arrays

        def run() -> None:
            for begin in range(0, g.size, self.block_size):
                block = slice(begin, begin + self.block_size)
                self([array[block] for array in arrays], values, scratch)

        return summed(run, g, m, v, smallest, rows)


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
        self._helpers: list[_Helper] = []
        self._process = 0
        self._scratch = _Scratch()
        self._forked()
        on_fork(self)

    def run(self, kernel: Kernel, arrays: Sequence[Flat], spans: Sequence[Span]) -> None:
        """Run a kernel over spans of the arrays; return when all is done.

        Infinities and NaN pass without a warning in the helpers; in the calling thread, its own
        ``np.errstate`` holds.

        Parameters
        ----------
        kernel : Kernel
            What to run.
        arrays : sequence of ndarray, shape (n,), float32
            The program's arrays; updated in place.
        spans : sequence of Span
            Which elements, and what they are computed with; they do not overlap.
        """
        size = sum(stop - start for start, stop, _ in spans)
        if size <= min(_SMALLEST_SHARE, kernel.block_size):
            scratch = self._scratch_of(kernel)
            for start, stop, values in spans:  # not worth a second thread
                kernel([array[start:stop] for array in arrays], values, scratch)
            return
        blocks = self._blocks(kernel, spans, size)
        queue = iter(blocks)  # next() is atomic: each block is taken once

        def work() -> None:
            scratch = self._scratch_of(kernel)
            try:
                for start, stop, values in queue:
                    kernel([array[start:stop] for array in arrays], values, scratch)
            except BaseException:
                for _ in queue:  # leave nothing to the others
                    pass
                raise

        wanted = min(self.threads, len(blocks)) - 1
        if wanted <= 0 or not self._busy.acquire(blocking=False):
            work()  # also when another thread has the helpers
            return
        try:
            errors = self._share(work, self._ready(wanted))
        finally:
            self._busy.release()
        for error in errors:
            if error is not None:
                raise error

    def settle(self) -> None:
        """Wait until no helper is writing any more, as after a `run` that was interrupted."""
        for helper in self._helpers:
            helper.finish()

    def _share(
        self, work: Callable[[], None], helpers: Sequence[_Helper]
    ) -> list[BaseException | None]:
        """Do the work together with helpers; return what they raised."""
        try:
            for helper in helpers:
                helper.start(work)
            work()
        finally:  # whatever happens here, nobody may still be writing afterwards
            errors = [helper.finish() for helper in helpers]
        return errors

    def _blocks(self, kernel: Kernel, spans: Sequence[Span], size: int) -> list[Span]:
        # Enough blocks for all, but none so small that waking a thread costs more than it does.
        step = min(kernel.block_size, max(_SMALLEST_SHARE, -(-size // self.threads)))
        return [
            (begin, min(begin + step, stop), values)
            for start, stop, values in spans
            for begin in range(start, stop, step)
        ]

    def _scratch_of(self, kernel: Kernel) -> Any:
        of_kernel = self._scratch.of_kernel
        if kernel not in of_kernel:
            of_kernel[kernel] = kernel.scratch()
        return of_kernel[kernel]

    def _ready(self, count: int) -> list[_Helper]:
        """Return helpers that wait for work: new ones for those that are not there any more."""
        if self._process != os.getpid():  # threads do not survive a fork
            self._helpers, self._process = [], os.getpid()
        self.settle()
        self._helpers = [helper for helper in self._helpers if helper.alive]
        while len(self._helpers) < count:
            helper = _Helper()
            weakref.finalize(self, helper.stop)
            self._helpers.append(helper)
        return self._helpers[:count]

    def _forked(self) -> None:
        self._busy = threading.Lock()


class _Scratch(threading.local):
    """Buffers of each thread, by kernel."""

    def __init__(self) -> None:
        self.of_kernel: dict[Kernel, Any] = {}


class _Helper:
    """A thread that does what it is given, and sleeps in between.

    Whether it has work is `_work` and nothing else. The locks only wake somebody up, so one wake-up
    too many, or one that an interrupt has swallowed, does no harm. Two locks, since a step waits
    for them: a future of `concurrent.futures` costs 35 us more.
    """

    def __init__(self) -> None:
        self._go, self._done = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._work: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._loop, name="adamoffload", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread can be given work."""
        return self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        self._error = None
        self._work = work
        _open(self._go)

    def finish(self) -> BaseException | None:
        """Wait until there is no work left, from any start; return what it raised."""
        # The wait is short, at most a block: giving up the processor beats sleeping, from which
        # waking would take 60 us.
        for _ in range(_TURNS):
            if self._work is None:
                return self._error
            time.sleep(0)
        while self._work is not None:
            if not self._done.acquire(timeout=_PATIENCE_S):
                _open(self._go)  # in case the start was interrupted
                if not self.alive:
                    self._work = None
                    self._error = RuntimeError("a thread that shared the update has died")
        return self._error

    def stop(self) -> None:
        self._stopped = True
        _open(self._go)

    def _loop(self) -> None:
        with np.errstate(all="ignore"):  # a thread starts with NumPy's defaults
            while True:
                self._go.acquire()
                if self._stopped:
                    return
                if self._work is None:
                    continue
                try:
                    self._work()
                except BaseException as error:
                    self._error = error
                self._work = None  # the arrays must not live on in here
                _open(self._done)


def _open(lock: threading.Lock) -> None:
    with suppress(RuntimeError):  # it is open
        lock.release()


_TURNS = 1000
_PATIENCE_S = 0.1
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
    if choice(owner, "engine", engine, ENGINES) == "numpy":
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
