"""The contract: copies that cannot be silent, wrong or uncounted; errors that say what to do."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import adamoffload as ao
from adamoffload.device.backend import Backend, Done, Memory, Ticket, backend_of

import fake_cupy

many = settings(deadline=None, derandomize=True, max_examples=50)


@pytest.fixture
def device() -> ao.Backend:
    return ao.get_backend("numpy")


class ListBackend(Backend):
    """The least that a backend can be: its arrays are wrapped in an object NumPy knows not."""

    name = "list"

    class Array:
        def __init__(self, array: np.ndarray[Any, Any], owner: Backend) -> None:
            self.array, self.shape, self.dtype = array, array.shape, array.dtype
            self.owner = weakref.ref(owner)

    def owns(self, array: object) -> bool:
        return isinstance(array, ListBackend.Array) and array.owner() is self

    def memory(self) -> Memory:
        return Memory(0, 0, None)

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return ListBackend.Array(np.empty(shape, dtype), self)

    def _address(self, array: Any) -> int:
        return id(array)

    def _d2h(self, source: Any, target: Any, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: np.copyto(target, source.array), after)

    def _h2d(self, source: Any, target: Any, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: np.copyto(target.array, source), after)


# -- asarray and asnumpy --------------------------------------------------------------------------


@many
@given(
    host=hnp.arrays(
        st.one_of(hnp.scalar_dtypes().filter(lambda dtype: dtype.kind in "biufc")),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    )
)
def test_a_round_trip_returns_the_same_bits(host: np.ndarray[Any, Any]) -> None:
    device = ao.get_backend("numpy")
    back = device.asnumpy(device.asarray(host))
    assert back.dtype == host.dtype
    assert back.shape == host.shape
    assert back.tobytes() == host.tobytes()
    assert device.traffic() == (host.nbytes, host.nbytes)


@pytest.mark.parametrize(
    "host",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12.0).reshape(3, 4)[::2, ::-1],
        np.broadcast_to(np.float32(3), (2, 2)),
        np.zeros((0, 3)),
        np.array(5),
        [[1, 2], [3, 4]],
        2.5,
    ],
)
def test_asarray_keeps_the_shape_and_makes_it_c_contiguous(device: ao.Backend, host: Any) -> None:
    array = device.asarray(host)
    assert array.shape == np.shape(host)
    assert array.dtype == np.asarray(host).dtype
    assert array.flags.c_contiguous
    assert np.array_equal(device.asnumpy(array), host)


def test_asarray_never_aliases_the_host(device: ao.Backend) -> None:
    host = np.zeros(4)
    array = device.asarray(host)
    host[...] = 1
    assert not device.asnumpy(array).any()


def test_asnumpy_comes_after_what_the_device_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    device = ListBackend()
    orders: list[tuple[Ticket, ...]] = []
    queued = Done(1.0, 2.0)

    def copy(self: Backend, source: Any, target: Any, after: tuple[Ticket, ...]) -> Ticket:
        orders.append(after)
        return queued

    monkeypatch.setattr(ListBackend, "_d2h", copy)
    monkeypatch.setattr(ListBackend, "run_on_device", lambda self, function, after=(): queued)
    device.asnumpy(device._empty((2,), np.dtype(np.float32)))
    assert orders == [(queued,)]


def test_asnumpy_never_aliases_the_device(device: ao.Backend) -> None:
    array = device.asarray(np.zeros(4))
    device.asnumpy(array)[...] = 1
    assert not device.asnumpy(array).any()


def test_asnumpy_of_a_view_is_c_contiguous(device: ao.Backend) -> None:
    host = np.arange(6.0).reshape(2, 3)
    back = device.asnumpy(device.asarray(host).T[::-1])
    assert back.flags.c_contiguous
    assert np.array_equal(back, host.T[::-1])


def test_asarray_of_its_own_array_returns_it_and_copies_nothing(device: ao.Backend) -> None:
    array = device.asarray(np.zeros(4))
    assert device.asarray(array) is array
    assert device.traffic() == (0, 32)


@pytest.mark.parametrize("host", [["a"], [None], np.array([b"x"]), np.array(["2020"], "M8[Y]")])
def test_asarray_refuses_what_is_no_number(device: ao.Backend, host: Any) -> None:
    with pytest.raises(TypeError, match="asarray: expected numbers, got an array of dtype"):
        device.asarray(host)
    assert device.memory().used == 0


def test_asarray_refuses_an_array_of_another_device(device: ao.Backend) -> None:
    for other in (ao.get_backend("numpy"), ListBackend()):
        with pytest.raises(ao.ResidencyError, match=r"target\.asarray\(source\.asnumpy\(x\)\)"):
            device.asarray(other.asarray(np.zeros(3)))


def test_asarray_refuses_a_list_of_device_arrays(device: ao.Backend) -> None:
    x = device.asarray(np.zeros(3))
    with pytest.raises(ao.ResidencyError):
        device.asarray([x, x])


def test_asnumpy_refuses_what_is_elsewhere(device: ao.Backend) -> None:
    with pytest.raises(ao.ResidencyError, match=r"a host ndarray.*device\.asarray"):
        device.asnumpy(np.zeros(3))
    with pytest.raises(ao.ResidencyError, match="another device"):
        device.asnumpy(ao.get_backend("numpy").asarray(np.zeros(3)))
    with pytest.raises(ao.ResidencyError, match="an object of type list"):
        device.asnumpy([1, 2])


def test_asnumpy_of_a_parameter_points_to_its_data(device: ao.Backend) -> None:
    w = ao.Parameter(device.asarray(np.zeros(3, np.float32)), name="w")
    with pytest.raises(ao.ResidencyError, match=r"type Parameter; pass its \.data"):
        device.asnumpy(w)


def test_a_refused_asarray_leaves_memory_and_traffic(device: ao.Backend) -> None:
    device = ao.get_backend("numpy", memory_bytes=10)
    with pytest.raises(ao.DeviceMemoryError):
        device.asarray(np.zeros(11, np.int8))
    assert device.memory() == (0, 0, 10)
    assert device.traffic() == (0, 0)


# -- d2h and h2d ----------------------------------------------------------------------------------


def test_d2h_and_h2d_copy_and_count(device: ao.Backend) -> None:
    array, host = device.asarray(np.zeros(3)), np.arange(3.0)
    device.h2d(host, array).wait()
    back = np.empty(3)
    device.d2h(array, back).wait()
    assert np.array_equal(back, host)
    assert device.traffic() == (24, 48)


def test_copies_reach_through_views(device: ao.Backend) -> None:
    array, host = device.asarray(np.zeros((2, 3))), np.arange(3.0)
    device.h2d(host[::-1], array[1]).wait()
    assert np.array_equal(device.asnumpy(array), [[0, 0, 0], [2, 1, 0]])
    assert device.traffic().h2d == 48 + 24


def test_a_copy_is_recorded_with_elements_bytes_and_ticket(device: ao.Backend) -> None:
    ledger = ao.Ledger()
    array = device.asarray(np.zeros(3, np.float32), record=ledger.at(1, 2))
    device.asnumpy(array, record=ledger.at(1, 2))
    assert [(e.hop, e.step, e.chunk, e.elements, e.nbytes) for e in ledger.events] == [
        ("h2d", 1, 2, 3, 12),
        ("d2h", 1, 2, 3, 12),
    ]


@pytest.mark.parametrize("host", [np.zeros(4), np.zeros((3, 1)), np.zeros(3, np.float32)])
def test_a_copy_of_unequal_shapes_or_dtypes_is_refused(device: ao.Backend, host: Any) -> None:
    array = device.asarray(np.zeros(3))
    before = device.traffic()
    with pytest.raises(ValueError, match="d2h: shapes and dtypes must be equal"):
        device.d2h(array, host)
    with pytest.raises(ValueError, match="h2d: shapes and dtypes must be equal"):
        device.h2d(host, array)
    assert device.traffic() == before


def test_a_copy_between_wrong_sides_is_refused(device: ao.Backend) -> None:
    array, host = device.asarray(np.zeros(3)), np.zeros(3)
    foreign = ao.get_backend("numpy").asarray(host)
    wrong: Any
    for wrong in (host, foreign):
        with pytest.raises(ao.ResidencyError, match="expected an array on device 'numpy'"):
            device.d2h(wrong, host)
        with pytest.raises(ao.ResidencyError, match="expected an array on device 'numpy'"):
            device.h2d(host, wrong)
    for wrong in (array, foreign, [0, 0, 0]):
        with pytest.raises(ao.ResidencyError, match="expected an array on the host"):
            device.d2h(array, wrong)
        with pytest.raises(ao.ResidencyError, match="expected an array on the host"):
            device.h2d(wrong, array)


def test_a_copy_that_fails_is_not_counted(device: ao.Backend) -> None:
    array, host = device.asarray(np.zeros(3)), np.zeros(3)
    host.flags.writeable = False
    with pytest.raises(ValueError, match="d2h: target is read-only; pass"):
        device.d2h(array, host)
    assert device.traffic().d2h == 0


def test_a_read_only_array_is_refused_before_a_backend_can_write_it() -> None:
    class Raw(ListBackend):  # writes memory, as hardware does, and asks no flag
        def _d2h(self, source: Any, target: Any, after: tuple[Ticket, ...]) -> Ticket:
            raise AssertionError("the copy was begun")

    device, host = Raw(), np.broadcast_to(np.zeros(1), (3,))
    with pytest.raises(ValueError, match="read-only"):
        device.d2h(device.asarray(np.ones(3)), host)


def test_traffic_is_exact_under_threads(device: ao.Backend) -> None:
    def work() -> None:
        for _ in range(200):
            device.asnumpy(device.asarray(np.zeros(5, np.int8)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert device.traffic() == (8 * 200 * 5, 8 * 200 * 5)


# -- in the middle of a call ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numpy", "sim"])
def test_a_device_may_be_used_in_the_middle_of_any_call(name: str) -> None:
    """As a signal handler does, or ``__del__`` of what the garbage collector finds."""
    device, other = ao.get_backend(name), ao.get_backend(name)
    kept, lines, asked = [device.asarray(np.zeros(3, np.int8))], Counter[Any](), 0

    def use() -> None:
        x = device.asarray(np.arange(8, dtype=np.int8))
        assert device.memory().used <= device.memory().peak
        assert backend_of(x) is device
        assert device.asnumpy(x + 1).sum() == 36
        device.traffic()
        kept.pop()
        kept.append(device.asarray(np.zeros(3, np.int8)))

    def interrupt(frame: Any, event: str, argument: object) -> Any:
        nonlocal asked
        if Path(frame.f_code.co_filename).parent.name not in ("device", "adamoffload_sim"):
            return None
        line = frame.f_code, frame.f_lineno
        lines[line] += 1
        if lines[line] > 4:  # a loop over what has been freed would never end
            return interrupt
        sys.settrace(None)
        asked += 1
        use()
        ListBackend()
        sys.settrace(interrupt)
        return interrupt

    def work() -> None:
        sys.settrace(interrupt)
        try:
            x = device.asarray(np.zeros(5, np.int8))
            device.asnumpy(x)
            device.memory()
            device.traffic()
            backend_of(None)
            del x
            device.run_on_device(lambda: None).wait()
            device.memory()
        finally:
            sys.settrace(None)

    worker = threading.Thread(target=work, daemon=True)
    tracer = sys.gettrace()
    worker.start()
    worker.join(60)
    assert not worker.is_alive(), "the device waits for itself"
    assert sys.gettrace() is tracer
    assert asked > 50
    assert device.traffic() == (5 + 8 * asked, 3 + 5 + 11 * asked)
    assert device.memory().used == 3
    assert backend_of(other.asarray(1)) is other
    addresses = {device._address(device._empty((1,), np.dtype(np.int8))) for _ in range(10)}
    assert len(addresses) == 10


# -- tickets and queues ---------------------------------------------------------------------------


class Waited(Ticket):
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def wait(self) -> None:
        self.log.append("waited")

    @property
    def start_s(self) -> float:
        return 0.0

    @property
    def stop_s(self) -> float:
        return 0.0


def test_a_run_waits_for_its_tickets_first(device: ao.Backend) -> None:
    log: list[str] = []
    after = (Waited(log), Waited(log))
    device.run_on_device(lambda: log.append("device"), after=after)
    device.run_on_host(lambda: log.append("host"), elements=1, after=after)
    assert log == ["waited", "waited", "device", "waited", "waited", "host"]


def test_a_copy_waits_for_its_tickets_first(device: ao.Backend) -> None:
    log: list[str] = []
    array = device.asarray(np.zeros(3))
    device.d2h(array, np.zeros(3), after=(Waited(log),))
    device.h2d(np.zeros(3), array, after=(Waited(log),))
    assert log == ["waited", "waited"]


def test_a_run_lets_the_error_of_its_function_pass(device: ao.Backend) -> None:
    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        device.run_on_device(fail)


def test_a_ticket_knows_how_long_it_took(device: ao.Backend) -> None:
    before = device.now()
    ticket = device.run_on_device(lambda: None)
    assert before <= ticket.start_s <= ticket.stop_s <= device.now()
    assert Done(1.0, 3.5).seconds == 2.5


# -- what a plug-in may and may not do ------------------------------------------------------------


def test_the_smallest_backend_works() -> None:
    device = ListBackend()
    array = device.asarray([1, 2])
    assert backend_of(array) is device
    assert np.array_equal(device.asnumpy(array), [1, 2])
    device.synchronize()
    assert device._empty_pinned(3, np.dtype(np.float32)).shape == (3,)


@pytest.mark.parametrize("name", ["asarray", "asnumpy", "d2h", "h2d", "traffic"])
def test_a_plug_in_cannot_replace_what_counts_the_bytes(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Sneaky overrides Backend\.{name}, which is final"):
        type("Sneaky", (ListBackend,), {name: lambda self, *args: args})


def test_nor_can_a_mixin() -> None:
    class Mixin:
        def asnumpy(self, array: object) -> object:
            return array

    with pytest.raises(TypeError, match=r"Sneaky overrides Backend\.asnumpy"):
        type("Sneaky", (Mixin, ListBackend), {})


def test_an_incomplete_backend_cannot_be_made() -> None:
    class Half(Backend):
        name = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


def test_a_device_is_neither_copied_nor_pickled(device: ao.Backend) -> None:
    for function in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            function(device)


def test_backend_of_finds_the_owner_and_nothing_else(device: ao.Backend) -> None:
    other = ao.get_backend("numpy")
    assert backend_of(other.asarray(1)) is other
    assert backend_of(device.asarray(1)) is device
    for stranger in (np.zeros(2), 1, None, [1]):
        assert backend_of(stranger) is None


def test_a_forgotten_device_is_not_kept_alive() -> None:
    device = ListBackend()
    array = device.asarray([1])
    del device
    gc.collect()
    assert backend_of(array) is None


def test_backend_of_may_be_asked_while_devices_come_and_go() -> None:
    errors: list[BaseException] = []

    def create() -> None:
        kept = [ListBackend() for _ in range(2000)]
        kept.clear()

    def ask() -> None:
        try:
            for _ in range(200):
                backend_of(None)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for work in (create, ask)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors


# -- the memory error -----------------------------------------------------------------------------


def test_the_memory_error_says_what_was_asked_used_and_allowed() -> None:
    error = ao.DeviceMemoryError("numpy", 2048, 512, 1024)
    assert isinstance(error, MemoryError)
    assert "2,048 bytes requested with 512 of 1,024 in use" in str(error)
    assert "memory_bytes" in str(error)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_the_memory_error_survives_copying_and_pickling(again: Any) -> None:
    error = again(ao.DeviceMemoryError("numpy", 3, 2, 1))
    assert type(error) is ao.DeviceMemoryError
    assert (error.device, error.requested_bytes, error.used_bytes, error.limit_bytes) == (
        "numpy",
        3,
        2,
        1,
    )
    assert str(error) == str(ao.DeviceMemoryError("numpy", 3, 2, 1))


# -- arrays without a copy --------------------------------------------------------------------


def everywhere() -> list[ao.Backend]:
    return [ao.get_backend("numpy"), ao.get_backend("sim"), fake_cupy.device()]


@pytest.mark.parametrize("shape", [3, (2, 3), (), (0, 4), [2, 1], np.int64(5)])
@pytest.mark.parametrize("dtype", [np.float32, "float64", bool, np.int8, None])
def test_empty_and_zeros_are_new_arrays_on_the_device(shape: Any, dtype: Any) -> None:
    keywords = {} if dtype is None else {"dtype": dtype}
    expected = np.zeros(shape, dtype or np.float32)
    for device in everywhere():
        empty, zeros = device.empty(shape, **keywords), device.zeros(shape, **keywords)
        for array in (empty, zeros):
            assert device.owns(array)
            assert (tuple(array.shape), array.dtype) == (expected.shape, expected.dtype)
            assert array.flags.c_contiguous
        assert device.traffic() == (0, 0)
        assert np.array_equal(device.asnumpy(zeros), expected)
        used = device.memory().used
        assert used >= 2 * expected.nbytes


@pytest.mark.parametrize("shape", [3, (2, 3), (), (0, 4)])
def test_empty_pinned_is_a_host_array_of_any_shape(shape: Any) -> None:
    for device in everywhere()[:2]:  # the stand-in's pinned memory is tested with its backend
        pinned = device.empty_pinned(shape, np.int32)
        assert isinstance(pinned, np.ndarray)
        assert (pinned.shape, pinned.dtype) == (np.empty(shape).shape, np.dtype(np.int32))
        assert device.memory().used == 0
        pinned[...] = 7
        device.h2d(pinned, device.zeros(shape, np.int32)).wait()


@pytest.mark.parametrize("make", ["empty", "zeros", "empty_pinned"])
def test_what_is_no_shape_or_type_is_refused(make: str) -> None:
    device = ao.get_backend("numpy", memory_bytes=100)
    for shape, error, message in (
        (2.0, TypeError, r"an integer or a tuple of integers, got 2\.0"),
        ((2, "3"), TypeError, "integer or a tuple of integers"),
        (None, TypeError, "integer or a tuple of integers"),
        ((2, -1), ValueError, r"not be negative, got \(2, -1\)"),
    ):
        with pytest.raises(error, match=rf"{make}: shape must .*{message}"):
            getattr(device, make)(shape)
    with pytest.raises(TypeError, match=f"{make}: expected numbers, got an array of dtype object"):
        getattr(device, make)(3, object)
    if make != "empty_pinned":
        with pytest.raises(ao.DeviceMemoryError):
            getattr(device, make)(26)
        getattr(device, make)(25)
