"""The grader of lab 1: compares with Adam written down once more, and names known mistakes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from adamoffload.labs.compare import Partly, close_to, near, number, prediction
from adamoffload.labs.draw import HYPER, arrays, hyper, random
from adamoffload.labs.grading import Lab, Task
from adamoffload.labs.reasons import Mistake
from adamoffload.labs.student import Student

__all__ = ["LAB"]


def _settings(student: Student, task: str) -> tuple[np.random.Generator, Any]:
    """Return random numbers and three settings of (lr, beta1, beta2, eps), the usual one first."""
    rng = random(student, task)
    return rng, [[np.float32(x) for x in HYPER], hyper(rng), hyper(rng)]


def _first_moment_of(g: Any, m: Any, beta1: Any) -> Any:
    return beta1 * m + (1 - beta1) * g


def _second_moment_of(g: Any, v: Any, beta2: Any) -> Any:
    return beta2 * v + (1 - beta2) * g * g


def _step_size_of(lr: Any, beta1_power: Any, beta2_power: Any) -> Any:
    return lr * np.sqrt(1 - beta2_power) / (1 - beta1_power)


def _update_of(m: Any, v: Any, lr_t: Any, eps: Any) -> Any:
    return -lr_t * m / (np.sqrt(v) + eps)


def _first_step(student: Student) -> None:
    sizes = prediction(student, "FIRST_STEP_SIZES")
    if isinstance(sizes, np.ndarray):
        sizes = sizes.tolist()
    if not isinstance(sizes, list | tuple) or len(sizes) != 3:
        raise Mistake("FIRST_STEP_SIZES should be a list of three numbers")
    found = np.array([number(f"FIRST_STEP_SIZES[{i}]", size) for i, size in enumerate(sizes)])
    if np.allclose(np.abs(found), 0.01 * np.abs([0.001, 5.0, -700.0]), rtol=0.01):
        raise Mistake(
            "that is the step of plain gradient descent, learning rate times gradient; put t = 1 "
            "into Adam's rule and see what cancels"
        )
    if np.allclose(found, 0.01 * np.sqrt(10), rtol=0.02):
        raise Mistake("the ratio m / sqrt(v) is 3.16 at first; the bias corrections are missing")
    if np.allclose(np.abs(found), 0.01, rtol=0.01) and np.any(found < 0):
        raise Mistake("right, apart from the signs: write down sizes, three positive numbers")
    if not np.allclose(found, 0.01, rtol=0.01):
        raise Mistake("put t = 1 and m = v = 0 into the rule: what cancels in m / sqrt(v)?")


def _first_moment(student: Student) -> None:
    rng, settings = _settings(student, "first_moment")
    for _, beta1, _, _ in settings:
        g, m = arrays(rng, 2)
        close_to(
            f"`first_moment` with beta1 = {beta1:g}",
            student.call("first_moment", g, m, beta1),
            _first_moment_of(g, m, beta1),
            known={
                "beta1 belongs to the old moment, 1 - beta1 to the gradient": (1 - beta1) * m
                + beta1 * g,
                "it sums up gradients, but does not average: where is 1 - beta1?": beta1 * m + g,
            },
        )


def _second_moment(student: Student) -> None:
    rng, settings = _settings(student, "second_moment")
    for _, _, beta2, _ in settings:
        g, v = arrays(rng, 2)
        v = np.abs(v)
        close_to(
            f"`second_moment` with beta2 = {beta2:g}",
            student.call("second_moment", g, v, beta2),
            _second_moment_of(g, v, beta2),
            known={
                "it averages the gradient; average its square": beta2 * v + (1 - beta2) * g,
                "beta2 belongs to the old moment, 1 - beta2 to the square": (1 - beta2) * v
                + beta2 * g * g,
                "it averages the size of the gradient; average its square": beta2 * v
                + (1 - beta2) * np.abs(g),
            },
        )


def _step_size(student: Student) -> None:
    _, settings = _settings(student, "step_size")
    for t in (1, 7, 1000):
        for rate, beta1, beta2, _ in settings:
            p1, p2 = beta1 ** np.float32(t), beta2 ** np.float32(t)
            c1, c2 = 1 - p1, 1 - p2
            close_to(
                f"`step_size` at t = {t}",
                student.call("step_size", rate, p1, p2),
                _step_size_of(rate, p1, p2),
                known={
                    "the bias corrections are missing": np.asarray(rate),
                    "the square root of 1 - beta2_power is missing": rate * c2 / c1,
                    "the correction of v is missing": rate / c1,
                    "the correction of m is missing": rate * np.sqrt(c2),
                    "it is upside down: m is divided by its correction, and v stands in the "
                    "denominator, under a root": rate * c1 / np.sqrt(c2),
                },
            )


def _update(student: Student) -> None:
    rng, settings = _settings(student, "update")
    for rate, _, _, eps in settings:
        m, v = arrays(rng, 2)
        v = np.abs(v)
        root = np.sqrt(v)
        missing = -rate * m / root
        close_to(
            f"`update` with eps = {eps:g}",
            student.call("update", m, v, rate, eps),
            _update_of(m, v, rate, eps),
            known={
                "the sign: what is added to the weights goes against the gradient": rate
                * m
                / (root + eps),
                "epsilon is inside the square root; add it after": -rate * m / np.sqrt(v + eps),
                "it divides by v; divide by its square root": -rate * m / (v + eps),
                "epsilon is missing": missing,
                "epsilon is added to the quotient; it belongs to the root, in parentheses": missing
                + eps,
            },
        )


def _trained(
    w: Any,
    steps: int,
    numbers: Any,
    *,
    powers: str = "float32",
    keep: bool = True,
    anew: bool = True,
    eps_in: str = "after the root",
) -> Any:
    lr, beta1, beta2, eps = numbers
    steepness = np.linspace(1, 100, w.size, dtype=np.float32)
    start, m, v = w, np.zeros_like(w), np.zeros_like(w)
    p1 = p2 = np.float32(1)
    for t in range(1, steps + 1):
        g = steepness * (w if anew else start)
        if not keep:
            m = v = np.zeros_like(w)
        m, v = _first_moment_of(g, m, beta1), _second_moment_of(g, v, beta2)
        p1, p2 = p1 * beta1, p2 * beta2
        c1, c2 = 1 - p1, 1 - p2
        if powers == "none":
            c1 = c2 = np.float32(1)
        elif powers == "from 0":
            c1, c2 = 1 - beta1 ** np.float32(t + 1), 1 - beta2 ** np.float32(t + 1)
        root = np.sqrt(v + eps) if eps_in == "the root" else np.sqrt(v)
        at = {"after the root": eps, "the root": 0, "PyTorch's": eps * np.sqrt(c2)}[eps_in]
        w = w - lr * np.sqrt(c2) / c1 * m / (root + at)
    return w


def _train(student: Student) -> None:
    rng, (usual, *others) = _settings(student, "train")
    even = np.linspace(-1, 1, 33, dtype=np.float32)
    drawn = [(n, rng.standard_normal(33).astype(np.float32)) for n in (1, 2, 6, 13)]
    for (steps, start), numbers in (
        *(((steps, even), usual) for steps in (1, 2, 50)),
        *((case, numbers) for case in drawn for numbers in others),
    ):
        done = student.scenario("train", start, steps, *numbers)
        if done["changed"]:
            raise Mistake("`train` changed its argument `w` in place; compute new weights instead")

        def wrong(
            steps: int = steps, start: Any = start, numbers: Any = numbers, **how: Any
        ) -> Any:
            return _trained(start, steps, numbers, **how)

        lr, beta1, beta2, eps = numbers
        with np.errstate(all="ignore"):
            known = {
                "the weights have not moved": start,
                "the moments are lost between steps; begin with zeros once, before the loop": (
                    wrong(keep=False)
                ),
                "every step has the gradient of the first; ask for it anew at the new weights": (
                    wrong(anew=False)
                ),
                "every weight is nan, as when the powers are a step behind: at first they are 1, "
                "and 1 - 1 divides": np.full_like(start, np.nan),
                Partly(2, "there is no bias correction"): wrong(powers="none"),
                Partly(
                    2, "the powers are one step ahead: in the first step they are beta1 and beta2"
                ): wrong(powers="from 0"),
                "epsilon is inside the square root; add it after": wrong(eps_in="the root"),
                "epsilon is where PyTorch has it; here it is added to a root that has not been "
                "corrected": wrong(eps_in="PyTorch's"),
                "lr is an argument; use it": wrong(numbers=(usual[0], beta1, beta2, eps)),
                "beta1 is an argument; use it": wrong(numbers=(lr, usual[1], beta2, eps)),
                "beta2 is an argument; use it": wrong(numbers=(lr, beta1, usual[2], eps)),
                "eps is an argument; use it": wrong(numbers=(lr, beta1, beta2, usual[3])),
            }
        close_to(
            f"`train` after {steps} step{'s'[: steps > 1]} (lr {lr:g}, beta1 {beta1:g}, beta2 "
            f"{beta2:g}, eps {eps:g})",
            done["weights"],
            wrong(),
            rtol=1e-4,
            known=known,
        )


def _torch_eps(student: Student) -> None:
    rng = random(student, "torch_eps")
    for eps, beta2, t in (
        *((1e-8, 0.999, t) for t in (1, 10, 10_000)),
        *((rng.uniform(1e-7, 1e-2), rng.uniform(0.8, 0.99), int(t)) for t in (1, 3, 8)),
    ):
        correction = math.sqrt(1 - beta2**t)
        near(
            f"`torch_eps` with eps = {eps:g} and beta2 = {beta2:g} at t = {t}",
            student.call("torch_eps", eps, beta2, t),
            eps / correction,
            rtol=1e-4,
            known={
                "that is our own epsilon; its root has not been corrected, PyTorch's has": eps,
                Partly(
                    1, "upside down: ours is added to a root that has not been corrected yet"
                ): eps * correction,
                Partly(1, "the square root is missing: v is corrected under the root"): eps
                / correction**2,
            },
            otherwise="multiply numerator and denominator by sqrt(1 - beta2**t)",
        )


def _alternating(student: Student) -> None:
    found = number("ALTERNATING", prediction(student, "ALTERNATING"))
    if abs(abs(found) - 0.1 / 1.9) < 1e-3:
        return
    if found == 0:
        raise Mistake("nearly, but the last gradient weighs more than the one before")
    if abs(abs(found) - 1) < 1e-9:
        raise Mistake("that is the step where all gradients agree; here they cancel in m")
    raise Mistake("sum (1 - beta1) (1 - beta1 + beta1^2 - ...); v tends to 1")


_PIECES = ("first_moment", "second_moment", "step_size", "update")

LAB = Lab(
    "Adam by hand",
    (
        Task("The first step", 2, _first_step, ("FIRST_STEP_SIZES",)),
        Task("The first moment", 1, _first_moment, ("first_moment",)),
        Task("The second moment", 1, _second_moment, ("second_moment",)),
        Task("Bias correction", 2, _step_size, ("step_size",)),
        Task("The update", 2, _update, ("update",)),
        Task("Training", 3, _train, ("train",), needs=_PIECES),
        Task("Two epsilons", 2, _torch_eps, ("torch_eps",)),
        Task("Disagreement", 2, _alternating, ("ALTERNATING",)),
    ),
    forbidden=("adamoffload", "torch", "jax", "optax", "tensorflow"),
    parts={
        "first_moment": _first_moment_of,
        "second_moment": _second_moment_of,
        "step_size": _step_size_of,
        "update": _update_of,
    },
)
