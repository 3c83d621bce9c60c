"""Several threads and one optimizer: serial with `use_locking`, unpredictable but whole without."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import adamoffload as ao

Float32 = np.ndarray[Any, np.dtype[np.float32]]
KINDS = [ao.AdamOffload, ao.Adam]


def make(
    kind: Any, device: ao.Backend | None = None, size: int = 50, **options: Any
) -> tuple[Any, ao.Backend]:
    device = device or ao.get_backend("numpy")
    weights = np.random.default_rng(0).standard_normal((2, size), np.float32)
    parameters = [ao.Parameter(device.asarray(w), f"p{i}") for i, w in enumerate(weights)]
    return kind(parameters, **options), device


def gradients(device: ao.Backend, seed: int, size: int = 50) -> list[Any]:
    draws = np.random.default_rng(seed).standard_normal((2, size), np.float32)
    return [device.asarray(g) for g in draws]


def state(optimizer: Any, device: ao.Backend) -> bytes:
    moments = [*optimizer.moment1.values(), *optimizer.moment2.values()]
    arrays = [*(p.data for p in optimizer.parameters), *moments]
    host = [device.asnumpy(x) if device.owns(x) else x for x in arrays]
    counters = [optimizer.beta1_power, optimizer.beta2_power, np.float32(optimizer.global_step)]
    return b"".join(x.tobytes() for x in [*host, *counters])


def together(*actions: Callable[[], object]) -> list[BaseException]:
    """Run each in a thread of its own; return what was raised, when all have ended."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(actions))

    def run(action: Callable[[], object]) -> None:
        start.wait(30)
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(a,), daemon=True) for a in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a deadlock"
    return errors


# -- with the lock --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_calls_have_the_result_of_one_of_their_orders(kind: Any) -> None:
    serial = set()
    for order in itertools.permutations(range(4)):
        optimizer, device = make(kind)
        for seed in order:
            optimizer(gradients(device, seed))
        serial.add(state(optimizer, device))
    assert len(serial) == 24
    for _ in range(10):
        optimizer, device = make(kind, use_locking=True)
        given = [gradients(device, seed) for seed in range(4)]
        assert not together(*[partial(optimizer, g) for g in given])
        assert state(optimizer, device) in serial


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["numpy", "sim"])
def test_no_step_of_many_is_lost(kind: Any, backend: str) -> None:
    optimizer, device = make(kind, ao.get_backend(backend), use_locking=True)
    given = gradients(device, 1)
    assert not together(*[lambda: [optimizer(given) for _ in range(25)]] * 4)
    alone, other = make(kind)
    for _ in range(100):
        alone(gradients(other, 1))
    assert state(optimizer, device) == state(alone, other)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_in_some_threads_hold_nobody_up(kind: Any) -> None:
    optimizer, device = make(kind, use_locking=True, on_nonfinite="raise")
    good, bad = gradients(device, 1), gradients(device, 1)
    bad[1] = device.asarray(np.full(50, np.nan, np.float32))

    def mostly_wrong() -> None:
        for i in range(20):
            with pytest.raises((ValueError, FloatingPointError)):
                optimizer(good[:1] if i % 2 else bad)
        optimizer(good)

    assert not together(mostly_wrong, mostly_wrong, lambda: [optimizer(good) for _ in range(20)])
    alone, other = make(kind)
    for _ in range(22):
        alone(gradients(other, 1))
    assert state(optimizer, device) == state(alone, other)
    assert optimizer.nonfinite_steps == 20


def test_each_step_has_one_rate_while_another_thread_assigns_them() -> None:
    optimizer, device = make(ao.AdamOffload, use_locking=True, learning_rate=0.5)
    given = gradients(device, 1)

    def assign() -> None:
        for _ in range(100):
            for rate in (0.25, 0.5):
                optimizer.learning_rate = rate

    used: list[float] = []
    original = optimizer._pipeline.run

    def run(underway: Any, kinds: Any) -> None:
        (own,) = underway.step.coefficients
        used.append(float(own.lr))
        original(underway, kinds)

    optimizer._pipeline.run = run
    assert not together(assign, lambda: [optimizer(given) for _ in range(50)])
    assert optimizer.global_step == len(used) == 50


def test_a_schedule_may_ask_and_assign_while_the_lock_is_held() -> None:
    class Curious(ao.LearningRateSchedule):
        def __call__(self, step: int) -> float:
            assert optimizer.global_step == step
            optimizer.learning_rate = 0.25  # the default's, which another group uses
            return 0.5

    device = ao.get_backend("numpy")
    a, b = (ao.Parameter(device.asarray(np.ones(2, np.float32)), name) for name in "ab")
    optimizer = ao.AdamOffload(
        [{"params": [a], "lr": Curious()}, {"params": [b]}], use_locking=True
    )
    ones = device.asarray(np.ones(2, np.float32))
    assert not together(lambda: optimizer([ones, ones]))
    assert optimizer.learning_rate == 0.25


# -- without it -----------------------------------------------------------------------------------


class Waiting(ao.LearningRateSchedule):
    """A rate of 0.1 that lets the first thread to ask wait until another has finished its step."""

    def __init__(self) -> None:
        self.first, self.other_is_done = threading.Lock(), threading.Event()
        self.asked = threading.Event()

    def __call__(self, step: int) -> float:
        if self.first.acquire(blocking=False):
            self.asked.set()
            self.other_is_done.wait(0.5)  # for ever, if the lock keeps the other one out
        return 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("locking", [False, True])
def test_without_the_lock_an_update_is_lost(kind: Any, locking: bool) -> None:
    schedule = Waiting()
    optimizer, device = make(kind, use_locking=locking, learning_rate=schedule)
    slow, quick = gradients(device, 1), gradients(device, 2)

    def overtake() -> None:
        schedule.asked.wait(30)
        optimizer(quick)
        schedule.other_is_done.set()

    assert not together(lambda: optimizer(slow), overtake)
    # Two gradients have gone into parameters and moments; one of them was never counted.
    assert optimizer.global_step == (2 if locking else 1)
    beta1 = np.float32(0.9)
    assert optimizer.beta1_power == (beta1 * beta1 if locking else beta1)
    alone, other = make(kind, learning_rate=0.1)
    alone(gradients(other, 1 if locking else 2))
    if not locking:  # the second update was made as if it were the first
        alone._state.counters = make(kind)[0].counters
    alone(gradients(other, 2 if locking else 1))
    assert state(optimizer, device) == state(alone, other)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_lock_nothing_hangs_or_crashes(kind: Any) -> None:
    options: dict[str, Any] = (
        {"chunk_bytes": 1 << 17, "threads": 2} if kind is ao.AdamOffload else {}
    )
    optimizer, device = make(kind, size=100_000, **options)
    given = [gradients(device, seed, 100_000) for seed in range(3)]
    assert not together(*[lambda g=g: [optimizer(g) for _ in range(5)] for g in given])
    assert 5 <= optimizer.global_step <= 15
    assert all(optimizer(given[0]))  # the numbers may be any, NaN included
