"""What a ticket says: when its operation is done, when that was, and what went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise

import numpy as np

from adamoffload.device.backend import Array, Backend, DeviceMemoryError, Ticket
from adamoffload.testing.promises import (
    CONTIGUOUS,
    ELEMENT,
    FLOAT32,
    Elsewhere,
    Mine,
    NewDevice,
    Promises,
    counted,
    error_of,
    fail,
    failed,
    layouts,
    on_device,
    on_host,
    poisoned,
    refused,
    same,
    together,
)

Issue = Callable[[tuple[Ticket, ...]], Ticket]
"""Issues an operation after tickets."""


class Tickets(Promises):
    """A ticket that was waited for is done; times are true; errors are not lost."""

    def test_a_ticket_is_done_when_it_was_waited_for(self, new_device: NewDevice) -> None:
        """After wait(), the target holds the source, and the source is free to be overwritten."""
        device = new_device()
        good, poison = self.numbers(), poisoned(self.elements, FLOAT32)
        x, y, source, host = device.asarray(poison), device.asarray(poison), good.copy(), poison
        device.h2d(source, x).wait()
        source[...] = np.nan
        same(device.asnumpy(x), good, "h2d was still reading after its ticket's wait()")
        ticket = device.d2h(x, host)
        ticket.wait()
        ticket.wait()
        same(host, good, "d2h was not done after its ticket's wait()")
        np.copyto(x, y)
        device.synchronize()
        same(host, good, "d2h was still reading after its ticket's wait()")

    def test_any_source_is_free_after_wait(self, new_device: NewDevice) -> None:
        """Of any layout and dtype, on either side: what is written to it later does not arrive."""
        device = new_device()
        cases = [(counted((3, 4), FLOAT32), layout) for layout in layouts()]
        cases += [(counted((), FLOAT32), layout) for layout in (CONTIGUOUS, ELEMENT)]
        cases += [(counted((300,), np.dtype(code)), CONTIGUOUS) for code in self.dtypes]
        for values, layout in cases:
            x = device.asarray(np.zeros_like(values))
            around, source = on_host(layout, values)
            device.h2d(source, x).wait()
            around[...] = 0
            fault = f"of {layout.name} {values.dtype} was still reading after its ticket's wait()"
            same(device.asnumpy(x), values, f"h2d {fault}")
            if layout not in (*layouts(device), ELEMENT):
                continue
            around, source = on_device(device, layout, values)
            host = np.zeros_like(values)
            device.d2h(source, host).wait()
            around[...] = 0
            device.synchronize()
            same(host, values, f"d2h {fault}")

    def test_waiting_for_the_last_is_enough(self, new_device: NewDevice) -> None:
        """Who has waited for a ticket has waited for all that it came after."""
        device, good = new_device(), self.numbers()
        source, x, host = good.copy(), device.asarray(good), poisoned(good.size, FLOAT32)
        up = device.h2d(source, x)
        work = device.run_on_device(lambda: np.multiply(x, 2, out=x), after=(up,))
        down = device.d2h(x, host, after=(work,))
        together(down.wait)
        down.wait()
        source[...] = np.nan
        same(host, 2 * good, "a ticket was waited for, but not all that it came after")

    # -- synchronize ----------------------------------------------------------------------------

    def test_synchronize_finishes_everything(self, new_device: NewDevice) -> None:
        """After it, nothing is in flight, whether its ticket was waited for or not."""
        for run, whose in ((_here, ""), (together, " of another thread")):
            device, good, called = new_device(), self.numbers(), list[int]()
            x, y, z = (device.asarray(good) for _ in range(3))
            host, new = poisoned(good.size, FLOAT32), good + 2
            run(partial(device.d2h, x, host))
            run(partial(device.h2d, new, y))
            run(partial(device.run_on_device, partial(_add, z, called)))
            device.synchronize()
            fault = f"synchronize returned while {{}}{whose} was in flight"
            same(host, good, fault.format("a d2h"))
            assert called, fault.format("work")
            new[...] = np.nan
            same(device.asnumpy(y), good + 2, fault.format("an h2d"))
            same(device.asnumpy(z), good + 1, fault.format("work"))

    def test_synchronize_finishes_copies_in_any_layout(self, new_device: NewDevice) -> None:
        """Also those that a library packs or unpacks on the host, on either side."""
        device, values = new_device(), counted((3, 4), FLOAT32)
        for layout in layouts():
            x, y = device.asarray(values), device.asarray(np.zeros_like(values))
            (room, host), (around, source) = on_host(layout, 0 * values), on_host(layout, values)
            device.d2h(x, host)
            device.h2d(source, y)
            device.synchronize()
            fault = f"synchronize returned while {{}} was in flight, {layout.name} on the host"
            same(room, around, fault.format("a d2h"))
            around[...] = 0
            same(device.asnumpy(y), values, fault.format("an h2d"))

    def test_synchronize_leaves_errors_to_their_tickets(self, new_device: NewDevice) -> None:
        """It does not raise what failed, and finishes the rest; the error stays where it was."""
        device, good = new_device(), self.numbers()
        x, host, target = device.asarray(good), poisoned(good.size, FLOAT32), np.zeros(3, "f")
        y = device.asarray(target)
        first = failed(device)
        tickets = [first, _issued(lambda: device.d2h(y, target, after=(first,)))]
        tickets.append(_issued(lambda: device.h2d(target, y, after=(first,))))
        device.d2h(x, host)
        tickets.append(failed(device))
        try:
            device.synchronize()
        except Mine as error:
            raise AssertionError("synchronize raises what a ticket is there to raise") from error
        same(host, good, "synchronize returned, after a failure, while a d2h was in flight")
        for ticket in tickets:
            with refused(Mine, "synchronize cleared the error of a ticket"):
                ticket.wait()

    # -- times ----------------------------------------------------------------------------------

    def test_the_clock_runs(self, new_device: NewDevice) -> None:
        """It tells seconds, which grow while the device works and never shrink."""
        device, good = new_device(), self.numbers()
        x, readings = device.asarray(good), [device.now()]
        for _ in range(3):
            device.d2h(x, good).wait()
            device.synchronize()
            readings.append(device.now())
        assert all(map(math.isfinite, readings)), f"now() is not finite: {readings}"
        assert readings == sorted(readings), f"now() runs backwards: {readings}"
        assert readings[0] < readings[-1], f"now() stands still: {readings}"

    def test_a_ticket_knows_its_times(self, new_device: NewDevice) -> None:
        """Times are on the device's clock, follow the order, and asking for one waits."""
        device, host = new_device(), poisoned(self.elements, FLOAT32)
        x, good = device.asarray(host), self.numbers()
        began = device.now()
        up = device.h2d(good, x)
        work = device.run_on_device(lambda: np.add(x, 1, out=x), after=(up,))
        down = device.d2h(x, host, after=(work,))
        ended = down.stop_s
        same(host, good + 1, "a ticket told its stop_s before it was done")
        own = device.run_on_host(lambda: np.sqrt(host), elements=host.size, after=(down,))
        tickets = (up, work, down, own)
        times = [t for ticket in tickets for t in (ticket.start_s, ticket.stop_s)]
        assert all(map(math.isfinite, times)), f"times are not finite: {times}"
        assert down.stop_s == ended, "a ticket changes its mind about its stop_s"
        for ticket in tickets:
            assert ticket.start_s <= ticket.stop_s, "an operation stops before it starts"
            assert ticket.seconds == ticket.stop_s - ticket.start_s, (
                "seconds is not stop_s - start_s"
            )
        times = [began, *times, device.now()]
        for earlier, later in pairwise(times):
            assert earlier <= later + self.clock_resolution_s, f"times run backwards: {times}"
        assert down.seconds > 0 or self.clock_resolution_s, "a copy takes no time at all"

    def test_asking_for_any_time_waits(self, new_device: NewDevice) -> None:
        """`start_s`, `stop_s` and `seconds` are told when the operation is done."""
        device, good = new_device(), self.numbers()
        for name in ("start_s", "stop_s", "seconds"):
            x, host = device.asarray(good), poisoned(good.size, FLOAT32)
            getattr(device.d2h(x, host), name)
            same(host, good, f"a ticket told its {name} before it was done")
            source = good + 1
            getattr(device.h2d(source, x), name)
            source[...] = np.nan
            same(device.asnumpy(x), good + 1, f"a ticket told its {name} before it was done")
            called: list[int] = []
            getattr(device.run_on_device(partial(called.append, 1)), name)
            assert called, f"a ticket told its {name} before it was done"

    def test_any_thread_may_wait(self, new_device: NewDevice) -> None:
        """A ticket that another thread has waited for is done, too."""
        device, good = new_device(), self.numbers()
        x, host = device.asarray(good), poisoned(self.elements, FLOAT32)
        work = device.run_on_device(lambda: np.add(x, 1, out=x))
        copy = device.d2h(x, host, after=(work,))
        together(copy.wait)
        same(host.copy(), good + 1, "d2h was not done after another thread's wait()")

    # -- errors ---------------------------------------------------------------------------------

    def test_errors_reach_the_host(self, new_device: NewDevice) -> None:
        """What a function raises comes out of the call, or of its ticket's wait()."""
        device = new_device()
        for error in (KeyError("mine"), DeviceMemoryError("mine", 3, 2, 1), ZeroDivisionError()):

            def raises(error: Exception = error) -> None:
                raise error

            on_device = error_of(partial(device.run_on_device, raises))
            assert on_device is error, f"run_on_device lost the error of its function: {error!r}"
            on_host = error_of(partial(device.run_on_host, raises, elements=1))
            assert on_host is error, f"run_on_host lost the error of its function: {error!r}"

    def test_nothing_starts_after_a_failure(self, new_device: NewDevice) -> None:
        """Each kind of work fails with a ticket that it comes after, and is left undone.

        Wherever that ticket stands among others, and also if the host has waited for it.
        """
        device = new_device()
        fine, host = device.asarray(np.zeros(3, "f")), np.zeros(3, "f")
        makers: tuple[Callable[[], Ticket], ...] = (
            partial(Elsewhere, fail),
            partial(failed, device),
            partial(_told, device),
        )
        for make in makers:
            for place in range(3):
                for what, issue, untouched in _operations(device):
                    after = [device.d2h(fine, host) for _ in range(2)]
                    after.insert(place, make())
                    error = error_of(partial(issue, tuple(after)))
                    fault = f"ticket {place + 1} of 3 failed"
                    assert isinstance(error, Mine), f"{what} ignores that {fault}: {error!r}"
                    device.synchronize()
                    assert untouched(), f"{what} was done although {fault}"

    def test_an_error_travels_along_the_tickets(self, new_device: NewDevice) -> None:
        """It reaches who waits for the last of many, though nobody waited in between."""
        device = new_device()
        for what, issue, _ in _operations(device):
            ticket = failed(device)
            for _, then, _ in _operations(device):
                ticket = _issued(partial(then, (ticket,)))
            error = error_of(partial(issue, (ticket,)))
            assert isinstance(error, Mine), f"{what} lost an error on its way: {error!r}"

    def test_a_failed_ticket_says_so_every_time(self, new_device: NewDevice) -> None:
        """At each wait, before and after synchronize; and it has no times."""
        device = new_device()
        tickets = {"work": failed(device)}
        for what, issue, _ in _operations(device):
            tickets[what] = _issued(partial(issue, (failed(device),)))
        for what, ticket in tickets.items():
            for _ in range(3):
                with refused(Mine, f"a failed ticket of {what} does not raise at every wait()"):
                    ticket.wait()
            for name in ("start_s", "stop_s", "seconds"):
                with refused(Mine, f"a failed ticket of {what} tells its {name}"):
                    getattr(ticket, name)
            device.synchronize()
            with refused(Mine, f"synchronize cleared the error of {what}"):
                ticket.wait()

    def test_the_device_goes_on_after_a_failure(self, new_device: NewDevice) -> None:
        """What was not told to come after it is done, in the device's queue and beside it."""
        device, good = new_device(), self.numbers()
        x, host = device.asarray(good), poisoned(good.size, FLOAT32)
        failed(device)
        work = device.run_on_device(lambda: np.add(x, 1, out=x))
        device.d2h(x, host, after=(work,)).wait()
        same(host, good + 1, "a failure stopped work that did not come after it")
        same(device.asnumpy(x * 2), 2 * (good + 1), "the device does not work after a failure")


