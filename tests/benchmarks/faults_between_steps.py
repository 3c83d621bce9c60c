"""Disturbs what happens between steps, and says what came of it.

python tests/benchmarks/faults_between_steps.py [--trials N]

That is a save, a load, state_dict, load_state_dict, gradients that are submitted, micro-steps with
a flush, and a change of strategy; and steps of strategies by which gradients leave early, or are
late, or added up on the host, of 16 bits and with clipping; on three devices and a disk. An
interrupt comes before some line of it, or a call of the device or the disk fails, at issue, when it
is done, half-way or late. Then the optimizer must be as before, or as after, or refuse with the
remedy where it may; no file may be left that was not there; and the same again, undisturbed, must
do it, after a load where that was the remedy. N trials in all, at random, always the same ones.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import adamoffload as ao

import faults
from faults import Broken, Fault, Interrupt, OnDisk, Setting, Subject, modes

DELAYED = replace(ao.strategies["zero-offload-delayed"], warmup_steps=0)
SMALL = (("chunk_bytes", 16), ("engine", "numpy"))


class Operation(NamedTuple):
    """What is disturbed: it can be repeated, and ends where a step later the twin is, or here."""

    act: Callable[[Subject, str], object]
    steps: int = 0
    """Steps that it takes."""
    may_refuse: bool = True
    options: tuple[tuple[str, Any], ...] = ()
    dtype: str = "float32"

    @property
    def own(self) -> bool:
        """Whether it has a strategy of its own, and so one kind of optimizer."""
        return "strategy" in dict(self.options)


def save(subject: Subject, path: str) -> None:
    ao.save(path, subject.optimizer)


def load(subject: Subject, path: str) -> None:
    ao.load(path, subject.optimizer)


def state_dict(subject: Subject, path: str) -> None:
    subject.optimizer.state_dict()


def load_state_dict(subject: Subject, path: str) -> None:
    subject.optimizer.load_state_dict(subject.kept)  # type: ignore[attr-defined]


def submit(subject: Subject, path: str) -> None:
    optimizer = subject.optimizer
    for i, gradient in enumerate(subject.gradients[1]):
        with suppress(ValueError):  # it was submitted already
            optimizer.submit(f"p{i}", gradient)
    optimizer.step()


def flush(subject: Subject, path: str) -> None:
    optimizer = subject.optimizer
    if not optimizer._micro_step:
        optimizer(subject.gradients[1])
    optimizer.flush()


def delayed(subject: Subject, path: str) -> None:
    optimizer = subject.optimizer
    while (number := optimizer.global_step + optimizer.pending) < 3:
        optimizer(subject.gradients[number])
    try:
        optimizer.flush()
    except BaseException:
        if not optimizer._integrity._verdict:
            assert optimizer.global_step + optimizer.pending == 3, "a late gradient was forgotten"
        raise


def micro_steps(subject: Subject, path: str) -> None:
    """Submit the gradients of two micro-steps."""
    optimizer = subject.optimizer
    if optimizer._dropped:
        optimizer.discard()
    for _ in range(optimizer.pending, 2):
        submit(subject, path)


def move(subject: Subject, path: str) -> None:
    there = "state-shuttle" if subject.optimizer.strategy.name != "state-shuttle" else "resident"
    subject.optimizer.to(there)


OPERATIONS = {
    "save": Operation(save, may_refuse=False),
    "state_dict": Operation(state_dict, may_refuse=False),
    "load": Operation(load),
    "load_state_dict": Operation(load_state_dict),
    "submit": Operation(submit, steps=1),
    "flush": Operation(flush, steps=1, options=(("accumulate", 2),)),
    "to": Operation(move, may_refuse=False),
    "early": Operation(submit, steps=1, options=(("strategy", "zero-offload"), ("chunk_bytes", 4))),
    "early, 16 bits": Operation(
        submit, steps=1, options=(("strategy", "zero-offload"),), dtype="bfloat16"
    ),
    "clipped": Operation(
        submit, steps=1, options=(("strategy", "zero-offload"), ("max_norm", 0.5))
    ),
    "delayed": Operation(delayed, steps=2, options=(("strategy", DELAYED),)),
    "summed": Operation(
        micro_steps, steps=1, options=(("strategy", "deepspeed-zero2"), ("accumulate", 2))
    ),
}
KINDS: dict[str, tuple[Any, str]] = {
    f"{kind.__name__} {device}": (kind, device)
    for kind in (ao.AdamOffload, ao.Adam, faults.Shuttled, OnDisk)
    for device in faults.DEVICES
}


def setting_of(kind: str, operation: Operation) -> Setting:
    """Return the setting of a trial."""
    return Setting(*KINDS[kind], options=(*SMALL, *operation.options), dtype=operation.dtype)


@cache
def twin_of(kind: str, operation: Operation) -> list[dict[str, list[bytes]]]:
    """Return the state of one that nobody disturbs, before the first step and after each."""
    if not operation.own:
        if kind.startswith("OnDisk"):  # which has a master
            options = (*SMALL, ("strategy", "zero-offload"))
            return faults.undisturbed(Setting(faults.Shuttled, "numpy", options=options))
        alike = faults.Shuttled if kind.startswith("Shuttled") else ao.AdamOffload
        return faults.undisturbed(Setting(alike, "numpy", options=SMALL))
    twin = setting_of("Shuttled numpy", operation).build()
    states = [twin.state()]
    for number in range(3):
        whole_step(twin, number)
        states.append(twin.state())
    return states


def whole_step(subject: Subject, number: int) -> None:
    """Take a step whatever the settings: of equal micro-steps, where it is a strategy's own."""
    optimizer = subject.optimizer
    optimizer(subject.gradients[number])
    if optimizer.strategy.name == "deepspeed-zero2":
        optimizer(subject.gradients[number])
    optimizer.flush()


