"""Checkpoints in memory, small and hostile: written, mutated, and judged by an independent oracle.

The oracle is what NumPy and zipfile make of the same bytes: whatever `adamoffload.load` accepts
must be an archive without a fault to them, and every value that it takes over theirs.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.checkpoint import files as checkpoint
from adamoffload.checkpoint.archive import Reader
from adamoffload.checkpoint.layout import Item, layout
from adamoffload.offload import state

HEADER = "checkpoint.json"
ORACLE = Path(__file__).parent / "oracle"
HOSTILE = (
    *("null", "true", "-1", "0", "1", "3.5", "1e999", "-1e999", "NaN", "Infinity", "1" * 5000),
    *("9" * 19, "2147483648", "1e-46", '""', '"x"', '"../../x"', '"\\u0000"', '"\\ud800"'),
    *("[]", "{}", "[[]]", "[" * 100_000, '{"a":' * 5000, "[1,2", '"' + "a" * 3000 + '"', "{}{}"),
)


def optimizer(kind: Any = ao.AdamOffload) -> Any:
    """Build a small optimizer: groups, a schedule, a rate that can be assigned, odd names."""
    device = ao.get_backend("numpy")
    rng = np.random.default_rng(5)
    shapes = {"w/0": (2, 3), "é..": (), "b": (5,)}
    parameters = [
        ao.Parameter(device.asarray(rng.standard_normal(shape, np.float32)), name)
        for name, shape in shapes.items()
    ]
    groups = [
        {"params": parameters[:1], "lr": ao.CosineDecayLR(0.0, 0.1, 9), "weight_decay": 0.1},
        {"params": parameters[1:]},
    ]
    options = {"engine": "numpy", "threads": 1} if kind is ao.AdamOffload else {}
    return kind(groups, learning_rate=0.01, **options)


def written() -> bytes:
    """Return the checkpoint of `optimizer` after three steps."""
    trained = optimizer()
    rng = np.random.default_rng(6)
    device = trained.parameters[0].backend
    for _ in range(3):
        trained(
            [device.asarray(rng.standard_normal(p.shape, np.float32)) for p in trained.parameters]
        )
    file = io.BytesIO()
    checkpoint.write_to(file, trained)
    return file.getvalue()


BITS = (b"\1\0\x80\x7f", b"\0\0\0\xff", b"\xff" * 4, b"\1\0\0\x80")  # a signalling NaN, ...
VALUES = (*range(-1, 5), 0.5, "", "b", "-0000001", "123456789", None, True, [], {}, [0.1], 2**64)


# -- judging ----------------------------------------------------------------------------------


class Judge:
    """Loads bytes into an optimizer, and says what came of it: accepted, damaged, or other's."""

    def __init__(self) -> None:
        self.optimizer = optimizer()
        self.before = self.state()
        file = io.BytesIO()
        checkpoint.write_to(file, self.optimizer)
        self.fresh = checkpoint.read(Reader(file, len(file.getvalue())), self.optimizer)

    def state(self) -> list[bytes]:
        """Everything of the optimizer, in bytes."""
        own = self.optimizer
        arrays = [
            own._backend.asnumpy(x) if own._backend.owns(x) else x
            for x in state.places(own).values()
        ]
        counters = [own.beta1_power, own.beta2_power, own.global_step, own.learning_rate]
        return [*(x.tobytes() for x in arrays), repr(counters).encode()]

    def __call__(self, data: bytes) -> str:
        """Load, and compare with the oracle; anything unexpected is raised."""
        try:
            found = checkpoint.read(Reader(io.BytesIO(data), len(data)), self.optimizer)
            state.adopt(self.optimizer, found.counters, True, "load", stacklevel=1)
        except ao.CheckpointError:
            verdict = "damaged"
        except ValueError as error:
            if not str(error).startswith("load: "):
                raise
            verdict = "other's"
        else:
            checkpoint.take_over(found, self.optimizer)
            assert_as_numpy_reads_it(data, self.optimizer)
            checkpoint.take_over(self.fresh, self.optimizer)
            verdict = "accepted"
        assert self.state() == self.before, "refused, and still something has changed"
        return verdict


