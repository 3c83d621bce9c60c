"""Mistakes of tickets: done too early, times that are none, errors that are lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from adamoffload.device.array import DeviceArray, storage
from adamoffload.device.backend import Done, HostArray, Ticket

from broken_backends import DONE, LazyHooks, PlainBackend, broken
from example_backend.adamoffload_background import BackgroundBackend
from lazy_backend import Later, LazyArray, LazyBackend

Work = Callable[[], object]


class Early(Ticket):
    """Knows of its copy, and leaves it to the device's next synchronize."""

    def __init__(self, copy: Ticket) -> None:
        self.copy = copy

    def wait(self) -> None:
        pass

    @property
    def start_s(self) -> float:
        return self.copy.start_s

    @property
    def stop_s(self) -> float:
        return self.copy.stop_s


_WAIT = "Block the host until the operation is done; raise what it raised, at every call."


@broken(
    _WAIT,
    "a_ticket_is_done_when_it_was_waited_for",
    "small copies block, large ones go on after their ticket was waited for",
    "h2d was still reading after its ticket's wait()",
)
class LargeCopiesGoOn(LazyBackend):
    def _h2d(self, source: HostArray, target: LazyArray, after: tuple[Ticket, ...]) -> Ticket:
        copy = super()._h2d(source, target, after)
        return Early(copy) if source.nbytes >= 1 << 14 else copy


