"""16-bit floating point: float16 and bfloat16, and how a device computes in them.

As hardware does: operands are made float32, which is exact; the arithmetic is that of float32, with
the sums of reductions and products; the result is rounded to 16 bits once, to nearest even. For
``+ - * /`` and the square root, that is the correctly rounded result [1]_.

bfloat16 is the upper half of a float32: 8 bits of exponent, 8 of precision. NumPy has it from
`ml_dtypes <https://github.com/jax-ml/ml_dtypes>`_, which is imported when it is needed.

References
----------
.. [1] S. A. Figueroa, "When is double rounding innocuous?", SIGNUM Newsletter 30(3), 1995: twice
   the precision and two bits more do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "HALVES",
    "any_half",
    "bfloat16",
    "compute",
    "compute_at",
    "is_half",
    "named",
    "narrow",
    "narrow_float16",
    "widen",
    "widen_float16",
]

HALVES = ("float16", "bfloat16")


def bfloat16() -> np.dtype[Any]:
    """Return NumPy's dtype of bfloat16.

    Examples
    --------
    >>> bfloat16(), bfloat16().itemsize
    (dtype(bfloat16), 2)
    """
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def named(dtype: Any) -> Any:
    """Return a dtype, also for the name of bfloat16, which NumPy may not know yet.

    Examples
    --------
    >>> named("bfloat16"), named("float32"), named(None)
    (dtype(bfloat16), 'float32', None)
    """
    return bfloat16() if isinstance(dtype, str) and dtype == "bfloat16" else dtype


def is_half(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is float16 or bfloat16.

    Examples
    --------
    >>> is_half(np.dtype(np.float16)), is_half(np.dtype(np.float32))
    (True, False)
    """
    return dtype.type.__name__ in HALVES


def any_half(operands: Sequence[Any]) -> bool:
    """Return whether there is a 16-bit array among NumPy's operands.

    Examples
    --------
    >>> any_half([np.ones(2, np.float32), 1.5]), any_half([np.ones(2, np.float16)])
    (False, True)
    """
    for x in operands:  # noqa: SIM110  (a generator takes 0.3 us longer, in every operation)
        if type(x) is np.ndarray and x.itemsize == 2 and is_half(x.dtype):
            return True
    return False


def widen(x: Any) -> Any:
    """Return a 16-bit array as float32, which has all its values.

    Examples
    --------
    >>> widen(np.array([1.5, -2], np.float16))
    array([ 1.5, -2. ], dtype=float32)
    """
    if x.dtype != np.float16:
        return x.astype(np.float32)
    x = np.asarray(x)
    target, spare, mask = _like(x, np.float32, np.uint32, bool)
    widen_float16(x, target, spare, mask)
    return target


def narrow(x: Any, dtype: np.dtype[Any]) -> Any:
    """Return a float32 array rounded to 16 bits: to nearest, ties to even.

    Examples
    --------
    >>> narrow(np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32), bfloat16()).tolist()
    [1.0, 1.015625]
    """
    if dtype != np.float16:
        return np.asarray(x, dtype)
    x = np.asarray(x)
    target, bits, spare, mask = _like(x, np.float16, np.uint32, np.uint32, bool)
    narrow_float16(x, target, bits, spare, mask)
    return target


def _like(x: Any, *dtypes: Any) -> list[Any]:
    return [np.empty_like(x, dtype) for dtype in dtypes]


def widen_float16(source: Any, target: Any, spare: Any, mask: Any) -> None:
    """Write float16 into float32, of the same shape; `spare` is uint32, `mask` bool.

    NumPy's own cast takes up to 8 ns for a denormal number, this 0.5.

    Examples
    --------
    >>> x, spare, mask = np.empty(2, np.float32), np.empty(2, np.uint32), np.empty(2, bool)
    >>> widen_float16(np.array([0.5, -np.inf], np.float16), x, spare, mask)
    >>> x
    array([ 0.5, -inf], dtype=float32)
    """
    half, bits = source.view(np.uint16), target.view(np.uint32)
    np.bitwise_and(half, np.uint16(0x7FFF), out=bits)
    np.greater_equal(bits, 0x7C00, out=mask)
    np.left_shift(bits, 13, out=bits)
    np.multiply(target, np.float32(2.0**112), out=target)  # by what the exponents' biases differ
    if mask.any():
        np.bitwise_or(bits, 0x7F800000, out=bits, where=mask)
        if np.greater(bits, 0x7F800000, out=mask).any():
            np.bitwise_or(bits, 0x00400000, out=bits, where=mask)  # a NaN that signals no more
    np.bitwise_and(half, np.uint16(0x8000), out=spare)
    np.bitwise_or(bits, np.left_shift(spare, 16, out=spare), out=bits)


