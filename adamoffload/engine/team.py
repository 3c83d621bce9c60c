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
from typing import Any

import numpy as np

from adamoffload.arguments import positive_integer
from adamoffload.device.backend import on_fork
from adamoffload.engine.kernel import Flat, Kernel, Span

__all__ = ["Team", "available_cores"]


class Team:
    """Threads that share the blocks of an update; the calling thread is one of them.

    Parameters
    ----------
    threads : int, optional
        How many; as many as this process may use cores, if left out.

    Examples
    --------
    >>> import numpy as np
    >>> from adamoffload.engine.kernel import NumpyKernel
    >>> from adamoffload.engine.program import trace
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
