"""`save` and `load`: one file, whole or not at all, that NumPy can read and that is exact."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adamoffload as ao
from adamoffload import files
from adamoffload.checkpoint import archive
from adamoffload.checkpoint.archive import BLOCK
from adamoffload.checkpoint.layout import member_name

import checkpoints
from lazy_backend import LazyBackend

DEVICES = {"numpy": lambda: ao.get_backend("numpy"), "sim": lambda: ao.get_backend("sim")}
DEVICES["lazy"] = LazyBackend
FILE = checkpoints.written()


def build(kind: Any = ao.AdamOffload, device: Any = None, size: int = 5, **options: Any) -> Any:
    device = device or ao.get_backend("numpy")
    rng = np.random.default_rng(0)
    parameters = [
        ao.Parameter(device.asarray(rng.standard_normal(shape, np.float32)), name)
        for name, shape in {"a": (size,), "b": (2, 1, 3)}.items()
    ]
    return kind(parameters, **options)


def train(optimizer: Any, steps: int = 2, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    device = optimizer.parameters[0].backend
    for _ in range(steps):
        gradients = [rng.standard_normal(p.shape, np.float32) for p in optimizer.parameters]
        optimizer([device.asarray(gradient) for gradient in gradients])
    return optimizer


def arrays(optimizer: Any) -> dict[str, np.ndarray[Any, Any]]:
    device = optimizer.parameters[0].backend
    places = {f"parameter/{p.name}": p.data for p in optimizer.parameters}
    for kind in ("moment1", "moment2"):
        places |= {f"{kind}/{name}": x for name, x in getattr(optimizer, kind).items()}
    return {k: device.asnumpy(x) if device.owns(x) else x.copy() for k, x in places.items()}


def snapshot(optimizer: Any) -> list[Any]:
    powers = optimizer.beta1_power, optimizer.beta2_power
    return [*(x.tobytes() for x in arrays(optimizer).values()), *powers, optimizer.global_step]


def temporaries(folder: Path) -> list[Path]:
    return list(folder.glob(".adamoffload-*"))


# -- there and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("there", DEVICES)
@pytest.mark.parametrize("back", DEVICES)
def test_every_bit_returns_on_any_backend(there: str, back: str, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    for kind, other in ((ao.AdamOffload, ao.Adam), (ao.Adam, ao.AdamOffload)):
        saved = train(build(kind, DEVICES[there](), weight_decay=0.1))
        ao.save(path, saved)
        loaded = build(other, DEVICES[back](), weight_decay=0.1)
        ao.load(path, loaded)
        assert snapshot(loaded) == snapshot(saved)
        assert snapshot(train(loaded, seed=3)) == snapshot(train(saved, seed=3))


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 1_200_001])
def test_arrays_of_many_blocks_return(size: int, tmp_path: Path) -> None:
    saved, loaded = train(build(size=size)), build(size=size, chunk_bytes=4096, threads=1)
    for path in (str(tmp_path / "x"), tmp_path / "y"):
        ao.save(path, saved)
        ao.load(path, loaded)
        assert snapshot(loaded) == snapshot(saved)


def test_numpy_alone_reads_it(tmp_path: Path) -> None:
    optimizer = train(build())
    ao.save(tmp_path / "run.npz", optimizer)
    with np.load(tmp_path / "run.npz", allow_pickle=False) as file:
        header = json.loads(file["checkpoint.json"])
        found = {name: file[name] for name in file.files if name != "checkpoint.json"}
    expected = arrays(optimizer)
    assert list(found) == list(expected)
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    assert header["global_step"] == 2
    assert np.float32(header["beta2_power"]) == optimizer.beta2_power
    with zipfile.ZipFile(tmp_path / "run.npz") as file_:
        assert file_.testzip() is None
        for entry in header["arrays"]:
            assert int(entry["crc32"], 16) == zlib.crc32(file_.read(entry["member"]))
            assert entry["shape"] == [*expected[entry["kind"] + "/" + entry["name"]].shape]


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, kind in (("x", ao.AdamOffload), ("y", ao.Adam)):
        ao.save(tmp_path / name, train(build(kind)))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


NAMES = ["a/b", "..", "/etc/passwd", "a\0b", "é", "%41", "\ud800", "C:\\x", ".", " ", "x" * 10_000]
NAMES += ["\U0001f600" * 10_000, "x" * 10_001, "A", "a", "con.npy", "a.npy", "w~1", "\n"]


def test_any_name_is_a_name(tmp_path: Path) -> None:
    device = ao.get_backend("numpy")
    parameters = [
        ao.Parameter(device.asarray(np.full(1, i, np.float32)), name)
        for i, name in enumerate(NAMES)
    ]
    optimizer = ao.AdamOffload(parameters)
    ao.save(tmp_path / "x", optimizer)
    members = zipfile.ZipFile(tmp_path / "x").namelist()
    assert len(set(members)) == 1 + 3 * len(NAMES)
    for member in members[1:]:
        assert re.fullmatch(r"(parameter|moment[12])/[A-Za-z0-9._%~-]{1,216}\.npy", member)
    before = snapshot(optimizer)
    ao.load(tmp_path / "x", optimizer)
    assert snapshot(optimizer) == before
    assert sorted(os.listdir(tmp_path)) == ["x"]


@given(st.text(st.characters(), min_size=1, max_size=60))
def test_a_name_can_be_read_from_its_member(name: str) -> None:
    from urllib.parse import unquote_to_bytes

    member = member_name("moment1", name, 0)
    assert "%~" not in member or len(name.encode("utf-8", "surrogatepass")) > 66
    if "%~" not in member:
        encoded = member.removeprefix("moment1/").removesuffix(".npy")
        assert unquote_to_bytes(encoded).decode("utf-8", "surrogatepass") == name


def test_the_copies_are_counted(tmp_path: Path) -> None:
    device = ao.get_backend("numpy")
    optimizer = train(build(device=device))
    before = device.traffic()
    ao.save(tmp_path / "x", optimizer)
    assert device.traffic().d2h - before.d2h == 4 * 11
    ao.load(tmp_path / "x", optimizer)
    assert device.traffic().h2d - before.h2d == 4 * 11


def test_what_is_still_in_the_devices_queue_comes_before(tmp_path: Path) -> None:
    device = LazyBackend()
    optimizer = build(device=device)
    a = optimizer.parameters[0].data
    before = device.asnumpy(a)

    def add_one() -> None:
        np.add(a, np.float32(1), out=a)

    device.run_on_device(add_one)
    ao.save(tmp_path / "x", optimizer)
    with np.load(tmp_path / "x") as file:
        np.testing.assert_array_equal(file["parameter/a"], before + np.float32(1))
    device.run_on_device(add_one)
    ao.load(tmp_path / "x", optimizer)
    np.testing.assert_array_equal(device.asnumpy(a), before + np.float32(1))


# -- exact resume -----------------------------------------------------------------------------


def decay(step: int) -> float:
    return 0.01 * (step % 3)


def resumable(choice: dict[str, Any], kind: Any, device: Any, **options: Any) -> Any:
    """Build an optimizer of three parameters: plain, or in groups."""
    rng = np.random.default_rng(1)
    parameters = [
        ao.Parameter(device.asarray(rng.standard_normal(shape, np.float32)), name)
        for name, shape in {"w": (3, 2), "layer.beta": (4,), "s": ()}.items()
    ]
    params: Any = parameters
    if choice["grouped"]:
        params = [
            {"params": parameters[:1], "lr": ao.WarmUpLR(0.1, 70), "weight_decay": decay},
            {"params": parameters[1:2], "lr": 0.05, "grad_centralization": True},
            {"params": parameters[2:]},
        ]
    return kind(params, **choice["arguments"], **options)


def advance(optimizer: Any, first: int, last: int, rates: dict[int, float]) -> None:
    device = optimizer.parameters[0].backend
    for step in range(first, last):
        if step in rates:
            optimizer.learning_rate = rates[step]
        rng = np.random.default_rng(step)
        gradients = [rng.standard_normal(p.shape, np.float32) for p in optimizer.parameters]
        if step > 2:  # moments that shrink into the denormals, to be flushed at step 64
            gradients[-1] = gradients[-1] * np.float32(1e-42)
        optimizer([device.asarray(np.asarray(gradient, np.float32)) for gradient in gradients])


choices = st.fixed_dictionaries(
    {
        "grouped": st.booleans(),
        "arguments": st.fixed_dictionaries(
            {},
            optional={
                "learning_rate": st.sampled_from(
                    [0.1, [0.1] * 40 + [0.2] * 100, ao.CosineDecayLR(0.0, 0.1, 50)]
                ),
                "beta1": st.sampled_from([0.5, 0.25]),
                "use_nesterov": st.booleans(),
                "weight_decay": st.sampled_from([0.1, decay]),
                "loss_scale": st.sampled_from([3.0, 1024]),
            },
        ),
    }
)
places = st.tuples(st.sampled_from([ao.AdamOffload, ao.Adam]), st.sampled_from(list(DEVICES)))


@settings(max_examples=25, deadline=None)
@given(choices, places, places, st.sampled_from([1, 63, 64, 65]), st.booleans())
def test_a_resumed_run_is_the_run(
    tmp_path_factory: pytest.TempPathFactory,
    choice: dict[str, Any],
    first: tuple[Any, str],
    second: tuple[Any, str],
    n: int,
    assign: bool,
) -> None:
    path = tmp_path_factory.mktemp("resume") / "run.npz"
    fixed = isinstance(choice["arguments"].get("learning_rate", 0.1), float)
    rates = {n - 1: 0.03} if assign and fixed else {}
    through = resumable(choice, first[0], DEVICES[first[1]]())
    advance(through, 0, n + 5, rates)
    stopped = resumable(choice, first[0], DEVICES[first[1]]())
    advance(stopped, 0, n, rates)
    ao.save(path, stopped)
    options = {"chunk_bytes": 8, "threads": 1} if second[0] is ao.AdamOffload else {}
    resumed = resumable(choice, second[0], DEVICES[second[1]](), **options)
    ao.load(path, resumed)
    advance(resumed, n, n + 5, {})
    assert snapshot(resumed) == snapshot(through)


SCRIPT = """
import sys
import numpy as np
import adamoffload as ao
kind, backend, begin, end, source, target = sys.argv[1:]
begin, end = int(begin), int(end)
device = ao.get_backend(backend)
rng = np.random.default_rng(7)
ps = [ao.Parameter(device.asarray(rng.standard_normal(s, np.float32)), n)
      for n, s in (("w", (20, 3)), ("b", (3,)))]
