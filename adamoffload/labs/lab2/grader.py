"""The grader of lab 2: what each half computes, where it leaves it, and what crossed the link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.labs.compare import Partly, close_to, equal, near, predictions, same
from adamoffload.labs.draw import HYPER, arrays, hyper, random
from adamoffload.labs.grading import Lab, Task
from adamoffload.labs.reasons import Mistake
from adamoffload.labs.student import Student

__all__ = ["LAB"]

_SIZE = 101


def _settings(student: Student, task: str) -> tuple[np.random.Generator, Any]:
    """Return random numbers and three settings of (lr_t, beta1, beta2, eps), the usual first."""
    rng = random(student, task)
    return rng, [[np.float32(x) for x in HYPER], hyper(rng), hyper(rng)]


def _adam(g: Any, m: Any, v: Any, lr_t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    return -lr_t * m / (np.sqrt(v) + eps), m, v


def _host_step(g: Any, m: Any, v: Any, *numbers: Any) -> None:
    g[...], m[...], v[...] = _adam(g, m, v, *numbers)


def _device_step(w: Any, delta: Any) -> None:
    w += delta


_BYTES = {
    "weights": (8, 4, 8),
    "weights, host copy": (4, 4, 12),
    "states": (8, 8, 8),
    "delta": (4, 4, 8),
    "delta, 16-bit gradient": (2, 4, 8),
}
_BYTES_HINTS = {
    "weights": "w and g come down, the new w goes up, and w is not kept",
    "weights, host copy": "what is kept besides m and v?",
    "states": "two moments cross in each direction, and the gradient stays where it is; in "
    "between, the host keeps both",
    "delta": "one number comes down, one goes up, and neither is kept",
    "delta, 16-bit gradient": "only the gradient has 2 bytes",
}


def _bytes(student: Student) -> None:
    found = predictions(student, "BYTES", tuple(_BYTES))
    mistakes = [
        mistake
        for design, expected in _BYTES.items()
        if (mistake := _wrong_bytes(design, found[design], expected))
    ]
    if mistakes:
        raise Mistake(str(mistakes[0]), kept=1 if len(mistakes) == 1 else 0)


def _wrong_bytes(design: str, given: object, expected: tuple[int, int, int]) -> Mistake | None:
    what = f"BYTES[{design!r}]"
    given = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(given, list | tuple) or len(given) != 3:
        return Mistake(f"{what} should be three numbers: down, up, kept by the host")
    swapped = (expected[1], expected[0], expected[2])
    if tuple(given) == swapped != expected:
        return Mistake(f"{what}: down comes first, from the device to the host; then up")
    for part, number, right in zip(
        ("bytes down", "bytes up", "bytes kept"), given, expected, strict=True
    ):
        try:
            near(f"{what}, {part},", number, right, otherwise=_BYTES_HINTS[design])
        except Mistake as mistake:
            return mistake
    return None


_REBOUND = (
    "it is as it was; inside a function, `{0} = ...` only gives the name {0} to another array; "
    "write into the old one with `{0}[...] = ...` or `{0} *= ...`"
)
_EARLY = "the gradient had been overwritten already when {} was computed from it"


def _host_half(student: Student) -> None:
    rng, settings = _settings(student, "host_step")
    for numbers in settings:
        g, m, v = arrays(rng, 3)
        v = np.abs(v)
        found = student.scenario("host_step", g, m, v, *numbers)
        _host_half_with(found, g, m, v, *numbers)


def _host_half_with(
    found: Any, g: Any, m: Any, v: Any, lr_t: Any, beta1: Any, beta2: Any, eps: Any
) -> None:
    delta, new_m, new_v = _adam(g, m, v, lr_t, beta1, beta2, eps)
    scaled, old_delta = (1 - beta1) * g, -lr_t * m / (np.sqrt(v) + eps)
    kept = 2 if same(found["g"], delta) else 0  # the rule is right, and in the right order
    close_to(
        "after `host_step`, m",
        found["m"],
        new_m,
        known={
            Partly(kept, _REBOUND.format("m")): m,
            Partly(2, _EARLY.format("m")): beta1 * m + (1 - beta1) * g * g,
            Partly(2, _EARLY.format("m") + " (it held delta)"): beta1 * m + (1 - beta1) * old_delta,
        },
    )
    close_to(
        "after `host_step`, v",
        found["v"],
        new_v,
        known={
            Partly(kept, _REBOUND.format("v")): v,
            Partly(2, _EARLY.format("v")): beta2 * v + (1 - beta2) * scaled * scaled,
            Partly(2, _EARLY.format("v") + " (it held delta)"): beta2 * v
            + (1 - beta2) * delta * delta,
            "it averages the gradient; average its square": beta2 * v + (1 - beta2) * g,
        },
    )
    root = np.sqrt(new_v)
    close_to(
        "after `host_step`, g",
        found["g"],
        delta,
        known={
            Partly(
                2, "the gradient is still there; delta has to take its place: `g[...] = ...`"
            ): g,
            Partly(2, "the sign: delta goes against the gradient"): -delta,
            Partly(2, "that is computed with the moments from before this step"): old_delta,
            Partly(2, "delta uses m from before this step"): -lr_t * m / (root + eps),
            Partly(2, "delta uses the gradient in the place of m"): -lr_t * g / (root + eps),
            Partly(2, "the learning rate is missing"): delta / lr_t,
            Partly(2, "epsilon is missing"): -lr_t * new_m / root,
            Partly(2, "epsilon is inside the square root; add it after"): -lr_t
            * new_m
            / np.sqrt(new_v + eps),
        },
    )


def _two_memories(student: Student) -> None:
    device, other = ao.get_backend("numpy"), ao.get_backend("numpy")
    d = np.ones(3, np.float32)
    w, u = device.asarray(d), device.asarray(d)
    lines: dict[str, Callable[[], object]] = {
        "w + u": lambda: w + u,
        "w + d": lambda: w + d,
        "w + device.asarray(d)": lambda: w + device.asarray(d),
        "w + other.asarray(d)": lambda: w + other.asarray(d),
        "w * 2.0": lambda: w * 2.0,
        "np.sqrt(w * w)": lambda: np.sqrt(w * w),
        "np.asarray(w)": lambda: np.asarray(w),
        "device.asnumpy(w) + d": lambda: device.asnumpy(w) + d,
    }
    found = predictions(student, "RAISES", tuple(lines))
    for line, run in lines.items():
        try:
            run()
            raises = False
        except ao.ResidencyError:
            raises = True
        _truth(f"RAISES[{line!r}]", found[line])
        if bool(found[line]) != raises:
            raise Mistake(
                f"not so for `{line}`: ask for each operand in whose memory it is; arrays of two "
                f"memories do not mix, plain numbers may join anywhere, and only asarray and "
                f"asnumpy copy"
            )


def _truth(what: str, found: object) -> None:
    if not isinstance(found, bool | np.bool_):
        raise Mistake(f"{what} should be True or False, not {found!r}")


def _device_half(student: Student) -> None:
    rng = random(student, "device_step")
    for size in (_SIZE, 1, 8):
        w, delta = arrays(rng, 2, size)
        found = student.scenario("device_step", w, delta)
        close_to(
            "after `device_step`, w",
            found["w"],
            w + delta,
            rtol=0,
            known={
                "it is as it was; `w = w + delta` gives the name w to a new array; write into the "
                "old one with `w += delta`": w,
                "delta was subtracted; it has its sign already": w - delta,
            },
        )
        close_to("after `device_step`, delta", found["delta"], delta, rtol=0)
        if found["down"] or found["up"]:
            raise Mistake("`device_step` copied over the link; the device can add by itself")


_LINK_HINTS = {
    (8, 4): "that is one array too many on the way down; the device adds delta to w by itself",
    (8, 8): "w or the moments cross as well; only g has to come down and delta to go up",
    (4, 8): "one array goes up twice, or another goes up as well",
    (4, 12): "the moments go up as well; they are at home on the host",
    (12, 4): "more than the gradient comes down",
    (8, 12): "w and the moments cross as well; only g has to come down and delta to go up",
    (0, 8): "the moments went up and stayed there; m and v belong to the host",
    (8, 16): "the moments shuttle; compute on the host, where they are",
}


def _whole_step(student: Student) -> None:
    rng, settings = _settings(student, "offload_step")
    for steps, numbers in zip((1, 3, 2), settings, strict=True):
        w, m, v, *gradients = arrays(rng, 3 + steps)
        v = np.abs(v)
        found = student.scenario("offload_step", w, gradients, m, v, *numbers)
        expected, new_m, new_v = w, m, v
        for g in gradients:
            delta, new_m, new_v = _adam(g, new_m, new_v, *numbers)
            expected = expected + delta
        after = f"after {steps} step{'s' if steps > 1 else ''}"
        known = {
            "it has not moved; has delta been added, on the device, in place?": w,
            "the gradient itself was added; it is delta that goes up": w + g,
            "it has moved the other way; delta has its sign already": 2 * w - expected,
        }
        close_to(f"{after}, w", found["w"], expected, rtol=1e-5, known=known)
        kept = "it is as it was; the caller's array has to hold the new moment"
        close_to(f"{after}, m", found["m"], new_m, known={kept: m})
        close_to(f"{after}, v", found["v"], new_v, known={kept: v})
        moved = (found["down"] / steps / _SIZE, found["up"] / steps / _SIZE)
        if moved != (4, 4):
            hint = _LINK_HINTS.get((int(moved[0]), int(moved[1])), "send g down and delta up, once")
            raise Mistake(
                f"for each parameter {moved[0]:g} bytes came down and {moved[1]:g} went up; "
                f"expected 4 and 4: {hint}",
                kept=2,
            )


def _decay_and_scale(student: Student) -> None:
    rng = random(student, "prepare")
    for decay, scale in ((0.1, 64), (rng.uniform(0.2, 0.9), 8), (rng.uniform(0.01, 0.1), 3.5)):
        w, g = arrays(rng, 2)
        _prepared(student, w, g, np.float32(decay), np.float32(scale))


def _prepared(student: Student, w: Any, g: Any, decay: Any, scale: Any) -> None:
    found = student.scenario("prepare", w, g, decay, scale)
    if found["result"] is None:
        kind = found["type"]
        hint = "did you forget `return`?" if kind == "NoneType" else "it should stay on the device"
        raise Mistake(f"`prepare` returned an object of type {kind}, not a device array; {hint}")
    close_to(
        "`prepare`",
        found["result"],
        g / scale + decay * w,
        known={
            "the decay is divided by the loss scale as well, although it was never multiplied by "
            "it": (g + decay * w) / scale,
            "the decay is missing": g / scale,
            "the decay's gradient is decay * w: the 2 of the square cancels decay / 2": g / scale
            + decay / 2 * w,
            "the gradient is still multiplied by the loss scale": g + decay * w,
            "the gradient has to be divided by the loss scale": g + decay * scale * w,
            "it is multiplied by the loss scale; divide": g * scale + decay * w,
            "the sign of the decay: it is added to the gradient, and delta will turn the sign": (
                g / scale - decay * w
            ),
        },
    )
    for name, before in (("w", w), ("g", g)):
        changed = {Partly(1, "`prepare` wrote into it; return a new array"): found[name]}
        close_to(f"after `prepare`, {name}", found[name], before, rtol=0, known=changed)
    if found["down"] or found["up"]:
        raise Mistake(
            "`prepare` copied over the link; everything that it needs is on the device", kept=1
        )


_BITS_HINTS = {
    "plain": "both add the same two float32 numbers and round once; does it matter where?",
    "chunks": "each weight is added to by itself; does it matter when?",
    "half": "rounding delta to 11 binary digits changes it, and the sum sees the difference",
}


def _same_bits(student: Student) -> None:
    rng = np.random.default_rng(7)
    w = rng.standard_normal(10_000).astype(np.float32)
    delta = (0.01 * rng.standard_normal(10_000)).astype(np.float32)
    pieces = zip(np.split(w, 10), np.split(delta, 10), strict=True)
    device = {
        "plain": w + delta,
        "chunks": np.concatenate([a + b for a, b in pieces]),
        "half": w + delta.astype(np.float16).astype(np.float32),
    }
    found = predictions(student, "SAME_BITS", tuple(device))
    for case, result in device.items():
        _truth(f"SAME_BITS[{case!r}]", found[case])
        if bool(found[case]) != np.array_equal(result, w + delta):
            raise Mistake(f"not so for {case!r}: {_BITS_HINTS[case]}")


def _lost(student: Student) -> None:
    rng = random(student, "lost")
    w = rng.uniform(0.5, 2, 2000).astype(np.float32)
    w[::3] = 1  # below a power of two, neighbours are half as far apart as above
    delta = (rng.choice([-1, 1], 2000, p=[0.2, 0.8]) * 10 ** rng.uniform(-20, -2, 2000)).astype(
        np.float32
    )
    delta[::10] = 0
    for dtype in ("float16", "float32", "float64"):
        a, d = w.astype(dtype), delta.astype(dtype)
        still = a + d == a
        equal(
            f"`lost` for {dtype}",
            student.call("lost", w, delta, dtype),
            int(np.sum(still & (delta != 0))),
            known={
                "weights whose delta is 0 should not move and are not lost": int(np.sum(still)),
                "it counts the weights that do move": int(np.sum(~still)),
                "it compares with the weights from before they were rounded": int(
                    np.sum((a + d == w) & (delta != 0))
                ),
                "it does not round to dtype before it adds": int(
                    np.sum((w + delta == w) & (delta != 0))
                ),
                "w has to be rounded, too: add in dtype": int(
                    np.sum((w + d.astype(np.float32) == w) & (delta != 0))
                ),
                "a delta that becomes 0 when it is rounded is lost as well": int(
                    np.sum(still & (d != 0))
                ),
            },
        )


LAB = Lab(
    "The delta trick",
    (
        Task("Who sends what", 2, _bytes, ("BYTES",)),
        Task("The host half", 3, _host_half, ("host_step",)),
        Task("Two memories", 1, _two_memories, ("RAISES",)),
        Task("The device half", 1, _device_half, ("device_step",)),
        Task("The whole step", 3, _whole_step, ("offload_step",), ("host_step", "device_step")),
        Task("Decay and loss scale", 2, _decay_and_scale, ("prepare",)),
        Task("The same bits?", 2, _same_bits, ("SAME_BITS",)),
        Task("Lost updates", 1, _lost, ("lost",)),
    ),
    forbidden=("adamoffload", "torch", "jax", "optax", "tensorflow", "mindspore"),
    parts={"host_step": _host_step, "device_step": _device_step},
)
