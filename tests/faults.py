"""Faults on purpose: at any call of a backend, at any line of the code, and what must come of them.

A trial takes a few steps and disturbs one of them. Whatever is raised, the optimizer must be as it
was before and take the same step again, or have taken it, or refuse to go on and name what had been
touched. The oracle is a twin that nobody disturbs, compared bit by bit.
"""

from __future__ import annotations

import ast
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.device.backend import Done, Ticket

from lazy_backend import LazyBackend

PACKAGE = str(Path(ao.__file__).parent)
COPIES = ("_d2h", "_h2d", "_read", "_write")
HOOKS = (*COPIES, "run_on_device", "run_on_host", "_empty")
MODES = ("issue", "done", "half", "wait")
"""Fails before it begins; when all is done, so that the ticket is lost; when half of it is done; or
later, when somebody waits for its ticket."""

DEVICES: dict[str, Callable[[], ao.Backend]] = {
    "numpy": lambda: ao.get_backend("numpy"),
    "sim": lambda: ao.get_backend("sim"),
    "lazy": LazyBackend,
}


class Fault(Exception):
    """The link is down, as planned."""


class Failed(Ticket):
    """The ticket of something that fails, but says so only to those who wait."""

    def wait(self) -> None:
        raise Fault("late")

    @property
    def start_s(self) -> float:
        raise Fault("late")

    stop_s = start_s


@dataclass(frozen=True)
class Setting:
    """What is disturbed: an optimizer, on a device."""

    kind: Any
    device: str
    shapes: tuple[tuple[int, ...], ...] = ((5,), (2, 3), (), (6,))
    options: tuple[tuple[str, Any], ...] = ()
    dtype: str = "float32"

    def build(self) -> Subject:
        device = DEVICES[self.device]()
        return Subject(self.kind, device, self.shapes, dict(self.options), self.dtype)


class Subject:
    """An optimizer, its gradients for every step, and its state on the host."""

    def __init__(
        self, kind: Any, device: ao.Backend, shapes: Any, options: Any, dtype: str = "float32"
    ) -> None:
        rng = np.random.default_rng(0)
        self.device = device
        self.parameters = [
            ao.Parameter(device.asarray(rng.standard_normal(shape, np.float32), dtype), f"p{i}")
            for i, shape in enumerate(shapes)
        ]
        self.gradients = [
            [device.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in shapes]
            for _ in range(5)
        ]
        self.optimizer = kind(self.parameters, **options)

    def step(self, number: int) -> None:
        self.optimizer(self.gradients[number])

    def master(self, name: str) -> list[Any]:
        """Return the master weights of a parameter, where there are some."""
        master = getattr(self.optimizer, "master", {})
        return [master[name]] if name in master else []

    def state(self) -> dict[str, list[bytes]]:
        """Return what belongs to each parameter, and the counters, as bytes."""
        self.device.synchronize()
        o, device = self.optimizer, self.device
        state = {
            p.name: [
                (device.asnumpy(x) if device.owns(x) else x).tobytes()
                for x in (p.data, o.moment1[p.name], o.moment2[p.name], *self.master(p.name))
            ]
            for p in self.parameters
        }
        counters = np.array([o.beta1_power, o.beta2_power, o.global_step])
        return state | {"counters": [counters.tobytes()]}


@cache
def undisturbed(setting: Setting) -> list[dict[str, list[bytes]]]:
    """Return the state before the first step and after each, of the twin."""
    twin = replace(setting, device="numpy").build()
    states = [twin.state()]
    for number in range(5):
        twin.step(number)
        states.append(twin.state())
    return states


