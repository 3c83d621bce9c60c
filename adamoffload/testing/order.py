"""Who may overtake whom: only tickets, and the queue of the device, order what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np

from adamoffload.device.backend import Array, Backend, HostArray, Ticket
from adamoffload.testing.promises import (
    CONTIGUOUS,
    ELEMENT,
    FLOAT32,
    Elsewhere,
    Layout,
    NewDevice,
    Promises,
    counted,
    layouts,
    on_device,
    on_host,
    poisoned,
    same,
)

After = Callable[[Ticket], tuple[Ticket, ...]]
"""Returns an ``after`` with the ticket in it."""


class Order(Promises):
    """Everything starts after all of its tickets, wherever in `after` they stand."""

    def test_d2h_starts_after_its_tickets(self, new_device: NewDevice) -> None:
        """What a copy down is told to wait for is in the source, and out of the target."""
        device, good = new_device(), self.numbers()
        for which, after in _places(device):
            fault = f"d2h started before the tickets in its `after` were done: {which}"
            x, host = device.asarray(poisoned(good.size, FLOAT32)), poisoned(good.size, FLOAT32)
            up = device.h2d(good, x)
            device.d2h(x, host, after=after(up)).wait()
            same(host, good, f"{fault}, an h2d")
            work = device.run_on_device(partial(np.add, x, 1, out=x))
            device.d2h(x, host, after=after(work)).wait()
            same(host, good + 1, f"{fault}, work on the device")
            y = device.asarray(good)
            first = device.d2h(x, host)
            device.d2h(y, host, after=after(first)).wait()
            first.wait()
            same(host, good, f"{fault}, a d2h to the same target")

    def test_h2d_starts_after_its_tickets(self, new_device: NewDevice) -> None:
        """What a copy up is told to wait for is in the source, and out of the target."""
        device, good = new_device(), self.numbers()
        for which, after in _places(device):
            fault = f"h2d started before the tickets in its `after` were done: {which}"
            x, slot = device.asarray(good), poisoned(good.size, FLOAT32)
            y = device.asarray(slot)
            down = device.d2h(x, slot)
            device.h2d(slot, y, after=after(down)).wait()
            same(device.asnumpy(y), good, f"{fault}, a d2h: the source was not complete")
            kept = poisoned(good.size, FLOAT32)
            down = device.d2h(x, kept)
            new = good + 1
            device.h2d(new, x, after=after(down)).wait()
            down.wait()
            same(kept, good, f"{fault}, a d2h: the target was still being read")
            result = device.asarray(poisoned(good.size, FLOAT32))
            work = device.run_on_device(partial(np.copyto, result, x))
            device.h2d(good, x, after=after(work)).wait()
            work.wait()
            same(device.asnumpy(result), new, f"{fault}, work on the device that read the target")

    def test_device_work_starts_after_its_tickets(self, new_device: NewDevice) -> None:
        """What a computation is told to wait for has arrived, and has left."""
        device, good = new_device(), self.numbers()
        for which, after in _places(device):
            fault = f"run_on_device started before the tickets in its `after` were done: {which}"
            x, y = (device.asarray(poisoned(good.size, FLOAT32)) for _ in range(2))
            host = poisoned(good.size, FLOAT32)
            up = device.h2d(good, x)
            work = device.run_on_device(partial(np.multiply, x, 2, out=y), after=after(up))
            device.d2h(y, host, after=(work,)).wait()
            same(host, 2 * good, f"{fault}, an h2d")
            kept = poisoned(good.size, FLOAT32)
            down = device.d2h(x, kept)
            device.run_on_device(partial(np.multiply, x, 0, out=x), after=after(down)).wait()
            down.wait()
            same(kept, good, f"{fault}, a d2h from what it writes")

    def test_host_work_starts_after_its_tickets(self, new_device: NewDevice) -> None:
        """What the host is told to wait for has arrived; its work is done at the return."""
        device, good = new_device(), self.numbers()
        x = device.asarray(good)
        for which, after in _places(device):
            host, results = poisoned(good.size, FLOAT32), list[HostArray]()
            down = device.d2h(x, host)
            ticket = device.run_on_host(
                partial(_double, host, results),
                elements=good.size,
                after=after(down),
            )
            assert len(results) == 1, f"run_on_host called its function {len(results)} times"
            same(
                results[0],
                2 * good,
                f"run_on_host started before the tickets in its `after`: {which}",
            )
            y = device.asarray(poisoned(good.size, FLOAT32))
            device.h2d(results[0], y, after=(ticket,)).wait()
            same(device.asnumpy(y), 2 * good, "h2d after a ticket of run_on_host differs")

    def test_copies_of_any_kind_start_after_their_tickets(self, new_device: NewDevice) -> None:
        """In every layout and dtype, on both sides; and 0-d, which no library copies alike."""
        device = new_device()
        for code in self.dtypes:
            for layout in (CONTIGUOUS, ELEMENT):
                _check_after(device, counted((), np.dtype(code)), layout, layout)
            _check_after(device, counted((300,), np.dtype(code)), CONTIGUOUS, CONTIGUOUS)
        for shape in ((4,), (3, 4), (2, 3, 4)):
            for layout in layouts():
                _check_after(device, counted(shape, FLOAT32), CONTIGUOUS, layout)
            for layout in layouts(device):
                _check_after(device, counted(shape, FLOAT32), layout, CONTIGUOUS)
                _check_after(device, counted(shape, FLOAT32), layout, layout)

    def test_tickets_of_other_devices_count(self, new_device: NewDevice) -> None:
        """Each kind of work waits for tickets of another device, of its own kind or of none."""
        device, good = new_device(), self.numbers()
        for which, after in _places(device):
            fault = f"started before a ticket of another device was done: {which}"
            x, host = device.asarray(good), poisoned(good.size, FLOAT32)
            ticket = Elsewhere(partial(host.fill, np.nan))
            device.d2h(x, host, after=after(ticket)).wait()
            ticket.wait()
            same(host, good, f"d2h {fault}")
            slot = poisoned(good.size, FLOAT32)
            ticket = Elsewhere(partial(np.copyto, slot, good + 1))
            device.h2d(slot, x, after=after(ticket)).wait()
            same(device.asnumpy(x), good + 1, f"h2d {fault}")
            log: list[str] = []
            ticket = Elsewhere(partial(log.append, "before"))
            device.run_on_device(partial(log.append, "after"), after=after(ticket)).wait()
            assert log == ["before", "after"], f"run_on_device {fault}"
            log.clear()
            ticket = Elsewhere(partial(log.append, "before"))
            device.run_on_host(partial(log.append, "after"), elements=1, after=after(ticket)).wait()
            assert log == ["before", "after"], f"run_on_host {fault}"
        if self.several_devices:
            other, slot = new_device(), poisoned(good.size, FLOAT32)
            y = other.asarray(good)
            down = other.d2h(y, slot)
            device.h2d(slot, x, after=(down,)).wait()
            same(device.asnumpy(x), good, "h2d started before another device's d2h was done")

    def test_a_copy_down_sees_what_was_computed_before(self, new_device: NewDevice) -> None:
        """The ticket of the last work stands for all of it, however long: `asnumpy` relies on it.

        On hardware with queues this is where a copy on a stream of its own goes wrong.
        """
        device, good = new_device(), self.numbers()
        x = device.asarray(good)
        for _ in range(16):
            device.run_on_device(lambda: np.add(x, 1, out=x))
        fault = "a copy down overtook the device's work: is it on another stream?"
        same(device.asnumpy(x), good + 16, fault)
        same(device.asnumpy(x * 2 + 1), 2 * (good + 16) + 1, fault)

    def test_device_work_keeps_its_order(self, new_device: NewDevice) -> None:
        """What is issued to the device runs in that order, through `run_on_device` or not."""
        device, good = new_device(), self.numbers()
        x = device.asarray(good)
        device.run_on_device(lambda: np.add(x, 1, out=x))
        device.run_on_device(lambda: np.multiply(x, 2, out=x))
        np.subtract(x, 3, out=x)
        device.run_on_device(lambda: np.multiply(x, 4, out=x))
        host = poisoned(good.size, FLOAT32)
        last = device.run_on_device(lambda: np.add(x, 5, out=x))
        device.d2h(x, host, after=(last,)).wait()
        expected = ((good + 1) * 2 - 3) * 4 + 5
        same(host, expected, "work on the device ran in another order than issued")

    def test_a_ring_of_slots_needs_only_tickets(self, new_device: NewDevice) -> None:
        """The pipeline in small: two slots, eight chunks, and a slot is taken when it is free."""
        device, chunks = new_device(), 8
        source = device.asarray(np.stack([self.numbers() + i for i in range(chunks)]))
        result = device.asarray(np.full((chunks, self.elements), np.nan, np.float32))
        hosts = [device._empty_pinned(self.elements, FLOAT32) for _ in range(2)]
        slots = [device.asarray(poisoned(self.elements, FLOAT32)) for _ in range(2)]
        for host in hosts:
            host.fill(np.nan)
        free: list[tuple[Ticket, ...]] = [(), ()]

        def issue(i: int, host: HostArray, slot: Array) -> None:
            staged = device.run_on_device(lambda: np.copyto(slot, source[i]), after=free[i % 2])
            down = device.d2h(slot, host, after=(staged,))
            updated = device.run_on_host(
                lambda: np.multiply(host, 2, out=host), elements=host.size, after=(down,)
            )
            up = device.h2d(host, slot, after=(updated,))
            free[i % 2] = (device.run_on_device(lambda: np.copyto(result[i], slot), after=(up,)),)

        for i in range(chunks):
            issue(i, hosts[i % 2], slots[i % 2])
        expected = np.stack([2 * (self.numbers() + i) for i in range(chunks)])
        same(device.asnumpy(result), expected, "a slot was overwritten while it was in use")


def _double(host: HostArray, results: list[HostArray]) -> None:
    results.append(2 * host)


def _places(device: Backend) -> Iterator[tuple[str, After]]:
    """Yield where a ticket may stand in `after`, in words, and what puts it there.

    The tickets beside it are of copies that concern nobody.
    """
    x, host = device.asarray(np.zeros(1, np.float32)), np.zeros(1, np.float32)

    def others(count: int) -> tuple[Ticket, ...]:
        return tuple(device.d2h(x, host) for _ in range(count))

    yield "the only one", lambda ticket: (ticket,)
    yield "the first of three", lambda ticket: (ticket, *others(2))
    yield "the second of three", lambda ticket: (*others(1), ticket, *others(1))
    yield "the last of three", lambda ticket: (*others(2), ticket)
    yield "one of 40", lambda ticket: (*others(20), ticket, *others(19))


def _check_after(device: Backend, values: HostArray, here: Layout, there: Layout) -> None:
    """Copy down and up after tickets without which there is nothing to copy."""
    fault = f"before its tickets were done, for {values.dtype}{list(values.shape)}, {here.name} on "
    fault += f"the device and {there.name} on the host"
    nothing = np.zeros_like(values)
    for _, after in islice(_places(device), 1, 4):
        x, host = on_device(device, here, nothing)[1], on_host(there, nothing)[1]
        device.d2h(x, host, after=after(device.h2d(values, x))).wait()
        same(host, values, f"d2h started {fault}")
        y, slot = on_device(device, here, nothing)[1], on_host(there, nothing)[1]
        device.h2d(slot, y, after=after(device.d2h(x, slot))).wait()
        same(device.asnumpy(y), values, f"h2d started {fault}")
