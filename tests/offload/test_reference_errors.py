"""Every recorded argument error of the reference implementation, row by row."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import adamoffload as ao

import differences
from reference import ORACLE

ROWS = json.loads((ORACLE / "errors.json").read_text())


class _Schedule(ao.LearningRateSchedule):
    def __call__(self, step: int) -> float:
        return 0.1


class _PlainCell:
    def __call__(self, step: int) -> float:
        return 0.1


def _decay(value: float) -> Callable[[int], float]:
    return lambda step: value * (step + 1)


def _names(device: ao.Backend) -> dict[str, Any]:
    def parameter(
        name: str = "w", shape: tuple[int, ...] = (3,), dtype: str = "float32"
    ) -> ao.Parameter:
        return ao.Parameter(device.asarray(np.ones(shape, dtype)), name)

    def generator(*items: Any) -> Iterator[Any]:
        yield from items

    def same_twice() -> list[ao.Parameter]:
        p = parameter()
        return [p, p]

    return {
        "P": parameter,
        "T": lambda value, dtype="float32": np.array(value, dtype),
        "Sched": _Schedule,
        "WDCell": _decay,
        "PlainCell": _PlainCell,
        "gen": generator,
        "same_twice": same_twice,
        "np": np,
        "nan": float("nan"),
        "inf": float("inf"),
    }


def _construct(row: dict[str, Any]) -> tuple[ao.AdamOffload, ao.Backend]:
    device = ao.get_backend("numpy")
    names = _names(device)
    params = eval(row["params"], names)
    kwargs = {key: eval(value, names) for key, value in row["kwargs"].items()}
    return ao.AdamOffload(params, **kwargs), device


def _step(optimizer: ao.AdamOffload, device: ao.Backend) -> None:
    optimizer([device.asarray(np.full(p.shape, 0.5, np.float32)) for p in optimizer.parameters])


@pytest.mark.parametrize("row", ROWS["constructor"], ids=lambda row: row["id"])
def test_constructor_answers_like_the_reference(row: dict[str, Any]) -> None:
    recorded = getattr(builtins, row["exception"]) if row["exception"] else None
    default = (recorded, "as recorded")
    exception, _ = differences.CONSTRUCTOR.get(row["id"], default)
    if exception is None:
        _step(*_construct(row))
    else:
        with pytest.raises(exception) as caught:
            _construct(row)
        assert type(caught.value) is exception
        assert "AdamOffload" in str(caught.value) or "keyword" in str(caught.value)


def test_every_difference_is_one() -> None:
    recorded = {row["id"]: row for row in ROWS["constructor"]}
    for name, (exception, _) in differences.CONSTRUCTOR.items():
        row = recorded[name]
        assert row["stage"] != "construct" or exception is None, name
    names = {row["id"] for row in ROWS["step"]}
    assert names >= set(differences.STEP)


@pytest.mark.parametrize("row", ROWS["step"], ids=lambda row: row["id"])
def test_bad_gradients_are_refused_before_anything_changes(row: dict[str, Any]) -> None:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(3, np.float32)), "w")
    optimizer = ao.AdamOffload([w])

    def tensor(value: Any, dtype: str = "float32") -> Any:
        return device.asarray(np.array(value, dtype))

    gradients = eval(row["gradients"], {"T": tensor, "np": np})
    recorded = getattr(builtins, row["exception"])
    expected, _ = differences.STEP.get(row["id"], (recorded, "as recorded"))
    if expected is None:
        optimizer(gradients)
        return
    with pytest.raises(expected, match="AdamOffload"):
        optimizer(gradients)
    assert optimizer.global_step == 0
    assert optimizer.beta1_power == 1
    assert not np.any(optimizer.moment1["w"])
    np.testing.assert_array_equal(device.asnumpy(w.data), 1)
