"""`value_and_grad`: a tape that differentiates plain ``np.*`` code, on any backend.

While the loss function runs, a `Traced` stands in for each parameter. It meets every ``np.*`` call
through NumPy's own protocols, lets the array that it holds compute, and notes for each traced
operand how a gradient flows back to it. Going through the notes in reverse gives the gradients.

What has a derivative is a table in `adamoffload.autodiff.derivatives`. Comparisons, ``sign``,
``floor``, ``argmax`` and their like return plain arrays, which are constants; anything else is a
`TypeError`, never a silently missing gradient. The module knows nothing of devices.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from operator import itemgetter
from typing import Any, Literal, NamedTuple, NoReturn, ParamSpec, TypeAlias, final, overload

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from adamoffload.arguments import describe
from adamoffload.autodiff.composed import COMPOSED, MASKED
from adamoffload.autodiff.derivatives import (
    CONSTANT,
    DERIVATIVES,
    Maker,
    Pull,
    no_derivative,
    scatter,
)
from adamoffload.device.backend import Array
from adamoffload.device.half import is_half
from adamoffload.device.hints import hint
from adamoffload.device.parameter import Parameter, stand_ins
from adamoffload.names import spelled

__all__ = ["Traced", "call", "stop_gradient", "value_and_grad"]

P = ParamSpec("P")

Derivatives: TypeAlias = Mapping[Any, Sequence[Maker]]
"""By function, a maker for each positional operand."""


@overload
def value_and_grad(
    loss_fn: Callable[P, Any],
    parameters: Iterable[Parameter],
    *,
    has_aux: Literal[False] = False,
    unused: Literal["raise", "zeros", "none"] = ...,
    on_gradient: None = None,
    derivatives: Derivatives | None = None,
) -> Callable[P, tuple[Array, tuple[Array, ...]]]: ...


@overload
def value_and_grad(
    loss_fn: Callable[P, Any],
    parameters: Iterable[Parameter],
    *,
    has_aux: Literal[True],
    unused: Literal["raise", "zeros", "none"] = ...,
    on_gradient: None = None,
    derivatives: Derivatives | None = None,
) -> Callable[P, tuple[tuple[Array, Any], tuple[Array, ...]]]: ...


@overload
def value_and_grad(
    loss_fn: Callable[P, Any],
    parameters: Iterable[Parameter],
    *,
    has_aux: Literal[False] = False,
    unused: Literal["raise", "zeros", "none"] = ...,
    on_gradient: Callable[[Parameter, Array], object],
    derivatives: Derivatives | None = None,
) -> Callable[P, Array]: ...


@overload
def value_and_grad(
    loss_fn: Callable[P, Any],
    parameters: Iterable[Parameter],
    *,
    has_aux: Literal[True],
    unused: Literal["raise", "zeros", "none"] = ...,
    on_gradient: Callable[[Parameter, Array], object],
    derivatives: Derivatives | None = None,
) -> Callable[P, tuple[Array, Any]]: ...


def value_and_grad(
    loss_fn: Callable[P, Any],
    parameters: Iterable[Parameter],
    *,
    has_aux: bool = False,
    unused: Literal["raise", "zeros", "none"] = "raise",
    on_gradient: Callable[[Parameter, Array], object] | None = None,
    derivatives: Derivatives | None = None,
) -> Callable[P, Any]:
    """Return a function that computes a loss and its gradients.

    Parameters
    ----------
    loss_fn : callable
        Computes a scalar with ``np.*`` functions and operators, using the parameters directly.
    parameters : iterable of Parameter, at least one
        What to differentiate with respect to: a list, ``model.values()``, ... Every other
        parameter is a constant.
    has_aux : bool
        Whether `loss_fn` returns ``(loss, aux)``: a loss, and anything else, such as predictions.
        Arrays in `aux`, also inside lists, tuples and dicts, come out as plain arrays.
    unused : {"raise", "zeros", "none"}
        What the gradient is of a parameter on which the loss does not depend: an error, an array
        of zeros, or None. To an optimizer these differ. A gradient of zeros is a gradient: momentum
        goes on to move the parameter, and weight decay to shrink it. None is no gradient: the
        parameter and its state stay as they are.
    on_gradient : callable, optional
        Called as ``on_gradient(parameter, gradient)`` during the backward pass, as soon as the
        gradient is final; of a parameter that is used several times, when its last use has
        contributed. The gradient is then the callback's: nothing here refers to it any longer.
        What the callback raises ends the call and passes through.
    derivatives : mapping, optional
        Derivatives of further functions, for this `loss_fn` only. A key is a function that NumPy
        dispatches: ``np.*``, or a ufunc of any library. A value holds, for each positional operand,
        a callable that takes the result and all operands, as plain arrays, and returns a function
        from the gradient of the result to that of the operand: a new array, or a view of what it
        got. They come before our own.

    Returns
    -------
    callable
        Takes the arguments of `loss_fn` and returns ``(loss, gradients)``; with `has_aux`
        ``((loss, aux), gradients)``; with `on_gradient` only ``loss`` or ``(loss, aux)``. The
        gradients are a tuple in the order of `parameters`; each has its parameter's shape, dtype
        and device, is C-contiguous and shares memory with nothing. The call itself raises
        `ValueError` if the loss is no scalar or, with ``unused="raise"``, does not depend on one
        of the parameters, `TypeError` for an operation without a derivative, and `RuntimeError`
        inside another such call (there are no gradients of gradients). It may be called from
        several threads at once.

    Raises
    ------
    TypeError
        If `loss_fn` or `on_gradient` is not callable, `parameters` no iterable of floating-point
        parameters, or `derivatives` no mapping from functions to sequences of callables.
    ValueError
        If `parameters` is empty or names one twice, or `unused` is none of the three.

    Examples
    --------
    >>> import numpy as np
    >>> from adamoffload.device.parameter import Parameter
    >>> w = Parameter(np.array([1.0, 2.0]), name="w")
    >>> step = value_and_grad(lambda x: np.sum(np.square(x @ w)), [w])
    >>> step(np.array([[3.0, 4.0]]))
    (np.float64(121.0), (array([66., 88.]),))

    Each gradient as soon as there is one:

    >>> value_and_grad(lambda: np.sum(w * w), [w], on_gradient=lambda p, g: print(p.name, g))()
    w [2. 4.]
    np.float64(5.0)

    The derivative of a function that has none here, arctan2(x, 1):

    >>> arctan2 = (lambda out, y, x: lambda g: g * x / (x * x + y * y),)
    >>> step = value_and_grad(lambda: np.arctan2(w, 1.0)[0], [w], derivatives={np.arctan2: arctan2})
    >>> step()[1]
    (array([0.5, 0. ]),)
    """
    if not callable(loss_fn):
        raise TypeError(f"value_and_grad: loss_fn must be callable, got {describe(loss_fn)}")
    if on_gradient is not None and not callable(on_gradient):
        raise TypeError(
            f"value_and_grad: on_gradient must be callable, such as optimizer.submit, "
            f"got {describe(on_gradient)}"
        )
    if unused not in _UNUSED:
        raise ValueError(
            f"value_and_grad: unused must be one of {', '.join(map(repr, _UNUSED))}, "
            f"got {describe(unused)}"
        )
    wanted = _checked(parameters)
    known = _ours if derivatives is None else _extended(derivatives)

    @functools.wraps(loss_fn)
    def step(*args: P.args, **kwargs: P.kwargs) -> Any:
        if stand_ins.get():
            raise RuntimeError(
                "value_and_grad: called inside another loss function; gradients of gradients are "
                "not available: compute this one before, and pass the result in"
            )
        leaves = {id(parameter): Traced(parameter.data) for parameter in wanted}
        tokens = stand_ins.set(leaves), _known.set(known)
        try:
            result = loss_fn(*args, **kwargs)
        finally:
            stand_ins.reset(tokens[0])
            _known.reset(tokens[1])
        loss, aux = _pair(result) if has_aux else (result, None)
        if isinstance(loss, Parameter):
            loss = leaves.get(id(loss), loss)
        root = _root(loss, wanted, unused)
        value = loss if root is None else loss.value.copy()  # a view of a parameter would change
        records = {leaf._record: p for leaf, p in zip(leaves.values(), wanted, strict=True)}
        uses = {} if root is None else _uses(root)
        idle = [parameter for record, parameter in records.items() if record not in uses]
        if idle and unused == "raise":
            raise ValueError(_independent(idle))
        gradients: dict[int, Array] = {}
        deliver = on_gradient or (lambda p, gradient: gradients.__setitem__(id(p), gradient))
        if unused == "zeros":
            for parameter in idle:
                deliver(parameter, np.zeros_like(parameter.data))
        if root is not None:
            root.receive(np.ones_like(value), value)
            _backward(root, uses, records, deliver)
        outcome = (value, aux) if has_aux else value
        if on_gradient is not None:
            return outcome
        return outcome, tuple([gradients.get(id(parameter)) for parameter in wanted])

    return step


def stop_gradient(x: Any) -> Any:
    """Return the plain array behind `x`: a constant for the derivative.

    Examples
    --------
    >>> import numpy as np
    >>> from adamoffload.device.parameter import Parameter
    >>> w = Parameter(np.array([1.0, 2.0]), name="w")
    >>> value_and_grad(lambda: np.sum(w * stop_gradient(w)), [w])()[1]
    (array([1., 2.]),)
    """
    if isinstance(x, Parameter):
        return x.data
    return x.value if isinstance(x, Traced) else x


def call(function: Callable[..., Any], *inputs: Any) -> Any:
    """Call a function that NumPy does not dispatch, but has an entry in `DERIVATIVES`."""
    places = stand_ins.get()
    operands = [places.get(id(x), x.data) if isinstance(x, Parameter) else x for x in inputs]
    if any(isinstance(x, Traced) for x in operands):
        return _apply(function, tuple(operands), {})
    return function(*operands)


@final
class Traced(NDArrayOperatorsMixin):
    """An array in a loss function, and the record of where it came from.

    It can be used in ``np.*`` expressions like the array it holds, but not changed in place and not
    converted to numbers. One that is kept from an earlier call is a constant in the next.

    Attributes
    ----------
    value : array
        The plain array, on its device.
    """

    __slots__ = ("__weakref__", "_record", "value")

    def __init__(self, value: Array, edges: _Edges = ()) -> None:
        self.value = value
        self._record = _Record(value.shape, value.dtype, edges)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        for x in inputs:
            if isinstance(x, Parameter):
                return NotImplemented  # it puts its stand-in here and calls again
        if method != "__call__":
            raise no_derivative(f"np.{ufunc.__name__}.{method}")
        return _apply(ufunc, inputs, kwargs)

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any
    ) -> Any:
        if any(issubclass(kind, Parameter) for kind in types):
            return NotImplemented
        composed = _known.get().composed.get(function)
        if "where" in kwargs and function in MASKED:
            composed = MASKED[function]
        if composed is None:
            return _apply(function, args, kwargs)
        try:
            _signature(composed).bind(*args, **kwargs)
        except TypeError as error:
            _refuse_in_place(function, kwargs)
            raise no_derivative(f"{spelled(function)}, called so ({error}),") from None
        return composed(*args, **kwargs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        return self._record.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self._record.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._record.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self._record.shape)

    @property
    def T(self) -> Any:  # noqa: N802  (NumPy's name)
        """The transposed array."""
        return self.transpose()

    def reshape(self, *shape: Any) -> Any:
        """Return the array in another shape."""
        return _apply(np.reshape, (self, shape[0] if len(shape) == 1 else shape), {})

    def transpose(self, *axes: Any) -> Any:
        """Return the array with its axes reversed, or in the given order."""
        return _apply(np.transpose, (self, axes[0] if len(axes) == 1 else axes or None), {})

    def astype(self, dtype: Any) -> Any:
        """Return the array in another type: a constant if that is not of floating-point numbers."""
        value = self.value.astype(dtype)
        return Traced(value, ((self._record, _identity),)) if _is_floating(value.dtype) else value

    def flatten(self) -> Any:
        """Return the array in one dimension."""
        return np.ravel(self)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in _METHODS:
            return partial(getattr(np, name), self)
        raise AttributeError(
            f"a traced array has no attribute {name!r}; "
            + (
                hint(name)
                or "inside a loss function use np.* functions and operators, and "
                "stop_gradient(x) for a constant"
            ),
            name=name,
            obj=self,
        )

    def __getitem__(self, index: Any) -> Any:
        value = self.value[index]
        return Traced(value, ((self._record, partial(scatter, index, self.shape)),))

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __pow__(self, exponent: Any) -> Any:
        # np.power takes 4 to 10 times as long as np.square; an ndarray's operator sees to it too.
        if isinstance(exponent, int | float) and exponent == 2:
            return _apply(np.square, (self,), {})
        return super().__pow__(exponent)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError(
            "a traced array cannot be changed in place: its derivative would be lost; build a new "
            "one, with np.where or np.concatenate"
        )

    def _no_conversion(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            "a traced array is not converted to numbers or host arrays inside a loss function: its "
            "derivative would be lost; do it outside, or with stop_gradient(x)"
        )

    __array__ = __bool__ = __float__ = __int__ = item = tolist = _no_conversion

    def __repr__(self) -> str:
        return f"Traced(shape={self.shape}, dtype={self.dtype})"


@final
class _Record:
    """What the way back needs of an operation: its operands' records, but not its result.

    A result dies with the last expression or `Pull` that uses it, often long before its record.
    """

    __slots__ = ("_gradient", "_is_new", "dtype", "edges", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], edges: _Edges) -> None:
        self.shape = shape
        self.dtype = dtype
        self.edges: _Edges | None = edges  # empty for a parameter, None when done with
        self._gradient: Array = None
        self._is_new = False  # no pull has handed on what it got

    def receive(self, gradient: Array, source: Array) -> None:
        """Add a contribution, which is a new array or a view of `source`."""
        fitted = _fit(gradient, self.shape, self.dtype)
        if self._gradient is None:
            self._gradient = fitted
            self._is_new = fitted is not source
        elif self._is_owned():
            np.add(self._gradient, fitted, out=self._gradient)
        else:
            self._gradient = self._gradient + fitted
            self._is_new = True

    def _is_owned(self) -> bool:
        """Return whether the gradient is an array of memory that nothing else refers to."""
        # A host operation's 0-D result is no array. A view may be one of the source, or read-only.
        return self._is_new and self.shape != () and bool(self._gradient.flags.owndata)

    def close(self) -> tuple[Array, _Edges]:
        """Return gradient and edges, and forget them: each is needed once."""
        gradient, edges = self._gradient, self.edges or ()
        self._gradient = self.edges = None
        return gradient, edges

    def take(self) -> Array:
        """Close the record; return the gradient as a C-contiguous array that nothing else uses."""
        is_owned = self._is_owned()
        gradient, _ = self.close()
        if is_owned and gradient.flags.c_contiguous:
            return gradient
        return np.copy(gradient, order="C")


_Edges: TypeAlias = tuple[tuple[_Record, Pull], ...]


def _uses(root: _Record) -> dict[_Record, int]:
    """Count, for each record that `root` depends on, how often others use it."""
    uses = {root: 0}
    found = [root]
    while found:
        for operand, _ in found.pop().edges or ():
            if operand.edges is None:  # kept from an earlier call
                continue
            if operand not in uses:
                uses[operand] = 0
                found.append(operand)
            uses[operand] += 1
    return uses


def _backward(
    root: _Record,
    uses: dict[_Record, int],
    parameters: Mapping[_Record, Parameter],
    deliver: Callable[[Parameter, Array], object],
) -> None:
    """Carry the gradient from `root` to the parameters, freeing on the way what is done with."""
    ready = [root]
    if root in parameters:
        deliver(parameters[root], root.take())
    while ready:
        gradient, edges = ready.pop().close()
        for operand, pull in edges:
            if operand not in uses:
                continue
            operand.receive(pull(gradient), gradient)
            uses[operand] -= 1
            if uses[operand]:
                continue
            if operand.edges:
                ready.append(operand)
            elif operand in parameters:
                deliver(parameters[operand], operand.take())


def _is_floating(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or is_half(dtype)


def _identity(gradient: Array) -> Array:
    return gradient


def _fit(gradient: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Undo broadcasting and promotion; return `gradient` itself if there were none."""
    if gradient.shape != shape:
        extra = gradient.ndim - len(shape)
        if extra < 0 or any(
            n not in (1, m) for n, m in zip(shape, gradient.shape[extra:], strict=True)
        ):
            raise ValueError(
                f"value_and_grad: a derivative gave a gradient of shape {gradient.shape} for an "
                f"operand of shape {shape}; it must have this shape, or that of the result"
            )
        stretched = (extra + i for i, n in enumerate(shape) if n != gradient.shape[extra + i])
        gradient = np.sum(gradient, axis=(*range(extra), *stretched))
        if gradient.shape != shape:
            gradient = np.reshape(gradient, shape)
    if gradient.dtype != dtype:
        if gradient.dtype.kind == "c":
            raise TypeError("value_and_grad: complex numbers have no derivative here")
        gradient = gradient.astype(dtype)
    return gradient


