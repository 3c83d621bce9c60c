"""Measures what an optimizer of many small parameters takes: everything is linear in their number.

python tests/benchmarks/many_parameters.py [--sizes 1000 10000 30000]

Prints milliseconds of processor time by operation and size, the least of three, and how many times
as long the largest takes as the smallest, divided by how many times as many parameters it has: 1 is
linear, and what grows with the square has the ratio of the sizes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.device.parameter import Claim

ELEMENTS = 8


def operations(size: int, folder: str) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name, for so many parameters."""
    device, path = ao.get_backend("numpy"), f"{folder}/{size}"
    data = [device.asarray(np.ones(ELEMENTS, np.float32)) for _ in range(size)]
    parameters = [ao.Parameter(x, f"layer{i}.weight") for i, x in enumerate(data)]
    gradients = [device.asarray(np.ones(ELEMENTS, np.float32)) for _ in range(size)]
    named = {p.name: g for p, g in zip(parameters, gradients, strict=True)}
    some = [g if i % 2 else None for i, g in enumerate(gradients)]
    groups = [{"params": [p], "lr": 0.1 + i} for i, p in enumerate(parameters)]

    def new(params: Any = parameters, **options: Any) -> Any:
        return ao.AdamOffload(params, engine="numpy", threads=1, **options)

    ledger, probe = ao.Ledger(), ao.Probe()
    watched = new(ledger=ledger, probe=probe, on_step=lambda record: None)
    watched(gradients)
    plain = new()
    plain(gradients)
    state = plain.state_dict()
    ao.save(path, plain)

    def submitted() -> None:
        owner(plain)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            plain.submit(parameter, gradient)
        plain.step()

    return {
        "construct": new,
        "construct, a group each": lambda: new(groups),
        "construct, order_params": lambda: new([*groups, {"order_params": parameters[::-1]}]),
        # Whoever was constructed last owns the parameters.
        "step, by list": lambda: owner(plain)(gradients),
        "step, by name": lambda: owner(plain)(named),
        "step, every other None": lambda: owner(plain)(some),
        "step, submitted": submitted,
        "step, ledger and probe and on_step": lambda: owner(watched)(gradients),
        "set_learning_rate": lambda: plain.set_learning_rate(0.1, *parameters),
        "freeze and unfreeze": lambda: (plain.freeze(*parameters), plain.unfreeze(*parameters)),
        "state_dict": plain.state_dict,
        "load_state_dict": lambda: plain.load_state_dict(state),
        "save": lambda: ao.save(path, plain),
        "load": lambda: ao.load(path, plain, strict=True),
        "load, strict=False": lambda: ao.load(path, plain, strict=False),
        "memory": plain.memory,
        "ledger as an array": ledger.to_array,
        "ledger by parameter": ledger.bytes_by_parameter,
        "probe as an array": probe.to_array,
    }


def owner(optimizer: Any) -> Any:
    """Return an optimizer after it has taken its parameters over."""
    optimizer._claim = Claim()
    for parameter in optimizer.parameters:
        parameter.claim(optimizer._claim)
    return optimizer


def milliseconds(act: Callable[[], object]) -> float:
    """Return the least of three times."""
    times = []
    for _ in range(3):
        begin = time.process_time()
        act()
        times.append(time.process_time() - begin)
    return 1e3 * min(times)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 30_000])
    sizes = parser.parse_args().sizes
    with tempfile.TemporaryDirectory() as folder:
        found = {size: operations(size, folder) for size in sizes}
        print(f"{'ms':36}", *(f"{size:>9,}" for size in sizes), "   growth / linear")
        for name in found[sizes[0]]:
            times = [milliseconds(found[size][name]) for size in sizes]
            growth = times[-1] / times[0] * sizes[0] / sizes[-1]
            print(f"{name:36}", *(f"{t:9.2f}" for t in times), f"{growth:9.2f}", flush=True)


if __name__ == "__main__":
    main()
