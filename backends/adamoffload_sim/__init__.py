"""The ``sim`` backend: an accelerator with a virtual clock.

Results are computed at once, with NumPy, and are those of any other backend to the last bit. When
they would be there on the simulated machine is computed beside it, from bytes and FLOPs: by six
engines (the device, a copy engine for each direction, the host, and the disk's reads and writes)
that work at the same time, each in order. So one can see, on a laptop, how an optimizer step
overlaps on a machine that one does not have, and the times are the same in every run, to the last
digit.

What is in flight holds NaN until it is waited for, so a missing wait cannot go unnoticed; see
`adamoffload_sim.flights`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

import numpy as np
from numpy.lib.array_utils import byte_bounds

from adamoffload.device.array import DeviceArray, MemoryPool, address, span, storage
from adamoffload.device.backend import Array, Backend, Done, HostArray, Memory, Stored, Ticket
from adamoffload.estimates.clock import Clock, Engine
from adamoffload.estimates.hardware import Device, Disk, Host, Link, Pace, positive
from adamoffload.estimates.machines import Machine, find_machine
from adamoffload_sim.flights import DiskFlight, Flight, Flights, meet
from adamoffload_sim.presets import DEVICES, DISKS, LINKS, preset
from adamoffload_sim.roofline import arrays_in, cost
from adamoffload_sim.tickets import SimTicket

__all__ = ["DEVICES", "DISKS", "LINKS", "Device", "Disk", "Link", "SimBackend"]


@final
class SimBackend(Backend):
    """A simulated accelerator: bitwise right, with virtual times.

    Parameters
    ----------
    memory_bytes : int, optional
        Bytes that may be in use at once; if left out, the machine's, or no limit without one.
    link : str or Link, optional
        A preset (``pcie3x16``, ``pcie4x16``, ``pcie5x16``, ``nvlink-c2c``) or figures of your own;
        if left out, the machine's, or ``pcie4x16``.
    device : str or Device, optional
        A preset (``gtx1650``, ``t4``, ``v100``, ``a100``, ``h100``) or figures of your own; if left
        out, the machine's, or ``a100``.
    host_ns_per_parameter : float, optional
        What Adam takes on the host, in nanoseconds; >= 0. If left out, it moves 28 bytes for each
        parameter through the machine's memory, of which copies in flight take their part; without a
        machine it takes 0.6, as a fused Adam does on two cores with memory to match, and nothing
        slows it. ``adamoffload bench`` measures yours.
    disk : str or Disk, optional
        A preset (``sata``, ``nvme-pcie3``, ``nvme-pcie4``) or figures of your own; if left out,
        the machine's, or ``nvme-pcie4``.
    machine : str or Machine, optional
        One of ``adamoffload.machines`` or one of your own: one card and its share of the host, with
        typical figures.

    Raises
    ------
    TypeError, ValueError
        If an option is no such value; an unknown preset is answered with the known ones.

    Notes
    -----
    - The host is one thread. Its time, `now`, advances where it waits for a ticket and where it
      runs Adam; issuing work costs it nothing.
    - Work begins when its engine is free, its ``after`` is done and the host has issued it. An
      array operation takes ``launch_s + max(bytes / bandwidth, FLOPs / rate)`` on the device; a
      copy takes ``latency_s + bytes / bandwidth`` on its direction's engine, the second term times
      the link's penalty unless the host's memory is pinned. The disk takes ``latency_s + bytes /
      bandwidth``; its files are real, and only their times are simulated.
    - With a machine, copies, disk and Adam share the bandwidth of the host's memory: what is issued
      first takes what it can, the next what is left.
    - Several virtual hosts cannot be simulated: threads that share a device share its host's time.

    Examples
    --------
    A device that moves a byte a second, and a link of four:

    >>> import numpy as np
    >>> device = SimBackend(link=Link(4), device=Device(1, 1))
    >>> x = device.asarray(np.zeros(5, np.float32))  # 20 bytes up
    >>> device.now()
    5.0
    >>> y = x + 1  # 20 bytes read and 20 written, but the host does not wait for it
    >>> device.now()
    5.0
    >>> device.synchronize()
    >>> device.now()
    45.0
    """

    name = "sim"
    simulated = True

    def __init__(
        self,
        memory_bytes: int | None = None,
        link: str | Link | None = None,
        device: str | Device | None = None,
        host_ns_per_parameter: float | None = None,
        disk: str | Disk | None = None,
        machine: str | Machine | None = None,
    ) -> None:
        super().__init__()
        of = None if machine is None else find_machine(self.name, machine)
        if of is not None and memory_bytes is None:
            memory_bytes = of.device_memory_bytes
        self._pool = MemoryPool(self.name, memory_bytes, self._computed)
        parts = (
            LINKS["pcie4x16"],
            DEVICES["a100"],
            DISKS["nvme-pcie4"],
            Host(ns_per_parameter=0.6),
        )
        if of is not None:
            parts = (of.link(), of.device(), of.disk(), of.host())
        self._link = preset("link", link, Link, LINKS, parts[0])
        self._device = preset("device", device, Device, DEVICES, parts[1])
        self._disk = preset("disk", disk, Disk, DISKS, parts[2])
        host = parts[3]
        if host_ns_per_parameter is not None:
            number = positive("sim: host_ns_per_parameter", host_ns_per_parameter, zero=True)
            host = replace(host, ns_per_parameter=number)
        self._clock = Clock(host)
        self._flights = Flights()
        self._pinned: weakref.WeakValueDictionary[int, HostArray] = weakref.WeakValueDictionary()
        self._lock = threading.RLock()
        self._fused = False  # while one kernel is charged for all that a block does

    def owns(self, array: object) -> bool:
        """Return whether `array` lives in this device's memory."""
        return isinstance(array, DeviceArray) and array.device is self

    def memory(self) -> Memory:
        """Return the bytes used, at peak, and allowed."""
        return self._pool.memory()

    def now(self) -> float:
        """Return the host's time, in virtual seconds since the device was created."""
        return self._clock.host_s

    def explain(self, array: Array) -> str:
        """Say why an array may hold NaN: which copy into it nobody has waited for, or was torn.

        Parameters
        ----------
        array : ndarray or device array
            The target of a copy.

        Examples
        --------
        >>> import numpy as np
        >>> device = SimBackend()
        >>> x, host = device.asarray(np.ones(2, np.float32)), np.zeros(2, np.float32)
        >>> ticket = device.d2h(x, host)
        >>> host, device.explain(host)
        (array([nan, nan], dtype=float32), 'nobody has waited for the ticket of d2h number 2')
        >>> ticket.wait()
        >>> host, device.explain(host)
        (array([1., 1.], dtype=float32), 'no copy into it is under way, and none was torn')
        """
        with self._lock:
            return self._flights.explain(span(array) if self.owns(array) else byte_bounds(array))

    def synchronize(self) -> None:
        """Advance the host's time to when all engines are idle."""
        with self._lock:
            self._clock.host_s = self._clock.idle_s()
            self._flights.settle()

    def run_on_device(
        self, function: Callable[[], object], *, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        """Run `function` at once; its operations take their place in the device's queue."""
        ours = self._ours(after)
        with self._lock:
            ready_s, known, _ = self._order(ours)
            self._flights.reach_device(known)
            start_s = self._clock.start("device", ready_s)
            self._clock.occupy("device", start_s, 0.0)
            function()
            stop_s = self._clock.start("device", 0.0)
            knows = frozenset(self._flights.device_knows)
            return self._ticket(start_s, stop_s, knows, self._flights.computed)

    @contextmanager
    def fused(self, nbytes: int) -> Iterator[None]:
        """Charge the device for one kernel, whatever is computed in the block."""
        with self._lock:
            start_s = self._clock.start("device", 0.0)
            self._fused = True
            try:
                yield
            finally:
                self._fused = False
            self._clock.occupy("device", start_s, self._device.seconds(nbytes, 0))

    def run_on_host(
        self,
        function: Callable[[], object],
        *,
        elements: int,
        after: tuple[Ticket, ...] = (),
    ) -> Ticket:
        """Run `function`; the host's time advances by that of Adam on `elements` parameters."""
        for ticket in after:
            ticket.wait()
        start_s = self.now()
        function()
        with self._lock:
            return Done(start_s, self._clock.update(elements))

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        return DeviceArray(np.empty(shape, dtype), self, self._pool)

    def _empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        array = np.empty(size, dtype)
        self._pinned[id(array)] = array
        return array

    def _address(self, array: DeviceArray) -> int:
        return address(array)

    def _d2h(self, source: DeviceArray, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return self._copy(source, target, after, upward=False)

    def _h2d(self, source: HostArray, target: DeviceArray, after: tuple[Ticket, ...]) -> Ticket:
        return self._copy(target, source, after, upward=True)

    def _read(self, source: Stored, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        flight = DiskFlight(source, target, upward=False)
        return self._fly(flight, "read", target.nbytes, self._disk.pace("read"), after)

    def _write(self, source: HostArray, target: Stored, after: tuple[Ticket, ...]) -> Ticket:
        flight = DiskFlight(target, source, upward=True)
        return self._fly(flight, "write", source.nbytes, self._disk.pace("write"), after)

    def _copy(
        self, device: DeviceArray, host: HostArray, after: tuple[Ticket, ...], *, upward: bool
    ) -> Ticket:
        pace = self._link.pace(pinned=self._is_pinned(host))
        flight = Flight(storage(device), span(device), host, upward=upward)
        return self._fly(flight, "h2d" if upward else "d2h", host.nbytes, pace, after)

    def _fly(
        self, flight: Flight, engine: Engine, nbytes: int, pace: Pace, after: tuple[Ticket, ...]
    ) -> Ticket:
        ours = self._ours(after)
        with self._lock:
            ready_s, known, computed = self._order(ours)
            self._flights.issue(flight, known, computed)
            start_s = self._clock.start(engine, ready_s)
            stop_s = self._clock.carry(engine, start_s, nbytes, pace)
            return self._ticket(start_s, stop_s, frozenset((*known, flight)), computed)

    def _ours(self, after: tuple[Ticket, ...]) -> list[SimTicket]:
        """Return the tickets of this clock; wait for all others, while no lock is held."""
        ours = []
        for ticket in after:
            if isinstance(ticket, SimTicket) and ticket.clock is self._clock:
                ours.append(ticket)
            else:
                ticket.wait()
        return ours

    def _order(self, after: list[SimTicket]) -> tuple[float, set[Flight], int]:
        """Return when `after` is done, and what is known to be done then."""
        ready_s, known, computed = 0.0, set[Flight](), 0
        for ticket in after:
            ready_s = max(ready_s, ticket.end_s)
            known |= {flight for flight in ticket.known if self._flights.open(flight)}
            computed = max(computed, ticket.computed)
        return ready_s, known, computed

    def _ticket(
        self, start_s: float, stop_s: float, known: frozenset[Flight], computed: int
    ) -> SimTicket:
        return SimTicket(self._clock, self._wait, start_s, stop_s, known, computed)

    def _wait(self, ticket: SimTicket) -> None:
        with self._lock:
            self._clock.host_s = max(self._clock.host_s, ticket.end_s)
            self._flights.settle(ticket.known, ticket.computed)

    def _is_pinned(self, host: HostArray) -> bool:
        while isinstance(host.base, np.ndarray):
            host = host.base
        return self._pinned.get(id(host)) is host

    def _computed(self, name: str, inputs: tuple[Any, ...], result: Any, out: Any) -> None:
        """Charge the device for an operation on its arrays."""
        operands = [*arrays_in(inputs)]
        made = [*arrays_in(out if result is None else result)]
        if out is None:  # what shares memory with an operand is a view of it, and costs nothing
            spans = [span(array) for array in operands]
            made = [a for a in made if not any(meet(span(a), other) for other in spans)]
            if not made:
                return
        labels = next((item for item in inputs if isinstance(item, str)), "")
        work = cost(name, operands, labels, made)
        with self._lock:
            self._flights.compute(operands, made)
            if not self._fused:
                start_s = self._clock.start("device", 0.0)
                self._clock.occupy("device", start_s, self._device.seconds(*work))
