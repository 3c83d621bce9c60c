"""Tries every fault of every setting, and says what came of them.

python tests/benchmarks/faults.py [--interrupts N]

Each call of a device in two steps fails at issue, when it is done, half-way and late; each
allocation is refused; an interrupt comes before each line of a step, and a second one at random
while the first is looked at; N interrupts come from the operating system, at random times.
Anything lost, or silently wrong, ends the run.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import faults
from faults import BY_STRATEGY, IN_THREADS, SETTINGS, Subject, Tally, interrupt, trial


class Signal:
    """A real SIGINT after some seconds: it comes wherever the interpreter looks for signals."""

    def __init__(self, after_s: float, subject: Subject) -> None:
        self.after_s = after_s

    @contextmanager
    def armed(self) -> Iterator[None]:
        signal.setitimer(signal.ITIMER_REAL, self.after_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def interrupted(*_: object) -> None:
    """Do what Ctrl-C does."""
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interrupts", type=int, default=2000)
    signals = parser.parse_args().interrupts
    tally, rng = Tally(), random.Random(0)
    start = time.perf_counter()
    compiled = replace(IN_THREADS, options=(("threads", 2), ("engine", "auto")))
    settings = SETTINGS | BY_STRATEGY
    for name, setting in [*settings.items(), ("threads", IN_THREADS), ("compiled", compiled)]:
        for kind, fault in faults.every_fault_of(setting):
            tally.add(kind, trial(setting, fault))
        lines = faults.lines_of_a_step(setting)
        for k in range(lines):
            tally.add("interrupt at a line", trial(setting, interrupt(k)))
        print(f"{name}: {tally.faults:,} faults, {time.perf_counter() - start:.0f} s", flush=True)
    signal.signal(signal.SIGALRM, interrupted)
    for _ in range(signals):
        setting = rng.choice([*SETTINGS.values(), IN_THREADS, compiled])
        after_s = rng.uniform(1e-5, 2e-3)
        tally.add("signal", trial(setting, partial(Signal, after_s)))
    for (kind, outcome), count in sorted(tally.outcomes.items()):
        print(f"{kind:24} {outcome:10} {count:7,}")
    print(f"{tally.faults:,} faults, nothing lost, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
