"""What lab 8 does with a student's backends; modelled on `adamoffload.testing`.

Order is tested by tickets that act when they are waited for, not by time: `Late` writes what is to
be copied, `Gate` keeps a copy from beginning until it is opened.
"""

from __future__ import annotations

import abc
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.device.array import DeviceArray, MemoryPool, storage
from adamoffload.device.backend import Backend, Memory, Ticket

__all__ = [
    "after",
    "background",
    "copies",
    "errors",
    "fails",
    "new_arrays",
    "owns",
    "pool",
    "stand_in",
    "train",
    "trained",
]

_OUR_MODULES = {"student", "adamoffload.device.backend", *sys.stdlib_module_names}


class Fault(Exception):
    """What is wrong with a backend, for the student."""


def _device(student: ModuleType, kind: str, *options: Any) -> Any:
    """Return a device of the student's own making."""
    made = getattr(student, kind)
    bases = {base.__module__ for base in made.__mro__}
    if Backend not in made.__mro__ or bases - _OUR_MODULES:
        raise Fault(f"{kind} should be a subclass of Backend, written by yourself")
    device = made(*options)
    if type(device.pool).__module__ != "student":
        raise Fault("device.pool should be a Pool, as you have written it in task 2")
    if any(isinstance(part, Backend) for part in vars(device).values()):
        raise Fault(f"{kind} has a device inside that does its work")
    return device


def _ticket(name: str, ticket: object) -> Any:
    if not isinstance(ticket, Ticket):
        raise Fault(f"`{name}` returned {type(ticket).__name__}; return a Ticket")
    return ticket


def _faults(scenario: Callable[..., Any]) -> Callable[..., Any]:
    """Make a scenario return a `Fault` that it raises."""

    def run(*args: Any) -> Any:
        try:
            return scenario(*args)
        except Fault as fault:
            return {"fault": str(fault)}
        except AttributeError as error:
            if "'NoneType' object has no attribute 'wait'" not in str(error):
                raise
            return {"fault": "a copy returned None; `_d2h` and `_h2d` return a Ticket"}

    return run


class _Pool(MemoryPool):
    """What stands in for a student's pool."""

    __module__ = "student"

    def __init__(self, limit_bytes: int | None) -> None:
        super().__init__("mine", limit_bytes)


def stand_in(student: ModuleType, name: str) -> None:
    """Put a part of the numpy backend in the place of the student's."""
    if name == "Pool":
        student.__dict__["Pool"] = _Pool
        return
    numpy = type(ao.get_backend("numpy"))
    kind, _, method = name.partition(".")
    made = getattr(student, kind)
    if kind == "Background":
        made.__init__ = student.MyBackend.__init__
        made.synchronize = Backend.synchronize
    for each in (method,) if method else ("_d2h", "_h2d"):
        setattr(made, each, getattr(numpy, each))
    made._pool = property(lambda self: self.pool)
    for part in (made, *made.__subclasses__()):
        abc.update_abstractmethods(part)