def _told(device: Backend) -> Ticket:
    """Return a failed ticket, of which the host knows it."""
    ticket = failed(device)
    with suppress(Mine):
        ticket.wait()
    return ticket


def _here(function: Callable[[], object]) -> None:
    function()


def _add(x: Array, called: list[int]) -> None:
    called.append(1)
    np.add(x, 1, out=x)


def _issued(issue: Callable[[], Ticket]) -> Ticket:
    """Return the ticket of an operation that must fail, at its issue or later."""
    try:
        return issue()
    except Mine:
        return Elsewhere(fail)


def _operations(device: Backend) -> list[tuple[str, Issue, Callable[[], bool]]]:
    """Return the four kinds of work, new ones, each with its name and whether it was never done."""
    x, y = (device.asarray(np.full(3, n, np.float32)) for n in (1, 2))
    host, source, called = np.zeros(3, np.float32), np.full(3, 9, np.float32), list[str]()
    return [
        ("d2h", lambda after: device.d2h(x, host, after=after), lambda: not host.any()),
        (
            "h2d",
            lambda after: device.h2d(source, y, after=after),
            lambda: bool((device.asnumpy(y) == 2).all()),
        ),
        (
            "run_on_device",
            lambda after: device.run_on_device(lambda: called.append("device"), after=after),
            lambda: "device" not in called,
        ),
        (
            "run_on_host",
            lambda after: device.run_on_host(
                lambda: called.append("host"), elements=1, after=after
            ),
            lambda: "host" not in called,
        ),
    ]
