"""`state_dict` and `load_state_dict`: complete, checked before anything changes, never aliased."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.device.backend import HostArray, Ticket
from adamoffload_numpy import NumpyBackend

KINDS = [ao.AdamOffload, ao.Adam]


def build(kind: Any = ao.AdamOffload, device: Any = None, **arguments: Any) -> Any:
    device = device or ao.get_backend("numpy")
    rng = np.random.default_rng(0)
    shapes = {"fc.weight": (2, 3), "fc.bias": (3,), "scale": ()}
    parameters = [
        ao.Parameter(device.asarray(rng.standard_normal(shape, np.float32)), name)
        for name, shape in shapes.items()
    ]
    return kind(parameters, **arguments)


def train(optimizer: Any, steps: int = 3, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    device = optimizer.parameters[0].backend
    for _ in range(steps):
        gradients = [rng.standard_normal(p.shape, np.float32) for p in optimizer.parameters]
        optimizer([device.asarray(gradient) for gradient in gradients])
    return optimizer


def snapshot(optimizer: Any) -> list[Any]:
    device = optimizer.parameters[0].backend
    arrays = [p.data for p in optimizer.parameters]
    arrays += [*optimizer.moment1.values(), *optimizer.moment2.values()]
    host = [device.asnumpy(x) if device.owns(x) else x for x in arrays]
    powers = optimizer.beta1_power, optimizer.beta2_power
    return [*(x.tobytes() for x in host), *powers, optimizer.global_step, optimizer.get_lr()]


def changed(state: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy of a state in which one entry is another, or with `...` none."""
    state = {k: dict(v) if isinstance(v, dict) else v for k, v in state.items()}
    *parents, last = path.split("/")
    place = state
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return state


# -- what it holds ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_a_state_goes_from_any_optimizer_into_any_bitwise(kind: Any, other: Any) -> None:
    first, second = train(build(kind)), build(other)
    for mine, theirs in zip(second.parameters, first.parameters, strict=True):
        mine.backend.h2d(theirs.backend.asnumpy(theirs.data), mine.data).wait()
    second.load_state_dict(first.state_dict())
    assert snapshot(second) == snapshot(first)
    assert snapshot(train(second, seed=2)) == snapshot(train(first, seed=2))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_shared_in_either_direction(kind: Any) -> None:
    optimizer = train(build(kind))
    state = optimizer.state_dict()
    before = snapshot(optimizer)
    for moments in (state["moment1"], state["moment2"]):
        for array in moments.values():
            array[...] = 7
    assert snapshot(optimizer) == before
    optimizer.load_state_dict(state)
    state["moment1"]["scale"][...] = 8
    assert optimizer.state_dict()["moment1"]["scale"] == 7


def test_views_of_moments_can_be_exchanged() -> None:
    optimizer = train(build())
    state = optimizer.state_dict()
    swapped = {**optimizer.moment1, "fc.bias": optimizer.moment1["fc.weight"][0]}
    swapped["fc.weight"] = np.stack([optimizer.moment1["fc.bias"]] * 2)
    optimizer.load_state_dict({**state, "moment1": swapped})
    np.testing.assert_array_equal(optimizer.moment1["fc.bias"], state["moment1"]["fc.weight"][0])
    np.testing.assert_array_equal(optimizer.moment1["fc.weight"][1], state["moment1"]["fc.bias"])


def test_hyper_parameters_are_plain_data() -> None:
    def decay(step: int) -> float:
        return 0.1

    first, second, third = build().parameters
    optimizer = ao.AdamOffload(
        [
            {"params": [first], "lr": ao.WarmUpLR(0.5, 3), "weight_decay": decay},
            {"params": [second, third], "lr": [0.5, 0.25], "grad_centralization": True},
        ],
        loss_scale=2,
    )
    assert str(optimizer.state_dict()["hyperparameters"]) == str(
        {
            "rule": "Adam",
            "constants": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-08, "nesterov": False},
            "loss_scale": 2.0,
            "learning_rate": np.float32(1e-3),
            "groups": [
                {
                    "params": ["fc.weight"],
                    "lr": {
                        "callable": "WarmUpLR",
                        "arguments": {"learning_rate": 0.5, "warmup_steps": 3},
                    },
                    "weight_decay": {
                        "callable": "test_hyper_parameters_are_plain_data.<locals>.decay"
                    },
                    "grad_centralization": False,
                },
                {
                    "params": ["fc.bias", "scale"],
                    "lr": np.array([0.5, 0.25], np.float32),
                    "weight_decay": np.float32(0),
                    "grad_centralization": True,
                },
            ],
        }
    )


