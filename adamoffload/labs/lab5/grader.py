"""The grader of lab 5: looks for NaN first, and at the virtual clock if the values are right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adamoffload.labs.compare import close_to, near, number
from adamoffload.labs.grading import Lab, Task
from adamoffload.labs.predictions import Answer, predicted
from adamoffload.labs.student import Mistake, Student

__all__ = ["LAB"]

_N = 10


def _arrays(*shape: int) -> Any:
    """Return small whole numbers, on which float32 is exact."""
    return np.random.default_rng(5).integers(1, 9, (*shape, _N)).astype(np.float32)


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


def _in_time(what: str, time_s: object, best_s: float, known: Mapping[float, str]) -> None:
    found_s = number(f"the time when {what}", time_s)
    if math.isclose(found_s, best_s, rel_tol=1e-6, abs_tol=1e-6):
        return
    for wrong_s, sentence in known.items():
        if math.isclose(found_s, wrong_s, rel_tol=1e-6):
            raise Mistake(f"the values are right, but {sentence}")
    if found_s < best_s:
        raise Mistake(
            f"{what} after {found_s:g} s, which cannot be before {best_s:g} s: is the ticket that "
            f"you return that of the last operation?"
        )
    raise Mistake(
        f"the values are right, but {what} after {found_s:g} s, and {best_s:g} s is possible: "
        f"somebody waits for more than is needed"
    )


def _norm(student: Student) -> None:
    values, busy = _arrays(), 6
    found = student.scenario("norm", values, busy)
    result = found["found"]
    if isinstance(result, float | np.floating) and math.isnan(result):
        raise Mistake(
            "not done yet: the sum is NaN: who says that the copy was done when host was read?"
        )
    near("the result of `norm`", result, float(np.sum(values * values)))
    known = {
        _N + busy: "the host waits before its other work, which does not need the gradient: the "
        "copy could go on meanwhile",
        5.0 * _N: "the host waits for everything that is on its way, 50 s instead of 10; wait for "
        "this copy's ticket",
        5.0 * _N + busy: "the host waits for everything that is on its way, and before its other "
        "work, 56 s instead of 10; wait for this copy's ticket, and later",
    }
    _in_time("`norm` returned", found["back_s"], max(_N, busy), known)


def _send_two(student: Student) -> None:
    first, second = _arrays(2)
    found = student.scenario("send_two", first, second)
    _right(
        found,
        ("x", "y"),
        (first, second),
        "not done yet: staging was overwritten while it was on its way: when may it be written "
        "again?",
    )
    pageable = {
        6.0 * _N: "first and second are not pinned: go over staging",
        4.0 * _N: "one of the two is sent from where it is, which is not pinned: go over staging",
    }
    _in_time("the last copy is done", found["done_s"], 2 * _N, pageable)
    both = {
        2.0 * _N: "the host waits for the second copy too: nobody overwrites staging after it, so "
        "return its ticket, and let the caller wait"
    }
    _in_time("`send_two` returned", found["back_s"], _N, both)


def _gradient_down(student: Student) -> None:
    values = _arrays()
    found = student.scenario("gradient_down", values)
    _right(
        found,
        ("host",),
        (2 * values,),
        "not done yet: the copy does not wait for the device: what it computes has a ticket as "
        "well, from run_on_device",
    )
    compute_s = 8 * _N / 12
    _in_time("the gradient is down", found["done_s"], compute_s + _N, {})
    waited = {
        compute_s: "the host waits for the device; give the ticket to the copy, in after=",
        compute_s + _N: "the host waits for the copy; return its ticket, and let the caller wait",
    }
    _in_time("`gradient_down` returned", found["back_s"], 0, waited)


def _apply(student: Student) -> None:
    values, update = _arrays(2)
    found = student.scenario("apply", values, update)
    _right(
        found,
        ("w",),
        (values + update,),
        "not done yet: the addition does not wait for the update to be up",
    )
    copied = {1.0 * _N: "you return the copy's ticket: it is done before the addition is"}
    _in_time("the addition is done", found["done_s"], 2 * _N, copied)
    waited = {
        1.0 * _N: "the host waits for the copy; give its ticket to the addition, in after=",
        2.0 * _N: "the host waits for the addition; return its ticket, and let the caller wait",
    }
    _in_time("`apply` returned", found["back_s"], 0, waited)


def _apply_two(student: Student) -> None:
    values, updates = _arrays(2, 2)
    found = student.scenario("apply_two", list(values), list(updates))
    _right(
        found,
        ("weights[0]", "weights[1]"),
        tuple(values + updates),
        "not done yet: the second update goes into the slot while the first may not have been "
        "added yet: when is the slot free again?",
    )
    _in_time("the last addition is done", found["done_s"], 4 * _N, {})
    waited = {
        1.0 * _N: "the host waits for the first copy; order what comes next by after=",
        2.0 * _N: "the host waits until the slot is free; let the second copy wait, by after=",
        4.0 * _N: "the host waits for everything; order by after= and return the last ticket",
    }
    _in_time("`apply_two` returned", found["back_s"], 0, waited)


def _step_s(chunks: int, slots: int, *, ahead: bool = True) -> float:
    """Return when the last addition of `train_step` is done, at best, or without looking ahead."""
    down, adam, up, add = ([0.0] * slots for _ in range(4))  # when each ended; zeros come before
    for i in range(slots, slots + chunks):
        begin = max(down[-1], up[i - slots]) if ahead else adam[-1]
        down.append(max(begin, up[i - slots]) + _N)
        adam.append(max(adam[-1], down[i]) + _N)
        up.append(max(up[-1], adam[i], add[i - slots]) + _N)
        add.append(max(add[-1], up[i]) + _N)
    return add[-1]


def _train_step(student: Student) -> None:
    for chunks, slots in ((1, 2), (6, 2), (6, 1), (7, 3)):
        where = f"with {chunks} chunk{'s'[: chunks > 1]} and {slots} slot{'s'[: slots > 1]}"
        values, gradients = _arrays(2, chunks)
        found = student.scenario("train_step", list(values), list(gradients), slots)
        nan = (
            f"{where}, NaN arrives in the weights: "
            f"{'' if chunks > slots else 'nothing is taken twice here, so '}"
            f"something is used before it is there"
            f"{', or a host array or a slot is taken again too early' if chunks > slots else ''}"
        )
        names = [f"weights[{i}]" for i in range(chunks)]
        _right(found, names, tuple(values - np.float32(0.125) * gradients), nan)
        known = {
            _step_s(chunks, slots, ahead=False): f"{where}, a gradient begins to come down only "
            f"when the host is idle: issue the next d2h before you wait for this one",
            4.0 * _N * chunks: f"{where}, everything happens one after the other: what could go on "
            f"at the same time?",
        }
        if chunks == 1:
            known[3.0 * _N] = (
                "one of a chunk's four hops is not in the time: is the last addition's ticket what "
                "you return, and does adam run by device.run_on_host, with elements=host.size?"
            )
        best_s = _step_s(chunks, slots)
        _in_time(f"{where}, the last addition is done", found["done_s"], best_s, known)


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
        Task("The clock", 2, _predicted),
        Task("Read too early", 1, _norm),
        Task("Overwritten on the way", 2, _send_two),
        Task("Sent before it is there", 2, _gradient_down),
        Task("Added before it is there", 2, _apply),
        Task("A slot taken again", 2, _apply_two),
        Task("Double buffering", 3, _train_step),
        Task("One slot, two, three", 1, _per_chunk),
    ),
    forbidden=("adamoffload.offload", "adamoffload.Pipeline"),
)
