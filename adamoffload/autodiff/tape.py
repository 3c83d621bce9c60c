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
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NoReturn, ParamSpec, TypeAlias, final

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from adamoffload.arguments import describe
from adamoffload.autodiff.derivatives import (
    COMPOSED,
    CONSTANT,
    DERIVATIVES,
    Maker,
    Pull,
    no_derivative,
    scatter,
)
from adamoffload.device.backend import Array
from adamoffload.device.parameter import Parameter, stand_ins
from adamoffload.names import spelled

__all__ = ["Traced", "stop_gradient", "value_and_grad"]

P = ParamSpec("P")


def value_and_grad(
    loss_fn: Callable[P, Any], parameters: Sequence[Parameter]
) -> Callable[P, tuple[Array, tuple[Array, ...]]]:
    """Return a function that computes a loss and its gradients.

    Parameters
    ----------
    loss_fn : callable
        Computes a scalar with ``np.*`` functions and operators, using the parameters directly.
    parameters : sequence of Parameter, at least one
        What to differentiate with respect to. Every other parameter is a constant.

    Returns
    -------
    callable
        Takes the arguments of `loss_fn` and returns ``(loss, gradients)``. The gradients are a
        tuple in the order of `parameters`; each has its parameter's shape, dtype and device, is
        C-contiguous and shares memory with nothing. The call itself raises `ValueError` if the
        loss is no scalar or does not depend on one of the parameters, `TypeError` for an operation
        without a derivative, and `RuntimeError` inside another such call (there are no gradients
        of gradients). It may be called from several threads at once.

    Raises
    ------
    TypeError
        If `loss_fn` is not callable, or `parameters` no sequence of floating-point parameters.
    ValueError
        If `parameters` is empty or names one twice.

    Examples
    --------
    >>> import numpy as np
    >>> from adamoffload.device.parameter import Parameter
    >>> w = Parameter(np.array([1.0, 2.0]), name="w")
    >>> step = value_and_grad(lambda x: np.sum(np.square(x @ w)), [w])
    >>> step(np.array([[3.0, 4.0]]))
    (np.float64(121.0), (array([66., 88.]),))
    """
    if not callable(loss_fn):
        raise TypeError(f"value_and_grad: loss_fn must be callable, got {describe(loss_fn)}")
    wanted = _checked(parameters)

    @functools.wraps(loss_fn)
    def step(*args: P.args, **kwargs: P.kwargs) -> tuple[Array, tuple[Array, ...]]:
        if stand_ins.get():
            raise RuntimeError(
                "value_and_grad: called inside another loss function; gradients of gradients are "
                "not available: compute this one before, and pass the result in"
            )
        leaves = {id(parameter): Traced(parameter.data) for parameter in wanted}
        token = stand_ins.set(leaves)
        try:
            loss = loss_fn(*args, **kwargs)
        finally:
            stand_ins.reset(token)
        if isinstance(loss, Parameter):
            loss = leaves.get(id(loss), loss)
        if not isinstance(loss, Traced):
            raise ValueError(
                f"value_and_grad: the loss does not depend on {_names(wanted)}: loss_fn returned "
                f"{describe(loss)}; {_REMEDY}"
            )
        if loss.shape != ():
            raise ValueError(
                f"value_and_grad: the loss must be a scalar, got shape {loss.shape}; end loss_fn "
                f"with np.mean(...) or np.sum(...)"
            )
        records = [leaf._record for leaf in leaves.values()]
        value, root = loss.value.copy(), loss._record  # a view of a parameter would change with it
        uses = _uses(root)
        unused = [p for p, record in zip(wanted, records, strict=True) if record not in uses]
        if unused:
            raise ValueError(
                f"value_and_grad: the loss does not depend on {_names(unused)}; {_REMEDY}"
            )
        root.receive(np.ones_like(value), value)
        _backward(root, uses)
        return value, tuple([record.take() for record in records])

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
        composed = _concatenate if function is np.concatenate else COMPOSED.get(function)
        if composed is None:
            return _apply(function, args, kwargs)
        if kwargs.keys() - {"axis", "indices"}:
            raise no_derivative(f"{spelled(function)} with {', '.join(kwargs)}")
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

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in _METHODS:
            return partial(getattr(np, name), self)
        raise AttributeError(
            f"a traced array has no attribute {name!r}; inside a loss function use np.* functions "
            f"and operators, and stop_gradient(x) for a constant"
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

    __slots__ = ("_gradient", "_is_owned", "dtype", "edges", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], edges: _Edges) -> None:
        self.shape = shape
        self.dtype = dtype
        self.edges: _Edges | None = edges  # empty for a parameter, None when done with
        self._gradient: Array = None
        self._is_owned = False  # whether nothing else refers to the gradient's memory

    def receive(self, gradient: Array, source: Array) -> None:
        """Add a contribution, which is a new array or a view of `source`."""
        fitted = _fit(gradient, self.shape, self.dtype)
        if self._gradient is None:
            self._gradient = fitted
            # Only a parameter's gradient must be owned in the end, and the check costs something.
            self._is_owned = fitted is not gradient or (
                not self.edges and not np.may_share_memory(fitted, source)
            )
        elif self._is_owned and self.shape:  # a host operation's 0-D result is no array
            np.add(self._gradient, fitted, out=self._gradient)
        else:
            self._gradient = self._gradient + fitted
            self._is_owned = True

    def close(self) -> tuple[Array, _Edges]:
        """Return gradient and edges, and forget them: each is needed once."""
        gradient, edges = self._gradient, self.edges or ()
        self._gradient = self.edges = None
        return gradient, edges

    def take(self) -> Array:
        """Close the record; return the gradient as a C-contiguous array that nothing else uses."""
        gradient, _ = self.close()
        if self._is_owned and self.shape and gradient.flags.c_contiguous:
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


