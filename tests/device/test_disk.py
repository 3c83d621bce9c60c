"""Arrays in files: what is read is what was written, in the order that tickets say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.device.disk import Directory, DiskArray, DiskFile
from adamoffload_sim import Disk

from lazy_backend import LazyBackend

DEVICES: dict[str, Callable[[], ao.Backend]] = {
    "numpy": lambda: ao.get_backend("numpy"),
    "sim": lambda: ao.get_backend("sim"),
    "lazy": LazyBackend,
}


@pytest.fixture
def array(tmp_path: Path) -> Iterator[DiskArray]:
    directory = Directory("Optimizer", tmp_path)
    yield directory.create("x", 10)
    directory.close()


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> ao.Backend:
    return DEVICES[request.param]()


def numbers(n: int, start: float = 1) -> Any:
    return np.arange(start, start + n, dtype=np.float32)


class Held(ao.Ticket):
    """Something that is done, or has failed, when a test says so."""

    start_s = stop_s = 0.0

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None

    def wait(self) -> None:
        assert self.done.wait(10)
        if self.error:
            raise self.error


# -- arrays ---------------------------------------------------------------------------------------


def test_a_part_of_a_file_is_sliced_like_an_array(array: DiskArray) -> None:
    array.write(numbers(10))
    assert (array.shape, array.ndim, array.size, array.nbytes) == ((10,), 1, 10, 40)
    np.testing.assert_array_equal(array[2:8][1:-1].read(), numbers(10)[2:8][1:-1])
    np.testing.assert_array_equal(array[20:].read(), [])
    np.testing.assert_array_equal(array[4:].reshape((2, 3)).read(), numbers(10)[4:].reshape(2, 3))
    array[3:5].reshape((2, 1)).write(np.full((2, 1), 7, np.float32))
    np.testing.assert_array_equal(array.reshape((2, 5)).reshape(-1)[2:6].read(), [3, 7, 7, 6])
    assert array[:1].reshape(()).read().shape == ()


def test_what_is_no_range_is_no_view(array: DiskArray) -> None:
    with pytest.raises(ValueError, match="only ranges of a 1-D array are views"):
        array[::2]
    with pytest.raises(ValueError, match="only ranges of a 1-D array are views"):
        array.reshape((2, 5))[0:1]
    with pytest.raises(ValueError, match=r"float32 of shape \(10,\) in '.*x.float32' cannot be"):
        array.reshape((3, 3))


def test_the_system_may_move_less_than_it_was_asked_for(
    array: DiskArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        """A file that moves five bytes at a time."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def readinto(self, view: memoryview) -> int:
            return int(self.file.readinto(view[:5]))

        def write(self, view: memoryview) -> int:
            return int(self.file.write(view[:5]))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    file = array.file
    monkeypatch.setattr(file, "_reading", Slow(file._reading))
    monkeypatch.setattr(file, "_writing", Slow(file._writing))
    array.write(numbers(10))
    np.testing.assert_array_equal(array.read(), numbers(10))


def test_a_file_that_was_cut_off_is_told(array: DiskArray) -> None:
    with open(array.file.path, "r+b") as file:
        file.truncate(8)
    with pytest.raises(OSError, match=r"x.float32': 32 bytes could not be read"):
        array.read()


def test_a_file_is_zeros_also_where_space_cannot_be_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.posix_fallocate", raising=False)
    monkeypatch.setattr("adamoffload.device.disk._BLOCK", 16)
    directory = Directory("Optimizer", tmp_path)
    np.testing.assert_array_equal(directory.create("x", 10).read(), np.zeros(10))
    assert (tmp_path / "x.float32").stat().st_size == 40
    directory.close()


def test_without_file_locks_the_marker_is_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adamoffload.device.disk.fcntl", None)
    directory = Directory("Optimizer", tmp_path)
    with pytest.raises(FileExistsError, match="a checkpoint; unless another optimizer is"):
        Directory("Optimizer", tmp_path)
    directory.close()
    assert not [*tmp_path.iterdir()]
    Directory("Optimizer", tmp_path).close()


# -- tickets --------------------------------------------------------------------------------------


def test_what_is_written_is_read_after_its_ticket(device: ao.Backend, array: DiskArray) -> None:
    ledger: list[Any] = []

    def record(hop: str, elements: int, nbytes: int, ticket: ao.Ticket) -> None:
        ledger.append((hop, elements, nbytes, ticket))

    target = np.full(4, np.nan, np.float32)
    written = device.write(numbers(10), array, record=record)
    read = device.read(array[2:6], target, after=(written,), record=record)
    read.wait()
    np.testing.assert_array_equal(target, [3, 4, 5, 6])
    assert ledger == [("write", 10, 40, written), ("read", 4, 16, read)]
    assert written.start_s <= written.stop_s <= read.start_s <= read.stop_s <= device.now()


def test_a_copy_follows_what_was_read_and_is_followed_by_what_is_written(
    device: ao.Backend, array: DiskArray
) -> None:
    array.write(numbers(10))
    on_device, host = device.asarray(np.zeros(10, np.float32)), np.full(10, np.nan, np.float32)
    read = device.read(array, host)
    up = device.h2d(host, on_device, after=(read,))
    doubled = device.run_on_device(
        lambda: np.multiply(on_device, np.float32(2), out=on_device), after=(up,)
    )
    down = device.d2h(on_device, host, after=(doubled,))
    device.write(host, array, after=(down,)).wait()
    np.testing.assert_array_equal(array.read(), 2 * numbers(10))


