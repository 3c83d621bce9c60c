"""16-bit arithmetic: float32 inside, rounded once; compared with exact rounding of float64."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import adamoffload as ao
from adamoffload.device.half import HALVES, any_half, bfloat16, is_half, named, narrow, widen

BFLOAT16, FLOAT16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
PRECISION = {BFLOAT16: (8, -126), FLOAT16: (11, -14)}
"""Bits of a number's significand, and the exponent of the smallest normal one."""

Array = np.ndarray[Any, np.dtype[Any]]
both = pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
many = settings(deadline=None, derandomize=True, max_examples=6)


@pytest.fixture
def device() -> ao.Backend:
    return ao.get_backend("numpy")


def rounded(x: Any, dtype: np.dtype[Any]) -> Array:
    """Round float64 to 16 bits by its definition: to a multiple of the last place, ties to even."""
    bits, smallest = PRECISION[dtype]
    x = np.asarray(x, np.float64)
    _, exponent = np.frexp(x)
    place = np.maximum(exponent, smallest + 1) - bits
    return np.asarray(np.ldexp(np.rint(np.ldexp(x, -place)), place))


def values(dtype: np.dtype[Any], low: float = -8.0) -> st.SearchStrategy[Array]:
    def of_type(x: Array) -> Array:
        return rounded(x, dtype).astype(dtype)

    shapes = st.tuples(st.integers(1, 4), st.integers(1, 4))
    return hnp.arrays(np.float64, shapes, elements=st.floats(low, 8)).map(of_type)


# -- one operation, rounded correctly -----------------------------------------------------------

CORRECT: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / b,
    lambda a, b: np.square(a),
    lambda a, b: np.maximum(a, b),
    lambda a, b: np.sqrt(np.abs(a)),
    lambda a, b: np.reciprocal(b),
    lambda a, b: np.where(a > b, a, b),
    lambda a, b: np.subtract.outer(a, b),
    lambda a, b: np.round(a, 0),
    lambda a, b: np.max(a, axis=0),
    lambda a, b: a.min(),
    lambda a, b: -abs(a),
]
CLOSE: list[Callable[[Any], Any]] = [
    np.exp,
    np.tanh,
    np.sin,
    lambda a: np.log1p(np.abs(a)),
    lambda a: np.power(np.abs(a), 0.5),
    lambda a: np.sum(a, axis=0),
    lambda a: a.mean(),
    lambda a: np.cumsum(a),
    lambda a: np.add.reduce(a, axis=1, keepdims=True),
    lambda a: a @ a.T,
    lambda a: np.dot(a, a.T),
    lambda a: np.einsum("ij,kj->ik", a, a),
    lambda a: np.tensordot(a, a, axes=([0, 1], [0, 1])),
    lambda a: np.linalg.norm(a),
    lambda a: np.var(a, axis=1),
    lambda a: np.clip(a, -1, 1),
]


@both
@pytest.mark.parametrize("function", CORRECT)
def test_an_operation_is_the_exact_result_rounded_once(
    function: Callable[[Any, Any], Any], dtype: np.dtype[Any]
) -> None:
    @many
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        a = data.draw(values(dtype))
        b = data.draw(hnp.arrays(np.float64, a.shape, elements=st.floats(0.25, 8)))
        b = rounded(b, dtype).astype(dtype)
        device = ao.get_backend("numpy")
        result = device.asnumpy(function(device.asarray(a), device.asarray(b)))
        assert result.dtype == dtype
        exact = function(a.astype(np.float64), b.astype(np.float64))
        np.testing.assert_array_equal(result.astype(np.float64), rounded(exact, dtype))

    check()


