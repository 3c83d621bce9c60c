"""`Parameter`: a named array that an optimizer updates in place and model code computes with.

A parameter takes part in ``np.*`` expressions and operators like the array it holds. It must not
know about gradients: `adamoffload.autodiff.tape` puts traced stand-ins in its place through
`stand_ins`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from adamoffload.arguments import describe
from adamoffload.device.backend import Array, Backend, ResidencyError, backend_of
from adamoffload.device.hints import hint

__all__ = ["Claim", "Parameter", "stand_ins"]

stand_ins: ContextVar[Mapping[int, Any]] = ContextVar("stand_ins", default=MappingProxyType({}))
"""By ``id(parameter)``: what stands for it in this context's expressions instead of its array."""


class Claim:
    """One optimizer's right to move its parameters, until another takes one of them over.

    Attributes
    ----------
    lost : str
        Name of a parameter that another optimizer has taken over; empty if none has.
    """

    __slots__ = ("lost",)

    def __init__(self) -> None:
        self.lost = ""

    def check(self, owner: str) -> None:
        """Raise RuntimeError if a parameter was taken over."""
        if self.lost:
            raise RuntimeError(
                f"{owner}: another optimizer was constructed on parameter {self.lost!r} and has "
                f"taken it over; use that one, or construct this one anew and load its state"
            )


