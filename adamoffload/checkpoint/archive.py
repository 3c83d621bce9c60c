"""An archive: a header and named float32 arrays in one ``.npz`` file, in its one canonical form.

An ``.npz`` is a zip file whose members are ``.npy`` files. Zip leaves much open, and most of what
is known to go wrong with hostile files lives there: compression, overlaps, duplicates, two lists of
members that disagree. Here nothing is open. The header, its first member, determines every byte of
the file but the arrays' own, down to the time stamps, and of these it holds the checksums. So the
reader does not interpret zip structures: it writes down what they must be, and compares.

The module knows bytes, names and shapes; what a header says is for `adamoffload.checkpoint.files`.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock
from typing import IO

import numpy as np

from adamoffload.checkpoint.crc32 import Crc32
from adamoffload.checkpoint.layout import (
    BEGIN_BYTES,
    HEADER,
    Item,
    Piece,
    field_at,
    layout,
    npy_header,
)
from adamoffload.device.backend import HostArray

__all__ = ["BLOCK", "CheckpointError", "Reader", "Writer"]

BLOCK = 1 << 18
"""Elements that are read or written at once: with the checksum's ring they fit most L2 caches."""

_FLOAT32 = np.dtype("<f4")


class CheckpointError(ValueError):
    """A file is no checkpoint, or not as it was written; the message says where."""


# -- writing ----------------------------------------------------------------------------------


class Writer:
    """Writes an archive; its arrays may be put from several threads.

    Parameters
    ----------
    file : binary file, buffered, that can seek
        Written from its beginning.
    header : callable
        Makes the header from items; its length may not depend on their checksums.
    items : sequence of Item
        What will be put, without checksums.

    Raises
    ------
    OSError
        If the disk is full, here or later.
    """

    def __init__(
        self, file: IO[bytes], header: Callable[[Sequence[Item]], bytes], items: Sequence[Item]
    ) -> None:
        self._file = file
        self._header = header
        self._lock = Lock()
        plan = layout(header(items), items)
        self._starts = dict(zip(items, plan.starts, strict=True))
        self._final = dict.fromkeys(items)
        _reserve(file, plan.nbytes)

    def put(self, item: Item, blocks: Iterable[HostArray]) -> None:
        """Write an array, given in blocks of `BLOCK` elements; the last one may be smaller.

        Each is written before the next is asked for.
        """
        place = self._starts[item]
        crc = Crc32(item.nbytes, zlib.crc32(npy_header(item.shape)))
        for block in blocks:
            data = block.astype(_FLOAT32, copy=False).view(np.uint8)
            crc.update(data)
            self._write(place, data.data)
            place += data.size
        self._final[item] = item._replace(crc32=crc.value())

    def finish(self) -> None:
        """Write everything but the arrays, which have all been put."""
        items = [item for item in self._final.values() if item is not None]
        for piece in layout(self._header(items), items).pieces:
            self._write(piece.offset, memoryview(piece.content))

    def _write(self, offset: int, data: memoryview) -> None:
        with self._lock:
            self._file.seek(offset)
            self._file.write(data)