class Shuttled(ao.Optimizer):
    """Arithmetic on the device, state on the host; named as `Subject` knows an optimizer."""

    def __init__(
        self,
        params: Any,
        *,
        strategy: Any = "state-shuttle",
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        rule = ao.rules.Adam(learning_rate=0.01, weight_decay=weight_decay)
        super().__init__(params, rule, strategy=strategy, **options)

    moment1 = property(lambda self: self.state["m"])
    moment2 = property(lambda self: self.state["v"])
    beta1_power = beta2_power = property(lambda self: self.global_step)


class OnDisk(ao.Optimizer):
    """State and master on the disk, in a directory of its own; named as `Subject` knows one."""

    def __init__(self, params: Any, *, strategy: Any = "disk", **options: Any) -> None:
        self.folder = tempfile.TemporaryDirectory()
        rule = ao.rules.Adam(learning_rate=0.01)
        super().__init__(params, rule, strategy=strategy, directory=self.folder.name, **options)

    moment1 = property(lambda self: self.state["m"])
    moment2 = property(lambda self: self.state["v"])
    beta1_power = beta2_power = property(lambda self: self.global_step)


FIRST = 1  # the step (counted from 0) from which on something is disturbed


def trial(setting: Setting, disturbance: Callable[[Subject], Any]) -> str:
    """Take steps under a disturbance (a context manager), and return what came of it.

    ``"unnoticed"``: nothing was raised, and nothing is wrong; ``"as before"``; ``"done"``;
    ``"refused"``.
    """
    expected = undisturbed(setting)
    subject = setting.build()
    for number in range(FIRST):
        subject.step(number)
    outcome = "unnoticed"
    number = FIRST
    disturb = disturbance(subject)
    while number < 5:
        try:
            with disturb.armed() if outcome == "unnoticed" else _peace():
                subject.step(number)
        except BaseException as error:
            if not isinstance(error, (Fault, KeyboardInterrupt, MemoryError, RuntimeError)):
                raise
            if outcome != "unnoticed":
                raise AssertionError(f"step {number + 1} fails again: {error!r}") from error
            outcome = judge(subject, expected, number, error)
            if outcome == "refused":
                return outcome
            if outcome == "done":
                number += 1
        else:
            number += 1
    differing = differences(subject.state(), expected[5])
    assert not differing, f"{outcome}, and {differing} are silently wrong"
    return outcome


def judge(
    subject: Subject, expected: list[dict[str, list[bytes]]], number: int, error: BaseException
) -> str:
    """Return which of the three it is, after `error` was raised in the step after `number`."""
    try:
        subject.optimizer._integrity.check()
    except RuntimeError as refusal:
        text = str(refusal)
        with pytest.raises(RuntimeError, match=re.escape(text)):
            subject.step(number)
        assert "no longer belong together. Start again" in text, text
        if "has not come to its end" in text:  # interrupted twice: nobody has looked at the rest
            return "refused"
        named = set(re.findall(r"'(p\d+)'", text))
        steps = {int(n) for n in re.findall(r"step (\d+)", text)}
        assert steps <= {number, number + 1}, text
        # The update of the step before may have been lost: then this one has touched nothing.
        start = expected[number]
        touched = set(differences(subject.state(), start)) - {"counters"}
        assert touched <= named, f"{touched} differ, but it is said: {text}"
        return "refused"
    steps_taken = subject.optimizer.global_step
    assert steps_taken in (number, number + 1)
    differing = differences(subject.state(), expected[steps_taken])
    assert not differing, f"{differing} are not as they were before {error!r}"
    return "as before" if steps_taken == number else "done"


def differences(state: dict[str, list[bytes]], expected: dict[str, list[bytes]]) -> list[str]:
    return [name for name in expected if state[name] != expected[name]]


@contextmanager
def _peace() -> Iterator[None]:
    yield


# -- faults of a device ---------------------------------------------------------------------------


class Armed:
    """Something that only happens while it is armed."""

    on = False

    @contextmanager
    def armed(self) -> Iterator[None]:
        self.on = True
        try:
            yield
        finally:
            self.on = False


class Broken(Armed):
    """A device whose k-th call of a hook, counted from 0, fails in some mode; only when armed."""

    def __init__(self, hook: str, mode: str, k: int, subject: Subject) -> None:
        self.hook, self.mode, self.k, self.device = hook, mode, k, subject.device
        self.calls = 0
        self.original = getattr(self.device, hook)
        setattr(self.device, hook, self.call)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        if not self.on:
            return self.original(*args, **kwargs)
        self.calls += 1
        if self.calls != self.k + 1:
            return self.original(*args, **kwargs)
        if self.mode == "issue":
            raise Fault("at issue")
        if self.mode == "wait":
            return self.late(*args, **kwargs)
        if self.mode == "half" and self.hook in COPIES:
            source, target = (x.reshape(-1) for x in args[:2])  # whole arrays: no copies
            half = target.size // 2
            self.original(source[:half], target[:half], args[2])
        else:
            self.original(*args, **kwargs)
        raise Fault("too late to stop it")

    def late(self, *args: Any, **kwargs: Any) -> Ticket:
        after = args[2] if self.hook in COPIES else kwargs.get("after", ())
        if isinstance(self.device, LazyBackend):
            behind = self.device.queued if self.hook == "run_on_device" else Done(0, 0)
            ticket = self.device.later(_fail, after, behind)
            if self.hook == "run_on_device":
                self.device.queued = ticket
            return ticket
        for ticket in after:
            ticket.wait()
        return Failed()


def _fail() -> None:
    raise Fault("late")


def modes(hook: str) -> tuple[str, ...]:
    if hook == "_empty":
        return ("issue",)
    return MODES if hook in COPIES else ("issue", "done", "wait")


class ShortOfMemory(Armed):
    """A device that refuses the k-th allocation, by whatever means it is asked for."""

    def __init__(self, k: int, subject: Subject) -> None:
        self.k, self.calls = k, 0
        device: Any = subject.device
        self.pool: Any = getattr(device, "pool", None) or device._pool
        self.original = self.pool.reserve
        self.pool.reserve = self.reserve

    def reserve(self, nbytes: int) -> int:
        if self.on:
            self.calls += 1
            if self.calls == self.k + 1:
                raise ao.DeviceMemoryError("planned", nbytes, 0, 0)
        address: int = self.original(nbytes)
        return address


# -- interrupts -----------------------------------------------------------------------------------


@cache
def with_lines(filename: str) -> frozenset[int]:
    """Return the lines of ``with`` statements: after the body, Python passes them once more."""
    tree = ast.parse(Path(filename).read_text())
    return frozenset(
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        for line in range(node.lineno, node.body[0].lineno)
    )


class Interrupt:
    """Ctrl-C in this thread, before the k-th line of our own code, counted from 0.

    A line of a ``with`` statement counts when it is reached first. When it is passed again, on the
    way out, no interrupt can come before ``__exit__`` has run, though a trace function could.
    """

    def __init__(self, k: int, *, subject: Subject) -> None:
        self.k = k
        self.lines = 0

    @contextmanager
    def armed(self) -> Iterator[None]:
        previous = sys.gettrace()
        sys.settrace(self.trace)
        try:
            yield
        finally:
            sys.settrace(previous)

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE) or "/device/array" in (
            frame.f_code.co_filename
        ):
            return None
        seen: set[int] = set()
        return partial(self.line, seen)

    def line(self, seen: set[int], frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            number = frame.f_lineno
            if number in with_lines(frame.f_code.co_filename) and number in seen:
                return partial(self.line, seen)
            seen.add(number)
            self.lines += 1
            if self.lines - 1 == self.k:
                raise KeyboardInterrupt
        return partial(self.line, seen)


# -- campaigns ------------------------------------------------------------------------------------


@dataclass
class Tally:
    """How many faults were tried, by kind and by what came of them."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, kind: str, outcome: str) -> None:
        self.outcomes[kind, outcome] += 1

    @property
    def faults(self) -> int:
        return sum(n for (_, outcome), n in self.outcomes.items() if outcome != "unnoticed")


def every_fault_of(setting: Setting, steps: int = 2) -> Iterator[tuple[str, Any]]:
    """Yield each fault that a device can have in the first disturbed steps, with its name."""
    for hook in HOOKS:
        counter = Broken(hook, "issue", -1, subject := setting.build())
        with counter.armed():
            for number in range(steps):
                subject.step(number)
        for k in range(counter.calls):
            for mode in modes(hook):
                yield f"{hook} {mode}", partial(Broken, hook, mode, k)
    memory = ShortOfMemory(-1, subject := setting.build())
    with memory.armed():
        for number in range(steps):
            subject.step(number)
    for k in range(memory.calls):
        yield "out of memory", partial(ShortOfMemory, k)


def lines_of_a_step(setting: Setting) -> int:
    """Return how many lines of our own code a step passes."""
    subject = setting.build()
    subject.step(0)
    counter = Interrupt(-1, subject=subject)
    with counter.armed():
        subject.step(1)
    return counter.lines


SMALL_CHUNKS = (("chunk_bytes", 16), ("engine", "numpy"))
DECAYED = (("weight_decay", 0.1), ("loss_scale", 8.0), ("on_nonfinite", "raise"))
SETTINGS = {
    f"{kind.__name__} {name} {'decayed' if extra else 'plain'}": Setting(
        kind, name, options=(*SMALL_CHUNKS, *extra)
    )
    for kind in (ao.AdamOffload, ao.Adam, Shuttled)
    for name in DEVICES
    for extra in ((), DECAYED)
}
ZERO_OFFLOAD = (*SMALL_CHUNKS, ("strategy", "zero-offload"))
BY_STRATEGY = {
    f"{word} {name}": Setting(Shuttled, name, options=(*ZERO_OFFLOAD, *extra), dtype=dtype)
    for word, extra, dtype in (
        ("master", (), "float32"),
        ("clipped", (("max_norm", 0.5),), "float32"),
        ("16 bits", (), "bfloat16"),
    )
    for name in DEVICES
}
IN_THREADS = Setting(
    ao.AdamOffload, "numpy", ((60_000,), (3,)), (("threads", 3), ("engine", "numpy"))
)


def interrupt(k: int) -> Any:
    """Return the disturbance that is an interrupt at a line."""
    return lambda subject: Interrupt(k, subject=subject)
