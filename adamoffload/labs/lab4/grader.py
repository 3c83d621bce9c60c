"""The grader of lab 4: closed forms, a schedule, and what the simulated machine measures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.labs.compare import Partly, equal, near, predictions
from adamoffload.labs.draw import random
from adamoffload.labs.grading import Lab, Task, halves
from adamoffload.labs.reasons import Mistake
from adamoffload.labs.student import Student
from adamoffload.plan.chunks import plan_chunks
from adamoffload_sim import Device, Link

__all__ = ["LAB"]

_Times = list[list[tuple[float, float]]]
_Machine = tuple[float, float, float, float]
"""Latency in s, link and device in bytes per s, host in s per parameter."""

_SLOTS_ABOUND = 10**6


def _link(student: Student) -> None:
    rng = random(student, "transfer_s")
    drawn = [
        (int(rng.integers(1, 10**6)), rng.uniform(1e-6, 1e-3), rng.uniform(1e8, 1e10))
        for _ in range(3)
    ]
    for nbytes, latency, rate in (
        *((64, 2e-6, 12e9), (1_000_000, 1e-5, 25e9), (10**9, 0.0, 4e9)),
        *drawn,
    ):
        near(
            f"`transfer_s` for {nbytes:,} bytes",
            student.call("transfer_s", nbytes, latency, rate),
            latency + nbytes / rate,
            known={
                "the bytes come after the latency; it is not the longer of the two": max(
                    latency, nbytes / rate
                ),
                "the latency is missing": nbytes / rate,
                "the bandwidth is in bytes per second, not in bits": latency + 8 * nbytes / rate,
                "divide by the bandwidth": latency + nbytes * rate,
                "the latency comes once for each copy, not for each byte": (
                    nbytes * (latency + 1 / rate)
                ),
            },
        )


def _enough_bytes(student: Student) -> None:
    both = 1e-5 * 25e9  # latency times bandwidth
    found = predictions(student, "ENOUGH_BYTES", ("half", "nine tenths"))
    near(
        "ENOUGH_BYTES['half']",
        found["half"],
        both,
        known={
            "a microsecond is 1e-6 s": both * 1e3,
            "bytes, not kilobytes": both / 1e3,
            "that is one parameter for four bytes": both / 4,
        },
        otherwise="the bytes have to take as long as the latency, which is 10 microseconds",
    )
    near(
        "ENOUGH_BYTES['nine tenths']",
        found["nine tenths"],
        9 * both,
        rtol=1e-7,
        known={
            "then the bytes would take 0.9 latencies; they have to take nine tenths of all": (
                0.9 * both
            ),
            "then the latency would be one eleventh of all": 10 * both,
            "that is for half, times 0.9 / 0.5; it is not proportional": 1.8 * both,
        },
        otherwise="the latency has to be one tenth of all, and the bytes nine tenths",
    )


def _chunks(sizes: Sequence[int], chunk_size: int) -> list[list[tuple[int, int, int]]]:
    chunks = plan_chunks(sizes, range(len(sizes)), chunk_size)
    return [[(p.index, p.start, p.stop) for p in chunk.pieces] for chunk in chunks]


def _uncut(sizes: Sequence[int], chunk_size: int, longest: int) -> list[list[Any]]:
    """Return chunks that no parameter fills up: what does not fit begins a chunk of its own."""
    chunks: list[list[Any]] = []
    room = 0
    for index, size in enumerate(sizes):
        if size <= room:
            chunks[-1].append((index, 0, size))
            room -= size
            continue
        for start in range(0, size, longest):
            stop = min(start + longest, size)
            chunks.append([(index, start, stop)])
            room = chunk_size - (stop - start)
    return chunks


def _plan(student: Student) -> None:
    rng = random(student, "plan")
    drawn = [(rng.integers(1, 9, 7).tolist(), int(rng.integers(2, 12))) for _ in range(4)]
    for sizes, chunk in (
        *(([5, 2], 4), ([3, 1, 2, 9], 4), ([4, 4], 4), ([1, 1], 10), ([30], 7)),
        *(([1, 1, 1, 1, 1], 5), ([1, 2, 1, 3, 5, 1, 1, 1], 6)),  # many share one
        *drawn,
    ):
        right = _chunks(sizes, chunk)
        begins = np.cumsum([0, *sizes]).tolist()
        known: dict[str, object] = {
            Partly(2, "small parameters have to share a chunk"): [
                [(i, start, min(start + chunk, n))]
                for i, n in enumerate(sizes)
                for start in range(0, n, chunk)
            ],
            Partly(2, "no piece may be longer than a chunk; a large parameter spans several"): (
                _uncut(sizes, chunk, max(sizes))
            ),
            Partly(
                2, "every chunk but the last is full; cut a parameter where its chunk ends"
            ): _uncut(sizes, chunk, chunk),
            "start and stop are counted from the beginning of the parameter, not of all": [
                [(i, begins[i] + a, begins[i] + b) for i, a, b in pieces] for pieces in right
            ],
            "a piece is (index, start, stop), not (index, start, length)": [
                [(i, a, b - a) for i, a, b in pieces] for pieces in right
            ],
            "a chunk may hold more than two parameters": [pieces[:2] for pieces in right],
            Partly(2, "there is an empty chunk at the end"): [*right, []],
        }
        if sum(sizes) % chunk:
            known[Partly(2, "the last chunk, which is not full, is missing")] = right[:-1]
        equal(
            f"for sizes {sizes} and chunks of {chunk}, `plan`",
            student.call("plan", sizes, chunk),
            right,
            known=known,
        )


def _hops(student: Student) -> list[list[float]]:
    """Return the seconds of four hops, each being the longest once."""
    rng = random(student, "hops")
    drawn = [float(x) for x in rng.uniform(0.1, 1.0, 4)]
    each = [[x + (i == longest) for i, x in enumerate(drawn)] for longest in range(4)]
    return [[0.5, 2.0, 0.75, 0.25], *each]


def _sequential(student: Student) -> None:
    for hops_s in _hops(student):
        for chunks in (1, 2, 10):
            total, longest = sum(hops_s), max(hops_s)
            near(
                f"`sequential_s` of {chunks} chunk{'s' if chunks > 1 else ''}",
                student.call("sequential_s", hops_s, chunks),
                chunks * total,
                known={
                    "that is one chunk": total,
                    "that is with overlap": total + (chunks - 1) * longest,
                    "that is the longest hop alone; one after another, all four add up": (
                        chunks * longest
                    ),
                },
            )


def _overlapped(student: Student) -> None:
    for hops_s in _hops(student):
        for chunks in (1, 2, 10):
            total, longest = sum(hops_s), max(hops_s)
            near(
                f"`overlapped_s` of {chunks} chunk{'s' if chunks > 1 else ''}",
                student.call("overlapped_s", hops_s, chunks),
                total + (chunks - 1) * longest,
                known={
                    "that is without overlap": chunks * total,
                    "that is the slowest worker alone; what comes before its first chunk and after "
                    "its last is missing": chunks * longest,
                    "the first chunk's longest hop is counted twice": total + chunks * longest,
                    "the slowest hop is the bottleneck, not the first": total
                    + (chunks - 1) * hops_s[0],
                    "the slowest hop is the bottleneck, which is not always the host": total
                    + (chunks - 1) * hops_s[1],
                    "the slowest hop is the bottleneck, not the average": total
                    + (chunks - 1) * total / 4,
                },
            )


def _closed_forms(student: Student) -> None:
    hops_s = [0.5, 2.0, 0.75, 0.25]
    for chunks in (1, 2, 10):
        total, longest = sum(hops_s), max(hops_s)
        near(
            f"`sequential_s` of {chunks} chunk{'s' if chunks > 1 else ''}",
            student.call("sequential_s", hops_s, chunks),
            chunks * total,
            known={
                "that is one chunk": total,
                "that is with overlap": total + (chunks - 1) * longest,
                "that is the longest hop alone; one after another, all four add up": (
                    chunks * longest
                ),
            },
        )
        near(
            f"`overlapped_s` of {chunks} chunk{'s' if chunks > 1 else ''}",
            student.call("overlapped_s", hops_s, chunks),
            total + (chunks - 1) * longest,
            known={
                "that is without overlap": chunks * total,
                "that is the slowest worker alone; what comes before its first chunk and after its "
                "last is missing": (chunks * longest),
                "the first chunk's longest hop is counted twice": total + chunks * longest,
                "the slowest hop is the bottleneck, not the first": total
                + (chunks - 1) * hops_s[0],
                "the slowest hop is the bottleneck, not the average": total
                + (chunks - 1) * total / 4,
            },
        )


def _scheduled(
    durations_s: Sequence[Sequence[float]], slots: int, *, freed_by: int = 3, lanes: bool = True
) -> _Times:
    """Return the schedule; hop `freed_by` frees a slot, and `lanes` is whether rule 2 holds."""
    times: _Times = []
    free = [0.0] * 4
    for i, hops_s in enumerate(durations_s):
        ready = times[i - slots][freed_by][1] if i >= slots else 0.0
        row = []
        for hop, seconds in enumerate(hops_s):
            start = max(ready, free[hop]) if lanes else ready
            ready = free[hop] = start + seconds
            row.append((start, ready))
        times.append(row)
    return times


def _rings(student: Student) -> None:
    found = predictions(student, "RING_SECONDS", ("1", "2", "3", "4"))
    mistakes = []
    for slots in (1, 2, 3, 4):
        try:
            _ring(found, slots)
        except Mistake as mistake:
            mistakes.append(mistake)
    if mistakes:
        raise Mistake(str(mistakes[0]), kept=1 if len(mistakes) == 1 else 0)


def _ring(found: dict[str, Any], slots: int) -> None:
    drawn = partial(_scheduled, [(2, 3, 2, 1)] * 5)
    known = {}
    if slots == 2:
        known["that is as if the slot were free before the update has been applied"] = drawn(
            slots, freed_by=2
        )[-1][-1][1]
    if slots < 3:
        known["that is with as many slots as you like; chunk i waits for chunk i - s"] = drawn(
            _SLOTS_ABOUND
        )[-1][-1][1]
    if slots > 1:
        known["that is with one slot, without any overlap"] = drawn(1)[-1][-1][1]
    near(
        f"RING_SECONDS['{slots}']",
        found[str(slots)],
        drawn(slots)[-1][-1][1],
        known=known,
        otherwise=(
            f"draw it again: chunk {slots} cannot begin before chunk 0 has been applied, and "
            f"each worker does one thing at a time"
        ),
    )


def _scheduler(student: Student) -> None:
    rng = random(student, "schedule")
    hops_s = [2, 3, 2, 1]
    mixed = rng.integers(1, 9, (7, 4)).tolist()
    others = rng.integers(0, 5, (9, 4)).tolist()
    for durations, what in (
        ([hops_s], "one chunk"),
        ([hops_s] * 5, "five equal chunks"),
        (mixed, "seven different chunks"),
        (others, "nine different chunks"),
    ):
        for slots in (1, 2, 3, 5):
            right = _scheduled(durations, slots)
            known = {
                Partly(
                    2,
                    "it is as if slots abound; chunk i has to wait until chunk i - slots has been "
                    "applied",
                ): _scheduled(durations, _SLOTS_ABOUND),
                Partly(
                    2,
                    "each worker does one thing at a time: a hop also waits for the same hop of "
                    "the chunk before",
                ): _scheduled(durations, slots, lanes=False),
                "there is no overlap: a chunk begins only when the chunk before has been "
                "applied": _scheduled(durations, 1),
                Partly(2, "there is one slot more than asked for"): _scheduled(
                    durations, slots + 1
                ),
                Partly(
                    2, "a slot is free when its update has been applied, not when it has gone up"
                ): (_scheduled(durations, slots, freed_by=2)),
                Partly(
                    2, "a slot is free when its update has been applied, not when it has come down"
                ): (_scheduled(durations, slots, freed_by=0)),
                "a hop is a pair (start, stop), not (start, seconds)": [
                    [(start, stop - start) for start, stop in row] for row in right
                ],
            }
            if slots > 1:
                known[Partly(2, "there is one slot less than asked for")] = _scheduled(
                    durations, slots - 1
                )
            equal(
                f"for {what} and {slots} slot{'s' if slots > 1 else ''}, `schedule`",
                student.call("schedule", durations, slots),
                right,
                known=known,
            )


_MACHINES: tuple[tuple[int, int, _Machine], ...] = (
    (1000, 1000, (1e-6, 2e9, 50e9, 0.0)),
    (1000, 250, (1e-6, 2e9, 50e9, 2e-9)),
    (1000, 300, (1e-6, 2e9, 50e9, 2e-9)),
    (5000, 384, (1e-5, 25e9, 900e9, 0.6e-9)),
    (5000, 450, (1e-7, 25e9, 20e9, 0.1e-9)),
    (1000, 100, (0.0, 4e9, 12e9, 1e-9)),
    (1000, 300, (1e-9, 8e9, 50e9, 5e-9)),  # the host is the slowest, and the last chunk small
)


def _measured(size: int, chunk_size: int, machine: _Machine) -> float:
    latency_s, link_bytes_per_s, device_bytes_per_s, host_s = machine
    device = ao.get_backend(
        "sim",
        link=Link(link_bytes_per_s, latency_s),
        device=Device(device_bytes_per_s, 1e18),
        host_ns_per_parameter=host_s * 1e9,
    )
    w = ao.Parameter(device.asarray(np.ones(size, np.float32)), name="w")
    g = device.asarray(np.ones(size, np.float32))
    optimizer = ao.AdamOffload([w], chunk_bytes=4 * chunk_size, engine="numpy")
    device.synchronize()
    begin_s = device.now()
    optimizer([g])
    device.synchronize()
    return device.now() - begin_s


def _predicted(
    size: int,
    chunk_size: int,
    machine: _Machine,
    *,
    slots: int = 3,
    applied_bytes: int = 12,
    full: bool = False,
) -> float:
    latency_s, link_bytes_per_s, device_bytes_per_s, host_s = machine
    counts = [min(chunk_size, size - start) for start in range(0, size, chunk_size)]
    durations_s = []
    for count in [chunk_size] * len(counts) if full else counts:
        copy_s = latency_s + 4 * count / link_bytes_per_s
        apply_s = applied_bytes * count / device_bytes_per_s
        durations_s.append((copy_s, count * host_s, copy_s, apply_s))
    return _scheduled(durations_s, slots)[-1][-1][1]


def _drawn_machines(student: Student) -> list[tuple[int, int, _Machine]]:
    rng = random(student, "machines")
    return [
        (
            int(rng.integers(1000, 3000)),
            int(rng.integers(100, 900)),
            (
                rng.uniform(1e-7, 1e-6),
                rng.uniform(2e9, 9e9),
                rng.uniform(8e9, 30e9),
                rng.uniform(0.2e-9, 2e-9),
            ),
        )
        for _ in range(3)
    ]


def _against_sim(student: Student) -> None:
    for size, chunk_size, machine in (*_MACHINES, *_drawn_machines(student)):
        predicted = partial(_predicted, size, chunk_size, machine)
        near(
            f"`step_seconds` for {size:,} parameters in chunks of {chunk_size:,}",
            student.call("step_seconds", size, chunk_size, *machine),
            _measured(size, chunk_size, machine),
            known={
                Partly(1, "the last chunk is taken to be full"): predicted(full=True),
                "that is without overlap": predicted(slots=1),
                Partly(1, "that is with two slots; there are three"): predicted(slots=2),
                "that is with more than three slots, or with slots that are free too early": (
                    predicted(slots=_SLOTS_ABOUND)
                ),
                Partly(
                    1, "to apply moves 12 bytes a parameter on the device: two reads and a write"
                ): (predicted(applied_bytes=4)),
                Partly(1, "to apply also writes the weight: 12 bytes a parameter"): predicted(
                    applied_bytes=8
                ),
                Partly(1, "the latency is missing"): _predicted(
                    size, chunk_size, (0.0, *machine[1:])
                ),
                Partly(1, "a float32 has 4 bytes: the link moves 4 times as much"): _predicted(
                    size, chunk_size, (machine[0], 4 * machine[1], *machine[2:])
                ),
            },
        )


def _best(student: Student) -> None:
    rng = random(student, "best_chunk")
    for size, machine in (
        (100_000, (1e-6, 25e9, 900e9, 0.2e-9)),
        (100_000, (1e-4, 25e9, 900e9, 0.2e-9)),
        (100_000, (0.0, 25e9, 900e9, 0.2e-9)),
        (20_000, (1e-6, 25e9, 9e9, 0.2e-9)),  # the device is the slowest
        (20_000, (1e-6, 2e9, 900e9, 0.1e-9)),  # the link
        (40_000, (2e-6, 2e9, 900e9, 3e-9)),  # the host
        (20_000, (2e-6, 2e9, 900e9, 3e-9)),  # fewer parameters, smaller chunks
        (30_000, (1e-5, 25e9, 6e9, 0.1e-9)),
    ):
        candidates = [125, 500, 2000, 8000, 32_000, 128_000]
        rng.shuffle(candidates)

        def seconds(chunk: int, size: int = size, machine: Any = machine, **how: Any) -> float:
            return _predicted(size, chunk, machine, **how)

        known: dict[str, object] = {
            "that is the slowest": max(candidates, key=seconds),
            "return the chunk size, not its seconds": min(map(seconds, candidates)),
            "return the chunk size, not its place in the list": candidates.index(
                min(candidates, key=seconds)
            ),
            "that is the best without overlap": min(candidates, key=partial(seconds, slots=1)),
        }
        found = student.call("best_chunk", candidates, size, *machine)
        what = f"`best_chunk` for {size:,} parameters and a latency of {machine[0]:g} s"
        if isinstance(found, int) and found not in candidates and found > len(candidates):
            raise Mistake(f"{what} is {found}, which is none of the candidates")
        equal(what, found, min(candidates, key=seconds), known=known)


def _step_seconds(size: int, chunk_size: int, *machine: float) -> float:
    latency_s, link_bytes_per_s, device_bytes_per_s, host_s = machine
    return _predicted(size, chunk_size, (latency_s, link_bytes_per_s, device_bytes_per_s, host_s))


_STEP = ("transfer_s", "schedule", "step_seconds")

LAB = Lab(
    "Chunking and overlap",
    (
        Task("The link", 1, _link, ("transfer_s",)),
        Task("Enough bytes", 1, _enough_bytes, ("ENOUGH_BYTES",)),
        Task("The plan", 3, _plan, ("plan",)),
        Task(
            "One after another, or at once",
            2,
            halves((1, _sequential), (1, _overlapped)),
            ("sequential_s", "overlapped_s"),
        ),
        Task("Rings", 2, _rings, ("RING_SECONDS",)),
        Task("The scheduler", 3, _scheduler, ("schedule",)),
        Task("Against the simulator", 2, _against_sim, ("step_seconds",), _STEP[:2]),
        Task("The best chunk", 1, _best, ("best_chunk",), _STEP),
    ),
    forbidden=("adamoffload", "adamoffload_sim", "simpy"),
    parts={
        "transfer_s": lambda nbytes, latency_s, bytes_per_s: latency_s + nbytes / bytes_per_s,
        "schedule": _scheduled,
        "step_seconds": _step_seconds,
    },
)
