"""Mistakes of operations: what a device cannot compute, or computes differently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from broken_backends import broken
from lazy_backend import LazyArray, LazyBackend

_NUMPY = "computes on device arrays with plain ``np.*`` calls"
_RESULTS, _WRITES = "results_stay_on_the_device", "writes_reach_their_array"
_ROUNDED, _VIEWS = "functions_agree_with_numpy", "slices_are_views"
_HALVES = "sixteen_bits"


def _missing(function: Callable[..., Any], test: str, name: str) -> None:
    """Note a backend that does not have one of NumPy's functions."""

    @broken(_NUMPY, test, f"{name} is missing", f"{name} does not run on the device")
    class Misses(LazyBackend):
        def compute(self, called: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            if called == function:
                raise NotImplementedError(name)
            return super().compute(called, args, kwargs)


_missing(np.take_along_axis, _RESULTS, "np.take_along_axis")
_missing(np.broadcast_to, _RESULTS, "np.broadcast_to")
_missing(np.where, _RESULTS, "np.where")
_missing(np.add.at, _RESULTS, "np.add.at of rows")
_missing(np.einsum, _RESULTS, "np.einsum")
_missing(np.flip, _RESULTS, "np.flip")
_missing(np.argsort, _RESULTS, "np.argsort")
_missing(np.pad, _RESULTS, "np.pad")
_missing(np.logaddexp.__call__, _ROUNDED, "np.logaddexp")


def _wrong(
    test: str,
    mistake: str,
    message: str,
    compute: Callable[[Any, Callable[..., Any], Any, dict[str, Any]], Any],
) -> None:
    """Note a backend that computes by `compute`, which gets the right way as its first argument."""

    @broken(_NUMPY, test, mistake, message)
    class Computes(LazyBackend):
        def compute(self, called: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            return compute(super().compute, called, args, kwargs)


def _named(called: Callable[..., Any]) -> str:
    owner = getattr(called, "__self__", None)
    return getattr(owner, "__name__", "") or getattr(called, "__name__", "")


def _without_out(right: Any, called: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if called is np.concatenate and "out" in kwargs:
        return right(called, args, {})
    return right(called, args, kwargs)


def _once(right: Any, called: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if called == np.add.at:
        target, index, values = args
        target[index] = target[index] + values
        return None
    return right(called, args, kwargs)


def _into_copies(right: Any, called: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if "out" in kwargs and isinstance(kwargs["out"], tuple) and kwargs["out"][0].ndim == 1:
        return right(called, args, {})
    return right(called, args, kwargs)


def _double(right: Any, called: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    result = right(called, args, kwargs)
    return result.astype(np.float64) if called is np.mean else result


def _squeezed(right: Any, called: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if called in (np.max, np.min):
        kwargs = {key: value for key, value in kwargs.items() if key != "keepdims"}
    return right(called, args, kwargs)


def _uncleared(right: Any, called: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    result = right(called, args, kwargs)
    if called is np.zeros_like:
        result.fill(3)
    return result


def _rough(right: Any, called: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    result = right(called, args, kwargs)
    if _named(called) == "exp" and not isinstance(result, np.ndarray):
        return result.astype(np.float16).astype(np.float32)
    return result


def _rounding_sums(right: Any, called: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if called is not np.sum or args[0].dtype != np.float16 or kwargs:
        return right(called, args, kwargs)
    total = right(np.sum, (args[0][0, :0],), {})
    for i in range(args[0].shape[1]):
        total = total + args[0][0, i]
    return total


def _widening(right: Any, called: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    result = right(called, args, kwargs)
    return result.astype(np.float32) if _named(called) == "sqrt" else result


def _rough_root(right: Any, called: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    result = right(called, args, kwargs)
    if _named(called) == "sqrt" and kwargs.get("out"):
        (target,) = kwargs["out"]
        right(np.multiply, (target, np.float32(1 + 2**-23)), {"out": (target,)})
    return result


def _unaliased(right: Any, called: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    return False if called is np.may_share_memory else right(called, args, kwargs)


_wrong(
    _WRITES,
    "np.concatenate ignores ``out``",
    "np.concatenate(..., out=) differs",
    _without_out,
)
_wrong(
    _RESULTS, "np.add.at adds once where an index comes twice", "np.add.at of rows differs", _once
)
_wrong(
    _WRITES,
    "``out=`` is ignored if it is a view",
    "np.multiply(..., out=) into a view differs",
    _into_copies,
)
_wrong(_RESULTS, "np.mean returns float64", "np.mean differs: dtype float64, not float32", _double)
_wrong(
    _RESULTS, "np.max ignores ``keepdims``", "np.max and np.min to one element differs", _squeezed
)
_wrong(_RESULTS, "np.zeros_like does not clear its array", "differs", _uncleared)
_wrong(_ROUNDED, "np.exp has the precision of float16", "np.exp differs", _rough)
_wrong(
    _HALVES,
    "16-bit sums are rounded after every element",
    "np.sum of 4096 ones in float16 is 2048",
    _rounding_sums,
)
_wrong(_HALVES, "np.sqrt of 16 bits returns 32", "np.sqrt of float16 returns float32", _widening)
_wrong(
    "training_on_the_device_equals_the_numpy_backend",
    "np.sqrt is wrong in the last place",
    "after training differs from numpy's",
    _rough_root,
)
_wrong(
    _VIEWS,
    "np.may_share_memory always says no",
    "np.may_share_memory denies a slice of rows",
    _unaliased,
)


class _Copying(LazyArray):
    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return part.copy() if part.ndim == 2 else part


@broken(_NUMPY, _VIEWS, "slices of two axes are copies", "a slice of rows is not a view")
class SlicesAreCopies(LazyBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> LazyArray:
        return _Copying(super()._empty(shape, dtype).data, self)


class _Reversing(LazyArray):
    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return part.copy() if min(part.strides, default=0) < 0 else part


_REVERSE = "reverse_views_are_what_the_backend_says"


@broken(_NUMPY, _REVERSE, "reverse views are copies", "x[::-1] is not a view")
class ReversesToCopies(LazyBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> LazyArray:
        return _Reversing(super()._empty(shape, dtype).data, self)


@broken(
    _NUMPY,
    _REVERSE,
    "``negative_strides`` is False, but there are such views",
    "x[::-1] is not refused by a device without such views",
)
class DeniesReverseViews(LazyBackend):
    negative_strides = False


class _Reshaping(LazyArray):
    def reshape(self, *shape: Any) -> Any:
        return self.copy().__getattr__("reshape")(*shape)


@broken(_NUMPY, _VIEWS, "reshape(-1) is a copy", "x.reshape(-1) is not a view")
class ReshapesToCopies(LazyBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> LazyArray:
        return _Reshaping(super()._empty(shape, dtype).data, self)


class _Unindexed(LazyArray):
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, LazyArray):
            raise TypeError("an index must be an int or a slice")
        return super().__getitem__(index)


@broken(
    _NUMPY,
    "a_model_trains",
    "arrays cannot be indexed by arrays",
    "an index must be an int or a slice",
)
class HasNoGather(LazyBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> LazyArray:
        return _Unindexed(super()._empty(shape, dtype).data, self)
