"""Archives: what is written is read, in blocks; what is damaged is refused."""

from __future__ import annotations

import io
import json
import re
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamoffload.checkpoint.archive import (
    BLOCK,
    CheckpointError,
    Entry,
    Reader,
    member_name,
    refused,
    write,
)

import checkpoints

ARRAYS: dict[tuple[str, str], np.ndarray[Any, Any]] = {
    ("parameter", "a"): np.arange(6, dtype=np.float32).reshape(2, 3),
    ("codes", "a"): np.arange(7, dtype=np.uint8),
    ("master", "a"): np.array(0.1),
    ("half", "ä/ö"): np.ones((2, 1, 2), np.float16),
    ("none", "a"): np.zeros((0, 3), np.int64),
}


def archived(arrays: Any = ARRAYS, header: Any = None) -> bytes:
    file = io.BytesIO()
    listed = [
        (Entry(kind, name, x.shape, x.dtype.name), [x.reshape(-1)])
        for (kind, name), x in arrays.items()
    ]
    write(file, header or {"answer": 42}, listed)
    return file.getvalue()


def read(data: bytes) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
    reader = Reader(io.BytesIO(data))
    found = {}
    for entry in reader.entries(reader.header["arrays"]):
        blocks = [block.copy() for block in reader.blocks(entry)]
        array = np.concatenate(blocks) if blocks else np.empty(0, entry.dtype)
        found[entry.kind, entry.name] = array.reshape(entry.shape)
    return found


def test_arrays_of_any_type_and_shape_return_bit_by_bit() -> None:
    found = read(archived())
    assert list(found) == list(ARRAYS)
    for key, array in ARRAYS.items():
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape)
        assert found[key].tobytes() == array.tobytes()


def test_numpy_and_zipfile_read_it() -> None:
    data = archived()
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        header = json.loads(file["checkpoint.json"])
        for entry in header["arrays"]:
            expected = ARRAYS[entry["kind"], entry["name"]]
            found = file[entry["member"].removesuffix(".npy")]
            assert found.dtype == expected.dtype.newbyteorder("<")
            np.testing.assert_array_equal(found, expected, strict=True)
    assert header["answer"] == 42
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        assert zipped.testzip() is None
        for entry in header["arrays"]:
            assert int(entry["crc32"], 16) == zlib.crc32(zipped.read(entry["member"]))


def test_the_same_arrays_give_the_same_bytes() -> None:
    assert archived() == archived()


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_blocks_are_read_into_place_or_one_after_the_other(size: int) -> None:
    array = np.random.default_rng(size).standard_normal(size, np.float32)
    data = archived({("parameter", "w"): array})
    np.testing.assert_array_equal(read(data)["parameter", "w"], array)
    reader = Reader(io.BytesIO(data))
    (entry,) = reader.entries(reader.header["arrays"])
    target = np.empty_like(array)
    assert max(block.size for block in reader.blocks(entry, target)) <= BLOCK
    np.testing.assert_array_equal(target, array)


def test_a_member_may_have_more_bytes_than_fit_the_old_fields_of_zip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    array = np.arange(1000, dtype=np.float32)
    np.testing.assert_array_equal(read(archived({("m", "w"): array}))["m", "w"], array)


