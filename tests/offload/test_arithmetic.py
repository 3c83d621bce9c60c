"""A rule made ready to run: what is wrong with it is said once, at construction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.engine.kernel import NumpyKernel
from adamoffload.offload.arithmetic import Arithmetic, check_rule, compiled


@dataclass(frozen=True)
class Rule(ao.Rule):
    """A rule whose parts can be replaced."""

    slots: Any = ("m",)
    decay: Any = "l2"
    numbers: Any = None
    result: Any = None

    def scalars(self, lr: Any, t: int) -> Any:
        return {"lr": lr} if self.numbers is None else self.numbers

    def update(self, g: Any, m: Any, *, lr: Any) -> Any:
        return (-lr * g, m + g) if self.result is None else self.result(g, m, lr)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"slots": ["m"]}, TypeError, "slots must be a tuple of names"),
        ({"slots": ("m", "m")}, ValueError, "'m'.* cannot be the name of a slot"),
        ({"slots": ("master",)}, ValueError, "'master' cannot be"),
        ({"slots": ("a b",)}, ValueError, "'a b' cannot be"),
        ({"decay": "none"}, ValueError, "decay must be 'l2' or 'decoupled'"),
    ],
)
def test_a_declaration_that_cannot_be_is_one_sentence(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        check_rule("Optimizer", Rule(**changed))
    assert str(caught.value).startswith("Optimizer: Rule.")


def test_a_rule_that_can_be_changed_is_refused() -> None:
    class Plain(ao.Rule):
        def __init__(self, gain: float) -> None:
            self.gain = gain

        def scalars(self, lr: Any, t: int) -> Any:
            return {"lr": lr * self.gain}

        def update(self, g: Any, /, *_: Any, lr: Any) -> Any:
            return (-lr * g,)

    @dataclass
    class Melted(Plain):
        gain: float = 1.0

    for rule in (Plain(2.0), Melted()):
        with pytest.raises(TypeError, match=r"keeps 'gain' where it can be changed.*frozen=True"):
            check_rule("Optimizer", rule)
    bare: Any = type("Bare", (Plain,), {"__init__": lambda _: None, "gain": 3})
    rule = bare()
    assert check_rule("Optimizer", rule) is rule


def test_squares_that_are_no_slots_are_refused() -> None:
    class Squares(Rule):
        squares = ("w",)

    with pytest.raises(ValueError, match=r"Squares\.squares: 'w'.* is none of the slots"):
        check_rule("Optimizer", Squares())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"numbers": [1]}, "scalars must return a mapping"),
        ({"numbers": {"lr": 1, "mu": 2}}, r"what Rule.scalars returns, .*\(lr, mu\): .*'mu'"),
        ({"numbers": {}}, r"called with \(g, m\), .*keyword \(nothing\): missing .* 'lr'"),
        ({"slots": ("m", "v")}, r"called with \(g, m, v\), .* too many positional"),
        ({"result": lambda g, m, lr: (g,)}, "Rule"),
        ({"result": lambda g, m, lr: (g * np.float64(2), m)}, "float32, got float64"),
        ({"result": lambda g, m, lr: (np.sort(g), m)}, "np.sort"),
        ({"result": lambda g, m, lr: (g if g > 0 else m, m)}, "cannot look at values"),
    ],
)
def test_what_cannot_be_compiled_is_one_sentence(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message) as caught:
        compiled(Rule(**changed), master=False, weights=False, flush=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("decay", ["l2", "decoupled"])
@pytest.mark.parametrize("flush", [False, True])
def test_a_master_moves_by_the_same_bits(decay: str, flush: bool) -> None:
    rng = np.random.default_rng(0)
    g, m, w = rng.standard_normal((3, 50)).astype(np.float32)
    arithmetic = Arithmetic(Rule(decay=decay), NumpyKernel, master=True)
    numbers = {"lr": np.float32(0.5), "keep": np.float32(0.75)}
    results = []
    for kernels in (arithmetic.kernels, arithmetic.watched):
        kernel, arrays = kernels[flush], [g.copy(), m.copy(), w.copy()]
        kernel(arrays, kernel.program.bind(numbers), kernel.scratch())
        results.append(arrays)
    delta = -np.float32(0.5) * g
    moved = (w * np.float32(0.75) if decay == "decoupled" else w) + delta
    for arrays, first in zip(results, (moved, delta), strict=True):
        for found, expected in zip(arrays, (first, m + g, moved), strict=True):
            np.testing.assert_array_equal(found, expected)