@both
@pytest.mark.parametrize("function", CLOSE)
def test_functions_and_sums_are_off_by_their_rounding(
    function: Callable[[Any], Any], dtype: np.dtype[Any]
) -> None:
    """float32 may land on the other side of a tie, so that a whole last place is allowed."""

    @many
    @given(a=values(dtype))
    def check(a: Array) -> None:
        device = ao.get_backend("numpy")
        result = device.asnumpy(function(device.asarray(a)))
        assert result.dtype == dtype
        exact = np.asarray(function(a.astype(np.float64)))
        last = 2.0 ** (1 - PRECISION[dtype][0])
        # What cancels in a sum was rounded to float32 at the size of its terms.
        terms = 2e-6 * a.size * max(1.0, float(np.max(np.abs(a.astype(float))))) ** 2
        assert np.all(np.abs(result.astype(float) - exact) <= last * np.abs(exact) + terms)

    check()


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_reductions_round_at_their_end(device: ao.Backend, dtype: np.dtype[Any]) -> None:
    """Rounded at each step, sums of ones end at 256 (bfloat16) or 2048 (float16)."""
    x = device.asarray(np.ones((2, 4096)), dtype)
    for total in (
        np.sum(x, axis=1)[0],
        x.sum(axis=1)[1],
        np.add.reduce(x, axis=1)[0],
        np.cumsum(x[0])[-1],
        (x @ x.T)[0, 1],
        np.einsum("ij,kj->ik", x, x)[1, 0],
        np.dot(x[0], x[1]),
        np.mean(x * 4096),
        np.max(x) * 4096,
        np.linalg.norm(x[0]) * 64,
    ):
        assert (total.dtype, float(total)) == (dtype, 4096)
    scattered = device.zeros(2, dtype)
    np.add.at(scattered, device.asarray(np.zeros(4096, int)), x[0])
    np.testing.assert_array_equal(device.asnumpy(scattered).astype(float), [4096, 0])


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "average": lambda a: np.average(a, axis=0),
    "cumprod": lambda a: np.cumprod(a[0, :300]),
    "cumsum": lambda a: np.cumsum(a[0]),
    "diff": lambda a: np.diff(a, axis=1),
    "inner": lambda a: np.inner(a, a),
    "kron": lambda a: np.kron(a[:, :3], a[:, :3]),
    "median": lambda a: np.median(a, axis=1),
    "nanmean": lambda a: np.nanmean(a),
    "nansum": lambda a: np.nansum(a, axis=1),
    "outer": lambda a: np.outer(a[0], a[1]),
    "prod": lambda a: np.prod(a[:, :300], axis=1),
    "ptp": lambda a: np.ptp(a, axis=1),
    "quantile": lambda a: np.quantile(a, 0.3, axis=1),
    "std": lambda a: np.std(a, axis=1),
    "trace": lambda a: np.trace(a[:, :2]),
    "var": lambda a: a.var(axis=0),
    "vdot": lambda a: np.vdot(a[0], a[1]),
}


@both
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_many_elements_are_off_by_one_rounding(
    device: ao.Backend, name: str, dtype: np.dtype[Any]
) -> None:
    """Rounded at every step, these would be off by many, or stand still."""
    host = rounded(np.random.default_rng(1).uniform(0.98, 1.02, (2, 2000)), dtype).astype(dtype)
    result = device.asnumpy(FUNCTIONS[name](device.asarray(host)))
    assert result.dtype == dtype
    exact = np.asarray(FUNCTIONS[name](host.astype(np.float64)))
    last = 2.0 ** (1 - PRECISION[dtype][0])
    assert np.all(np.abs(result.astype(float) - exact) <= last * np.abs(exact) + 1e-6)


# -- types --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (2, "half"),
        (0.5, "half"),
        (True, "half"),
        (np.float32(2), "float32"),
        (np.float64(2), "float64"),
        (np.ones(2, np.float32), "float32"),
        (np.ones(2, np.float64), "float64"),
        (np.ones(2, bool), "half"),
        (np.ones(2, np.int8), "half"),
        (np.ones(2, np.int64), "float64"),
    ],
    ids=str,
)
@both
def test_types_are_promoted_as_numpy_does(
    device: ao.Backend, dtype: np.dtype[Any], other: Any, expected: str
) -> None:
    host = np.ones(2, dtype)
    there = device.asarray(other) if isinstance(other, np.ndarray) else other
    for result in (device.asarray(host) * there, there + device.asarray(host)):
        assert result.dtype == (dtype if expected == "half" else np.dtype(expected))
        if dtype == FLOAT16:  # what ml_dtypes does on the host has changed over its versions
            assert result.dtype == (host * other).dtype


