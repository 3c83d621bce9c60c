"""The grader of lab 5: looks for NaN first, and at the virtual clock if the values are right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adamoffload.labs.compare import Partly, close_to, near, number
from adamoffload.labs.draw import random
from adamoffload.labs.grading import Lab, Task
from adamoffload.labs.predictions import Answer, predicted
from adamoffload.labs.reasons import Mistake
from adamoffload.labs.student import Student

__all__ = ["LAB"]

_N = 10


_BY_TEMPORARY = 5 / 3
"""What ``w[...] = w + slot`` takes, for each second of an addition in place: it also copies."""


def _whole(rng: np.random.Generator, *shape: int) -> Any:
    """Return small whole numbers, on which float32 is exact."""
    return rng.integers(1, 9, shape).astype(np.float32)


def _sizes(rng: np.random.Generator) -> tuple[int, ...]:
    return _N, *(int(n) for n in rng.choice([4, 5, 7, 9, 13, 17], 2, replace=False))


def _predicted(student: Student) -> None:
    issued = "issuing costs the host nothing; its clock moves where it waits"
    lanes = "the two directions of the link work at the same time"
    queue = "one direction makes one copy at a time"
    after = "the host works while the copy is on its way, not after it"
    answers = (
        Answer("the 1st number", 0, issued),
        Answer("the 2nd number", 10, "ten elements at 1 s each, and the host waits for them"),
        Answer("the 3rd number", 10, lanes),
        Answer("the 4th number", 20, queue),
        Answer("the 5th number", 10, "the copy goes on while the host works", {16: after}),
    )
    predicted(student, "PREDICTED", answers)


def _right(found: dict[str, Any], names: Sequence[str], expected: Sequence[Any], nan: str) -> None:
    """Require results of a scenario; `nan` says why one of them may be NaN, or torn."""
    if "instead" in found:
        raise Mistake(f"it returned {found['instead']}; return the ticket of the last operation")
    if "race" in found or any(np.isnan(result).any() for result in found["results"]):
        raise Mistake(nan)
    for name, result, right in zip(names, found["results"], expected, strict=True):
        close_to(f"what arrives in {name}", result, right, rtol=0)


def _in_time(
    what: str,
    time_s: object,
    best_s: float,
    known: Mapping[float, str],
    *,
    also_s: Sequence[float] = (),
    kept: int = 1,
) -> None:
    """Require a time, or one of those of other fair ways; `kept` is what a later one is worth."""
    found_s = number(f"the time when {what}", time_s)
    if any(math.isclose(found_s, s, rel_tol=1e-6, abs_tol=1e-6) for s in (best_s, *also_s)):
        return
    for wrong_s, sentence in known.items():
        if math.isclose(found_s, wrong_s, rel_tol=1e-6):
            raise Mistake(f"the values are right, but {sentence}", getattr(sentence, "kept", kept))
    if found_s < best_s:
        raise Mistake(
            f"{what} after {found_s:g} s, which cannot be before {best_s:g} s: is the ticket that "
            f"you return that of the last operation?"
        )
    raise Mistake(
        f"the values are right, but {what} after {found_s:g} s, and {best_s:g} s is possible: "
        f"either somebody waits for more than is needed, or there is more to copy or to compute "
        f"than is needed",
        kept,
    )


def _norm(student: Student) -> None:
    rng = random(student, "norm")
    for n, busy in zip(_sizes(rng), (6, 3, 25), strict=True):
        values = _whole(rng, n)
        found = student.scenario("norm", values, busy)
        result = found["found"]
        if isinstance(result, float | np.floating) and math.isnan(result):
            raise Mistake(
                "not done yet: the sum is NaN: who says that the copy was done when host was read?"
            )
        near("the result of `norm`", result, float(np.sum(values * values)))
        if found["worked"] != 1:
            raise Mistake(
                f"`norm` called other_work {found['worked']} times; the host's other work has to "
                f"be done, once, while the copy is on its way"
            )
        known = {
            n + busy: "the host waits before its other work, which does not need the gradient: the "
            "copy could go on meanwhile",
            5.0 * n: f"the host waits for everything that is on its way, {5 * n} s instead of {n}; "
            f"wait for this copy's ticket",
            5.0 * n + busy: f"the host waits for everything that is on its way, and before its "
            f"other work, {5 * n + busy} s instead of {max(n, busy)}; wait for this copy's ticket, "
            f"and later",
        }
        _in_time("`norm` returned", found["back_s"], max(n, busy), known, kept=0)


def _send_two(student: Student) -> None:
    rng = random(student, "send_two")
    for n in _sizes(rng):
        first, second = _whole(rng, 2, n)
        found = student.scenario("send_two", first, second)
        _right(
            found,
            ("x", "y"),
            (first, second),
            "not done yet: staging was overwritten while it was on its way: when may it be written "
            "again?",
        )
        pageable = {
            6.0 * n: Partly(0, "first and second are not pinned: go over staging"),
            4.0 * n: Partly(
                0, "one of the two is sent from where it is, which is not pinned: go over staging"
            ),
        }
        _in_time("the last copy is done", found["done_s"], 2 * n, pageable)
        both = {
            2.0 * n: "the host waits for the second copy too: nobody overwrites staging after it, "
            "so return its ticket, and let the caller wait"
        }
        _in_time("`send_two` returned", found["back_s"], n, both)


def _gradient_down(student: Student) -> None:
    rng = random(student, "gradient_down")
    for n in _sizes(rng):
        values = _whole(rng, n)
        found = student.scenario("gradient_down", values)
        _right(
            found,
            ("host", "g"),
            (2 * values, 2 * values),
            "not done yet: the copy does not wait for the device: what it computes has a ticket as "
            "well, from run_on_device",
        )
        # read and write; two reads; over a temporary; both
        compute_s, *others_s = (nbytes * n / 12 for nbytes in (8, 12, 16, 20))
        done_s = compute_s + n
        _in_time(
            "the gradient is down", found["done_s"], done_s, {}, also_s=[s + n for s in others_s]
        )
        waited = dict.fromkeys(
            (compute_s, *others_s),
            "the host waits for the device; give the ticket to the copy, in after=",
        )
        waited[found["done_s"]] = (
            "the host waits for the copy; return its ticket, and let the caller wait"
        )
        _in_time("`gradient_down` returned", found["back_s"], 0, waited)


def _apply(student: Student) -> None:
    rng = random(student, "apply")
    for n in _sizes(rng):
        values, update = _whole(rng, 2, n)
        found = student.scenario("apply", values, update)
        _right(
            found,
            ("w",),
            (values + update,),
            "not done yet: the addition does not wait for the update to be up",
        )
        copied = {
            1.0 * n: Partly(0, "you return the copy's ticket: it is done before the addition is")
        }
        also_s = [n + _BY_TEMPORARY * n]
        _in_time("the addition is done", found["done_s"], 2 * n, copied, also_s=also_s)
        waited = {
            1.0 * n: "the host waits for the copy; give its ticket to the addition, in after=",
            found["done_s"]: "the host waits for the addition; return its ticket, and let the "
            "caller wait",
        }
        _in_time("`apply` returned", found["back_s"], 0, waited)


def _apply_two(student: Student) -> None:
    rng = random(student, "apply_two")
    for n in _sizes(rng):
        values, updates = _whole(rng, 2, 2, n)
        found = student.scenario("apply_two", list(values), list(updates))
        _right(
            found,
            ("weights[0]", "weights[1]"),
            tuple(values + updates),
            "not done yet: the second update goes into the slot while the first may not have been "
            "added yet: when is the slot free again?",
        )
        also_s = [2 * n + 2 * _BY_TEMPORARY * n]
        _in_time("the last addition is done", found["done_s"], 4 * n, {}, also_s=also_s)
        waited = {
            1.0 * n: "the host waits for the first copy; order what comes next by after=",
            2.0 * n: "the host waits until the slot is free; let the second copy wait, by after=",
            found["done_s"]: "the host waits for everything; order by after= and return the last "
            "ticket",
        }
        _in_time("`apply_two` returned", found["back_s"], 0, waited)


def _step_s(chunks: int, slots: int, n: int, *, ahead: bool = True, add_s: float = 1) -> float:
    """Return when the last addition of `train_step` is done, at best, or without looking ahead."""
    down, adam, up, add = ([0.0] * slots for _ in range(4))  # when each ended; zeros come before
    for i in range(slots, slots + chunks):
        begin = max(down[-1], up[i - slots]) if ahead else adam[-1]
        down.append(max(begin, up[i - slots]) + n)
        adam.append(max(adam[-1], down[i]) + n)
        up.append(max(up[-1], adam[i], add[i - slots]) + n)
        add.append(max(add[-1], up[i]) + n * add_s)
    return add[-1]


def _train_step(student: Student) -> None:
    rng = random(student, "train_step")
    for chunks, slots in ((1, 2), (6, 2), (6, 1), (7, 3), (5, 4), (2, 3)):
        n = int(rng.integers(4, 12))
        factor = float(rng.choice([-0.125, -0.25, 0.5]))
        where = f"with {chunks} chunk{'s'[: chunks > 1]} and {slots} slot{'s'[: slots > 1]}"
        values, gradients = _whole(rng, 2, chunks, n)
        found = student.scenario("train_step", list(values), list(gradients), slots, factor)
        nan = (
            f"{where}, NaN arrives in the weights: "
            f"{'' if chunks > slots else 'nothing is taken twice here, so '}"
            f"something is used before it is there"
            f"{', or a host array or a slot is taken again too early' if chunks > slots else ''}"
        )
        names = [f"weights[{i}]" for i in range(chunks)]
        _right(found, names, tuple(values + np.float32(factor) * gradients), nan)
        known: dict[float, str] = {
            _step_s(chunks, slots, n, ahead=False): Partly(
                1,
                f"{where}, a gradient begins to come down only when the host is idle: issue the "
                f"next d2h before you wait for this one",
            ),
            4.0 * n * chunks: Partly(
                1,
                f"{where}, everything happens one after the other: what could go on at the same "
                f"time?",
            ),
        }
        if chunks == 1:
            known[3.0 * n] = Partly(
                0,
                "one of a chunk's four hops is not in the time: is the last addition's ticket what "
                "you return, and does adam run by device.run_on_host, with elements=host.size?",
            )
        best_s = _step_s(chunks, slots, n)
        also_s = [_step_s(chunks, slots, n, add_s=_BY_TEMPORARY)]
        what = f"{where}, the last addition is done"
        _in_time(what, found["done_s"], best_s, known, also_s=also_s, kept=2)


def _per_chunk(student: Student) -> None:
    shared = "no two hops of one slot overlap: which of the four need the host's array?"
    answers = (
        Answer(
            "the number for one slot",
            30,
            shared,
            {40: "the next gradient may come down while the device adds the last update"},
        ),
        Answer(
            "the number for two slots",
            15,
            "each slot takes as long as a single one does, and they take turns",
            {20: "the addition needs no host array, so it is not in anybody's way"},
        ),
        Answer("the number for three slots", 10, "now the lanes are the limit, not the slots"),
    )
    predicted(student, "SECONDS_PER_CHUNK", answers)


LAB = Lab(
    "A missing wait",
    (
        Task("The clock", 2, _predicted, ("PREDICTED",)),
        Task("Read too early", 1, _norm, ("norm",)),
        Task("Overwritten on the way", 2, _send_two, ("send_two",)),
        Task("Sent before it is there", 2, _gradient_down, ("gradient_down",)),
        Task("Added before it is there", 2, _apply, ("apply",)),
        Task("A slot taken again", 2, _apply_two, ("apply_two",)),
        Task("Double buffering", 3, _train_step, ("train_step",)),
        Task("One slot, two, three", 1, _per_chunk, ("SECONDS_PER_CHUNK",)),
    ),
    forbidden=("adamoffload.offload", "adamoffload.Pipeline"),
)