# -- what is refused --------------------------------------------------------------------------

SIGNALLING = np.array([0xFF000000, 0x7F800001, 0x7F800001], np.uint32).view(np.float32)
BAD: dict[str, tuple[str, Any, type[Exception], str]] = {
    "no moments": ("moment1", ..., ValueError, "lacks 'moment1'"),
    "an unknown entry": ("moment3", {}, ValueError, "unexpected 'moment3'"),
    "a missing name": ("moment1/fc.bias", ..., ValueError, "moment1 lacks 'fc.bias'"),
    "an unexpected name": ("moment2/x", np.zeros(1), TypeError, "float32"),
    "moments in a list": ("moment1", [], TypeError, "must map names to arrays"),
    "a list": ("moment1/scale", [1.0], TypeError, "host ndarray"),
    "another shape": ("moment1/scale", np.zeros(1, np.float32), ValueError, r"shape \(\), got"),
    "another dtype": ("moment1/scale", np.zeros(()), TypeError, "float32, .*, got <f8"),
    "another byte order": ("moment1/scale", np.zeros((), ">f4"), TypeError, "float32, .*, got >f4"),
    "a negative moment2": (
        *("moment2/fc.bias", np.array([np.nan, -1e-40, 1], np.float32), ValueError),
        "moment2 of 'fc.bias' is negative",
    ),
    "a negative moment2 beside a signalling NaN": (
        *("moment2/fc.bias", SIGNALLING, ValueError, "moment2 of 'fc.bias' is negative"),
    ),
    "a fractional step": ("global_step", 3.0, TypeError, "integer"),
    "a bool for a step": ("global_step", True, TypeError, "integer"),
    "a negative step": ("global_step", -1, ValueError, "at least 0"),
    "an endless step": ("global_step", 10**5000, ValueError, r"below 2\*\*63"),
    "a power of NaN": ("beta1_power", np.nan, ValueError, "finite"),
    "a power above 1": ("beta2_power", np.float32(1.5), ValueError, r"in \[0, 1\]"),
    "a power of 1 after steps": ("beta2_power", np.float32(1), ValueError, "at step 0 only"),
    "a power before any step": ("global_step", 0, ValueError, "at step 0 only"),
    "another run's power": ("beta1_power", np.float32(0.5), ValueError, r"0.729 is beta1\*\*3"),
    "text": ("beta1_power", "0.5", TypeError, "real number"),
    "no rate": ("learning_rate", None, ValueError, "learning_rate must be a number"),
    "a negative rate": ("learning_rate", -1.0, ValueError, ">= 0"),
    "groups of others": (
        *("hyperparameters/groups", [], ValueError),
        "groups of hyperparameters lacks 'fc.weight', 'fc.bias', 'scale'",
    ),
    "a beta of a list": ("hyperparameters/constants/beta1", [], TypeError, "beta1 must be a real"),
    "another rule": ("hyperparameters/rule", "Lion", ValueError, "rule: Lion in the state, Adam"),
    "a rule that is no name": ("hyperparameters/rule", 1, TypeError, "rule must be a name"),
    "no groups": ("hyperparameters/groups", ..., ValueError, "lacks 'groups'"),
    "hyper-parameters of a list": ("hyperparameters", [], TypeError, "must be a dict"),
    "a rate of a set": ("hyperparameters/learning_rate", {1}, TypeError, "real number"),
    "a table of text": ("hyperparameters/learning_rate", ["x"], TypeError, "table of floats"),
    "a table of NaN": ("hyperparameters/learning_rate", [np.nan], TypeError, "table|finite"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_refused_and_nothing_has_changed(kind: Any, case: str) -> None:
    path, value, error, message = BAD[case]
    optimizer = train(build(kind))
    state = changed(train(build(), seed=9).state_dict(), path, value)
    before = snapshot(optimizer)
    for strict in (True, False) if case not in ("another run's power", "another rule") else (True,):
        with pytest.raises((error, ValueError), match=message):
            optimizer.load_state_dict(state, strict=strict)
        assert snapshot(optimizer) == before
    train(optimizer)  # and it goes on


def test_a_state_of_a_device_is_refused_by_its_place() -> None:
    device = ao.get_backend("numpy")
    optimizer = build(device=device)
    state = optimizer.state_dict()
    state["moment1"]["scale"] = device.asarray(state["moment1"]["scale"])
    with pytest.raises(ao.ResidencyError, match="host ndarray"):
        optimizer.load_state_dict(state)
    with pytest.raises(TypeError, match="the state must be a dict, got"):
        optimizer.load_state_dict([])
    with pytest.raises(TypeError, match="strict must be True or False"):
        optimizer.load_state_dict(state, strict=1)


def test_a_misspelt_name_comes_with_the_nearest() -> None:
    optimizer = build()
    state = optimizer.state_dict()
    state["moment1"]["fc.wieght"] = state["moment1"].pop("fc.weight")
    with pytest.raises(ValueError, match=r"lacks 'fc.weight' \(there is 'fc.wieght'\)"):
        optimizer.load_state_dict(state)


def test_a_name_of_another_kind_comes_with_the_one_that_is_there() -> None:
    device = ao.get_backend("numpy")
    one, other = (
        ao.AdamOffload([ao.Parameter(device.asarray(np.ones(2, np.float32)), name)])
        for name in ("w", "embedding")
    )
    with pytest.raises(ValueError, match="lacks 'embedding' and has the unexpected 'w'"):
        other.load_state_dict(one.state_dict())


def test_nan_and_infinite_moments_return() -> None:
    optimizer, other = build(), build()
    device = optimizer.parameters[0].backend
    odd = [
        np.full(p.shape, x, np.float32)
        for p, x in zip(optimizer.parameters, (np.nan, np.inf, -1e30), strict=True)
    ]
    optimizer([device.asarray(gradient) for gradient in odd])
    assert not np.all(np.isfinite(optimizer.moment2["fc.weight"]))
    other.load_state_dict(optimizer.state_dict())
    assert snapshot(other)[3:] == snapshot(optimizer)[3:]


# -- hyper-parameters that differ -------------------------------------------------------------

DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "beta1": ({"beta1": 0.5}, "beta1: 0.9 in the state, 0.5 here"),
    "eps": ({"eps": 1e-6}, "eps: 1e-08 in the state, 1e-06 here"),
    "nesterov": ({"use_nesterov": True}, "nesterov: False in the state, True here"),
    "scale": ({"loss_scale": 8}, "loss_scale: 1.0 in the state, 8.0 here"),
    "rate": ({"learning_rate": 0.5}, "learning_rate: 0.001 in the state, 0.5 here"),
    "table": (
        {"learning_rate": [0.5] * 6},
        r"learning_rate: 0.001 in the state, a table of 6 entries \(0.5, 0.5, 0.5, 0.5, ...\) here",
    ),
    "schedule": (
        {"learning_rate": ao.WarmUpLR(0.5, 3)},
        r"WarmUpLR\(learning_rate=0.5, warmup_steps=3\) here",
    ),
    "decay": (
        {"weight_decay": 0.1},
        "weight_decay of 'fc.weight', 'fc.bias', 'scale': 0.0 in the state, 0.1 here",
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_other_hyper_parameters_are_listed_and_refused_or_kept(case: str) -> None:
    arguments, message = DIFFERENT[case]
    state = train(build()).state_dict()
    optimizer = build(**arguments)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert snapshot(optimizer) == before
    own = optimizer.state_dict()["hyperparameters"]
    with pytest.warns(UserWarning, match=message) as warned:
        optimizer.load_state_dict(state, strict=False)
    assert warned[0].filename == __file__
    assert str(optimizer.state_dict()["hyperparameters"]) == str(own)
    assert optimizer.global_step == 3
    if "rate" in case:
        assert optimizer.learning_rate == np.float32(0.5)


def test_every_difference_is_listed() -> None:
    with pytest.raises(ValueError) as caught:
        build(beta1=0.5, eps=1e-3, weight_decay=1.0).load_state_dict(build().state_dict())
    assert all(word in str(caught.value) for word in ("beta1: ", "eps: ", "weight_decay of "))
    assert "strict=False" in str(caught.value)


def test_same_callables_by_name_are_the_same() -> None:
    def make() -> Any:
        return build(learning_rate=ao.CosineDecayLR(0.0, 1.0, 9), weight_decay=lambda step: 0.5)

    first = train(make())
    second = make()
    second.load_state_dict(first.state_dict())
    assert second.global_step == 3
    other = build(learning_rate=ao.CosineDecayLR(0.0, 1.0, 8), weight_decay=lambda step: 0.5)
    with pytest.raises(ValueError, match=r"decay_steps=9.* in the state, .*decay_steps=8"):
        other.load_state_dict(first.state_dict())


class Halving:
    """Halves the rate whenever it is told to: a schedule with a state of its own."""

    def __init__(self, rate: float = 0.5) -> None:
        self.rate, self.best, self.losses = rate, float("inf"), [1.0]

    def __call__(self, _: int) -> float:
        return self.rate

    def halve(self) -> None:
        self.rate /= 2

    def decay(self, step: int) -> float:
        return self(step)


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay"])
@pytest.mark.parametrize("method", ["__call__", "decay"])
def test_a_schedule_that_has_a_state_is_reported(name: str, method: str, tmp_path: Path) -> None:
    def make(rate: float = 0.5) -> tuple[Halving, Any]:
        schedule = Halving(rate)
        return schedule, build(**{name: schedule if method == "__call__" else schedule.decay})

    schedule, first = make()
    first.state_dict()  # nothing has changed: no warning
    schedule.halve()
    said = rf"the state of {name} .*rate was 0.5, is 0.25\) is not saved; keep it yourself"
    with pytest.warns(UserWarning, match=f"state_dict: {said}") as warned:
        state = first.state_dict()
    with pytest.warns(UserWarning, match=f"save: {said}") as more:
        ao.save(tmp_path / "x", first)
    assert {warned[0].filename, more[0].filename} == {__file__}
    _, anew = make()
    with pytest.raises(ValueError, match=rf"{name}.*rate=0.25\) in the state, .*rate=0.5\) here"):
        anew.load_state_dict(state)
    with pytest.raises(ValueError, match=name):
        ao.load(tmp_path / "x", anew)
    _, resumed = make(0.25)
    resumed.load_state_dict(state)
    ao.load(tmp_path / "x", resumed)


def test_the_state_of_0_1_that_knew_no_numbers_of_an_object_loads() -> None:
    own = build(learning_rate=Halving())
    state = own.state_dict()
    del state["hyperparameters"]["learning_rate"]["arguments"]
    own.load_state_dict(state)


# -- the rate that was assigned ---------------------------------------------------------------


@pytest.mark.parametrize("constructed", [0.5, 0.25])
def test_an_assigned_rate_returns(constructed: float) -> None:
    first = train(build(learning_rate=0.5))
    first.learning_rate = 0.25
    second = build(learning_rate=constructed)  # as the run began, or as it went on
    second.load_state_dict(first.state_dict())
    assert second.learning_rate == np.float32(0.25)
    third = build(learning_rate=constructed)
    third.load_state_dict(second.state_dict())
    assert third.learning_rate == np.float32(0.25)


def test_a_third_rate_is_a_difference_and_can_be_assigned_after_loading() -> None:
    first = train(build(learning_rate=0.5))
    first.learning_rate = 0.25
    second = build(learning_rate=0.125)
    with pytest.raises(ValueError, match="learning_rate can also be assigned after loading"):
        second.load_state_dict(first.state_dict())
    third = build(learning_rate=0.5)
    third.load_state_dict(first.state_dict())
    third.learning_rate = 0.125
    assert third.get_lr() == np.float32(0.125)


# -- the powers -------------------------------------------------------------------------------


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9999), (1e-30, 0.99999994)])
def test_the_powers_of_a_long_run_are_those_of_its_betas(betas: tuple[float, float]) -> None:
    optimizer = build(beta1=betas[0], beta2=betas[1])
    state = optimizer.state_dict()
    powers = [np.float32(1)] * 2
    for step in range(1, 3001):
        powers = [p * np.float32(beta) for p, beta in zip(powers, betas, strict=True)]
        if step in (1, 2, 100, 1000, 3000):
            state |= {"global_step": step, "beta1_power": powers[0], "beta2_power": powers[1]}
            optimizer.load_state_dict(state)


