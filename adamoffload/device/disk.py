"""Arrays on a disk: files of one array each, read and written by two threads.

A `Directory` holds the files of one optimizer, and nobody else's. `DiskArray` is a part of a file,
and is sliced like an array; its data comes and goes explicitly, at once with `DiskArray.read` and
`DiskArray.write`, or with a ticket through `Backend.read` and `Backend.write`.

The files live as long as the directory is open. They change in every step and are of no use once
the process has died in the middle of one, so they are no checkpoint: closing removes them, and what
a killed process has left behind is refused. A file named ``adamoffload-open`` tells: it is there,
locked by the process that uses it, from opening to closing.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from queue import SimpleQueue

import numpy as np

from adamoffload.device.backend import HostArray, Stored, Ticket

try:
    import fcntl
except ImportError:  # not a Unix: the marker's being there is the lock
    fcntl = None  # type: ignore[assignment]

__all__ = ["Directory", "DiskArray", "DiskFile"]

_MARKER = "adamoffload-open"
_FLOAT32 = np.dtype(np.float32)
_BLOCK = 1 << 20  # bytes of zeros that are written at once


class Directory:
    """A directory that is open for the files of one optimizer.

    Parameters
    ----------
    owner : str
        Who opens it, for messages.
    path : str or path-like
        It exists, and no optimizer uses it.

    Raises
    ------
    TypeError
        If `path` is no path.
    FileNotFoundError, NotADirectoryError
        If it is not there, or no directory.
    FileExistsError
        If files are in there that a process has left behind.
    RuntimeError
        If it is in use.
    OSError
        If it cannot be written. Nothing is left in it.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as path:
    ...     directory = Directory("Optimizer", path)
    ...     m = directory.create("m", 5)
    ...     m[1:3].write(np.array([2, 3], np.float32))
    ...     x = m.read()
    ...     directory.close()
    >>> x
    array([0., 2., 3., 0., 0.], dtype=float32)
    """

    def __init__(self, owner: str, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):  # from untyped code
            raise TypeError(f"{owner}: directory must be a path, got {path!r}")
        self._owner, self._path = owner, os.path.abspath(path)
        if not os.path.exists(self._path):
            raise FileNotFoundError(f"{owner}: directory {self._path!r} does not exist; make it")
        if not os.path.isdir(self._path):
            raise NotADirectoryError(f"{owner}: directory {self._path!r} is no directory")
        marker = os.path.join(self._path, _MARKER)
        try:
            handle = _locked(owner, self._path, marker)
        except OSError as error:
            raise self._failed(error) from error
        self._reader, self._writer = _Worker("adamoffload-read"), _Worker("adamoffload-write")
        self._files: list[DiskFile] = []
        everything = (self._reader, self._writer), self._files, marker, handle, os.getpid()
        self._release = weakref.finalize(self, _release, *everything)

    def create(self, name: str, size: int) -> DiskArray:
        """Make a file of zeros for an array of `size` float32, and return the array.

        Raises
        ------
        OSError
            If it cannot be made, as where the disk has no room for all of it, or is there already.
        """
        path = os.path.join(self._path, f"{name}.float32")
        try:
            file = DiskFile(path, 4 * size, self._reader, self._writer)
        except OSError as error:
            raise self._failed(error, f"{name} takes {4 * size:,} bytes") from error
        self._files.append(file)
        return DiskArray(file, 0, (size,))

    def settle(self) -> None:
        """Wait until nothing is being read or written any more."""
        self._reader.settle()
        self._writer.settle()

    def close(self) -> None:
        """Wait for what is under way, and remove the files; once, however often it is called."""
        self.settle()
        self._release()

    def _failed(self, error: OSError, what: str = "") -> OSError:
        if isinstance(error, FileExistsError) and error.errno is None:
            return error  # it says everything
        why = "; ".join(filter(None, [error.strerror or str(error), what]))
        return OSError(
            error.errno, f"{self._owner}: directory {self._path!r} cannot be used: {why}"
        )


def _locked(owner: str, directory: str, marker: str) -> int:
    """Make the marker, and return it open and locked: a handle that dies with the process."""
    try:
        handle = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        left = (
            f"{owner}: directory {directory!r} holds files of a run that was not closed, which are "
            f"of no use any more: delete them ({_MARKER!r} and *.float32), and resume from a "
            f"checkpoint"
        )
        if fcntl is None:
            raise FileExistsError(f"{left}; unless another optimizer is using them") from None
        handle = os.open(marker, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"{owner}: directory {directory!r} is used by another optimizer; name another one"
            ) from None
        finally:
            os.close(handle)
        raise FileExistsError(left) from None
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)  # waits for who may just be looking at it
    except BaseException:
        _discard(marker, handle)
        raise
    return handle


def _release(
    workers: tuple[_Worker, ...], files: list[DiskFile], marker: str, handle: int, process: int
) -> None:
    """End the threads, remove the files, and at last the marker.

    The garbage collector may call this in any thread, so that it waits for none.
    """
    if os.getpid() != process:  # a forked child: all of this is its parent's
        return
    for worker in workers:
        worker.stop()
    for file in files:
        file.remove()
    _discard(marker, handle)


def _discard(marker: str, handle: int) -> None:
    if fcntl is None:  # not a Unix: what is open cannot be deleted
        os.close(handle)
    with suppress(FileNotFoundError):
        os.unlink(marker)
    if fcntl is not None:  # not before: an unlocked marker is that of a process that has died
        os.close(handle)


class DiskFile:
    """A new file of zeros, in which bytes are read and written.

    Parameters
    ----------
    path : str
        Where; nothing is there.
    nbytes : int
        Its size, which does not change.
    reader, writer : _Worker
        Who does what is asked for with a ticket.
    """

    def __init__(self, path: str, nbytes: int, reader: _Worker, writer: _Worker) -> None:
        self.path, self.reader, self.writer = path, reader, writer
        # One handle each, so that reading and writing need not wait for each other; both move.
        # Reentrant: the garbage collector may call `remove` anywhere, also in these threads.
        self._moving = {"read": threading.RLock(), "written": threading.RLock()}
        self._writing = FileIO(path, "xb")
        try:
            self._fill(nbytes)
            self._reading = FileIO(path, "rb")
        except BaseException:
            self._writing.close()
            os.unlink(path)
            raise

    def _fill(self, nbytes: int) -> None:
        # Every byte gets its place on the disk now: a full disk is found here, not in a step.
        if hasattr(os, "posix_fallocate") and nbytes:
            os.posix_fallocate(self._writing.fileno(), 0, nbytes)
            return
        zeros = memoryview(bytes(min(nbytes, _BLOCK)))
        for offset in range(0, nbytes, _BLOCK):
            self.write(zeros[: nbytes - offset], offset)

    def read(self, target: memoryview, offset: int) -> None:
        """Fill `target` from the bytes at `offset`.

        Raises
        ------
        ValueError
            If the file was closed.
        OSError
            If the disk fails, or the file was cut off.
        """
        self._all(self._reading, "read", self._reading.readinto, target, offset)

    def write(self, source: memoryview, offset: int) -> None:
        """Put `source` at `offset`; raises as `read` does."""
        self._all(self._writing, "written", self._writing.write, source, offset)

    def _all(
        self,
        file: FileIO,
        done: str,
        operation: Callable[[memoryview], int | None],
        view: memoryview,
        offset: int,
    ) -> None:
        with self._moving[done]:
            if file.closed:
                raise ValueError(f"{self.path!r} was removed when its optimizer was closed")
            file.seek(offset)
            while len(view):  # the system may do a part of it
                count = operation(view)
                if not count:
                    raise OSError(f"{self.path!r}: {len(view):,} bytes could not be {done}")
                view = view[count:]

    def settle(self) -> None:
        """Wait until nothing is being read or written any more."""
        self.reader.settle()
        self.writer.settle()

    def remove(self) -> None:
        """Close and delete it; what is under way comes to its end before, or fails."""
        with self._moving["read"]:
            self._reading.close()
        with self._moving["written"]:
            self._writing.close()
        with suppress(FileNotFoundError):
            os.unlink(self.path)


class DiskArray(Stored):
    """A part of a file, with a shape: float32, one after the other in C order.

    Parameters
    ----------
    file : DiskFile
        Where it is.
    start : int
        Elements before it.
    shape : tuple of int
        Its own.
    """

    dtype = _FLOAT32

    def __init__(self, file: DiskFile, start: int, shape: tuple[int, ...]) -> None:
        self.file, self.start, self.shape = file, start, shape
        self.ndim, self.size = len(shape), math.prod(shape)
        self.nbytes = 4 * self.size

    def __getitem__(self, where: slice) -> DiskArray:
        """Return a view of a range of a 1-D array."""
        start, stop, step = where.indices(self.size)
        if self.ndim != 1 or step != 1:
            raise ValueError(f"{self!r}: only ranges of a 1-D array are views; read() it")
        return DiskArray(self.file, self.start + start, (max(0, stop - start),))

    def reshape(self, shape: int | tuple[int, ...]) -> DiskArray:
        """Return a view of another shape, or of one dimension for -1."""
        new = (self.size,) if shape == -1 else shape
        if not isinstance(new, tuple) or math.prod(new) != self.size:
            raise ValueError(f"{self!r} cannot be reshaped to {shape}")
        return DiskArray(self.file, self.start, new)

    @property
    def span(self) -> tuple[int, int]:
        """Its first byte and the one after its last; no memory is there, nor another file."""
        start = (id(self.file) << 64) + 4 * self.start
        return start, start + self.nbytes

    def read(self, out: HostArray | None = None) -> HostArray:
        """Return what is there when nothing is under way any more: a new array, or `out`."""
        self.file.settle()
        target = np.empty(self.shape, _FLOAT32) if out is None else out
        self._read(target)
        return target

    def write(self, source: HostArray) -> None:
        """Write `source` when nothing is under way any more."""
        self.file.settle()
        self._write(source)

    def start_read(
        self, target: HostArray, after: tuple[Ticket, ...], now: Callable[[], float]
    ) -> Ticket:
        """Let the reading thread fill `target` once `after` is done."""
        return self.file.reader.start(lambda: self._read(target), after, now)

    def start_write(
        self, source: HostArray, after: tuple[Ticket, ...], now: Callable[[], float]
    ) -> Ticket:
        """Let the writing thread write `source` once `after` is done."""
        return self.file.writer.start(lambda: self._write(source), after, now)

    def _read(self, target: HostArray) -> None:
        self.file.read(_bytes(target), 4 * self.start)

    def _write(self, source: HostArray) -> None:
        self.file.write(_bytes(source), 4 * self.start)

    def __repr__(self) -> str:
        return f"float32 of shape {self.shape} in {self.file.path!r}"


def _bytes(array: HostArray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


class _Worker:
    """A thread that does one thing after the other, in the order in which they were asked for.

    What it waits for was asked for before, of it or of the other one, so that the two cannot wait
    for each other.
    """

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[_Operation | None] = SimpleQueue()
        self._process = os.getpid()
        self._stopped = False
        # It knows the queue only: else an optimizer that nobody uses would live on in it.
        threading.Thread(target=_loop, args=(self._queue,), name=name, daemon=True).start()

    def start(
        self,
        work: Callable[[], object],
        after: tuple[Ticket, ...] = (),
        now: Callable[[], float] = time.perf_counter,
    ) -> _Operation:
        """Have something done once `after` is done."""
        if self._stopped:
            raise ValueError("the files were removed when their optimizer was closed")
        if self._process != os.getpid():
            raise ValueError("an optimizer's files cannot be used in a forked process")
        operation = _Operation(work, after, now)
        self._queue.put(operation)
        return operation

    def settle(self) -> None:
        """Wait until all that was asked for so far is done, or has failed."""
        if not self._stopped:
            self.start(_nothing).wait()

    def stop(self) -> None:
        """End after what was asked for so far, without waiting for it."""
        self._stopped = True
        self._queue.put(None)


def _loop(queue: SimpleQueue[_Operation | None]) -> None:
    while (operation := queue.get()) is not None:
        operation.run()
        del operation  # an array may be as large as the memory that is left


def _nothing() -> None:
    """Only be a place in the queue."""


class _Operation(Ticket):
    """The ticket of something that a thread does."""

    __slots__ = ("_after", "_done", "_error", "_now", "_times", "_work")

    def __init__(
        self, work: Callable[[], object], after: tuple[Ticket, ...], now: Callable[[], float]
    ) -> None:
        self._work, self._after, self._now = work, after, now
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._times = 0.0, 0.0

    def run(self) -> None:
        try:
            for ticket in self._after:
                ticket.wait()
            start_s = self._now()
            self._work()
            self._times = start_s, self._now()
        except BaseException as error:
            self._error = error
        self._work, self._after, self._now = _nothing, (), time.perf_counter  # keep nothing alive
        self._done.set()

    def wait(self) -> None:
        self._done.wait()
        if self._error is not None:
            raise self._error

    @property
    def start_s(self) -> float:
        self.wait()
        return self._times[0]

    @property
    def stop_s(self) -> float:
        self.wait()
        return self._times[1]
