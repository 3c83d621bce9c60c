"""Threads that share work: the blocks of an update, on all cores.

NumPy gives up the interpreter lock inside every ufunc on more than a few hundred elements, and so
do compiled loops, so blocks are computed at the same time. The result does not depend on the blocks
or the threads: every element is computed by itself.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from adamoffload.arguments import positive_integer
from adamoffload.engine.kernel import Blockwise, Span

__all__ = ["Workers", "available_cores"]

Block = TypeVar("Block")


class Workers:
    """Threads that share blocks of work; the calling thread is one of them.

    They are started when they are needed first, and end with the `Workers`. They do not survive a
    fork: a process that was forked while a step ran elsewhere must not use them.

    Parameters
    ----------
    threads : int, optional
        How many; as many as this process may use cores, if left out. If the system refuses to
        start one, the work is shared by fewer.

    Examples
    --------
    >>> import numpy as np
    >>> from adamoffload.engine.kernel import NumpyKernel
    >>> from adamoffload.engine.program import trace
    >>> kernel = NumpyKernel(trace(lambda x, *, a: (a * x,), ["x"], ["a"]))
    >>> x = np.ones(100_000, np.float32)
    >>> values = kernel.program.bind({"a": np.float32(3)})
    >>> Workers(threads=2).update(kernel, [x], [(0, 50_000, values)])
    >>> x[49_998:50_002]
    array([3., 3., 1., 1.], dtype=float32)
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = (
            available_cores()
            if threads is None
            else positive_integer("AdamOffload", "threads", threads)
        )
        self._workers: list[_Worker] = []
        self._busy = threading.Lock()
        self._scratch = _Scratch()

    def run(self, work: Callable[[Block], object], blocks: Iterable[Block]) -> None:
        """Call ``work(block)`` for each of the blocks, in any thread; return when all is done.

        What one call raises is raised here, when all have stopped; blocks not begun are left out.
        Infinities and NaN pass without a warning in the other threads; in the calling thread, its
        own ``np.errstate`` holds.
        """
        blocks = list(blocks)
        if len(blocks) == 1:
            work(blocks[0])
            return
        queue = iter(blocks)  # next() is atomic: each block is taken once

        def share() -> None:
            try:
                for block in queue:
                    work(block)
            except BaseException:
                for _ in queue:  # leave nothing to the others
                    pass
                raise

        wanted = min(self.threads, len(blocks)) - 1
        if wanted <= 0 or not self._busy.acquire(blocking=False):
            share()  # also when another thread has the workers
            return
        try:
            errors = self._share(share, self._ready(wanted))
        finally:
            self._busy.release()
        for error in errors:
            if error is not None:
                raise error

    def update(self, kernel: Blockwise, arrays: Sequence[Any], spans: Sequence[Span]) -> None:
        """Run a kernel over spans of the arrays, as `run` does.

        Parameters
        ----------
        kernel : Kernel
            What to run.
        arrays : sequence of ndarray, shape (n,), float32
            The program's arrays; updated in place.
        spans : sequence of Span
            Which elements, and what they are computed with; they do not overlap.
        """

        def work(block: Sequence[Span]) -> None:
            scratch = self.scratch(kernel)
            for start, stop, values in block:
                kernel([array[start:stop] for array in arrays], values, scratch)

        self.run(work, self.blocks(spans, kernel.block_size))

    def blocks(self, spans: Sequence[Span], block_size: int) -> list[list[Span]]:
        """Cut and join spans to blocks: runs of neighbours with `block_size` elements at most.

        Enough for all threads, but none so small that waking a thread costs more than it does.
        """
        size = sum(stop - start for start, stop, _ in spans)
        step = min(block_size, max(_SMALLEST_SHARE, -(-size // self.threads)))
        blocks: list[list[Span]] = []
        free, end = 0, -1
        for start, stop, values in spans:
            if start != end:
                free = 0
            while start < stop:
                if not free:
                    blocks.append([])
                    free = step
                end = min(stop, start + free)
                blocks[-1].append((start, end, values))
                free -= end - start
                start = end
        return blocks

    def scratch(self, kernel: Blockwise) -> Any:
        """Return the calling thread's scratch of a kernel."""
        of_kernel = self._scratch.of_kernel
        if kernel not in of_kernel:
            of_kernel[kernel] = kernel.scratch()
        return of_kernel[kernel]

    def settle(self) -> None:
        """Wait until no other thread is at work any more, as after a `run` that was interrupted."""
        for worker in self._workers:
            worker.finish()

    def _share(
        self, work: Callable[[], None], workers: Sequence[_Worker]
    ) -> list[BaseException | None]:
        """Do the work together with others; return what they raised."""
        try:
            for worker in workers:
                worker.start(work)
            work()
        finally:  # whatever happens here, nobody may still be writing afterwards
            errors = [worker.finish() for worker in workers]
        return errors

    def _ready(self, count: int) -> list[_Worker]:
        """Return workers that wait for work: new ones for those that are not there any more."""
        self.settle()
        self._workers = [worker for worker in self._workers if worker.alive]
        with suppress(RuntimeError):  # no more threads to be had: fewer do it too
            while len(self._workers) < count:
                worker = _Worker()
                weakref.finalize(self, worker.stop)
                self._workers.append(worker)
        return self._workers[:count]


class _Scratch(threading.local):
    """Buffers of each thread, by kernel."""

    def __init__(self) -> None:
        self.of_kernel: dict[Blockwise, Any] = {}


class _Worker:
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