def pool(student: ModuleType, limit: int | None, work: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Reserve and release; return what came back, and the memory after each."""
    own, results, memories = student.Pool(limit), [], []
    for what, nbytes in work:
        result: Any
        try:
            result = getattr(own, what)(nbytes)
        except ao.DeviceMemoryError as error:
            result = ("refused", error.requested_bytes, error.used_bytes, error.limit_bytes)
        memory = own.memory()
        results.append(result)
        memories.append(tuple(memory) if isinstance(memory, Memory) else None)
    return {"results": results, "memories": memories}


class _Hostile:
    """An object that answers no question."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("mind your own business")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("beyond compare")

    __hash__ = None  # type: ignore[assignment]


class _Impostor:
    """An object that is no array, and says that it is on a device."""

    def __init__(self, device: Any) -> None:
        self.device = device


class _Liar:
    """An object that is no array, has the device, and says that it is of the arrays' class."""

    def __init__(self, device: Any) -> None:
        self.device = device

    @property
    def __class__(self) -> Any:
        return DeviceArray

    @__class__.setter
    def __class__(self, _: Any) -> None: ...


def _twin(student: ModuleType) -> Any:
    """Return a device that says that it equals every other."""
    equal = {"__eq__": lambda *_: True, "__hash__": object.__hash__}
    return type("MyBackend", (student.MyBackend,), equal)()


@_faults
def owns(student: ModuleType) -> dict[str, Any]:
    """Ask a device about all kinds of objects."""
    one, other = (_device(student, "MyBackend") for _ in range(2))
    array, foreign, twin = (
        DeviceArray(np.zeros(3, np.float32), device, MemoryPool("lab", None))
        for device in (one, other, _twin(student))
    )
    objects = {
        "an array of the device": array,
        "a view of an array of the device": array[1:],
        "an array of another device of the same class": foreign,
        "an array of a device that equals yours, and is another": twin,
        "an object that is no array, but says so with its __class__": _Liar(one),
        "an ndarray": np.zeros(3),
        "a number": 1.0,
        "None": None,
        "a list that holds an array of the device": [array],
        "an object that is no array, but has the device as its .device": _Impostor(one),
        "an object that raises when it is asked for an attribute": _Hostile(),
    }
    said: dict[str, Any] = {}
    for what, thing in objects.items():
        try:
            said[what] = one.owns(thing)
        except Exception as error:
            if isinstance(error, NotImplementedError):
                raise
            said[what] = f"raised {type(error).__name__}"
    return said


@_faults
def new_arrays(student: ModuleType) -> dict[str, Any]:
    """Allocate arrays; return what they are, and what the device counts."""
    device, float32 = _device(student, "MyBackend", 1000), np.dtype(np.float32)
    made = {shape: device._empty(shape, float32) for shape in ((3, 4), (), (0,), (5,))}
    for shape, x in made.items():
        if not isinstance(x, DeviceArray) or not device.owns(x):
            raise Fault(f"_empty({shape}, dtype) should return a DeviceArray of the device")
        if (x.shape, x.dtype) != (shape, float32):
            raise Fault(f"_empty({shape}, float32) has shape {x.shape} and dtype {x.dtype}")
        if not x.flags.c_contiguous:
            raise Fault(
                f"_empty({shape}, float32) is in Fortran order; the contract asks for C-contiguous "
                f"arrays, row after row"
            )
    first, last = made[3, 4], made[5,]
    before = tuple(device.memory())
    for dtype in (np.dtype(np.int8), np.dtype(np.float64)):
        if (other := device._empty((2,), dtype)).dtype != dtype:
            raise Fault(f"_empty((2,), {dtype}) has dtype {other.dtype}")
    del other
    view = first[1]
    addresses = [device._address(x) for x in (first, view, last)]
    try:
        device._empty((1000,), float32)
    except ao.DeviceMemoryError:
        refused = True
    else:
        refused = False
    afterwards = device.memory().used
    made.clear()
    del first, last, x
    held = device.memory().used
    del view
    return {
        "before": before,
        "addresses": addresses,
        "refused": refused,
        "afterwards": afterwards,
        "held": held,
        "freed": device.memory().used,
    }


@_faults
def copies(student: ModuleType, host: Any, whole: bool = False) -> dict[str, Any]:
    """Copy up and down, in several layouts, or a whole array alone."""
    device = _device(student, "MyBackend")
    results = {}
    sources = {
        "a whole array": host,
        "every other row, backwards": host[::-2],
        "some columns": host[:, 1:3],
        "a transposed array": host.T,
        "one element": np.asarray(host[1, 2]),
        "an empty part": host[:, 6:],
    }
    for name, source in sources.items():
        x = device._empty(source.shape, source.dtype)
        storage(x)[...] = 55
        _ticket("_h2d", device.h2d(source, x)).wait()
        down = np.full(source.shape, 77, source.dtype)
        _ticket("_d2h", device.d2h(x, down)).wait()
        results[name] = down
        if whole:
            return results
    source, zero = host.copy(), 0 * host
    x = device.asarray(source)
    source[...] = 99
    view = np.full_like(host, 77)
    device.d2h(x[::2, ::-1], view[::2, ::-1]).wait()
    results["a view into a view"] = view
    device.h2d(zero[0], x[1]).wait()
    results["an array, then one row of zeros into it"] = device.asnumpy(x)
    device.h2d(zero[:, ::3], x[:, ::3]).wait()
    results["an array, then some columns of zeros into it"] = device.asnumpy(x)
    return results


class Late(Ticket):
    """Something that is done only when it is waited for."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def wait(self) -> None:
        """Do it."""
        self._act()
        self.done_s = time.perf_counter()

    @property
    def start_s(self) -> float:
        """Now."""
        return time.perf_counter()

    stop_s = start_s


class Gate(Late):
    """Something that is not done before `open`; whoever waits on it for ever is let go."""

    def __init__(self) -> None:
        super().__init__(self._pass)
        self._opened = threading.Event()
        self.blocked = False
        self.opened_s = 0.0

    def open_soon(self) -> None:
        """Open the gate a little later."""
        threading.Timer(0.05, self._open).start()

    def _open(self) -> None:
        self.opened_s = time.perf_counter()
        self._opened.set()

    def _pass(self) -> None:
        if not self._opened.wait(1.0):
            self.blocked = True


@_faults
def after(student: ModuleType, kind: str, values: Any) -> dict[str, Any]:
    """Copy what is written, in two halves, only when the tickets before it are waited for."""
    device = _device(student, kind)
    x, host = device._empty(values.shape, values.dtype), 0 * values
    storage(x)[...] = 55
    written = [
        Late(partial(np.copyto, host[rows], values[rows]))
        for rows in (slice(None, 2), slice(2, None))
    ]
    up = _ticket("_h2d", device.h2d(host, x, after=tuple(written)))
    up.wait()
    there = storage(x).copy()
    storage(x)[...] = values
    other = np.full_like(values, 77)
    doubled = [Late(partial(np.add, part, part, out=part)) for part in (x[:2], x[2:])]
    down = _ticket("_d2h", device.d2h(x, other, after=(up, *doubled)))
    down.wait()
    times = [up.start_s, up.stop_s]
    times = [getattr(written[1], "done_s", times[0]), *times]
    times += [getattr(doubled[1], "done_s", times[-1]), down.start_s, down.stop_s, device.now()]
    large = np.zeros(1_000_000, np.float32)
    long = device.d2h(device.asarray(large), large + 1)
    long.wait()
    took = long.start_s < long.stop_s
    return {"up": there, "down": other, "times": times, "took": took}


@_faults
def fails(student: ModuleType, kind: str, values: Any) -> dict[str, Any]:
    """Let one of the tickets before a copy fail; see whether it was made, and who says so."""
    device = _device(student, kind)

    def fail() -> None:
        raise _Broken("what the copy had to wait for has failed")

    result: dict[str, Any] = {}
    for name in ("_d2h", "_h2d"):
        x, host = device.asarray(values), 0 * values
        after = (Late(fail), Late(int))
        raised = False
        try:
            issue = (
                device.d2h(x, host, after=after)
                if name == "_d2h"
                else device.h2d(host, x, after=after)
            )
            _ticket(name, issue).wait()
        except _Broken:
            raised = True
        copied = host.any() if name == "_d2h" else not np.array_equal(storage(x), values)
        result[name] = {"raised": raised, "copied": bool(copied)}
    return result


@_faults
def background(student: ModuleType, values: Any) -> dict[str, Any]:
    """Issue copies behind a gate, and see who waits at it."""
    device = _device(student, "Background")
    x, y, host = device.asarray(values), device.asarray(0 * values), 0 * values
    result: dict[str, Any] = {"times": {}}
    copies: dict[str, tuple[Callable[[Gate], Any], Callable[[], Any]]] = {
        "_d2h": (lambda gate: device.d2h(x, host, after=(gate,)), host.copy),
        "_h2d": (lambda gate: device.h2d(values, y, after=(gate,)), lambda: storage(y).copy()),
    }
    for name, (issue, read) in copies.items():
        gate = Gate()
        ticket = _ticket(name, issue(gate))
        result[name] = {"blocked": gate.blocked, "early": bool(name == "_d2h" and host.any())}
        gate.open_soon()
        ticket.wait()
        result[name]["values"] = read()
    gate, host = Gate(), 0 * values
    device.d2h(x, host, after=(gate,))
    gate.open_soon()
    device.synchronize()
    result["synchronized"] = host.copy()
    for name in ("start_s", "stop_s"):
        gate = Gate()
        ticket = device.d2h(x, host, after=(gate,))
        gate.open_soon()
        first = getattr(ticket, name)  # nobody has waited for it
        times = [gate.opened_s or np.inf, first, ticket.stop_s, device.now()]
        result["times"][name] = times == sorted(times)
    return result


class _Broken(Exception):
    """What goes wrong in a scenario."""


@_faults
def errors(student: ModuleType, values: Any) -> dict[str, Any]:
    """Let the work before a copy fail, and copy again afterwards."""
    device = _device(student, "Background")
    x, host = device.asarray(values), 0 * values

    def fail() -> None:
        raise _Broken("what the copy had to wait for has failed")

    said = {}
    try:
        issued = device.d2h(x, host, after=(Late(fail),))
    except _Broken:
        raise Fault(
            "`_d2h` raised what a ticket in after raised; let the ticket that it returns do that"
        ) from None
    questions: dict[str, Callable[[], Any]] = {
        "wait()": lambda: issued.wait(),
        "start_s": lambda: issued.start_s,
        "stop_s": lambda: issued.stop_s,
    }
    for name, ask in questions.items():
        try:
            ask()
        except _Broken:
            said[name] = True
        else:
            said[name] = False
    said["copied"] = bool(host.any())
    device.d2h(x, 0 * values, after=(Late(fail),))
    try:
        device.synchronize()
    except _Broken:
        said["synchronize"] = False
    else:
        said["synchronize"] = True
    device.d2h(x, host).wait()
    return {"said": said, "values": host}


@_faults
def trained(student: ModuleType, kind: str) -> dict[str, Any]:
    """Train on a student's device."""
    return train(_device(student, kind, 1 << 16))


def train(device: Backend) -> dict[str, Any]:
    """Take ten steps; return parameters and moments, traffic and events, and the bytes left over.

    The gradients take products and differences only, which are exactly rounded everywhere.
    """
    rng, ledger = np.random.default_rng(8), ao.Ledger()

    def numbers(*shape: int) -> Any:
        return device.asarray(np.asarray(rng.normal(size=shape), np.float32))

    shapes: tuple[tuple[int, ...], ...] = ((500,), (), (17, 5))
    parameters = [ao.Parameter(numbers(*shape), f"w{i}") for i, shape in enumerate(shapes)]
    goals = [numbers(*shape) for shape in shapes]
    optimizer = ao.AdamOffload(
        parameters, 0.05, weight_decay=0.01, ledger=ledger, chunk_bytes=1024, engine="numpy"
    )
    for _ in range(10):
        optimizer([w.data - goal for w, goal in zip(parameters, goals, strict=True)])
    state = {p.name: device.asnumpy(p.data) for p in parameters}
    state |= {f"moment1[{p.name}]": optimizer.moment1[p.name] for p in parameters}
    state |= {f"moment2[{p.name}]": optimizer.moment2[p.name] for p in parameters}
    events = [(e.hop, e.step, e.chunk, e.elements, e.nbytes) for e in ledger.events]
    return {"state": state, "traffic": tuple(device.traffic()), "events": events}