groups = [{"params": ps[:1], "lr": [0.1, 0.2] * 80, "weight_decay": lambda step: 0.01 * step},
          {"params": ps[1:]}]
options = {"engine": "numpy"} if kind == "AdamOffload" else {}
opt = getattr(ao, kind)(groups, 0.05, use_nesterov=True, loss_scale=8.0, **options)
if source:
    ao.load(source, opt)
for step in range(begin, end):
    if step == 3:
        opt.learning_rate = 0.01
    g = np.random.default_rng(step)
    opt([device.asarray(g.standard_normal(p.shape, np.float32)) for p in ps])
ao.save(target, opt)
"""


def test_a_run_goes_on_in_a_new_process(tmp_path: Path) -> None:
    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=True, cwd=tmp_path)

    run("AdamOffload", "numpy", "0", "70", "", "through")
    run("AdamOffload", "sim", "0", "35", "", "half")
    run("Adam", "numpy", "35", "70", "half", "resumed")
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "through").read_bytes()


# -- whole or not at all ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chmod", "fsync", "replace", "posix_fallocate"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    name: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = train(build())
    ao.save(tmp_path / "x", optimizer)
    before = (tmp_path / "x").read_bytes()
    train(optimizer)

    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(type(error)):
        ao.save(tmp_path / "x", optimizer)
    monkeypatch.undo()
    assert (tmp_path / "x").read_bytes() == before
    assert os.listdir(tmp_path) == ["x"]


def test_a_folder_that_cannot_be_synced_is_an_error_and_the_file_is_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = train(build())
    real, calls = os.fsync, 0

    def fail_at_the_second(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(5, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", fail_at_the_second)
    with pytest.raises(OSError, match="Input/output error"):
        ao.save(tmp_path / "x", optimizer)
    assert os.listdir(tmp_path) == ["x"]
    ao.load(tmp_path / "x", optimizer)


def test_a_write_that_fails_at_any_place_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = train(build())
    ao.save(tmp_path / "x", optimizer)
    before = (tmp_path / "x").read_bytes()
    train(optimizer)
    real, calls, limit = archive.Writer._write, 0, 0

    def fail_once(writer: Any, offset: int, data: memoryview) -> None:
        nonlocal calls
        calls += 1
        if calls == limit:
            raise OSError(5, "Input/output error")
        real(writer, offset, data)

    monkeypatch.setattr(archive.Writer, "_write", fail_once)
    for attempt in range(1, 100):
        calls, limit = 0, attempt
        try:
            ao.save(tmp_path / "x", optimizer)
        except OSError:
            assert (tmp_path / "x").read_bytes() == before
            assert os.listdir(tmp_path) == ["x"]
        else:
            break
    assert limit > 20
    assert (tmp_path / "x").read_bytes() != before


def test_the_data_are_on_the_disk_before_the_name_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder"}
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle: int) -> None:
        order.append("fsync " + kinds[stat.S_IFMT(os.fstat(handle).st_mode)])
        fsync(handle)

    def note_replace(source: str, target: str) -> None:
        order.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    ao.save(tmp_path / "x", build())
    assert order == ["fsync file", "replace", "fsync folder"]


def test_permissions_are_kept_or_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        ao.save(tmp_path / "x", build())
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640
        (tmp_path / "x").chmod(0o604)
        ao.save(tmp_path / "x", build())
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o604
    finally:
        os.umask(before)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "x").symlink_to("there/y")
    for _ in range(2):
        ao.save(tmp_path / "x", build())
        assert (tmp_path / "x").is_symlink()
        assert os.listdir(tmp_path / "there") == ["y"]
    ao.load(tmp_path / "x", build())


KILLED = """
import sys
import numpy as np
import adamoffload as ao
device = ao.get_backend("numpy")
w = ao.Parameter(device.asarray(np.zeros(int(sys.argv[2]), np.float32)), "w")
g = device.asarray(np.ones(w.size, np.float32))
opt = ao.AdamOffload([w], engine="numpy", threads=1)
print("ready", flush=True)
while True:
    opt((g,))
    ao.save(sys.argv[1], opt)
    print(opt.global_step, flush=True)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.002, 0.005, 0.01])