def narrow_float16(source: Any, target: Any, bits: Any, spare: Any, mask: Any) -> None:
    """Round float32 into float16, of the same shape; `bits`, `spare` are uint32, `mask` bool.

    NumPy's own cast takes 100 ns for a number that underflows or overflows, this 1.6.

    Examples
    --------
    >>> x, (bits, spare) = np.empty(2, np.float16), np.empty((2, 2), np.uint32)
    >>> narrow_float16(np.array([1e-8, 1e5], np.float32), x, bits, spare, np.empty(2, bool))
    >>> x
    array([ 0., inf], dtype=float16)
    """
    size = bits.view(np.float32)
    np.bitwise_and(source.view(np.uint32), 0x7FFFFFFF, out=bits)
    np.minimum(bits, np.uint32(0x47800000), out=bits)  # 2**16, which becomes infinite
    small = np.less(size, np.float32(2.0**-14), out=mask).any()
    # Below the normal numbers, adding 0.5 rounds to a multiple of 2**-24.
    np.add(size, np.float32(0.5), out=spare.view(np.float32))
    if small:
        np.subtract(spare, 0x3F000000, out=spare)
        np.copyto(bits, spare, where=mask)
    odd = np.bitwise_and(np.right_shift(bits, 13, out=spare), 1, out=spare)
    np.logical_not(mask, out=mask)
    np.add(odd, np.uint32(0x0FFF + 2**32 - 0x38000000), out=odd)
    np.add(bits, odd, out=bits, where=mask)
    np.right_shift(bits, 13, out=bits, where=mask)
    if np.isnan(source, out=mask).any():
        np.copyto(bits, np.uint32(0x7E00), where=mask)
    np.right_shift(source.view(np.uint32), 16, out=spare)
    np.bitwise_or(bits, np.bitwise_and(spare, 0x8000, out=spare), out=bits)
    np.copyto(target.view(np.uint16), bits, casting="unsafe")


def compute(call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a function of NumPy in float32, and round what it returns to the operands' 16 bits.

    The result has the type that NumPy gives it: that of the 16-bit operands, or float32 where two
    of these differ or one has 32 bits. A Python number takes the type of the arrays, and is
    rounded to it first; ``dtype=`` and ``out=`` are obeyed.

    Parameters
    ----------
    call : callable
        A ufunc, a method of one, or a function of NumPy.
    args : sequence
        What it takes: arrays of the host, numbers, axes, ...
    kwargs : mapping
        What it takes by name.

    Examples
    --------
    In bfloat16, 256 + 1 is 256; the sum of a reduction is rounded at its end only:

    >>> x = np.ones(1000, bfloat16())
    >>> compute(np.add, [x[:1] * 256, x[:1]], {}).item(), compute(np.sum, [x], {}).item()
    (256.0, 1000.0)
    """
    found: set[np.dtype[Any]] = set()
    wide = [_widened(x, found) for x in args]
    options = {key: _widened(x, found) for key, x in kwargs.items() if key != "out"}
    kind = found.pop() if len(found) == 1 else None
    if options.get("dtype") is not None:
        kind = np.dtype(named(options["dtype"]))
        options["dtype"] = np.float32 if is_half(kind) else kind
    kind = kind if kind is not None and is_half(kind) else None
    if isinstance(call, np.ufunc) and kind is not None:
        wide = [_rounded_first(x, kind) for x in wide]
    out = kwargs.get("out")
    if out is None or (isinstance(out, tuple) and out[0] is None and len(out) == 1):
        return _rounded(call(*wide, **options), kind)
    return _written(call, wide, options, out, kind)


def compute_at(call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Call ``np.add.at`` or its like in float32, and round what it changes at its end.

    Examples
    --------
    >>> x = np.zeros(2, bfloat16())
    >>> compute_at(np.add.at, [x, np.zeros(1000, int), 1.0], {})
    >>> x.tolist()
    [1000.0, 0.0]
    """
    target, *others = args
    wide = _widened(target, set())
    call(wide, *[_widened(x, set()) for x in others], **kwargs)
    if wide is not target:
        target[...] = narrow(wide, target.dtype)


def _widened(value: Any, found: set[np.dtype[Any]]) -> Any:
    """Return `value` with its 16-bit arrays made float32; note the types that it computes with."""
    if isinstance(value, (np.ndarray, np.generic)):
        half = is_half(value.dtype)
        if half or value.dtype.kind in "fc":
            found.add(value.dtype)
        return widen(value) if half else value
    if type(value) in (list, tuple):
        return type(value)([_widened(item, found) for item in value])
    return value


def _rounded_first(value: Any, kind: np.dtype[Any]) -> Any:
    if type(value) is float or (type(value) is int and abs(value) > _EXACT):
        return np.float32(kind.type(value))
    return value


def _rounded(result: Any, kind: np.dtype[Any] | None) -> Any:
    if isinstance(result, tuple):
        return tuple([_rounded(x, kind) for x in result])
    if kind is not None and getattr(result, "dtype", None) == np.float32:
        return narrow(result, kind)
    return result


def _written(
    call: Callable[..., Any],
    wide: Sequence[Any],
    options: Mapping[str, Any],
    out: Any,
    kind: np.dtype[Any] | None,
) -> Any:
    """Call with ``out=``: the result is rounded on its way there."""
    if kind is None:
        return call(*wide, **options, out=out)
    targets = out if isinstance(out, tuple) else (out,)
    results = tuple([_buffer(target) for target in targets])
    made = call(*wide, **options, out=results if isinstance(out, tuple) else results[0])
    where = options.get("where", True) if isinstance(call, np.ufunc) else True
    for target, result in zip(targets, results, strict=True):
        if target is not result:
            np.copyto(target, narrow(result, kind), casting="same_kind", where=where)
    if not isinstance(made, tuple):
        return out
    return tuple(
        [
            _rounded(x, kind) if target is None else target
            for x, target in zip(made, targets, strict=True)
        ]
    )


def _buffer(target: Any) -> Any:
    """Return where to compute what goes to `target`: there, unless it is to be rounded."""
    if target is None or not (target.dtype.kind == "f" or is_half(target.dtype)):
        return target
    return np.zeros(target.shape, np.float32)  # zeros: what where= leaves out is cast as well


_EXACT = 256  # whole numbers up to here are in both types