def begun(kind: str, operation: Operation, path: str) -> Subject:
    """Return an optimizer after one step, with its state in a file and in a dict."""
    subject = setting_of(kind, operation).build()
    whole_step(subject, 0)
    ao.save(path, subject.optimizer)
    subject.kept = subject.optimizer.state_dict()  # type: ignore[attr-defined]
    return subject


def trial(kind: str, name: str, disturbance: Callable[[Subject], Any], path: str) -> str:
    """Disturb an operation; return what came of it, or raise AssertionError."""
    operation = OPERATIONS[name]
    expected = twin_of(kind, operation)
    before, after = expected[1], expected[1 + operation.steps]
    subject = begun(kind, operation, path)
    folder = os.path.dirname(path)
    disturb, outcome = disturbance(subject), "unnoticed"
    try:
        with disturb.armed():
            operation.act(subject, path)
    except (Fault, KeyboardInterrupt, RuntimeError, MemoryError) as error:
        outcome = judge(subject, operation, expected[1 : 2 + operation.steps], error)
    if outcome == "unnoticed":  # an update may fail when its step has returned
        try:
            with subject.optimizer.exclusive():
                pass
        except RuntimeError as error:
            outcome = judge(subject, operation, expected[1 : 2 + operation.steps], error)
            assert outcome == "refused", "a loss that is not told"
    assert os.listdir(folder) == [os.path.basename(path)], os.listdir(folder)
    if outcome == "refused":
        ao.load(path, subject.optimizer)
        assert not faults.differences(subject.state(), before), "a load does not repair it"
    if outcome in ("as before", "between", "refused"):
        try:
            operation.act(subject, path)
        except (Fault, RuntimeError, KeyboardInterrupt) as error:
            raise AssertionError(f"{outcome}, and fails again: {error!r}") from error
    differing = faults.differences(subject.state(), after)
    assert not differing, f"{outcome}, and {differing} are silently wrong"
    for number in range(1 + operation.steps, 3):  # and it goes on
        try:
            whole_step(subject, number)
        except Fault:  # a copy that nobody needs any more was the last of its step
            assert outcome == "unnoticed", f"{outcome}, and fails later"
            subject.optimizer.discard()
            whole_step(subject, number)
    assert not faults.differences(subject.state(), expected[3]), f"{outcome}, and then goes wrong"
    close = getattr(subject.optimizer, "close", None)
    if close:
        close()
    return outcome


