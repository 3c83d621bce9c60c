"""`Resident`: what arrays on a device have in common, whatever their memory is made of.

They stay where they are. There is no implicit way to the host, and no operand from elsewhere;
``float(x)`` and its like are copies that somebody asked for, and are counted.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from adamoffload.device.backend import ResidencyError
from adamoffload.device.half import named

if TYPE_CHECKING:
    from adamoffload.device.backend import Backend

__all__ = ["METHODS", "OF_DATA", "ON_HOST", "SCALARS", "SEQUENCES", "NotOursError", "Resident"]

# Tuples, not unions: isinstance of a union written out is 0.2 us slower, in every operation.
SCALARS = (float, int, complex, np.generic)  # a bool is an int
SEQUENCES = (list, tuple)
ON_HOST = (np.ndarray, list, tuple)

METHODS = frozenset(
    "all any argmax argmin astype clip copy cumsum dot flatten max mean min prod ravel repeat "
    "reshape squeeze std sum swapaxes take transpose var".split()
)
"""What an array has of NumPy's methods."""

OF_DATA = frozenset(
    getattr(np, name)
    for name in (
        "allclose array_equal clip copyto dot inner isclose kron outer put_along_axis searchsorted "
        "take take_along_axis vdot where"
    ).split()
)
"""A list among their arguments could only be data; elsewhere it is axes, a shape, sections."""


class NotOursError(Exception):
    """An operand belongs to a library that may know what to do with it."""


class _Genuine(ABCMeta):
    """Lets ``isinstance`` ask what an object is, and not its ``__class__``, which may lie."""

    def __instancecheck__(cls, instance: object) -> bool:
        return issubclass(type(instance), cls)


class Resident(NDArrayOperatorsMixin, metaclass=_Genuine):
    """An array on a device: what its memory is made of is behind ``_array``.

    Attributes
    ----------
    shape : tuple of int
        Length of each dimension.
    dtype : dtype
        Element type.
    """

    __slots__ = ("__weakref__", "_array", "_device")

    shape: Any
    dtype: Any
    size: Any

    def __init__(self, array: Any, device: Backend) -> None:
        self._array = array
        self._device = device

    @property
    def device(self) -> Backend:
        """The backend whose memory this is."""
        return self._device

    # -- to the host, when somebody says so -----------------------------------------------------

    def item(self) -> Any:
        """Copy the one element to the host and return it as a Python number."""
        return self._element(ValueError)

    def _element(self, error: type[Exception]) -> Any:
        # Looks before it copies: NumPy would say no after the whole array has crossed the link.
        if self.size != 1:
            raise error(
                f"only an array of one element converts to a number, this has shape {self.shape}; "
                f"index it, or reduce it: np.any, np.all, np.sum, ..."
            )
        return self._device.asnumpy(self).item()

    def __float__(self) -> float:
        return float(self._element(TypeError))

    def __int__(self) -> int:
        return int(self._element(TypeError))

    def __complex__(self) -> complex:
        return complex(self._element(TypeError))

    def __bool__(self) -> bool:
        return bool(self._element(ValueError))

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        raise ResidencyError(
            f"an array on device {self._device.name!r} is not converted to a host array "
            f"implicitly; call device.asnumpy(x)"
        )

    def __dlpack__(self, **options: Any) -> Any:
        """Hand the memory itself to who asks for it by DLPack, as ``torch.from_dlpack(x)`` does.

        Nothing is copied; what is written there is written here.
        """
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    def __format__(self, spec: str) -> str:
        if spec:
            raise ResidencyError(
                f"an array on device {self._device.name!r} is not copied to the host to format "
                f"it; format float(x)"
            )
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise ResidencyError(
            f"an array on device {self._device.name!r} is not pickled; call device.asnumpy(x)"
        )

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}(shape={self.shape}, dtype={self.dtype}, device={self._device.name!r})"

    # -- along the device -----------------------------------------------------------------------

    def fill(self, value: Any) -> None:
        """Set all elements to a number, or to a 0-D array on this device."""
        self[...] = value

    def __setitem__(self, index: Any, value: Any) -> None:
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    # -- what operations may be given -----------------------------------------------------------

    def _operand(self, value: Any) -> Any:
        """Return the memory, or the scalar, behind an operand."""
        if type(value) is type(self):
            if value._device is not self._device:
                raise ResidencyError(
                    f"operands are on different devices, {self._device!r} and "
                    f"{value._device!r} (each instance is one); copy over the host: "
                    f"a.asarray(b.asnumpy(x))"
                )
            return value._array
        if isinstance(value, SCALARS):
            return value
        if isinstance(value, ON_HOST):
            raise ResidencyError(
                f"an operand is a host {type(value).__name__} and the other is on device "
                f"{self._device.name!r}; nothing is copied implicitly: call device.asarray(x) first"
            )
        raise NotOursError

    def _tree(self, value: Any, sources: list[Any] | None = None) -> Any:
        """Apply `_operand` inside lists and tuples; note the arrays met in `sources`."""
        if isinstance(value, Resident):
            if sources is not None:
                sources.append(value)
            return self._operand(value)
        if isinstance(value, SEQUENCES):
            beside_array = any(isinstance(item, Resident) for item in value)
            items = [
                self._operand(item)
                if beside_array and isinstance(item, SEQUENCES)
                else self._tree(item, sources)
                for item in value
            ]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, np.ndarray) or hasattr(value, "__array_function__"):
            return self._operand(value)
        return named(value)  # an axis, a dtype, a subscript string, ...

    def _index(self, index: Any) -> Any:
        if isinstance(index, tuple):
            return tuple(map(self._index, index))
        if isinstance(index, (Resident, np.ndarray)):
            return self._operand(index)
        if isinstance(index, Sequence) and not isinstance(index, str):
            raise ResidencyError(
                f"an index {type(index).__name__} is on the host; call device.asarray(indices) "
                f"first"
            )
        return index  # an int, slice, None or Ellipsis

    def _cannot_assign(self, value: Any) -> TypeError:
        return TypeError(
            f"cannot assign an object of type {type(value).__name__} into an array on device "
            f"{self._device.name!r}; expected a number or an array on that device (of a "
            f"Parameter, its .data)"
        )
