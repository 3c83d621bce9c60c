"""The cupy backend's own logic, on a stand-in for CuPy that reorders what is not ordered.

No GPU is involved: this shows that the backend issues the right things to the right streams in an
order that CUDA must keep. What a real GPU makes of them is the business of test_cupy.py.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adamoffload as ao
from adamoffload.testing import BackendContract, NewDevice
from adamoffload_cupy import CupyBackend

import strategies
from fake_cupy import ROUNDING, Cuda, CUDARuntimeError

orders = st.builds(Cuda, st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.7, 0.9, 1.0]))
FLOAT32 = np.dtype(np.float32)


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


def use(cuda: Cuda, patch: pytest.MonkeyPatch, **options: Any) -> Any:
    """Return the device of a stand-in GPU."""
    patch.setattr(CupyBackend, "_open_devices", weakref.WeakValueDictionary())
    for name, module in cuda.modules().items():
        patch.setitem(sys.modules, name, module)
    return ao.get_backend("cupy", **options)


@pytest.fixture
def cuda() -> Cuda:
    """Return a GPU that does nothing before it must."""
    return Cuda(eagerness=0)


@pytest.fixture
def device(cuda: Cuda, patch: pytest.MonkeyPatch) -> Any:
    return use(cuda, patch)


class TestOnStandIn(BackendContract):
    allocation_bytes = ROUNDING
    clock_resolution_s = 1e-3
    exact_peak = False
    several_devices = False
    test_a_ticket_knows_its_times = None  # type: ignore[assignment]  # its clock is not the host's

    @pytest.fixture
    def new_device(self, patch: pytest.MonkeyPatch) -> NewDevice:
        cuda = Cuda(eagerness=0)
        use(cuda, patch)
        return partial(ao.get_backend, "cupy")


def train(
    device: ao.Backend,
    shapes: list[tuple[int, ...]],
    kind: Any = ao.AdamOffload,
    steps: int = 3,
    **arguments: Any,
) -> list[Any]:
    """Train on gradients that depend on the parameters; return parameters and moments."""
    rng = np.random.default_rng(0)
    parameters = [
        ao.Parameter(device.asarray(rng.standard_normal(shape, np.float32)), f"p{i}")
        for i, shape in enumerate(shapes)
    ]
    noise = [device.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]
    optimizer = kind(parameters, **arguments)
    for _ in range(steps):
        gradients = [
            np.multiply(p.data, np.float32(3)) + x for p, x in zip(parameters, noise, strict=True)
        ]
        optimizer(gradients)
        del gradients
    arrays = [
        *(p.data for p in parameters),
        *optimizer.moment1.values(),
        *optimizer.moment2.values(),
    ]
    return [device.asnumpy(x) if device.owns(x) else x for x in arrays]


# -- order ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    orders,
    strategies.shapes,
    strategies.settings,
    st.integers(1, 40),
    st.sampled_from([ao.AdamOffload, ao.Adam]),
)
def test_training_is_bitwise_that_of_the_numpy_backend_in_any_order(
    cuda: Cuda,
    shapes: list[tuple[int, ...]],
    arguments: dict[str, Any],
    chunk: int,
    kind: Any,
) -> None:
    options = {"chunk_bytes": 4 * chunk} if kind is ao.AdamOffload else {}
    expected = train(ao.get_backend("numpy"), shapes, kind, **arguments, **options)
    with pytest.MonkeyPatch.context() as patch:
        found = train(use(cuda, patch), shapes, kind, **arguments, **options)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


@settings(deadline=None, max_examples=20, derandomize=True)
@given(orders)
def test_a_probe_reads_the_same_in_any_order(cuda: Cuda) -> None:
    shapes: list[tuple[int, ...]] = [(5, 3), (), (40,)]

    def watched(device: ao.Backend) -> ao.Probe:
        probe = ao.Probe(coordinates=[("p0", 7)])
        train(device, shapes, probe=probe, ledger=ao.Ledger(), on_nonfinite="raise")
        return probe

    expected = watched(ao.get_backend("numpy"))
    with pytest.MonkeyPatch.context() as patch:
        found = watched(use(cuda, patch))
    for name in expected.names:
        for what in ("lr_t", "update_ratio", "frozen"):
            np.testing.assert_array_equal(found.series(what, name), expected.series(what, name))
        np.testing.assert_array_equal(
            found.quantiles("step_size", name), expected.quantiles("step_size", name)
        )
    np.testing.assert_array_equal(found.trace("p0", 7), expected.trace("p0", 7))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(orders)
def test_a_copy_comes_after_what_the_callers_stream_holds(cuda: Cuda) -> None:
    with pytest.MonkeyPatch.context() as patch:
        device = use(cuda, patch)
        with sys.modules["cupy"].cuda.Stream():
            x = device.asarray(np.arange(4, dtype=np.float32))
            y = np.square(x) + x
            assert device.asnumpy(y).tolist() == [0, 2, 6, 12]
            # A slot that a kernel still reads is not overwritten before.
            z = x * np.float32(2)
            device.h2d(np.full(4, 9, np.float32), x).wait()
            assert device.asnumpy(z).tolist() == [0, 2, 4, 6]


@settings(deadline=None, max_examples=30, derandomize=True)
@given(orders)
def test_strided_copies_keep_the_order(cuda: Cuda) -> None:
    with pytest.MonkeyPatch.context() as patch:
        device = use(cuda, patch)
        x = device.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
        y = x * np.float32(2)
        assert np.array_equal(device.asnumpy(y.T), [[0, 6], [2, 8], [4, 10]])
        device.h2d(np.array([7, 8], np.float32), y[:, 1]).wait()
        host = np.zeros((3, 4), np.float32)
        ticket = device.d2h(y, host.T[:2, :3])
        ticket.wait()
        ticket.wait()
        assert np.array_equal(host[:3, :2].T, [[0, 7, 4], [6, 8, 10]])
        assert not host[:, 2:].any()


@pytest.mark.parametrize("seed", range(20))
def test_a_strided_target_is_filled_in_the_copys_own_order(patch: Any, seed: int) -> None:
    device = use(Cuda(seed, eagerness=0.5), patch)
    y = device.asarray(np.zeros((4, 2), np.float32))
    device.synchronize()
    device.h2d(np.ones(4, np.float32), y[:, 1]).wait()
    assert device.asnumpy(y).tolist() == [[0, 1]] * 4


def test_device_memory_in_flight_is_kept(device: Any) -> None:
    host = np.zeros(3, np.float32)
    arrived = device.d2h(device.asarray(np.ones(3, np.float32)), host)
    gc.collect()
    arrived.wait()
    assert host.tolist() == [1, 1, 1]


def test_a_copy_to_strided_host_memory_can_be_waited_for_by_the_device(device: Any) -> None:
    host, x = np.zeros(8, np.float32), device.asarray(np.ones(4, np.float32))
    arrived = device.d2h(x, host[::2])
    device.h2d(host[:4] * 1, x, after=(arrived,)).wait()
    assert host.tolist() == [1, 0] * 4


@pytest.mark.parametrize("host", [np.float32(3), np.zeros((0, 2)), np.arange(3), np.array(True)])
def test_any_shape_and_dtype_makes_the_round_trip(device: Any, host: Any) -> None:
    back = device.asnumpy(device.asarray(host))
    np.testing.assert_array_equal(back, host)
    assert (back.shape, back.dtype) == (np.shape(host), np.asarray(host).dtype)


# -- streams, and who waits -----------------------------------------------------------------------


def test_each_direction_has_a_stream_and_kernels_run_on_the_callers(
    cuda: Cuda, device: Any
) -> None:
    with sys.modules["cupy"].cuda.Stream() as mine:
        train(device, [(20,)], chunk_bytes=16, weight_decay=0.1)
    assert cuda.on("kernel") == {mine._name}
    (down,), (up,) = cuda.on("d2h"), cuda.on("h2d")
    assert len({down, up, mine._name, cuda.null._name}) == 4


def test_a_step_waits_once_for_each_chunk_and_for_nothing_else(cuda: Cuda, device: Any) -> None:
    w = ao.Parameter(device.asarray(np.ones(20, np.float32)), "w")
    optimizer = ao.AdamOffload([w], chunk_bytes=16, weight_decay=0.1)
    gradient = device.asarray(np.ones(20, np.float32))
    for _ in range(2):
        before = cuda.blocked()
        optimizer([gradient])
        assert cuda.blocked() - before == 5


def test_a_resident_step_waits_for_nothing(cuda: Cuda, device: Any) -> None:
    w = ao.Parameter(device.asarray(np.ones(20, np.float32)), "w")
    optimizer = ao.Adam([w], weight_decay=0.1, loss_scale=2)
    gradient = device.asarray(np.ones(20, np.float32))
    before = cuda.blocked()
    optimizer([gradient])
    assert cuda.blocked() == before


def test_device_work_waits_for_a_copy_without_the_host(cuda: Cuda, device: Any) -> None:
    x = device.asarray(np.zeros(3, np.float32))
    before = cuda.blocked()
    sent = device.h2d(np.ones(3, np.float32), x)
    done = device.run_on_device(lambda: np.add(x, x, out=x), after=(sent,))
    assert cuda.blocked() == before
    done.wait()
    assert device.asnumpy(x).tolist() == [2, 2, 2]


def test_synchronize_waits_for_all_streams(cuda: Cuda, device: Any) -> None:
    x, host = device.asarray(np.zeros(3, np.float32)), np.zeros(3, np.float32)
    device.h2d(np.ones(3, np.float32), x)
    device.synchronize()
    device.d2h(x, host)
    device.synchronize()
    assert host.tolist() == [1, 1, 1]


def test_the_ring_is_pinned_and_does_not_grow_with_the_model(cuda: Cuda, device: Any) -> None:
    train(device, [(1000,)], chunk_bytes=64)
    assert cuda.pinned == [16, 16, 16]


# -- memory ---------------------------------------------------------------------------------------


def test_host_memory_in_flight_is_kept_and_then_let_go(device: Any) -> None:
    x = device.asarray(np.zeros(3, np.float32))
    host = np.ones(3, np.float32)
    alive = weakref.ref(host)
    first = device.h2d(host, x)
    del host
    gc.collect()
    assert alive() is not None
    first.wait()
    gc.collect()
    assert alive() is None


def test_a_copy_lets_go_of_those_that_are_done(device: Any) -> None:
    x = device.asarray(np.zeros(3, np.float32))
    host = np.ones(3, np.float32)
    alive = weakref.ref(host)
    ticket = device.h2d(host, x)  # as a ledger keeps it
    del host
    device.synchronize()
    device.asnumpy(x)
    gc.collect()
    assert alive() is None
    assert ticket.done


def test_a_limit_is_kept_by_copies_and_by_expressions(cuda: Cuda, patch: Any) -> None:
    device = use(cuda, patch, memory_bytes=4 * ROUNDING)
    x = device.asarray(np.zeros(2 * ROUNDING // 4, np.float32))
    assert device.memory() == (2 * ROUNDING, 2 * ROUNDING, 4 * ROUNDING)
    y = x + 1
    for attempt in (partial(device.asarray, np.zeros(1)), partial(np.add, x, y)):
        with pytest.raises(ao.DeviceMemoryError, match="device 'cupy' is out of memory") as caught:
            attempt()
        assert caught.value.used_bytes == caught.value.limit_bytes == 4 * ROUNDING
    del attempt, caught  # they hold y
    del y
    device.synchronize()
    gc.collect()
    device.asarray(np.zeros(1))  # what the pool kept of y was of another size


def test_the_ring_of_an_optimizer_counts(cuda: Cuda, patch: Any) -> None:
    device = use(cuda, patch, memory_bytes=3 * ROUNDING)
    w = ao.Parameter(device.asarray(np.zeros(300, np.float32)), "w")
    with pytest.raises(ao.DeviceMemoryError):
        ao.AdamOffload([w])


def test_without_a_limit_there_is_none(device: Any) -> None:
    assert device.memory() == (0, 0, None)


@pytest.mark.parametrize(
    ("memory_bytes", "error"),
    [(0, ValueError), (-5, ValueError), (1e9, TypeError), (True, TypeError), ("1", TypeError)],
)
def test_a_memory_limit_is_a_positive_integer(
    device: Any, memory_bytes: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="cupy: memory_bytes must be"):
        ao.get_backend("cupy", memory_bytes=memory_bytes)


def test_one_gpu_is_one_device(device: Any) -> None:
    x = device.asarray(np.zeros(3))
    again = ao.get_backend("cupy", memory_bytes=np.int64(4096))
    assert again is device
    assert device.memory().limit == 4096
    assert device.owns(x)
    assert ao.get_backend("cupy").memory().limit is None


def test_it_owns_its_arrays_and_nothing_else(device: Any) -> None:
    x = device.asarray(np.zeros(3, np.float32))
    assert device.owns(x)
    for stranger in (None, np.zeros(3), ao.get_backend("numpy").asarray(np.zeros(3)), CupyBackend):
        assert not device.owns(stranger)
    elsewhere = x * 1
    elsewhere.data.device_id = 1
    assert not device.owns(elsewhere)
    assert device._address(x[1:]) - device._address(x) == 4


def test_the_peak_does_not_fall(device: Any) -> None:
    x = device.asarray(np.zeros(5 * ROUNDING // 4, np.float32))
    peak = device.memory().peak
    del x
    device.synchronize()
    gc.collect()
    ao.get_backend("cupy")  # gives back what is kept
    assert device.memory() == (0, peak, None)
    device.asarray(np.zeros(1))
    assert device.memory().peak == peak == 5 * ROUNDING


def test_each_gpu_has_its_own_limit_and_books(cuda: Cuda, patch: Any) -> None:
    first = use(cuda, patch, memory_bytes=4 * ROUNDING)
    with sys.modules["cupy"].cuda.Device(1):
        second = ao.get_backend("cupy", memory_bytes=2 * ROUNDING)
        x = second.asarray(np.zeros(ROUNDING // 4, np.float32))
    assert second is not first
    y = first.asarray(np.zeros(2 * ROUNDING // 4, np.float32))
    assert (first.owns(x), first.owns(y), second.owns(x), second.owns(y)) == (0, 1, 1, 0)
    assert first.memory() == (2 * ROUNDING, 2 * ROUNDING, 4 * ROUNDING)
    assert second.memory() == (ROUNDING, ROUNDING, 2 * ROUNDING)
    with pytest.raises(ao.DeviceMemoryError):
        first.asarray(np.zeros(3 * ROUNDING // 4, np.float32))


def test_another_allocator_is_refused_and_left_alone(cuda: Cuda, patch: Any) -> None:
    for name, module in cuda.modules().items():
        patch.setitem(sys.modules, name, module)
    patch.setattr(CupyBackend, "_open_devices", weakref.WeakValueDictionary())
    own = cuda.allocator

    def managed(nbytes: int) -> Any:
        return own(nbytes)

    cuda.allocator = managed
    with pytest.raises(RuntimeError, match=r"another allocator.*set_allocator\(cupy\.get_default"):
        ao.get_backend("cupy")
    assert cuda.allocator is managed


def test_a_wrong_limit_changes_nothing(cuda: Cuda, patch: Any) -> None:
    with pytest.raises(ValueError, match="memory_bytes must be"):
        use(cuda, patch, memory_bytes=0)
    assert cuda.allocator == cuda.pool.malloc


# -- times ----------------------------------------------------------------------------------------


def test_a_ticket_tells_its_times_on_the_backends_clock(device: Any) -> None:
    x, host = device.asarray(np.zeros(3, np.float32)), np.ones(3, np.float32)
    opened_s = device._streams.clock.anchor().at_s
    first = device.h2d(host, x)
    second = device.run_on_device(lambda: np.add(x, x, out=x), after=(first,))
    assert opened_s <= first.start_s < first.stop_s <= second.start_s < second.stop_s
    assert second.seconds == pytest.approx(2e-3)  # the stand-in takes a millisecond for each thing
    assert opened_s <= device.now()


def test_times_are_placed_by_an_anchor_that_is_at_most_a_second_old(
    cuda: Cuda, device: Any, patch: Any
) -> None:
    clock = device._streams.clock
    before, now_s = clock.anchor(), device.now()
    assert clock.anchor() is before
    patch.setattr(clock, "_now", lambda: now_s + 2)  # the host's clock; the GPU's has not moved
    ticket = device.run_on_device(lambda: None)
    waits = cuda.blocked()
    assert clock.anchor() is not before
    assert cuda.blocked() == waits  # made once, by the ticket
    assert now_s + 2 <= ticket.start_s < now_s + 2.1  # on the GPU's clock alone it is now_s


def test_a_ticket_drops_its_events_when_its_times_are_read(cuda: Cuda, device: Any) -> None:
    x = device.asarray(np.zeros(3, np.float32))
    ticket = device.h2d(np.ones(3, np.float32), x)
    start, stop = map(weakref.ref, ticket._places)
    times = (ticket.start_s, ticket.stop_s)
    gc.collect()
    assert start() is stop() is None
    assert (ticket.start_s, ticket.stop_s) == times
    waits = cuda.blocked()
    ticket.wait()
    assert ticket.done
    done = device.run_on_device(lambda: np.add(x, x, out=x), after=(ticket,))
    assert cuda.blocked() == waits
    done.wait()
    assert device.asnumpy(x).tolist() == [2, 2, 2]


def test_a_ledger_gets_the_hops_with_their_times(device: Any) -> None:
    ledger = ao.Ledger()
    train(device, [(20,)], steps=2, chunk_bytes=16, ledger=ledger)
    assert ledger.bytes("d2h") == ledger.bytes("h2d") == 2 * 80
    for event in ledger.events:
        assert event.seconds >= 0
    hops = {event.hop: event for event in ledger.events if (event.step, event.chunk) == (2, 3)}
    assert hops["prepare"].stop_s <= hops["d2h"].start_s < hops["d2h"].stop_s
    assert hops["h2d"].stop_s <= hops["apply"].start_s


def test_a_foreign_ticket_is_waited_for_by_the_host(device: Any) -> None:
    class Foreign(ao.Ticket):
        waited = 0
        start_s = stop_s = 0.0

        def wait(self) -> None:
            self.waited += 1

    ticket = Foreign()
    device.run_on_device(lambda: None, after=(ticket,))
    assert ticket.waited == 1


# -- availability ---------------------------------------------------------------------------------


def reason() -> str:
    return ao.available_backends()["cupy"].reason


def test_it_is_available_where_there_is_a_gpu(device: Any) -> None:
    assert reason() == ""


def test_a_missing_cupy_is_listed_with_the_remedy(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "cupy", None)
    assert "cannot be imported" in reason()
    assert "pip install 'adamoffload[cuda12x]'" in reason()
    with pytest.raises(RuntimeError, match="backend 'cupy' cannot run here: CuPy cannot be"):
        ao.get_backend("cupy")


def test_an_old_cupy_is_listed_with_the_remedy(device: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys.modules["cupy"], "__version__", "12.3.0")
    assert reason() == "CuPy 12.3.0 is too old; pip install --upgrade 'cupy>=13'"


def test_a_missing_gpu_is_listed(device: Any, patch: pytest.MonkeyPatch) -> None:
    runtime = sys.modules["cupy"].cuda.runtime
    patch.setattr(runtime, "getDeviceCount", lambda: 0)
    assert "finds no GPU; check the driver" in reason()

    def fail() -> int:
        raise CUDARuntimeError("cudaErrorNoDevice")

    patch.setattr(runtime, "getDeviceCount", fail)
    assert "finds no GPU (cudaErrorNoDevice)" in reason()


def test_bfloat16_is_refused_where_cupy_has_none(device: ao.Backend) -> None:
    with pytest.raises(TypeError, match=r"cupy: CuPy \S+ has no bfloat16 .*'cupy>=14'$"):
        device.zeros(2, "bfloat16")
    with pytest.raises(TypeError, match="Unsupported dtype") as caught:
        device.zeros(2, np.longdouble)
    assert "bfloat16" not in str(caught.value)
