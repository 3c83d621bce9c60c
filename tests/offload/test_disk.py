"""What is kept on a disk: its files from construction to the end, and what comes of failures."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.device.disk import DiskArray, DiskFile
from adamoffload.offload.transfer import on_host

import faults
from faults import OnDisk, Setting, interrupt, trial

RULE = ao.rules.Adam(learning_rate=0.1)
TO_DEVICE = ao.Strategy(name="disk to device", state="disk", arithmetic="device")


def made(directory: Path | None, device: Any = None, **options: Any) -> tuple[Any, list[Any]]:
    """Return an optimizer of two parameters, and a gradient for each."""
    device = device or ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.arange(5, dtype=np.float32)), "w")
    v = ao.Parameter(device.asarray(np.ones((2, 3), np.float32)), "v")
    options = {"strategy": "disk", "directory": directory, "chunk_bytes": 16} | options
    optimizer = ao.Optimizer([w, v], options.pop("rule", RULE), **options)
    return optimizer, [device.asarray(np.full(p.shape, 0.5, np.float32)) for p in (w, v)]


# -- files ----------------------------------------------------------------------------------------


def test_there_is_one_file_a_slot_and_one_for_the_master(tmp_path: Path) -> None:
    optimizer, gradients = made(tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.float32")}
    assert sizes == dict.fromkeys(("m.float32", "v.float32", "master.float32"), 4 * 11)
    master = np.fromfile(tmp_path / "master.float32", "<f4")
    np.testing.assert_array_equal(master, [0, 1, 2, 3, 4, 1, 1, 1, 1, 1, 1])
    assert not np.fromfile(tmp_path / "m.float32", "<f4").any()
    optimizer(gradients)
    m = optimizer.state["m"]["w"]  # waits
    np.testing.assert_array_equal(np.fromfile(tmp_path / "m.float32", "<f4")[:5], m)
    optimizer.close()


@pytest.mark.parametrize("backend", ["numpy", "sim"])
def test_state_and_master_are_read_only_copies(tmp_path: Path, backend: str) -> None:
    optimizer, gradients = made(tmp_path, ao.get_backend(backend))
    state = optimizer.state
    before = state["m"]["v"]
    assert (before.shape, before.dtype) == ((2, 3), np.float32)
    optimizer(gradients)
    assert not before.any()
    for array in (state["m"]["v"], optimizer.state["v"]["w"], optimizer.master["w"]):
        assert array.any()
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert [*optimizer.master] == ["w", "v"]
    optimizer.close()


def test_making_a_master_is_recorded_outside_of_steps(tmp_path: Path) -> None:
    ledger = ao.Ledger()
    optimizer, _ = made(tmp_path, ledger=ledger)
    made_of = [(e.hop, e.nbytes, e.step) for e in ledger.events]
    assert made_of == [(hop, n, None) for n in (20, 24) for hop in ("d2h", "write")]
    optimizer.close()


def test_every_byte_of_the_files_is_in_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = {"read": 0, "write": 0}
    for lane in moved:
        original = getattr(DiskFile, lane)

        def counting(
            self: Any, view: memoryview, at: int, lane: str = lane, original: Any = original
        ) -> None:
            moved[lane] += len(view)
            original(self, view, at)

        monkeypatch.setattr(DiskFile, lane, counting)
    ledger = ao.Ledger()
    optimizer, gradients = made(tmp_path, ledger=ledger, slots=2)
    for present in (gradients, [None, gradients[1]], gradients):
        optimizer(present)
    optimizer.close()
    assert moved == {"read": 12 * (11 + 6 + 11), "write": 12 * (11 + 6 + 11) + 4 * 11}
    counted = {lane: sum(e.nbytes for e in ledger.events if e.hop == lane) for lane in moved}
    assert counted == moved
    assert optimizer.bytes_per_step == {"d2h": 44, "h2d": 44, "read": 132, "write": 132}


def test_closing_removes_the_files_and_ends_the_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    optimizer, gradients = made(tmp_path)
    optimizer(gradients)
    weights = optimizer.parameters[0].data
    optimizer.close()
    optimizer.close()
    assert not os.listdir(tmp_path)
    for thread in threading.enumerate():
        if thread.name.startswith(("adamoffload-read", "adamoffload-write")):
            thread.join(10)
    assert threading.active_count() == before
    held = optimizer.backend.asnumpy(weights)
    with pytest.raises(ValueError, match="removed when their optimizer was closed"):
        optimizer(gradients)
    with pytest.raises(ValueError, match="removed when its optimizer was closed"):
        optimizer.state["m"]["w"]
    np.testing.assert_array_equal(optimizer.backend.asnumpy(weights), held)
    made(tmp_path)[0].close()


def test_an_optimizer_that_nobody_uses_removes_its_files(tmp_path: Path) -> None:
    optimizer, gradients = made(tmp_path)
    optimizer(gradients)
    del optimizer
    gc.collect()
    assert not os.listdir(tmp_path)


# -- a directory that cannot be used ---------------------------------------------------------------


def test_a_directory_is_needed_where_something_is_kept_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="strategy 'disk' keeps m, v, master on the disk; say in which"
    ):
        made(None)
    with pytest.raises(ValueError, match="directory is of no use, since strategy 'zero-offload'"):
        made(tmp_path, strategy="zero-offload")
    assert not os.listdir(tmp_path)


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'.*gone' does not exist; make it"):
        made(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"'.*file' is no directory"):
        made(tmp_path / "file")
    with pytest.raises(TypeError, match="directory must be a path, got 3"):
        made(3)  # type: ignore[arg-type]


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    optimizer, gradients = made(tmp_path)
    files = sorted(os.listdir(tmp_path))
    with pytest.raises(RuntimeError, match="is used by another optimizer; name another one"):
        made(tmp_path)
    with pytest.raises(RuntimeError, match="is used by another optimizer"):
        optimizer.to("disk", directory=tmp_path)
    assert sorted(os.listdir(tmp_path)) == files
    optimizer(gradients)
    assert optimizer.state["m"]["w"].any()
    optimizer.close()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write it")
def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"Optimizer: directory '.*' cannot be used: Perm"):
        made(tmp_path)


def test_a_disk_without_room_is_found_at_construction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = DiskFile._fill

    def full(self: DiskFile, nbytes: int) -> None:
        if self.path.endswith("v.float32"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, nbytes)

    monkeypatch.setattr(DiskFile, "_fill", full)
    with pytest.raises(OSError, match="cannot be used: No space left on device; v takes 44 bytes"):
        made(tmp_path)
    assert not os.listdir(tmp_path)


LIMITED = """
import resource, sys
sys.path[:0] = {path!r}
import numpy as np, adamoffload as ao
device = ao.get_backend("numpy")
w = ao.Parameter(device.asarray(np.zeros(100_000, np.float32)), "w")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    ao.Optimizer([w], ao.rules.Adam(), strategy="disk", directory={directory!r})
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_the_system_itself_says_that_there_is_no_room(tmp_path: Path) -> None:
    script = LIMITED.format(path=sys.path, directory=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "File too large; m takes 400,000 bytes" in done.stdout, done.stderr
    assert not os.listdir(tmp_path)


def test_a_foreign_file_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "v.float32").write_text("mine")
    with pytest.raises(FileExistsError, match="cannot be used: File exists; v takes"):
        made(tmp_path)
    assert os.listdir(tmp_path) == ["v.float32"]
    assert (tmp_path / "v.float32").read_text() == "mine"