def judge(subject: Subject, operation: Operation, states: list[Any], error: Any) -> str:
    """Return which it is after an operation raised: as before, between, done or refused."""
    refusal = ""
    try:
        subject.optimizer._integrity.check()
    except RuntimeError as refused:
        refusal = str(refused)
    if refusal:
        assert operation.may_refuse, f"refuses without a cause: {refusal}"
        assert "no longer belong together. Start again" in refusal, refusal
        assert re.search(r"'p\d+'|has not come to its end", refusal), refusal
        return "refused"
    state = subject.state()
    alike = [i for i, expected in enumerate(states) if not faults.differences(state, expected)]
    assert alike, f"half-way, after {error!r}"
    if alike[0] == 0:
        return "as before"
    return "done" if alike[0] == len(states) - 1 else "between"


def lines_of(kind: str, name: str, path: str) -> int:
    """Return how many lines of our own code an operation passes."""
    subject = begun(kind, OPERATIONS[name], path)
    counter = Interrupt(-1, subject=subject)
    with counter.armed():
        OPERATIONS[name].act(subject, path)
    return counter.lines


def calls_of(kind: str, name: str, hook: str, path: str) -> int:
    """Return how often an operation calls a device."""
    subject = begun(kind, OPERATIONS[name], path)
    counter = Broken(hook, "issue", -1, subject)
    with counter.armed():
        OPERATIONS[name].act(subject, path)
    return counter.calls


def chosen(
    rng: random.Random, path: str, counted: dict[Any, int], only: list[str] | None = None
) -> tuple[str, str, str, Any]:
    """Return a kind, an operation, a word for what disturbs it, and that."""
    while True:
        kind, name = rng.choice([*KINDS]), rng.choice(only or [*OPERATIONS])
        if name == "to" and kind.startswith("OnDisk"):
            continue  # its directory belongs to the constructor
        if OPERATIONS[name].own and not kind.startswith("Shuttled"):
            continue
        hook = rng.choice(["", "", *faults.HOOKS])
        key = kind, name, hook
        if key not in counted:
            counted[key] = calls_of(*key, path) if hook else lines_of(kind, name, path)
        if not counted[key]:
            continue
        k = rng.randrange(counted[key])
        if hook:
            mode = rng.choice(modes(hook))
            return kind, name, f"{name}: device", partial(Broken, hook, mode, k)
        return kind, name, f"{name}: interrupt", faults.interrupt(k)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=OPERATIONS, action="append", help="operations")
    arguments = parser.parse_args()
    tally, counted, failures = Counter[tuple[str, str]](), dict[Any, int](), Counter[str]()
    start, rng = time.perf_counter(), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run")
        for _ in range(arguments.trials):
            kind, name, word, disturbance = chosen(rng, path, counted, arguments.only)
            faulthandler.dump_traceback_later(120, exit=True)  # a deadlock
            try:
                tally[word, trial(kind, name, disturbance, path)] += 1
            except (Exception, KeyboardInterrupt) as error:
                failures[f"{kind}, {word}: {type(error).__name__}: {str(error)[:200]}"] += 1
                for extra in set(os.listdir(folder)) - {"run"}:
                    os.remove(os.path.join(folder, extra))
    faulthandler.cancel_dump_traceback_later()
    for (word, outcome), count in sorted(tally.items()):
        print(f"{word:28} {outcome:10} {count:7,}")
    for text, count in failures.most_common(40):
        print(f"WRONG {count:4} times: {text}")
    noticed = sum(n for (_, outcome), n in tally.items() if outcome != "unnoticed")
    print(
        f"{noticed:,} of {arguments.trials:,} noticed, {sum(failures.values())} wrong, "
        f"{time.perf_counter() - start:.0f} s"
    )
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
