"""Whether an optimizer's parameters, state and counters still belong together.

A step is marked before it can change anything, and the mark goes when everything has changed.
Whatever ends it in between, an interrupt included, leaves the mark, and only then is it looked at
more closely: a step that has touched nothing leaves no trace; after any other the optimizer refuses
to go on, and says what had been touched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["Integrity", "LostUpdate", "StepUnderway"]

_REMEDY = (
    "parameters and state no longer belong together. Start again from saved state: "
    "load_state_dict, or ao.load"
)


@dataclass(slots=True, eq=False)
class StepUnderway:
    """A step from its beginning to its end.

    Attributes
    ----------
    number : int
        The step's, counted from 1.
    touched : list of int
        Indices of the parameters that it has begun to change; filled while it runs.
    after : Any
        The optimizer's counters after it; None until they are decided.
    thread : int
        Who runs it.
    """

    number: int
    touched: list[int] = field(default_factory=list)
    after: Any = None
    thread: int = field(default_factory=threading.get_ident)


class LostUpdate(NamedTuple):
    """An update that failed when its step had gone on, or had returned.

    Attributes
    ----------
    step : int
        The step's number, counted from 1.
    indices : tuple of int
        Of the parameters that it was for.
    error : BaseException
        What its ticket raised.
    """

    step: int
    indices: tuple[int, ...]
    error: BaseException


Settle = Callable[[], Sequence[LostUpdate]]
"""Waits until nothing is in flight any more; returns the updates that have failed."""


class Integrity:
    """Remembers which steps have begun, and the verdict on one that failed.

    Parameters
    ----------
    owner : str
        The optimizer's name, for messages.
    names : sequence of str
        The parameters' names, by index.
    """

    def __init__(self, owner: str, names: Sequence[str]) -> None:
        self._owner = owner
        self._names = names
        self._underway: dict[int, StepUnderway] = {}  # by thread: without a lock, several may step
        self._verdict = ""

    def begin(self, step: StepUnderway) -> None:
        """Mark a step as under way.

        Raises
        ------
        RuntimeError
            If an earlier one has left the state in pieces, or has not come to its end.
        """
        self.check()
        self._underway[step.thread] = step

    def check(self) -> None:
        """Raise RuntimeError if the state is in pieces, or this thread is in a step."""
        if self._verdict:
            raise RuntimeError(self._verdict)
        unfinished = self._underway.get(threading.get_ident())
        if unfinished is not None:
            raise RuntimeError(
                f"{self._owner}: step {unfinished.number} has not come to its end; it has touched "
                f"{self._list(unfinished.touched)}. A schedule, ledger or probe must not call the "
                f"optimizer back; if the step was interrupted, {_REMEDY}"
            )

    def confirm(self, step: StepUnderway) -> None:
        """Raise RuntimeError if the state was replaced since the step began, as by a schedule."""
        if self._underway.get(step.thread) is not step:
            raise RuntimeError(
                f"{self._owner}: a state was loaded while step {step.number} was being decided; "
                f"the step is left out, the loaded state is whole. Load between steps, not in a "
                f"schedule"
            )

    def end(self, step: StepUnderway) -> None:
        """Take the mark away: everything has changed, or nothing."""
        self._underway.pop(step.thread, None)

    def conclude(
        self, step: StepUnderway, error: BaseException, counters: object, settle: Settle
    ) -> bool:
        """Judge a step that raised; if the counters are those after it, it was done.

        Return whether it was not; then all has come to rest.
        """
        if self._underway.get(step.thread) is not step:
            return False  # it had not begun, or it is over
        undone = step.after is None or step.after is not counters
        if undone:
            why, restless, losses = _brief(error), False, list[LostUpdate]()
            try:
                losses += settle()
            except Exception as unsettled:
                why, restless = f"{why}; then the device: {_brief(unsettled)}", True
            if restless or losses or step.touched:
                self._verdict = self._found(step, why, losses)
        self.end(step)
        return undone

    def settled(self, settle: Settle) -> None:
        """Wait until the last step has come to rest, and see that nothing of it was lost.

        Raises
        ------
        RuntimeError
            If the state is in pieces.
        """
        self.check()
        losses = settle()
        if losses:
            self._verdict = f"{self._owner}: {'; '.join(map(self._told, losses))}; {_REMEDY}"
            raise RuntimeError(self._verdict) from losses[0].error

    @contextmanager
    def replacing(self, what: str) -> Iterator[list[tuple[str, str]]]:
        """Guard the block that replaces the state: only when it ends well, the state is whole.

        Parameters
        ----------
        what : str
            What the block does, for messages: ``"a load"``.

        Yields
        ------
        list of (str, str)
            For what it has begun to change, ``("m", name)`` for instance; the block appends before
            each change. If it raises and nothing is in there, all is as it was.
        """
        before, touched = self._verdict, list[tuple[str, str]]()
        self._verdict = f"{self._owner}: {what} has not come to its end; {_REMEDY}"
        try:
            yield touched
        except BaseException as error:
            names = ", ".join(f"{kind} of {name!r}" for kind, name in touched)
            self._verdict = before
            if touched:
                self._verdict = (
                    f"{self._owner}: {what} failed half-way ({_brief(error)}), when {names} had "
                    f"been touched; {_REMEDY}"
                )
            raise
        self._underway.clear()
        self._verdict = ""

    def _found(self, step: StepUnderway, why: str, losses: Sequence[LostUpdate]) -> str:
        touched = [*step.touched]
        found = []
        for loss in losses:
            if loss.step == step.number:
                touched += loss.indices
            else:
                found.append(self._told(loss))
        if touched or not found:
            found.append(
                f"step {step.number} failed half-way ({why}), when "
                f"{self._list(touched)} had been touched"
            )
        return f"{self._owner}: {'; '.join(found)}; {_REMEDY}"

    def _told(self, loss: LostUpdate) -> str:
        names = self._list(loss.indices)
        return f"the update of {names} in step {loss.step} was lost ({_brief(loss.error)})"

    def _list(self, indices: Sequence[int]) -> str:
        return ", ".join(repr(self._names[i]) for i in sorted(set(indices))) or "nothing"


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