def _backward(root: _Record, uses: dict[_Record, int]) -> None:
    """Carry the gradient from `root` to the parameters, freeing on the way what is done with."""
    ready = [root] if root.edges else []
    while ready:
        gradient, edges = ready.pop().close()
        for operand, pull in edges:
            if operand in uses:
                operand.receive(pull(gradient), gradient)
                uses[operand] -= 1
                if operand.edges and not uses[operand]:
                    ready.append(operand)


def _fit(gradient: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Undo broadcasting and promotion; return `gradient` itself if there were none."""
    if gradient.shape != shape:
        extra = gradient.ndim - len(shape)
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
    makers = DERIVATIVES.get(function)
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
    makers: tuple[Maker, ...] | None,
    inputs: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    name = spelled(function)
    if "out" in kwargs:
        raise TypeError(
            f"{name}: a traced array cannot be computed in place (out=, +=), its derivative would "
            f"be lost; write x = x + y instead of x += y"
        )
    if makers is None:
        raise no_derivative(name)
    if kwargs and isinstance(function, np.ufunc):
        raise no_derivative(f"{name} with {', '.join(kwargs)}")
    for x in (*inputs[len(makers) :], *kwargs.values()):
        if isinstance(x, Traced):
            raise no_derivative(f"{name}, with a traced array here or by name,")


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


def _checked(parameters: object) -> tuple[Parameter, ...]:
    if not isinstance(parameters, Sequence):
        raise TypeError(
            f"value_and_grad: parameters must be a list or tuple of Parameter, "
            f"got {describe(parameters)}"
        )
    if not parameters:
        raise ValueError("value_and_grad: parameters must not be empty")
    seen: set[int] = set()
    for i, parameter in enumerate(parameters):
        if not isinstance(parameter, Parameter):
            raise TypeError(
                f"value_and_grad: parameters[{i}] must be a Parameter, got {describe(parameter)}; "
                f"write Parameter(array, name=...)"
            )
        if parameter.dtype.kind != "f":
            raise TypeError(
                f"value_and_grad: parameter {parameter.name!r} must hold floating-point numbers, "
                f"got {parameter.dtype}"
            )
        if id(parameter) in seen:
            raise ValueError(f"value_and_grad: parameter {parameter.name!r} is listed twice")
        seen.add(id(parameter))
    return tuple(parameters)


def _names(parameters: Sequence[Parameter]) -> str:
    shown = ", ".join(repr(parameter.name) for parameter in parameters[:3])
    rest = f" and {len(parameters) - 3} more" if len(parameters) > 3 else ""
    return f"parameter{'s' * (len(parameters) > 1)} {shown}{rest}"


_REMEDY = (
    "use the parameter itself in loss_fn (w, not w.data, and not a result kept from outside), "
    "or leave it out of the list"
)

_METHODS = frozenset("sum mean max min var std swapaxes ravel squeeze clip take dot".split())
