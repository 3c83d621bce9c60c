"""Mistakes of order: most in a device that puts everything off, where each shows every time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from adamoffload.device.backend import HostArray, Ticket

from broken_backends import DONE, LazyHooks, PlainBackend, broken, ours
from lazy_backend import Later, LazyArray, LazyBackend

_ALL = "An operation starts when all tickets in its ``after`` are done"
_TESTS = {
    "d2h": "d2h_starts_after_its_tickets",
    "h2d": "h2d_starts_after_its_tickets",
    "run_on_device": "device_work_starts_after_its_tickets",
    "run_on_host": "host_work_starts_after_its_tickets",
}
_KEEPS: dict[str, Callable[[tuple[Ticket, ...]], tuple[Ticket, ...]]] = {
    "waits for no ticket": lambda after: (),
    "waits for the first of its tickets only": lambda after: after[:1],
    "waits for the last of its tickets only": lambda after: after[-1:],
    "waits for the first and the last of its tickets only": lambda after: after[:1] + after[-1:],
    "waits for eight tickets at most": lambda after: after[:8],
}


def _forgetful(
    kind: str, test: str, mistake: str, forgets: Callable[[Any, Any, Any, Any], Any], says: str
) -> None:
    """Note a backend whose `kind` of work waits for what `forgets` leaves of its tickets."""

    @broken(_ALL, test, f"{kind} {mistake}", says)
    class Forgets(LazyHooks):
        def waits(
            self, own: str, after: tuple[Ticket, ...], source: Any = None, target: Any = None
        ) -> tuple[Ticket, ...]:
            return tuple(forgets(self, after, source, target)) if own == kind else after


def _kept(keep: Any, device: Any, after: Any, source: Any, target: Any) -> Any:
    return keep(after)


def _unless(special: Any, device: Any, after: Any, source: Any, target: Any) -> Any:
    return () if special(source, target) else after


for _kind, _test in _TESTS.items():
    for _mistake, _keep in _KEEPS.items():
        _says = "started before the tickets in its `after`"
        _forgetful(_kind, _test, _mistake, partial(_kept, _keep), _says)
    _forgetful(
        _kind,
        "tickets_of_other_devices_count",
        "waits for the device's own tickets only",
        lambda device, after, s, t: [ticket for ticket in after if ours(device, ticket)],
        "started before a ticket of another device was done",
    )

_SPECIAL: dict[str, Callable[[Any, Any], bool]] = {
    "a strided source": lambda s, t: not s.flags.c_contiguous and not s.flags.f_contiguous,
    "a Fortran-ordered source": lambda s, t: s.flags.f_contiguous and not s.flags.c_contiguous,
    "a strided target": lambda s, t: not t.flags.c_contiguous and not t.flags.f_contiguous,
    "a Fortran-ordered target": lambda s, t: t.flags.f_contiguous and not t.flags.c_contiguous,
    "a single element": lambda s, t: s.ndim == 0,
    "integers": lambda s, t: s.dtype.kind == "i",
    "float64": lambda s, t: s.dtype == np.float64,
    "complex numbers": lambda s, t: s.dtype.kind == "c",
    "three axes": lambda s, t: s.ndim == 3,
}
for _kind in ("d2h", "h2d"):
    for _what, _is in _SPECIAL.items():
        _forgetful(
            _kind,
            "copies_of_any_kind_start_after_their_tickets",
            f"of {_what} waits for no ticket",
            partial(_unless, _is),
            f"{_kind} started before its tickets were done",
        )
    _forgetful(
        _kind,
        "copies_of_any_kind_start_after_their_tickets",
        "of a view waits for the last of its tickets only",
        lambda d, after, s, t: (
            after if s.flags.c_contiguous and t.flags.c_contiguous else after[-1:]
        ),
        f"{_kind} started before its tickets were done",
    )


@broken(
    _ALL,
    "a_ring_of_slots_needs_only_tickets",
    "copies wait for copies only, and work for work",
    "a slot was overwritten while it was in use",
)
class KnowsItsKindOnly(LazyHooks):
    def waits(
        self, kind: str, after: tuple[Ticket, ...], source: Any = None, target: Any = None
    ) -> tuple[Ticket, ...]:
        copies = kind in ("d2h", "h2d")
        return tuple(ticket for ticket in after if isinstance(ticket, Copy) == copies)

    def later(
        self, action: Callable[[], object], after: tuple[Ticket, ...], behind: Ticket | None = None
    ) -> Later:
        ticket = super().later(action, after, behind or DONE)
        if behind is None:  # work has a place in the queue
            ticket.__class__ = Copy
        return ticket


class Copy(Later):
    """The ticket of a copy."""


@broken(
    "the device computes in the order of issue",
    "a_copy_down_sees_what_was_computed_before",
    "the ticket of work on the device is taken on another stream, where nothing runs",
    "a copy down overtook the device's work: is it on another stream?",
)
class CopiesOnTheWrongStream(LazyBackend):
    def run_on_device(
        self, function: Callable[[], object], *, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        super().run_on_device(function, after=after)
        return DONE


@broken(
    "the device computes in the order of issue",
    "device_work_keeps_its_order",
    "``np.*`` outside run_on_device does not go through the queue",
    "work on the device ran in another order than issued",
)
class ComputesBesideTheQueue(LazyBackend):
    def compute(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        queued, self.queued = self.queued, DONE
        try:
            return super().compute(function, args, kwargs)
        finally:
            self.queued = queued


@broken(
    "Run `function`, which computes on device arrays, in the device's queue",
    "device_work_keeps_its_order",
    "work on the device runs when its ticket is waited for, whatever was issued before",
    "work on the device ran in another order than issued",
)
class HasNoQueue(LazyBackend):
    def run_on_device(
        self, function: Callable[[], object], *, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        with self.lock:
            self.queued = self.later(lambda: self.work(function), after)
            return self.queued


@broken(
    "Copy `source`, on the host, into `target`, once `after` is done",
    "copies_of_any_kind_start_after_their_tickets",
    "a strided source is packed when the copy is issued",
    "h2d started before its tickets were done",
)
class PacksTooEarly(LazyBackend):
    def _h2d(self, source: HostArray, target: LazyArray, after: tuple[Ticket, ...]) -> Ticket:
        return super()._h2d(np.asarray(source, order="C"), target, after)


@broken(
    "Copy `source`, on the device, into `target`, once `after` is done",
    "d2h_starts_after_its_tickets",
    "the source is put aside when the copy is issued",
    "d2h started before the tickets in its `after` were done",
)
class ReadsTooEarly(LazyBackend):
    def _d2h(self, source: LazyArray, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return super()._d2h(LazyArray(source.data.copy(), self), target, after)


@broken(
    "and return when it is done",
    "host_work_starts_after_its_tickets",
    "run_on_host returns before its function has run",
    "run_on_host called its function 0 times",
)
class HostReturnsEarly(LazyBackend):
    def run_on_host(
        self, function: Callable[[], object], *, elements: int, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        return self.later(function, after)


@broken(
    "and return when it is done",
    "host_work_starts_after_its_tickets",
    "the host's part is tried out once, to measure it",
    "run_on_host called its function 2 times",
)
class HostRunsTwice(PlainBackend):
    def run_on_host(
        self, function: Callable[[], object], *, elements: int, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        super().run_on_host(function, elements=elements, after=after)
        return super().run_on_host(function, elements=elements)
