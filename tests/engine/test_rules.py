"""Rules through the step compiler: the bits of plain NumPy in both engines, or a clear refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import adamoffload as ao
from adamoffload.engine.kernel import ENGINES, NumpyKernel, kernel_type
from adamoffload.engine.program import Program, trace
from adamoffload.engine.team import Workers
from adamoffload.rules import SGD, Adagrad, Adam, AdamW, AMSGrad, Lion
from adamoffload.rules.rule import with_flush

Float32 = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Clipped(ao.Rule):
    """A rule of one's own, in ten lines: with a square, both clippings, and a sign."""

    learning_rate: float = 0.1
    slots = ("mean", "square")

    def scalars(self, lr: Any, t: int) -> dict[str, Any]:
        return {"lr": lr, "limit": 3.0, "old": 0.75}

    def update(self, g: Any, mean: Any, square: Any, *, lr: Any, limit: Any, old: Any) -> Any:
        g = np.maximum(np.minimum(g, limit), -limit)
        mean, square = old * mean + g / 4, old * square + g**2 / 4
        return -lr * np.sign(mean) * (square > 1), mean, square


@dataclass(frozen=True)
class Logarithmic(ao.Rule):
    """What no engine but NumPy's own gives the bits of."""

    def scalars(self, lr: Any, t: int) -> dict[str, Any]:
        return {"lr": lr}

    def update(self, g: Any, *, lr: Any) -> tuple[Any]:
        return (-lr * np.sign(g) * np.log1p(np.abs(g)),)


def compiled(rule: ao.Rule, flush: bool = False) -> Program:
    """Return the program of a rule, as an optimizer has it."""
    update = partial(with_flush, rule.update, flush)
    names = list(rule.scalars(0.5, 1))
    return trace(update, ["g", *rule.slots], names, type(rule).__name__)


RULES = [
    SGD(0.1),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True),
    Lion(),
    Adagrad(),
    Adam(),
    Adam(nesterov=True),
    AdamW(),
    AMSGrad(),
    Clipped(),
]
NAMES = [repr(rule) for rule in RULES]
KERNELS = {
    (i, engine, flush): kernel_type("test", engine)(compiled(rule, flush=flush))
    for i, rule in enumerate(RULES)
    for engine in ("numpy", "auto")
    for flush in (False, True)
}


def assert_same_bits(i: int, rows: list[Float32], lr: float, t: int, flush: bool) -> None:
    """Compare both engines with the update itself; rows beyond those it takes are left out."""
    rule = RULES[i]
    rows = rows[: 1 + len(rule.slots)]
    scalars = {name: np.float32(value) for name, value in rule.scalars(lr, t).items()}
    with np.errstate(all="ignore"):
        wanted = with_flush(rule.update, flush, *rows, **scalars)
        for engine in ("numpy", "auto"):
            kernel = KERNELS[i, engine, flush]
            results = [row.copy() for row in rows]
            Workers(1).update(kernel, results, [(0, rows[0].size, kernel.program.bind(scalars))])
            for result, plain in zip(results, wanted, strict=True):
                assert plain.dtype == np.float32
                nan = np.isnan(plain)
                np.testing.assert_array_equal(np.isnan(result), nan)
                np.testing.assert_array_equal(result.view("u4")[~nan], plain.view("u4")[~nan])


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("i", range(len(RULES)), ids=NAMES)
def test_random_bit_patterns_give_the_bits_of_the_update(i: int, flush: bool) -> None:
    bits = np.random.default_rng(i).integers(0, 2**32, (4, 200_001), dtype=np.uint32)
    assert_same_bits(i, list(bits.view(np.float32)), 0.01, 3, flush)


