"""The grader of lab 7: every task is exact, so bits are compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from adamoffload.labs.compare import Partly, close_to, number, same, shown
from adamoffload.labs.draw import random
from adamoffload.labs.grading import Lab, Task, halves
from adamoffload.labs.predictions import Answer, predicted
from adamoffload.labs.reasons import Mistake
from adamoffload.labs.student import Student

__all__ = ["LAB"]

_TINY = np.finfo(np.float32).smallest_normal


def _bits(*patterns: int) -> Any:
    return np.array(patterns, np.uint32).view(np.float32)


def _numbers(rng: np.random.Generator, count: int) -> Any:
    """Return float32 of all magnitudes and both signs, denormals among them."""
    bits = rng.integers(0, 1 << 32, 2 * count, dtype=np.uint32)
    numbers = bits.view(np.float32)
    return numbers[np.isfinite(numbers)][:count]


def _ordinal(x: Any) -> Any:
    bits = x.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _ulp_distance(student: Student) -> None:
    one = np.ones(3, np.float32)
    near = np.array([1 + 2.0**-23, 1 - 2.0**-24, 2], np.float32)
    zeros = _bits(0, 0x80000000, 1, 0x80000001, 0x80000001)
    others = _bits(0x80000000, 0, 0x80000001, 1, 0)
    rng = random(student, "ulp_distance")
    a, b = _numbers(rng, 200), _numbers(rng, 200)
    for what, left, right in (
        ("near 1", one, near),
        ("around 0", zeros, others),
        ("of any two numbers", a, b),
    ):
        plain = np.abs(left.view(np.int32).astype(np.int64) - right.view(np.int32))
        with np.errstate(all="ignore"):
            wrapped = np.abs(left.view(np.int32) - right.view(np.int32)).astype(np.int64)
            scaled = np.abs(left.astype(float) - right) / np.finfo(np.float32).eps
            scaled = np.minimum(scaled, 2.0**62).astype(np.int64)
        expected = np.abs(_ordinal(left) - _ordinal(right))
        close_to(
            f"`ulp_distance` {what}",
            student.call("ulp_distance", left, right),
            expected,
            rtol=0,
            known={
                Partly(
                    1,
                    "the bits of negative numbers count away from 0: turn their order round before "
                    "you subtract",
                ): plain,
                "the difference does not fit into 32 bits: go to int64 first": wrapped,
                "it measures in gaps as they are above 1; the gap doubles with each power of two": (
                    scaled
                ),
                "it has a sign; a distance has none": _ordinal(left) - _ordinal(right),
            },
        )


def _apart(beta: float) -> int:
    rounded = np.float32(1) - np.float32(beta)
    right = np.float32(1 - beta)
    return int(abs(_ordinal(np.asarray(rounded)) - _ordinal(np.asarray(right))))


def _ulps_apart(student: Student) -> None:
    hint = (
        "use ulp_distance on np.float32(1) - np.float32(beta) and np.float32(1 - beta), each in an "
        "array of one element"
    )
    exact = {0.0: "the subtraction is exact, but beta was rounded before it"}
    predicted(
        student,
        "ULPS_APART",
        (
            Answer("the 1st number", _apart(0.5), "0.5 is a float32, so nothing is rounded"),
            Answer("the 2nd number", _apart(0.9), hint, exact),
            Answer("the 3rd number", _apart(0.999), hint, exact),
        ),
        rtol=0,
    )


def _power(x: Any) -> str:
    """Return a number as a sentence shows it; a large or small power of two as one."""
    size, exponent = math.frexp(abs(float(x)))
    if size != 0.5 or abs(exponent) < 10:
        return shown(float(x))
    return f"{'-' if x < 0 else ''}2**{exponent - 1}"


def _power_that_sticks(delta: Any) -> Any:
    p = np.float32(2.0**-140)
    while p + delta != p:
        p = p * np.float32(2)
    return p


def _stuck_numbers(student: Student) -> None:
    bits = "a float32 has 24 bits, the leading one included"
    predicted(
        student,
        "STUCK",
        (
            Answer(
                "the 1st number",
                2.0**26,
                "where does the gap between neighbours become 8?",
                {
                    2.0**24: "that is where a counter that adds 1 stops",
                    2.0**25: "there the gap is 4, and adding 4 still works",
                    2.0**27: "half a gap is lost already: ties go to the even neighbour",
                },
            ),
            Answer(
                "the 2nd number",
                24,
                bits,
                {23: "1 + 2**-23 is the next float32 after 1", 25: "half a gap is a tie"},
            ),
            Answer(
                "the 3rd number",
                25,
                bits,
                {24: "below 1 the gaps are half as wide as above", 26: "half a gap is a tie"},
            ),
        ),
        rtol=0,
    )


def _stuck_at(student: Student) -> None:
    rng = random(student, "stuck_at")
    drawn = rng.choice([-1, 1], 8) * 2.0 ** rng.uniform(-89, 89, 8)
    sizes = (
        4,
        1,
        -1,
        3,
        0.001,
        -0.001,
        1e-10,
        1e20,
        2.0**90,
        -(2.0**90),
        2.0**-90,
        -(2.0**-90),
        *drawn,
    )
    for delta in map(np.float32, sizes):
        found, right = student.call("stuck_at", delta), _power_that_sticks(delta)
        what = f"`stuck_at({_power(delta)})`"
        if not isinstance(found, np.floating):
            raise Mistake(f"{what} returned {type(found).__name__}; expected a np.float32")
        if float(found) == right:
            continue
        if found == 1 and right < 1:
            raise Mistake(f"{what} is 1, and smaller powers of two are stuck already: begin lower")
        if delta < 0 and found == _power_that_sticks(-delta):
            raise Mistake(f"{what}: below a power of two, the gaps are half as wide as above it")
        if delta > 0 and float(found) == float(right) * 2.0**29:
            raise Mistake(f"{what} adds in float64, which has 53 bits; keep p a np.float32")
        raise Mistake(f"{what} is {_power(found)}, expected {_power(right)}")


def _stalled(beta: Any) -> tuple[int, int]:
    power, steps = np.float32(1), 0
    while power * beta != power:
        power, steps = power * beta, steps + 1
    return steps, int(np.asarray(power).view(np.int32))


def _stall(student: Student) -> None:
    rng = random(student, "stall")
    for beta in map(np.float32, (0.9, 0.5, 0.75, 0.99, 0.999, 0.1, *rng.uniform(0.2, 0.97, 3))):
        found = student.call("stall", beta)
        what = f"`stall({beta:g})`"
        if (
            not isinstance(found, tuple | list)
            or len(found) != 2
            or not all(map(np.isscalar, found))
        ):
            raise Mistake(f"{what} should return a tuple of two ints")
        found = tuple(number(what, part) for part in found)
        steps, units = _stalled(beta)
        if found == (steps, units):
            continue
        if found[1] != units:
            if found[1] == 0:
                raise Mistake(
                    f"{what} ends at 0; in float32 it gets stuck before: is every product rounded "
                    f"to float32?"
                )
            raise Mistake(f"{what} ends at {found[1]!s} smallest denormals, expected {units}")
        if found[0] == steps + 1:
            raise Mistake(f"{what} counts the multiplication that changed nothing as well")
        raise Mistake(f"{what} takes {found[0]!s} multiplications, expected {steps}")


def _flush(student: Student) -> None:
    rng = random(student, "flush")
    tiny = float(_TINY)
    below = np.nextafter(_TINY, np.float32(0))
    near = [tiny, -tiny, below, -below, 1.05e-38, 1.17e-38, -1.1e-38, 1.2e-38, -1.18e-38]
    fixed = np.array([1, -1, *near, tiny / 2, -tiny / 2, 0, 1e-45, -1e-45, 1e38], np.float32)
    for x in (fixed, _numbers(rng, 300), fixed[: int(rng.integers(5, 9))]):
        kept = np.abs(x) >= _TINY
        close_to(
            "`flush`",
            student.call("flush", x),
            np.where(kept, x, np.float32(0)),
            rtol=0,
            known={
                "all negative numbers became 0: look at the size": np.where(
                    x >= _TINY, x, np.float32(0)
                ),
                "the smallest normal number is no denormal: keep it": np.where(
                    np.abs(x) > _TINY, x, np.float32(0)
                ),
                "the limit is not 1e-38 but the smallest normal number, 2**-126": np.where(
                    np.abs(x) >= np.float32(1e-38), x, np.float32(0)
                ),
                "nothing was flushed": x,
            },
        )
    special = np.array([np.nan, np.inf, -np.inf, 2], np.float32)
    close_to(
        "`flush` of NaN and inf",
        student.call("flush", special),
        special,
        rtol=0,
        known={
            "NaN became 0, and an error was swept under the carpet": np.nan_to_num(
                special, posinf=np.inf, neginf=-np.inf
            )
        },
    )


def _overflow(student: Student) -> None:
    fits = {38.0: "10**38 fits into float32, but its square does not"}
    predicted(
        student,
        "OVERFLOW",
        (
            Answer(
                "the 1st number",
                20,
                "from the left: 0.001 * g comes first, and the largest float32 is 3.4e38",
                {19: "that is what g * g allows; here the product with 0.001 comes first", **fits},
            ),
            Answer("the 2nd number", 19, "g * g comes first, and the largest is 3.4e38", fits),
            Answer("the 3rd number", 0, "what is 1 / (sqrt(inf) + eps)?"),
        ),
        rtol=0,
    )


def _truncate(student: Student) -> None:
    rng = random(student, "truncate")
    x = np.concatenate([_numbers(rng, 200), rng.standard_normal(200).astype(np.float32)])
    bits = x.view(np.uint32)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)
    with np.errstate(all="ignore"):
        half = x.astype(np.float16).astype(np.float32)
    close_to(
        "`truncate`",
        student.call("truncate", x),
        (bits & 0xFFFF0000).view(np.float32),
        rtol=0,
        known={
            "it rounds to the nearest; truncate": nearest,
            "that is float16: 5 bits for the exponent; keep all 8": half,
            "it keeps the lower half of the bits": (bits & 0xFFFF).view(np.float32),
            "it clears 15 bits; clear 16": (bits & 0xFFFF8000).view(np.float32),
            "bits become a number again by .view(np.float32); .astype converts their integer": (
                bits & 0xFFFF0000
            ).astype(np.float32),
        },
    )
    special = _bits(0x7F800001, 0xFF800001, 0x7FC00000, 0x7F800000, 0xFF800000)
    found = student.call("truncate", special)
    right = np.array([np.nan, np.nan, np.nan, np.inf, -np.inf], np.float32)
    close_to(
        "`truncate` of NaN and inf",
        found,
        right,
        rtol=0,
        known={
            Partly(1, "a NaN became inf: what makes it NaN was in the lower bits"): (
                special.view(np.uint32) & 0xFFFF0000
            ).view(np.float32)
        },
    )
    if (found.view(np.uint32) & 0xFFFF).any():
        raise Mistake(
            "`truncate` leaves lower bits of a NaN, which do not travel: set them to 0, and see "
            "that an upper bit of the fraction is 1",
            kept=1,
        )


def _forward(x: Any) -> Any:
    return np.add.accumulate(x, dtype=np.float32)[-1]


def _pairwise(x: Any) -> Any:
    if x.size == 1:
        return x[0]
    return _pairwise(x[: x.size // 2]) + _pairwise(x[x.size // 2 :])


def _compensated(x: Any, sign: int = 1) -> Any:
    total = lost = np.float32(0)
    for element in x:
        y = element - sign * lost
        new = total + y
        lost = (new - total) - y
        total = new
    return total


def _bottom_up(x: Any) -> Any:
    """Sum neighbours, then neighbouring sums: another order, unless the length is a power of 2."""
    while x.size > 1:
        pairs = x[: x.size // 2 * 2]
        x = np.concatenate([pairs[::2] + pairs[1::2], x[pairs.size :]])
    return x[0]


_FROM_BELOW = "it sums neighbours first, from the bottom up; halve from the top, at n // 2"
_OTHER_SUMS: dict[str, Callable[[Any], Any]] = {
    "it adds in float64 and rounds once, at the end": lambda x: np.float32(np.sum(x, dtype=float)),
    "that is np.sum, which has an order of its own": np.sum,
    "what was lost has the wrong sign: it grows instead of coming back": (
        lambda x: _compensated(x, -1)
    ),
}
_SUMS: dict[str, Callable[[Any], Any]] = {
    "sum_forward": _forward,
    "sum_pairwise": _pairwise,
    "sum_compensated": _compensated,
}


def _sums(student: Student) -> None:
    mistakes = []
    for name in _SUMS:
        try:
            _sum_of(student, name)
        except Mistake as mistake:
            mistakes.append(mistake)
    if mistakes:
        raise Mistake(str(mistakes[0]), kept=1 if len(mistakes) == 1 else 0)


def _sum_of(student: Student, name: str) -> None:
    rng = random(student, "sums")
    tried = []
    for size in (1, 2, 3, 7, 1000, *map(int, rng.integers(20, 900, 6))):
        x = (rng.standard_normal(size) * 10.0 ** rng.integers(-3, 4, size)).astype(np.float32)
        found = student.call(name, x)
        if isinstance(found, float):
            raise Mistake(f"`{name}` returned a Python float; expected a np.float32")
        tried.append((x, found))
    known = {f"that is what `{o}` should give": total for o, total in _SUMS.items() if o != name}
    known |= _OTHER_SUMS
    if name == "sum_pairwise":
        known[_FROM_BELOW] = _bottom_up
    for x, found in tried:
        right = np.asarray(_SUMS[name](x))
        if isinstance(found, np.floating) and found.dtype == np.float32 and found != right:
            for sentence, wrong in known.items():
                if all(same(np.asarray(f), np.asarray(wrong(y)), rtol=0) for y, f in tried):
                    raise Mistake(f"`{name}` is wrong: {sentence}")
        close_to(f"`{name}` of {x.size} element{'s'[: x.size > 1]}", found, right, rtol=0)


def _same_bits(student: Student) -> None:
    found = student.value("SAME_BITS")
    if found is None or (isinstance(found, list) and None in found):
        raise Mistake("not done yet: in SAME_BITS, something is None")
    answers = (
        (True, "no element of Adam looks at another"),
        (False, "the order of additions is another; compute it for a thousand random numbers"),
        (True, "a power of two changes the exponent alone"),
        (False, "1000 and 1 / 1000 are no powers of two, and each product is rounded"),
        (False, "the inner sum is another one, and is rounded"),
        (True, "the inner sums are the same; a + b is b + a, to the bit"),
    )
    if not isinstance(found, list | tuple) or len(found) != len(answers):
        raise Mistake(f"SAME_BITS should be a list of {len(answers)} times True or False")
    for i, (answer, (right, hint)) in enumerate(zip(found, answers, strict=True), 1):
        if not isinstance(answer, bool | np.bool_):
            raise Mistake(
                f"in SAME_BITS, line {i} is of type {type(answer).__name__}; expected True or False"
            )
        if answer != right:
            raise Mistake(f"in SAME_BITS, line {i} is wrong: {hint}")


LAB = Lab(
    "Rounding",
    (
        Task("Ulps", 2, _ulp_distance, ("ulp_distance",)),
        Task("One minus beta", 1, _ulps_apart, ("ULPS_APART",)),
        Task(
            "Too small to count",
            2,
            halves((1, _stuck_numbers), (1, _stuck_at)),
            ("STUCK", "stuck_at"),
        ),
        Task("Powers that stall", 2, _stall, ("stall",)),
        Task("Flush", 1, _flush, ("flush",)),
        Task("Overflow", 2, _overflow, ("OVERFLOW",)),
        Task("Truncation", 2, _truncate, ("truncate",)),
        Task("Three sums", 2, _sums, tuple(_SUMS)),
        Task("Same bits?", 1, _same_bits, ("SAME_BITS",)),
    ),
    limit_s=5.0,
    forbidden=("adamoffload", "torch", "jax", "tensorflow", "ml_dtypes"),
)