def test_the_two_types_meet_in_float32(device: ao.Backend) -> None:
    x, y = device.asarray([1.5], "bfloat16"), device.asarray([2.0], np.float16)
    assert (x * y).dtype == np.float32
    assert float(x * y) == 3


def test_a_python_number_takes_the_type_of_the_array_first(device: ao.Backend) -> None:
    """As in NumPy: 0.1 is 0.10009765625, and 257 is 256."""
    x = device.asarray([0.1, 1], "bfloat16")
    np.testing.assert_array_equal(device.asnumpy(x == 0.1), [True, False])
    assert device.asnumpy(x * 0.1)[1] == device.asnumpy(x)[0]
    assert float((x * 257)[1]) == float((x * 256)[1]) == 256
    assert (x < 2.5).dtype == bool


def test_dtype_says_what_a_sum_is_made_in(device: ao.Backend) -> None:
    x = device.asarray(np.full(4097, 1.0), "bfloat16")
    assert float(np.sum(x, dtype=np.float32)) == 4097
    assert np.sum(x, dtype=np.float64).dtype == np.float64
    counted = np.sum(x > 0, dtype="bfloat16")
    assert (counted.dtype, float(counted)) == (BFLOAT16, 4096)  # 4097 has 13 bits
    assert x.astype("bfloat16").dtype == x.astype(np.float32).astype(BFLOAT16).dtype == BFLOAT16
    assert np.zeros_like(x, dtype="bfloat16").dtype == BFLOAT16


# -- where results go ---------------------------------------------------------------------------


@both
def test_out_is_written_with_the_rounded_result(device: ao.Backend, dtype: np.dtype[Any]) -> None:
    x, y = device.asarray([1, 256.0], dtype), device.asarray([2**-12, 1], dtype)
    half, single = device.zeros(2, dtype), device.zeros(2, np.float32)
    before = device.memory()
    assert np.add(x, y, out=half) is half
    assert np.add(x, y, out=single) is single
    x += y
    assert device.memory() == before, "the float32 of an operation is no memory of the device"
    expected = rounded([1 + 2**-12, 257], dtype)
    for result in (half, single, x):
        np.testing.assert_array_equal(device.asnumpy(result).astype(float), expected)
    total = device.zeros((), dtype)
    assert np.sum(y, out=total) is total
    assert float(total) == 1


def test_where_leaves_the_rest_alone(device: ao.Backend) -> None:
    x = device.asarray([1.0, 2, 4], "bfloat16")
    np.divide(x, 0, out=x, where=x > 9)
    np.negative(x, out=x, where=x > 3)
    np.testing.assert_array_equal(device.asnumpy(x).astype(float), [1, 2, -4])
    assert float(np.sum(x, where=x > 0)) == 3


def test_two_results_are_rounded_both(device: ao.Backend) -> None:
    x = device.asarray([7.5], "bfloat16")
    part = device.zeros(1, "bfloat16")
    outputs: Any = (None, part)
    quotient, remainder = np.divmod(x, 2, out=outputs)
    assert remainder is part
    assert (quotient.dtype, float(quotient), float(remainder)) == (BFLOAT16, 3, 1.5)
    assert [r.dtype for r in np.modf(x)] == [BFLOAT16, BFLOAT16]


def test_what_moves_numbers_moves_them_as_they_are(device: ao.Backend) -> None:
    """Views stay views, and the bits of a NaN its bits."""
    bits = np.array([0x7FC1, 0xFF81, 0x0001, 0x8000, 0x3F80, 0x7F80], np.uint16)
    x = device.asarray(bits.view(BFLOAT16))
    for moved in (x.reshape(2, 3), x[::-1][::-1], np.transpose(x.reshape(2, 3)).T, x.copy()):
        assert device.asnumpy(moved).tobytes() == bits.tobytes()
    assert np.may_share_memory(x.reshape(2, 3), x)
    joined = np.concatenate([x, x])
    assert (joined.dtype, joined.nbytes) == (BFLOAT16, 24)
    assert device.asnumpy(joined).tobytes() == bits.tobytes() * 2


