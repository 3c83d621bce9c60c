"""`Optimizer`: submit, accumulate, freeze, rates on the fly, and what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import adamoffload as ao

DEVICE = ao.get_backend("numpy")


def make(*sizes: int, rule: ao.Rule | None = None, **options: Any) -> Any:
    rng = np.random.default_rng(1)
    parameters = [
        ao.Parameter(DEVICE.asarray(rng.standard_normal(n, np.float32)), f"p{i}")
        for i, n in enumerate(sizes)
    ]
    options.setdefault("strategy", "adam-offload")
    return ao.Optimizer(parameters, rule or ao.rules.Adam(learning_rate=0.1), **options)


def gradients(optimizer: Any, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    draws = [rng.standard_normal(p.shape, np.float32) for p in optimizer.parameters]
    return [optimizer.backend.asarray(draw) for draw in draws]


def bits(optimizer: Any) -> dict[Any, bytes]:
    bring, owns = optimizer.backend.asnumpy, optimizer.backend.owns
    arrays = optimizer.state.arrays()
    return {k: (bring(x) if owns(x) else x).tobytes() for k, x in arrays.items()}


# -- a parameter without a gradient ---------------------------------------------------------------


def test_what_has_no_gradient_is_left_alone_and_its_own_count_stands_still() -> None:
    optimizer, twin = make(4, 3), make(4, 3)
    first, second = gradients(optimizer, 0), gradients(optimizer, 1)
    assert optimizer([first[0], None]) == (True, False)
    before = bits(optimizer)
    assert optimizer.counters.missed == (0, 1)
    assert optimizer({"p1": second[1]}) == (False, True)
    # Its first update, in the second step, is that of another's first step.
    twin([None, second[1]])
    assert bits(optimizer)["parameter", "p1"] == bits(twin)["parameter", "p1"]
    assert bits(optimizer)["parameter", "p0"] == before["parameter", "p0"]


def test_a_call_without_any_gradient_is_no_step() -> None:
    optimizer = make(4, 3)
    before = bits(optimizer)
    assert optimizer([None, None]) == (False, False)
    assert optimizer({}) == (False, False)
    assert optimizer.global_step == 0
    assert bits(optimizer) == before


def test_a_frozen_parameter_is_left_alone_until_it_is_not() -> None:
    optimizer = make(4, 3)
    optimizer.freeze("p0")
    before = bits(optimizer)
    assert optimizer(gradients(optimizer, 0)) == (False, True)
    assert bits(optimizer)["m", "p0"] == before["m", "p0"]
    optimizer.unfreeze(optimizer.parameters[0])
    assert optimizer(gradients(optimizer, 1)) == (True, True)
    assert optimizer.counters.missed == (1, 0)


def test_no_byte_of_what_is_absent_moves() -> None:
    ledger = ao.Ledger()
    optimizer = make(100, 7, 50, ledger=ledger, chunk_bytes=64)
    given = gradients(optimizer, 0)
    optimizer([given[0], None, given[2]])
    assert ledger.bytes("d2h") == ledger.bytes("h2d") == 4 * 150
    assert {name for event in ledger.events for name, _ in event.parts} == {"p0", "p2"}


def test_an_endless_change_of_what_is_absent_keeps_few_plans() -> None:
    optimizer, twin = make(*[2] * 9, chunk_bytes=24), make(*[2] * 9)
    rng = np.random.default_rng(0)
    for seed in range(200):
        given = [g if rng.random() < 0.5 else None for g in gradients(optimizer, seed)]
        optimizer(given)
        twin(given)
    assert bits(optimizer) == bits(twin)


# -- frozen, missed and rates are kept ------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["resident", "adam-offload", "state-shuttle"])
def test_a_state_carries_what_was_changed_on_the_fly(strategy: str) -> None:
    optimizer = make(4, 3, 2)
    optimizer([*gradients(optimizer, 0)[:2], None])
    optimizer.freeze("p1")
    optimizer.set_learning_rate(0.5, "p0")
    optimizer(gradients(optimizer, 1))
    optimizer.set_constants("p0", beta1=0.5)
    optimizer.set_constants("p0", "p1", weight_decay=0.25)
    state = optimizer.state_dict()
    assert state["constants"] == {
        "p0": {"beta1": 0.5, "weight_decay": 0.25},
        "p1": {"weight_decay": 0.25},
    }
    assert state["missed"] == {"p1": 1, "p2": 1}
    assert state["frozen"] == ["p1"]
    assert state["learning_rates"] == {"p0": np.float32(0.5)}
    resumed = make(4, 3, 2, strategy=strategy)
    for p, q in zip(optimizer.parameters, resumed.parameters, strict=True):
        resumed.backend.h2d(optimizer.backend.asnumpy(p.data), q.data).wait()
    resumed.load_state_dict(state)
    for seed in (2, 3):
        assert optimizer(gradients(optimizer, seed)) == resumed(gradients(resumed, seed))
    optimizer.unfreeze("p1")
    resumed.unfreeze("p1")
    optimizer(gradients(optimizer, 4))
    resumed(gradients(resumed, 4))
    assert bits(optimizer) == bits(resumed)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"missed": {"p0": 2}}, ValueError, "missed of 'p0' is 2 .*, of 1 steps"),
        ({"missed": {"p0": -1}}, ValueError, "missed of 'p0'"),
        ({"missed": {"q": 1}}, ValueError, "missed has the unexpected 'q'"),
        ({"frozen": ["q"]}, ValueError, "frozen has the unexpected 'q'"),
        ({"frozen": "p0"}, TypeError, "frozen must be a list of names"),
        ({"learning_rates": {"p0": -1.0}}, ValueError, "learning_rates of 'p0' must be >= 0"),
        ({"constants": {"p0": 0.5}}, TypeError, "constants of 'p0' must be a dict of numbers"),
        ({"constants": {"p0": {"beta3": 0.5}}}, ValueError, "constants has the unexpected 'beta3'"),
        ({"constants": {"p0": {"beta1": 1.5}}}, ValueError, "beta1 must be"),
        ({"slots": {}}, ValueError, "slots lacks 'm', 'v'"),
        ({"global_step": 2**63}, ValueError, "below 2\\*\\*63"),
        ({"extra": 1}, ValueError, "unexpected 'extra'"),
    ],
)
def test_a_wrong_state_is_refused_and_nothing_changes(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    optimizer = make(4, 3)
    optimizer(gradients(optimizer, 0))
    before = bits(optimizer), optimizer.counters
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(optimizer.state_dict() | changed)
    assert (bits(optimizer), optimizer.counters) == before


def test_a_state_of_another_rule_is_refused() -> None:
    class Other(ao.rules.Adam):
        pass

    optimizer = make(4)
    with pytest.raises(ValueError, match="rule: Adam in the state, Other here"):
        make(4, rule=Other()).load_state_dict(optimizer.state_dict())


def test_a_rate_of_a_parameter_replaces_its_groups() -> None:
    optimizer = make(3, 3)
    optimizer.set_learning_rate(0.0, "p1")
    before = bits(optimizer)
    optimizer(gradients(optimizer, 0))
    assert bits(optimizer)["parameter", "p1"] == before["parameter", "p1"]
    assert bits(optimizer)["parameter", "p0"] != before["parameter", "p0"]
    assert optimizer.rule.learning_rate == 0.1  # a rate set on an optimizer never gets there


def test_a_rate_that_would_change_nothing_is_refused() -> None:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(2, np.float32)), "w")
    optimizer = ao.Optimizer([{"params": [w], "lr": 0.1}], ao.rules.Adam())
    with pytest.raises(ValueError, match="every group has a learning rate of its own"):
        optimizer.learning_rate = 0.5
    optimizer.set_learning_rate(0.5, w)


# -- submit and accumulate ------------------------------------------------------------------------


def test_submitted_gradients_make_the_same_step() -> None:
    optimizer, twin = make(4, 3, 5), make(4, 3, 5)
    given = gradients(optimizer, 0)
    twin([given[0], None, given[2]])
    optimizer.submit(optimizer.parameters[2], given[2])
    optimizer.submit("p0", given[0])
    assert optimizer.step() == (True, False, True)
    assert bits(optimizer) == bits(twin)


def test_micro_steps_add_up_from_left_to_right() -> None:
    optimizer, twin = make(50, accumulate=3), make(50)
    given = [gradients(optimizer, seed)[0] for seed in range(6)]
    for start in (0, 3):
        before = bits(optimizer)
        assert optimizer([given[start]]) == (False,)
        assert optimizer([given[start + 1]]) == (False,)
        assert bits(optimizer) == before
        assert optimizer([given[start + 2]]) == (True,)
        twin([(given[start] + given[start + 1]) + given[start + 2]])
        assert bits(optimizer) == bits(twin)
    assert optimizer.global_step == 2


def test_a_gradient_may_be_overwritten_between_micro_steps() -> None:
    optimizer, twin = make(5, accumulate=2), make(5)
    (g,) = gradients(optimizer, 0)
    expected = g + g * 2
    optimizer([g])
    np.multiply(g, 2, out=g)
    optimizer([g])
    twin([expected])
    assert bits(optimizer) == bits(twin)


def test_a_step_that_raises_when_it_is_complete_begins_with_its_first_micro_step_again() -> None:
    optimizer, twin = make(5, accumulate=2, on_nonfinite="raise"), make(5)
    a, b = gradients(optimizer, 0)[0], gradients(optimizer, 1)[0]
    optimizer([a])
    with pytest.raises(FloatingPointError):
        optimizer([b * np.float32(np.nan)])
    assert optimizer([a]) == (False,)
    assert optimizer([b]) == (True,)
    twin([a + b])
    assert bits(optimizer) == bits(twin)


def test_flush_takes_a_short_last_step() -> None:
    optimizer, twin = make(5, accumulate=3), make(5)
    a, b = gradients(optimizer, 0)[0], gradients(optimizer, 1)[0]
    assert optimizer.flush() == (False,)
    optimizer([a])
    optimizer([b])
    with pytest.raises(RuntimeError, match=r"not complete \(2 of 3 micro-steps\); flush"):
        optimizer.state_dict()
    assert optimizer.flush() == (True,)
    twin([a + b])
    assert bits(optimizer) == bits(twin)
    optimizer.state_dict()


def test_what_is_wrong_with_a_submission_is_said() -> None:
    optimizer = make(4, 3)
    first, second = gradients(optimizer, 0)
    with pytest.raises(RuntimeError, match="no gradient was submitted"):
        optimizer.step()
    optimizer.submit("p0", first)
    with pytest.raises(ValueError, match="'p0' was submitted already"):
        optimizer.submit("p0", first)
    with pytest.raises(RuntimeError, match="gradients were submitted"):
        optimizer([first, second])
    with pytest.raises(ValueError, match="shape"):
        optimizer.submit("p1", first)
    with pytest.raises(ao.ResidencyError, match="on the host"):
        optimizer.submit("p1", np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"'p2' .*is no parameter"):
        optimizer.submit("p2", first)
    with pytest.raises(ValueError, match="is no parameter"):
        optimizer.submit(make(4).parameters[0], first)
    optimizer.submit("p1", second)
    assert optimizer.step() == (True, True)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strategy": "zero-ofload"}, ValueError, "near 'zero-offload'"),
        ({"strategy": 3}, TypeError, "strategy must be a name"),
        ({"strategy": ao.Strategy(master="device")}, ValueError, "same numbers twice"),
        ({"rule": "adam"}, TypeError, "rule must be an adamoffload.Rule"),
        ({"rule": ao.rules.Adam}, TypeError, "call it"),
        ({"accumulate": 0}, ValueError, "accumulate"),
        ({"slots": 0}, ValueError, "slots"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        make(3, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_can_be_neither_copied_nor_pickled(how: Any) -> None:
    with pytest.raises(TypeError, match=r"state_dict\(\), or with adamoffload.save"):
        how(make(3))


@pytest.mark.parametrize("name", ["parameters", "ledger", "state", "strategy", "learningrate"])
def test_nothing_can_be_assigned_without_effect(name: str) -> None:
    optimizer = make(3)
    with pytest.raises(AttributeError):
        setattr(optimizer, name, None)
    near = name == "learningrate"
    if near:
        with pytest.raises(AttributeError, match="near 'learning_rate'"):
            optimizer.learningrate = 0.5


# -- constants on the fly -------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["resident", "adam-offload", "zero-offload"])
def test_constants_that_were_assigned_compute_what_constructed_ones_do(strategy: str) -> None:
    rule = ao.rules.AdamW(learning_rate=0.1)
    told = make(40, 3, rule=rule, strategy=strategy)
    told.set_constants(beta1=0.7, eps=1e-3, weight_decay=0.5)
    other = ao.rules.AdamW(learning_rate=0.1, beta1=0.7, eps=1e-3, weight_decay=0.5)
    built = make(40, 3, rule=other, strategy=strategy)
    for seed in range(3):
        told(gradients(told, seed))
        built(gradients(built, seed))
    assert bits(told) == bits(built)


@pytest.mark.parametrize(
    ("rule", "constants", "error", "message"),
    [
        (ao.rules.AdamW(), {"beta3": 0.5}, ValueError, "constants has the unexpected 'beta3'"),
        (ao.rules.AdamW(), {"beta1": 1.0}, ValueError, "beta1 must be"),
        (ao.rules.AdamW(), {"weight_decay": -1.0}, ValueError, "weight_decay must be >= 0"),
        (ao.rules.AdamW(), {"learning_rate": 1.0}, ValueError, "the unexpected 'learning_rate'"),
        (ao.rules.Adam(), {"nesterov": 1.0}, ValueError, "the unexpected 'nesterov'"),
        (ao.rules.SGD(0.1, momentum=0.9), {"momentum": 0.0}, ValueError, "other slots"),
    ],
)
def test_a_constant_that_the_rule_does_not_take_is_refused(
    rule: ao.Rule, constants: dict[str, Any], error: type[Exception], message: str
) -> None:
    optimizer = make(4, rule=rule)
    with pytest.raises(error, match=message):
        optimizer.set_constants("p0", **constants)
    assert not optimizer.counters.constants
