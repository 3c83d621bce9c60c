"""The grader of lab 6: schedules against their definition, groups by what an optimizer makes of it.

The reference for groups and for the experiment is `AdamOffload` itself, in the scenarios.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from adamoffload.labs.compare import close_to, number
from adamoffload.labs.grading import Lab, Task
from adamoffload.labs.predictions import Answer, predicted
from adamoffload.labs.student import Mistake, Student

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
    numbers = (4, 20, 0.5, 0.1)
    for step in (0, 1, 3, 4, 5, 12, 19, 20, 21, 30):
        what = f"`warmup_cosine` at step {step}"
        found = number(what, student.call("warmup_cosine", step, *numbers))
        right = _cosine(step, *numbers)
        if math.isclose(found, right, rel_tol=1e-6, abs_tol=1e-9):
            continue
        for sentence, wrong in _SCHEDULES.items():
            if math.isclose(found, wrong(step, *numbers), rel_tol=1e-6, abs_tol=1e-9):
                raise Mistake(f"at step {step}, {sentence}")
        raise Mistake(
            f"at step {step} of {numbers[1]}, with {numbers[0]} steps of warm-up, it is "
            f"{found:.6g}, expected {right:.6g}"
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
    table = [0.3, 0.2, 0.1]
    for rate, step, right in (
        (0.7, 5, 0.7),
        (0, 2, 0.0),
        *((table, i, table[i]) for i in range(3)),
    ):
        what = f"`rate_at({rate}, {step})`"
        found = student.call("rate_at", rate, step)
        known = {"the step counts from 0": np.float32(table[step - 1])} if rate is table else {}
        _is_float32(what, found, right, known)
    for step in (0, 1, 7):
        found = student.scenario("rate_of_schedule", step)
        what = f"`rate_at(lambda step: 0.5 / (step + 1), {step})`"
        _is_float32(what, found, 0.5 / (step + 1), {})
    for step in (3, 10):
        try:
            found = student.call("rate_at", table, step)
        except Mistake as mistake:
            if "raised RuntimeError" in str(mistake):
                continue
            raise Mistake(
                f"a table of 3 at step {step}: expected RuntimeError; {mistake}"
            ) from None
        raise Mistake(
            f"a table of 3 at step {step} gave {found!s}; a table that has run out should raise "
            f"RuntimeError, or training goes on at a rate that nobody chose"
        )


def _is_float32(what: str, found: object, right: float, known: dict[str, Any]) -> None:
    if isinstance(found, float | int):
        raise Mistake(f"{what} is a Python {type(found).__name__}; expected a np.float32")
    close_to(what, found, np.asarray(np.float32(right)), rtol=0, known=known)


def _decayed(student: Student) -> None:
    found = student.value("DECAYED")
    if found is None:
        raise Mistake("not done yet: DECAYED is None")
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise Mistake("DECAYED should be a list of names")
    right = ["fc.weight", "fc.bias", "norm.Beta", "alphabet.embed"]
    if list(found) == right:
        return
    for name, hint in (
        ("fc.bias", "a bias is exempt only if you make a group for it"),
        ("norm.gamma", "a name with gamma in it is exempt"),
        ("norm.Beta", "the rule is for lower case: Beta is not beta"),
        ("tibetan.embed", "look for the four letters, wherever they stand: ti-beta-n"),
        ("alphabet.embed", "which four letters stand in alphabet, and in which order?"),
        ("fc.weight", "nothing exempts it"),
    ):
        if (name in found) != (name in right):
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
}


def _make_groups(student: Student) -> None:
    lr, decay = 0.015625, 0.03125  # exact in float32
    names: tuple[str, ...]
    for names in (tuple(_SHAPES), ("norm.weight", "conv.weight"), ("head.bias",)):
        shapes = {name: _SHAPES[name] for name in names}
        found = student.scenario("groups", shapes, lr, decay)
        if "fault" in found:
            raise Mistake(f"for {', '.join(names)}: {found['fault']}")
        for name, shape in shapes.items():
            right = decay if len(shape) > 1 else 0.0
            _is(name, "weight decay", found["decays"][name], right, _decay_hint(name, shape))
            right = 10 * lr if name.startswith("head.") else lr
            _is(name, "learning rate", found["rates"][name], right, _rate_hint(name))


def _is(name: str, what: str, found: float, right: float, hints: dict[float, str]) -> None:
    if found == right:
        return
    hint = hints.get(found, "")
    raise Mistake(f"{name} has {what} {found:g}, expected {right:g}{hint and ': '}{hint}")


def _decay_hint(name: str, shape: tuple[int, ...]) -> dict[float, str]:
    hints = {0.5: "what a group leaves out takes the optimizer's own; say 0.0 where you mean it"}
    if name == "mix.beta":
        hints[0.0] = "it has two dimensions; with groups no name is exempt"
    elif len(shape) < 2:
        hints[0.03125] = (
            f"it has {len(shape)} dimension{'s'[: len(shape) != 1]}; names do not count"
        )
    return hints


def _rate_hint(name: str) -> dict[float, str]:
    hints = {0.25: "what a group leaves out takes the optimizer's own; give lr in every group"}
    if name == "header.bias":
        hints[0.15625] = 'it begins with "head", but not with "head."'
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
    rng = np.random.default_rng(6)
    w, g = (rng.standard_normal(101).astype(np.float32) for _ in range(2))
    g[:10] = 0
    lr, decay = np.float32(0.01), np.float32(0.1)
    eps = 1e-8 / math.sqrt(1 - 0.999)

    def moved(into: Any, beside: Any) -> Any:
        return np.asarray(w - lr * into / (np.abs(into) + np.float32(eps)) - beside, np.float32)

    coupled, decoupled = moved(g + decay * w, 0), moved(g, lr * decay * w)
    known = {
        "the decay is missing": moved(g, 0),
        "the weight decay has the wrong sign": moved(g - decay * w, 0),
        "the decoupled decay is multiplied by the learning rate as well": moved(g, decay * w),
        "the decay is there twice: into the gradient, and beside the step": moved(
            g + decay * w, lr * decay * w
        ),
    }
    for kind, right, other in ((False, coupled, decoupled), (True, decoupled, coupled)):
        found = student.call("first_step", w, g, lr, decay, kind)
        close_to(
            f"`first_step` with decoupled={kind}",
            found,
            right,
            rtol=1e-5,
            known={"the two kinds are exchanged": other, **known},
        )


def _which_decay(student: Student) -> None:
    cases = (
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
    rng = np.random.default_rng(7)
    w, g = (rng.standard_normal(101).astype(np.float32) for _ in range(2))
    decay, scale = np.float32(0.25), np.float32(1024)
    close_to(
        "`what_adam_sees` with a loss scale of 1024",
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
        Task("Warm-up and cosine", 2, _warmup_cosine),
        Task("Off by one", 1, _off_by_one),
        Task("Three kinds of rate", 2, _rate_at),
        Task("Exempt by name", 1, _decayed),
        Task("Groups by rule", 2, _make_groups),
        Task("Two pulls", 1, _shrinks),
        Task("Two kinds of decay", 2, _first_step),
        Task("Which is it?", 2, _which_decay),
        Task("Loss scale", 2, _what_adam_sees),
    ),
    forbidden=("adamoffload", "torch", "jax", "optax", "tensorflow"),
)