def test_an_operation_starts_when_what_it_follows_is_done(array: DiskArray) -> None:
    device, held = ao.get_backend("numpy"), Held()
    target = np.full(10, np.nan, np.float32)
    read = device.read(array, target, after=(held,))
    written = device.write(numbers(10), array)  # the other thread need not wait
    written.wait()
    assert np.isnan(target).all()
    held.done.set()
    read.wait()
    np.testing.assert_array_equal(target, numbers(10))
    assert written.stop_s <= read.start_s


@pytest.mark.parametrize("name", ["numpy", "lazy"])
def test_what_follows_a_failure_fails_and_every_wait_says_so(name: str, array: DiskArray) -> None:
    device, held = DEVICES[name](), Held()
    held.error = KeyError("lost")
    held.done.set()
    written = device.write(numbers(10), array, after=(held,))
    read = device.read(array, np.empty(10, np.float32), after=(written,))
    for ticket in (read, written, read, written):
        with pytest.raises(KeyError, match="lost"):
            ticket.wait()
    with pytest.raises(KeyError, match="lost"):
        read.stop_s  # noqa: B018
    np.testing.assert_array_equal(array.read(), np.zeros(10))
    device.write(numbers(10), array).wait()  # who does not follow it goes on
    np.testing.assert_array_equal(array.read(), numbers(10))


def test_a_failing_disk_fails_the_ticket(array: DiskArray, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError("a bad block")

    monkeypatch.setattr(DiskFile, "read", broken)
    ticket = ao.get_backend("numpy").read(array, np.empty(10, np.float32))
    with pytest.raises(OSError, match="a bad block"):
        ticket.wait()
    with pytest.raises(OSError, match="a bad block"):
        ao.get_backend("sim").read(array, np.empty(10, np.float32)).wait()


def test_operands_that_are_elsewhere_or_differ_are_refused(
    device: ao.Backend, array: DiskArray
) -> None:
    on_device, host = device.asarray(numbers(10)), numbers(10)
    with pytest.raises(ao.ResidencyError, match="read: expected an array on a disk, got a host"):
        device.read(host, host)
    with pytest.raises(ao.ResidencyError, match="write: expected an array on the host, got an arr"):
        device.write(array, array)  # type: ignore[arg-type]
    with pytest.raises(ao.ResidencyError, match="write: expected an array on the host"):
        device.write(on_device, array)
    with pytest.raises(ValueError, match=r"shapes and dtypes must be equal, got \(10,\) float32"):
        device.read(array, host[:3])
    with pytest.raises(ValueError, match="shapes and dtypes must be equal"):
        device.write(host.astype(np.float64), array)
    with pytest.raises(ValueError, match="must be C-contiguous"):
        device.read(array, numbers(20)[::2])
    host.flags.writeable = False
    with pytest.raises(ValueError, match="read: target is read-only"):
        device.read(array, host)
    np.testing.assert_array_equal(array.read(), np.zeros(10))


# -- the simulator --------------------------------------------------------------------------------


def test_a_simulated_disk_has_lanes_of_its_own(array: DiskArray) -> None:
    device = ao.get_backend("sim", disk=Disk(40, 20, latency_s=1))
    written = device.write(numbers(10), array)
    read = device.read(array, np.empty(10, np.float32), after=(written,))
    other = device.write(numbers(5), array[:5], after=(read,))
    assert device.now() == 0
    assert (written.start_s, written.stop_s) == (0, 3)
    assert (read.start_s, read.stop_s) == (3, 5)
    assert (other.start_s, other.stop_s) == (5, 7)
    both = device.write(numbers(10), array), device.read(array, np.empty(10, np.float32))
    assert [ticket.start_s for ticket in both] == [7, 7]  # at the same time


def test_a_simulated_read_is_not_there_before_it_is_waited_for(array: DiskArray) -> None:
    device, target = ao.get_backend("sim"), np.zeros(10, np.float32)
    ticket = device.read(array, target)
    assert np.isnan(target).all()
    ticket.wait()
    np.testing.assert_array_equal(target, np.zeros(10))


def test_simulated_operations_that_race_spoil_what_they_touch(array: DiskArray) -> None:
    device, target = ao.get_backend("sim"), np.zeros(5, np.float32)
    device.write(numbers(10), array)
    device.read(array[5:], target)  # does not follow the write
    device.synchronize()
    assert np.isnan(target).all()
    assert np.isnan(array.read()).all()
    device.write(numbers(5), array[:5])
    device.read(array[5:], target)  # another part
    device.synchronize()
    np.testing.assert_array_equal(array[:5].read(), numbers(5))


def test_a_host_that_writes_to_what_is_being_written_is_told(array: DiskArray) -> None:
    device, source = ao.get_backend("sim"), numbers(10)
    ticket = device.write(source, array)
    source[3] = 0
    with pytest.raises(RuntimeError, match="written to while it was being copied"):
        ticket.wait()


def test_an_unknown_disk_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="disk 'nvme-pcie5' is unknown; did you mean 'nvme-pcie"):
        ao.get_backend("sim", disk="nvme-pcie5")
    with pytest.raises(ValueError, match="Disk: write_bytes_per_s must be a finite number > 0"):
        Disk(1, 0)
