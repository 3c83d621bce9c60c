"""Standard streams that cannot break a command: closed, gone, full, or short of letters."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

from adamoffload.cli.text import UsageError

__all__ = ["secure"]


def secure() -> None:
    """Put streams in the place of `sys.stdout` and `sys.stderr` that a command can rely on.

    A letter that the encoding lacks is written as an escape. What nobody can read is dropped, and
    the command goes on: its results are files. Only standard output that is lost although someone
    waits for it, on a full disk, ends the command with a `UsageError`.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file opened would get this number, and our text
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _secured(sys.stdout, 1, must_arrive=True)
    sys.stderr = _secured(sys.stderr, 2, must_arrive=False)


def _secured(stream: TextIO | None, descriptor: int, *, must_arrive: bool) -> TextIO:
    if stream is None:  # it was closed when Python began
        stream = open(descriptor, "w", closefd=False)  # noqa: SIM115  (stays open)
    if not isinstance(stream, io.TextIOWrapper):  # a notebook's
        return stream
    raw = _Raw(stream, must_arrive)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # type: ignore[type-var]  # as Python does
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Raw(io.RawIOBase):
    """Writes the bytes of `stream` until that fails, and then nothing."""

    def __init__(self, stream: io.TextIOWrapper, must_arrive: bool) -> None:
        self._stream = stream  # kept: the end of it would close what is beneath
        self._raw: Any = getattr(stream.buffer, "raw", stream.buffer)  # unbuffered has one layer
        self._must_arrive = must_arrive
        self._lost = False

    def write(self, data: Any) -> int | None:
        if self._lost:
            return len(data)
        try:
            return self._raw.write(data)  # type: ignore[no-any-return]
        except OSError as error:
            self._lost = True
            if self._must_arrive and not isinstance(error, BrokenPipeError):
                raise UsageError(f"standard output: {error.strerror}") from None
            return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()