def test_an_array_is_never_whole_in_memory() -> None:
    size = 40 * BLOCK
    scratch = np.empty(BLOCK, np.float32)

    def blocks() -> Iterator[np.ndarray[Any, Any]]:
        for i in range(40):
            scratch.fill(i)  # it has been written when the next one is asked for
            yield scratch

    file = io.BytesIO(bytes(size * 4 + 10_000))
    tracemalloc.start()
    try:
        write(file, {}, [(Entry("parameter", "w", (size,), "float32"), blocks())])
        file.truncate()
        reader = Reader(file)
        (entry,) = reader.entries(reader.header["arrays"])
        sums = [block.sum() for block in reader.blocks(entry)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sums == [i * BLOCK for i in range(40)]
    assert peak < 6 * scratch.nbytes


NAMES = ["a/b", "..", "/etc/passwd", "a\0b", "é", "%41", "\ud800", "C:\\x", ".", " ", "x" * 10_000]
NAMES += ["\U0001f600" * 10_000, "x" * 10_001, "A", "a", "con.npy", "a.npy", "w~1", "\n"]


def test_any_name_is_a_name() -> None:
    arrays = {("m", name): np.full(1, i, np.int32) for i, name in enumerate(NAMES)}
    data = archived(arrays)
    members = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert len(set(members)) == 1 + len(NAMES)
    assert all(re.fullmatch(r"m/[A-Za-z0-9._%~-]{1,216}\.npy", name) for name in members[:-1])
    assert {key: int(value[0]) for key, value in read(data).items()} == {
        ("m", name): i for i, name in enumerate(NAMES)
    }


@given(st.text(st.characters(), min_size=1, max_size=60))
def test_a_name_can_be_read_from_its_member(name: str) -> None:
    member = member_name("m", name, 0)
    assert "%~" not in member or len(name.encode("utf-8", "surrogatepass")) > 66
    if "%~" not in member:
        encoded = member.removeprefix("m/").removesuffix(".npy")
        assert unquote_to_bytes(encoded).decode("utf-8", "surrogatepass") == name


# -- refused ----------------------------------------------------------------------------------


def test_any_damaged_byte_is_refused_or_has_no_meaning() -> None:
    data = archived()
    expected = {key: array.tobytes() for key, array in ARRAYS.items()}
    text, members = checkpoints.taken_apart(data)
    of_members = set[int]()
    for content in (text, *members.values()):
        of_members |= {data.index(content) + i for i in range(len(content))}
    for at in range(len(data)):
        for bits in (1, 0x80, 0xFF):
            mutant = bytearray(data)
            mutant[at] ^= bits
            try:
                found = read(bytes(mutant))
            except CheckpointError:
                continue
            assert at not in of_members  # but a time stamp, or what stands in another place too
            assert {key: array.tobytes() for key, array in found.items()} == expected, at


def test_whatever_is_cut_off_or_appended_is_refused() -> None:
    data = archived()
    cut = [data[:length] for length in range(len(data))]
    for mutant in [*cut, data + b"\0", data + b"PK\5\6", data + data[-22:], data * 2, b"\0" + data]:
        with pytest.raises(CheckpointError):
            read(mutant)


def edited(**changes: Any) -> bytes:
    """Return an archive with a right checksum of a header whose second array is another."""
    text, members = checkpoints.taken_apart(archived())
    header = json.loads(text)
    for key, value in changes.items():
        header["arrays"][1][key] = value
    return checkpoints.put_together(json.dumps(header).encode(), members, fitted=False)


@pytest.mark.parametrize("value", [None, True, 1, 2.5, "x", [], [1], [7.0], [True], {}, [None]])
@pytest.mark.parametrize("key", ["kind", "name", "shape", "dtype", "member", "crc32"])
def test_an_entry_of_the_wrong_type_or_value_is_refused(key: str, value: Any) -> None:
    expected = [array.tobytes() for array in ARRAYS.values()]
    try:
        found = read(edited(**{key: value}))
    except CheckpointError:
        return
    assert key in ("kind", "name")  # of another array, which is for a caller to refuse
    assert [array.tobytes() for array in found.values()] == expected


def test_members_that_have_changed_places_are_refused() -> None:
    arrays = {("m", name): np.full(4, i, np.float32) for i, name in enumerate("ab")}
    text, members = checkpoints.taken_apart(archived(arrays))
    members["m/a.npy"], members["m/b.npy"] = members["m/b.npy"], members["m/a.npy"]
    with pytest.raises(CheckpointError, match=r"m/a\.npy has another checksum"):
        read(checkpoints.put_together(text, members, fitted=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members.pop("codes/a.npy"), "is missing, or listed twice"),
        (lambda members: members.update({"codes/b.npy": b""}), "does not list each member"),
        (lambda members: members.update({"codes/a.npy": b""}), "checksum"),
    ],
)
def test_members_that_are_missing_or_too_many_are_refused(change: Any, message: str) -> None:
    text, members = checkpoints.taken_apart(archived())
    change(members)
    with pytest.raises(CheckpointError, match=message):
        read(checkpoints.put_together(text, members, fitted=False))


def test_the_same_array_twice_is_refused() -> None:
    with pytest.raises(CheckpointError, match="does not list each member"):
        read(edited(kind="parameter"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda npy: npy.replace(b"|u1", b"|b1"), "does not begin as its array"),
        (lambda npy: npy.replace(b"False", b"True "), "does not begin as its array"),
        (lambda npy: npy.replace(b"\x93NUMPY\1", b"\x93NUMPY\2"), "does not begin as its array"),
        (lambda npy: npy[:8] + b"\x10\0" + npy[10:], "does not begin as its array"),
        (lambda npy: npy + b"\0", "does not begin as its array"),
        (lambda npy: npy[:-1], "does not begin as its array"),
        (lambda npy: npy[:4], "does not begin as its array"),
    ],
)
def test_another_array_with_a_right_checksum_is_refused(change: Any, message: str) -> None:
    text, members = checkpoints.taken_apart(archived())
    members["codes/a.npy"] = change(members["codes/a.npy"])
    with pytest.raises(CheckpointError, match=message):
        read(checkpoints.put_together(text, members))


def test_a_member_that_claims_more_than_the_file_has_is_not_read() -> None:
    data = bytearray(archived())
    at = data.rindex(b"codes/a.npy") - 46 + 20
    for size in (len(data), 2**31):
        data[at : at + 8] = size.to_bytes(4, "little") * 2
        with pytest.raises(CheckpointError, match="members have more than the file's"):
            Reader(io.BytesIO(data))


def test_a_member_far_larger_than_its_array_is_not_read_whole() -> None:
    text, members = checkpoints.taken_apart(archived())
    members["codes/a.npy"] += bytes(10_000_000)
    reader = Reader(io.BytesIO(checkpoints.put_together(text, members)))
    entry = reader.entries(reader.header["arrays"])[1]
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="does not begin as its array"):
            next(reader.blocks(entry))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_only_what_a_damaged_file_can_raise_is_translated() -> None:
    with pytest.raises(OSError, match="disk"), refused():
        raise OSError(5, "disk")
    with pytest.raises(KeyboardInterrupt), refused():
        raise KeyboardInterrupt
    with pytest.raises(CheckpointError, match="outside the file"), refused():
        raise OSError(22, "Invalid argument")


def test_the_longest_name_that_stands_in_full() -> None:
    assert member_name("m", "x" * 200, 7) == f"m/{'x' * 200}.npy"
    assert member_name("m", "x" * 201, 7) == f"m/{'x' * 200}%~7.npy"


def test_a_header_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        archived(header={"rate": float("nan")})
