"""Whether an optimizer's parameters, moments and counters still belong together.

A step is marked before it can change anything, and the mark goes when everything has changed.
Whatever ends it in between, at whatever point, an interrupt included, therefore leaves the mark,
and nobody goes on as if nothing had happened. Only then is it looked at more closely: a step that
has touched nothing leaves no trace, any other makes the optimizer refuse to go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from adamoffload.device.backend import Ticket, on_fork
from adamoffload.plan.step import Progress

__all__ = ["Attempt", "Integrity", "Issued", "Loss"]

_REMEDY = (
    "parameters and moments no longer belong together. Start again from saved state: "
    "load_state_dict, or ao.load"
)


@dataclass(slots=True, eq=False)
class Attempt:
    """A step from its beginning to its end.

    Attributes
    ----------
    number : int
        The step's, counted from 1.
    touched : list of int
        Which parameters it has begun to change, by their places; filled while it runs.
    result : Progress, optional
        The optimizer's after it; None until it is decided.
    thread : int
        Who runs it.
    """

    number: int
    touched: list[int] = field(default_factory=list)
    result: Progress | None = None
    thread: int = field(default_factory=threading.get_ident)


class Loss(NamedTuple):
    """An update that failed on the device when its step had gone on, or had returned.

    Attributes
    ----------
    step : int
        The step's number, counted from 1.
    places : tuple of int
        Which parameters it was for, by their places.
    error : BaseException
        What its ticket raised.
    """

    step: int
    places: tuple[int, ...]
    error: BaseException


class Issued(NamedTuple):
    """An update on its way into the parameters.

    Attributes
    ----------
    step : int
        The step's number, counted from 1.
    places : tuple of int
        Which parameters it is for, by their places.
    ticket : Ticket
        Until when.
    """

    step: int
    places: tuple[int, ...]
    ticket: Ticket

    def lost(self) -> list[Loss]:
        """Wait for it; return what its ticket raised, if it did."""
        try:
            self.ticket.wait()
        except BaseException as error:  # as it was raised on the device; better a loss too many
            return [Loss(self.step, self.places, error)]
        return []


class Integrity:
    """Remembers which steps have begun, and the verdict on one that failed.

    Parameters
    ----------
    owner : str
        The optimizer's name, for messages.
    names : sequence of str
        The parameters' names, by their places.
    serial : bool
        Whether a lock lets in one step at a time; otherwise each thread may have one under way.
    """

    def __init__(self, owner: str, names: Sequence[str], *, serial: bool) -> None:
        self._owner = owner
        self._names = names
        self._serial = serial
        self._under_way: dict[int, Attempt] = {}
        self._verdict = ""
        on_fork(self)

    def begin(self, attempt: Attempt) -> None:
        """Mark a step as under way.

        Raises
        ------
        RuntimeError
            If an earlier one has left the state in pieces, or has not come to its end.
        """
        self.check()
        self._under_way[self._key(attempt)] = attempt

    def check(self) -> None:
        """Raise RuntimeError if the state is in pieces, or this thread is in the middle of a step.

        A step that was interrupted, and once more while it was looked at, counts as both.
        """
        if self._verdict:
            raise RuntimeError(self._verdict)
        unfinished = self._under_way.get(0 if self._serial else threading.get_ident())
        if unfinished is not None:
            raise RuntimeError(
                f"{self._owner}: step {unfinished.number} has not come to its end; when last "
                f"looked at, it had touched {self._list(unfinished.touched)}. A schedule, ledger "
                f"or probe must not call the optimizer back; if the step was interrupted, and once "
                f"more while that was looked at, {_REMEDY}"
            )

    def confirm(self, attempt: Attempt) -> None:
        """Raise RuntimeError if the state was replaced since the step began, as by a schedule."""
        if attempt not in self._under_way.values():
            raise RuntimeError(
                f"{self._owner}: a state was loaded while step {attempt.number} was being decided; "
                f"the step is left out, the loaded state is whole. Load between steps, not in a "
                f"schedule"
            )

    def end(self, attempt: Attempt) -> None:
        """Take the mark away: everything has changed, or nothing."""
        self._under_way.pop(self._key(attempt), None)

    def conclude(
        self,
        attempt: Attempt,
        error: BaseException,
        *,
        result: Progress,
        settle: Callable[[], Sequence[Loss]],
    ) -> None:
        """Judge a step that raised.

        Parameters
        ----------
        attempt : Attempt
            The step.
        error : BaseException
            What it raised.
        result : Progress
            The optimizer's now: if it is the step's, the step was done.
        settle : callable
            Waits until nothing is in flight any more, and returns what has failed there.
        """
        if self._under_way.get(self._key(attempt)) is not attempt:
            return  # it had not begun, or it is over
        if attempt.result is None or attempt.result is not result:
            why, restless, losses = _brief(error), False, list[Loss]()
            try:
                losses += settle()
            except Exception as unsettled:
                why, restless = f"{why}; then the device: {_brief(unsettled)}", True
            if restless or losses or attempt.touched:
                self._verdict = self._found(attempt, why, losses)
        self.end(attempt)

    def settled(self, settle: Callable[[], Sequence[Loss]]) -> None:
        """Wait until the last step has come to rest, and see that nothing of it was lost.

        Whoever takes the state away asks this first.

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
    def replacing(self, what: str, touched: Sequence[tuple[str, str]]) -> Iterator[None]:
        """Guard the block that replaces the state: only when it ends well, the state is whole.

        Parameters
        ----------
        what : str
            What the block does, for messages: ``"load"``.
        touched : sequence of (str, str)
            What it has begun to change, ``("moment1", name)`` for instance; filled by the block,
            before each change. If it raises and nothing is in here, all is as it was.
        """
        before = self._verdict
        self._verdict = f"{self._owner}: {what} has not come to its end; {_REMEDY}"
        try:
            yield
        except BaseException as error:
            if touched:
                names = ", ".join(f"{kind} of {name!r}" for kind, name in touched)
                self._verdict = (
                    f"{self._owner}: {what} failed half-way ({_brief(error)}), when {names} had "
                    f"been touched; {_REMEDY}"
                )
            else:
                self._verdict = before
            raise
        self._under_way.clear()
        self._verdict = ""

    def _found(self, attempt: Attempt, why: str, losses: Sequence[Loss]) -> str:
        touched = [*attempt.touched]
        found = []
        for loss in losses:
            if loss.step == attempt.number:
                touched += loss.places
            else:
                found.append(self._told(loss))
        if touched or not found:
            found.append(
                f"step {attempt.number} failed half-way ({why}), when "
                f"{self._list(touched)} had been touched"
            )
        return f"{self._owner}: {'; '.join(found)}; {_REMEDY}"

    def _told(self, loss: Loss) -> str:
        names = self._list(loss.places)
        return f"the update of {names} in step {loss.step} was lost ({_brief(loss.error)})"

    def _list(self, places: Sequence[int]) -> str:
        return ", ".join(repr(self._names[i]) for i in sorted(set(places))) or "nothing"

    def _key(self, attempt: Attempt) -> int:
        return 0 if self._serial else attempt.thread

    def _forked(self) -> None:
        """Judge, in a forked child, the steps of threads that are not there any more."""
        for attempt in [*self._under_way.values()]:
            if attempt.thread != threading.get_ident():
                if attempt.touched:
                    why = "the process was forked while another thread was in it"
                    self._verdict = self._found(attempt, why, [])
                self.end(attempt)


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
