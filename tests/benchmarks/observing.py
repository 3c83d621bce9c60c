"""What watching costs: a step with a ledger and a probe beside the same step without.

Run it with ``python tests/benchmarks/observing.py [PARAMETERS] [ROUNDS]``. Two optimizers take
turns in one process, ten steps each, so that a probe of every tenth step samples once a turn, in
its middle; who goes first alternates. Time is that of the processors, in all threads: others on the
machine disturb it less. A step is the optimizer's alone, with all parameters in one tensor or in
20, or that of a training: forward, backward with a batch of 64, and the optimizer's. The first line
of each block compares an optimizer with its like: that is the noise of the measurement. The last
is what the calls cost when there is nothing to watch with.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.observe.ledger import NO_LEDGER
from adamoffload.observe.probes import NO_PROBE

TURN = 10


def optimizing(size: int, tensors: int, engine: str, **watching: Any) -> Callable[[], object]:
    """Return a step of an optimizer."""
    device, rng = ao.get_backend("numpy"), np.random.default_rng(0)
    arrays = [rng.standard_normal(size // tensors, np.float32) for _ in range(tensors)]
    parameters = [ao.Parameter(device.asarray(a), f"p{i}") for i, a in enumerate(arrays)]
    gradients = [device.asarray(a) for a in arrays]
    return partial(ao.AdamOffload(parameters, engine=engine, **watching), gradients)


def training(size: int, engine: str, **watching: Any) -> Callable[[], object]:
    """Return a step of the training of a layer with as many outputs as inputs."""
    device, rng = ao.get_backend("numpy"), np.random.default_rng(0)
    width = round(size**0.5)
    x, y = (device.asarray(rng.standard_normal((64, width), np.float32)) for _ in range(2))
    w = ao.Parameter(device.asarray(rng.standard_normal((width, width), np.float32)), "w")
    opt = ao.AdamOffload([w], engine=engine, **watching)
    gradients_of = ao.value_and_grad(
        lambda x, y: np.mean((np.tanh(x @ w) - y) ** 2), opt.parameters
    )
    return lambda: opt(gradients_of(x, y)[1])


def turn(step: Callable[[], object]) -> list[float]:
    """Return the seconds of each of ten steps."""
    clock = [time.process_time()]
    for _ in range(TURN):
        step()
        clock.append(time.process_time())
    return np.diff(clock).tolist()


def compare(without: Any, watched: Any, rounds: int) -> str:
    """Return how much longer ten steps of the second take.

    Each of the ten is measured by its median over the rounds, and by the fastest tenth, which
    others on the machine disturb less; then they are added up.
    """
    for step in (without, watched):
        for _ in range(TURN // 2):  # so that what is sampled is in the middle of a turn
            step()
    pairs = []
    for i in range(rounds + 2):
        if i % 2:
            second, first = turn(watched), turn(without)
        else:
            first, second = turn(without), turn(watched)
        pairs.append((first, second))
    seconds = np.array(pairs[2:])  # rounds, who, steps
    text = ""
    for name, share in (("medians", 0.5), ("fastest tenths", 0.1)):
        plain, observed = np.quantile(seconds, share, axis=0).sum(axis=1)
        text += f"by {name} {100 * (observed / plain - 1):+5.1f} %   "
    plain, observed = np.median(seconds[:, :, TURN // 2], axis=0)
    share = (observed - plain) / np.median(seconds[:, 0], axis=0).sum()
    return (
        f"{text}the sampled step: {1e3 * observed:.2f} ms beside {1e3 * plain:.2f} ms, "
        f"{100 * share:+.1f} % of ten steps"
    )


def off_s() -> float:
    """Return the seconds that a step of one chunk spends on calls that do nothing."""
    count = 10_000
    step, ticket = [np.zeros(1)] * 2
    workers: Any = SimpleNamespace(update=lambda *_: None)
    began_s = time.perf_counter()
    for _ in range(count):
        observer = NO_PROBE.observe(step)  # type: ignore[arg-type]
        NO_LEDGER.sample_memory(1, step, ())  # type: ignore[arg-type]
        record = NO_LEDGER.at(1, 0, ())
        for _ in range(6):
            record("d2h", 1, 1, ticket)  # type: ignore[arg-type]

        observer.update(workers, step, 0, (), ())  # type: ignore[arg-type]
        NO_LEDGER.sample_memory(1, step, ())  # type: ignore[arg-type]
        observer.close()
    return (time.perf_counter() - began_s) / count


if __name__ == "__main__":
    size = int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    for engine in ("numpy", "numba"):
        for what, make in (
            ("in one tensor", partial(optimizing, size, 1, engine)),
            ("in 20 tensors", partial(optimizing, size, 20, engine)),
            ("trained", partial(training, size, engine)),
        ):
            print(f"{engine}, {size:,} parameters, {what}")
            for label, watching in (
                ("nothing", {}),
                ("ledger", {"ledger": ao.Ledger()}),
                ("probe", {"probe": ao.Probe(TURN)}),
                ("both", {"ledger": ao.Ledger(), "probe": ao.Probe(TURN)}),
            ):
                print(f"  {label:8} {compare(make(), make(**watching), rounds)}")
    print(f"off: {off_s() * 1e6:.2f} us a step")