@broken(
    _WAIT,
    "a_ticket_is_done_when_it_was_waited_for",
    "in a copying thread: the ticket is done when the copy has begun",
    "was still reading after its ticket's wait()",
)
class DoneWhenBegun(BackgroundBackend):
    def _d2h(self, source: DeviceArray, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        for ticket in after:
            ticket.wait()
        self._link.submit(time.sleep, 0.05)
        self._link.submit(np.copyto, target, storage(source))
        return Done(self.now(), self.now())


@broken(
    "When the ticket is done, neither is used any more.",
    "any_source_is_free_after_wait",
    "h2d of a strided source goes on after its ticket was waited for",
    "h2d of sliced float32 was still reading after its ticket's wait()",
)
class ReadsStridedSourcesLate(LazyBackend):
    def _h2d(self, source: HostArray, target: LazyArray, after: tuple[Ticket, ...]) -> Ticket:
        copy = super()._h2d(source, target, after)
        return copy if source.flags.forc else Early(copy)


@broken(
    "When the ticket is done, neither is used any more.",
    "any_source_is_free_after_wait",
    "h2d of a single element goes on after its ticket was waited for",
    "was still reading after its ticket's wait()",
)
class ReadsElementsLate(LazyBackend):
    def _h2d(self, source: HostArray, target: LazyArray, after: tuple[Ticket, ...]) -> Ticket:
        copy = super()._h2d(source, target, after)
        return copy if source.ndim else Early(copy)


@broken(
    "When the ticket is done, neither is used any more.",
    "any_source_is_free_after_wait",
    "d2h of a strided source goes on after its ticket was waited for",
    "d2h of sliced float32 was still reading after its ticket's wait()",
)
class WritesFromStridedSourcesLate(LazyBackend):
    def _d2h(self, source: LazyArray, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        copy = super()._d2h(source, target, after)
        return copy if source.flags.forc else Early(copy)


@broken(
    "its own `Ticket` says when it is done itself",
    "waiting_for_the_last_is_enough",
    "what a ticket came after is waited for by the device, but not by the host",
    "a ticket was waited for, but not all that it came after",
)
class WaitsForItselfOnly(LazyBackend):
    def _h2d(self, source: HostArray, target: LazyArray, after: tuple[Ticket, ...]) -> Ticket:
        copy = super()._h2d(source, target, after)
        return Early(copy) if source.size > 1000 else copy


# -- synchronize ----------------------------------------------------------------------------------

_SYNCHRONIZE = "Block the host until everything issued to the device is done, or has failed."


@broken(
    _SYNCHRONIZE,
    "synchronize_finishes_everything",
    "synchronize waits for the work on the device, not for the copies",
    "synchronize returned while a d2h was in flight",
)
class SynchronizesTheWorkOnly(LazyBackend):
    def synchronize(self) -> None:
        if isinstance(self.queued, Later):
            self.queued.finish()


class Marked(LazyHooks):
    """Marks its tickets as copies or work, for a synchronize that knows some of them only."""

    def later(self, action: Work, after: tuple[Ticket, ...], behind: Ticket = DONE) -> Later:
        ticket = super().later(action, after, behind)
        self.note(ticket)
        return ticket

    def note(self, ticket: Later) -> None:
        self.marked = [*getattr(self, "marked", []), ticket]

    def _h2d(self, source: HostArray, target: LazyArray, after: tuple[Ticket, ...]) -> Ticket:
        ticket = super()._h2d(source, target, after)
        ticket.kind = "h2d"  # type: ignore[attr-defined]
        return ticket

    def run_on_device(self, function: Work, *, after: tuple[Ticket, ...] = ()) -> Ticket:
        ticket = super().run_on_device(function, after=after)
        ticket.kind = "work"  # type: ignore[attr-defined]
        return ticket

    def finish_but(self, kind: str) -> None:
        for ticket in self.in_flight.copy():
            if getattr(ticket, "kind", "d2h") != kind:
                ticket.finish()


@broken(
    _SYNCHRONIZE,
    "synchronize_finishes_everything",
    "synchronize waits for copies down and work, not for copies up",
    "synchronize returned while an h2d was in flight",
)
class SynchronizesNoCopiesUp(Marked):
    def synchronize(self) -> None:
        self.finish_but("h2d")


@broken(
    _SYNCHRONIZE,
    "synchronize_finishes_everything",
    "synchronize waits for copies, not for the work on the device",
    "synchronize returned while work was in flight",
)
class SynchronizesNoWork(Marked):
    def synchronize(self) -> None:
        self.finish_but("work")


@broken(
    _SYNCHRONIZE,
    "synchronize_finishes_everything",
    "synchronize waits for what was issued last only",
    "synchronize returned while a d2h was in flight",
)
class SynchronizesTheLastOnly(LazyBackend):
    def synchronize(self) -> None:
        for ticket in self.in_flight[-1:]:
            ticket.finish()


@broken(
    _SYNCHRONIZE,
    "synchronize_finishes_copies_in_any_layout",
    "synchronize leaves what the host has to unpack to the ticket's wait()",
    "synchronize returned while a d2h was in flight, sliced on the host",
)
class UnpacksInWait(LazyBackend):
    def _d2h(self, source: LazyArray, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        if target.flags.forc:
            return super()._d2h(source, target, after)
        arrived = np.empty(target.shape, target.dtype)
        copy = super()._d2h(source, arrived, after)
        return Later(self, lambda: np.copyto(target, arrived), (copy,))


@broken(
    "This includes what other threads have issued.",
    "synchronize_finishes_everything",
    "synchronize waits for what its own thread has issued",
    "synchronize returned while a d2h of another thread was in flight",
)
class SynchronizesItsThread(LazyBackend):
    def later(self, action: Work, after: tuple[Ticket, ...], behind: Ticket = DONE) -> Later:
        ticket = super().later(action, after, behind)
        ticket.thread = threading.get_ident()  # type: ignore[attr-defined]
        return ticket

    def synchronize(self) -> None:
        for ticket in self.in_flight.copy():
            if ticket.thread == threading.get_ident():  # type: ignore[attr-defined]
                ticket.finish()


@broken(
    "What failed is for its ticket to raise, before and after.",
    "synchronize_leaves_errors_to_their_tickets",
    "synchronize raises what has failed",
    "synchronize raises what a ticket is there to raise",
)
class SynchronizeRaises(LazyBackend):
    def synchronize(self) -> None:
        waiting = self.in_flight.copy()
        super().synchronize()
        for ticket in waiting:
            ticket.wait()


@broken(
    "What failed is for its ticket to raise, before and after.",
    "synchronize_leaves_errors_to_their_tickets",
    "synchronize stops at what has failed",
    "synchronize returned, after a failure, while a d2h was in flight",
)
class SynchronizeStops(LazyBackend):
    def synchronize(self) -> None:
        for ticket in self.in_flight.copy():
            ticket.finish()
            if ticket.error is not None:
                return


@broken(
    "What failed is for its ticket to raise, before and after.",
    "synchronize_leaves_errors_to_their_tickets",
    "synchronize clears the errors",
    "synchronize cleared the error of a ticket",
)
class SynchronizeClears(LazyBackend):
    def synchronize(self) -> None:
        for ticket in self.in_flight.copy():
            ticket.finish()
            ticket.error = None


# -- times ----------------------------------------------------------------------------------------


@broken(
    "Return the time in seconds on this backend's clock.",
    "the_clock_runs",
    "the clock shows no number before it is set",
    "now() is not finite",
)
class NoTime(PlainBackend):
    def now(self) -> float:
        return float("nan")


@broken(
    "It advances while operations run, and never runs backwards.",
    "the_clock_runs",
    "the clock stands still",
    "now() stands still",
)
class StandsStill(PlainBackend):
    def now(self) -> float:
        return 1.0


@broken(
    "It advances while operations run, and never runs backwards.",
    "the_clock_runs",
    "the clock counts down",
    "now() runs backwards",
)
class RunsBackwards(PlainBackend):
    def now(self) -> float:
        return -super().now()


class Timed(PlainBackend):
    """Its tickets' times can be told wrongly."""

    def times(self, start_s: float, stop_s: float) -> tuple[float, float]:
        return start_s, stop_s

    def _run(self, function: Work, after: tuple[Ticket, ...]) -> Ticket:
        done = super()._run(function, after)
        return Done(*self.times(done.start_s, done.stop_s))


@broken(
    "When it began, in seconds on the backend's clock; waits, and raises, as `wait` does.",
    "a_ticket_knows_its_times",
    "an operation begins when the device was made",
    "times run backwards",
)
class BeginsWithTheDevice(Timed):
    def times(self, start_s: float, stop_s: float) -> tuple[float, float]:
        return 0.0, stop_s


@broken(
    "When it ended, in seconds on the backend's clock; waits, and raises, as `wait` does.",
    "a_ticket_knows_its_times",
    "start and stop are exchanged",
    "an operation stops before it starts",
)
class StopsBeforeItStarts(Timed):
    def times(self, start_s: float, stop_s: float) -> tuple[float, float]:
        return stop_s, start_s


@broken(
    "When it ended, in seconds on the backend's clock; waits, and raises, as `wait` does.",
    "a_ticket_knows_its_times",
    "times are in milliseconds",
    "times run backwards",
)
class Milliseconds(Timed):
    def times(self, start_s: float, stop_s: float) -> tuple[float, float]:
        return 1e3 * start_s, 1e3 * stop_s


@broken(
    "When it ended, in seconds on the backend's clock; waits, and raises, as `wait` does.",
    "a_ticket_knows_its_times",
    "the stop of an operation is not known",
    "times are not finite",
)
class NeverStops(Timed):
    def times(self, start_s: float, stop_s: float) -> tuple[float, float]:
        return start_s, float("nan")


@broken(
    "How long it took; waits, and raises, as `wait` does.",
    "a_ticket_knows_its_times",
    "an operation takes no time",
    "a copy takes no time at all",
)
class TakesNoTime(Timed):
    def times(self, start_s: float, stop_s: float) -> tuple[float, float]:
        return stop_s, stop_s


class Guess(Later):
    """Tells its times from the moment of issue."""

    issued_s: float

    @property
    def start_s(self) -> float:
        return self.issued_s

    @property
    def stop_s(self) -> float:
        return self.issued_s


class LateGuess(Guess):
    """Waits for its start, and guesses when it will stop."""

    @property
    def start_s(self) -> float:
        self.wait()
        return self.issued_s


class EarlyStart(Later):
    """Tells when it was issued for when it began."""

    issued_s: float

    @property
    def start_s(self) -> float:
        return self.issued_s


class Guesses(LazyBackend):
    """Its tickets are of a kind that tells times without waiting."""

    kind: type[Any] = Guess

    def later(self, action: Work, after: tuple[Ticket, ...], behind: Ticket = DONE) -> Later:
        with self.lock:
            ticket: Later = self.kind(self, action, after, behind)
            ticket.issued_s = self.now()  # type: ignore[attr-defined]
            self.in_flight = [t for t in self.in_flight if t.times is None] + [ticket]
            return ticket


@broken(
    "When it ended, in seconds on the backend's clock; waits, and raises, as `wait` does.",
    "a_ticket_knows_its_times",
    "a ticket tells its times before it is done",
    "a ticket told its stop_s before it was done",
)
class TimesTooEarly(Guesses):
    pass


@broken(
    "When it ended, in seconds on the backend's clock; waits, and raises, as `wait` does.",
    "asking_for_any_time_waits",
    "a ticket waits for its start, and guesses when it will stop",
    "a ticket told its stop_s before it was done",
)
class GuessesTheStop(Guesses):
    kind = LateGuess


@broken(
    "When it began, in seconds on the backend's clock; waits, and raises, as `wait` does.",
    "asking_for_any_time_waits",
    "a ticket tells its start before it is done",
    "a ticket told its start_s before it was done",
)
class StartsTooEarly(Guesses):
    kind = EarlyStart


# -- errors ---------------------------------------------------------------------------------------

_TRAVELS = "After one that failed it does not start, and fails as well"


@broken(
    _WAIT,
    "errors_reach_the_host",
    "the error of work on the device is swallowed",
    "run_on_device lost the error of its function",
)
class SwallowsErrors(PlainBackend):
    def run_on_device(self, function: Work, *, after: tuple[Ticket, ...] = ()) -> Ticket:
        try:
            return super().run_on_device(function, after=after)
        except Exception:
            return DONE


@broken(
    _WAIT,
    "errors_reach_the_host",
    "the error of work on the host is swallowed",
    "run_on_host lost the error of its function",
)
class SwallowsErrorsOnTheHost(PlainBackend):
    def run_on_host(
        self, function: Work, *, elements: int, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        try:
            return super().run_on_host(function, elements=elements, after=after)
        except Exception:
            return DONE


@broken(
    _WAIT,
    "errors_reach_the_host",
    "errors of work on the device are replaced by one of the backend",
    "run_on_device lost the error of its function",
)
class ReplacesErrors(PlainBackend):
    def run_on_device(self, function: Work, *, after: tuple[Ticket, ...] = ()) -> Ticket:
        try:
            return super().run_on_device(function, after=after)
        except Exception as error:
            raise RuntimeError("launch failed") from error


class _Once(Later):
    def wait(self) -> None:
        try:
            super().wait()
        finally:
            self.error = None


@broken(
    _WAIT,
    "a_failed_ticket_says_so_every_time",
    "an error shows at the first wait() only",
    "does not raise at every wait()",
)
class ShowsErrorsOnce(Guesses):
    kind = _Once


@broken(
    "When it ended, in seconds on the backend's clock; waits, and raises, as `wait` does.",
    "a_failed_ticket_says_so_every_time",
    "the ticket of what failed has a stop",
    "tells its stop_s",
)
class TimesOfFailures(Guesses):
    class kind(Later):  # noqa: N801
        @property
        def stop_s(self) -> float:
            self.finish()
            assert self.times
            return self.times[1]


@broken(
    "How long it took; waits, and raises, as `wait` does.",
    "a_failed_ticket_says_so_every_time",
    "what failed took no time",
    "tells its seconds",
)
class SecondsOfFailures(Guesses):
    class kind(Later):  # noqa: N801
        @property
        def seconds(self) -> float:
            self.finish()
            return 0.0 if self.error else super().seconds


class Deaf(Ticket):
    """Waits for a ticket, and does not listen to what it says."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket

    def wait(self) -> None:
        with suppress(Exception):
            self.ticket.wait()

    @property
    def start_s(self) -> float:
        return self.ticket.start_s

    @property
    def stop_s(self) -> float:
        return self.ticket.stop_s


def _deaf(
    kind: str, mistake: str, hears: Callable[[tuple[Ticket, ...]], tuple[Ticket, ...]]
) -> None:
    @broken(
        _TRAVELS,
        "nothing_starts_after_a_failure",
        f"{kind} {mistake}",
        f"{kind} ignores that ticket",
    )
    class Ignores(LazyHooks):
        def waits(
            self, own: str, after: tuple[Ticket, ...], source: Any = None, target: Any = None
        ) -> tuple[Ticket, ...]:
            return hears(after) if own == kind else after


for _kind in ("d2h", "h2d", "run_on_device", "run_on_host"):
    _deaf(_kind, "starts although a ticket failed", lambda after: tuple(map(Deaf, after)))
    _deaf(
        _kind,
        "looks at the last of its tickets for errors",
        lambda after: (*map(Deaf, after[:-1]), *after[-1:]),
    )


@broken(
    _TRAVELS,
    "nothing_starts_after_a_failure",
    "a copy is made after a ticket that failed, and then fails",
    "d2h was done although ticket 1 of 3 failed",
)
class CopiesThenFails(LazyBackend):
    def _d2h(self, source: LazyArray, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        copy = super()._d2h(source, target, tuple(map(Deaf, after)))
        return self.later(lambda: None, (*after, copy))


@broken(
    "an error travels along the tickets until the host waits for one",
    "an_error_travels_along_the_tickets",
    "an error reaches the next ticket only",
    "lost an error on its way",
)
class ErrorsGoOneStep(LazyBackend):
    def later(self, action: Work, after: tuple[Ticket, ...], behind: Ticket = DONE) -> Later:
        second = any(isinstance(t, Later) and any(_failed(s) for s in t.after) for t in after)
        return super().later(action, tuple(map(Deaf, after)) if second else after, behind)


def _failed(ticket: Ticket) -> bool:
    if isinstance(ticket, Later):
        ticket.finish()
        return ticket.error is not None
    return False


@broken(
    "the device computes in the order of issue",
    "the_device_goes_on_after_a_failure",
    "what fails stops the device's queue",
    "the device cannot be used",
)
class StopsAfterAFailure(LazyBackend):
    stopped = False

    def work(self, function: Work) -> None:
        if self.stopped:
            raise RuntimeError("the device cannot be used")
        try:
            super().work(function)
        except BaseException:
            self.stopped = True
            raise


@broken(
    _TRAVELS,
    "nothing_starts_after_a_failure",
    "a failed ticket that the host has waited for counts as done",
    "ignores that ticket 1 of 3 failed",
)
class ForgivesWhatWasTold(LazyHooks):
    def waits(
        self, kind: str, after: tuple[Ticket, ...], source: Any = None, target: Any = None
    ) -> tuple[Ticket, ...]:
        return tuple(t for t in after if not (isinstance(t, Later) and t.times and t.error))


class _OfItsThread(Later):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.thread = threading.get_ident()

    def wait(self) -> None:
        if threading.get_ident() == self.thread:
            super().wait()


@broken(
    _WAIT,
    "any_thread_may_wait",
    "wait() in another thread than that of the call returns at once",
    "was not done after another thread's wait()",
)
class WaitsInItsThread(Guesses):
    kind = _OfItsThread