def assert_as_numpy_reads_it(data: bytes, loaded: Any) -> None:
    """Compare an optimizer with what zipfile, NumPy and json make of the bytes."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        infos = {info.filename: info for info in archive.infolist()}
        assert len(infos) == len(archive.infolist())
        assert all(info.compress_type == zipfile.ZIP_STORED for info in infos.values())
        header = json.loads(archive.read(HEADER))
        for entry in header["arrays"]:
            assert int(entry["crc32"], 16) == infos.pop(entry["member"]).CRC
        assert list(infos) == [HEADER]
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        for entry in header["arrays"]:
            theirs = arrays[entry["member"].removesuffix(".npy")]
            ours = state.places(loaded)[entry["kind"], entry["name"]]
            if loaded._backend.owns(ours):
                ours = loaded._backend.asnumpy(ours)
            assert theirs.dtype == np.float32
            assert theirs.shape == ours.shape
            assert theirs.tobytes() == ours.tobytes()
            assert entry["kind"] != "moment2" or not np.any(theirs < 0)
    assert loaded.global_step == header["global_step"]
    assert loaded.beta1_power == np.float32(header["beta1_power"])
    assert loaded.beta2_power == np.float32(header["beta2_power"])
    assert loaded.learning_rate == np.float32(header["learning_rate"])


# -- mutating ---------------------------------------------------------------------------------


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return a mutant: damaged bytes, often with checksums that say they are right."""
    mutant = rng.choice(_KINDS)(data, rng)
    while rng.random() < 0.2:
        mutant = rng.choice(_ANYWHERE)(mutant, rng)
    return mutant


def _flip(data: bytes, rng: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if mutant else 0):
        mutant[rng.randrange(len(mutant))] ^= 1 << rng.randrange(8)
    return bytes(mutant)


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    mutant, at = bytearray(data), rng.randrange(len(data) + 1)
    patterns = (b"\0" * 8, b"\xff" * 8, b"PK\x03\x04", b"PK\x05\x06", rng.randbytes(4), b"\x08\0")
    new = rng.choice(patterns)
    mutant[at : at + len(new)] = new
    return bytes(mutant)


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice((b"\0", rng.randbytes(30), data, data[-98:]))