def test_a_device_counts_two_bytes(device: ao.Backend) -> None:
    x = device.zeros(1000, "bfloat16")
    assert device.memory().used == 2000
    y = np.exp(x) + x
    assert device.memory() == (4000, 6000, None)
    device.asnumpy(y)
    assert device.traffic() == (2000, 0)


def test_nothing_is_copied_implicitly(device: ao.Backend) -> None:
    x, host = device.asarray([1.0], "bfloat16"), np.ones(1, BFLOAT16)
    calls: list[Callable[[], Any]] = [lambda: x + host, lambda: np.dot(x, host)]
    for call in calls:
        with pytest.raises(ao.ResidencyError):
            call()
    with pytest.raises(ao.ResidencyError):
        np.asarray(x)


def test_one_element_becomes_a_python_number(device: ao.Backend) -> None:
    x = device.asarray([1.5], "bfloat16")
    assert (type(x.item()), x.item(), float(x), int(x), bool(x)) == (float, 1.5, 1.5, 1, True)


def test_other_types_of_ml_dtypes_are_refused(device: ao.Backend) -> None:
    with pytest.raises(TypeError, match="expected numbers, got an array of dtype float8_e4m3fn"):
        device.asarray(np.ones(1, ml_dtypes.float8_e4m3fn))


def test_nan_to_num_is_refused(device: ao.Backend) -> None:
    with pytest.raises(TypeError, match=r"nan_to_num.*np\.where"):
        np.nan_to_num(device.asarray([np.inf], "bfloat16"))


# -- the casts ----------------------------------------------------------------------------------


def test_widening_is_exact_for_every_pattern_and_rounding_inverts_it() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    for dtype in (FLOAT16, BFLOAT16):
        x = bits.view(dtype)
        sound = ~np.isnan(x.astype(np.float32))
        wide = widen(x)
        assert wide.dtype == np.float32
        if dtype == BFLOAT16:  # the upper half of a float32
            assert np.array_equal(wide.view(np.uint32)[sound], bits[sound].astype(np.uint32) << 16)
        with np.errstate(invalid="ignore"):  # a signalling NaN signals
            assert np.array_equal(narrow(wide, dtype).view(np.uint16)[sound], bits[sound])
            assert np.isnan(widen(narrow(wide, dtype))[~sound]).all()


@both
def test_rounding_goes_to_the_nearest_and_from_ties_to_even(dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(5)
    x = (rng.standard_normal(20_000) * 10.0 ** rng.uniform(-6, 4, 20_000)).astype(np.float32)
    one = 1 + np.arange(64, dtype=np.float32) * 2.0 ** (-PRECISION[dtype][0] - 1)  # ties among them
    for values in (x, one, -one):
        result = narrow(values, dtype).astype(np.float64)
        np.testing.assert_array_equal(result, rounded(values, dtype))


def test_names_and_types() -> None:
    assert [is_half(np.dtype(named(name))) for name in HALVES] == [True, True]
    assert not any(
        is_half(np.dtype(kind)) for kind in (np.float32, np.int16, np.uint16, bool, "M8[s]")
    )
    assert bfloat16() == BFLOAT16
    assert any_half([1.0, np.ones(2), np.ones(2, BFLOAT16)])
    assert not any_half([1.0, np.ones(2, np.int16)])


def test_the_name_bfloat16_is_enough_where_nobody_has_imported_it() -> None:
    script = (
        "import sys, numpy as np, adamoffload as ao; d = ao.get_backend('numpy');"
        "x = d.asarray(np.ones(2, np.float32)) + 1; assert 'ml_dtypes' not in sys.modules;"
        "print((x.astype('bfloat16') * 2).dtype)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("bfloat16\n", "")


def test_float16_over_and_underflows_silently(device: ao.Backend) -> None:
    """As on hardware, unless float32 overflows already; warnings are errors here."""
    x = device.asarray(np.array([6e4, -6e4, 6e-8, -6e-8, 65504, 40000], np.float16))
    np.testing.assert_array_equal(
        device.asnumpy(x * 2), np.array([np.inf, -np.inf, 1.2e-7, -1.2e-7, np.inf, np.inf], "e")
    )
    small = device.asnumpy(x * 0.25)
    np.testing.assert_array_equal(small[2:4], [0, 0])
    assert np.signbit(small[3])
