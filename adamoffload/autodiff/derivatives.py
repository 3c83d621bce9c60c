"""The derivatives of NumPy's functions, for the tape: one line each in `DERIVATIVES`.

An entry holds one maker for each positional operand. A maker takes the result and the operands of
one call, as plain arrays, and returns that operand's `Pull`; its signature lists the arguments
that it can do. It knows nothing of the tape nor of devices, and computes with ``np.*`` alone.

- ``maximum minimum``: where the operands are equal the gradient goes to the second one, so
  ``np.maximum(x, 0)`` has slope 0 at 0. ``max min``: equal elements share it. ``clip`` to constant
  bounds: slope 1 at the bounds.
- ``0 ** 0`` has slope 0 in base and exponent; so has ``linalg.norm`` at 0.
- ``einsum`` takes up to eight operands, with ``...`` and without ``->``, but no index twice in one
  operand (``"ii->i"``). ``pad`` pads with constants, ``linalg.norm`` is the 2-norm.
"""

# ruff: noqa: ARG001, ARG005  (makers of one function share a signature, and use part of it)

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from types import EllipsisType
from typing import Any, NoReturn, TypeAlias

import numpy as np

from adamoffload.device.backend import Array
from adamoffload.device.half import is_half

__all__ = [
    "CONSTANT",
    "DERIVATIVES",
    "Maker",
    "Pull",
    "erf",
    "no_derivative",
    "numbered",
    "scatter",
]

Pull: TypeAlias = Callable[[Array], Array]
"""Takes the gradient of a result and returns an operand's, in the result's shape where the operand
was broadcast. That is a new array, or a view of the one it got. A pull keeps alive what it
captures, so it captures no array that it does not need.
"""

Maker: TypeAlias = Callable[..., Pull]


def _identity(g: Array) -> Array:
    return g


def _same(*_: Any) -> Pull:
    return _identity


def _fixed(*_: Any, **__: Any) -> NoReturn:
    raise TypeError("the argument in this place is a constant")


def _keep(g: Array, axis: Any, keepdims: bool) -> Array:
    """Put the reduced axes back, with length 1."""
    return g if keepdims or axis is None else np.expand_dims(g, axis)


def _spread(shape: tuple[int, ...], axis: Any, keepdims: bool, count: int, g: Array) -> Array:
    return np.broadcast_to(_keep(g if count == 1 else g / count, axis, keepdims), shape)