def test_nothing_is_left_where_construction_fails_later(tmp_path: Path) -> None:
    class Picky(ao.Probe):
        def attach(self, watched: Any) -> None:
            raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one") as caught:
        made(tmp_path, probe=Picky())
    assert not os.listdir(tmp_path), caught


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
import numpy as np, adamoffload as ao
device = ao.get_backend("numpy")
w = ao.Parameter(device.asarray(np.ones(1000, np.float32)), "w")
opt = ao.Optimizer([w], ao.rules.Adam(), strategy="disk", directory={directory!r}, chunk_bytes=64)
opt([w.data + 1])
os.kill(os.getpid(), signal.{how})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_what_a_killed_process_leaves_is_refused(tmp_path: Path) -> None:
    script = KILLED.format(path=sys.path, directory=str(tmp_path), how="SIGKILL")
    subprocess.run([sys.executable, "-c", script], check=False)
    left = sorted(os.listdir(tmp_path))
    assert left == ["adamoffload-open", "m.float32", "master.float32", "v.float32"]
    refused = r"files of a run that was not closed.*delete them .*and resume from a checkpoint"
    for _ in range(2):
        with pytest.raises(FileExistsError, match=refused):
            made(tmp_path)
    assert sorted(os.listdir(tmp_path)) == left
    for name in left:
        (tmp_path / name).unlink()
    made(tmp_path)[0].close()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_process_that_ends_or_is_interrupted_removes_its_files(tmp_path: Path) -> None:
    script = KILLED.format(path=sys.path, directory=str(tmp_path), how="SIGINT")
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # from Python 3.12 on
def test_a_forked_process_leaves_the_files_alone(tmp_path: Path) -> None:
    optimizer, gradients = made(tmp_path)
    pid = os.fork()
    if not pid:  # pragma: no cover
        code = 1
        try:
            optimizer.close()
        except ValueError as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    optimizer(gradients)
    assert optimizer.state["m"]["w"].any()
    optimizer.close()


