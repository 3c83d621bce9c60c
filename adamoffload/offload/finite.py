"""Looks at gradients on the device, before a step, for what would do lasting damage.

A NaN or an infinity that reaches Adam stays in the moments for ever. So does a finite gradient
whose square overflows float32: the second moment becomes infinite, the update 0, and the element
never moves again. The reference lets all of them pass, and so does the default here, at no cost.

The smallest and the largest element tell nearly everything, since NaN and infinities come through
both reductions: 8 bytes for each large gradient, or batch of small ones, cross the link, all in one
copy. Where they leave a doubt, and to say where it is, the host looks at the elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from adamoffload.device.backend import Array, Backend, HostArray, Ticket
from adamoffload.device.parameter import Parameter
from adamoffload.observe.ledger import Ledger, Record

__all__ = ["POLICIES", "FiniteCheck", "NoCheck"]

POLICIES = ("propagate", "raise", "skip")

_FLOAT32 = np.dtype(np.float32)
_SMALL = 1 << 16  # elements: gradients up to this size are looked at together,
_TOGETHER = 1 << 18  # and that many of their elements, since a call costs as much as 10,000 do
_PIECE = 1 << 20  # elements that the host looks at together


class _Looked(NamedTuple):
    """What is looked at in a step."""

    gradients: Sequence[Array | None]
    l2: Callable[[int], np.float32]
    unscale: np.float32
    record: Record


class NoCheck:
    """Lets everything pass: what an optimizer has by default."""

    found = 0
    policy = "propagate"

    def passes(self, *_: Any) -> bool:
        """Return True."""
        return True


class FiniteCheck:
    """Stops a step in which some element, as Adam would see it, has no finite square.

    Parameters
    ----------
    owner : str
        The optimizer's name, for messages.
    parameters : sequence of Parameter
        In update order, on one device.
    scaled : bool
        Whether gradients are multiplied first and decayed then, or the other way round.
    raises : bool
        Whether to raise rather than to return False.
    """

    def __init__(
        self, owner: str, parameters: Sequence[Parameter], *, scaled: bool, raises: bool
    ) -> None:
        self.found = 0
        self.policy = "raise" if raises else "skip"
        self._scaled = scaled
        self._owner = owner
        self._parameters = parameters
        self._weights = [parameter.data.reshape(-1) for parameter in parameters]
        self._raises = raises
        backend = parameters[0].backend
        assert backend is not None, "read_parameters refuses parameters on the host"
        self._backend: Backend = backend
        self._batches = _batches([parameter.size for parameter in parameters])
        self._host = backend._empty_pinned(4 * len(self._batches), _FLOAT32)

    def passes(
        self,
        number: int,
        gradients: Sequence[Array | None],
        l2: Callable[[int], np.float32],
        unscale: np.float32,
        ledger: Ledger,
    ) -> bool:
        """Return whether a step may go on.

        Parameters
        ----------
        number : int
            The step's, counted from 1.
        gradients : sequence of device array or None
            What is to be looked at, flattened.
        l2 : callable
            What times a parameter is added to its gradient, given its index.
        unscale : float32
            What gradients are multiplied by.
        ledger : Ledger
            Where every copy is recorded as the hop ``check``: of the step if it may go on, else
            outside of any, since the next one that is taken has the same number.

        Raises
        ------
        FloatingPointError
            If it may not, and that is to raise.
        """
        copies: list[tuple[Any, ...]] = []
        looked = _Looked(gradients, l2, unscale, lambda *copy: copies.append(copy))
        text = "an interrupt"
        try:
            text = self._wrong(looked)
        finally:
            record = ledger.at(None if text else number)
            for copy in copies:
                record(*copy)
        if text:
            self.found += 1
            if self._raises:
                raise FloatingPointError(f"{self._owner}: step {number}: {text}")
        return not text

    def _wrong(self, looked: _Looked) -> str:
        """Return what is wrong; empty if nothing is."""
        for i, gradient in self._doubtful(looked):
            text = self._look(i, gradient, looked)
            if text:
                return text
        return ""

    def _doubtful(self, looked: _Looked) -> Iterator[tuple[int, Array]]:
        """Yield the gradients for which the extremes do not exclude an overflow."""
        given, l2, unscale, record = looked
        present = [[(i, given[i]) for i in b if given[i] is not None] for b in self._batches]
        batches = [pairs for pairs in present if pairs]
        own = [[g for _, g in batch] for batch in batches]
        added = [[self._weights[i] for i, _ in batch if l2(i)] for batch in batches]
        largest = iter(self._largest([arrays for arrays in (*own, *added) if arrays], record))
        bounds = [next(largest) for _ in own]
        for k, batch in enumerate(batches):
            # Rounding is monotonic: no sum is larger than that of what is largest in its parts.
            decay = max(abs(l2(i)) for i, _ in batch)
            more: Any = decay * next(largest) if added[k] else 0
            bound: Any = bounds[k] * unscale + more
            if not self._scaled:
                bound = (bounds[k] + more) * unscale
            if not np.isfinite(np.square(bound)):
                yield from batch

    def _largest(self, groups: Sequence[Sequence[Array]], record: Record) -> HostArray:
        """Return the largest magnitude in each group of device arrays: NaN if there is one."""
        target = self._backend._empty((2 * len(groups),), _FLOAT32)
        host = self._host[: 2 * len(groups)]

        def reduce() -> None:
            np.concatenate([x for arrays in groups for x in _extremes(arrays)], out=target)

        reduced = self._backend.run_on_device(reduce)
        copied = self._backend.d2h(target, host, after=(reduced,))
        copied.wait()
        elements = sum(x.size for arrays in groups for x in arrays)
        record("check", elements, host.nbytes, _Span(reduced, copied))
        largest: HostArray = np.max(np.abs(host.reshape(-1, 2)), axis=1)
        return largest

    def _look(self, i: int, gradient: Array, looked: _Looked) -> str:
        """Return what is wrong with a gradient, and where first; empty if nothing is."""
        decay, record = looked.l2(i), looked.record

        def down(array: Array) -> HostArray:
            wire = self._backend.asnumpy(
                array, record=lambda _, elements, nbytes, t: record("check", elements, nbytes, t)
            )
            return wire.astype(np.float32, copy=False)

        for start in range(0, gradient.size, _PIECE):
            part = slice(start, start + _PIECE)
            g = down(gradient[part])
            seen: Any
            if self._scaled:
                seen = g * looked.unscale
                seen = seen + down(self._weights[i][part]) * decay if decay else seen
            else:
                seen = (g + down(self._weights[i][part]) * decay if decay else g) * looked.unscale
            bad = ~np.isfinite(np.square(seen))
            if bad.any():
                k = int(np.argmax(bad))
                return self._told(self._parameters[i], start + k, g[k], seen[k])
        return ""

    def _told(self, parameter: Parameter, position: int, g: np.float32, seen: np.float32) -> str:
        index = tuple(int(k) for k in np.unravel_index(position, parameter.shape))
        text = f"the gradient of {parameter.name!r} is {g!s} at index {index}"
        if g != seen and not np.isnan(g):
            text += f", and {seen!s} with weight decay and loss scale"
        if np.isfinite(seen):
            text += (
                ", whose square overflows float32: the second moment would become infinite, and "
                "the element never move again"
            )
        return (
            f"{text}. Nothing has changed. Look where it comes from, or pass on_nonfinite='skip' "
            f"to leave such steps out"
        )


def _extremes(arrays: Sequence[Array]) -> list[Array]:
    x = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return [np.min(x, keepdims=True), np.max(x, keepdims=True)]


def _batches(sizes: Sequence[int]) -> list[list[int]]:
    """Put the indices of small neighbours together."""
    batches: list[list[int]] = []
    room = 0
    for i, size in enumerate(sizes):
        if size > min(room, _SMALL):
            batches.append([])
            room = _TOGETHER
        batches[-1].append(i)
        room = room - size if size <= _SMALL else 0
    return batches


class _Span(NamedTuple):
    """From the beginning of one operation to the end of another."""

    first: Ticket
    last: Ticket

    @property
    def start_s(self) -> float:
        return self.first.start_s

    @property
    def stop_s(self) -> float:
        return self.last.stop_s
