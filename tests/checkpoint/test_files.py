"""`save` and `load`: one file, whole or not at all, that NumPy can read and that is exact."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adamoffload as ao
import checkpoint_0_1_0
from adamoffload import files
from adamoffload.checkpoint import files as checkpoint
from adamoffload.checkpoint.archive import BLOCK

import checkpoints
from lazy_backend import LazyBackend

DEVICES = {"numpy": lambda: ao.get_backend("numpy"), "sim": lambda: ao.get_backend("sim")}
DEVICES["lazy"] = LazyBackend
FILE = checkpoints.STATES["AdamOffload"].data()


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
    for kind, slot in (("m", optimizer.moment1), ("v", optimizer.moment2)):
        places |= {f"{kind}/{name}": x for name, x in slot.items()}
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
    assert header["counters"]["global_step"] == 2
    assert (header["version"], header["adamoffload"]) == (2, version("adamoffload"))
    assert header["hyperparameters"]["constants"]["beta2"] == 0.999
    assert [entry["kind"] for entry in header["arrays"]] == ["parameter"] * 2 + ["m"] * 2 + [
        "v"
    ] * 2


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, kind in (("x", ao.AdamOffload), ("y", ao.Adam)):
        ao.save(tmp_path / name, train(build(kind)))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_the_copies_are_counted(tmp_path: Path) -> None:
    device = ao.get_backend("numpy")
    optimizer = train(build(device=device))
    before = device.traffic()
    ao.save(tmp_path / "x", optimizer)
    assert device.traffic().d2h - before.d2h == 4 * 11
    ao.load(tmp_path / "x", optimizer)
    assert device.traffic().h2d - before.h2d == 4 * 11


@pytest.mark.parametrize("kind", [ao.AdamOffload, ao.Adam])
def test_a_device_has_one_caller(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = train(build(kind, size=2 * BLOCK))
    device = optimizer.parameters[0].backend
    callers = set()
    for name in ("d2h", "h2d"):
        real = getattr(device, name)

        def noted(*arguments: Any, real: Any = real, **options: Any) -> Any:
            callers.add(threading.get_ident())
            return real(*arguments, **options)

        monkeypatch.setattr(device, name, noted)
    ao.save(tmp_path / "x", optimizer)
    ao.load(tmp_path / "x", optimizer)
    assert callers == {threading.get_ident()}


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


# -- of an earlier version ---------------------------------------------------------------------

SAVED = checkpoints.ORACLE / "checkpoint_0_1_0.npz"


@pytest.mark.parametrize("kind", [ao.AdamOffload, ao.Adam])
@pytest.mark.parametrize("backend", ["numpy", "sim"])
def test_a_run_that_0_1_0_saved_goes_on_as_if_it_had_never_stopped(kind: Any, backend: str) -> None:
    through = checkpoint_0_1_0.build()
    checkpoint_0_1_0.advance(through, 0, checkpoint_0_1_0.SAVED_AFTER)
    resumed = checkpoint_0_1_0.build(kind, backend)
    ao.load(SAVED, resumed)
    assert snapshot(resumed) == snapshot(through)
    assert resumed.learning_rate == np.float32(0.03)
    for optimizer in (through, resumed):
        checkpoint_0_1_0.advance(optimizer, checkpoint_0_1_0.SAVED_AFTER, 10)
    assert snapshot(resumed) == snapshot(through)


def test_what_0_1_0_saved_is_checked_too() -> None:
    judge = checkpoints.Judge(checkpoints.STATES["0.1.0"])
    data = SAVED.read_bytes()
    assert judge(data) == "accepted"
    expected = judge.loaded
    rng = random.Random(0)
    for at in range(0, len(data), 11):
        mutant = bytearray(data)
        mutant[at] ^= 1 << rng.randrange(8)
        assert judge(bytes(mutant)) == "damaged" or judge.loaded == expected, at


# -- whole or not at all ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chmod", "fsync", "replace"])
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


class FullDisk(io.FileIO):
    """A file whose n-th write fails."""

    writes_left = 0

    def write(self, data: Any) -> int:
        FullDisk.writes_left -= 1
        if FullDisk.writes_left == 0:
            raise OSError(28, "No space left on device")
        return super().write(data)


def test_a_write_that_fails_at_any_place_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = train(build(size=BLOCK + 1))
    ao.save(tmp_path / "x", optimizer)
    before = (tmp_path / "x").read_bytes()
    train(optimizer)
    opened = lambda path, mode: io.BufferedWriter(FullDisk(path, mode))  # noqa: E731
    monkeypatch.setattr(files, "open", opened, raising=False)
    for attempt in range(1, 1000):
        FullDisk.writes_left = attempt
        try:
            ao.save(tmp_path / "x", optimizer)
        except OSError:
            assert (tmp_path / "x").read_bytes() == before
            assert os.listdir(tmp_path) == ["x"]
        else:
            break
    assert attempt > 20
    monkeypatch.undo()
    assert (tmp_path / "x").read_bytes() != before
    ao.load(tmp_path / "x", optimizer)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # half a ZipFile
def test_an_interrupt_at_any_line_leaves_one_whole_file(tmp_path: Path) -> None:
    optimizer = train(build())
    ao.save(tmp_path / "x", optimizer)
    of = ("files.py", "archive.py", "contextlib.py", "zipfile.py", "zipfile/__init__.py")
    lines_left = 0

    def interrupt(frame: Any, event: str, argument: object) -> Any:
        nonlocal lines_left
        if not frame.f_code.co_filename.endswith(of):
            return None
        lines_left -= event == "line"
        if lines_left == 0:
            raise KeyboardInterrupt
        return interrupt

    tracer, interrupted = sys.gettrace(), 0
    for attempt in range(1, 100_000, 5):
        lines_left = attempt
        sys.settrace(interrupt)
        try:
            ao.save(tmp_path / "x", optimizer)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(tracer)
        if lines_left > 0:
            break
        assert os.listdir(tmp_path) == ["x"], attempt
    ao.load(tmp_path / "x", optimizer)
    assert interrupted > 200


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
            TypeError, match=r"must be an optimizer of adamoffload, got .*after the path"
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
    real = checkpoint.take_over

    def change_and_take_over(*arguments: Any) -> None:
        at = good.index(b"PK", good.index(b"parameter/b.npy")) - 4  # its last number
        (tmp_path / "x").write_bytes(good[:at] + b"\xff" + good[at + 1 :])
        real(*arguments)

    monkeypatch.setattr(checkpoint, "take_over", change_and_take_over)
    with pytest.raises(ao.CheckpointError, match=r"Bad CRC-32 for file 'parameter/b\.npy'"):
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
        (build(size=6), r"parameter of 'a' must have the shape \(6,\) .* got \(5,\) and 'float32'"),
        (build(beta1=0.5), "beta1: 0.9 in the state, 0.5 here"),
        (checkpoints.optimizer(), "parameter in the file lacks 'w/0'"),
    ):
        before = snapshot(other)
        with pytest.raises(ValueError, match=message) as caught:
            ao.load(tmp_path / "x", other)
        assert caught.type is ValueError
        assert snapshot(other) == before
    with pytest.warns(UserWarning, match="beta1") as warned:
        ao.load(tmp_path / "x", build(beta1=0.5), strict=False)
    assert warned[0].filename == __file__


def test_slots_and_types_that_an_optimizer_has_not_are_refused() -> None:
    text, members = checkpoints.taken_apart(FILE)
    for old, new, message in (
        (b'"kind": "v"', b'"kind": "v_max"', "the file lacks 'v' and has the unexpected 'v_max'"),
        (b'"dtype": "float32"', b'"dtype": "float16"', "type float32, got .* and 'float16'"),
    ):
        other = checkpoints.put_together(text.replace(old, new), members)
        with pytest.raises(ValueError, match=message) as caught:
            raise_for(other)
        assert caught.type is ValueError


def raise_for(data: bytes) -> None:
    checkpoint.read(io.BytesIO(data), checkpoints.optimizer())


def patched(old: bytes, new: bytes) -> bytes:
    """Return the file with another header, and every checksum right."""
    text, members = checkpoints.taken_apart(FILE)
    assert old in text
    return checkpoints.put_together(text.replace(old, new, 1), members)


def counter(name: str, value: object) -> bytes:
    """Return the file with another counter, and every checksum right."""
    text, members = checkpoints.taken_apart(FILE)
    header = json.loads(text)
    header["counters"][name] = value
    return checkpoints.put_together(json.dumps(header).encode(), members)


def rezipped(compression: int, twice: bool = False) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(FILE)) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist() * (1 + twice):
            new.writestr(name, old.read(name))
    return target.getvalue()


def encrypted() -> bytes:
    """Return the file with a member whose entry in the directory says that it is encrypted."""
    data = bytearray(FILE)
    data[data.rindex(b"v/b.npy") - 46 + 8] |= 1
    return bytes(data)


with warnings.catch_warnings(action="ignore"):  # zipfile warns of duplicates
    DUPLICATED = rezipped(zipfile.ZIP_STORED, twice=True)

NUMBERS = b'"version": 2', b'"global_step": 3'
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no checkpoint"),
    "text": (b"hello", "no checkpoint: it begins with b'hello'"),
    "a pickle": (b"\x80\x04\x95", "no checkpoint"),
    "a .npy": (b"\x93NUMPY\x01\x00" + b" " * 200, "no checkpoint: it begins with"),
    "the reference's": ((checkpoints.ORACLE / "sample.ckpt").read_bytes(), "no checkpoint"),
    "an empty zip": (b"PK\x05\x06" + b"\0" * 18, "no checkpoint"),
    "another zip": (checkpoints.put_together(b"", {}).replace(b".json", b".jsom"), "no checkpoint"),
    "three bytes": (FILE[:3], "truncated"),
    "half": (FILE[: len(FILE) // 2], "truncated"),
    "all but one byte": (FILE[:-1], "truncated"),
    "one byte more": (FILE + b"\0", "appended"),
    "twice": (FILE * 2, "before its first member"),
    "deflated": (rezipped(zipfile.ZIP_DEFLATED), "compressed"),
    "encrypted": (encrypted(), "encrypted"),
    "duplicates": (DUPLICATED, "two members have the same name"),
    "a version to come": (patched(NUMBERS[0], b'"version": 3'), r"version 3 \(int\), written"),
    "version true": (patched(NUMBERS[0], b'"version": true'), "version True"),
    "version 1 of a version 2": (patched(NUMBERS[0], b'"version": 1'), "global_step"),
    "another format": (patched(b"adamoffload checkpoint", b"adamoffload cheekpoint"), "does not"),
    "a header that is a list": (checkpoints.put_together(b"[]", {}), "does not say that it is"),
    "no counters": (patched(b'"counters"', b'"countess"'), "counters"),
    "no arrays": (patched(b'"arrays"', b'"arrows"'), "arrays"),
    "a list of no arrays": (patched(b'"arrays": [', b'"arrays": {}, "": ['), "list each member"),
    "a step of 2**63": (counter("global_step", 2**63), r"below 2\*\*63"),
    "a huge step": (
        patched(NUMBERS[1], b'"global_step": ' + b"9" * 5000),
        "cannot be loaded: Exceeds",
    ),
    "a step of 1e400": (patched(NUMBERS[1], b'"global_step": 1e400'), "integer"),
    "a step more": (counter("steps", 3), "unexpected 'steps'"),
    "a power of NaN": (counter("beta1_power", float("nan")), "finite"),
    "deep nesting": (patched(NUMBERS[0], b'"version": ' + b"[" * 200_000), "recursion"),
    "a shape of floats": (patched(b'"shape": [5]', b'"shape": [5.0]'), "integers"),
    "a shape without an end": (patched(b'"shape": [5]', b'"shape": 5'), "not iterable"),
    "a wrong member": (
        patched(b"parameter/b.npy", b"../../tmp/b.npy"),
        "is missing, or listed twice",
    ),
    "a long checksum": (patched(b'"crc32": "', b'"crc32": "0'), "checksum"),
}
wrong: object
for name in ("global_step", "learning_rate"):
    for wrong in ("3", True, [], {}):
        DAMAGED[f"{name} = {wrong!r}"] = (counter(name, wrong), f"{name} must be")


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


def test_a_2_to_the_63rd_step_is_the_first_that_is_refused() -> None:
    judge = checkpoints.Judge()
    assert judge(counter("global_step", 2**63 - 1)) == "accepted"
    assert judge(counter("global_step", 2**63)) == "damaged"


@pytest.mark.parametrize("name", checkpoints.STATES)
def test_mutants_are_refused_or_mean_what_numpy_reads(name: str) -> None:
    judge, data = checkpoints.Judge(checkpoints.STATES[name]), checkpoints.STATES[name].data()
    assert judge(data) == "accepted"
    verdicts = {judge(checkpoints.mutate(data, random.Random(seed))) for seed in range(300)}
    assert verdicts >= {"accepted", "damaged"}


@pytest.mark.parametrize("array", ["parameter/a", "m/a", "v/a"])
def test_a_large_array_that_is_damaged_is_refused_though_it_is_read_in_a_thread(
    array: str, tmp_path: Path
) -> None:
    optimizer = train(build(size=4 * BLOCK))
    ao.save(tmp_path / "x", optimizer)
    data = bytearray((tmp_path / "x").read_bytes())
    assert len(data) > 4 << 20
    data[data.index(array.encode()) + 4 * BLOCK] ^= 1
    (tmp_path / "x").write_bytes(data)
    before = snapshot(optimizer)
    with pytest.raises(ao.CheckpointError, match=f"Bad CRC-32 for file '{array}.npy'"):
        ao.load(tmp_path / "x", optimizer)
    assert snapshot(optimizer) == before


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


def test_a_second_moment_that_is_negative_is_refused() -> None:
    text, members = checkpoints.taken_apart(FILE)
    name = next(name for name in members if name.startswith("v/b"))
    members[name] = members[name][:-4] + np.float32(-1).tobytes()
    with pytest.raises(ao.CheckpointError, match="v of 'b' is negative somewhere"):
        raise_for(checkpoints.put_together(text, members))


def mastered() -> Any:
    return build(ao.Optimizer, rule=ao.rules.AdamW(), strategy="zero-offload")


def test_a_master_is_that_of_the_file_and_not_made_of_the_weights(tmp_path: Path) -> None:
    first, second = mastered(), mastered()
    first.parameters[0].data[...] = 5  # by hand, and the master is left as it is
    ao.save(tmp_path / "x", first)
    ao.load(tmp_path / "x", second)
    assert second.master["a"].tolist() == first.master["a"].tolist() != [5] * 5


def test_a_master_of_another_type_is_refused(tmp_path: Path) -> None:
    own = mastered()
    text, members = checkpoints.taken_apart(checkpoints.written(own))
    header = json.loads(text)
    (entry,) = (e for e in header["arrays"] if (e["kind"], e["name"]) == ("master", "a"))
    entry["dtype"] = "float64"
    data = checkpoints.put_together(json.dumps(header).encode(), members)
    with pytest.raises(ValueError, match=r"master of 'a' must have .* got .* and 'float64'"):
        checkpoint.read(io.BytesIO(data), own)


class Falling:
    """A schedule with a state of its own."""

    rate = 0.5

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, step: int) -> float:
        self.steps = step
        return 0.5


def test_a_schedule_with_a_state_is_reported_where_it_is_saved(tmp_path: Path) -> None:
    optimizer = train(build(learning_rate=Falling()))
    with pytest.warns(UserWarning, match=r"save: the state of learning_rate Falling") as warned:
        ao.save(tmp_path / "x", optimizer)
    assert warned[0].filename == __file__


def test_strict_is_a_bool(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="load: strict must be"):
        ao.load(tmp_path / "x", build(), strict="no")  # type: ignore[arg-type]


def test_files_knows_no_checkpoint() -> None:
    assert "adamoffload" not in Path(files.__file__).read_text().replace(".adamoffload-", "")
