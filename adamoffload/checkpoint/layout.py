"""Where everything stands in an archive, and what: zip's structures in their one canonical form.

An archive is an ``.npz``: a zip file, without compression, of ``.npy`` files. Nothing of what zip
leaves open is open here: sizes always stand in the fields for large files, times are the first that
zip knows, members follow each other without gaps.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

__all__ = [
    "BEGIN_BYTES",
    "HEADER",
    "Item",
    "Layout",
    "Piece",
    "layout",
    "member_name",
    "npy_header",
]

HEADER = "checkpoint.json"
"""The first member: text in ASCII."""

_LONGEST = 200  # characters of an encoded name: file systems and `unzip` stop at 255
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")

# The fields of zip's structures: sizes and offsets always stand in their zip64 forms, at the end.
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_LOCAL_FIELDS = (
    *("signature", "version", "flags", "compression method", "time", "date", "CRC-32"),
    *("compressed size", "size", "length of the name", "length of the extra field"),
)
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_CENTRAL_FIELDS = (
    *("signature", "version of the writer", *_LOCAL_FIELDS[1:], "length of the comment"),
    *("disk", "internal attributes", "external attributes", "offset"),
)
_VERSION, _DATE, _IN_ZIP64 = 45, 0x21, 0xFFFFFFFF  # 4.5: zip64; 1980-01-01; "see there"
_LOCAL_EXTRA_BYTES, _CENTRAL_EXTRA_BYTES = 20, 28

BEGIN_BYTES = _LOCAL.size + len(HEADER) + _LOCAL_EXTRA_BYTES
"""What precedes the header's text; its last 8 bytes are the text's length."""


class Item(NamedTuple):
    """An array in an archive.

    Attributes
    ----------
    kind, name : str
        Together its identity: ``"moment1"``, ``"fc.weight"``.
    shape : tuple of int
        Its shape.
    crc32 : int
        Checksum of its member, ``.npy`` header and data; 0 while it is not known.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    crc32: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return 4 * math.prod(self.shape)


class Piece(NamedTuple):
    """Bytes that stand at an offset, what they are, and the fields that they begin with."""

    offset: int
    content: bytes
    what: str
    form: str = "<"
    fields: tuple[str, ...] = ()


class Layout(NamedTuple):
    """Where everything stands.

    Attributes
    ----------
    pieces : tuple
        All structures, in the order of the file.
    starts : tuple of int
        Where each array's data begin.
    nbytes : int
        Size of the file.
    """

    pieces: tuple[Piece, ...]
    starts: tuple[int, ...]
    nbytes: int


def member_name(kind: str, name: str, index: int) -> str:
    """Return the name of a member: letters, digits and ``-_.%``, whatever the name is.

    Parameters
    ----------
    kind, name : str
        Folder, and the name to encode: what is not plain is written as ``%XX``, a byte of UTF-8.
    index : int
        Stands for the rest of a very long name, which only the header then has in full.

    Examples
    --------
    >>> member_name("moment1", "block/0.weight", 7)
    'moment1/block%2F0.weight.npy'
    >>> member_name("moment1", "x" * 10_000, 7) == "moment1/" + "x" * 200 + "%~7.npy"
    True
    """
    encoded = "".join(
        chr(byte) if byte in _PLAIN else f"%{byte:02X}"
        for byte in name[: _LONGEST + 1].encode("utf-8", "surrogatepass")
    )
    if len(encoded) > _LONGEST:
        encoded = f"{encoded[:_LONGEST]}%~{index}"
    return f"{kind}/{encoded}.npy"


def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return what precedes the data in a ``.npy`` file, format version 1.0."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    padded = text.ljust((len(text) + 11 + 63) // 64 * 64 - 11) + b"\n"  # data begin at 64 n
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


def layout(text: bytes, items: Sequence[Item]) -> Layout:
    """Return where everything in an archive stands, and every byte of it that is not data.

    Parameters
    ----------
    text : bytes
        The header.
    items : sequence of Item
        The arrays, in the order of the file.

    Examples
    --------
    >>> layout(b"{}", [Item("moment1", "w", (3,))]).nbytes
    544
    """
    pieces, central, starts = [], [], []
    offset = 0
    for index in range(-1, len(items)):
        if index < 0:
            name, head, size, crc = HEADER, text, 0, zlib.crc32(text)
        else:
            kind, own_name, shape, crc = item = items[index]
            name, head, size = member_name(kind, own_name, index), npy_header(shape), item.nbytes
        encoded, nbytes = name.encode(), len(head) + size
        shared = (_VERSION, 0, 0, 0, _DATE, crc, _IN_ZIP64, _IN_ZIP64, len(encoded))
        local = _LOCAL.pack(b"PK\x03\x04", *shared, _LOCAL_EXTRA_BYTES) + encoded
        local += struct.pack("<HHQQ", 1, _LOCAL_EXTRA_BYTES - 4, nbytes, nbytes)
        what = f"the local header of {name}"
        pieces.append(Piece(offset, local, what, _LOCAL.format, _LOCAL_FIELDS))
        pieces.append(Piece(offset + len(local), head, f"the beginning of {name}"))
        last = (_CENTRAL_EXTRA_BYTES, 0, 0, 0, 0, _IN_ZIP64)
        entry = _CENTRAL.pack(b"PK\x01\x02", _VERSION, *shared, *last) + encoded
        entry += struct.pack("<HHQQQ", 1, _CENTRAL_EXTRA_BYTES - 4, nbytes, nbytes, offset)
        central.append((entry, f"the entry of {name} in the central directory"))
        starts.append(offset + len(local) + len(head))
        offset += len(local) + nbytes
    began = offset
    for entry, what in central:
        pieces.append(Piece(offset, entry, what, _CENTRAL.format, _CENTRAL_FIELDS))
        offset += len(entry)
    count, span = len(central), (offset - began, began)
    end = struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, *span)
    end += struct.pack("<4sLQL", b"PK\x06\x07", 0, offset, 1)
    end += struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 65535, 65535, _IN_ZIP64, _IN_ZIP64, 0)
    pieces.append(Piece(offset, end, "the end of the central directory"))
    return Layout(tuple(pieces), tuple(starts[1:]), offset + len(end))


def field_at(piece: Piece, at: int) -> str:
    """Return the name of the field that a byte belongs to, if it is one of the first."""
    codes = piece.form[1:].replace("4s", "I")
    ends = accumulate(struct.calcsize("<" + code) for code in codes)
    return next((f"{name} " for name, end in zip(piece.fields, ends, strict=True) if at < end), "")