def test_killed_while_saving_the_file_is_the_old_or_the_new_one(
    delay_s: float, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    size = 100_000
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(size)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        for _ in range(4):  # ready, and three saves
            process.stdout.readline()
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in process.stdout.read().split()]
    done = said[-1] if said else 3
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(size, np.float32)), "w")
    optimizer = ao.AdamOffload([w])
    ao.load(path, optimizer)
    assert optimizer.global_step in (done, done + 1)


# -- refused ----------------------------------------------------------------------------------


def test_what_is_no_file_is_an_ordinary_error(tmp_path: Path) -> None:
    optimizer = build()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        ao.load(tmp_path / "none", optimizer)
    functions: list[Any] = [ao.load, ao.save]
    for act in functions:
        with pytest.raises(IsADirectoryError):
            act(tmp_path, optimizer)
        for path in (tmp_path / "pipe", "/dev/null"):
            with pytest.raises(OSError, match="not a regular file"):
                act(path, optimizer)
        with pytest.raises(TypeError, match="PathLike object, not int"):
            act(3, optimizer)
        with pytest.raises(
            TypeError, match=r"must be an AdamOffload or Adam, got .*after the path"
        ):
            act(tmp_path / "x", "x")
    with pytest.raises(FileNotFoundError, match="folder does not exist; create it") as caught:
        ao.save(tmp_path / "no" / "x", optimizer)
    assert caught.value.filename == str(tmp_path / "no" / "x")
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_broken_optimizer_is_not_saved_and_a_load_repairs_it(tmp_path: Path) -> None:
    optimizer = train(build())
    ao.save(tmp_path / "x", optimizer)
    before = snapshot(optimizer)
    train(optimizer)
    optimizer._integrity._verdict = "AdamOffload: step 5 failed half-way"
    with pytest.raises(RuntimeError, match="AdamOffload: step 5"):
        ao.save(tmp_path / "x", optimizer)
    ao.load(tmp_path / "x", optimizer)
    assert snapshot(optimizer) == before
    train(optimizer)


