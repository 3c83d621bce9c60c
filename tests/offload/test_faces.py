"""`AdamOffload` as a whole: what a step does, what it refuses, what it leaves untouched."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adamoffload as ao

import strategies
from reference import PlainAdam

Float32 = np.ndarray[Any, np.dtype[np.float32]]


def device_of(optimizer: ao.AdamOffload) -> ao.Backend:
    device = optimizer.parameters[0].backend
    assert device is not None
    return device


def make_parameters(
    device: ao.Backend, shapes: list[tuple[int, ...]], seed: int = 0
) -> list[ao.Parameter]:
    rng = np.random.default_rng(seed)
    return [
        ao.Parameter(device.asarray(rng.standard_normal(shape, np.float32)), f"p{i}")
        for i, shape in enumerate(shapes)
    ]


def make_gradients(optimizer: ao.AdamOffload, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    device = device_of(optimizer)
    return [
        device.asarray(rng.standard_normal(p.shape).astype(np.float32))
        for p in optimizer.parameters
    ]


def state(optimizer: ao.AdamOffload) -> list[Float32]:
    device = device_of(optimizer)
    return [
        *(device.asnumpy(p.data) for p in optimizer.parameters),
        *(moment.copy() for moment in optimizer.moment1.values()),
        *(moment.copy() for moment in optimizer.moment2.values()),
        np.array([optimizer.beta1_power, optimizer.beta2_power, optimizer.global_step], "f4"),
    ]


def assert_same(left: list[Float32], right: list[Float32]) -> None:
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def optimizer() -> ao.AdamOffload:
    device = ao.get_backend("numpy")
    return ao.AdamOffload(make_parameters(device, [(2, 3), (5,)]), learning_rate=0.1)


# -- exactness ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.data(), strategies.shapes, strategies.settings, st.integers(1, 40), st.integers(1, 3))
def test_result_does_not_depend_on_chunks_threads_or_engine(
    data: st.DataObject,
    shapes: list[tuple[int, ...]],
    arguments: dict[str, Any],
    chunk: int,
    threads: int,
) -> None:
    grouping = data.draw(st.none() | strategies.groupings(len(shapes)))

    def train(**options: Any) -> list[Float32]:
        parameters = make_parameters(ao.get_backend("numpy"), shapes)
        optimizer = ao.AdamOffload(in_groups(parameters, grouping), **arguments, **options)
        for seed in range(3):
            optimizer(make_gradients(optimizer, seed))
        return state(optimizer)

    if isinstance(arguments.get("learning_rate"), list) and grouping:
        for _, options in grouping:
            options.pop("lr", None)
    expected = train(engine="numpy", threads=1)
    assert_same(train(engine="numpy", threads=threads, chunk_bytes=4 * chunk), expected)
    assert_same(train(engine="auto", threads=threads, chunk_bytes=4 * chunk), expected)


def in_groups(
    parameters: list[ao.Parameter], grouping: list[tuple[int, dict[str, Any]]] | None
) -> list[Any]:
    if grouping is None:
        return parameters
    groups: dict[int, dict[str, Any]] = {}
    for parameter, (place, options) in zip(parameters, grouping, strict=True):
        groups.setdefault(place, {"params": [], **options})["params"].append(parameter)
    return [*groups.values(), {"order_params": parameters}]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.data(), strategies.shapes, st.integers(1, 40), st.integers(1, 3))
def test_ledger_counts_four_bytes_a_parameter_each_way(
    data: st.DataObject, shapes: list[tuple[int, ...]], chunk: int, steps: int
) -> None:
    grouping = data.draw(st.none() | strategies.groupings(len(shapes)))
    device = ao.get_backend("numpy")
    parameters = make_parameters(device, shapes)
    ledger = ao.Ledger()
    optimizer = ao.AdamOffload(
        in_groups(parameters, grouping), ledger=ledger, chunk_bytes=4 * chunk
    )
    before = device.traffic()
    for seed in range(steps):
        gradients = make_gradients(optimizer, seed)
        before = ao.Traffic(before.d2h, before.h2d + sum(g.nbytes for g in gradients))
        optimizer(gradients)
    expected = 4 * sum(p.size for p in parameters)
    assert ledger.bytes("d2h") == ledger.bytes("h2d") == expected * steps
    for step in range(1, steps + 1):
        assert ledger.bytes("d2h", step=step) == ledger.bytes("h2d", step=step) == expected
    moved = device.traffic()
    assert (moved.d2h - before.d2h, moved.h2d - before.h2d) == (expected * steps, expected * steps)


def test_step_agrees_with_float64() -> None:
    device = ao.get_backend("numpy")
    optimizer = ao.AdamOffload(make_parameters(device, [(1000,)]), learning_rate=0.01)
    w = device.asnumpy(optimizer.parameters[0].data).astype(np.float64)
    adam = PlainAdam(w.shape, *(float(np.float32(x)) for x in (0.01, 0.9, 0.999, 1e-8)))
    for step in range(1, 31):
        (gradient,) = make_gradients(optimizer, step)
        w += adam.step(device.asnumpy(gradient).astype(np.float64))
        optimizer([gradient])
    # Each step rounds w and delta once or twice: 30 steps, 2^-24 relative each, of values below 5;
    # beta2's power, a float32 of almost 1, adds up to 2^-24 / (1 - beta2^t) to each step of 0.01.
    tolerance = 30 * 2**-24 * 5 + 30 * 0.01 * 2**-24 / 0.001
    np.testing.assert_allclose(
        device.asnumpy(optimizer.parameters[0].data), w, rtol=0, atol=tolerance
    )


def test_denormal_moments_become_zero_at_every_64th_step() -> None:
    device = ao.get_backend("numpy")
    optimizer = ao.AdamOffload(make_parameters(device, [(2,)]))
    tiny = np.float32(1e-40)
    optimizer([device.asarray(np.array([1.0, 1e-38], np.float32))])
    assert 0 < optimizer.moment1["p0"][1] < np.finfo(np.float32).smallest_normal
    zero = device.asarray(np.zeros(2, np.float32))
    for _ in range(62):
        optimizer([zero])
    assert optimizer.global_step == 63
    optimizer.moment1["p0"][1] = optimizer.moment2["p0"][1] = tiny
    optimizer([zero])
    assert optimizer.moment1["p0"][1] == 0 == optimizer.moment2["p0"][1]
    assert optimizer.moment1["p0"][0] > 0
    optimizer.moment1["p0"][1] = tiny
    optimizer([zero])
    assert optimizer.moment1["p0"][1] > 0


def test_dead_coordinates_do_not_stall_among_denormals() -> None:
    device = ao.get_backend("numpy")
    optimizer = ao.AdamOffload(make_parameters(device, [(1,)]))
    optimizer([device.asarray(np.ones(1, np.float32))])
    zero = device.asarray(np.zeros(1, np.float32))
    for _ in range(1000):
        optimizer([zero])
    assert optimizer.moment1["p0"][0] == 0


def test_order_of_hops_of_each_chunk() -> None:
    ledger = ao.Ledger()
    device = ao.get_backend("numpy")
    optimizer = ao.AdamOffload(make_parameters(device, [(10,)]), ledger=ledger, chunk_bytes=12)
    optimizer(make_gradients(optimizer, 0))
    for chunk in range(4):
        hops = tuple(event.hop for event in ledger.events if event.chunk == chunk)
        assert hops == ("prepare", "d2h", "wait", "update", "h2d", "apply")
    # The next chunk is on its way down before this one is updated.
    first = [(event.chunk, event.hop) for event in ledger.events]
    assert first.index((1, "d2h")) < first.index((0, "update"))


def test_parameters_of_one_group_are_neighbours_in_the_arena() -> None:
    device = ao.get_backend("numpy")
    a, b, c = make_parameters(device, [(2,), (3,), (4,)])
    groups = [{"params": [a, c], "lr": 0.5}, {"params": [b]}, {"order_params": [a, b, c]}]
    optimizer = ao.AdamOffload(groups)
    assert [p.name for p in optimizer.parameters] == ["p0", "p1", "p2"]
    address = {
        name: moment.__array_interface__["data"][0] for name, moment in optimizer.moment1.items()
    }
    assert address["p2"] - address["p0"] == 4 * 2
    assert list(optimizer.moment1) == ["p0", "p1", "p2"]


# -- gradients ------------------------------------------------------------------------------------


def test_gradients_by_name_equal_gradients_by_order() -> None:
    results = []
    for by_name in (False, True):
        optimizer = ao.AdamOffload(make_parameters(ao.get_backend("numpy"), [(2, 3), (5,)]))
        gradients = make_gradients(optimizer, 1)
        optimizer({"p1": gradients[1], "p0": gradients[0]} if by_name else tuple(gradients))
        results.append(state(optimizer))
    assert_same(*results)


def test_gradient_of_any_layout_is_accepted(optimizer: ao.AdamOffload) -> None:
    device = device_of(optimizer)
    expected = ao.AdamOffload(make_parameters(device, [(2, 3), (5,)]), learning_rate=0.1)
    gradients = make_gradients(optimizer, 3)
    expected(gradients)
    transposed = device.asarray(device.asnumpy(gradients[0]).T).T
    doubled = device.asarray(np.repeat(device.asnumpy(gradients[1]), 2))[::2]
    assert not transposed.flags.c_contiguous
    optimizer([transposed, doubled])
    assert_same(state(optimizer), state(expected))


@pytest.mark.parametrize("name", ["numpy", "sim"])
def test_a_strided_view_of_a_parameter_is_read_before_the_parameter_changes(name: str) -> None:
    device = ao.get_backend(name)
    values = np.arange(4000, dtype=np.float32)
    results = []
    for copied in (True, False):
        a, b = (ao.Parameter(device.asarray(values), n) for n in "ab")
        optimizer = ao.AdamOffload([a, b], learning_rate=1.0, chunk_bytes=4000)
        gradient = a.data[::-1]  # one dimension: reshape(-1) would be a view of it
        optimizer([device.asarray(np.ones_like(values)), gradient.copy() if copied else gradient])
        results.append(state(optimizer))
    assert_same(*results)


def test_gradients_are_not_modified(optimizer: ao.AdamOffload) -> None:
    device = device_of(optimizer)
    gradients = make_gradients(optimizer, 3)
    before = [device.asnumpy(g) for g in gradients]
    optimizer(gradients)
    for gradient, expected in zip(gradients, before, strict=True):
        np.testing.assert_array_equal(device.asnumpy(gradient), expected)


def bad_gradients(optimizer: ao.AdamOffload) -> dict[str, tuple[Any, type[Exception], str]]:
    device = device_of(optimizer)
    good = make_gradients(optimizer, 0)
    other = ao.get_backend("numpy")
    first, second = optimizer.parameters
    return {
        "too few": ([good[0]], ValueError, "expected 2 gradients.*got 1"),
        "too many": ([*good, good[0]], ValueError, "got 3"),
        "shape": ([good[0].T, good[1]], ValueError, r"\(2, 3\), got \(3, 2\)"),
        "broadcastable": ([good[0], good[1][:1]], ValueError, r"got \(1,\)"),
        "dtype": (
            [good[0], good[1].astype(np.float64)],
            TypeError,
            "float32, as the parameter is, got float64",
        ),
        "generator": ((g for g in good), TypeError, "tuple or list"),
        "none": (None, TypeError, "got None"),
        "one array": (good[0], TypeError, "tuple or list"),
        "entry text": ([good[0], "g"], TypeError, "'p1' must be a device array, got 'g'"),
        "on the host": (
            [device.asnumpy(g) for g in good],
            ao.ResidencyError,
            "on the host; pass device.asarray",
        ),
        "elsewhere": (
            [good[0], other.asarray(np.ones(5, np.float32))],
            ao.ResidencyError,
            "another device",
        ),
        "a parameter": ([good[0], second], TypeError, "device array"),
        "unknown name": ({"p0": good[0], "q": good[1]}, ValueError, "there is no parameter 'q'"),
        "the parameter's array": ([good[0], second.data], ValueError, "shares memory.*'p1'"),
        "a view of a parameter": (
            [good[0], first.data.reshape(-1)[1:]],
            ValueError,
            "shares memory with parameter 'p0'",
        ),
    }


@pytest.mark.parametrize(
    "name",
    list(bad_gradients(ao.AdamOffload(make_parameters(ao.get_backend("numpy"), [(2, 3), (5,)])))),
)
def test_bad_gradients_are_refused_and_nothing_changes(
    optimizer: ao.AdamOffload, name: str
) -> None:
    optimizer(make_gradients(optimizer, 1))
    before = state(optimizer)
    gradients, exception, message = bad_gradients(optimizer)[name]
    with pytest.raises(exception, match=message):
        optimizer(gradients)
    assert_same(state(optimizer), before)


def test_view_beside_the_parameter_in_one_allocation_is_accepted() -> None:
    device = ao.get_backend("numpy")
    memory = device.asarray(np.ones(10, np.float32))
    w = ao.Parameter(memory[:5], "w")
    ao.AdamOffload([w])([memory[5:]])


# -- parameters -----------------------------------------------------------------------------------


def test_parameters_must_be_on_one_device() -> None:
    a = make_parameters(ao.get_backend("numpy"), [(2,)])[0]
    b = ao.Parameter(ao.get_backend("numpy").asarray(np.ones(2, np.float32)), "b")
    with pytest.raises(ao.ResidencyError, match="must be on one device"):
        ao.AdamOffload([a, b])


def test_parameters_must_not_be_on_the_host() -> None:
    with pytest.raises(ao.ResidencyError, match=r"on the host.*device\.asarray"):
        ao.AdamOffload([ao.Parameter(np.ones(2, np.float32), "w")])


def test_parameters_must_not_share_memory() -> None:
    memory = ao.get_backend("numpy").asarray(np.ones(10, np.float32))
    overlapping = [ao.Parameter(memory[:6], "a"), ao.Parameter(memory[5:], "b")]
    with pytest.raises(ValueError, match="'a' and 'b' share memory"):
        ao.AdamOffload(overlapping)
    ao.AdamOffload([ao.Parameter(memory[:5], "a"), ao.Parameter(memory[5:], "b")])


def test_ring_that_does_not_fit_is_refused() -> None:
    device = ao.get_backend("numpy", memory_bytes=420)
    parameters = make_parameters(device, [(100,)])
    with pytest.raises(ao.DeviceMemoryError):
        ao.AdamOffload(parameters)
    ao.AdamOffload(parameters, chunk_bytes=4)


# -- hyper-parameters -----------------------------------------------------------------------------


def test_rates_are_reported_as_they_will_be_used() -> None:
    device = ao.get_backend("numpy")
    a, b, c = make_parameters(device, [(1,), (1,), (1,)])
    schedule = ao.ExponentialDecayLR(0.1, 0.5, 1)
    groups = [{"params": [a], "lr": schedule}, {"params": [b], "lr": [0.1, 0.2]}, {"params": [c]}]
    optimizer = ao.AdamOffload(groups, learning_rate=0.3)
    assert optimizer.get_lr() == (np.float32(0.1), np.float32(0.1), np.float32(0.3))
    assert optimizer.get_lr_parameter(a) is schedule
    np.testing.assert_array_equal(optimizer.get_lr_parameter(b), np.array([0.1, 0.2], np.float32))
    assert optimizer.get_lr_parameter([c]) == [np.float32(0.3)]
    optimizer(make_gradients(optimizer, 0))
    assert optimizer.get_lr() == (np.float32(0.05), np.float32(0.2), np.float32(0.3))
    optimizer.learning_rate = 0.25
    assert optimizer.get_lr()[2] == np.float32(0.25)


def test_weight_decay_is_reported() -> None:
    a, b = make_parameters(ao.get_backend("numpy"), [(1,), (1,)])
    assert ao.AdamOffload([a, b], weight_decay=0.5, loss_scale=8).get_weight_decay() == 0.5
    groups = [{"params": [a], "weight_decay": lambda step: step + 1.0}, {"params": [b]}]
    assert ao.AdamOffload(groups).get_weight_decay() == (1.0, 0.0)


@pytest.mark.parametrize(
    ("argument", "exception"),
    [
        (lambda own: own, ValueError),
        (lambda own: (own,), TypeError),
        (lambda own: [1], TypeError),
        (lambda own: None, TypeError),
    ],
)
def test_rate_of_a_stranger_is_refused(argument: Any, exception: type[Exception]) -> None:
    own, same_name = (make_parameters(ao.get_backend("numpy"), [(1,)])[0] for _ in range(2))
    with pytest.raises(exception, match="get_lr_parameter"):
        ao.AdamOffload([own]).get_lr_parameter(argument(same_name))


def test_assigned_rate_is_checked(optimizer: ao.AdamOffload) -> None:
    bad: list[tuple[Any, type[Exception]]] = [
        (-1.0, ValueError),
        (np.nan, ValueError),
        ([0.1], TypeError),
    ]
    for value, exception in bad:
        with pytest.raises(exception, match="learning_rate"):
            optimizer.learning_rate = value
    assert optimizer.learning_rate == np.float32(0.1)


def test_rate_of_a_table_cannot_be_assigned() -> None:
    optimizer = ao.AdamOffload(make_parameters(ao.get_backend("numpy"), [(1,)]), [0.1, 0.2])
    with pytest.raises(RuntimeError, match="cannot be assigned"):
        optimizer.learning_rate = 0.1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("zero_grad", "argument of each call"),
        ("lr", "`learning_rate`"),
        ("param_groups", "to the constructor"),
    ],
)
def test_what_other_frameworks_have_is_answered_with_what_is_here(
    optimizer: ao.AdamOffload, name: str, hint: str
) -> None:
    with pytest.raises(AttributeError, match=rf"AdamOffload has no attribute '{name}'; .*{hint}"):
        getattr(optimizer, name)
    assert not hasattr(optimizer, name)


@pytest.mark.parametrize("name", ["lr", "weight_decay", "betas", "beta1", "eps", "loss_scale"])
def test_an_assignment_that_would_do_nothing_is_refused(
    optimizer: ao.AdamOffload, name: str
) -> None:
    with pytest.raises(AttributeError, match=f"{name} cannot be assigned; .*(construct|learning)"):
        setattr(optimizer, name, 0.5)


def test_a_subclass_may_have_attributes_of_its_own() -> None:
    class Counting(ao.AdamOffload):
        def __init__(self, *arguments: Any) -> None:
            self.calls = 0
            super().__init__(*arguments)

    optimizer = Counting(make_parameters(ao.get_backend("numpy"), [(1,)]))
    optimizer.calls += 1
    assert optimizer.calls == 1


@pytest.mark.parametrize("returned", [np.nan, np.inf, "0.1", None, np.ones(2)])
def test_bad_value_of_a_schedule_changes_nothing(returned: Any) -> None:
    class Schedule(ao.LearningRateSchedule):
        def __call__(self, step: int) -> Any:
            return 0.1 if step == 0 else returned

    for arguments in ({"learning_rate": Schedule()}, {"weight_decay": Schedule()}):
        optimizer = ao.AdamOffload(
            make_parameters(ao.get_backend("numpy"), [(3,)]),
            **arguments,  # type: ignore[arg-type]  # one of the two
        )
        optimizer(make_gradients(optimizer, 0))
        before = state(optimizer)
        with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
            optimizer(make_gradients(optimizer, 1))
        assert_same(state(optimizer), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 1e300}, "finite in float32"),
        ({"learning_rate": [0.1, 1e300]}, "finite in float32"),
        ({"weight_decay": 1e300}, "finite in float32"),
        ({"weight_decay": 1e30, "loss_scale": 1e30}, r"weight_decay \* loss_scale"),
        ({"loss_scale": 1e300}, "1 / loss_scale"),
        ({"loss_scale": 1e-300}, "1 / loss_scale"),
        ({"eps": 1e300}, "eps"),
        ({"chunk_bytes": 0}, "chunk_bytes"),
    ],
)
def test_what_float32_cannot_hold_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ao.AdamOffload(make_parameters(ao.get_backend("numpy"), [(1,)]), **arguments)


def test_observers_are_checked() -> None:
    parameters = make_parameters(ao.get_backend("numpy"), [(1,)])
    with pytest.raises(TypeError, match="ledger must be a Ledger"):
        ao.AdamOffload(parameters, ledger=[])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="probe must be a Probe"):
        ao.AdamOffload(parameters, probe=True)  # type: ignore[arg-type]


def test_attributes_of_the_reference(optimizer: ao.AdamOffload) -> None:
    assert optimizer.target == "CPU"
    with pytest.raises(NotImplementedError):
        optimizer.target = "GPU"
    assert optimizer.unique is True
    optimizer.unique = False
    assert optimizer.unique is False
    with pytest.raises(TypeError, match="unique"):
        optimizer.unique = 1  # type: ignore[assignment]
    assert optimizer(make_gradients(optimizer, 0)) == (True, True)


# -- memory, failure, threads ---------------------------------------------------------------------


def test_device_memory_is_parameters_gradients_and_ring() -> None:
    device = ao.get_backend("numpy")
    optimizer = ao.AdamOffload(make_parameters(device, [(1000,), (24,)]), chunk_bytes=512)
    gradients = make_gradients(optimizer, 0)
    optimizer(gradients)
    memory = optimizer.memory()
    assert memory == (4096, 4096, 3 * 512, 8192)
    assert device.memory().used == device.memory().peak == memory.device
    assert memory.host == 8192 + 3 * 512


def fail_at(device: Any, hop: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(device, hop)
    calls = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            raise OSError("the link is down")
        return original(*args, **kwargs)

    monkeypatch.setattr(device, hop, failing)


@pytest.mark.parametrize("hop", ["_d2h", "run_on_host"])
def test_failure_before_the_first_update_changes_nothing(
    optimizer: ao.AdamOffload, hop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(optimizer)
    gradients = make_gradients(optimizer, 0)
    fail_at(device_of(optimizer), hop, 1, monkeypatch)
    with pytest.raises(OSError, match="link is down"):
        optimizer(gradients)
    monkeypatch.undo()
    assert_same(state(optimizer), before)
    optimizer(gradients)
    assert optimizer.global_step == 1


@pytest.mark.parametrize("hop", ["_h2d", "run_on_device"])
def test_failure_half_way_is_never_silent(hop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = ao.get_backend("numpy")
    optimizer = ao.AdamOffload(make_parameters(device, [(4,), (4,)]), chunk_bytes=16)
    gradients = make_gradients(optimizer, 0)
    fail_at(device, hop, 3 if hop == "run_on_device" else 1, monkeypatch)
    with pytest.raises(OSError, match="link is down"):
        optimizer(gradients)
    monkeypatch.undo()
    assert optimizer.global_step == 0
    with pytest.raises(RuntimeError, match=r"step 1 failed half-way.*'p0' had been touched"):
        optimizer(gradients)


def test_locking_serialises_threads() -> None:
    device = ao.get_backend("numpy")
    optimizer = ao.AdamOffload(make_parameters(device, [(50,)]), use_locking=True, chunk_bytes=64)
    gradient = make_gradients(optimizer, 0)
    threads = [
        threading.Thread(target=lambda: [optimizer(gradient) for _ in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = ao.AdamOffload(make_parameters(device, [(50,)]))
    for _ in range(80):
        alone(gradient)
    assert_same(state(optimizer), state(alone))


def test_nothing_is_printed_about_infinities() -> None:
    device = ao.get_backend("numpy")
    optimizer = ao.AdamOffload(make_parameters(device, [(3,)]), weight_decay=0.1)
    optimizer([device.asarray(np.array([np.inf, np.nan, 1e38], np.float32))])  # warnings are errors
    w = device.asnumpy(optimizer.parameters[0].data)
    assert np.isnan(w[:2]).all()
    assert np.isfinite(w[2])