def test_a_run_whose_beta_changed_loads_with_a_warning_that_says_so() -> None:
    first = train(build())
    second = build(beta1=0.5)
    with pytest.warns(UserWarning, match="beta1: 0.9"):
        second.load_state_dict(first.state_dict(), strict=False)
    assert second.beta1_power == np.float32(0.125)  # of the beta that is here
    third = build(beta1=0.5)
    third.load_state_dict(second.state_dict())
    assert snapshot(third)[3:] == snapshot(second)[3:]


# -- failures ---------------------------------------------------------------------------------


class Failing(ao.Backend):
    """The numpy backend with a link that fails at a chosen copy to the device."""

    name = "failing"

    def __init__(self) -> None:
        super().__init__()
        self.real = NumpyBackend()
        self.fails: set[int] = set()
        self.copies = 0

    def owns(self, array: object) -> bool:
        return "real" in vars(self) and self.real.owns(array)

    def memory(self) -> ao.Memory:
        return self.real.memory()

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return self.real._empty(shape, dtype)

    def _address(self, array: Any) -> int:
        return self.real._address(array)

    def _d2h(self, source: Any, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return self.real._d2h(source, target, after)

    def _h2d(self, source: HostArray, target: Any, after: tuple[Ticket, ...]) -> Ticket:
        self.copies += 1
        if self.copies in self.fails:
            raise OSError("the link is down")
        return self.real._h2d(source, target, after)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    device = Failing()
    alone = {id(device): weakref.ref(device)}  # `real` is not asked
    monkeypatch.setattr("adamoffload.device.backend._live", alone)
    return device


@pytest.mark.parametrize("at", range(1, 7))
def test_a_copy_that_fails_is_undone(failing: Failing, at: int) -> None:
    optimizer = train(build(ao.Adam, failing))
    before = snapshot(optimizer)
    state = train(build(ao.Adam, failing), seed=5).state_dict()
    failing.copies, failing.fails = 0, {at}
    with pytest.raises(OSError, match="the link is down"):
        optimizer.load_state_dict(state)
    assert snapshot(optimizer) == before
    optimizer.load_state_dict(state)
    train(optimizer)


def test_when_undoing_fails_too_the_optimizer_refuses_until_a_state_is_loaded(
    failing: Failing,
) -> None:
    optimizer = train(build(ao.Adam, failing))
    state = train(build(ao.Adam, failing), seed=5).state_dict()
    failing.copies, failing.fails = 0, {3, 4}
    with pytest.raises(OSError, match="the link is down"):
        optimizer.load_state_dict(state)
    names = "m of 'fc.weight', m of 'fc.bias', m of 'scale'"
    with pytest.raises(RuntimeError, match=f"half-way .*link is down.*, when {names} had been"):
        train(optimizer)
    with pytest.raises(RuntimeError, match="half-way"):
        optimizer.state_dict()
    optimizer.load_state_dict(state)
    train(optimizer)


def test_loading_needs_no_memory_on_the_device() -> None:
    weights = 40
    device = ao.get_backend("numpy", memory_bytes=12 * weights)
    w = ao.Parameter(device.asarray(np.ones(weights, np.float32)), "w")
    optimizer = ao.Adam([w])
    assert device.memory().used == 12 * weights
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_that_cross_the_link_are_counted(kind: Any) -> None:
    device = ao.get_backend("numpy")
    optimizer = train(build(kind, device))
    before = device.traffic()
    state = optimizer.state_dict()
    down = device.traffic().d2h - before.d2h
    optimizer.load_state_dict(state)
    up = device.traffic().h2d - before.h2d
    moments = 2 * 4 * 10
    assert (down, up) == ((0, 0) if kind is ao.AdamOffload else (moments, moments))