def _count(out: Array, x: Array) -> int:
    """Return how many elements were reduced to one."""
    return int(x.size // max(out.size, 1))


def _share(out: Array, x: Array, axis: Any, keepdims: bool, g: Array) -> Array:
    """Divide the gradient of a maximum among the elements that reach it."""
    mask = x == _keep(out, axis, keepdims)
    count = np.sum(mask, axis=axis, keepdims=True, dtype=g.dtype)
    return _keep(g, axis, keepdims) / count * mask


def _deviation(x: Array, axis: Any) -> Array:
    return x - np.mean(x, axis=axis, keepdims=True)


def _reshaped(shape: tuple[int, ...]) -> Pull:
    return lambda g: np.reshape(g, shape)


def _permuted_back(ndim: int, axes: Any) -> Pull:
    order = [axis % ndim for axis in (range(ndim)[::-1] if axes is None else axes)]
    return lambda g: np.transpose(g, sorted(range(ndim), key=order.__getitem__))


def scatter(index: Any, shape: tuple[int, ...], g: Array) -> Array:
    """Return zeros of `shape` with `g` added at `index`."""
    if isinstance(index, tuple) and len(index) == 1:
        (index,) = index
    if all(map(_selects_once, index if isinstance(index, tuple) else (index,))):
        result = np.zeros_like(g, shape=shape, order="C")
        result[index] = g
        return result
    if isinstance(index, tuple):  # np.add.at takes one array everywhere, but no tuple on CuPy
        places = _places(index, shape, g)
        return np.reshape(scatter(np.ravel(places), (math.prod(shape),), np.ravel(g)), shape)
    result = np.zeros_like(g, shape=shape, order="C")
    np.add.at(result, index, g)
    return result


def _selects_once(part: Any) -> bool:
    if isinstance(part, int | np.integer | slice | EllipsisType | None):
        return True
    return getattr(part, "dtype", None) == np.bool_


def numbered(like: Array, count: int) -> Array:
    """Return 0, 1, ..., `count` - 1 beside `like`: np.arange would make them on the host."""
    return np.cumsum(np.ones_like(like, shape=count, dtype=np.int64)) - 1


def _places(index: tuple[Any, ...], shape: tuple[int, ...], like: Array) -> Array:
    """Return where in a C-contiguous array of `shape` lies what `index` selects."""
    places: Any = 0
    for axis, length in enumerate(shape):
        along = np.reshape(numbered(like, length), (-1, *(1,) * (len(shape) - axis - 1)))
        places = places * length + np.broadcast_to(along, shape)[index]
    return places


def _scatter_along(indices: Array, shape: tuple[int, ...], axis: int, g: Array) -> Array:
    places: Any = 0
    for i, length in enumerate(shape):
        if i == axis:
            along = np.where(indices < 0, indices + length, indices)
        else:  # an axis of length 1 was broadcast, and its gradient is summed here
            along = np.reshape(numbered(g, g.shape[i]), (-1, *(1,) * (len(shape) - i - 1)))
            along = along if length > 1 else along * 0
        places = places * length + along
    places = np.ravel(np.broadcast_to(places, g.shape))
    return np.reshape(scatter(places, (math.prod(shape),), np.ravel(g)), shape)


def _t(x: Array) -> Array:
    return x.T if x.ndim == 2 else np.swapaxes(x, -1, -2)


def _dense(g: Array) -> Array:
    # A broadcast gradient (of a sum, a mean) would send matmul past the BLAS.
    return g.copy() if 0 in g.strides else g


def _matmul_left(x_ndim: int, y: Array) -> Pull:
    if y.ndim == 1:
        return lambda g: g[..., None] * y
    if x_ndim == 1:
        return lambda g: (y @ _dense(g)[..., None])[..., 0]
    return lambda g: _dense(g) @ _t(y)


def _matmul_right(x: Array, y_shape: tuple[int, ...]) -> Pull:
    if x.ndim == 1:
        return lambda g: x[:, None] * g[..., None, :] if len(y_shape) > 1 else g * x
    if len(y_shape) == 1:
        return lambda g: (_t(x) @ _dense(g)[..., None])[..., 0]
    if len(y_shape) == 2:  # one product over the whole batch, instead of one each and their sum
        rows, columns = y_shape
        return lambda g: np.reshape(x, (-1, rows)).T @ _dense(np.reshape(g, (-1, columns)))
    return lambda g: _t(x) @ _dense(g)


def _einsum(place: int, out: Array, subscripts: str, *operands: Any, optimize: Any = False) -> Pull:
    """Return the pull of one operand: the einsum of the others and the gradient."""
    if not isinstance(subscripts, str):
        raise TypeError("einsum takes its subscripts as a string")
    inputs, result = _letters(subscripts, [np.ndim(x) for x in operands])
    mine = inputs.pop(place)
    others = [x for i, x in enumerate(operands) if i != place]
    known = "".join(letter for letter in mine if letter in {*result}.union(*inputs))
    if len({*mine}) < len(mine):
        raise TypeError(f"{subscripts!r} takes a diagonal")
    backward = f"{','.join([result, *inputs])}->{known}"
    lost = tuple(i for i, letter in enumerate(mine) if letter not in known)  # only summed over
    shape = np.shape(operands[place])

    def pull(g: Array) -> Array:
        part = np.expand_dims(np.einsum(backward, g, *others, optimize=optimize), lost)
        full = np.broadcast_shapes(part.shape, shape)
        return part if part.shape == full else np.broadcast_to(part, full)

    return pull


def _letters(subscripts: str, ndims: list[int]) -> tuple[list[str], str]:
    """Write out what einsum leaves to be inferred: the result, and letters for each ``...``."""
    left, arrow, result = subscripts.replace(" ", "").partition("->")
    free = [letter for letter in _ALPHABET if letter not in subscripts]
    inputs = []
    for operand, ndim in zip(left.split(","), ndims, strict=True):
        rest = ndim - len(operand.replace("...", ""))
        inputs.append(operand.replace("...", "".join(free[:rest][::-1])))  # aligned on the right
    used = "".join(inputs)
    dots = "".join(letter for letter in free[::-1] if letter in used)
    if not arrow:
        result = "..." + "".join(sorted(x for x in {*used} if used.count(x) == 1 and x not in free))
    return inputs, result.replace("...", dots)


def _power_base(out: Array, x: Any, y: Any) -> Pull:
    if _is_scalar(y):
        return lambda g: g * (y * x ** (y - 1) if y else y)  # slope 0 at 0 ** 0, not 0 * inf
    return lambda g: g * (y * x ** np.where(y == 0, 1, y - 1))


def _power_exponent(out: Array, x: Any, y: Any) -> Pull:
    if _is_scalar(x):
        log = math.log(x) if x > 0 else 0.0 if x == 0 else math.nan
        return lambda g: g * (out * log)
    return lambda g: g * (out * np.log(np.where(x == 0, 1, x)))  # slope 0 at base 0, not 0 * inf


def _padding(x: Array, pad_width: Any, mode: str) -> Pull:
    """Return the pull that cuts the margins off."""
    if mode != "constant":
        raise TypeError(f"pads by {mode!r}, not by a constant")
    margins = np.broadcast_to(pad_width, (x.ndim, 2)).tolist()
    return itemgetter(
        tuple(slice(margin, margin + n) for (margin, _), n in zip(margins, x.shape, strict=True))
    )


def _norm(out: Array, x: Array, ord: Any, axis: Any, keepdims: bool) -> Pull:  # noqa: A002
    vectors = isinstance(axis, int) or (axis is None and x.ndim == 1)
    if not (ord is None or (ord == "fro" and not vectors) or (ord == 2 and vectors)):
        raise TypeError(f"ord={ord!r} is not the 2-norm of a vector or the 'fro' of a matrix")
    size = _keep(np.where(out == 0, 1, out), axis, keepdims)  # slope 0 at 0, not 0 / 0
    return lambda g: _keep(g, axis, keepdims) / size * x


def _cumulated_back(shape: tuple[int, ...], axis: Any) -> Pull:
    return lambda g: np.reshape(np.flip(np.cumsum(np.flip(g, axis), axis), axis), shape)


def _is_scalar(x: Any) -> bool:
    return isinstance(x, int | float | np.generic)


def erf(x: Array) -> Array:
    """Return the error function by Gauss's quadrature of its integral; see `functions.erf`."""
    if is_half(x.dtype):  # rounded at the end, not in every term
        return erf(x.astype(np.float32)).astype(x.dtype)
    x = np.clip(x, -6, 6)  # erf(6) is 1 in float64
    total: Any = 0
    for node, weight in _GAUSS:
        total = total + weight * np.exp(x * x * -(node * node))
    return 2 / math.sqrt(math.pi) * x * total


# 24 nodes on [0, 1]: the error of the rule on exp(-(6 s)**2) is then below its rounding.
_GAUSS = [
    ((node + 1) / 2, weight / 2)
    for node, weight in zip(
        *map(np.ndarray.tolist, np.polynomial.legendre.leggauss(24)), strict=True
    )
]

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def no_derivative(what: str) -> TypeError:
    """Return the error that says so, and what to do."""
    return TypeError(
        f"{what} has no derivative here; compose it from functions that have one (listed in "
        f"adamoffload.autodiff.derivatives), or compute it outside of the loss function"
    )


DERIVATIVES: dict[Callable[..., Any], tuple[Maker, ...]] = {
    np.positive: (_same,),
    np.negative: (lambda out, x: lambda g: -g,),
    np.add: (_same, _same),
    np.subtract: (_same, lambda out, x, y: lambda g: -g),
    np.multiply: (lambda out, x, y: lambda g: g * y, lambda out, x, y: lambda g: g * x),
    np.divide: (lambda out, x, y: lambda g: g / y, lambda out, x, y: lambda g: -g * out / y),
    np.power: (_power_base, _power_exponent),
    np.reciprocal: (lambda out, x: lambda g: -g * out * out,),
    np.square: (lambda out, x: lambda g: 2 * g * x,),
    np.sqrt: (lambda out, x: lambda g: 0.5 * g / out,),
    np.absolute: (lambda out, x: lambda g: g * np.sign(x),),
    np.exp: (lambda out, x: lambda g: g * out,),
    np.exp2: (lambda out, x: lambda g: g * out * math.log(2),),
    np.expm1: (lambda out, x: lambda g: g * (out + 1),),
    np.log: (lambda out, x: lambda g: g / x,),
    np.log2: (lambda out, x: lambda g: g / x / math.log(2),),
    np.log10: (lambda out, x: lambda g: g / x / math.log(10),),
    np.log1p: (lambda out, x: lambda g: g / (x + 1),),
    np.logaddexp: (
        lambda out, x, y: lambda g: g * np.exp(x - out),
        lambda out, x, y: lambda g: g * np.exp(y - out),
    ),
    np.sin: (lambda out, x: lambda g: g * np.cos(x),),
    np.cos: (lambda out, x: lambda g: -g * np.sin(x),),
    np.tan: (lambda out, x: lambda g: g * (out * out + 1),),
    np.arctan: (lambda out, x: lambda g: g / (x * x + 1),),
    np.sinh: (lambda out, x: lambda g: g * np.cosh(x),),
    np.cosh: (lambda out, x: lambda g: g * np.sinh(x),),
    np.tanh: (lambda out, x: lambda g: g * (1 - out * out),),
    # By the result, which is mostly kept anyway, as an operand of what comes next.
    np.maximum: (
        lambda out, x, y: lambda g: g * (out > y),
        lambda out, x, y: lambda g: g * (out == y),
    ),
    np.minimum: (
        lambda out, x, y: lambda g: g * (out < y),
        lambda out, x, y: lambda g: g * (out == y),
    ),
    np.matmul: (
        lambda out, x, y: _matmul_left(x.ndim, y),
        lambda out, x, y: _matmul_right(x, y.shape),
    ),
    np.einsum: (_fixed, *(partial(_einsum, place) for place in range(8))),
    np.sum: (
        lambda out, x, axis=None, *, keepdims=False: partial(_spread, x.shape, axis, keepdims, 1),
    ),
    np.mean: (
        lambda out, x, axis=None, *, keepdims=False: partial(
            _spread, x.shape, axis, keepdims, _count(out, x)
        ),
    ),
    np.var: (
        lambda out, x, axis=None, *, ddof=0, keepdims=False: (
            lambda g: _keep(g * (2 / (_count(out, x) - ddof)), axis, keepdims) * _deviation(x, axis)
        ),
    ),
    np.std: (
        lambda out, x, axis=None, *, ddof=0, keepdims=False: (
            lambda g: _keep(g / out / (_count(out, x) - ddof), axis, keepdims) * _deviation(x, axis)
        ),
    ),
    np.max: (lambda out, x, axis=None, *, keepdims=False: partial(_share, out, x, axis, keepdims),),
    np.min: (lambda out, x, axis=None, *, keepdims=False: partial(_share, out, x, axis, keepdims),),
    np.where: (
        _fixed,
        lambda out, mask, x, y: lambda g: np.where(mask, g, 0),
        lambda out, mask, x, y: lambda g: np.where(mask, 0, g),
    ),
    np.clip: (lambda out, x, *_, **__: partial(np.multiply, out == x),),
    np.reshape: (lambda out, x, shape: _reshaped(x.shape),),
    np.ravel: (lambda out, x: _reshaped(x.shape),),
    np.squeeze: (lambda out, x, axis=None: _reshaped(x.shape),),
    np.expand_dims: (lambda out, x, axis: _reshaped(x.shape),),
    np.broadcast_to: (lambda out, x, shape: _identity,),
    np.transpose: (lambda out, x, axes=None: _permuted_back(out.ndim, axes),),
    np.swapaxes: (lambda out, x, axis1, axis2: lambda g: np.swapaxes(g, axis1, axis2),),
    np.moveaxis: (
        lambda out, x, source, destination: lambda g: np.moveaxis(g, destination, source),
    ),
    np.flip: (lambda out, x, axis=None: lambda g: np.flip(g, axis),),
    np.cumsum: (lambda out, x, axis=None: _cumulated_back(x.shape, axis),),
    np.tril: (lambda out, x, k=0: lambda g: np.tril(g, k),),
    np.triu: (lambda out, x, k=0: lambda g: np.triu(g, k),),
    np.pad: (lambda out, x, pad_width, mode="constant", **_: _padding(x, pad_width, mode),),
    np.copy: (_same,),
    np.linalg.norm: (
        lambda out, x, ord=None, axis=None, keepdims=False: _norm(out, x, ord, axis, keepdims),  # noqa: A006
    ),
    erf: (lambda out, x: lambda g: g * (2 / math.sqrt(math.pi)) * np.exp(-x * x),),
    np.take_along_axis: (
        lambda out, x, indices, axis=-1: partial(_scatter_along, indices, x.shape, axis % x.ndim),
    ),
}
DERIVATIVES[np.amax] = DERIVATIVES[np.max]
DERIVATIVES[np.amin] = DERIVATIVES[np.min]

CONSTANT = frozenset(
    getattr(np, name)
    for name in (
        "all allclose any argmax argmin argsort array_equal ceil count_nonzero empty_like equal "
        "floor floor_divide greater greater_equal isclose isfinite isinf isnan less less_equal "
        "logical_and logical_not logical_or logical_xor ndim nonzero not_equal ones_like "
        "result_type rint shape sign signbit size trunc zeros_like"
    ).split()
)
