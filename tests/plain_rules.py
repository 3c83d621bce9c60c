"""One step of any rule in plain NumPy, and what it is compared with: PyTorch and the papers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.rules.rates import read_decay, read_rate

from reference import ORACLE

Array = np.ndarray[Any, np.dtype[Any]]
TORCH: dict[str, dict[str, Any]] = json.loads((ORACLE / "torch_rules.json").read_text())["cases"]
"""Recorded cases; see ``oracle/record_torch_rules.py``."""


def change(
    rule: ao.Rule, w: Array, g: Array, slots: Mapping[str, Array], index: int
) -> tuple[Array, Array, dict[str, Array]]:
    """Return w as decay leaves it, what is added to it, and the slots, of this 0-based index."""
    lr = read_rate("test", rule.learning_rate).at(index)
    decay = read_decay("test", rule.weight_decay).at(index)
    if rule.decay == "l2" and decay:
        g = g + w * decay
    elif decay:
        w = w * np.float32(1 - float(lr) * float(decay))
    scalars = {name: np.float32(value) for name, value in rule.scalars(lr, index + 1).items()}
    delta, *new = rule.update(g, *[slots[name] for name in rule.slots], **scalars)
    return w, delta, dict(zip(rule.slots, new, strict=True))


def step(
    rule: ao.Rule, w: Array, g: Array, slots: Mapping[str, Array], index: int
) -> dict[str, Array]:
    """Return w and the slots after the step of this 0-based index: all in float32."""
    w, delta, new = change(rule, w, g, slots, index)
    return {"w": w + delta, **new}


def ulps(left: Array, right: Array, scale: Any) -> float:
    """Return the largest difference, in float32 ULP of the `scale` of each element."""
    one = np.spacing(np.asarray(scale, np.float32)).astype(np.float64)
    return float(np.max(np.abs(left.astype(np.float64) - right) / one))


def assert_close(
    rule: ao.Rule,
    before: Mapping[str, Array],
    g: Array,
    after: Mapping[str, Array],
    index: int,
) -> None:
    """Compare a step of the rule with what another computed from the same state.

    The weights may differ by 4 ULP of max(|w before|, |w after|, lr). m is a sum of two products
    (three, with L2 decay), whose terms may cancel, so that what counts is the largest term: half an
    ULP of it for each product and its constant, and half an ULP of the sum, which may be twice as
    large: together at most 4. v is a sum of squares, where nothing cancels: 4 ULP of itself.
    """
    lr, decay = (float(rate) for rate in _rates(rule, index))
    result = step(rule, before["w"], g, before, index)
    assert list(result) == ["w", *rule.slots]
    assert all(array.dtype == np.float32 for array in result.values())
    largest = np.maximum(np.abs(before["w"]), np.abs(after["w"]))
    assert ulps(result["w"], after["w"], np.maximum(largest, lr)) <= 4
    if "m" in result:
        added = np.maximum(np.abs(before["m"]), np.abs(g))
        if rule.decay == "l2":
            added = np.maximum(added, np.abs(before["w"]) * decay)
        assert ulps(result["m"], after["m"], added) <= 4
    for name in {"v", "v_max"} & {*result}:
        assert ulps(result[name], after[name], after[name]) <= 4


def assert_agrees_with_torch(name: str, kind: Callable[..., ao.Rule]) -> None:
    """Compare each recorded step of a case, from its own state before."""
    options = {key: value for key, value in TORCH[name].items() if key != "torch"}
    rule = kind(**options)
    with np.load(ORACLE / "torch_rules.npz") as data:
        g = data["g"]
        recorded = {key: data[f"{name}_{key}"] for key in ("w", *rule.slots)}
    for index in range(len(g)):
        before, after = ({key: pair[i][index] for key, pair in recorded.items()} for i in (0, 1))
        assert np.any(before["w"] != after["w"])
        assert_close(rule, before, g[index], after, index)


def assert_agrees_with_paper(rule: ao.Rule, paper: Callable[..., Mapping[str, Array]]) -> None:
    """Train, and compare each step with the equations in float64, from the same state before."""
    rng = np.random.default_rng(7)
    w = (rng.standard_normal(500) * 10.0 ** rng.uniform(-6, 3, 500)).astype(np.float32)
    state = {"w": w, **{name: np.zeros_like(w) for name in rule.slots}}
    for index in range(30):
        g = (rng.standard_normal(500) * 10.0 ** rng.uniform(-10, 4, 500)).astype(np.float32)
        exact = {key: array.astype(np.float64) for key, array in state.items()}
        lr, decay = (np.float64(rate) for rate in _rates(rule, index))
        wanted = paper(**exact, g=g.astype(np.float64), lr=lr, decay=decay, t=index + 1)
        assert_close(rule, state, g, wanted, index)
        state = step(rule, state["w"], g, state, index)


def _rates(rule: ao.Rule, index: int) -> tuple[np.float32, np.float32]:
    lr, decay = read_rate("test", rule.learning_rate), read_decay("test", rule.weight_decay)
    return lr.at(index), decay.at(index)
