"""NumPy's functions, on tensors: with NumPy's parameters, and NumPy's types of results.

The table `FUNCTIONS` is what `adamoffload.device.library.LibraryArray` looks functions up in. Every
function takes and returns tensors. Operands of a ufunc come in the type of the loop that NumPy
would run, numbers as 0-D tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adamoffload_torch.types import numpy_type, torch_type

__all__ = ["FUNCTIONS", "ON_THE_CPU"]

Axis = int | tuple[int, ...] | None


def _dims(x: Tensor, axis: Axis) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(x.ndim))
    return axis if isinstance(axis, tuple) else (axis,)


def _alike(*values: Any) -> list[Tensor]:
    """Return tensors and numbers as tensors of the type that NumPy promotes them to."""
    kinds = [numpy_type(x.dtype) if isinstance(x, Tensor) else x for x in values]
    dtype = torch_type(np.result_type(*kinds))
    device = next(x.device for x in values if isinstance(x, Tensor))
    return [
        x.to(dtype) if isinstance(x, Tensor) else torch.tensor(x, dtype=dtype, device=device)
        for x in values
    ]


def _inexact(x: Tensor, dtype: Any = None) -> Tensor:
    """Return a tensor in a type that has fractions: NumPy's float64 for whole numbers."""
    if dtype is not None:
        return x.to(torch_type(np.dtype(dtype)))
    return x if x.is_floating_point() or x.is_complex() else x.to(torch.float64)


# -- reductions -----------------------------------------------------------------------------------


def _sum(a: Tensor, axis: Axis = None, dtype: Any = None, *, keepdims: bool = False) -> Tensor:
    kind = None if dtype is None else torch_type(np.dtype(dtype))
    return torch.sum(a, _dims(a, axis), keepdim=keepdims, dtype=kind)