def _splice(data: bytes, rng: random.Random) -> bytes:
    a, b, c, d = (rng.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[min(b, c) : max(b, c)] + data[d:]


def _swap(data: bytes, rng: random.Random) -> bytes:
    length = rng.choice((1, 4, 16, 64))
    mutant = bytearray(data)
    if len(data) > 2 * length:
        a, b = (rng.randrange(len(data) - length) for _ in range(2))
        mutant[a : a + length], mutant[b : b + length] = data[b : b + length], data[a : a + length]
    return bytes(mutant[: len(data)])


def _values(data: bytes, rng: random.Random) -> bytes:
    """Change values, and every checksum accordingly."""
    text, items, arrays = _taken_apart(data)
    for _ in range(rng.choice((1, 1, 3))):
        i = rng.randrange(len(arrays))
        at = rng.randrange(len(arrays[i]) // 4) * 4
        numbers = (rng.random(), -rng.random(), np.nan, np.inf, -np.inf, -0.0, 1e-45)
        value = rng.choice((struct.pack("<f", rng.choice(numbers)), rng.choice(BITS)))
        arrays[i] = arrays[i][:at] + value + arrays[i][at + 4 :]
    return _put_together(text, items, arrays)


def _swap_arrays(data: bytes, rng: random.Random) -> bytes:
    text, items, arrays = _taken_apart(data)
    rng.shuffle(arrays)
    return _put_together(text, items, arrays)


def _header(data: bytes, rng: random.Random) -> bytes:
    """Change the text of the header, with checksums that fit."""
    text, items, arrays = _taken_apart(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        text = rng.choice((_token, _token, _key, _flip, _truncate, _splice))(text, rng)
    return _put_together(text, items, arrays, fitted=rng.random() < 0.5)


def _token(text: bytes, rng: random.Random) -> bytes:
    tokens = list(re.finditer(rb'"[^"]*"|-?[0-9.e+-]+|true|false|null|[][{},:]', text))
    if not tokens:
        return text
    token = rng.choice(tokens)
    new = rng.choice((*HOSTILE, rng.choice(tokens)[0].decode("latin1"), "")).encode("latin1")
    return text[: token.start()] + new + text[token.end() :]


def _key(text: bytes, rng: random.Random) -> bytes:
    """Change one value, and keep the header's own form of JSON."""
    try:
        header = json.loads(text)
        target: Any = header
        while isinstance(target, dict | list) and target:
            places = list(target) if isinstance(target, dict) else range(len(target))
            parent, place = target, rng.choice(list(places))
            target = parent[place]
            if rng.random() < 0.2:
                break
        parent[place] = rng.choice(
            (*range(-1, 5), 0.5, "", "w/0", None, True, [], {}, [0.1], 2**64)
        )
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in header.items() if k != "arrays"]
        arrays = ",\n".join(json.dumps(entry) for entry in header.get("arrays", []))
        return ("{" + ",\n".join(lines) + ',\n"arrays": [\n' + arrays + "\n]}\n").encode("latin1")
    except (ValueError, TypeError, AttributeError, RecursionError):
        return text


def _sizes(data: bytes, rng: random.Random) -> bytes:
    """Claim another size or count, somewhere in a structure of zip."""
    mutant = bytearray(data)
    at = rng.choice([m.start() for m in re.finditer(b"PK..", data, re.DOTALL)])
    at += rng.randrange(4, 60)
    new = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)))
    size = rng.choice((2, 4, 8))
    mutant[at : at + size] = new[:size]
    return bytes(mutant[: len(data)])


def _taken_apart(data: bytes) -> tuple[bytes, list[Item], list[bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        text = archive.read(HEADER)
        items = [
            Item(entry["kind"], entry["name"], tuple(entry["shape"]))
            for entry in json.loads(text)["arrays"]
        ]
        arrays = [
            archive.read(e["member"])[-i.nbytes :]
            for e, i in zip(json.loads(text)["arrays"], items, strict=True)
        ]
    return text, items, arrays


def _put_together(
    text: bytes, items: list[Item], arrays: list[bytes], *, fitted: bool = True
) -> bytes:
    """Build the archive with these contents; with `fitted`, the header has the right checksums."""
    plan = layout(text, items)
    heads = [p.content for p in plan.pieces if p.what.startswith("the beginning of")][1:]
    items = [
        item._replace(crc32=zlib.crc32(head + array))
        for item, head, array in zip(items, heads, arrays, strict=True)
    ]
    if fitted:
        crcs = iter(items)
        text = re.sub(
            rb'(?<="crc32": ")[0-9a-f]{8}',
            lambda m: b"%08x" % next(crcs, items[0]).crc32,
            text,
        )
    plan = layout(text, items)
    mutant = bytearray(plan.nbytes)
    for piece in plan.pieces:
        mutant[piece.offset : piece.offset + len(piece.content)] = piece.content
    for start, array in zip(plan.starts, arrays, strict=True):
        mutant[start : start + len(array)] = array
    return bytes(mutant)


Mutation = Callable[[bytes, random.Random], bytes]
_ANYWHERE: tuple[Mutation, ...] = (_flip, _overwrite, _truncate, _append, _splice, _swap)
_KINDS: tuple[Mutation, ...] = (
    *_ANYWHERE,
    _values,
    _swap_arrays,
    _header,
    _header,
    _header,
    _sizes,
)