def test_a_file_that_changes_while_it_is_loaded_breaks_the_optimizer_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = train(build())
    ao.save(tmp_path / "x", optimizer)
    good = (tmp_path / "x").read_bytes()
    from adamoffload.checkpoint import files as checkpoint

    real = checkpoint.take_over

    def change_and_take_over(*arguments: Any) -> None:
        at = good.index(b"PK", good.index(b"parameter/b.npy" + b"\x01\x00")) - 4  # its last number
        (tmp_path / "x").write_bytes(good[:at] + b"\xff" + good[at + 1 :])
        real(*arguments)

    monkeypatch.setattr(checkpoint, "take_over", change_and_take_over)
    with pytest.raises(ao.CheckpointError, match="parameter of 'b' is damaged"):
        ao.load(tmp_path / "x", optimizer)
    with pytest.raises(RuntimeError, match=r"half-way .*parameter of 'a', parameter of 'b' had"):
        train(optimizer)
    monkeypatch.undo()
    (tmp_path / "x").write_bytes(good)
    ao.load(tmp_path / "x", optimizer)
    train(optimizer)


def test_another_optimizers_checkpoint_is_refused(tmp_path: Path) -> None:
    ao.save(tmp_path / "x", train(build(size=5)))
    for other, message in (
        (build(size=6), r"value of 'a' must have the parameter's shape \(6,\), got \(5,\)"),
        (build(beta1=0.5), "beta1: 0.9 in the state, 0.5 here"),
        (checkpoints.optimizer(), "the file lacks 'w/0'"),
    ):
        before = snapshot(other)
        with pytest.raises(ValueError, match=message) as caught:
            ao.load(tmp_path / "x", other)
        assert caught.type is ValueError
        assert snapshot(other) == before
    with pytest.warns(UserWarning, match="beta1") as warned:
        ao.load(tmp_path / "x", build(beta1=0.5), strict=False)
    assert warned[0].filename == __file__


