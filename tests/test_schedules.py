"""Schedules against the recorded reference, and what must hold beyond the recordings."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamoffload import schedules
from adamoffload.schedules import (
    CosineDecayLR,
    ExponentialDecayLR,
    InverseDecayLR,
    LearningRateSchedule,
    NaturalExpDecayLR,
    PolynomialDecayLR,
    WarmUpLR,
    cosine_decay_lr,
    exponential_decay_lr,
    inverse_decay_lr,
    natural_exp_decay_lr,
    piecewise_constant_lr,
    polynomial_decay_lr,
    warmup_lr,
)

from differences import SCHEDULES
from reference import ORACLE

OBJECTS = json.loads((ORACLE / "schedules.json").read_text())["rows"]
LISTS = json.loads((ORACLE / "dynamic_lr.json").read_text())["rows"]
ERRORS = json.loads((ORACLE / "errors.json").read_text())["schedules"]
TOLERANCE = json.loads((ORACLE / "tolerance.json").read_text())["lr_over_max_abs_lr"] * 2.0**-23

ROWS = {(row["target"], row["varied"], row["kwargs"].get(row["varied"])): row for row in ERRORS}
EXAMPLES: list[LearningRateSchedule] = [
    ExponentialDecayLR(0.1, 0.9, 4),
    ExponentialDecayLR(0.1, 0.9, 4, is_stair=True),
    NaturalExpDecayLR(0.1, 0.9, 4, is_stair=True),
    InverseDecayLR(0.1, 0.9, 4),
    InverseDecayLR(0.1, 0.9, 4, is_stair=True),
    CosineDecayLR(0.01, 0.1, 4),
    PolynomialDecayLR(0.1, 0.01, 4, 0.5),
    PolynomialDecayLR(0.1, 0.01, 4, 0.5, update_decay_steps=True),
    WarmUpLR(0.1, 4),
]
each_example = pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
rates = st.floats(1e-6, 10.0)
counts = st.integers(1, 50)


def written(row: Any) -> str:
    """Return a row of errors.json as the call that it records."""
    return f"{row['target']}({', '.join(f'{k}={v}' for k, v in row['kwargs'].items())})"


def call(row: Any) -> Any:
    """Make the call of a row of errors.json."""
    names = {"np": np, "nan": math.nan, "inf": math.inf}
    kwargs = {key: eval(value, names) for key, value in row["kwargs"].items()}
    return getattr(schedules, row["target"])(**kwargs)


@pytest.mark.parametrize("row", OBJECTS, ids=lambda row: f"{row['cls']}-{row['args']}")
def test_a_schedule_equals_its_recording(row: Any) -> None:
    schedule = getattr(schedules, row["cls"])(**row["args"])
    expected = np.array(row["float32_values"])
    ours = np.array([schedule(step) for step in range(row["steps"])])
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("row", LISTS, ids=lambda row: f"{row['func']}-{row['args']}")
def test_a_list_equals_its_recording_exactly(row: Any) -> None:
    ours = getattr(schedules, row["func"])(**row["args"])
    assert ours == row["values"]
    assert type(ours) is list
    assert {type(rate) for rate in ours} == {float}


@pytest.mark.parametrize("row", ERRORS, ids=written)
def test_bad_arguments_raise_what_the_reference_raises(row: Any) -> None:
    key = (row["target"], row["varied"], row["kwargs"].get(row["varied"]))
    if row["exception"] is None or key in SCHEDULES:
        call(row)
        return
    with pytest.raises(Exception, match=row["target"]) as caught:
        call(row)
    assert type(caught.value).__name__ == row["exception"]


@pytest.mark.parametrize("key", SCHEDULES, ids="-".join)
def test_a_deliberate_difference_differs_and_means_the_integer(key: tuple[str, str, str]) -> None:
    row = ROWS[key]
    assert row["exception"] is not None
    plain = {**row, "kwargs": {**row["kwargs"], key[1]: "3"}}
    assert repr(call(row)) == repr(call(plain))


def evaluated(target: str, a: Any, epoch: int) -> float:
    """Evaluate a list function's formula as plain arithmetic, in the reference's order."""
    d = a.get("decay_epoch", a.get("warmup_epoch"))
    t = min(epoch, d)
    if target == "cosine_decay_lr":
        delta = 0.5 * (a["max_lr"] - a["min_lr"])
        return float(a["min_lr"] + delta * (1 + math.cos(math.pi * t / d)))
    lr = a["learning_rate"]
    if target == "warmup_lr":
        return float(lr * t / d)
    if target == "polynomial_decay_lr":
        if a["update_decay_epoch"]:
            t, d = epoch, d * max(math.ceil(epoch / d), 1)
        end = a["end_learning_rate"]
        return float((lr - end) * (1 - t / d) ** a["power"] + end)
    r, stair = a["decay_rate"], math.floor(epoch / d)
    if target == "exponential_decay_lr":
        return float(lr * r ** (stair if a["is_stair"] else epoch / d))
    if target == "natural_exp_decay_lr":
        return float(lr * math.e ** (-r * (stair * d if a["is_stair"] else epoch)))
    return float(lr / (1 + r * stair) if a["is_stair"] else lr / (1 + r * epoch / d))


DECAY = {
    "learning_rate": rates,
    "decay_rate": rates,
    "decay_epoch": counts,
    "is_stair": st.booleans(),
}
LIST_ARGUMENTS: dict[Any, dict[str, st.SearchStrategy[Any]]] = {
    exponential_decay_lr: DECAY,
    natural_exp_decay_lr: DECAY,
    inverse_decay_lr: DECAY,
    cosine_decay_lr: {
        "min_lr": st.floats(0.0, 0.1),
        "max_lr": st.floats(0.2, 1.0),
        "decay_epoch": counts,
    },
    polynomial_decay_lr: {
        "learning_rate": rates,
        "end_learning_rate": rates,
        "decay_epoch": counts,
        "power": st.floats(0.1, 4.0),
        "update_decay_epoch": st.booleans(),
    },
    warmup_lr: {"learning_rate": rates, "warmup_epoch": counts},
}


@pytest.mark.parametrize("function", LIST_ARGUMENTS, ids=lambda function: function.__name__)
@settings(deadline=None, derandomize=True)
@given(data=st.data(), total=st.integers(1, 60), per_epoch=st.integers(1, 7))
def test_a_list_keeps_the_order_of_operations(
    function: Any, data: st.DataObject, total: int, per_epoch: int
) -> None:
    a = data.draw(st.fixed_dictionaries(LIST_ARGUMENTS[function]))
    ours = function(total_step=total, step_per_epoch=per_epoch, **a)
    assert ours == [evaluated(function.__name__, a, i // per_epoch) for i in range(total)]


@each_example
@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_a_step_may_be_a_numpy_integer(schedule: Any, kind: Any) -> None:
    # int8 and uint8 would overflow, or wrap, if the formula computed with them.
    for step in (0, 3, 4, 100):
        rate = schedule(kind(step))
        assert rate == schedule(step)
        assert type(rate) is float


@each_example
@pytest.mark.parametrize("step", [1.0, np.float32(1), True, None, "1", np.array([1])])
def test_a_step_that_is_no_integer_raises(schedule: Any, step: Any) -> None:
    with pytest.raises(TypeError, match=rf"{type(schedule).__name__}: step"):
        schedule(step)


@each_example
@pytest.mark.parametrize("step", [-1, np.int64(-1)])
def test_a_negative_step_raises(schedule: Any, step: Any) -> None:
    with pytest.raises(ValueError, match=rf"{type(schedule).__name__}: step"):
        schedule(step)


@pytest.mark.parametrize("step", [4, 5, 1000, 10**12])
def test_a_schedule_with_an_end_stays_there(step: int) -> None:
    assert CosineDecayLR(0.01, 0.1, 4)(step) == 0.01
    assert PolynomialDecayLR(0.1, 0.01, 4, 0.5)(step) == 0.01
    assert WarmUpLR(0.1, 4)(step) == 0.1


def test_a_polynomial_that_starts_again_reaches_its_end_at_every_multiple() -> None:
    schedule = PolynomialDecayLR(0.1, 0.01, 4, 2.0, update_decay_steps=True)
    assert {schedule(step) for step in (4, 8, 400, 4 * 10**12)} == {0.01}
    assert schedule(5) == pytest.approx(0.09 * (3 / 8) ** 2 + 0.01)  # approx: another order


@each_example
def test_a_schedule_is_a_value(schedule: Any) -> None:
    rebuilt = eval(repr(schedule), vars(schedules))
    assert rebuilt == schedule == copy.deepcopy(schedule) == pickle.loads(pickle.dumps(schedule))
    assert hash(rebuilt) == hash(schedule)
    with pytest.raises(AttributeError):
        setattr(schedule, fields(schedule)[0].name, 1.0)


def test_arguments_are_kept_as_plain_python_numbers() -> None:
    numbers: Any = (np.float32(0.5), np.float64(0.9), np.uint8(200))
    assert repr(ExponentialDecayLR(*numbers)) == (
        "ExponentialDecayLR(learning_rate=0.5, decay_rate=0.9, decay_steps=200, is_stair=False)"
    )
    listed = piecewise_constant_lr(np.array([1, 3]), np.array([0.5, 0.25], np.float32))
    assert [(rate, type(rate)) for rate in listed] == [(0.5, float), (0.25, float), (0.25, float)]


@pytest.mark.parametrize("shape", [(), (1, 2)])
def test_piecewise_arrays_have_one_dimension(shape: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match="learning_rates must be a list, a tuple or a 1-D array"):
        piecewise_constant_lr([3], np.full(shape, 0.1))


def test_arguments_may_be_positional() -> None:
    polynomial = PolynomialDecayLR(0.1, 0.2, 3, 2.0, True)
    assert (polynomial.end_learning_rate, polynomial.power) == (0.2, 2.0)
    assert polynomial.update_decay_steps is True
    assert CosineDecayLR(0.1, 0.2, 3).max_lr == 0.2
    args = (0.1, 0.2, 9, 2, 1, 2.0)
    assert polynomial_decay_lr(*args, True) == polynomial_decay_lr(*args, update_decay_epoch=True)


def test_a_missing_argument_is_named_with_its_function() -> None:
    missing: Any = (0.1, 6, 2)
    with pytest.raises(TypeError, match=r"warmup_lr: .*'warmup_epoch'"):
        warmup_lr(*missing)


def test_a_rate_that_outgrows_float64_raises() -> None:
    with pytest.raises(OverflowError):
        ExponentialDecayLR(1.0, 10.0, 1)(400)


def test_a_user_defines_a_schedule_by_its_call() -> None:
    class Constant(LearningRateSchedule):
        def __init__(self, rate: float) -> None:
            self.rate = rate

        def __call__(self, step: int) -> np.float32:
            return np.float32(self.rate)

    class Empty(LearningRateSchedule):
        pass

    assert Constant(0.5)(7) == 0.5
    with pytest.raises(TypeError, match="__call__"):
        Empty()  # type: ignore[abstract]
