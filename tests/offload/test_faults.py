"""Atomic steps: whatever goes wrong, nothing is lost, and nothing is silently half done.

``tests/benchmarks/faults.py`` tries every fault of every setting; here are as many as a few seconds
allow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adamoffload as ao
from adamoffload.engine.kernel import NumpyKernel
from adamoffload.engine.team import Workers, _Worker

import faults
from faults import IN_THREADS, SETTINGS, Fault, Setting, interrupt, trial
from lazy_backend import LazyBackend

# -- every call of a device -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SETTINGS if "decayed" in name])
def test_a_fault_of_the_device_at_any_call_loses_nothing(name: str) -> None:
    tally = faults.Tally()
    every = 1 if name.startswith("Adam sim") else 5 if "sim" in name else 2  # it takes its time
    for kind, fault in [*faults.every_fault_of(SETTINGS[name])][::every]:
        tally.add(kind, trial(SETTINGS[name], fault))
    outcomes = {outcome for _, outcome in tally.outcomes}
    assert {"as before", "refused"} <= outcomes  # both happen, or this shows nothing
    assert tally.faults >= 30


@pytest.mark.parametrize("word", ["master", "clipped", "16 bits"])
def test_a_fault_under_another_strategy_loses_nothing(word: str) -> None:
    setting = faults.BY_STRATEGY[f"{word} lazy"]
    outcomes = {trial(setting, fault) for _, fault in [*faults.every_fault_of(setting)][::4]}
    assert {"as before", "refused"} <= outcomes


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.data(), st.sampled_from([name for name in SETTINGS if "plain" in name]))
def test_a_fault_at_random_loses_nothing(data: st.DataObject, name: str) -> None:
    chosen = data.draw(st.sampled_from([*faults.every_fault_of(SETTINGS[name])]))
    trial(SETTINGS[name], chosen[1])


# -- interrupts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SETTINGS if "plain" in name])
def test_an_interrupt_between_any_two_lines_loses_nothing(name: str) -> None:
    lines = faults.lines_of_a_step(SETTINGS[name])
    outcomes = {trial(SETTINGS[name], interrupt(k)) for k in range(0, lines, 31)}
    outcomes |= {trial(SETTINGS[name], interrupt(k)) for k in range(lines - 10, lines)}
    assert outcomes == {"as before", "refused", "done"}


def test_an_interrupted_micro_step_is_counted_once() -> None:
    """Its gradients, added to the sums before the interrupt, must not be added again."""
    options = (*faults.SMALL_CHUNKS, ("accumulate", 2), ("threads", 1))
    setting = Setting(ao.AdamOffload, "numpy", options=options)
    expected, outcomes = faults.undisturbed(SETTINGS["AdamOffload numpy plain"]), set()
    for call in (0, 1):
        for k in range(0, 10_000, 5 + 12 * call):
            subject = setting.build()
            o, one, none = subject.optimizer, subject.gradients[0], [None] * 4
            micro_steps = [one, none] if call == 0 else [none, one]
            trace = faults.Interrupt(k, subject=subject)
            for gradients in micro_steps[:call]:
                o(gradients)
            with suppress(KeyboardInterrupt), trace.armed():
                o(micro_steps[call])
            if trace.lines <= k:  # it has come to its end
                break
            try:
                o._integrity.check()
            except RuntimeError:
                outcomes.add("refused")
                continue
            while not o.global_step:  # what was interrupted is repeated
                for gradients in micro_steps[o._micro_step :]:
                    o(gradients)
            outcomes.add("taken")
            assert subject.state() == expected[1], k
    assert outcomes == {"taken", "refused"}


def test_an_interrupt_while_helpers_write_loses_nothing() -> None:
    lines = faults.lines_of_a_step(IN_THREADS)
    outcomes = {trial(IN_THREADS, interrupt(k)) for k in range(0, lines, 5)}
    assert {"as before", "refused"} <= outcomes  # how long the helpers take is never the same


@pytest.mark.parametrize("k", range(3))
def test_nothing_is_in_flight_when_a_failed_step_has_been_judged(k: int) -> None:
    subject = SETTINGS["AdamOffload lazy plain"].build()
    device = subject.device
    assert isinstance(device, LazyBackend)
    subject.step(0)
    with faults.Broken("_d2h", "done", k, subject).armed(), pytest.raises(Fault):
        subject.step(1)  # the copy is on its way, and its ticket is lost
    assert not [ticket for ticket in device.in_flight if ticket.times is None]
    subject.step(1)


# -- late faults ----------------------------------------------------------------------------------


def late_failure(kind: Any, **options: Any) -> tuple[faults.Subject, Callable[[], None]]:
    """Return an optimizer, and what makes the update of 'p1' in its next step fail, later."""
    subject = Setting(kind, "lazy", ((4,), (4,), (4,)), tuple(options.items())).build()
    device = subject.device
    assert isinstance(device, LazyBackend)

    def break_it() -> None:
        hook = "run_on_device"
        k = 3 if kind is ao.AdamOffload else 1  # behind three that prepare; the first is applied
        broken = faults.Broken(hook, "wait", k + (kind is ao.AdamOffload), subject)
        broken.on = True

    return subject, break_it


@pytest.mark.parametrize("kind", [ao.AdamOffload, ao.Adam])
def test_an_update_that_fails_after_its_step_is_that_steps_loss(kind: Any) -> None:
    subject, break_it = late_failure(kind, chunk_bytes=16)
    subject.step(0)
    break_it()
    subject.step(1)  # nobody has noticed yet
    assert subject.optimizer.global_step == 2
    with pytest.raises(Fault):
        subject.step(2)
    lost = r"the update of 'p1' in step 2 was lost \(Fault: late\).*Start again from saved state"
    with pytest.raises(RuntimeError, match=lost) as refusal:
        subject.step(2)
    # 'p0' was under way when the news came.
    assert "step 3 failed half-way (Fault: late), when 'p0' had" in str(refusal.value)
    assert subject.optimizer.global_step == 2


# -- threads --------------------------------------------------------------------------------------


def test_a_thread_that_dies_is_noticed_and_replaced() -> None:
    subject = IN_THREADS.build()
    subject.step(0)
    team: Workers = subject.optimizer._workers
    victim = team._workers[0]
    victim.stop()
    victim._thread.join(10)
    subject.step(1)
    assert subject.state() == faults.undisturbed(IN_THREADS)[2]
    assert victim not in team._workers


def test_a_thread_that_dies_at_its_work_breaks_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = IN_THREADS.build()
    main, helping = threading.current_thread(), threading.Event()
    original = NumpyKernel.__call__

    class Death(BaseException):
        pass

    def die(self: _Worker) -> None:
        self._go.acquire()
        assert self._work is not None
        try:
            self._work()
        except Death:
            return  # without a word to anyone

    def kernel(self: NumpyKernel, *args: Any) -> None:
        if threading.current_thread() is main:
            assert helping.wait(30)
        else:
            helping.set()
            raise Death
        original(self, *args)

    monkeypatch.setattr(_Worker, "_loop", die)
    monkeypatch.setattr(NumpyKernel, "__call__", kernel)
    with pytest.raises(RuntimeError, match="a thread that shared the update has died"):
        subject.step(0)
    with pytest.raises(RuntimeError, match=r"step 1 failed half-way.*'p0'"):
        subject.step(0)


def test_an_error_in_a_helper_breaks_the_step_when_all_have_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = IN_THREADS.build()
    subject.step(0)
    main, helping = threading.current_thread(), threading.Event()
    original = NumpyKernel.__call__

    def kernel(self: NumpyKernel, *args: Any) -> None:
        if threading.current_thread() is main:
            assert helping.wait(30)
        else:
            helping.set()
            raise Fault("in a helper")
        original(self, *args)

    monkeypatch.setattr(NumpyKernel, "__call__", kernel)
    with pytest.raises(Fault, match="in a helper"):
        subject.step(1)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match=r"step 2 failed half-way \(Fault: in a helper\)"):
        subject.step(1)


# -- what the user hands over ---------------------------------------------------------------------


class Moody(ao.LearningRateSchedule):
    """A schedule that does what it is told in one step, and is 0.1 otherwise."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act
        self.at: int | None = None

    def __call__(self, step: int) -> Any:
        return self.act() if step == self.at else 0.1


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("argument", ["learning_rate", "weight_decay"])
@pytest.mark.parametrize("error", [Fault(), KeyboardInterrupt(), SystemExit(), MemoryError()])
@pytest.mark.parametrize("kind", [ao.AdamOffload, ao.Adam])
def test_a_schedule_that_raises_changes_nothing(
    kind: Any, argument: str, error: BaseException
) -> None:
    moody = Moody(lambda: raise_(error))
    subject = Setting(kind, "numpy", options=((argument, moody),)).build()
    subject.step(0)
    before = subject.state()
    moody.at = 1
    with pytest.raises(type(error)):
        subject.step(1)
    assert subject.state() == before
    moody.at = None
    subject.step(1)
    assert subject.optimizer.global_step == 2


