"""The step compiler: the same bits as the rule, in place, and clear refusals."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adamoffload.engine.kernel import NumpyKernel
from adamoffload.engine.program import Program, trace
from adamoffload.engine.team import Workers
from adamoffload.rules.adam import adam
from adamoffload.rules.rule import with_flush

ARRAYS = ("g", "m", "v")
SCALARS = ("lr_t", "beta1", "beta2", "eps")
Float32 = np.ndarray[Any, np.dtype[np.float32]]


def run(program: Program, arrays: list[Float32], scalars: dict[str, Any]) -> list[Float32]:
    copies = [array.copy() for array in arrays]
    values = program.bind(scalars)
    Workers(threads=1).update(NumpyKernel(program), copies, [(0, arrays[0].size, values)])
    return copies


any_float32 = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    hnp.arrays(np.float32, (3, 5), elements=any_float32),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1e-3, 0.0, 3e38, 1e-45]),
)
def test_program_of_adam_gives_the_bits_of_adam(
    rows: Float32, nesterov: bool, flush: bool, lr_t: float
) -> None:
    scalars: Any = {
        "lr_t": np.float32(lr_t),
        "beta1": np.float32(0.9),
        "beta2": np.float32(0.999),
        "eps": np.float32(1e-8),
    }
    rule = partial(with_flush, partial(adam, nesterov=nesterov), flush)
    with np.errstate(all="ignore"):
        expected = rule(*rows, **scalars)
        results = run(trace(rule, ARRAYS, SCALARS), list(rows), scalars)
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)  # NaN equals NaN
        np.testing.assert_array_equal(np.signbit(result), np.signbit(wanted))


OPERATIONS: list[Any] = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / b,
    np.maximum,
    lambda a, b: -a,
    lambda a, b: np.sqrt(np.abs(a)),
    lambda a, b: a * (a >= b),
    lambda a, b: 2 * a,
    lambda a, b: a,
]


def is_array(value: Any) -> bool:
    sample = value.sample() if hasattr(value, "sample") else value  # a symbol, while traced
    return np.ndim(sample) > 0


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.data())
def test_program_of_any_rule_gives_its_bits(data: st.DataObject) -> None:
    steps = data.draw(
        st.lists(
            st.tuples(st.integers(0, len(OPERATIONS) - 1), st.integers(0, 99), st.integers(0, 99)),
            max_size=12,
        )
    )
    outputs = data.draw(st.tuples(*[st.integers(0, 99)] * 3))

    def rule(x: Any, y: Any, z: Any, *, a: Any, b: Any) -> tuple[Any, ...]:
        values = [x, y, z, a, b]
        for operation, left, right in steps:
            values.append(
                OPERATIONS[operation](values[left % len(values)], values[right % len(values)])
            )
        arrays = [value for value in values if is_array(value)]
        return tuple(arrays[i % len(arrays)] for i in outputs)

    rng = np.random.default_rng(len(steps))
    rows = [rng.standard_normal(7).astype(np.float32) for _ in range(3)]
    scalars = {"a": np.float32(1.1), "b": np.float32(-0.3)}
    with np.errstate(all="ignore"):
        expected = rule(*rows, **scalars)
        results = run(trace(rule, ["x", "y", "z"], ["a", "b"]), rows, scalars)
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)


def test_adam_needs_one_scratch_buffer_and_eleven_passes() -> None:
    program = trace(adam, ARRAYS, SCALARS)
    assert [r.kind for r in program.registers].count("scratch") == 1
    assert program.passes == 11
    assert program.bytes_per_element == 24
    assert program.arrays == ARRAYS
    assert program.scalars == SCALARS


def test_scalars_are_folded_in_float32() -> None:
    program = trace(lambda x, *, b: ((1 - b) * x,), ["x"], ["b"])
    values = program.bind({"b": np.float32(0.999)})
    (folded,) = (values[line.result] for line in program.folded)
    assert folded == 1 - np.float32(0.999)
    assert folded.dtype == np.float32
    assert program.passes == 1


def test_equal_computations_are_done_once() -> None:
    program = trace(lambda x, *, a: (a * x + a * x,), ["x"], ["a"])
    assert program.passes == 2


def test_zero_and_minus_zero_are_two_constants() -> None:
    program = trace(lambda x, y: (x * 0.0, y * -0.0), ["x", "y"], [])
    results = run(program, [np.ones(3, np.float32) for _ in range(2)], {})
    assert [bool(np.signbit(result[0])) for result in results] == [False, True]


def test_what_is_not_needed_is_not_computed() -> None:
    def rule(x: Any, *, a: Any) -> tuple[Any]:
        np.sqrt(x)
        return (a * x,)

    assert trace(rule, ["x"], ["a"]).passes == 1


def test_results_may_change_places() -> None:
    rows = [np.full(3, float(i), np.float32) for i in range(3)]
    program = trace(lambda x, y, z: (z, x, y), ["x", "y", "z"], [])
    results = run(program, rows, {})
    assert [result[0] for result in results] == [2.0, 0.0, 1.0]


def test_listing_reads_like_a_program() -> None:
    listing = str(trace(adam, ARRAYS, SCALARS))
    assert "k1    = subtract(1, beta2)" in listing
    assert "g     = divide(g, s0)" in listing
    assert "11 passes over a block in the cache, 24 bytes of memory traffic an element" in listing


def in_place(x: Any) -> Any:
    x += 1
    return (x,)


def branching(x: Any) -> tuple[Any]:
    return (x if x > 0 else -x,)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda x: (np.where(x > 0, x, 0),), "np.where is not a ufunc"),
        (lambda x: (np.sum(x),), "np.sum is not a ufunc"),
        (lambda x: (np.add.reduce(x),), r"np.add.reduce .* not elementwise"),
        (lambda x: (np.matmul(x, x),), "np.matmul .* not elementwise"),
        (in_place, r"write 'm = m \+ g' instead of 'm \+= g'"),
        (lambda x: np.exp(x, out=x), "np.exp without out="),
        (lambda x: np.modf(x), "np.modf .* not elementwise with one result"),
        (lambda x: (np.add(x, 1, where=True),), "not elementwise"),
        (branching, "cannot look at values"),
        (lambda x: (x[0],), "cannot look at values"),
        (lambda x: (np.sqrt(float(x)),), "cannot look at values"),
        (lambda x: (x + np.ones(3),), "numbers only"),
        (lambda x: (x * np.float64(0.1),), "must be float32, got float64"),
        (lambda x: (1.0,), "must be computed from its arrays"),
        (lambda x: x, "must return a tuple of 1"),
        (lambda x: (x, x), "must return a tuple of 1"),
    ],
)
def test_rule_that_is_not_elementwise_is_refused(rule: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        trace(rule, ["x"], [])
