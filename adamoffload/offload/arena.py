"""Where state lives: one flat array for each thing that is kept, at its home.

Parameters that share their hyper-parameters are neighbours in it. `adamoffload.plan.chunks` cuts
it into what is worked on at once; each parameter's own array is a view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adamoffload.device.backend import Array, Backend, DeviceMemoryError
from adamoffload.device.disk import Directory
from adamoffload.device.parameter import Parameter
from adamoffload.observe.ledger import Record
from adamoffload.offload.transfer import transfer
from adamoffload.plan.formats import Format, dtype_of
from adamoffload.plan.hops import Place

__all__ = ["Arena"]


class Arena:
    """What is kept of some parameters from step to step.

    Parameters
    ----------
    backend : Backend
        The device.
    parameters : sequence of Parameter
        All of the optimizer's, in update order.
    indices : sequence of int
        Which of them are in here, as they follow each other.
    kept : sequence of (str, str, str)
        Name, home and format of each thing: `Strategy.kept`.
    pinned : bool
        Whether the link reaches the host's arrays directly.
    record : callable
        From `Ledger.at`: for the copies that make a master.
    directory : Directory, optional
        For what lives on the disk: a file for each thing.

    Attributes
    ----------
    indices : tuple of int
        The parameters, as they follow each other.
    size : int
        Elements of each array.
    arrays : dict from str to array, shape (size,)
        By thing; zero at first, and a master a copy of the parameters.
    computed : list of str
        The things that the rule computes with, in its order: all but a compensation.

    Raises
    ------
    DeviceMemoryError
        If an array does not fit on the device; a note says which.
    OSError
        If a file cannot be made.
    """

    def __init__(
        self,
        backend: Backend,
        parameters: Sequence[Parameter],
        indices: Sequence[int],
        kept: Sequence[tuple[str, Place, Format]],
        *,
        pinned: bool,
        record: Record,
        directory: Directory | None = None,
    ) -> None:
        self.indices = tuple(indices)
        self._parameters = [parameters[i] for i in indices]
        self.size = sum(p.size for p in self._parameters)
        self.arrays: dict[str, Array] = {}
        self.computed = [thing for thing, *_ in kept if thing != "compensation"]
        for thing, home, form in kept:
            if home == "disk":
                assert directory is not None, "a strategy that uses one has it"
                self.arrays[thing] = directory.create(thing, self.size)
            else:
                self.arrays[thing] = self._allocated(backend, thing, home, form, pinned)
        if "master" in self.arrays:
            master = self.arrays["master"]
            for parameter, where in self._slices():
                transfer(backend, parameter.data.reshape(-1), master[where], record)

    def _allocated(
        self, backend: Backend, thing: str, home: str, form: Format, pinned: bool
    ) -> Array:
        dtype = dtype_of(form)
        if home == "host" and not pinned:
            return np.zeros(self.size, dtype)
        try:
            if home == "host":
                array = backend._empty_pinned(self.size, dtype)
            else:
                array = backend._empty((self.size,), dtype)
        except DeviceMemoryError as error:
            error.add_note(f"{thing} of {self.size:,} parameters")
            raise
        array[...] = 0
        return array

    def _slices(self) -> list[tuple[Parameter, slice]]:
        slices, start = [], 0
        for parameter in self._parameters:
            slices.append((parameter, slice(start, start + parameter.size)))
            start += parameter.size
        return slices

    def views(self, thing: str) -> Mapping[str, Any]:
        """Return a view of each parameter's part of a thing, of its shape, by name."""
        array = self.arrays[thing]
        return {p.name: array[where].reshape(p.shape) for p, where in self._slices()}