@pytest.mark.parametrize("locking", [True, False])
@pytest.mark.parametrize("kind", [ao.AdamOffload, ao.Adam])
def test_a_schedule_that_calls_the_optimizer_back_is_refused(kind: Any, locking: bool) -> None:
    moody = Moody(lambda: subject.step(1))
    options = (("learning_rate", moody), ("use_locking", locking))
    subject = Setting(kind, "numpy", options=options).build()
    subject.step(0)
    before = subject.state()
    moody.at = 1
    with pytest.raises(RuntimeError, match=r"step 2 has not come to its end.*must not call"):
        subject.step(1)
    assert subject.state() == before
    moody.at = None
    subject.step(1)


@pytest.mark.filterwarnings("ignore:state_dict. the state of learning_rate Moody")
@pytest.mark.parametrize("locking", [True, False])
@pytest.mark.parametrize("kind", [ao.AdamOffload, ao.Adam])
def test_a_schedule_that_loads_a_state_stops_the_step_and_the_state_is_whole(
    kind: Any, locking: bool
) -> None:
    moody = Moody(lambda: subject.optimizer.load_state_dict(state) or 0.1)
    options = (("learning_rate", moody), ("use_locking", locking))
    subject = Setting(kind, "numpy", options=options).build()
    state = subject.optimizer.state_dict()
    subject.step(0)
    moody.at = 1
    with pytest.raises(RuntimeError, match="a state was loaded while step 2 was being decided"):
        subject.step(1)
    assert subject.optimizer.global_step == 0
    assert all(not np.any(m) for m in subject.optimizer.state_dict()["moment1"].values())
    moody.at = None
    subject.step(1)
    assert subject.optimizer.global_step == 1