def patched(old: bytes, new: bytes) -> bytes:
    """Return the file with another header, and every checksum right."""
    text, items, contents = checkpoints._taken_apart(FILE)
    assert old in text
    return checkpoints._put_together(text.replace(old, new, 1), items, contents)


def rezipped(compression: int, twice: bool = False) -> bytes:
    import io

    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(FILE)) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist() * (1 + twice):
            new.writestr(name, old.read(name))
    return target.getvalue()


def with_moment2(value: float) -> bytes:
    text, items, contents = checkpoints._taken_apart(FILE)
    contents[-1] = contents[-1][:-4] + np.float32(value).tobytes()
    return checkpoints._put_together(text, items, contents)


with warnings.catch_warnings(action="ignore"):  # zipfile warns of duplicates
    DUPLICATED = rezipped(zipfile.ZIP_STORED, twice=True)

DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no checkpoint"),
    "text": (b"hello", "no checkpoint: it begins with b'hello'"),
    "a pickle": (b"\x80\x04\x95", "no checkpoint"),
    "a .npy": (b"\x93NUMPY\x01\x00" + b" " * 200, "no checkpoint: it begins with"),
    "the reference's": ((checkpoints.ORACLE / "sample.ckpt").read_bytes(), "no checkpoint"),
    "an empty zip": (b"PK\x05\x06" + b"\0" * 18, "no checkpoint"),
    "three bytes": (FILE[:3], "truncated"),
    "half a header": (FILE[:300], "truncated: its header ends"),
    "half": (FILE[: len(FILE) // 2], "truncated: it has"),
    "all but one byte": (FILE[:-1], "truncated"),
    "one byte more": (FILE + b"\0", "appended"),
    "twice": (FILE * 2, "appended"),
    "deflated": (rezipped(zipfile.ZIP_DEFLATED), "header|method"),
    "zipped again": (rezipped(zipfile.ZIP_STORED), "header"),
    "duplicates": (DUPLICATED, "header"),
    "another first member": (FILE.replace(b"checkpoint.json", b"checkpoint.jsom"), "first member"),
    "a version to come": (patched(b'"version": 1', b'"version": 2'), r"version 2 \(int\), written"),
    "version true": (patched(b'"version": 1', b'"version": true'), "version True"),
    "another format": (patched(b"adamoffload checkpoint", b"adamoffload cheekpoint"), "does not"),
    "a step more": (patched(b'"global_step": 3', b'"global_step": 0'), "at step 0 only"),
    "a huge step": (patched(b'"global_step": 3', b'"global_step": ' + b"9" * 5000), "no JSON"),
    "a step of 1e400": (patched(b'"global_step": 3', b'"global_step": 1e400'), "integer"),
    "a power of NaN": (patched(b'"beta1_power": 0', b'"beta1_power": NaN, "": 0'), "unexpected"),
    "other spaces": (patched(b'"version": 1', b'"version":  1'), "another text"),
    "an entry twice": (patched(b'"version": 1', b'"version": 1,\n"version": 1'), "another text"),
    "deep nesting": (patched(b'"version": 1', b'"version": ' + b"[" * 200_000), "no JSON"),
    "a shape of 0": (patched(b'"shape": [5]', b'"shape": [0]'), "no shape"),
    "a huge shape": (patched(b'"shape": [5]', b'"shape": [9223372036854775807]'), "same names"),
    "objects": (patched(b'"dtype": "<f4"', b'"dtype": "|O"'), "another text"),
    "big-endian": (patched(b'"dtype": "<f4"', b'"dtype": ">f4"'), "another text"),
    "a wrong member": (patched(b"parameter/b.npy", b"../../tmp/b.npy"), "another text"),
    "a long checksum": (patched(b'"crc32": "', b'"crc32": "0'), "eight hexadecimal"),
    "a negative moment2": (with_moment2(-1.0), "moment2 of 'b' is negative"),
    "Fortran order": (FILE.replace(b"order': False", b"order': True "), "beginning of parameter"),
    "a flipped bit": (
        FILE.replace(b"<f4', 'fo", b"<f8', 'fo"),
        "the beginning of parameter/.* is damaged: at byte .* expected",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_is_refused_by_name_and_nothing_has_changed(
    case: str, tmp_path: Path
) -> None:
    data, message = DAMAGED[case]
    (tmp_path / "x").write_bytes(data)
    judge = checkpoints.Judge()
    with pytest.raises(ao.CheckpointError, match=message) as caught:
        ao.load(tmp_path / "x", judge.optimizer)
    assert str(tmp_path / "x") in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert judge.state() == judge.before


def test_every_byte_counts() -> None:
    judge = checkpoints.Judge()
    assert judge(FILE) == "accepted"
    rng = random.Random(0)
    for at in range(0, len(FILE), 3):
        mutant = bytearray(FILE)
        mutant[at] ^= 1 << rng.randrange(8)
        assert judge(bytes(mutant)) == "damaged", at


def test_the_message_names_the_field() -> None:
    at = FILE.index(b"parameter/b.npy", 2000) - 30 + 8
    with pytest.raises(ao.CheckpointError, match=r"compression method .* never compressed"):
        raise_for(FILE[:at] + b"\x08\x00" + FILE[at + 2 :])
    at = FILE.rindex(b"moment2/b.npy") - 46 + 16
    with pytest.raises(ao.CheckpointError, match=r"entry of moment2/b.npy in the central.*CRC-32"):
        raise_for(FILE[:at] + b"\x00\x00" + FILE[at + 2 :])


def raise_for(data: bytes) -> None:
    import io

    from adamoffload.checkpoint import files as checkpoint

    checkpoint.read(archive.Reader(io.BytesIO(data), len(data)), checkpoints.optimizer())


def test_mutants_are_refused_or_mean_what_numpy_reads() -> None:
    judge = checkpoints.Judge()
    verdicts = {judge(checkpoints.mutate(FILE, random.Random(seed))) for seed in range(600)}
    assert verdicts >= {"accepted", "damaged"}


def test_a_header_that_claims_much_is_not_read() -> None:
    at = FILE.index(b"checkpoint.json") + 15 + 12
    huge = FILE[:at] + (1 << 40).to_bytes(8, "little") + FILE[at + 8 :]
    with pytest.raises(ao.CheckpointError, match="claims 1099511627776 bytes, more than the"):
        raise_for(huge)


# -- threads ----------------------------------------------------------------------------------


def test_a_save_waits_for_a_step_and_sees_all_of_it(tmp_path: Path) -> None:
    optimizer = build(use_locking=True, size=50_000)
    stop = threading.Event()

    def steps() -> None:
        while not stop.is_set():
            train(optimizer, 1)

    thread = threading.Thread(target=steps)
    thread.start()
    try:
        for _ in range(5):
            ao.save(tmp_path / "x", optimizer)
            alone = build(size=50_000)
            ao.load(tmp_path / "x", alone)
            expected = train(build(size=50_000), 0)
            for _ in range(alone.global_step):
                train(expected, 1)
            assert snapshot(alone) == snapshot(expected)
    finally:
        stop.set()
        thread.join()


def test_files_knows_no_checkpoint() -> None:
    assert "adamoffload" not in Path(files.__file__).read_text().replace(".adamoffload-", "")
