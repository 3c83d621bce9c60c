"""`Adam`, all on the device: the same numbers as `AdamOffload`, twice its memory, no traffic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adamoffload as ao

import strategies
from reference import BETTER, CASES, ORACLE, construct, replay

Float32 = np.ndarray[Any, np.dtype[np.float32]]
Grouping = list[tuple[int, dict[str, Any]]]
SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal


def build(
    kind: Any, shapes: list[tuple[int, ...]], grouping: Grouping | None = None, **arguments: Any
) -> tuple[Any, ao.Backend]:
    """Build an optimizer of a class over parameters that depend on their shapes only."""
    device = ao.get_backend("numpy")
    rng = np.random.default_rng(0)
    parameters = [
        ao.Parameter(device.asarray(rng.standard_normal(shape, np.float32)), f"p{i}")
        for i, shape in enumerate(shapes)
    ]
    params: list[Any] = list(parameters)
    if grouping is not None:
        groups: dict[int, dict[str, Any]] = {}
        for parameter, (place, options) in zip(parameters, grouping, strict=True):
            groups.setdefault(place, {"params": [], **options})["params"].append(parameter)
        params = [*groups.values(), {"order_params": parameters}]
    return kind(params, **arguments), device


def gradients(optimizer: Any, device: ao.Backend, seed: int, scale: float = 1.0) -> list[Any]:
    rng = np.random.default_rng(seed)
    draws = [rng.standard_normal(p.shape, np.float32) for p in optimizer.parameters]
    return [device.asarray(np.float32(scale) * draw) for draw in draws]


def state(optimizer: Any, device: ao.Backend) -> list[Float32]:
    """Parameters, moments and powers, on the host."""
    arrays = [
        *(p.data for p in optimizer.parameters),
        *optimizer.moment1.values(),
        *optimizer.moment2.values(),
    ]
    host = [device.asnumpy(x) if device.owns(x) else x.copy() for x in arrays]
    return [*host, np.array([optimizer.beta1_power, optimizer.beta2_power])]


def assert_bitwise(left: list[Float32], right: list[Float32]) -> None:
    for a, b in zip(left, right, strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


# -- the numbers ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.data(), strategies.shapes, strategies.settings, st.sampled_from([1.0, 1e-18]))
def test_it_equals_the_offloaded_optimizer_bitwise(
    data: st.DataObject,
    shapes: list[tuple[int, ...]],
    arguments: dict[str, Any],
    scale: float,
) -> None:
    grouping = data.draw(st.none() | strategies.groupings(len(shapes)))
    if isinstance(arguments.get("learning_rate"), list) and grouping:
        for _, options in grouping:
            options.pop("lr", None)
    states = []
    for kind in (ao.Adam, ao.AdamOffload):
        optimizer, device = build(kind, shapes, grouping, **arguments)
        for seed in range(4):
            assert optimizer(gradients(optimizer, device, seed, scale)) == (True,) * len(shapes)
        assert optimizer.global_step == 4
        states.append(state(optimizer, device))
    assert_bitwise(*states)


def test_denormal_moments_become_zero_in_the_same_steps() -> None:
    states: list[list[list[Float32]]] = []
    for kind in (ao.Adam, ao.AdamOffload):
        optimizer, device = build(kind, [(3, 2)])
        optimizer(gradients(optimizer, device, 1, 1e-37))
        zero = [device.asarray(np.zeros((3, 2), np.float32))]
        states.append([])
        for _ in range(65):
            optimizer(zero)
            states[-1].append(state(optimizer, device))
    for resident, offloaded in zip(*states, strict=True):
        assert_bitwise(resident, offloaded)
    before, after = states[0][61][1], states[0][62][1]  # m after steps 63 and 64
    assert np.all((before != 0) & (np.abs(before) < SMALLEST_NORMAL))
    assert not np.any(after)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["id"] not in BETTER], ids=lambda case: case["id"]
)
def test_recorded_run_is_reproduced(case: dict[str, Any]) -> None:
    worst = replay(case, ao.Adam)
    assert max(worst) <= 1, worst


@pytest.mark.parametrize("name", [n for n, why in BETTER.items() if "refused" in why])
def test_accepted_nonsense_is_refused_in_its_own_name(name: str) -> None:
    case = next(case for case in CASES if case["id"] == name)
    with np.load(ORACLE / case["file"]) as arrays, pytest.raises(ValueError, match=r"^Adam: "):
        construct(case, arrays, ao.Adam)


def test_it_accepts_what_numpy_computes_with_infinities() -> None:
    optimizer, device = build(ao.Adam, [(3,)], weight_decay=0.1)
    optimizer([device.asarray(np.array([np.inf, np.nan, 1e38], np.float32))])  # no warning
    w = device.asnumpy(optimizer.parameters[0].data)
    assert np.isnan(w[:2]).all()
    assert np.isfinite(w[2])


# -- where it is ----------------------------------------------------------------------------------


def test_everything_is_on_the_device() -> None:
    optimizer, device = build(ao.Adam, [(2, 3), ()])
    assert optimizer.target is device
    with pytest.raises(NotImplementedError, match="Adam: target is device 'numpy'"):
        optimizer.target = "CPU"
    for moments in (optimizer.moment1, optimizer.moment2):
        assert list(moments) == ["p0", "p1"]
        for parameter in optimizer.parameters:
            assert device.owns(moments[parameter.name])
            assert moments[parameter.name].shape == parameter.shape
    assert repr(optimizer) == "Adam(2 parameters, 7 elements, on device 'numpy', step 0)"


def test_moments_stay_the_same_arrays() -> None:
    optimizer, device = build(ao.Adam, [(2, 3)])
    moment = optimizer.moment1["p0"]
    optimizer(gradients(optimizer, device, 0))
    assert optimizer.moment1["p0"] is moment
    assert np.any(device.asnumpy(moment))


def test_a_parameter_takes_16_bytes_on_the_device_and_none_on_the_host() -> None:
    optimizer, device = build(ao.Adam, [(100, 9), (100,)])
    assert device.memory().used == 12 * 1000
    given = gradients(optimizer, device, 0)
    assert device.memory().used == 16 * 1000 == optimizer.memory().device
    assert optimizer.memory() == (4000, 4000, 8000)
    assert optimizer.memory().host == 0
    optimizer(given)
    assert device.memory().used == 16 * 1000


def test_a_step_moves_nothing_over_the_link() -> None:
    optimizer, device = build(ao.Adam, [(20,)], weight_decay=0.1, loss_scale=8)
    given = gradients(optimizer, device, 0)
    before = device.traffic()
    optimizer(given)
    assert device.traffic() == before


# -- failure --------------------------------------------------------------------------------------


def test_moments_that_do_not_fit_are_named() -> None:
    device = ao.get_backend("numpy", memory_bytes=1000)
    w = ao.Parameter(device.asarray(np.ones(100, np.float32)), "w")
    with pytest.raises(ao.DeviceMemoryError) as caught:
        ao.Adam([w])
    assert caught.value.__notes__ == ["v of 100 parameters"]
    assert (caught.value.requested_bytes, caught.value.used_bytes) == (400, 800)


def optimizer_short_of_memory(*sizes: int) -> tuple[ao.Adam, ao.Backend, list[Any]]:
    """Return an optimizer on a device with 1,500 bytes left for temporaries, and gradients."""
    device = ao.get_backend("numpy", memory_bytes=16 * sum(sizes) + 1500)
    parameters = [
        ao.Parameter(device.asarray(np.ones(size, np.float32)), f"p{i}")
        for i, size in enumerate(sizes)
    ]
    optimizer = ao.Adam(parameters)
    return optimizer, device, gradients(optimizer, device, 0)


def test_temporaries_that_do_not_fit_change_nothing() -> None:
    optimizer, device, given = optimizer_short_of_memory(1000, 10)
    before = state(optimizer, device)
    for _ in range(2):  # and it can be tried again
        with pytest.raises(ao.DeviceMemoryError):
            optimizer(given)
        assert_bitwise(state(optimizer, device), before)
    assert optimizer.global_step == 0


def test_a_good_step_before_is_not_taken_for_half_a_bad_one() -> None:
    optimizer, device, given = optimizer_short_of_memory(50)
    optimizer(given)
    filler = device.asarray(np.zeros(300, np.float32))
    with pytest.raises(ao.DeviceMemoryError):
        optimizer(given)
    del filler
    optimizer(given)
    assert optimizer.global_step == 2


@pytest.mark.parametrize("bad", ["count", "host", "shape", "parameter"])
def test_bad_gradients_are_refused_and_nothing_changes(bad: str) -> None:
    optimizer, device = build(ao.Adam, [(2, 3), (5,)])
    first, second = gradients(optimizer, device, 0)
    choices: dict[str, tuple[list[Any], type[Exception]]] = {
        "count": ([first], ValueError),
        "host": ([first, device.asnumpy(second)], ao.ResidencyError),
        "shape": ([first.T, second], ValueError),
        "parameter": ([first, optimizer.parameters[1].data], ValueError),
    }
    before = state(optimizer, device)
    given, exception = choices[bad]
    with pytest.raises(exception, match=r"^Adam: "):
        optimizer(given)
    assert_bitwise(state(optimizer, device), before)


def test_a_table_that_runs_out_changes_nothing() -> None:
    optimizer, device = build(ao.Adam, [(3,)], learning_rate=[0.1])
    optimizer(gradients(optimizer, device, 0))
    before = state(optimizer, device)
    with pytest.raises(RuntimeError, match="Adam: the learning_rate table has 1 entries"):
        optimizer(gradients(optimizer, device, 1))
    assert_bitwise(state(optimizer, device), before)
    assert optimizer.global_step == 1
