"""Who may overtake whom: only tickets, and the queue of the device, order what happens."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from adamoffload.device.backend import Array, HostArray, Ticket
from adamoffload.testing.promises import (
    FLOAT32,
    NewDevice,
    Promises,
    poisoned,
    refused,
    same,
)


class Order(Promises):
    """Everything starts after its tickets, and is done when its own was waited for."""

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

    def test_d2h_starts_after_its_tickets(self, new_device: NewDevice) -> None:
        """What a copy down is told to wait for is in the source before it is read."""
        device, good = new_device(), self.numbers()
        x, host = device.asarray(poisoned(good.size, FLOAT32)), poisoned(good.size, FLOAT32)
        up = device.h2d(good, x)
        device.d2h(x, host, after=(up,)).wait()
        same(host, good, "d2h started before the tickets in its `after` were done")

    def test_h2d_starts_after_its_tickets(self, new_device: NewDevice) -> None:
        """What a copy up is told to wait for is in the source, and out of the target."""
        device, good = new_device(), self.numbers()
        x, slot = device.asarray(good), poisoned(good.size, FLOAT32)
        y = device.asarray(slot)
        fault = "h2d started before the tickets in its `after` were done"
        down = device.d2h(x, slot)
        device.h2d(slot, y, after=(down,)).wait()
        same(device.asnumpy(y), good, f"{fault}: the source was not complete")
        kept, new = poisoned(good.size, FLOAT32), good + 1
        down = device.d2h(x, kept)
        device.h2d(new, x, after=(down,)).wait()
        down.wait()
        same(kept, good, f"{fault}: the target was still being read")

    def test_device_work_starts_after_its_tickets(self, new_device: NewDevice) -> None:
        """What a computation is told to wait for has arrived before it is read."""
        device, good = new_device(), self.numbers()
        x, y = (device.asarray(poisoned(good.size, FLOAT32)) for _ in range(2))
        up = device.h2d(good, x)
        work = device.run_on_device(lambda: np.multiply(x, 2, out=y), after=(up,))
        host = poisoned(good.size, FLOAT32)
        device.d2h(y, host, after=(work,)).wait()
        same(host, 2 * good, "run_on_device started before the tickets in its `after` were done")

    def test_host_work_starts_after_its_tickets(self, new_device: NewDevice) -> None:
        """What the host is told to wait for has arrived; its work is done at the return."""
        device, good = new_device(), self.numbers()
        x, host = device.asarray(good), poisoned(good.size, FLOAT32)
        results: list[HostArray] = []
        down = device.d2h(x, host)
        ticket = device.run_on_host(
            lambda: results.append(2 * host), elements=good.size, after=(down,)
        )
        assert len(results) == 1, f"run_on_host returned after {len(results)} calls, not after one"
        same(results[0], 2 * good, "run_on_host started before the tickets in its `after`")
        y = device.asarray(poisoned(good.size, FLOAT32))
        device.h2d(results[0], y, after=(ticket,)).wait()
        same(device.asnumpy(y), 2 * good, "h2d after a ticket of run_on_host differs")

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
        slots = [device._empty((self.elements,), FLOAT32) for _ in range(2)]
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
        times = [began, *(t for ticket in (up, work) for t in (ticket.start_s, ticket.stop_s))]
        times += [down.start_s, ended, device.now()]
        for earlier, later in pairwise(times):
            assert earlier <= later + self.clock_resolution_s, f"times run backwards: {times}"
        assert down.seconds == ended - down.start_s, "seconds is not stop_s - start_s"

    def test_synchronize_finishes_everything(self, new_device: NewDevice) -> None:
        """After it, nothing is in flight, whether its ticket was waited for or not."""
        device, good = new_device(), self.numbers()
        x, y, host = device.asarray(good), device.asarray(good), poisoned(good.size, FLOAT32)
        work = device.run_on_device(lambda: np.add(x, 1, out=x))
        new = good + 2
        tickets = [device.d2h(x, host, after=(work,)), device.h2d(new, y)]
        device.synchronize()
        same(host, good + 1, "synchronize returned while a d2h was in flight")
        np.add(y, 1, out=y)
        same(device.asnumpy(y), new + 1, "synchronize returned while an h2d was in flight")
        for ticket in tickets:
            ticket.wait()

    def test_errors_reach_the_host(self, new_device: NewDevice) -> None:
        """What a function raises comes out of the call, or of its ticket's wait()."""

        def fail() -> None:
            raise KeyError("mine")

        with refused(KeyError, "run_on_device lost the error of its function"):
            new_device().run_on_device(fail).wait()
        with refused(KeyError, "run_on_host lost the error of its function"):
            new_device().run_on_host(fail, elements=1).wait()
