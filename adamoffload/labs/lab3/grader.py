"""The grader of lab 3: bytes, predicted, counted and compared with those of real copies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.labs.compare import Partly, equal, near, prediction, predictions
from adamoffload.labs.draw import random
from adamoffload.labs.grading import Lab, Task, halves
from adamoffload.labs.reasons import Mistake
from adamoffload.labs.student import Student

__all__ = ["LAB"]

_GIB, _MIB = 2**30, 2**20


def _ring(parameters: int, chunk_bytes: int) -> int:
    chunk = min(chunk_bytes, 4 * parameters)
    return chunk * min(3, math.ceil(4 * parameters / chunk))


def _device(parameters: int, chunk_bytes: int, activation_bytes: int, offloaded: bool) -> int:
    if offloaded:
        return 8 * parameters + activation_bytes + _ring(parameters, chunk_bytes)
    return 16 * parameters + activation_bytes


def _drawn_models(student: Student) -> list[tuple[int, int, int, bool]]:
    """Return models with one chunk, two, three or many, offloaded or not."""
    rng = random(student, "device_bytes")
    drawn = []
    for chunks in (0.4, 1.0, 1.3, 2.0, 2.6, 9.5):
        chunk = 4 * int(rng.integers(100, 1000))
        n = int(chunks * chunk) // 4
        drawn.append((n, chunk, int(rng.integers(1, 5000)), bool(rng.integers(4))))
    return drawn


def _sixteen_and_eight(student: Student) -> None:
    cases = [
        (10**9, 4 * _MIB, _GIB, False),
        (10**9, 4 * _MIB, _GIB, True),
        (1000, 2000, 512, True),
        (1000, 1600, 512, True),
        (100, 4096, 0, True),
        *_drawn_models(student),
    ]
    for n, chunk, activations, offloaded in cases:
        what = (
            f"`device_bytes` for {n:,} parameters, chunks of {chunk:,} bytes, activations of "
            f"{activations:,} bytes, {'with' if offloaded else 'without'} offload,"
        )
        ring = _ring(n, chunk)
        right = _device(n, chunk, activations, offloaded)
        equal(
            what,
            student.call("device_bytes", n, chunk, activations, offloaded),
            right,
            known={
                "the activations are missing": right - activations,
                Partly(1, "the ring is missing"): right - ring,
                "without offload there is no ring": right + ring,
                Partly(1, "there are three slots, although there are fewer chunks"): right
                - ring
                + 3 * chunk,
                Partly(
                    1, "there are three slots of all parameters, although there is one chunk"
                ): right - ring + 12 * n,
                Partly(1, "the ring has one slot only"): right - ring + min(chunk, 4 * n),
                "the moments are on the host and take nothing here": right + 8 * n,
                "without offload, the moments are on the device": right - 8 * n,
                "the gradients are on the device, too": right - 4 * n,
                "that is without the ring, and with the moments": right + 8 * n - ring,
            },
        )


def _what_fits(student: Student) -> None:
    cases = {
        "0.9e9 parameters, 16 GiB": (900_000_000, 16),
        "1.5e9 parameters, 16 GiB": (1_500_000_000, 16),
        "2.0e9 parameters, 16 GiB": (2_000_000_000, 16),
        "2.1e9 parameters, 16 GiB": (2_100_000_000, 16),
        "7.0e9 parameters, 80 GiB": (7_000_000_000, 80),
    }
    ways = {"resident": "with all of Adam on the device", "offloaded": "with offload"}
    found = predictions(student, "FITS", tuple(cases))
    for case, (n, gib) in cases.items():
        needs = {
            "resident": _device(n, 4 * _MIB, _GIB, offloaded=False) / _GIB,
            "offloaded": _device(n, 4 * _MIB, _GIB, offloaded=True) / _GIB,
        }
        answer = found[case]
        if not isinstance(answer, str) or answer not in (*needs, "neither"):
            raise Mistake(
                f'FITS[{case!r}] should be "resident", "offloaded" or "neither", not {answer!r}'
            )
        right = next((way for way, need in needs.items() if need <= gib), "neither")
        if answer == right:
            continue
        if answer in needs and needs[answer] > gib:
            raise Mistake(
                f"{case}: {ways[answer]} it needs {needs[answer]:.2f} GiB; take bytes times "
                f"parameters, divide by 2**30, and add the activations"
            )
        raise Mistake(f"{case}: {ways[right]} it needs {needs[right]:.2f} GiB only, which fits")


def _largest(student: Student) -> None:
    rng = random(student, "largest_model")
    for memory, activations, offloaded in (
        (16 * _GIB + 5, _GIB, False),
        (16 * _GIB + 5, _GIB, True),
        (80 * _GIB + 7, 3 * _GIB, True),
        *(
            (int(rng.integers(2**32, 2**36)), int(rng.integers(2**31)), way)
            for way in (True, False)
        ),
    ):
        chunk = 4 * int(rng.integers(1, 2**20))
        free = memory - activations - (3 * chunk if offloaded else 0)
        each = 8 if offloaded else 16
        equal(
            f"`largest_model` for {memory:,} bytes, activations of {activations:,}, "
            f"{'with' if offloaded else 'without'} offload,",
            student.call("largest_model", memory, chunk, activations, offloaded),
            free // each,
            known={
                "the last parameter does not fit any more; round down": -(-free // each),
                "there are no fractions of parameters; divide with //": free / each,
                "the ring takes its part as well": (memory - activations) // each,
                "the ring has three slots": (memory - activations - chunk) // each,
                "the activations take their part as well": (free + activations) // each,
                "a parameter takes 16 bytes without offload and 8 with": free // (24 - each),
                "without offload there is no ring": (free - 3 * chunk) // each,
            },
        )


def _run(parameters: int, steps: int, batch_bytes: int) -> ao.Traffic:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(parameters, np.float32)), name="w")
    optimizer = ao.AdamOffload([w], engine="numpy")
    for _ in range(steps):
        device.asarray(np.ones(batch_bytes, np.uint8))
        device.asnumpy(np.sum(w.data))
        optimizer([w.data * 2])
    device.asnumpy(w.data)
    return device.traffic()


def _bytes_of_a_run(student: Student) -> None:
    rng = random(student, "run_bytes")
    drawn = [tuple(map(int, rng.integers(2, 40, 3))) for _ in range(2)]
    for n, steps, batch in ((1000, 3, 512), (77, 10, 0), (5000, 1, 30), *drawn):
        down, up = _run(n, steps, batch)
        equal(
            f"`run_bytes` for {n} parameters, {steps} step{'s' if steps > 1 else ''} and batches "
            f"of {batch} bytes",
            student.call("run_bytes", n, steps, batch),
            (down, up),
            known={
                "down comes first, then up": (up, down),
                Partly(1, "the weights that come down at the end are missing"): (down - 4 * n, up),
                Partly(1, "the weights that go up before the first step are missing"): (
                    down,
                    up - 4 * n,
                ),
                "the weights that go up at first and come down at the end are missing": (
                    down - 4 * n,
                    up - 4 * n,
                ),
                Partly(1, "the loss that comes down in every step is missing"): (
                    down - 4 * steps,
                    up,
                ),
                Partly(1, "the loss comes down in every step, not once"): (
                    down - 4 * (steps - 1),
                    up,
                ),
                Partly(1, "a batch goes up in every step, not once"): (
                    down,
                    up - batch * (steps - 1),
                ),
                Partly(1, "the batches that go up are missing"): (down, up - batch * steps),
                "a parameter is 4 bytes, not 1": (
                    2 * n + (down - 4 * n * (steps + 1)),
                    up - 3 * n * (steps + 1),
                ),
                "the weights do not cross in every step, only gradients and updates do": (
                    down + 4 * n * (steps - 1),
                    up + 4 * n * (steps - 1),
                ),
            },
        )


def _reading(student: Student) -> None:
    sizes, steps = [1000, 77], [3, 2]
    moved = [
        4 * sum(n for n, count in zip(sizes, steps, strict=True) if step <= count)
        for step in (1, 2, 3)
    ]
    right = [(nbytes, nbytes) for nbytes in moved]
    outside = [(4 * sizes[0], 4 * sum(sizes))]
    total = (sum(down for down, _ in right), sum(up for _, up in right))
    equal(
        "`per_step`",
        student.scenario("per_step", sizes, steps, 1200),
        right,
        known={
            "it counts elements; an element is not a byte": [
                (down // 4, up // 4) for down, up in right
            ],
            "a copy outside of any step has the step None, and does not count": outside + right,
            "a copy outside of any step has the step None and does not count": right + outside,
            "it is the sum over all steps; return a pair for each": total,
            "down comes first, then up, and each by itself": [down + up for down, up in right],
        },
    )
    rng = random(student, "per_step")
    for dtype in ("int8", "float64", "float32"):
        size = np.dtype(dtype).itemsize
        copies = [(int(step), *map(int, rng.integers(1, 50, 2))) for step in (1, 2, 2, 3)]
        copies += [(4, 0, 7), (5, 9, 0)]  # one direction alone
        moved_by = {step: [0, 0] for step, _, _ in copies}
        for step, down, up in copies:
            moved_by[step][0] += size * down
            moved_by[step][1] += size * up
        right = [(down, up) for down, up in moved_by.values()]
        equal(
            f"where more goes one way than the other, in {dtype}, `per_step`",
            student.scenario("copied", copies, dtype),
            right,
            known={
                "down comes first, then up": [(up, down) for down, up in right],
                "the first number is what came down, not what went up": [
                    (up, up) for _, up in right
                ],
                "the second number is what went up, not what came down": [
                    (down, down) for down, _ in right
                ],
                "not every element has 4 bytes; an event has nbytes": [
                    (down // size * 4, up // size * 4) for down, up in right
                ],
            },
        )


def _bandwidth(student: Student) -> None:
    rng = random(student, "bandwidth")
    for rate, latency, dtype in (
        (2e9, 1e-5, "float32"),
        (rng.uniform(1e9, 9e9), rng.uniform(1e-6, 1e-4), "int8"),
        (rng.uniform(1e9, 9e9), rng.uniform(1e-6, 1e-4), "float64"),
    ):
        sizes = [1000, 20_000, int(rng.integers(100_000, 500_000))]
        for hop in ("h2d", "d2h"):
            _bandwidth_of(student, hop, sizes, rate, latency, dtype)


def _bandwidth_of(
    student: Student, hop: str, sizes: list[int], rate: float, latency: float, dtype: str
) -> None:
    size = np.dtype(dtype).itemsize
    ways = {"h2d": sizes, "d2h": [n // 2 for n in sizes]}
    copied, other = ways[hop], ways["d2h" if hop == "h2d" else "h2d"]
    nbytes = size * sum(copied)
    seconds = [latency + size * n / rate for n in copied]
    each = [size * n / s for n, s in zip(copied, seconds, strict=True)]
    both = nbytes + size * sum(other)
    both_s = both / rate + 2 * len(sizes) * latency
    # from the first copy of this hop to the end of its last; the host works 0.6 ms between
    between = other[:-1] if hop == "h2d" else other[1:]
    idle_s = 0.6e-3 * 2 + sum(latency + size * n / rate for n in between)
    near(
        f"`bandwidth` of {hop}, in {dtype},",
        student.scenario("bandwidth", hop, sizes, rate, latency, dtype),
        nbytes / sum(seconds),
        known={
            "it averages the bandwidths of the copies, as if a small copy were worth as much "
            "as a large one; divide the sum of the bytes by the sum of the seconds": (
                sum(each) / len(each)
            ),
            "it takes all the time from the first copy to the last; add up the time in which "
            "the link was at work": nbytes / (sum(seconds) + idle_s),
            "it counts both directions": both / both_s,
            "upside down: seconds per byte": sum(seconds) / nbytes,
            "it counts elements; an element is not a byte": sum(copied) / sum(seconds),
            "not every element has 4 bytes; an event has nbytes": 4 * sum(copied) / sum(seconds),
            "that is the best copy, not all of them": max(each),
        },
    )


def _own_ledger(student: Student) -> None:
    rng = random(student, "counter")
    for dtype in ("float32", "int8", "float64"):
        _counted(student, list(map(int, rng.integers(50, 4000, 3))), dtype)


def _counted(student: Student, sizes: list[int], dtype: str) -> None:
    size = np.dtype(dtype).itemsize
    down, up = sum(size * (n // 2) for n in sizes), sum(size * n for n in sizes)
    found = student.scenario("counter", sizes, dtype)
    for when, totals in (("at first", found["first"]), ("after some copies", found["totals"])):
        if not isinstance(totals, dict):
            raise Mistake(
                f"`totals` returned {totals!r}, of type {type(totals).__name__}; expected a dict"
            )
        if set(totals) != {"d2h", "h2d"}:
            raise Mistake(
                f"{when}, `totals` has the keys {', '.join(sorted(totals)) or 'none'}; expected "
                f"d2h and h2d, whatever was recorded"
            )
    first = found["first"]
    equal("`totals` of a new counter, (d2h, h2d),", (first["d2h"], first["h2d"]), (0, 0))
    known = {
        Partly(
            1,
            "a second counter has counted its copies there as well; begin anew in each call of "
            "`counter`",
        ): (down, up + 12),
        "it counts elements; an element is not a byte": (down // size, up // size),
        "not every element has 4 bytes; it is told nbytes": (4 * down // size, 4 * up // size),
        "it counts copies, not their bytes": (len(sizes), len(sizes)),
        "it has kept the last copy only; add them up": (size * (sizes[-1] // 2), size * sizes[-1]),
        "down and up are exchanged: d2h is down": (up, down),
    }
    totals = found["totals"]
    equal("`totals`, (d2h, h2d),", (totals["d2h"], totals["h2d"]), (down, up), known=known)
    if found["changed"]:
        raise Mistake(
            "what `totals` returned before has changed since: it is the store itself, and whoever "
            "has it can change your ledger; return a copy of it",
            kept=1,
        )
    other = found["other"]
    if not isinstance(other, dict) or other.get("h2d") != 12:
        raise Mistake(
            "a second counter has to begin at 0 and to count its own copies alone", kept=1
        )
    if found["waited"]:
        raise Mistake(
            "`record` asked the ticket and so waited for the copy: what measures must not change "
            "what it measures; count and return",
            kept=1,
        )


def _recording(
    rng: np.random.Generator,
) -> tuple[list[tuple[int, str, int]], dict[str, int], tuple[Any, ...]]:
    """Return events of a run with an intruder, the parameters' sizes, and the intruder."""
    chunk = 256
    sizes = {"embedding": 1024, "layer1.weight": 512, "layer1.bias": 32, "head": chunk}
    sizes["tail"] = int(rng.integers(300, 500))
    size = sum(sizes.values())
    chunks = [chunk] * (size // chunk) + [size % chunk] * (size % chunk > 0)
    step = int(rng.integers(1, 11))
    hop = str(rng.choice(["d2h", "h2d"]))
    name = str(rng.choice(list(sizes)))
    events: list[tuple[int, str, int]] = []
    for number in range(1, 11):
        of_step = [(number, way, 4 * n) for n in chunks for way in ("d2h", "update", "h2d")]
        of_step = [(s, w, 0 if w == "update" else n) for s, w, n in of_step]
        if number == step:
            of_step.insert(int(rng.integers(len(of_step))), (step, hop, 4 * sizes[name]))
        events += of_step
    return events, sizes, (step, hop, name)


def _intruder(student: Student) -> None:
    rng = random(student, "intruder")
    for _ in range(8):
        events, sizes, (step, hop, name) = _recording(rng)
        other = "h2d" if hop == "d2h" else "d2h"
        equal(
            "`intruder`",
            student.call("intruder", events, sizes),
            (step, hop, name),
            known={
                "the step is one too small; steps are counted from 1": (step - 1, hop, name),
                Partly(
                    1,
                    "it is the other direction: compare the bytes of each direction with those of "
                    "the other steps",
                ): (step, other, name),
                **{
                    Partly(
                        1,
                        f"the step and the direction are right, but {wrong} is of another size; "
                        f"divide the bytes that are too many by 4",
                    ): (step, hop, wrong)
                    for wrong in sizes
                    if wrong != name
                },
                Partly(1, "the parameter's name is missing: the bytes that are too many tell"): (
                    step,
                    hop,
                ),
            },
        )


def _designs(k: int) -> dict[str, tuple[int, int]]:
    zero2 = (4, 2) if k == 1 else (2 * k + 4, 2 * (k - 1) + 2)
    return {"delta": (4, 4), "states": (8, 8), "torchao-bf16": (2 * k, 2), "zero-2": zero2}


def _design_bytes(student: Student) -> None:
    rng = random(student, "design_bytes")
    for k in (1, 2, 8, 3, int(rng.integers(9, 40))):
        for design, right in _designs(k).items():
            known: dict[str, object] = {"down comes first, then up": right[::-1]}
            if design == "torchao-bf16":
                known["the sum so far goes down in each micro-step"] = (2, 2)
                known["the new weight goes up once, after the last micro-step"] = (2 * k, 2 * k)
            elif design != "zero-2":
                known["this design sums gradients on the device: k does not matter"] = (
                    right[0] * k,
                    right[1] * k,
                )
            elif k == 1:
                known["with k = 1 there is no sum to keep between micro-steps"] = (6, 2)
            else:
                known["before the first micro-step there is no sum yet that could go up"] = (
                    right[0],
                    right[1] + 2,
                )
                known["the sum that comes down as 4 bytes at the end is missing"] = (
                    2 * k,
                    right[1],
                )
                known["the new weight that goes up at the end is missing"] = (
                    right[0],
                    right[1] - 2,
                )
                known["that is right for k = 1 only"] = (4, 2)
            equal(
                f"`design_bytes` for {design!r} with k = {k}",
                student.call("design_bytes", design, k),
                right,
                known=known,
            )


def _crossover(student: Student) -> None:
    near(
        "CROSSOVER",
        prediction(student, "CROSSOVER"),
        next(k for k in range(1, 99) if sum(_designs(k)["zero-2"]) > sum(_designs(k)["states"])),
        known={"for this k the two are equal; more is asked": 3},
        otherwise="think of one design after the other: k = 1, 2, 3, ...",
    )


LAB = Lab(
    "The byte ledger",
    (
        Task("Sixteen and eight", 2, _sixteen_and_eight, ("device_bytes",)),
        Task("What fits", 1, _what_fits, ("FITS",)),
        Task("The largest model", 1, _largest, ("largest_model",)),
        Task("Bytes of a run", 2, _bytes_of_a_run, ("run_bytes",)),
        Task("Reading a ledger", 2, _reading, ("per_step",)),
        Task("Bandwidth", 1, _bandwidth, ("bandwidth",)),
        Task("A ledger of your own", 2, _own_ledger, ("counter",)),
        Task("The intruder", 2, _intruder, ("intruder",)),
        Task(
            "Designs compared",
            2,
            halves((1, _crossover), (1, _design_bytes)),
            ("design_bytes", "CROSSOVER"),
        ),
    ),
    forbidden=("adamoffload", "torch", "jax", "tensorflow", "mindspore"),
)
