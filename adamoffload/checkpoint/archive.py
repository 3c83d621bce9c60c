"""An archive: named arrays and a header in one ``.npz`` file, which NumPy alone can read.

An ``.npz`` is a zip file of ``.npy`` files. The header, its last member, lists the others with
their checksums. Two things are promised. An array goes through memory in blocks, never whole. And
damage is refused with a `CheckpointError`, at the latest when the array has been read to its end,
unless it is in a byte that carries no meaning, such as a time stamp.

The module knows names, shapes and types; what an optimizer keeps is for
`adamoffload.checkpoint.files`.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np

from adamoffload.arguments import describe
from adamoffload.plan.formats import WEIGHTS, dtype_of

__all__ = ["BLOCK", "CheckpointError", "Entry", "Reader", "member_name", "refused", "write"]

BLOCK = 1 << 17
"""Elements that are read or written at once: a block of float32 fits most L2 caches."""

HEADER = "checkpoint.json"
_END_BYTES = 22  # of what ends a zip file, if it has no comment
_LONGEST = 200  # characters of an encoded name: file systems and `unzip` stop at 255
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")

_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError),
    *(ValueError, TypeError, LookupError, OverflowError),
)

Block = np.ndarray[Any, np.dtype[Any]]


class CheckpointError(ValueError):
    """A file is no checkpoint, or not as it was written; the message says where."""


@contextmanager
def refused() -> Iterator[None]:
    """Turn what the standard library raises about a damaged file into a `CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        raise CheckpointError("it points to a place outside the file") from error
    except KeyError as error:
        raise CheckpointError(f"its header lacks {error}") from error
    except _DAMAGE as error:
        raise CheckpointError(str(error) or type(error).__name__) from error


class Entry(NamedTuple):
    """An array in an archive: what it is, and the member that holds it."""

    kind: str
    """With the name its identity: ``"parameter"``, or the slot ``"m"``."""
    name: str
    shape: tuple[int, ...]
    dtype: str
    """The type's name: ``"float32"``."""
    member: str = ""


def member_name(kind: str, name: str, index: int) -> str:
    """Return the name of a member: letters, digits and ``-_.%``, whatever the name is.

    What is not plain is written as ``%XX``, a byte of UTF-8. The index stands for the rest of a
    very long name, which only the header then has in full.

    Examples
    --------
    >>> member_name("m", "block/0.weight", 7)
    'm/block%2F0.weight.npy'
    >>> member_name("m", "x" * 10_000, 7) == "m/" + "x" * 200 + "%~7.npy"
    True
    """
    encoded = "".join(
        chr(byte) if byte in _PLAIN else f"%{byte:02X}"
        for byte in name[: _LONGEST + 1].encode("utf-8", "surrogatepass")
    )
    if len(encoded) > _LONGEST:
        encoded = f"{encoded[:_LONGEST]}%~{index}"
    return f"{kind}/{encoded}.npy"


def _dtype(name: str) -> np.dtype[Any]:
    return dtype_of(name) if name in WEIGHTS else np.dtype(name)


def _npy_header(entry: Entry) -> bytes:
    """Return what NumPy writes before an array's data, which are little-endian and in C order."""
    stream = io.BytesIO()
    dtype = _dtype(entry.dtype)
    # NumPy has no name for bfloat16: its bits are kept as integers.
    descr = "<u2" if dtype.kind == "V" else dtype.str.replace(">", "<")
    header = {"descr": descr, "fortran_order": False, "shape": entry.shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def write(
    file: IO[bytes], header: Mapping[str, Any], arrays: Iterable[tuple[Entry, Iterable[Block]]]
) -> None:
    """Write an archive.

    Parameters
    ----------
    file : binary file that can seek
        Written from its beginning.
    header : mapping
        What JSON can hold; the list of the arrays is added to it.
    arrays : iterable of (Entry, iterable of ndarray)
        What to write, each array in contiguous one-dimensional blocks. A block is written before
        the next one is asked for.

    A file that could not be written to the end is of no use.
    """
    listed: list[dict[str, Any]] = []
    archive = zipfile.ZipFile(file, "w")
    try:
        for entry, blocks in arrays:
            # Without a time stamp one state has one file.
            info = zipfile.ZipInfo(member_name(entry.kind, entry.name, len(listed)))
            with archive.open(info, "w", force_zip64=True) as member:  # it may exceed 2 GiB
                member.write(_npy_header(entry))
                for block in blocks:
                    native = block if sys.byteorder == "little" else block.byteswap()
                    member.write(native.view(np.uint8).data)
            checksum = f"{info.CRC:08x}"
            listed.append({**entry._asdict(), "member": info.filename, "crc32": checksum})
        text = json.dumps({**header, "arrays": listed}, allow_nan=False)
        archive.writestr(zipfile.ZipInfo(HEADER), text)
        archive.close()
    except BaseException:
        # Without this it would write the end of a file that is thrown away when it is deleted, or
        # raise in the place of an interrupt, because a member is still open.
        archive.fp = None
        raise


class Reader:
    """Reads an archive; several threads may read arrays of it.

    Parameters
    ----------
    file : binary file that can seek
        The archive. Its JSON header becomes the attribute `header`.

    Raises
    ------
    CheckpointError
        If it is not a zip file with a header, or has in it what `write` does not write.
    """

    def __init__(self, file: IO[bytes]) -> None:
        with refused():
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            begin = file.read(8)
            file.seek(max(size - _END_BYTES, 0))
            if not begin.startswith(b"PK"):
                raise CheckpointError(f"it is no checkpoint: it begins with {begin!r}")
            if file.read(4) != b"PK\5\6":
                raise CheckpointError("it is truncated, or something was appended")
            self._zip = zipfile.ZipFile(file)
            infos = self._zip.infolist()
            self._members = {info.filename: info for info in infos}
            if HEADER not in self._members:
                raise CheckpointError(f"it is no checkpoint: it has no {HEADER}")
            if len(self._members) < len(infos):
                raise CheckpointError("two members have the same name")
            if any(info.compress_type or info.compress_size != info.file_size for info in infos):
                raise CheckpointError("a member is compressed")
            if min(info.header_offset for info in infos) != 0:
                raise CheckpointError("something stands before its first member")
            if sum(info.file_size for info in infos) > size:
                raise CheckpointError(f"its members have more than the file's {size} bytes")
            self.header: Any = json.loads(self._zip.read(HEADER))

    def entries(self, arrays: Any) -> list[Entry]:
        """Return the arrays that a header lists; refuse a list that is not that of the members."""
        members = {name: info for name, info in self._members.items() if name != HEADER}
        entries = {}
        with refused():
            for listed in arrays:
                entry = Entry(**{key: listed[key] for key in Entry._fields})
                if entry.member not in members:
                    raise CheckpointError(f"{describe(entry.member)} is missing, or listed twice")
                if f"{members.pop(entry.member).CRC:08x}" != listed["crc32"]:
                    raise CheckpointError(f"{entry.member} has another checksum in the header")
                entries[entry.kind, entry.name] = entry._replace(shape=tuple(entry.shape))
            if members or len(entries) < len(arrays):
                raise CheckpointError("its header does not list each member as an array of its own")
        return [*entries.values()]

    def blocks(self, entry: Entry, target: Block | None = None) -> Iterator[Block]:
        """Read an array in blocks of `BLOCK` elements, the last of which may be smaller.

        Parameters
        ----------
        entry : Entry
            From `entries`.
        target : ndarray, shape (size,), optional
            Where to. Without it, a block is valid until the next one comes.

        Raises
        ------
        CheckpointError
            If the member is another array; after the last block, if its checksum is wrong.
        """
        with refused(), self._zip.open(entry.member) as member:
            size, dtype = math.prod(entry.shape), _dtype(entry.dtype)
            length = self._members[entry.member].file_size - size * dtype.itemsize
            found = member.read(length) if 10 < length < 10 + 2**16 else b""
            expected = _npy_header(entry)
            same = found[:8] == expected[:8]
            # How many spaces fill a header up differs among the versions of NumPy.
            same = same and found[10:].rstrip(b" \n") == expected[10:].rstrip(b" \n")
            if not same or int.from_bytes(found[8:10], "little") != length - 10:
                raise CheckpointError(f"{entry.member} does not begin as its array does")
            scratch = np.empty(min(size, BLOCK), dtype)
            for begin in range(0, size, BLOCK):
                block = scratch[: size - begin] if target is None else target[begin : begin + BLOCK]
                member.readinto(block.view(np.uint8).data)  # type: ignore[attr-defined]  # IO's
                if sys.byteorder == "big":
                    block.byteswap(inplace=True)
                yield block