class RaisingLedger(ao.Ledger):
    """A ledger whose k-th entry fails."""

    k = -1

    def attach(self, device: Any, declared: Any = ()) -> None:
        """Take any clock: the twin has another device."""

    def at(self, *place: Any, **names: Any) -> Any:
        record = super().at(*place, **names)

        def raising(*entry: Any) -> None:
            self.k -= 1
            if self.k == -1:
                raise Fault("no ink")
            record(*entry)

        return raising


@pytest.mark.parametrize("device", faults.DEVICES)
def test_a_ledger_that_raises_at_any_entry_loses_nothing(device: str) -> None:
    class Inkless:
        def __init__(self, k: int, subject: faults.Subject) -> None:
            self.subject, self.k = subject, k

        def armed(self) -> Any:
            self.subject.optimizer._ledger.k = self.k
            return faults._peace()

    plain = SETTINGS[f"AdamOffload {device} plain"]
    for k in range(0, 60, 3):
        setting = Setting(
            plain.kind, device, plain.shapes, (*plain.options, ("ledger", RaisingLedger()))
        )
        outcome = trial(setting, partial(Inkless, k))
        assert outcome == ("unnoticed" if k >= 30 else outcome)


@pytest.mark.parametrize("late", [False, True])
def test_a_probe_that_raises_loses_nothing(late: bool) -> None:
    class Unwilling(ao.Probe):
        willing = True

        def observe(self, step: Any) -> Any:
            if self.willing:
                return super().observe(step)
            if late:
                return Observer()
            raise Fault("not today")

    class Observer:
        def update(self, workers: Any, kernel: Any, _: int, arrays: Any, spans: Any) -> None:
            workers.update(kernel, arrays, spans)
            raise Fault("seen too much")

    probe = Unwilling()
    plain = SETTINGS["AdamOffload numpy plain"]
    options = (*plain.options, ("probe", probe))
    subject = Setting(plain.kind, plain.device, plain.shapes, options).build()
    subject.step(0)
    before = subject.state()
    probe.willing = False
    with pytest.raises(Fault):
        subject.step(1)
    probe.willing = True
    if late:
        with pytest.raises(RuntimeError, match=r"step 2 failed half-way \(Fault: seen.*'p0'"):
            subject.step(1)
    else:
        assert subject.state() == before
        subject.step(1)
        assert subject.state() == faults.undisturbed(plain)[2]


