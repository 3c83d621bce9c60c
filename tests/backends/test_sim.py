"""The simulated accelerator: exact times, NaN for whoever does not wait, the same bits as numpy."""

from __future__ import annotations

import weakref
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.observe.timeline import timeline_text
from adamoffload_sim import DEVICES, LINKS, Device, Link

ADAM = 12  # bytes a parameter that `w += update` moves on the device: two reads, one write


def make(**options: Any) -> ao.Backend:
    """Return a device on which durations are exact in binary: four bytes, one element, a second."""
    options = {"link": Link(4), "device": Device(4, 1e9), "host_ns_per_parameter": 1e9, **options}
    return ao.get_backend("sim", **options)


def ones(device: ao.Backend, size: int) -> Any:
    return device.asarray(np.ones(size, np.float32))


def nans(array: np.ndarray[Any, Any]) -> bool:
    return bool(np.isnan(array).all())


# -- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"link": "pcie4x61"}, ValueError, "'pcie4x61' is unknown; did you mean 'pcie4x16'.*nvl"),
        ({"link": 3e9}, TypeError, "link must be the name of a preset"),
        ({"link": Device(1, 1)}, TypeError, "link must be the name of a preset"),
        ({"device": "A10"}, ValueError, "did you mean 'a100'"),
        ({"device": 1}, TypeError, "device must be the name of a preset"),
        ({"machine": "rtx4909"}, ValueError, "near .rtx4090."),
        ({"host_ns_per_parameter": -1}, ValueError, "host_ns_per_parameter must be a finite"),
        ({"host_ns_per_parameter": np.nan}, ValueError, "host_ns_per_parameter must be a finite"),
        ({"host_ns_per_parameter": "1"}, TypeError, "host_ns_per_parameter must be a finite"),
        ({"memory_bytes": 0}, ValueError, "memory_bytes"),
        ({"speed": 1}, TypeError, "no option 'speed'"),
    ],
)
def test_a_bad_option_is_named(options: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        ao.get_backend("sim", **options)


@pytest.mark.parametrize("bad", [0, -1, np.nan, np.inf])
def test_a_bandwidth_is_a_positive_number(bad: float) -> None:
    with pytest.raises(ValueError, match="Link: bandwidth_bytes_per_s must be a finite number > 0"):
        Link(bad)
    with pytest.raises(ValueError, match="Device: bandwidth_bytes_per_s must be a finite"):
        Device(bad, 1)
    with pytest.raises(ValueError, match="Device: flops_per_s must be a finite"):
        Device(1, bad)


def test_a_link_is_no_faster_for_pageable_memory_and_has_no_negative_latency() -> None:
    with pytest.raises(ValueError, match="pageable_penalty must be >= 1"):
        Link(1, 0, 0.5)
    with pytest.raises(ValueError, match="latency_s must be a finite number >= 0"):
        Link(1, -1)


def test_presets_have_their_public_figures_and_do_not_change() -> None:
    in_gb = {name: round(link.bandwidth_bytes_per_s / 1e9, 2) for name, link in LINKS.items()}
    assert in_gb == {
        "pcie3x16": 15.75,
        "pcie4x16": 31.51,
        "pcie5x16": 63.02,
        "nvlink-c2c": 450.0,
    }
    a100 = DEVICES["a100"]
    assert (a100.bandwidth_bytes_per_s, a100.flops_per_s) == (1555e9, 19.5e12)
    with pytest.raises(FrozenInstanceError):
        a100.flops_per_s = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("device", DEVICES)
def test_every_preset_makes_a_device(link: str, device: str) -> None:
    sim = ao.get_backend("sim", link=link, device=device)
    assert sim.simulated
    assert sim.name == "sim"
    assert float(np.sum(ones(sim, 3))) == 3


def test_memory_is_limited() -> None:
    device = make(memory_bytes=100)
    x = ones(device, 20)
    with pytest.raises(ao.DeviceMemoryError, match="80 bytes requested with 80 of 100 in use"):
        x + 1
    assert device.memory() == (80, 80, 100)


# -- durations ------------------------------------------------------------------------------------


def busy(device: ao.Backend, function: Any) -> float:
    """Return how long the device's queue is busy with a function."""
    device.synchronize()
    return device.run_on_device(function).seconds


@pytest.mark.parametrize(
    ("function", "nbytes", "flops"),
    [
        (lambda a, b: a + 1, 128, 16),
        (lambda a, b: a + b, 192, 16),
        (lambda a, b: np.multiply(a, b, out=a), 192, 16),
        (lambda a, b: np.sum(a), 68, 16),
        (lambda a, b: a.mean(axis=0), 80, 16),
        (lambda a, b: a @ b, 192, 128),
        (lambda a, b: a @ a.T, 192, 128),
        (lambda a, b: np.dot(a, a), 128, 128),
        (lambda a, b: a[:2] @ b, 128, 64),
        (lambda a, b: np.tensordot(a, b, axes=1), 192, 128),
        (lambda a, b: np.einsum("ij,jk->ik", a, a), 128, 128),
        (lambda a, b: np.vdot(a, b), 132, 32),
        (lambda a, b: np.concatenate([a, b]), 256, 32),
        (lambda a, b: np.copyto(a, b), 128, 16),
        (lambda a, b: a.copy(), 128, 16),
        (lambda a, b: a.fill(0), 64, 16),
        (lambda a, b: a.__setitem__(slice(2), b[:2]), 64, 8),
        (lambda a, b: np.add(np.broadcast_to(a[0], (4, 4)), 1, out=b), 80, 16),
        (lambda a, b: (a.T, a[1:], a.reshape(-1), np.split(a, 2), np.shape(a)), 0, 0),
    ],
)
def test_an_operation_takes_its_bytes_or_its_flops(function: Any, nbytes: int, flops: int) -> None:
    for device, seconds in (
        (make(device=Device(1, 1e12)), nbytes),
        (make(device=Device(1e12, 1)), flops),
    ):
        a, b = (device.asarray(np.ones((4, 4), np.float32)) for _ in range(2))
        assert busy(device, lambda a=a, b=b: function(a, b)) == pytest.approx(seconds, rel=1e-6)


def test_every_operation_is_launched() -> None:
    device = make(device=Device(1, 1e9, launch_s=0.5))
    x = ones(device, 1)
    assert busy(device, lambda: (np.negative(x, out=x), np.negative(x, out=x))) == 2 * 8.5


def test_the_model_takes_time_but_the_host_goes_on() -> None:
    device = make()
    x = ones(device, 4)
    begin = device.now()
    y = x * 2
    assert device.now() == begin
    device.asnumpy(y)  # 8 elements' bytes on the device, then 4 over the link
    assert device.now() == begin + 12


def test_memory_that_is_not_pinned_is_slower() -> None:
    device = make(link=Link(4, latency_s=0.5, pageable_penalty=3))
    x = ones(device, 4)
    pinned = device._empty_pinned(8, np.dtype(np.float32))
    assert device.d2h(x, pinned[2:6]).seconds == 4.5
    assert device.d2h(x, np.empty(4, np.float32)).seconds == 12.5
    assert device.h2d(pinned[:4], x).seconds == 4.5
    assert device.h2d(np.ones(4, np.float32), x).seconds == 12.5


def test_copies_of_both_directions_and_the_device_work_at_the_same_time() -> None:
    device = make()
    x, y, z = ones(device, 4), ones(device, 4), ones(device, 2)
    begin = device.now()
    tickets = [
        device.d2h(x, np.empty(4, np.float32)),
        device.h2d(np.ones(4, np.float32), y),
        device.run_on_device(lambda: np.negative(z, out=z)),
    ]
    assert device.now() == begin
    device.synchronize()
    assert device.now() == begin + 4
    assert [ticket.start_s for ticket in tickets] == [begin] * 3


def test_one_engine_does_one_thing_after_the_other() -> None:
    device = make()
    x = ones(device, 4)
    first, second = (device.d2h(x, np.empty(4, np.float32)) for _ in range(2))
    assert second.start_s == first.stop_s


# -- a step ---------------------------------------------------------------------------------------


def step_seconds(
    device: ao.Backend, size: int, chunk: int, ledger: ao.Ledger | None = None, **options: Any
) -> float:
    w, g = ao.Parameter(ones(device, size), "w"), ones(device, size)
    optimizer = ao.AdamOffload([w], chunk_bytes=4 * chunk, ledger=ledger, **options)
    device.synchronize()
    begin = device.now()
    optimizer([g])
    device.synchronize()
    return device.now() - begin


def test_one_chunk_takes_the_sum_of_its_hops() -> None:
    # down 8, Adam 16, up 8, apply 8 * 12 / 48 = 2
    device = make(device=Device(48, 1e9), host_ns_per_parameter=2e9)
    assert step_seconds(device, 8, 8) == 8 + 16 + 8 + 2


def test_decay_and_unscaling_come_before() -> None:
    # w * d, g + that, and times 1/s: 2 + 3 + 2 times 4 bytes an element
    device = make(device=Device(4, 1e9), host_ns_per_parameter=0)
    plain = step_seconds(device, 8, 8)
    assert step_seconds(device, 8, 8, weight_decay=0.1, loss_scale=2.0) == plain + 7 * 8


def test_a_slow_host_hides_everything_but_the_first_and_last_hop() -> None:
    # A chunk of 4: down 4, Adam 16, up 4, apply 1; the link and the device work behind the host.
    device = make(device=Device(48, 1e9), host_ns_per_parameter=4e9)
    ledger = ao.Ledger()
    assert step_seconds(device, 20, 4, ledger) == 4 + 5 * 16 + 4 + 1
    assert timeline_text(ledger, 1, width=89) == "\n".join(
        [
            "step 1: 89 s",
            "device |" + 24 * "." + "0" + 15 * "." + "1" + 15 * "." + "2" + 15 * "." + "3"
            "...............4| 5 s busy",
            "d2h    |000011112222"
            + 13 * "."
            + "3333"
            + 12 * "."
            + "4444"
            + 44 * "."
            + "| 20 s busy",
            "host   |...." + "".join(16 * c for c in "01234") + ".....| 80 s busy",
            "h2d    |" + 20 * "." + "............".join(4 * c for c in "01234") + ".| 20 s busy",
        ]
    )


@pytest.mark.parametrize("host_s", [0, 1, 2, 3])
def test_a_slow_link_hides_everything_but_the_last_chunk(host_s: int) -> None:
    # A chunk of 4: down 4, Adam 0 to 3, up 4, apply 1; a slot's round takes no more than 3 * 4.
    device = make(device=Device(48, 1e9), host_ns_per_parameter=host_s / 4 * 1e9)
    assert step_seconds(device, 20, 4) == 5 * 4 + host_s + 4 + 1


def test_a_slow_device_hides_everything_but_the_first_and_last_hop() -> None:
    # A chunk of 4: down 4, Adam 1, up 4, and 12 for 48 bytes to apply
    device = make(host_ns_per_parameter=0.25e9)
    assert step_seconds(device, 20, 4) == 4 + 1 + 4 + 5 * 12


def test_the_timeline_asks_for_a_step_that_was_recorded() -> None:
    with pytest.raises(ValueError, match="no hops of step 3"):
        timeline_text(ao.Ledger(), 3)
    with pytest.raises(ValueError, match="width must be at least 1"):
        timeline_text(ao.Ledger(), 1, width=0)


def test_the_ledger_has_virtual_times_and_all_bytes() -> None:
    device, ledger = make(), ao.Ledger()
    step_seconds(device, 20, 4, ledger)
    assert ledger.bytes("d2h", step=1) == ledger.bytes("h2d", step=1) == 80
    assert device.traffic() == (80, 80 + 160)
    for event in ledger.events:
        if event.hop in ("d2h", "update", "h2d"):
            assert event.seconds == 4
        elif event.hop == "apply":
            assert event.seconds == 4 * ADAM / 4


def test_two_runs_have_the_same_times_to_the_last_digit() -> None:
    def times() -> list[Any]:
        device, ledger = ao.get_backend("sim"), ao.Ledger()
        w, x = ao.Parameter(ones(device, 1000), "w"), ones(device, 1000)
        optimizer = ao.AdamOffload([w], chunk_bytes=300, ledger=ledger, weight_decay=0.1)
        for _ in range(5):
            optimizer([np.tanh(x * w) / 3])
        return [device.now(), *ledger.events]

    assert times() == times()


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_training_is_bitwise_that_of_the_numpy_backend(chunk: int) -> None:
    def train(device: ao.Backend) -> list[Any]:
        rng = np.random.default_rng(0)
        shapes = [(13, 3), (40,), (1,), (5, 2, 4)]
        found = []
        settings: list[dict[str, Any]] = [{}, {"weight_decay": 0.1, "loss_scale": 8.0}]
        for options in settings:
            parameters = [
                ao.Parameter(device.asarray(rng.standard_normal(shape, np.float32)), f"p{i}")
                for i, shape in enumerate(shapes)
            ]
            optimizer = ao.AdamOffload(parameters, 0.01, chunk_bytes=4 * chunk, **options)
            for _ in range(4):
                noise = [rng.standard_normal(shape, np.float32) for shape in shapes]
                pairs = zip(parameters, map(device.asarray, noise), strict=True)
                optimizer([np.sin(p * 3) + n for p, n in pairs])
            found += [device.asnumpy(p.data) for p in parameters]
            found += [*optimizer.moment1.values(), *optimizer.moment2.values()]
        return found

    for mine, theirs in zip(
        train(ao.get_backend("sim")), train(ao.get_backend("numpy")), strict=True
    ):
        assert mine.tobytes() == theirs.tobytes()


def test_a_ledger_keeps_no_arrays_alive() -> None:
    device, ledger = make(), ao.Ledger()
    x, host = ones(device, 4), np.zeros(4, np.float32)
    alive = weakref.ref(host)
    ticket = device.d2h(x, host, record=ledger.at(1, 0))
    ticket.wait()
    del host
    assert alive() is None
    assert len(ledger) == 1


# -- whoever does not wait ------------------------------------------------------------------------


def test_the_host_sees_nan_until_it_waits() -> None:
    device = make()
    x, host = ones(device, 4), np.zeros(4, np.float32)
    ticket = device.d2h(x, host)
    assert nans(host)
    ticket.wait()
    assert (host == 1).all()


def test_waiting_for_what_came_after_is_waiting_too() -> None:
    device = make()
    x, host = ones(device, 4), np.zeros(4, np.float32)
    down = device.d2h(x, host)
    later = device.run_on_device(lambda: None, after=(down,))
    assert nans(host)
    later.wait()
    assert (host == 1).all()


def test_time_alone_brings_no_data() -> None:
    device = make()
    x, host = ones(device, 4), np.zeros(4, np.float32)
    device.d2h(x, host)
    device.run_on_host(lambda: None, elements=1000)
    assert nans(host)
    device.synchronize()
    assert (host == 1).all()


def test_the_device_sees_nan_unless_it_is_ordered_after_the_copy() -> None:
    device = make()
    x = ones(device, 4)
    up = device.h2d(np.full(4, 5, np.float32), x)
    early = x + 0
    late = []
    device.run_on_device(lambda: late.append(x + 0), after=(up,))
    assert nans(device.asnumpy(early))
    assert (device.asnumpy(late[0]) == 5).all()


def test_integers_in_flight_are_as_far_from_zero_as_they_can_be() -> None:
    device = make()
    for dtype, poison in (("i4", -(2**31)), ("u1", 255), ("?", True)):
        host = np.zeros(2, dtype)
        ticket = device.d2h(device.asarray(np.zeros(2, dtype)), host)
        assert (host == poison).all()
        ticket.wait()
        assert not host.any()


def test_a_copy_of_what_may_not_be_computed_yet_is_nan() -> None:
    device = make()
    y, host = ones(device, 4) + 1, np.zeros(4, np.float32)
    device.d2h(y, host, after=()).wait()
    assert nans(host)
    device.d2h(y, host, after=(device.run_on_device(lambda: None),)).wait()
    assert (host == 2).all()


def test_unless_told_otherwise_a_copy_down_waits_for_the_devices_queue() -> None:
    device = make()
    y, host = ones(device, 4) + 1, np.zeros(4, np.float32)
    ticket = device.d2h(y, host)
    assert nans(host)  # the host must wait for it all the same
    ticket.wait()
    assert (host == 2).all()


def test_a_source_that_the_device_writes_meanwhile_is_torn() -> None:
    device = make()
    x, host = ones(device, 4), np.zeros(4, np.float32)
    down = device.d2h(x, host)
    np.negative(x, out=x)
    down.wait()
    assert nans(host)


def test_a_source_may_be_written_after_the_copy() -> None:
    device = make()
    x, host = ones(device, 4), np.zeros(4, np.float32)
    down = device.d2h(x, host)
    device.run_on_device(lambda: np.negative(x, out=x), after=(down,))
    down.wait()
    assert (host == 1).all()
    assert (device.asnumpy(x) == -1).all()


def test_a_target_that_the_device_still_reads_is_torn() -> None:
    device = make()
    x = ones(device, 4)
    x + 1  # queued
    device.h2d(np.ones(4, np.float32), x).wait()
    assert nans(device.asnumpy(x))


def test_a_source_that_the_host_writes_meanwhile_is_an_error() -> None:
    device = make()
    x, host = ones(device, 5), np.ones(5, np.float32)
    up = device.h2d(host, x)
    host[4] = 2
    with pytest.raises(RuntimeError, match="written to while it was being copied"):
        up.wait()
    up.wait()


def test_so_is_one_that_is_large_and_of_any_layout() -> None:
    device = make()
    for host in (np.ones(1_000_001, np.float32), np.ones((300, 200)).T, np.ones((4, 4))[::2]):
        up = device.h2d(host, device._empty(host.shape, host.dtype))
        host[1:] = 2
        with pytest.raises(RuntimeError, match="written to while it was being copied"):
            up.wait()


def test_a_slot_that_is_taken_again_too_early_is_torn() -> None:
    device = make()
    x, y, slot = ones(device, 4), ones(device, 4), np.full(4, 3, np.float32)
    up = device.h2d(slot, x)
    device.run_on_device(lambda: None, after=(up,))  # the device has it, the link may not
    device.d2h(y, slot, after=()).wait()
    assert nans(slot)


def test_a_slot_may_be_taken_again_in_order() -> None:
    device = make()
    x, y, slot = ones(device, 4), ones(device, 4), np.full(4, 3, np.float32)
    up = device.h2d(slot, x)
    down = device.d2h(y, slot, after=(up,))
    again = device.h2d(slot, y, after=(down,))
    again.wait()
    assert (slot == 1).all()
    assert (device.asnumpy(x) == 3).all()
    assert (device.asnumpy(y) == 1).all()


def test_two_copies_from_one_source_do_not_meet() -> None:
    device = make()
    x, hosts = ones(device, 4), np.zeros((2, 4), np.float32)
    tickets = [device.d2h(x, host) for host in hosts]
    for ticket in tickets:
        ticket.wait()
    assert (hosts == 1).all()


@pytest.mark.parametrize("left_out", ["_d2h", "run_on_device"])
def test_a_pipeline_that_forgets_an_order_trains_to_nan(
    left_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make()
    w, x = ao.Parameter(ones(device, 20), "w"), ones(device, 20)
    optimizer = ao.AdamOffload([w], chunk_bytes=16, weight_decay=0.1)
    original = getattr(device, left_out)

    def forgetful(*args: Any, **kwargs: Any) -> Any:
        return original(*args[:2], ()) if left_out == "_d2h" else original(args[0])

    with monkeypatch.context() as patch:
        patch.setattr(device, left_out, forgetful)
        optimizer([x * w])
    assert nans(device.asnumpy(w.data))


def test_a_pipeline_that_forgets_to_wait_trains_to_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    from adamoffload_sim.tickets import SimTicket

    device = make()
    w, x = ao.Parameter(ones(device, 20), "w"), ones(device, 20)
    optimizer = ao.AdamOffload([w], chunk_bytes=16)
    with monkeypatch.context() as patch:
        patch.setattr(SimTicket, "wait", lambda self: None)
        optimizer([x])
    device.synchronize()
    assert nans(device.asnumpy(w.data))
    assert nans(optimizer.moment1["w"])


# -- and who was not waited for ---------------------------------------------------------------


def test_the_copy_that_nobody_has_waited_for_is_named() -> None:
    device: Any = make()
    x, hosts = ones(device, 4), [np.zeros(4, np.float32) for _ in range(2)]
    first, second = (device.d2h(x, host) for host in hosts)
    assert device.explain(hosts[1]) == "nobody has waited for the ticket of d2h number 3"
    assert device.explain(hosts[0][1:2]) == "nobody has waited for the ticket of d2h number 2"
    second.wait()
    assert device.explain(hosts[1]) == "no copy into it is under way, and none was torn"
    assert "d2h number 2" in device.explain(hosts[0])
    up = device.h2d(np.zeros(4, np.float32), x, after=(first,))
    assert "h2d number 4" in device.explain(x)
    up.wait()
    assert "none was torn" in device.explain(x)


def test_what_has_torn_a_copy_is_named_also_when_it_is_over() -> None:
    device: Any = make()
    x, y, host = ones(device, 4), ones(device, 4), np.zeros(4, np.float32)
    device.d2h(x, host)
    device.d2h(y, host)
    said = "d2h number 4 is torn: it uses memory of d2h number 3, and is not ordered after it"
    assert device.explain(host) == said
    device.synchronize()
    assert nans(host)
    assert device.explain(host) == said
    down = device.d2h(x, host, after=(device.run_on_device(lambda: None),))
    np.negative(x, out=x)
    assert "the device writes to its array" in device.explain(host)
    down.wait()
    negative = -x
    device.d2h(negative, host, after=()).wait()
    assert "the device's queue uses its array" in device.explain(host)
    device.d2h(y, host).wait()
    device.h2d(host, y)
    device.d2h(x, host)
    assert "h2d number 8 is torn: d2h number 9 uses its memory" in device.explain(y)
