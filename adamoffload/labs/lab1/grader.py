"""The grader of lab 1: compares with Adam written down once more, and names known mistakes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from adamoffload.labs.compare import close_to, near, number, prediction
from adamoffload.labs.grading import Lab, Task
from adamoffload.labs.student import Mistake, Student

__all__ = ["LAB"]

_BETA1, _BETA2, _EPS = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
_RATE = np.float32(0.01)


def _arrays(count: int) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal(101).astype(np.float32) for _ in range(count)]


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
    g, m = _arrays(2)
    close_to(
        "`first_moment`",
        student.call("first_moment", g, m, _BETA1),
        _BETA1 * m + (1 - _BETA1) * g,
        known={
            "beta1 belongs to the old moment, 1 - beta1 to the gradient": (1 - _BETA1) * m
            + _BETA1 * g,
            "it sums up gradients, but does not average: where is 1 - beta1?": _BETA1 * m + g,
        },
    )


def _second_moment(student: Student) -> None:
    g, v = _arrays(2)
    v = np.abs(v)
    close_to(
        "`second_moment`",
        student.call("second_moment", g, v, _BETA2),
        _BETA2 * v + (1 - _BETA2) * g * g,
        known={
            "it averages the gradient; average its square": _BETA2 * v + (1 - _BETA2) * g,
            "beta2 belongs to the old moment, 1 - beta2 to the square": (1 - _BETA2) * v
            + _BETA2 * g * g,
            "it averages the size of the gradient; average its square": _BETA2 * v
            + (1 - _BETA2) * np.abs(g),
        },
    )


def _step_size(student: Student) -> None:
    for t in (1, 7, 1000):
        p1, p2 = _BETA1 ** np.float32(t), _BETA2 ** np.float32(t)
        c1, c2 = 1 - p1, 1 - p2
        close_to(
            f"`step_size` at t = {t}",
            student.call("step_size", _RATE, p1, p2),
            _RATE * np.sqrt(c2) / c1,
            known={
                "the bias corrections are missing": np.asarray(_RATE),
                "the square root of 1 - beta2_power is missing": _RATE * c2 / c1,
                "the correction of v is missing": _RATE / c1,
                "the correction of m is missing": _RATE * np.sqrt(c2),
                "it is upside down: m is divided by its correction, and v stands in the "
                "denominator, under a root": _RATE * c1 / np.sqrt(c2),
            },
        )


def _update(student: Student) -> None:
    m, v = _arrays(2)
    v = np.abs(v)
    for eps in (_EPS, np.float32(0.5)):
        root = np.sqrt(v)
        close_to(
            f"`update` with eps = {eps:g}",
            student.call("update", m, v, _RATE, eps),
            -_RATE * m / (root + eps),
            known={
                "the sign: what is added to the weights goes against the gradient": _RATE
                * m
                / (root + eps),
                "epsilon is inside the square root; add it after": -_RATE * m / np.sqrt(v + eps),
                "it divides by v; divide by its square root": -_RATE * m / (v + eps),
                "epsilon is missing": -_RATE * m / root,
                "epsilon is added to the quotient; it belongs to the root, in parentheses": -_RATE
                * m
                / root
                + eps,
            },
        )


def _trained(
    w: Any, steps: int, *, powers: str = "float32", keep: bool = True, anew: bool = True
) -> Any:
    steepness = np.linspace(1, 100, w.size, dtype=np.float32)
    start, m, v = w, np.zeros_like(w), np.zeros_like(w)
    p1 = p2 = np.float32(1)
    for t in range(1, steps + 1):
        g = steepness * (w if anew else start)
        if not keep:
            m = v = np.zeros_like(w)
        m = _BETA1 * m + (1 - _BETA1) * g
        v = _BETA2 * v + (1 - _BETA2) * g * g
        p1, p2 = p1 * _BETA1, p2 * _BETA2
        if powers == "none":
            c1 = c2 = np.float32(1)
        elif powers == "from 0":
            c1, c2 = 1 - _BETA1 ** np.float32(t + 1), 1 - _BETA2 ** np.float32(t + 1)
        else:
            c1, c2 = 1 - p1, 1 - p2
        w = w - _RATE * np.sqrt(c2) / c1 * m / (np.sqrt(v) + _EPS)
    return w


def _train(student: Student) -> None:
    start = np.linspace(-1, 1, 33, dtype=np.float32)
    for steps in (1, 2, 50):
        done = student.scenario("train", start, steps, _RATE, _BETA1, _BETA2, _EPS)
        if done["changed"]:
            raise Mistake("`train` changed its argument `w` in place; compute new weights instead")
        close_to(
            f"`train` after {steps} step{'s' if steps > 1 else ''}",
            done["weights"],
            _trained(start, steps),
            rtol=1e-4,
            known={
                "the weights have not moved": start,
                "the moments are lost between steps; begin with zeros once, before the loop": (
                    _trained(start, steps, keep=False)
                ),
                "every step has the gradient of the first; ask for it anew at the new weights": (
                    _trained(start, steps, anew=False)
                ),
                "every weight is nan, as when the powers are a step behind: at first they are 1, "
                "and 1 - 1 divides": np.full_like(start, np.nan),
                "there is no bias correction": _trained(start, steps, powers="none"),
                "the powers are one step ahead: in the first step they are beta1 and beta2": (
                    _trained(start, steps, powers="from 0")
                ),
            },
        )


def _torch_eps(student: Student) -> None:
    for t in (1, 10, 10_000):
        correction = math.sqrt(1 - 0.999**t)
        near(
            f"`torch_eps` at t = {t}",
            student.call("torch_eps", 1e-8, 0.999, t),
            1e-8 / correction,
            rtol=1e-4,
            known={
                "that is our own epsilon; its root has not been corrected, PyTorch's has": 1e-8,
                "upside down: ours is added to a root that has not been corrected yet": (
                    1e-8 * correction
                ),
                "the square root is missing: v is corrected under the root": 1e-8 / correction**2,
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


LAB = Lab(
    "Adam by hand",
    (
        Task("The first step", 2, _first_step),
        Task("The first moment", 1, _first_moment),
        Task("The second moment", 1, _second_moment),
        Task("Bias correction", 2, _step_size),
        Task("The update", 2, _update),
        Task("Training", 3, _train),
        Task("Two epsilons", 2, _torch_eps),
        Task("Disagreement", 2, _alternating),
    ),
    forbidden=("adamoffload", "torch", "jax", "optax", "tensorflow"),
)