class Parameter(NDArrayOperatorsMixin):
    """A named array, updated in place by an optimizer.

    Parameters compare by identity: ``w == v`` is a bool, so that ``w in [...]``, dicts and sets do
    what one means; ``np.equal(w, v)`` compares the elements. ``w == 0`` is an array, as elsewhere.
    Methods like ``w.sum()`` are those of its array.

    Parameters
    ----------
    data : device array, any shape with at least one element, C-contiguous
        Kept, not copied: the optimizer writes into it. `AdamOffload` takes float32 on a device;
        a host ndarray is accepted here for work with `value_and_grad` alone.
    name : str
        Unique within an optimizer. Ungrouped parameters whose name contains ``beta`` or ``gamma``
        get no weight decay.

    Raises
    ------
    TypeError
        If `data` is no array or `name` no string.
    ValueError
        If `data` is not C-contiguous or `name` empty.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.ones((2, 3), np.float32)), name="fc.weight")
    >>> w
    Parameter('fc.weight', shape=(2, 3), dtype=float32, backend=numpy)
    >>> device.asnumpy(np.sum(2 * w))
    array(12., dtype=float32)
    """

    __slots__ = ("__weakref__", "_backend", "_claim", "_data", "_name")

    def __init__(self, data: Array, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"Parameter: name must be a string, got {describe(name)}")
        if not name:
            raise ValueError("Parameter: name must not be empty, since it names the state")
        self._backend = backend_of(data)
        if self._backend is None and not isinstance(data, np.ndarray):
            raise TypeError(
                f"Parameter {name!r}: data must be an array on a device (device.asarray(...)), "
                f"got {describe(data)}"
            )
        if not data.flags.c_contiguous:
            raise ValueError(
                f"Parameter {name!r}: data must be C-contiguous, since it is updated in place in "
                f"flat pieces; pass data.copy()"
            )
        self._data = data
        self._name = name
        self._claim: Claim | None = None

    def claim(self, claim: Claim) -> None:
        """Let an optimizer move it from now on, and the one before not any more."""
        if self._claim is not None:
            self._claim.lost = self.name
        self._claim = claim

    @property
    def data(self) -> Array:
        """The array itself, on its device."""
        return self._data

    @property
    def name(self) -> str:
        """The name under which optimizers keep this parameter's state."""
        return self._name

    @property
    def backend(self) -> Backend | None:
        """The device that holds the data; None for a host ndarray."""
        return self._backend

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return tuple(self._data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the data."""
        dtype: np.dtype[Any] = self._data.dtype
        return dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def T(self) -> Any:  # noqa: N802  (NumPy's name)
        """The transposed view, for expressions."""
        return _operand(self).T

    def reshape(self, *shape: Any) -> Any:
        """Return the data in another shape, for expressions."""
        return _operand(self).reshape(*shape)

    if TYPE_CHECKING:  # what `__getattr__` passes on
        all: Callable[..., Any]
        any: Callable[..., Any]
        argmax: Callable[..., Any]
        argmin: Callable[..., Any]
        astype: Callable[..., Any]
        clip: Callable[..., Any]
        copy: Callable[..., Any]
        cumsum: Callable[..., Any]
        dot: Callable[..., Any]
        flatten: Callable[..., Any]
        item: Callable[..., Any]
        max: Callable[..., Any]
        mean: Callable[..., Any]
        min: Callable[..., Any]
        ravel: Callable[..., Any]
        repeat: Callable[..., Any]
        squeeze: Callable[..., Any]
        std: Callable[..., Any]
        sum: Callable[..., Any]
        swapaxes: Callable[..., Any]
        take: Callable[..., Any]
        transpose: Callable[..., Any]
        var: Callable[..., Any]
    else:

        def __getattr__(self, name: str) -> Any:
            if name in _METHODS:
                return getattr(_operand(self), name)
            if name in self.__slots__:  # as long as it is being constructed
                raise AttributeError(name)
            raise AttributeError(
                f"Parameter {self._name!r} has no attribute {name!r}; "
                + (hint(name) or "its array is .data, for which there is all of np.*"),
                name=name,
                obj=self,
            )

    def __eq__(self, other: object) -> Any:
        return self is other if isinstance(other, Parameter) else super().__eq__(other)

    def __ne__(self, other: object) -> Any:
        return self is not other if isinstance(other, Parameter) else super().__ne__(other)

    __hash__ = object.__hash__

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"Parameter {self._name!r} is neither copied nor pickled, since optimizers know it by "
            f"identity; make another of a copy of its array, Parameter(w.copy(), name=...), or "
            f"keep the numbers, device.asnumpy(w.data)"
        )

    def __getitem__(self, index: Any) -> Any:
        return _operand(self)[index]

    def __len__(self) -> int:
        return len(self._data)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        _refuse_as_target(*kwargs.get("out", ()), *(inputs[:1] if method == "at" else ()))
        return getattr(ufunc, method)(*map(_operand, inputs), **_operands(kwargs))

    def __array_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Any,
        kwargs: Any,
    ) -> Any:
        _refuse_as_target(kwargs.get("out"))
        return function(*_operands(args), **_operands(kwargs))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        if self._backend is None:
            return np.array(self._data, dtype=dtype, copy=copy)
        raise ResidencyError(
            f"Parameter {self.name!r} is on device {self._backend.name!r} and is not converted to "
            f"a host array implicitly; call device.asnumpy(parameter.data)"
        )

    def __repr__(self) -> str:
        place = self._backend.name if self._backend else "host"
        return f"Parameter({self.name!r}, shape={self.shape}, dtype={self.dtype}, backend={place})"


# Of an array's methods those that change nothing, and that every device's arrays have.
_METHODS = frozenset(
    "all any argmax argmin astype clip copy cumsum dot flatten item max mean min ravel repeat "
    "squeeze std sum swapaxes take transpose var".split()
)


def _refuse_as_target(*targets: Any) -> None:
    for target in targets:
        if isinstance(target, Parameter):
            raise TypeError(
                f"Parameter {target.name!r} cannot be assigned in an expression; write into its "
                f"array: out=parameter.data"
            )


def _operand(value: Any) -> Any:
    """Return what `value` is in an expression: a parameter's stand-in or array, or itself."""
    if isinstance(value, Parameter):
        return stand_ins.get().get(id(value), value._data)
    return value


def _operands(value: Any) -> Any:
    """Apply `_operand` inside the lists, tuples and dicts that NumPy's functions take."""
    if isinstance(value, list | tuple):
        return (
            list(map(_operands, value)) if isinstance(value, list) else tuple(map(_operands, value))
        )
    if isinstance(value, dict):
        return {key: _operands(item) for key, item in value.items()}
    return _operand(value)
