"""The grader of lab 6: schedules against their definition, groups by what an optimizer makes of it.

The reference for groups and for the experiment is `AdamOffload` itself, in the scenarios.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from adamoffload.labs.compare import close_to, number
from adamoffload.labs.draw import arrays, random
from adamoffload.labs.grading import Lab, Task
from adamoffload.labs.predictions import Answer, predicted
from adamoffload.labs.reasons import Mistake
from adamoffload.labs.student import Student

__all__ = ["LAB"]


def _cosine(step: float, warmup: float, total: float, peak: float, floor: float) -> float:
    if step < warmup:
        return peak * step / warmup
    share = (min(step, total) - warmup) / (total - warmup)
    return floor + (peak - floor) / 2 * (1 + math.cos(math.pi * share))


def _unshifted(step: float, warmup: float, total: float, peak: float, floor: float) -> float:
    if step < warmup:
        return peak * step / warmup
    return floor + (peak - floor) / 2 * (1 + math.cos(math.pi * min(step, total) / total))


def _periodic(step: float, warmup: float, total: float, peak: float, floor: float) -> float:
    share = (step - warmup) / (total - warmup)
    return floor + (peak - floor) / 2 * (1 + math.cos(math.pi * share))


_SCHEDULES: dict[str, Callable[..., float]] = {
    "it is one step ahead: the 0-based step is 0 in the first step": (
        lambda step, *numbers: _cosine(step + 1, *numbers)
    ),
    "it is one step behind: the step counts from 0 already": (
        lambda step, *numbers: _cosine(step - 1, *numbers)
    ),
    "the cosine begins at step 0; it should begin where the warm-up ends": _unshifted,
    "the cosine goes up again after its end; hold the floor": _periodic,
    "the cosine goes down to 0 instead of floor": (
        lambda step, warmup, total, peak, _: _cosine(step, warmup, total, peak, 0.0)
    ),
    "the floor is added to a cosine that has its full height already: it begins above peak": (
        lambda step, warmup, total, peak, floor: _cosine(step, warmup, total, peak + floor, floor)
    ),
}


def _warmup_cosine(student: Student) -> None:
    rng = random(student, "warmup_cosine")
    drawn = [
        (
            int(rng.integers(2, 9)),
            int(rng.integers(12, 40)),
            rng.uniform(0.2, 2),
            rng.uniform(0, 0.1),
        )
        for _ in range(3)
    ]
    mistakes = []
    for numbers in ((4, 20, 0.5, 0.1), *drawn, (1, 2, 0.5, 0.0)):
        warmup, total, *_ = numbers
        steps = {0, 1, warmup - 1, warmup, warmup + 1, (warmup + total) // 2, total - 1, total}
        for step in sorted(steps | {total + 1, total + 10}):
            corner = {0: "begin", warmup: "peak", total: "end"}.get(step, "between")
            if mistake := _wrong_rate(student, step, numbers):
                mistakes.append((mistake, "after" if step > total else corner))
    if mistakes:
        corners = {corner for _, corner in mistakes}
        one = len(corners) == 1 and "between" not in corners
        raise Mistake(str(mistakes[0][0]), kept=1 if one else 0)


def _wrong_rate(student: Student, step: int, numbers: tuple[int, int, float, float]) -> str:
    """Say what is wrong with one rate, or nothing."""
    what = f"`warmup_cosine` at step {step}"
    found = number(what, student.call("warmup_cosine", step, *numbers))
    right = _cosine(step, *numbers)
    if math.isclose(found, right, rel_tol=1e-6, abs_tol=1e-9):
        return ""
    for sentence, wrong in _SCHEDULES.items():
        if math.isclose(found, wrong(step, *numbers), rel_tol=1e-6, abs_tol=1e-9):
            return f"at step {step}, {sentence}"
    return (
        f"at step {step} of {numbers[1]}, with {numbers[0]} steps of warm-up, it is {found:.6g}, "
        f"expected {right:.6g}"
    )


def _off_by_one(student: Student) -> None:
    step = "steps count from 0 where a table or a schedule is asked"
    t = "t counts from 1: with t = 0 the correction would divide by 0"
    answers = (
        Answer("the 1st number", 0.3, step, {0.2: "that is the second entry; " + step}),
        Answer("the 2nd number", 1, t),
        Answer("the 3rd number", 3, "each step uses one entry, the first one too"),
        Answer("the 4th number", 3, "a step that fails has changed nothing; who counts it?"),
    )
    predicted(student, "OFF_BY_ONE", answers)


def _rate_at(student: Student) -> None:
    rng = random(student, "rate_at")
    tables = [[0.3, 0.2, 0.1], [0.25], rng.uniform(0.01, 1, 5).tolist()]
    for rate, step, right in (
        *((0.7, 5, 0.7), (0, 2, 0.0), (float(rng.uniform(0.1, 1)), 0, None)),
        *((table, i, rate) for table in tables for i, rate in enumerate(table)),
    ):
        what = f"`rate_at({rate}, {step})`"
        found = student.call("rate_at", rate, step)
        known = {}
        if isinstance(rate, list):
            known = {"the step counts from 0": np.float32(rate[step - 1])}
        _is_float32(what, found, rate if right is None else right, known)
    for step, peak, shift in ((0, 0.5, 1), (1, 0.5, 1), (7, float(rng.uniform(0.1, 1)), 3)):
        found = student.scenario("rate_of_schedule", step, peak, shift)
        what = f"`rate_at(lambda step: {peak:g} / (step + {shift}), {step})`"
        _is_float32(what, found, peak / (step + shift), {})
    for table in tables:
        for step in (len(table), len(table) + 7):
            _runs_out(student, table, step)


def _runs_out(student: Student, table: list[float], step: int) -> None:
    try:
        found = student.call("rate_at", table, step)
    except Mistake as mistake:
        if "raised RuntimeError" in str(mistake):
            return
        raise Mistake(
            f"a table of {len(table)} at step {step}: expected RuntimeError; {mistake}"
        ) from None
    raise Mistake(
        f"a table of {len(table)} at step {step} gave {found!s}; a table that has run out should "
        f"raise RuntimeError, or training goes on at a rate that nobody chose"
    )


def _is_float32(what: str, found: object, right: float, known: dict[str, Any]) -> None:
    if isinstance(found, float | int):
        raise Mistake(f"{what} is a Python {type(found).__name__}; expected a np.float32")
    close_to(what, found, np.asarray(np.float32(right)), rtol=0, known=known)


_NAMES = ("fc.weight", "fc.bias", "norm.weight", "norm.gamma", "norm.beta", "film.gamma_net.weight")
_NAMES_0_1 = ("fc.weight", "fc.bias", "norm.gamma", "norm.Beta", "alphabet.embed", "tibetan.embed")
"""What version 0.1 asked; files that it has handed out are graded as they stand."""
_NAME_HINTS = {
    "fc.weight": "nothing exempts it",
    "fc.bias": "a bias is exempt only if you make a group for it",
    "norm.weight": "the rule reads names: PyTorch calls a gain weight, and nothing exempts that",
    "film.gamma_net.weight": "a matrix, but its name has gamma in it",
    "norm.Beta": "the rule is for lower case: Beta is not beta",
    "tibetan.embed": "look for the four letters, wherever they stand: ti-beta-n",
    "alphabet.embed": "which four letters stand in alphabet, and in which order?",
}


def _decayed(student: Student) -> None:
    found = student.value("DECAYED")
    if found is None:
        raise Mistake("not done yet: DECAYED is None")
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise Mistake("DECAYED should be a list of names")
    names = _NAMES_0_1 if set(found) & {*_NAMES_0_1} - {*_NAMES} else _NAMES
    right = [name for name in names if not ("beta" in name or "gamma" in name)]
    if list(found) == right:
        return
    for name in names:
        if (name in found) != (name in right):
            hint = _NAME_HINTS.get(name, "a name with beta or gamma in it is exempt")
            raise Mistake(f"{name} is wrong: {hint}")
    raise Mistake("keep the order of NAMES, and name each once")


_SHAPES = {
    "embed.weight": (6, 4),
    "norm.weight": (4,),
    "conv.weight": (2, 2, 3),
    "conv.bias": (2,),
    "mix.beta": (3, 3),
    "scale": (),
    "header.bias": (4,),
    "head.weight": (4, 2),
    "head.bias": (2,),
    "heads.weight": (2, 2),
    "my.head.weight": (2, 3),
}


def _make_groups(student: Student) -> None:
    rng = random(student, "make_groups")
    names: tuple[str, ...]
    decays, rates = [], []
    for names in (
        tuple(_SHAPES),
        ("norm.weight", "conv.weight"),
        ("head.bias",),
        tuple(map(str, rng.permutation(list(_SHAPES))[:5])),
    ):
        lr, decay = 2.0 ** -float(rng.integers(7, 10)), 2.0 ** -float(rng.integers(3, 7))
        shapes = {name: _SHAPES[name] for name in names}
        found = student.scenario("groups", shapes, lr, decay)
        if "fault" in found:
            raise Mistake(f"for {', '.join(names)}: {found['fault']}")
        for name, shape in shapes.items():
            right = decay if len(shape) > 1 else 0.0
            hints = _decay_hint(name, shape, decay)
            decays.append(_other(name, "weight decay", found["decays"][name], right, hints))
            right = 10 * lr if name.startswith("head.") else lr
            hints = _rate_hint(name, lr)
            rates.append(_other(name, "learning rate", found["rates"][name], right, hints))
    wrong = [next((reason for reason in rule if reason), "") for rule in (decays, rates)]
    if any(wrong):
        raise Mistake(wrong[0] or wrong[1], kept=0 if all(wrong) else 1)


def _other(name: str, what: str, found: float, right: float, hints: dict[float, str]) -> str:
    """Say that a parameter has another number than it should, or nothing."""
    if found == right:
        return ""
    hint = hints.get(found, "")
    return f"{name} has {what} {found:g}, expected {right:g}{hint and ': '}{hint}"


def _decay_hint(name: str, shape: tuple[int, ...], decay: float) -> dict[float, str]:
    hints = {0.5: "what a group leaves out takes the optimizer's own; say 0.0 where you mean it"}
    if name == "mix.beta":
        hints[0.0] = "it has two dimensions; with groups no name is exempt"
    elif len(shape) < 2:
        hints[decay] = f"it has {len(shape)} dimension{'s'[: len(shape) != 1]}; names do not count"
    return hints


def _rate_hint(name: str, lr: float) -> dict[float, str]:
    hints = {0.25: "what a group leaves out takes the optimizer's own; give lr in every group"}
    if name in ("header.bias", "heads.weight"):
        hints[10 * lr] = 'it begins with "head", but not with "head."'
    elif name == "my.head.weight":
        hints[10 * lr] = 'it has "head." in it, but does not begin with it'
    return hints


def _shrinks(student: Student) -> None:
    predicted(
        student,
        "SHRINKS",
        (
            Answer(
                "the 1st number",
                0.001,
                "how large is Adam's first step, whatever the gradient is?",
                {0.00002: "that is the decoupled one; here 0.02 goes into Adam as a gradient"},
            ),
            Answer(
                "the 2nd number",
                0.00002,
                "the gradient is 0, so Adam itself does not move; the rest is a product of three",
                {0.02: "the learning rate is missing", 0.00001: "the weight is 2, not 1"},
            ),
        ),
    )


def _first_step(student: Student) -> None:
    rng = random(student, "first_step")
    for lr, decay in np.array([[0.01, 0.1], *rng.uniform(0.2, 0.9, (2, 2))], np.float32):
        w, g = arrays(rng, 2)
        g[:10] = 0
        g[10:20] *= np.float32(1e-7)  # where eps is not small
        _first_step_with(student, w, g, lr, decay)


def _first_step_with(student: Student, w: Any, g: Any, lr: Any, decay: Any) -> None:
    eps = 1e-8 / math.sqrt(1 - 0.999)

    def moved(into: Any, beside: Any, rate: Any = lr) -> Any:
        step = rate * into / (np.abs(into) + np.float32(eps))
        return np.asarray(w - step - beside, np.float32)

    coupled, decoupled = moved(g + decay * w, 0), moved(g, lr * decay * w)
    with np.errstate(invalid="ignore"):
        no_eps = np.asarray(w - lr * np.sign(g) - lr * decay * w, np.float32)
    known = {
        "the decay is missing": moved(g, 0),
        "the weight decay has the wrong sign": moved(g - decay * w, 0),
        "the decoupled decay is multiplied by the learning rate as well": moved(g, decay * w),
        "the decay is there twice: into the gradient, and beside the step": moved(
            g + decay * w, lr * decay * w
        ),
        "the decay takes the weights from before the step": moved(g, 0) * (1 - lr * decay),
        "eps is missing; where the gradient is small, it counts": no_eps,
        "the learning rate is missing": moved(g, decay * w, np.float32(1)),
    }
    for kind, right, other in ((False, coupled, decoupled), (True, decoupled, coupled)):
        close_to(
            f"`first_step` with decoupled={kind}, lr = {lr:g} and weight_decay = {decay:g}",
            student.call("first_step", w, g, lr, decay, kind),
            right,
            rtol=1e-5,
            known={"the two kinds are exchanged": other, **known},
        )


def _which_decay(student: Student) -> None:
    rng = random(student, "which_decay")
    drawn = [(str(rng.choice(["L2", "decoupled"])), *10 ** rng.uniform(-3, 0, 2)) for _ in range(6)]
    cases = (
        *drawn,
        ("L2", 0.01, 0.1),
        ("decoupled", 0.01, 0.1),
        ("decoupled", 0.1, 0.5),
        ("L2", 0.001, 0.001),
        ("decoupled", 0.5, 1.0),
        ("L2", 0.5, 2.0),
        ("decoupled", 0.001, 0.01),
    )
    for kind, lr, decay in cases:
        found = student.scenario("which", kind, lr, decay)
        if not isinstance(found, str) or found not in ("L2", "decoupled"):
            kind = type(found).__name__
            told = f'"{found[:20]}"' if isinstance(found, str) else f"an object of type {kind}"
            raise Mistake(f'it returned {told}; expected "L2" or "decoupled"')
        if found != kind:
            raise Mistake(
                f"an Adam with {kind} decay (learning rate {lr:g}, decay {decay:g}) was taken for "
                f"the other: choose a gradient that leaves only the decay, and two weights of "
                f"different size; what must their steps have in common?"
            )


def _what_adam_sees(student: Student) -> None:
    rng = random(student, "what_adam_sees")
    drawn = ((rng.uniform(0.1, 0.9), 2.0 ** rng.integers(3, 9)) for _ in range(2))
    for decay, scale in ((np.float32(d), np.float32(s)) for d, s in ((0.25, 1024), *drawn)):
        w, g = arrays(rng, 2)
        close_to(
            f"`what_adam_sees` with a loss scale of {scale:g}",
            student.call("what_adam_sees", scale * g, w, decay, scale),
            g + decay * w,
            known={
                "the decay is not scaled as the gradient is, and nearly vanishes when both are "
                "unscaled": (scale * g + decay * w) / scale,
                "it is not unscaled: multiply by 1 / loss_scale": scale * g + scale * decay * w,
                "the gradient is not unscaled: divide it by loss_scale": scale * g + decay * w,
                "it is multiplied by loss_scale; the gradient has that factor already": (
                    scale * scale * g + decay * w
                ),
                "the decay is missing": g,
                "the decay is scaled, but not unscaled": g + scale * decay * w,
            },
        )


LAB = Lab(
    "Groups and schedules",
    (
        Task("Warm-up and cosine", 2, _warmup_cosine, ("warmup_cosine",)),
        Task("Off by one", 1, _off_by_one, ("OFF_BY_ONE",)),
        Task("Three kinds of rate", 2, _rate_at, ("rate_at",)),
        Task("Exempt by name", 1, _decayed, ("DECAYED",)),
        Task("Groups by rule", 2, _make_groups, ("make_groups",)),
        Task("Two pulls", 1, _shrinks, ("SHRINKS",)),
        Task("Two kinds of decay", 2, _first_step, ("first_step",)),
        Task("Which is it?", 2, _which_decay, ("which_decay",)),
        Task("Loss scale", 2, _what_adam_sees, ("what_adam_sees",)),
    ),
    forbidden=("adamoffload", "torch", "jax", "optax", "tensorflow"),
)
