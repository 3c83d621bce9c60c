"""A checkpoint of other parameters: what both have is loaded, the rest stays, and is reported."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.offload.state import Counters

DEVICES = {"numpy": lambda: ao.get_backend("numpy"), "sim": lambda: ao.get_backend("sim")}
SHAPES = {"a": (5,), "b": (2, 3), "c": ()}
CONSTANT = np.float32(0.25)


def build(shapes: dict[str, tuple[int, ...]] = SHAPES, rule: Any = None, **options: Any) -> Any:
    device = ao.get_backend("numpy")
    rng = np.random.default_rng(len(shapes))
    parameters = [
        ao.Parameter(device.asarray(rng.standard_normal(shape).astype(np.float32)), name)
        for name, shape in shapes.items()
    ]
    rule = rule or ao.rules.Adam(learning_rate=0.1)
    return ao.Optimizer(parameters, rule, strategy="adam-offload", **options)


def train(optimizer: Any, steps: int, *without: str) -> Any:
    device = optimizer.backend
    for _ in range(steps):
        optimizer(
            {
                p.name: device.asarray(np.full(p.shape, CONSTANT))
                for p in optimizer.parameters
                if p.name not in without
            }
        )
    return optimizer


def values(optimizer: Any, name: str) -> list[bytes]:
    device = optimizer.backend
    (parameter,) = (p for p in optimizer.parameters if p.name == name)
    slots = [optimizer.state[slot][name] for slot in optimizer.state]
    return [device.asnumpy(parameter.data).tobytes(), *(slot.tobytes() for slot in slots)]


def saved(tmp_path: Path, optimizer: Any) -> Path:
    ao.save(tmp_path / "x", optimizer)
    return tmp_path / "x"


def test_what_both_have_is_loaded_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    other = train(build({"a": (5,), "b": (3, 2), "old": (2,)}), 4)
    own = train(train(build(), 2), 1, "c")
    before = {name: values(own, name) for name in SHAPES}
    loaded = ao.load(saved(tmp_path, other), own, strict=False)
    assert loaded == (
        ("c",),
        ("old",),
        {"b": "float32 of shape (3, 2) in the file, float32 of shape (2, 3) here"},
    )
    assert values(own, "a") == values(other, "a")
    assert [values(own, name) for name in "bc"] == [before[name] for name in "bc"]
    assert own.counters == Counters(4, (0, 1, 2), frozenset(), {"": np.float32(0.1)})
    train(own, 1)


@pytest.mark.parametrize("rule", [ao.rules.Adam(0.1), ao.rules.AdamW(0.1), ao.rules.AMSGrad(0.1)])
def test_the_first_update_of_a_parameter_that_joins_is_a_first_one(
    rule: Any, tmp_path: Path
) -> None:
    path = saved(tmp_path, train(build({"a": (5,)}, rule), 50))
    own, fresh = build({"a": (5,), "new": (4,)}, rule), build({"a": (5,), "new": (4,)}, rule)
    assert ao.load(path, own, strict=False).missing == ("new",)
    assert values(train(own, 1), "new") == values(train(fresh, 1), "new")


def test_what_was_said_of_a_parameter_stays_with_it(tmp_path: Path) -> None:
    other = train(build({"a": (5,), "b": (2, 3), "gone": (1,)}), 3, "b")
    other.freeze("b", "gone")
    other.set_learning_rate(0.5, "a", "gone")
    other.set_constants("a", "gone", beta1=0.5)
    own = build()
    own.freeze("a", "c")
    own.set_learning_rate(0.25, "b", "c")
    own.set_constants("b", "c", beta1=0.25)
    ao.load(saved(tmp_path, other), own, strict=False)
    assert own.counters.missed == (0, 3, 3)
    assert own.counters.frozen == {"b", "c"}
    rates = {"": np.float32(0.1), "a": np.float32(0.5), "c": np.float32(0.25)}
    assert own.counters.rates == rates
    assert own.counters.constants == {"a": {"beta1": 0.5}, "c": {"beta1": 0.25}}


def test_one_with_more_updates_than_the_file_has_steps_cannot_stay(tmp_path: Path) -> None:
    path, own = saved(tmp_path, train(build({"a": (5,)}), 2)), train(build(), 3)
    before = [values(own, name) for name in SHAPES]
    with pytest.raises(ValueError, match="load: 'b' stays as it is, with 3 updates, which are"):
        ao.load(path, own, strict=False)
    assert [values(own, name) for name in SHAPES] == before
    exact = train(build(), 2)
    assert ao.load(path, exact, strict=False).missing == ("b", "c")
    assert exact.counters.missed == (0, 0, 0)


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, build({"x": (5,)}))
    with pytest.raises(ValueError, match=r"none of the .*missing=\('a', 'b', 'c'\)"):
        ao.load(path, build(), strict=False)


@pytest.mark.parametrize("strict", [True, False])
def test_only_the_parameters_whatever_the_rule(strict: bool, tmp_path: Path) -> None:
    other, own = train(build(rule=ao.rules.SGD(0.5)), 3), train(build(), 2)
    slots, counters = [values(own, name)[1:] for name in SHAPES], own.counters
    path = saved(tmp_path, other)
    assert ao.load(path, own, strict=strict, only="parameters") == ao.Loaded()
    assert [values(own, name)[0] for name in SHAPES] == [values(other, name)[0] for name in SHAPES]
    assert [values(own, name)[1:] for name in SHAPES] == slots
    assert own.counters == counters
    train(own, 1)


def test_with_strict_only_the_parameters_must_be_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path, build({"a": (5,), "b": (2, 3)}))
    with pytest.raises(ValueError, match="parameter in the file lacks 'c'"):
        ao.load(path, build(), only="parameters")
    assert ao.load(path, build(), only="parameters", strict=False).missing == ("c",)


def test_a_master_follows_the_parameters(tmp_path: Path) -> None:
    strategy = {"strategy": "disk", "directory": tmp_path / "disk"}
    (tmp_path / "disk").mkdir()
    device, other = ao.get_backend("numpy"), train(build(), 3)
    parameters = [ao.Parameter(device.zeros(shape), name) for name, shape in SHAPES.items()]
    own: Any = ao.Optimizer(parameters, ao.rules.Adam(0.1), **strategy)  # type: ignore[arg-type]
    ao.load(saved(tmp_path, other), own, only="parameters")
    for name in SHAPES:
        assert own.master[name].tobytes() == values(other, name)[0]
    own.close()


def test_what_stays_must_be_whole(tmp_path: Path) -> None:
    path = saved(tmp_path, train(build(), 3))
    for options in ({"only": "parameters"}, {"strict": False}):
        own = build(SHAPES | {"more": (2,)} if "strict" in options else SHAPES)
        with suppress(ZeroDivisionError), own.replacing(own.counters) as touched:
            touched.append(("m", "a"))
            raise ZeroDivisionError
        with pytest.raises(RuntimeError, match="a load failed half-way"):
            ao.load(path, own, **options)


def test_a_damaged_array_is_refused_though_nobody_wants_it(tmp_path: Path) -> None:
    path = saved(tmp_path, build({"a": (5,), "old": (2,)}))
    data = bytearray(path.read_bytes())
    data[data.index(b"v/old.npy") + 140] ^= 1
    path.write_bytes(data)
    with pytest.raises(ao.CheckpointError, match=r"v/old.npy"):
        ao.load(path, build(), strict=False)


def test_wrong_arguments(tmp_path: Path) -> None:
    path, own = saved(tmp_path, build()), build()
    with pytest.raises(ValueError, match="load: only must be one of parameters, got 'weights'"):
        ao.load(path, own, only="weights")
    with pytest.raises(TypeError, match="load: only must be a string"):
        ao.load(path, own, only=1)  # type: ignore[arg-type]
