"""Checkpoints in memory, small and hostile: written, mutated, and judged by an independent oracle.

The oracle is what NumPy and zipfile make of the same bytes: whatever `adamoffload.load` accepts
must be an archive without a fault to them, and every value that it takes over theirs. A kind of
state to be judged is a row of `STATES`.
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
from typing import Any, NamedTuple

import numpy as np

import adamoffload as ao
import checkpoint_0_1_0
from adamoffload.checkpoint import files as checkpoint
from adamoffload.offload.state import adopt

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


def trained(own: Any, steps: int = 3) -> Any:
    """Take some steps with random gradients; return the optimizer."""
    rng = np.random.default_rng(6)
    device = own.parameters[0].backend
    for _ in range(steps):
        own([device.asarray(rng.standard_normal(p.shape, np.float32)) for p in own.parameters])
    return own


def written(own: Any) -> bytes:
    """Return an optimizer's checkpoint."""
    file = io.BytesIO()
    checkpoint.write_to(file, own)
    return file.getvalue()


class State(NamedTuple):
    """A kind of state: how to build the optimizer that has it, and a checkpoint of it."""

    build: Callable[[], Any]
    data: Callable[[], bytes]


STATES = {
    "AdamOffload": State(optimizer, lambda: written(trained(optimizer()))),
    "Adam": State(lambda: optimizer(ao.Adam), lambda: written(trained(optimizer(ao.Adam)))),
    "0.1.0": State(checkpoint_0_1_0.build, (ORACLE / "checkpoint_0_1_0.npz").read_bytes),
}
"""What the mutations are tried on, by name."""

BITS = (b"\1\0\x80\x7f", b"\0\0\0\xff", b"\xff" * 4, b"\1\0\0\x80")  # a signalling NaN, ...
VALUES = (*range(-1, 5), 0.5, "", "b", "w/0", "-0000001", None, True, [], {}, [0.1], 2**63, 2**64)


# -- judging ----------------------------------------------------------------------------------


class Judge:
    """Loads bytes into an optimizer, and says what came of it: accepted, damaged, or other's."""

    def __init__(self, kind: State = STATES["AdamOffload"]) -> None:
        self.optimizer = kind.build()
        self.counters = self.optimizer.counters
        self.before = self.state()
        self.fresh = written(self.optimizer)
        self.loaded: list[bytes] = []

    def state(self) -> list[bytes]:
        """Everything of the optimizer, in bytes."""
        counters = repr(self.optimizer.counters).encode()
        return [*(x.tobytes() for x in arrays_of(self.optimizer).values()), counters]

    def __call__(self, data: bytes) -> str:
        """Load, and compare with the oracle; anything unexpected is raised."""
        try:
            found = checkpoint.read(io.BytesIO(data), self.optimizer)
            assert found.saved is not None
            own = self.optimizer.settings, self.optimizer.counters
            counters = adopt("load", found.saved, *own, strict=True, stacklevel=1)
        except ao.CheckpointError:
            verdict = "damaged"
        except ValueError as error:
            if not str(error).startswith("load: "):
                raise
            verdict = "other's"
        else:
            checkpoint.take_over(found, counters, self.optimizer)
            self.loaded = self.state()
            assert_as_numpy_reads_it(data, self.optimizer)
            fresh = checkpoint.read(io.BytesIO(self.fresh), self.optimizer)
            checkpoint.take_over(fresh, self.counters, self.optimizer)
            verdict = "accepted"
        assert self.state() == self.before, "refused, and still something has changed"
        return verdict


def arrays_of(own: Any) -> dict[tuple[str, str], Any]:
    """Return copies of an optimizer's arrays, by kind and name."""
    device = own.parameters[0].backend
    return {
        key: device.asnumpy(x) if device.owns(x) else x.copy()
        for key, x in own.state.arrays().items()
    }


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
    ours = arrays_of(loaded)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        for entry in header["arrays"]:
            theirs = arrays[entry["member"].removesuffix(".npy")]
            kind = checkpoint._SLOTS.get(entry["kind"], entry["kind"])
            own = ours.pop((kind, entry["name"]))
            assert theirs.dtype == own.dtype
            assert theirs.shape == own.shape
            assert theirs.tobytes() == own.tobytes()
    assert not ours
    counters = header.get("counters", header)
    assert loaded.global_step == counters["global_step"]
    for power in ("beta1_power", "beta2_power"):
        if power in counters:  # of 0.1
            assert getattr(loaded, power) == np.float32(counters[power])
    assert loaded.learning_rate == np.float32(counters["learning_rate"])


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
    """Change values, or the beginning of an array, and every checksum accordingly."""
    text, members = taken_apart(data)
    begins = {name: 10 + int.from_bytes(npy[8:10], "little") for name, npy in members.items()}
    for _ in range(rng.choice((1, 1, 3))):
        member, begin = rng.choice(list(begins.items()))
        content = members[member]
        if rng.random() < 0.2:
            members[member] = _flip(content[:begin], rng) + content[begin:]
        else:
            at = rng.randrange(begin, len(content), 4)
            numbers = (rng.random(), -rng.random(), np.nan, np.inf, -np.inf, -0.0, 1e-45)
            value = rng.choice((struct.pack("<f", rng.choice(numbers)), rng.choice(BITS)))
            members[member] = content[:at] + value + content[at + 4 :]
    return put_together(text, members)


def _swap_arrays(data: bytes, rng: random.Random) -> bytes:
    text, members = taken_apart(data)
    contents = list(members.values())
    rng.shuffle(contents)
    swapped = dict(zip(members, contents, strict=True))
    return put_together(text, swapped, fitted=rng.random() < 0.5)


def _header(data: bytes, rng: random.Random) -> bytes:
    """Change the text of the header, with checksums that fit."""
    text, members = taken_apart(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        text = rng.choice((_token, _token, _key, _flip, _truncate, _splice))(text, rng)
    return put_together(text, members, fitted=rng.random() < 0.5)


def _token(text: bytes, rng: random.Random) -> bytes:
    tokens = list(re.finditer(rb'"[^"]*"|-?[0-9.e+-]+|true|false|null|[][{},:]', text))
    if not tokens:
        return text
    token = rng.choice(tokens)
    new = rng.choice((*HOSTILE, rng.choice(tokens)[0].decode("latin1"), "")).encode("latin1")
    return text[: token.start()] + new + text[token.end() :]


def _key(text: bytes, rng: random.Random) -> bytes:
    """Change one value of the header."""
    try:
        header = json.loads(text)
        target: Any = header
        while isinstance(target, dict | list) and target:
            places = list(target) if isinstance(target, dict) else range(len(target))
            parent, place = target, rng.choice(list(places))
            target = parent[place]
            if rng.random() < 0.2:
                break
        parent[place] = rng.choice(VALUES)
        return json.dumps(header).encode()
    except (ValueError, TypeError, RecursionError, UnboundLocalError):
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


def taken_apart(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Return the text of the header, and the other members by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return members.pop(HEADER), members


def put_together(text: bytes, members: dict[str, bytes], *, fitted: bool = True) -> bytes:
    """Return a zip file of these; with `fitted`, the header has the right checksums."""
    if fitted:
        crcs = iter([zlib.crc32(content) for content in members.values()])
        crc32 = rb'(?<="crc32": ")[0-9a-f]{8}'
        text = re.sub(crc32, lambda found: b"%08x" % next(crcs, 0), text)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {**members, HEADER: text}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


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
