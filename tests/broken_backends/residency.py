"""Mistakes of residency: whose an array is, and what crosses the link unasked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from adamoffload.device.array import DeviceArray
from adamoffload.device.backend import Memory
from adamoffload.device.parameter import Parameter

from broken_backends import PlainBackend, broken
from lazy_backend import LazyArray, LazyBackend

_MINE = "Arrays, their views and the results of ``np.*`` do; a `Parameter`, a list of arrays, and"
_ANY = (
    "Any object may be asked about, from any thread, and as soon as ``Backend.__init__`` returned."
)
_SILENT = "Nothing is ever copied between host and device silently"


@broken(
    "Return whether `array` lives in this device's memory.",
    "devices_are_separate",
    "owns() looks at the array's type only",
    "owns() claims an array of another device of the same kind",
)
class OwnsTooMuch(PlainBackend):
    def owns(self, array: object) -> bool:
        return isinstance(array, DeviceArray)


@broken(
    _MINE,
    "owns_its_arrays_and_nothing_else",
    "owns() claims a Parameter whose data is here",
    "owns() claims a Parameter",
)
class OwnsParameters(PlainBackend):
    def owns(self, array: object) -> bool:
        return super().owns(array.data if isinstance(array, Parameter) else array)


@broken(
    _MINE,
    "owns_its_arrays_and_nothing_else",
    "owns() claims a list of its arrays",
    "owns() claims a list",
)
class OwnsLists(PlainBackend):
    def owns(self, array: object) -> bool:
        return super().owns(array[0] if isinstance(array, list) and array else array)


@broken(
    _MINE,
    "owns_its_arrays_and_nothing_else",
    "owns() knows what it has allocated, and no views",
    "owns() denies a view of the device",
)
class OwnsNoViews(PlainBackend):
    def owns(self, array: object) -> bool:
        return isinstance(array, DeviceArray) and array.device is self and array._array.base is None


@broken(
    _MINE,
    "owns_its_arrays_and_nothing_else",
    "owns() knows what it has allocated, and no results",
    "owns() denies a result of the device",
)
class OwnsNoResults(PlainBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        array = super()._empty(shape, dtype)
        self.__dict__.setdefault("blocks", set()).add(id(array._block))
        return array

    def owns(self, array: object) -> bool:
        blocks = self.__dict__.get("blocks", ())
        return (
            isinstance(array, DeviceArray) and array.device is self and id(array._block) in blocks
        )


@broken(
    _MINE,
    "owns_its_arrays_and_nothing_else",
    "owns() goes by the attribute ``device``, which other objects have too",
    "owns() claims a SimpleNamespace",
)
class OwnsWhatNamesIt(PlainBackend):
    def owns(self, array: object) -> bool:
        try:
            return getattr(array, "device", None) is self
        except RuntimeError:
            return False


@broken(
    _MINE,
    "arrays_from_elsewhere_are_refused",
    "owns() claims arrays of the host, whose memory it can reach",
    "d2h took a source that is not on the device",
)
class OwnsTheHost(PlainBackend):
    def owns(self, array: object) -> bool:
        return super().owns(array) or isinstance(array, np.ndarray)


@broken(
    _ANY,
    "owns_answers_for_any_object_at_any_time",
    "owns() asks whatever object it gets for its device",
    "raises for a _Hostile",
)
class OwnsByAttribute(PlainBackend):
    def owns(self, array: object) -> bool:
        return getattr(array, "device", None) is self


@broken(
    _ANY,
    "owns_answers_for_any_object_at_any_time",
    "owns() uses what __init__ sets after Backend.__init__",
    "owns() of a device under construction raises for a NoneType",
)
class OwnsTooLate(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(memory_bytes)
        self.kind = DeviceArray

    def owns(self, array: object) -> bool:
        return isinstance(array, self.kind) and array.device is self


@broken(
    _ANY,
    "owns_its_arrays_and_nothing_else",
    "owns() knows its arrays in the thread that made the device",
    "owns() denies an array in another thread",
)
class OwnsInItsThread(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        self.thread = threading.get_ident()
        super().__init__(memory_bytes)

    def owns(self, array: object) -> bool:
        return super().owns(array) and threading.get_ident() == self.thread


@broken(
    "Return the bytes of device memory used, at peak, and allowed.",
    "devices_are_separate",
    "two devices share their pool",
    "devices share their counters",
)
class SharesItsPool(PlainBackend):
    pools: dict[int | None, Any] = {}  # noqa: RUF012

    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(memory_bytes)
        self.pool = self.pools.setdefault(memory_bytes, self.pool)

    def memory(self) -> Memory:
        return self.pool.memory()


@broken(
    "Return why this backend cannot run here, and the remedy; empty if it can.",
    "a_device_that_runs_is_available",
    "unavailable() says what was found instead of nothing",
    "unavailable() gives a reason although the device runs",
)
class AlwaysUnavailable(PlainBackend):
    @classmethod
    def unavailable(cls) -> str:
        return "found 1 device"


# -- nothing implicit -----------------------------------------------------------------------------


class Made(LazyBackend):
    """Its arrays are of a kind of its own."""

    kind: type[LazyArray] = LazyArray

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> LazyArray:
        return self.kind(super()._empty(shape, dtype).data, self)


@broken(
    _SILENT,
    "implicit_conversion_is_refused",
    "a device array converts itself to a host array",
    "np.asarray copied a device array to the host implicitly",
)
class ConvertsImplicitly(Made):
    class kind(LazyArray):  # noqa: N801
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return self.device.asnumpy(self)


@broken(
    _SILENT,
    "implicit_conversion_is_refused",
    "an assignment from a host array is a copy",
    "an assignment copied a host array to the device implicitly",
)
class AssignsFromTheHost(Made):
    class kind(LazyArray):  # noqa: N801
        def __setitem__(self, index: Any, value: Any) -> None:
            value = self.device.asarray(value) if isinstance(value, np.ndarray) else value
            super().__setitem__(index, value)


@broken(
    _SILENT,
    "implicit_conversion_is_refused",
    "np.copyto takes host arrays, in both directions",
    "np.copyto copied a device array to the host implicitly",
)
class CopiesToTheHost(LazyBackend):
    def compute(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if function is np.copyto and isinstance(args[0], np.ndarray):
            args[0][...] = self.asnumpy(args[1])
            return None
        return super().compute(function, args, kwargs)


@broken(
    _SILENT,
    "host_and_device_operands_do_not_mix",
    "host operands are copied to the device silently",
    "device + host was computed with an implicit copy",
)
class MixesOperands(LazyBackend):
    def compute(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        args = [self.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
        return super().compute(function, args, kwargs)


@broken(
    _SILENT,
    "host_and_device_operands_do_not_mix",
    "a result is brought to a host array that is given as ``out``",
    "np.add(device, device, out=host) was computed with an implicit copy",
)
class WritesToTheHost(LazyBackend):
    def compute(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        out = kwargs.get("out", (None,))[0]
        if isinstance(out, np.ndarray):
            out[...] = self.asnumpy(super().compute(function, args, {}))
            return out
        return super().compute(function, args, kwargs)


@broken(
    _SILENT,
    "host_and_device_operands_do_not_mix",
    "lists of arrays may hold arrays of the host",
    "np.concatenate([device, host]) was computed with an implicit copy",
)
class MixesLists(LazyBackend):
    def compute(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if function is np.concatenate:
            parts = [self.asarray(a) if isinstance(a, np.ndarray) else a for a in args[0]]
            args = (parts, *args[1:])
        return super().compute(function, args, kwargs)


@broken(
    _SILENT,
    "results_stay_on_the_device",
    "sums are returned as arrays of the host",
    "the result of np.sum to one number left the device",
)
class ResultsLeaveTheDevice(LazyBackend):
    def compute(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = super().compute(function, args, kwargs)
        return self.asnumpy(result) if function is np.sum else result