# -- loading --------------------------------------------------------------------------------------


def before_a_load(name: str, path: Path) -> tuple[faults.Subject, dict[str, Any]]:
    """Return a run after three steps, with its state after one in a dict and in a file."""
    subject = SETTINGS[name].build()
    subject.step(0)
    ao.save(path, subject.optimizer)
    state = subject.optimizer.state_dict()
    subject.step(1)
    subject.step(2)
    return subject, state


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # by the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("whole", [True, False], ids=["load", "load_state_dict"])
@pytest.mark.parametrize("name", ["AdamOffload numpy plain", "Adam lazy plain"])
def test_an_interrupt_of_a_load_leaves_the_old_or_the_new_or_a_refusal(
    name: str, whole: bool, tmp_path: Path
) -> None:
    path, outcomes = tmp_path / "run", set()
    expected = faults.undisturbed(SETTINGS[name])

    def load(k: int) -> tuple[faults.Subject, int]:
        """Load with an interrupt at a line; return how many were passed."""
        subject, state = before_a_load(name, path)
        trace = faults.Interrupt(k, subject=subject)
        with suppress(KeyboardInterrupt), trace.armed():
            if whole:
                ao.load(path, subject.optimizer)
            else:
                subject.optimizer.load_state_dict(state)
        return subject, trace.lines

    _, lines = load(-1)
    for k in (*range(0, lines - 80, 80), *range(lines - 80, lines, 2)):  # it writes at the end
        subject, _ = load(k)
        try:
            subject.optimizer._integrity.check()
        except RuntimeError:
            outcomes.add("refused")
            with pytest.raises(RuntimeError, match="no longer belong together"):
                subject.step(3)
            ao.load(path, subject.optimizer)
            subject.step(1)
            assert subject.state() == expected[2]
        else:
            steps = subject.optimizer.global_step
            outcomes.add("new" if steps == 1 else "old")
            if whole or steps == 3:
                assert subject.state() == expected[steps]
    assert {"old", "refused"} <= outcomes


# -- construction, and a rate that is assigned ----------------------------------------------------


@pytest.mark.parametrize("kind", [ao.AdamOffload, ao.Adam])
def test_a_construction_that_fails_takes_no_memory(kind: Any) -> None:
    k = 0
    while True:
        subject = SETTINGS[f"{kind.__name__} numpy decayed"].build()
        options = {"chunk_bytes": 16} if kind is ao.AdamOffload else {}
        del subject.optimizer
        used = subject.device.memory().used
        short = faults.ShortOfMemory(k, subject)
        fits = False
        with suppress(ao.DeviceMemoryError), short.armed():
            kind(subject.parameters, on_nonfinite="skip", **options)
            fits = True
        assert subject.device.memory().used == used
        if fits:
            break
        k += 1
    assert k == (3 if kind is ao.AdamOffload else 2)


@pytest.mark.parametrize("locking", [True, False])
def test_an_interrupt_in_the_assignment_of_a_rate_leaves_the_old_or_the_new(locking: bool) -> None:
    k, seen = 0, set()
    while True:
        subject = Setting(ao.AdamOffload, "numpy", options=(("use_locking", locking),)).build()
        trace = faults.Interrupt(k, subject=subject)
        try:
            with trace.armed():
                subject.optimizer.learning_rate = 0.5
        except KeyboardInterrupt:
            seen.add(float(subject.optimizer.learning_rate))
            subject.step(0)
        else:
            break
        k += 1
    assert seen <= {float(np.float32(0.001)), 0.5}
    assert k > 3
