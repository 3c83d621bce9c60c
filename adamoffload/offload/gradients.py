"""Checks the gradients of a step, before anything changes, and flattens them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adamoffload.arguments import describe
from adamoffload.device.backend import Array, ResidencyError, backend_of
from adamoffload.device.parameter import Parameter
from adamoffload.names import listed

__all__ = ["Gradients", "centralized"]


class Gradients:
    """Knows what gradients must look like for a set of parameters.

    Parameters
    ----------
    owner : str
        The optimizer's name, for messages.
    parameters : sequence of Parameter
        In update order, all on one device and in memory of their own.
    """

    def __init__(self, owner: str, parameters: Sequence[Parameter]) -> None:
        self._owner = owner
        self._parameters = parameters
        backend = parameters[0].backend
        assert backend is not None, "read_parameters refuses parameters on the host"
        self.backend = backend
        self._dtype = parameters[0].dtype
        each = self._dtype.itemsize
        self._spans = sorted((backend._address(p.data), each * p.size, p.name) for p in parameters)
        self._starts = [start for start, _, _ in self._spans]
        self._index = {parameter.name: i for i, parameter in enumerate(parameters)}
        self._expected = [
            (parameter, parameter.shape, each * parameter.size) for parameter in parameters
        ]

    def flat(self, gradients: Any) -> list[Array | None]:
        """Return the gradients, each as a flat array, in update order; None where there is none.

        A gradient that is not C-contiguous is copied, on the device; others are views.

        Raises
        ------
        TypeError, ResidencyError
            For a wrong container, object or dtype; for a gradient that is elsewhere.
        ValueError
            For a wrong number, name or shape; for memory shared with a parameter.
        """
        if isinstance(gradients, Mapping):
            gradients = self._by_order(gradients)
        if not isinstance(gradients, tuple | list):
            raise TypeError(
                f"{self._owner}: gradients must be a tuple or list, or a mapping from name, got "
                f"{describe(gradients)}"
            )
        if len(gradients) != len(self._parameters):
            hint = ""
            if len(gradients) == 2 and isinstance(gradients[1], tuple | list):
                hint = "; value_and_grad returns the value as well: value, gradients = f(x)"
            raise ValueError(
                f"{self._owner}: expected {len(self._parameters)} gradients, one for each "
                f"parameter (None for one that has none), got {len(gradients)}{hint}"
            )
        return [
            None if gradient is None else self._flat(gradient, *expected)
            for gradient, expected in zip(gradients, self._expected, strict=True)
        ]

    def one(self, parameter: Any, gradient: Any) -> tuple[int, Array]:
        """Return the index of a parameter, given it or its name, and its gradient, flattened.

        Raises
        ------
        TypeError, ResidencyError, ValueError
            As `flat`; and for what is no parameter of this optimizer.
        """
        index = self.index_of(parameter)
        return index, self._flat(gradient, *self._expected[index])

    def index_of(self, parameter: Any) -> int:
        """Return the index of a parameter, given it or its name.

        Raises
        ------
        ValueError
            If it is none of this optimizer's; a name comes with the nearest.
        """
        name = parameter.name if isinstance(parameter, Parameter) else parameter
        index = self._index.get(name, -1) if isinstance(name, str) else -1
        strange = isinstance(parameter, Parameter) and self._parameters[index] is not parameter
        if index < 0 or strange:
            near = isinstance(name, str) and f": {listed([name], [*self._index])}"
            raise ValueError(
                f"{self._owner}: {describe(parameter)} is no parameter of this optimizer"
                f"{near or '; pass one of optimizer.parameters, or its name'}"
            )
        return index

    def _by_order(self, gradients: Mapping[str, Array]) -> list[Array | None]:
        unknown = [name for name in gradients if name not in self._index]
        if unknown:
            raise ValueError(
                f"{self._owner}: there is no parameter {listed(unknown, [*self._index])}; "
                f"gradients are given by the parameters' names"
            )
        return [gradients.get(name) for name in self._index]

    def _flat(
        self, gradient: Any, parameter: Parameter, shape: tuple[int, ...], nbytes: int
    ) -> Array:
        if not self.backend.owns(gradient):
            raise self._misplaced(gradient, parameter)
        if gradient.dtype != self._dtype:
            raise TypeError(
                f"{self._who(parameter)} must be {self._dtype}, as the parameter is, got "
                f"{gradient.dtype}; pass gradient.astype({self._dtype.name!r})"
            )
        if gradient.shape != shape:
            raise ValueError(
                f"{self._who(parameter)} must have the parameter's shape {shape}, got "
                f"{gradient.shape}"
            )
        if not gradient.flags.c_contiguous:
            return gradient.copy().reshape(-1)  # on the device: it shares memory with nothing
        start = self.backend._address(gradient)
        before = bisect_left(self._starts, start + nbytes)
        if before:  # the spans are disjoint: only the last that begins before the end can overlap
            begin, length, name = self._spans[before - 1]
            if begin + length > start:
                raise ValueError(
                    f"{self._who(parameter)} shares memory with parameter {name!r}, which the step "
                    f"writes to while it still reads; pass gradient.copy()"
                )
        return gradient if len(shape) == 1 else gradient.reshape(-1)

    def _misplaced(self, gradient: Any, parameter: Parameter) -> TypeError:
        who = self._who(parameter)
        if isinstance(gradient, np.ndarray):
            return ResidencyError(f"{who} is on the host; pass device.asarray(gradient)")
        other = backend_of(gradient)
        if other is not None:
            return ResidencyError(
                f"{who} is on another device, {other!r}; pass device.asarray(other.asnumpy(x))"
            )
        return TypeError(f"{who} must be a device array, got {describe(gradient)}")

    def _who(self, parameter: Parameter) -> str:
        return f"{self._owner}: the gradient of {parameter.name!r}"


def centralized(flat: Array, parameter: Parameter, decay: np.float32) -> Array:
    """Return the decayed gradient less its mean over all axes but the first, flattened.

    This is gradient centralization (Yong et al., arXiv:2004.01461, eq. 1). It runs on the device
    and takes the memory of a gradient there.
    """
    g = flat.reshape(parameter.shape)
    if decay:
        g = g + parameter.data * decay
    less: Array = (g - np.mean(g, axis=tuple(range(1, g.ndim)), keepdims=True)).reshape(-1)
    return less