@pytest.mark.parametrize("i", range(len(RULES)), ids=NAMES)
def test_every_combination_of_special_values_gives_the_bits_of_the_update(i: int) -> None:
    special = [0, -0.0, math.nan, math.inf, -math.inf, 1, -1, 1e-45, -1e-45, 1e-20, 3e38]
    grid = np.meshgrid(*[np.array(special, np.float32)] * 4)
    rows = [np.ascontiguousarray(axis.ravel()) for axis in grid]
    assert_same_bits(i, rows, 0.01, 1, flush=False)
    assert_same_bits(i, rows, 0.0, 1000, flush=True)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    st.integers(0, len(RULES) - 1),
    hnp.arrays(np.float32, (4, 9), elements=st.floats(width=32)),
    st.sampled_from([1e-3, 0.0, 1e30, 1e-45]),
    st.sampled_from([1, 2, 100, 10**9]),
    st.booleans(),
)
def test_chosen_values_give_the_bits_of_the_update(
    i: int, rows: Float32, lr: float, t: int, flush: bool
) -> None:
    assert_same_bits(i, [row.copy() for row in rows], lr, t, flush)


def test_a_state_of_a_rule_is_read_once_and_written_once() -> None:
    traffic = {type(rule).__name__: compiled(rule).bytes_per_element for rule in RULES}
    del traffic["Clipped"]
    slots = {"SGD": 1, "Lion": 1, "Adagrad": 1, "Adam": 2, "AdamW": 2, "AMSGrad": 3}
    assert traffic == {name: 8 * (1 + count) for name, count in slots.items()}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_function_without_fixed_bits_runs_in_numpy_only(engine: str) -> None:
    if engine == "numba":
        pytest.importorskip("numba", reason="needs the extra 'fast'")
        with pytest.raises(TypeError, match=r"no np.log1p that gives the bits.*engine='numpy'"):
            kernel_type("test", engine)(compiled(Logarithmic()))
    else:
        assert isinstance(kernel_type("test", engine)(compiled(Logarithmic())), NumpyKernel)


def test_a_square_is_a_product_as_it_is_for_arrays() -> None:
    program = trace(lambda x, *, a: (x**2 + x**2.0 + a**2,), ["x"], ["a"])
    assert [line.ufunc for line in program.body] == [np.square, np.add, np.add]


def broken(update: Callable[..., Any]) -> ao.Rule:
    """Return a rule with one slot and another update."""

    class Broken(ao.Rule):
        slots = ("m",)

        def scalars(self, lr: Any, t: int) -> dict[str, Any]:
            return {"lr": lr}

        def update(self, g: Any, m: Any, *, lr: Any) -> Any:
            return update(g, m, lr)

    return Broken()


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda g, m, lr: (-lr * g,), r": update must return a tuple of 2 arrays, .*, got 1$"),
        (lambda g, m, lr: (g, m, m), r": update must return a tuple of 2 arrays, .*, got 3$"),
        (
            lambda g, m, lr: -lr * g,
            r": update must return a tuple of 2 arrays, .*, got a traced array$",
        ),
        (lambda g, m, lr: None, r": update must return a tuple of 2 arrays, .*, got None$"),
        (
            lambda g, m, lr: (-lr, m),
            ": the new g must be computed from its arrays, got a traced scal",
        ),
        (lambda g, m, lr: (g, 0.0), ": the new m must be computed from its arrays, got .*0.0"),
        (lambda g, m, lr: (g, m * np.float64(2)), ": the new m must be float32, got float64"),
        (lambda g, m, lr: (g > 0, m), ": the new g must be float32, got bool"),
        (lambda g, m, lr: (np.where(g > 0, g, m), m), ": np.where is not a ufunc"),
        (lambda g, m, lr: (np.linalg.norm(g) * g, m), ": .*elementwise"),
        (lambda g, m, lr: (g if g > 0 else m, m), ": .*cannot look at values"),
        (lambda g, m, lr: (math.sqrt(g) * g, m), ": .*cannot look at values"),
        (lambda g, m, lr: (g / g.max(), m), r": .*elementwise ufuncs, it cannot use \.max"),
        (lambda g, m, lr: (g + np.ones(3), m), ": .*numbers only"),
        (lambda g, m: (g, m), r": .*takes 2 positional arguments but 3 were given"),
    ],
)
@pytest.mark.parametrize("flush", [False, True])
def test_a_rule_that_cannot_be_compiled_is_refused_by_its_name(
    update: Callable[..., Any], message: str, flush: bool
) -> None:
    with pytest.raises(TypeError, match=f"^Broken{message}"):
        compiled(broken(update), flush=flush)