# -- state that comes and goes ---------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "sim"])
@pytest.mark.parametrize("other", ["resident", "zero-offload", "disk"])
def test_a_state_goes_to_the_disk_and_comes_from_it(
    tmp_path: Path, other: str, backend: str
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    device = ao.get_backend(backend)
    directory = tmp_path / "two" if other == "disk" else None
    optimizer, gradients = made(tmp_path / "one", device)
    twin, _ = made(directory, device, strategy=other)
    optimizer(gradients)
    optimizer([gradients[0], None])
    taken = optimizer.state_dict()
    twin.load_state_dict(taken)
    again = twin.state_dict()
    optimizer(gradients)
    optimizer.load_state_dict(again)
    back = optimizer.state_dict()
    for slot in ("m", "v"):
        for name in ("w", "v"):
            np.testing.assert_array_equal(back["slots"][slot][name], taken["slots"][slot][name])
    assert taken["slots"]["m"]["w"].flags.writeable
    assert optimizer.global_step == 2
    optimizer.close()
    twin.close()


@pytest.mark.parametrize("backend", ["numpy", "sim"])
def test_a_checkpoint_is_made_of_a_disk_and_loaded_to_one(tmp_path: Path, backend: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    device = ao.get_backend(backend)
    optimizer, gradients = made(tmp_path / "one", device)
    optimizer(gradients)
    ao.save(tmp_path / "run.npz", optimizer)
    expected = {key: on_host(device, x) for key, x in optimizer.state.arrays().items()}
    for strategy, place in (("disk", tmp_path / "two"), ("adam-offload", None)):
        resumed, _ = made(place, device, strategy=strategy)
        resumed([g + 1 for g in gradients])
        ao.load(tmp_path / "run.npz", resumed)
        for key, array in resumed.state.arrays().items():
            np.testing.assert_array_equal(on_host(device, array), expected[key])
        resumed.close()
    optimizer.close()
    resumed, _ = made(None, device, strategy="adam-offload")
    ao.load(tmp_path / "run.npz", resumed)
    ao.save(tmp_path / "run.npz", resumed)  # without a master
    optimizer, _ = made(tmp_path / "one", device)
    ao.load(tmp_path / "run.npz", optimizer)
    np.testing.assert_array_equal(optimizer.master["w"], expected["master", "w"])
    optimizer.close()


def test_a_disk_is_exchanged_for_another(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    optimizer, gradients = made(tmp_path / "one")
    optimizer(gradients)
    m, master = optimizer.state["m"]["v"], optimizer.master["v"]
    with pytest.raises(ValueError, match="say in which directory"):
        optimizer.to("disk")
    half = replace(ao.strategies["disk"], fraction=0.4)
    optimizer.to(half, directory=tmp_path / "two")
    assert not os.listdir(tmp_path / "one")
    assert [*optimizer.master] == ["w"]
    np.testing.assert_array_equal(optimizer.backend.asnumpy(optimizer.state["m"]["v"]), m)
    optimizer.to("disk", directory=tmp_path / "one")
    np.testing.assert_array_equal(optimizer.master["v"], master)
    assert not os.listdir(tmp_path / "two")
    optimizer.close()


def test_a_move_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, gradients = made(None, strategy="adam-offload")
    optimizer(gradients)
    with monkeypatch.context() as patch:
        patch.setattr(DiskFile, "write", _no_room)
        with pytest.raises(OSError, match="No space"):
            optimizer.to("disk", directory=tmp_path)
    assert not os.listdir(tmp_path)
    assert optimizer.strategy.name == "adam-offload"
    optimizer(gradients)
    assert optimizer.global_step == 2


def test_a_load_that_fails_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, gradients = made(tmp_path)
    optimizer(gradients)
    state = optimizer.state_dict()
    optimizer(gradients)
    before = optimizer.state_dict()
    original, calls = DiskFile.write, []

    def third(self: DiskFile, source: memoryview, offset: int) -> None:
        calls.append(offset)
        if len(calls) == 3:
            _no_room(self, source, offset)
        original(self, source, offset)

    with monkeypatch.context() as patch:
        patch.setattr(DiskFile, "write", third)
        with pytest.raises(OSError, match="No space"):
            optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    for slot, arrays in before["slots"].items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(after["slots"][slot][name], array)
    optimizer(gradients)
    assert optimizer.global_step == 3
    optimizer.close()


def test_a_master_is_reloaded(tmp_path: Path) -> None:
    optimizer, _ = made(tmp_path)
    w = optimizer.parameters[0]
    w.data[...] = 7
    optimizer.reload_master()
    np.testing.assert_array_equal(optimizer.master["w"], np.full(5, 7, np.float32))
    optimizer.close()


def test_the_arrays_of_a_state_are_those_of_the_disk(tmp_path: Path) -> None:
    optimizer, gradients = made(tmp_path)
    optimizer(gradients)
    with optimizer.exclusive() as state:
        m = state.arrays()["m", "v"]
        assert isinstance(m, DiskArray)
        assert (m.shape, m.dtype.name, m.size) == ((2, 3), "float32", 6)
        block = m.reshape(-1)[1:4]
        block.write(np.array([1, 2, 3], np.float32))
        np.testing.assert_array_equal(on_host(optimizer.backend, block), [1, 2, 3])
    np.testing.assert_array_equal(optimizer.state["m"]["v"].reshape(-1)[1:4], [1, 2, 3])
    optimizer.close()


# -- failures in a step ----------------------------------------------------------------------------


def _no_room(self: Any, source: memoryview, offset: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_in_a_step_is_told_with_what_it_has_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer, gradients = made(tmp_path, chunk_bytes=1 << 20)
    optimizer(gradients)
    good = optimizer.state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(DiskFile, "write", _no_room)
        optimizer(gradients)  # it goes home while nobody waits
        with pytest.raises(OSError, match="No space left"):
            optimizer(gradients)
    lost = r"update of 'v', 'w' in step 2 was lost \(OSError: .*No space.*Start again from saved"
    for action in (lambda: optimizer(gradients), optimizer.state_dict):
        with pytest.raises(RuntimeError, match=lost.replace("'v', 'w'", "'w', 'v'")):
            action()
    optimizer.load_state_dict(good)
    optimizer(gradients)
    assert optimizer.global_step == 2
    optimizer.close()


def test_a_state_is_at_rest_also_where_a_ticket_got_lost(tmp_path: Path) -> None:
    optimizer, _ = made(tmp_path)
    held = threading.Event()

    class Held(ao.Ticket):
        start_s = stop_s = 0.0

        def wait(self) -> None:
            assert held.wait(10)

    m = optimizer.state.arrays()["m", "w"]
    optimizer.backend.write(np.ones(5, np.float32), m, after=(Held(),))
    threading.Timer(0.1, held.set).start()
    with optimizer.exclusive():
        assert held.is_set()
    optimizer.close()


OPTIONS = (("chunk_bytes", 16), ("engine", "numpy"))
SETTINGS = {
    f"{strategy} on {device}": Setting(
        OnDisk, device, options=(*OPTIONS, ("strategy", strategy), *more)
    )
    for device, strategy, more in (
        *((name, "disk", ()) for name in faults.DEVICES),
        *((name, TO_DEVICE, (("slots", 2),)) for name in ("numpy", "sim")),
    )
}


@pytest.fixture(autouse=True)
def _nothing_leaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    opened: list[OnDisk] = []
    original = OnDisk.__init__

    def opening(self: OnDisk, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        opened.append(self)

    monkeypatch.setattr(OnDisk, "__init__", opening)
    yield
    for optimizer in opened:
        optimizer.close()
        assert not os.listdir(optimizer.folder.name)
        optimizer.folder.cleanup()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_fault_of_the_disk_at_any_call_loses_nothing(name: str) -> None:
    setting, tally = SETTINGS[name], faults.Tally()
    found = [item for item in faults.every_fault_of(setting) if item[0][1:5] in ("read", "writ")]
    for kind, fault in found[:: 5 if "sim" in name else 3]:  # it takes its time
        tally.add(kind, trial(setting, fault))
    outcomes = {outcome for _, outcome in tally.outcomes}
    assert {"as before", "refused"} <= outcomes  # both happen, or this shows nothing
    assert tally.faults >= 25


@pytest.mark.parametrize("name", [name for name in SETTINGS if "numpy" in name])
def test_an_interrupt_between_any_two_lines_loses_nothing(name: str) -> None:
    setting = SETTINGS[name]
    lines = faults.lines_of_a_step(setting)
    outcomes = {trial(setting, interrupt(k)) for k in range(0, lines, 37)}
    outcomes |= {trial(setting, interrupt(k)) for k in range(lines - 10, lines)}
    assert outcomes == {"as before", "refused", "done"}


# -- overlap ---------------------------------------------------------------------------------------


def test_the_disk_works_while_another_chunk_is_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of the third chunk is held until the first chunk's update is over, and goes on."""
    updated, reading = threading.Event(), threading.Event()
    device = ao.get_backend("numpy")
    original, run_on_host = DiskFile.read, device.run_on_host

    def held(self: DiskFile, target: memoryview, offset: int) -> None:
        if offset == 2 * 16:
            reading.set()
            assert updated.wait(10)
        original(self, target, offset)

    def updating(function: Any, **options: Any) -> Any:
        if not updated.is_set():
            assert reading.wait(10)
        ticket = run_on_host(function, **options)
        updated.set()
        return ticket

    monkeypatch.setattr(DiskFile, "read", held)
    vars(device)["run_on_host"] = updating
    ledger = ao.Ledger()
    optimizer, gradients = made(tmp_path, device, ledger=ledger, slots=3)
    optimizer(gradients)
    events = [e for e in ledger.events if e.step == 1]
    update = next(e for e in events if e.hop == "update" and e.chunk == 0)
    read = next(e for e in events if e.hop == "read" and e.chunk == 2)
    assert read.start_s < update.start_s < update.stop_s < read.stop_s
    optimizer.close()