def _reserve(file: IO[bytes], nbytes: int) -> None:
    """Ask for the space at once: a full disk shows now, and writing takes a third of the time."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, nbytes)
        except io.UnsupportedOperation:  # a file in memory
            pass
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise


# -- reading ----------------------------------------------------------------------------------


class Reader:
    """Reads an archive; its arrays may be read from several threads.

    Parameters
    ----------
    file : binary file that can seek
        The archive.
    size : int
        Its size in bytes.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self._lock = Lock()
        self._starts: dict[Item, int] = {}

    def header(self, limit_bytes: int) -> bytes:
        """Return the header, checksummed.

        Parameters
        ----------
        limit_bytes : int
            The longest one to read: a text takes many times its length when it is parsed.

        Raises
        ------
        CheckpointError
            If there is none, it is longer, or its checksum is wrong.
        """
        raw = self._read(0, min(self._size, BEGIN_BYTES))
        if raw[:4] != b"PK\x03\x04"[: len(raw)] or not raw:
            raise CheckpointError(
                f"it is no checkpoint: it begins with {raw[:8]!r}, not like a zip file"
            )
        if len(raw) < BEGIN_BYTES:
            raise CheckpointError(f"it is truncated: it has {self._size} bytes, and no header")
        if HEADER.encode() not in raw:
            raise CheckpointError(f"it is no checkpoint: its first member is not {HEADER}")
        (length,) = struct.unpack_from("<Q", raw, BEGIN_BYTES - 8)
        if length > limit_bytes:
            raise CheckpointError(
                f"its header claims {length} bytes, more than the {limit_bytes} that are read"
            )
        if BEGIN_BYTES + length > self._size:
            raise CheckpointError(
                f"it is truncated: its header ends at byte {BEGIN_BYTES + length}, the file at "
                f"{self._size}"
            )
        text = self._read(BEGIN_BYTES, length)
        _compare(raw, layout(text, []).pieces[0])
        return text

    def check(self, text: bytes, items: Sequence[Item]) -> None:
        """Check all that is not data.

        Parameters
        ----------
        text : bytes
            The header.
        items : sequence of Item
            The arrays that it lists.

        Raises
        ------
        CheckpointError
            If a byte is missing, too many, or not what it must be.
        """
        plan, size = layout(text, items), self._size
        if size < plan.nbytes:
            raise CheckpointError(f"it is truncated: it has {size} bytes of {plan.nbytes}")
        if size > plan.nbytes:
            raise CheckpointError(
                f"something was appended: it has {size} bytes instead of {plan.nbytes}"
            )
        for piece in plan.pieces:
            _compare(self._read(piece.offset, len(piece.content)), piece)
        self._starts = dict(zip(items, plan.starts, strict=True))

    def blocks(self, item: Item, target: HostArray | None = None) -> Iterator[HostArray]:
        """Read an array, after `check`, block by block.

        Parameters
        ----------
        item : Item
            Which one.
        target : ndarray, shape (size,), float32, optional
            Where to; what is left out is read into memory of one block.

        Yields
        ------
        ndarray, float32, one-dimensional
            The next `BLOCK` elements, or the rest; without a target, valid until the next.

        Raises
        ------
        CheckpointError
            After the last block, if the checksum is wrong.
        """
        crc = Crc32(item.nbytes, zlib.crc32(npy_header(item.shape)))
        size = item.nbytes // 4
        scratch = np.empty(min(size, BLOCK), np.float32)
        for begin in range(0, size, BLOCK):
            block = scratch[: size - begin] if target is None else target[begin : begin + BLOCK]
            data = block.view(np.uint8)
            self._read_into(self._starts[item] + 4 * begin, data.data)
            crc.update(data)
            if sys.byteorder == "big":
                block.byteswap(inplace=True)
            yield block
        if crc.value() != item.crc32:
            raise CheckpointError(
                f"{item.kind} of {item.name[:100]!r} is damaged: its checksum is "
                f"{crc.value():08x}, the header says {item.crc32:08x}"
            )

    def _read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self._read_into(offset, memoryview(data))
        return bytes(data)

    def _read_into(self, offset: int, target: memoryview) -> None:
        with self._lock:
            self._file.seek(offset)
            while target:
                count = self._file.readinto(target)  # type: ignore[attr-defined]  # IO lacks it
                if not count:
                    raise CheckpointError("it is truncated: it became shorter while it was read")
                target = target[count:]


def _compare(found: bytes, piece: Piece) -> None:
    """Refuse bytes that are not those of the piece, and name the first that differs."""
    if found == piece.content:
        return
    at = next(i for i, (a, b) in enumerate(zip(found, piece.content, strict=False)) if a != b)
    name = field_at(piece, at)
    hint = "; members are stored, never compressed" if name == "compression method " else ""
    raise CheckpointError(
        f"{piece.what} is damaged: {name}at byte {piece.offset + at} is "
        f"{found[at : at + 8].hex()}, expected {piece.content[at : at + 8].hex()}{hint}"
    )