def _apply(function: Callable[..., Any], inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `function` on the values and record how gradients flow back through it."""
    makers = _known.get().derivatives.get(function)
    if makers is None or kwargs or len(inputs) > len(makers):
        if function in CONSTANT:
            return function(*map(stop_gradient, inputs), **kwargs)
        _check_call(function, makers, inputs, kwargs)
        makers = makers or ()
    values = [x.value if type(x) is Traced else x for x in inputs]
    result = function(*values, **kwargs)
    edges = []
    for x, maker in zip(inputs, makers, strict=False):
        if type(x) is Traced:
            try:
                edges.append((x._record, maker(result, *values, **kwargs)))
            except TypeError as error:  # the maker's signature says what it can do
                raise no_derivative(f"{spelled(function)}, called so ({error}),") from None
    return Traced(result, tuple(edges))


def _check_call(
    function: Callable[..., Any],
    makers: Sequence[Maker] | None,
    inputs: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    name = spelled(function)
    _refuse_in_place(function, kwargs)
    if makers is None:
        raise no_derivative(name)
    if kwargs and isinstance(function, np.ufunc):
        raise no_derivative(f"{name} with {', '.join(kwargs)}")
    for x in (*inputs[len(makers) :], *kwargs.values()):
        if isinstance(x, Traced):
            raise no_derivative(f"{name}, with a traced array here or by name,")


def _refuse_in_place(function: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    if "out" in kwargs:
        raise TypeError(
            f"{spelled(function)}: a traced array cannot be computed in place (out=, +=), its "
            f"derivative would be lost; write x = x + y instead of x += y"
        )


def _concatenate(arrays: Sequence[Any], axis: int | None = 0) -> Any:
    """Join arrays, each with its own way back; the one function whose operands come in a list."""
    if axis is None:
        return _concatenate([np.ravel(x) for x in arrays])
    result = np.concatenate([stop_gradient(x) for x in arrays], axis)
    before = (slice(None),) * (axis % result.ndim)
    stops = itertools.accumulate(np.shape(x)[axis] for x in arrays)
    edges = [
        (x._record, itemgetter((*before, slice(stop - x.shape[axis], stop))))
        for x, stop in zip(arrays, stops, strict=True)
        if isinstance(x, Traced)
    ]
    return Traced(result, tuple(edges))


class _Known(NamedTuple):
    """The functions that have derivatives in a loss function."""

    derivatives: Mapping[Callable[..., Any], Sequence[Maker]]
    composed: Mapping[Callable[..., Any], Callable[..., Any]]


_ours = _Known(DERIVATIVES, {**COMPOSED, np.concatenate: _concatenate})
_known: ContextVar[_Known] = ContextVar("known", default=_ours)
_signature = functools.cache(inspect.signature)


def _extended(derivatives: object) -> _Known:
    """Return ours and the caller's, which come first."""
    if not isinstance(derivatives, Mapping):
        raise TypeError(
            f"value_and_grad: derivatives must be a dict such as {{np.arctan2: (maker, maker)}}, "
            f"got {describe(derivatives)}"
        )
    for function, makers in derivatives.items():
        name = getattr(function, "__name__", describe(function))
        if not callable(function):
            raise TypeError(f"value_and_grad: derivatives: {name} is no function")
        if not isinstance(makers, Sequence) or not all(map(callable, makers)):
            raise TypeError(
                f"value_and_grad: derivatives of {name} must be a tuple with a callable for each "
                f"operand, got {describe(makers)}"
            )
    composed = {f: g for f, g in _ours.composed.items() if f not in derivatives}
    return _Known({**DERIVATIVES, **derivatives}, composed)


def _pair(result: object) -> tuple[Any, Any]:
    """Return the loss, and the plain arrays that came along with it."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"value_and_grad: with has_aux=True loss_fn must return (loss, aux), "
            f"got {describe(result)}"
        )
    return result[0], _plain(result[1])


def _plain(value: Any) -> Any:
    """Apply `stop_gradient` to the traced arrays inside lists, tuples and dicts."""
    if isinstance(value, Traced):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def _root(loss: Any, wanted: Sequence[Parameter], unused: str) -> _Record | None:
    """Check the loss; return its record, or None if it is a constant and may be one."""
    is_traced = isinstance(loss, Traced)
    is_number = isinstance(loss, int | float) or hasattr(loss, "dtype")
    if not is_traced and (unused == "raise" or not is_number):
        raise ValueError(f"{_independent(wanted)}: loss_fn returned {describe(loss)}")
    shape = loss.shape if is_traced else np.shape(loss)
    if shape != ():
        raise ValueError(
            f"value_and_grad: the loss must be a scalar, got shape {shape}; end loss_fn "
            f"with np.mean(...) or np.sum(...)"
        )
    return loss._record if is_traced else None


def _independent(parameters: Sequence[Parameter]) -> str:
    shown = ", ".join(repr(parameter.name) for parameter in parameters[:3])
    rest = f" and {len(parameters) - 3} more" if len(parameters) > 3 else ""
    return (
        f"value_and_grad: the loss does not depend on parameter{'s' * (len(parameters) > 1)} "
        f"{shown}{rest}; use the parameter itself in loss_fn (w, not w.data, and not a result kept "
        f"from outside), leave it out of the list, or pass unused='zeros' or unused='none'"
    )


def _checked(parameters: object) -> tuple[Parameter, ...]:
    if isinstance(parameters, Parameter | Mapping) or not isinstance(parameters, Iterable):
        remedy = "; pass its .values()" if isinstance(parameters, Mapping) else ""
        raise TypeError(
            f"value_and_grad: parameters must be a list, tuple or other iterable of Parameter, "
            f"got {describe(parameters)}{remedy}"
        )
    wanted = tuple(parameters)
    if not wanted:
        raise ValueError("value_and_grad: parameters must not be empty")
    seen: set[int] = set()
    for i, parameter in enumerate(wanted):
        if not isinstance(parameter, Parameter):
            raise TypeError(
                f"value_and_grad: parameters[{i}] must be a Parameter, got {describe(parameter)}; "
                f"write Parameter(array, name=...)"
            )
        if not _is_floating(parameter.dtype):
            raise TypeError(
                f"value_and_grad: parameter {parameter.name!r} must hold floating-point numbers, "
                f"got {parameter.dtype}"
            )
        if id(parameter) in seen:
            raise ValueError(f"value_and_grad: parameter {parameter.name!r} is listed twice")
        seen.add(id(parameter))
    return wanted


_UNUSED = ("raise", "zeros", "none")

_METHODS = frozenset(
    "sum mean max min var std cumsum swapaxes ravel squeeze clip take repeat dot copy".split()
)