def _prod(a: Tensor, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    for dim in sorted((d % a.ndim for d in _dims(a, axis)), reverse=True):
        a = torch.prod(a, dim, keepdim=keepdims)
    return a


def _mean(a: Tensor, axis: Axis = None, dtype: Any = None, *, keepdims: bool = False) -> Tensor:
    return torch.mean(_inexact(a, dtype), _dims(a, axis), keepdim=keepdims)


def _var(a: Tensor, axis: Axis = None, *, ddof: int = 0, keepdims: bool = False) -> Tensor:
    return torch.var(_inexact(a), _dims(a, axis), correction=ddof, keepdim=keepdims)


def _std(a: Tensor, axis: Axis = None, *, ddof: int = 0, keepdims: bool = False) -> Tensor:
    return torch.std(_inexact(a), _dims(a, axis), correction=ddof, keepdim=keepdims)


def _max(a: Tensor, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    return torch.amax(a, _dims(a, axis), keepdim=keepdims)


def _min(a: Tensor, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    return torch.amin(a, _dims(a, axis), keepdim=keepdims)


def _any(a: Tensor, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    return torch.any(a != 0, _dims(a, axis), keepdim=keepdims)


def _all(a: Tensor, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    return torch.all(a != 0, _dims(a, axis), keepdim=keepdims)


def _argmax(a: Tensor, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
    return torch.argmax(_ordered(a), axis, keepdim=keepdims)


def _argmin(a: Tensor, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
    return torch.argmin(_ordered(a), axis, keepdim=keepdims)


def _ordered(a: Tensor) -> Tensor:
    return a.to(torch.uint8) if a.dtype == torch.bool else a


def _count_nonzero(a: Tensor, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    return _sum(a != 0, axis, keepdims=keepdims)


def _cumsum(a: Tensor, axis: int | None = None, dtype: Any = None) -> Tensor:
    kind = None if dtype is None else torch_type(np.dtype(dtype))
    return torch.cumsum(*_along(a, axis), dtype=kind)


def _cumprod(a: Tensor, axis: int | None = None) -> Tensor:
    return torch.cumprod(*_along(a, axis))


def _sort(a: Tensor, axis: int | None = -1, **_: Any) -> Tensor:
    values, dim = _along(a, axis)
    return torch.sort(values, dim=dim, stable=True).values


def _argsort(a: Tensor, axis: int | None = -1, **_: Any) -> Tensor:
    values, dim = _along(a, axis)
    return torch.argsort(values, dim=dim, stable=True)


def _along(a: Tensor, axis: int | None) -> tuple[Tensor, int]:
    return (a.reshape(-1), 0) if axis is None else (a, axis)


def _norm(x: Tensor, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Tensor:  # noqa: A002
    return torch.linalg.norm(_inexact(x), ord, axis, keepdim=keepdims)


def _trace(a: Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    return torch.diagonal(a, offset, axis1, axis2).sum(-1)


# -- products -------------------------------------------------------------------------------------


def _dot(a: Any, b: Any) -> Tensor:
    a, b = _alike(a, b)
    if not a.ndim or not b.ndim:
        return a * b
    return torch.tensordot(a, b, ([-1], [-2])) if b.ndim > 2 else torch.matmul(a, b)


def _tensordot(a: Tensor, b: Tensor, axes: Any = 2) -> Tensor:
    if isinstance(axes, int | np.integer):
        return torch.tensordot(a, b, int(axes))
    pairs = [[int(i)] if isinstance(i, int | np.integer) else [*map(int, i)] for i in axes]
    return torch.tensordot(a, b, pairs)


def _einsum(subscripts: str, *operands: Tensor, optimize: Any = False) -> Tensor:  # noqa: ARG001
    return torch.einsum(subscripts, *_alike(*operands))


# -- shapes ---------------------------------------------------------------------------------------


def _shape(shape: Any) -> tuple[int, ...]:
    return (int(shape),) if isinstance(shape, int | np.integer) else tuple(map(int, shape))


def _transpose(a: Tensor, axes: Any = None) -> Tensor:
    return torch.permute(a, tuple(range(a.ndim))[::-1] if axes is None else tuple(axes))


def _expand_dims(a: Tensor, axis: Any) -> Tensor:
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    ndim = a.ndim + len(axes)
    for place in sorted(i % ndim for i in axes):
        a = torch.unsqueeze(a, place)
    return a


def _squeeze(a: Tensor, axis: Axis = None) -> Tensor:
    if axis is None:
        return torch.squeeze(a)
    dims = _dims(a, axis)
    if any(a.shape[dim] != 1 for dim in dims):
        raise ValueError(f"np.squeeze: axis {axis} of shape {tuple(a.shape)} is not of length 1")
    return torch.squeeze(a, dims)


def _concatenate(arrays: Sequence[Tensor], axis: int | None = 0, out: Any = None) -> Tensor:
    if axis is None:
        arrays, axis = [x.reshape(-1) for x in arrays], 0
    if out is None:
        return torch.cat(_alike(*arrays), axis)
    lengths = [x.shape[axis] for x in arrays]
    for part, x in zip(torch.split(out, lengths, axis), arrays, strict=True):
        part.copy_(x)
    return out


def _split(ary: Tensor, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    sections = indices_or_sections
    if isinstance(sections, int | np.integer) and ary.shape[axis] % sections:
        raise ValueError(f"np.split: axis {axis} has no {sections} equal parts")
    return _array_split(ary, sections, axis)


def _array_split(ary: Tensor, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    parts = indices_or_sections
    parts = int(parts) if isinstance(parts, int | np.integer) else [*map(int, parts)]
    return [*torch.tensor_split(ary, parts, axis)]


def _repeat(a: Tensor, repeats: Any, axis: int | None = None) -> Tensor:
    if isinstance(repeats, list | tuple):
        repeats = torch.tensor(repeats, device=a.device)
    return torch.repeat_interleave(a, repeats, axis)


def _flip(m: Tensor, axis: Axis = None) -> Tensor:
    return torch.flip(m, _dims(m, axis))


def _pad(
    array: Tensor, pad_width: Any, mode: str = "constant", *, constant_values: Any = 0
) -> Tensor:
    if mode != "constant":
        raise TypeError(f"np.pad: mode {mode!r} does not run on device 'torch'; pad by a constant")
    margins = np.broadcast_to(pad_width, (array.ndim, 2)).tolist()
    last_axis_first = [n for pair in margins[::-1] for n in pair]
    return torch.nn.functional.pad(array, last_axis_first, value=constant_values)


def _roll(a: Tensor, shift: Any, axis: Axis = None) -> Tensor:
    return torch.roll(a, shift, () if axis is None else axis)


# -- choice, gather and scatter -------------------------------------------------------------------


def _where(condition: Tensor, *choices: Any) -> Any:
    mask = condition if condition.dtype == torch.bool else condition != 0
    return torch.where(mask, *_alike(*choices)) if choices else torch.where(mask)


def _clip(a: Tensor, a_min: Any = None, a_max: Any = None, **bounds: Any) -> Tensor:
    low, high = bounds.get("min", a_min), bounds.get("max", a_max)
    if low is not None:
        a = torch.maximum(*_alike(a, low))
    return a.clone() if high is None and low is None else _capped(a, high)


def _capped(a: Tensor, high: Any) -> Tensor:
    return a if high is None else torch.minimum(*_alike(a, high))


def _take(a: Tensor, indices: Tensor, axis: int | None = None) -> Tensor:
    if axis is None:
        return a.reshape(-1)[indices]
    return a[(*(slice(None),) * (axis % a.ndim), indices)]


def _take_along_axis(arr: Tensor, indices: Tensor, axis: int | None = -1) -> Tensor:
    if axis is None:
        arr, axis = arr.reshape(-1), 0
    counted = torch.where(indices < 0, indices + arr.shape[axis], indices)
    return torch.take_along_dim(arr, counted, axis)


# -- new arrays -----------------------------------------------------------------------------------


def _like(make: str, *fill: Any) -> Callable[..., Tensor]:
    def made(
        a: Tensor, *given: Any, dtype: Any = None, shape: Any = None, order: str = "K", **_: Any
    ) -> Tensor:
        kind = a.dtype if dtype is None else torch_type(np.dtype(dtype))
        size = a.shape if shape is None else _shape(shape)
        new: Tensor = getattr(a, make)(size, *fill, *given, dtype=kind)
        if shape is None and order == "K" and not a.is_contiguous():
            return new.as_strided(a.shape, torch.empty_like(a).stride())
        return new

    return made


def _copy(a: Tensor, order: str = "K", **_: Any) -> Tensor:
    keeps = torch.preserve_format if order in "KA" else torch.contiguous_format
    return a.clone(memory_format=keeps)


def _copyto(dst: Tensor, src: Any, casting: Any = "same_kind", where: Any = True) -> None:  # noqa: ARG001
    number = not isinstance(src, Tensor)
    if where is not True:
        dst.copy_(torch.where(where, *_alike(src, dst)))
    elif number:
        dst.fill_(src.item() if isinstance(src, np.generic) else src)
    else:
        dst.copy_(src)


def _isclose(
    a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    return torch.isclose(*_alike(a, b), rtol=rtol, atol=atol, equal_nan=equal_nan)


def _array_equal(a1: Tensor, a2: Tensor) -> Tensor:
    same = a1.shape == a2.shape
    return torch.all(torch.eq(*_alike(a1, a2))) if same else torch.tensor(False, device=a1.device)


# -- the table ------------------------------------------------------------------------------------


def _into(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give a function the parameter ``out`` that PyTorch's has not."""

    def call(*operands: Tensor, out: Tensor | None = None) -> Tensor:
        result = function(*operands)
        return result if out is None else out.copy_(result)

    return call


def _power(x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    # Of a number, PyTorch makes products where the exponent is 2 or 3, as NumPy makes squares.
    exponent: Any = y.item() if y.ndim == 0 and y.device.type == "cpu" and x.ndim else y
    return torch.pow(x, exponent, out=out)


def _sqrt_of_numpy(x: Tensor, out: Tensor | None = None) -> Tensor:
    # On a CPU with AVX-512, that of PyTorch 2.13 is off by one in the last place for one number in
    # five, and a step would not have the bits that it has elsewhere. NumPy's is rounded correctly.
    if x.dtype not in (torch.float32, torch.float64):
        return torch.sqrt(x, out=out)
    result = torch.empty_like(x) if out is None else out
    np.sqrt(x.numpy(), out=result.numpy())
    torch.autograd.graph.increment_version(result)
    return result


_UFUNCS: dict[str, Callable[..., Any]] = {
    name: getattr(torch, name)
    for name in (
        "add arctan arctan2 arctanh arccos arcsin arcsinh arccosh bitwise_and bitwise_or "
        "bitwise_xor ceil cos cosh exp exp2 expm1 floor floor_divide fmax fmin fmod greater "
        "greater_equal hypot less less_equal log log10 log1p log2 logaddexp logical_and "
        "logical_not logical_or logical_xor matmul maximum minimum multiply negative not_equal "
        "reciprocal remainder sign signbit sin sinh sqrt square subtract tan tanh trunc"
    ).split()
} | {
    "absolute": torch.abs,
    "conjugate": _into(torch.conj_physical),
    "divide": torch.true_divide,
    "equal": torch.eq,
    "invert": torch.bitwise_not,
    "isfinite": _into(torch.isfinite),
    "isinf": _into(torch.isinf),
    "isnan": _into(torch.isnan),
    "left_shift": torch.bitwise_left_shift,
    "positive": _into(torch.clone),
    "power": _power,
    "right_shift": torch.bitwise_right_shift,
    "rint": torch.round,
}

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "all": _all,
    "allclose": lambda *args, **named: torch.all(_isclose(*args, **named)),
    "amax": _max,
    "amin": _min,
    "any": _any,
    "argmax": _argmax,
    "argmin": _argmin,
    "argsort": _argsort,
    "array_equal": _array_equal,
    "array_split": _array_split,
    "broadcast_to": lambda array, shape: torch.broadcast_to(array, _shape(shape)),
    "clip": _clip,
    "concatenate": _concatenate,
    "copy": _copy,
    "copyto": _copyto,
    "count_nonzero": _count_nonzero,
    "cumprod": _cumprod,
    "cumsum": _cumsum,
    "diagonal": torch.diagonal,
    "dot": _dot,
    "einsum": _einsum,
    "empty_like": _like("new_empty"),
    "expand_dims": _expand_dims,
    "flip": _flip,
    "full_like": _like("new_full"),
    "hstack": lambda tup: torch.hstack(_alike(*tup)),
    "isclose": _isclose,
    "matrix_transpose": lambda x: torch.transpose(x, -1, -2),
    "max": _max,
    "mean": _mean,
    "min": _min,
    "moveaxis": lambda a, source, destination: torch.moveaxis(a, source, destination),
    "nonzero": lambda a: torch.nonzero(a, as_tuple=True),
    "ones_like": _like("new_ones"),
    "outer": lambda a, b: torch.outer(*(x.reshape(-1) for x in _alike(a, b))),
    "pad": _pad,
    "prod": _prod,
    "ravel": lambda a, order="C": torch.ravel(a),  # noqa: ARG005
    "repeat": _repeat,
    "reshape": lambda a, shape, order="C": torch.reshape(a, _shape(shape)),  # noqa: ARG005
    "roll": _roll,
    "round": lambda a, decimals=0: torch.round(a, decimals=decimals),
    "sort": _sort,
    "split": _split,
    "squeeze": _squeeze,
    "stack": lambda arrays, axis=0: torch.stack(_alike(*arrays), axis),
    "std": _std,
    "sum": _sum,
    "swapaxes": torch.swapaxes,
    "take": _take,
    "take_along_axis": _take_along_axis,
    "tensordot": _tensordot,
    "tile": lambda A, reps: torch.tile(A, _shape(reps)),  # noqa: N803
    "trace": _trace,
    "transpose": _transpose,
    "tril": lambda m, k=0: torch.tril(m, k),
    "triu": lambda m, k=0: torch.triu(m, k),
    "var": _var,
    "vstack": lambda tup: torch.vstack(_alike(*tup)),
    "where": _where,
    "zeros_like": _like("new_zeros"),
}

FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **{getattr(np, name): function for name, function in (_UFUNCS | _FUNCTIONS).items()},
    np.linalg.norm: _norm,
}
"""By NumPy's function: the same on tensors."""

ON_THE_CPU = {**FUNCTIONS, np.sqrt: _sqrt_of_numpy}
