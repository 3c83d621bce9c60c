"""What lab 5 does with a student's functions: runs them on the simulated machine, reads its clock.

A scenario returns the values that came out and two times: when the function returned to the host,
and when the ticket that it returned was done. The simulator's complaint about a race is a result.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from adamoffload.device.backend import Ticket
from adamoffload_sim import Device, Link, SimBackend

__all__ = ["apply", "apply_two", "gradient_down", "norm", "send_two", "train_step"]


class Machine:
    """The simulated machine, and arrays on either side of its link."""

    def __init__(self) -> None:
        self.device = SimBackend(
            link=Link(4, pageable_penalty=3), device=Device(12, 1e12), host_ns_per_parameter=1e9
        )

    def pinned(self, values: Any) -> Any:
        """Return host memory that the link reaches directly."""
        array = self.device.empty_pinned(values.size, values.dtype)
        array[...] = values
        return array

    def up(self, values: Any) -> Any:
        """Return a device array."""
        return self.device.asarray(values)

    def timed(self, function: Callable[[], Any], *results: Any) -> dict[str, Any]:
        """Run a function that returns a ticket; return times, and the results as they are then."""
        self.device.synchronize()
        begin_s = self.device.now()
        try:
            ticket = function()
            back_s = self.device.now() - begin_s
            if not isinstance(ticket, Ticket):
                return {"instead": type(ticket).__name__}
            ticket.wait()
            done_s = self.device.now() - begin_s
            self.device.synchronize()
        except RuntimeError as error:
            if not str(error).startswith("sim:"):
                raise
            return {"race": str(error)}
        down = [r.copy() if isinstance(r, np.ndarray) else self.device.asnumpy(r) for r in results]
        return {"back_s": back_s, "done_s": done_s, "results": down}


def norm(student: ModuleType, values: Any, busy: int) -> dict[str, Any]:
    """Bring a gradient down while the host is busy, and a long copy goes up."""
    machine = Machine()
    device, g, host = machine.device, machine.up(values), machine.pinned(values)
    long, far = machine.pinned(np.tile(values, 5)), machine.up(np.tile(values, 5))
    device.synchronize()
    begin_s = device.now()
    device.h2d(long, far)
    worked: list[Any] = []

    def other_work() -> None:
        worked.append(device.run_on_host(int, elements=busy))

    found = student.norm(device, g, host, other_work)
    return {"found": found, "back_s": device.now() - begin_s, "worked": len(worked)}


def send_two(student: ModuleType, first: Any, second: Any) -> dict[str, Any]:
    """Send two arrays up over one pinned array."""
    machine = Machine()
    staging, x, y = machine.pinned(0 * first), machine.up(0 * first), machine.up(0 * first)
    arguments = (machine.device, first.copy(), second.copy(), staging, x, y)
    return machine.timed(lambda: student.send_two(*arguments), x, y)


def gradient_down(student: ModuleType, values: Any) -> dict[str, Any]:
    """Compute a gradient and bring it down."""
    machine = Machine()
    w, g, host = machine.up(values), machine.up(0 * values), machine.pinned(0 * values)
    return machine.timed(lambda: student.gradient_down(machine.device, w, g, host), host, g)


def apply(student: ModuleType, values: Any, update: Any) -> dict[str, Any]:
    """Send an update up and add it."""
    machine = Machine()
    w, slot, host = machine.up(values), machine.up(0 * values), machine.pinned(update)
    return machine.timed(lambda: student.apply(machine.device, w, host, slot), w)


def apply_two(student: ModuleType, values: Any, updates: Any) -> dict[str, Any]:
    """Send two updates up over one slot and add them."""
    machine = Machine()
    weights = [machine.up(w) for w in values]
    hosts, slot = [machine.pinned(u) for u in updates], machine.up(0 * values[0])
    return machine.timed(lambda: student.apply_two(machine.device, weights, hosts, slot), *weights)


def train_step(
    student: ModuleType, values: Any, gradients: Any, slots: int, factor: float
) -> dict[str, Any]:
    """Take all chunks through one step of an optimizer that multiplies gradients by a factor."""

    def adam(host: Any) -> None:
        np.multiply(host, np.float32(factor), out=host)

    machine = Machine()
    weights, down = [machine.up(w) for w in values], [machine.up(g) for g in gradients]
    zero = 0 * values[0]
    hosts, staged = ([place(zero) for _ in range(slots)] for place in (machine.pinned, machine.up))
    arguments = (machine.device, down, weights, hosts, staged, adam)
    return machine.timed(lambda: student.train_step(*arguments), *weights)
