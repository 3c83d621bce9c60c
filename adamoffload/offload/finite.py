"""Looks at gradients on the device, before a step, for what would do lasting damage.

A NaN or an infinity that reaches Adam stays in the moments for ever. So does a finite gradient
whose square overflows float32: the second moment becomes infinite, the update 0, and the element
never moves again. The reference lets all of them pass, and so does the default here, at no cost.

The smallest and the largest element tell nearly everything, since NaN and infinities come through
both reductions: 8 bytes for each large gradient, or batch of small ones, cross the link, all in one
copy. Where they leave a doubt, and to say where it is, the host looks at the elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from adamoffload.device.backend import Array, Backend, HostArray, Ticket
from adamoffload.device.parameter import Parameter
from adamoffload.observe.ledger import Ledger, Record
from adamoffload.plan.step import Step

__all__ = ["POLICIES", "FiniteCheck", "NoCheck"]

POLICIES = ("propagate", "raise", "skip")

_FLOAT32 = np.dtype(np.float32)
_SMALL = 1 << 16  # elements: gradients up to this size are looked at together,
_TOGETHER = 1 << 18  # and that many of their elements, since a call costs as much as 10,000 do
_PIECE = 1 << 20  # elements that the host looks at together


class NoCheck:
    """Lets everything pass: what an optimizer has by default."""

    found = 0

    def passes(self, step: Step, ledger: Ledger) -> bool:  # noqa: ARG002
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
    unscale : float32
        What gradients are multiplied by.
    raises : bool
        Whether to raise rather than to return False.
    """

    def __init__(
        self, owner: str, parameters: Sequence[Parameter], unscale: np.float32, *, raises: bool
    ) -> None:
        self.found = 0
        self._owner = owner
        self._parameters = parameters
        self._weights = [parameter.data.reshape(-1) for parameter in parameters]
        self._unscale = unscale
        self._raises = raises
        backend = parameters[0].backend
        assert backend is not None, "read_parameters refuses parameters on the host"
        self._backend: Backend = backend
        self._batches = _batches([parameter.size for parameter in parameters])
        self._host = backend._empty_pinned(4 * len(self._batches), _FLOAT32)

    def passes(self, step: Step, ledger: Ledger) -> bool:
        """Return whether the step may go on.

        Parameters
        ----------
        step : Step
            What is to be looked at: its gradients, and what decay adds to them.
        ledger : Ledger
            Where every copy is recorded as the hop ``check``: of the step if it may go on, else
            outside of any, since the next one that is taken has the same number.

        Raises
        ------
        FloatingPointError
            If it may not, and that is to raise.
        """
        copies: list[tuple[Any, ...]] = []
        finite = False
        try:
            finite = self._finite(step, lambda *copy: copies.append(copy))
        finally:
            record = ledger.at(step.number if finite else None)
            for copy in copies:
                record(*copy)
        return finite

    def _finite(self, step: Step, record: Record) -> bool:
        for i, gradient in self._doubtful(step, record):
            text = self._look(i, gradient, step.of(i).l2, record)
            if text:
                self.found += 1
                if self._raises:
                    raise FloatingPointError(f"{self._owner}: step {step.number}: {text}")
                return False
        return True

    def _doubtful(self, step: Step, record: Record) -> Iterator[tuple[int, Array]]:
        """Yield the gradients for which the extremes do not exclude an overflow."""
        given = step.gradients
        present = [[(i, given[i]) for i in b if given[i] is not None] for b in self._batches]
        batches = [pairs for pairs in present if pairs]
        own = [[g for _, g in batch] for batch in batches]
        added = [[self._weights[i] for i, _ in batch if step.of(i).l2] for batch in batches]
        largest = iter(self._largest([arrays for arrays in (*own, *added) if arrays], record))
        bounds = [next(largest) for _ in own]
        for k, batch in enumerate(batches):
            # Rounding is monotonic: no sum is larger than that of what is largest in its parts.
            decay = max(abs(step.of(i).l2) for i, _ in batch)
            bound = bounds[k] + decay * next(largest) if added[k] else bounds[k]
            if not np.isfinite(np.square(bound * self._unscale)):
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

    def _look(self, i: int, gradient: Array, decay: np.float32, record: Record) -> str:
        """Return what is wrong with a gradient, and where first; empty if nothing is."""

        def down(array: Array) -> HostArray:
            return self._backend.asnumpy(
                array, record=lambda _, elements, nbytes, t: record("check", elements, nbytes, t)
            )

        for start in range(0, gradient.size, _PIECE):
            part = slice(start, start + _PIECE)
            g = down(gradient[part])
            seen = (g + down(self._weights[i][part]) * decay if decay else g) * self._unscale
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
