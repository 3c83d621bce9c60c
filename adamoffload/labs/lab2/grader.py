"""The grader of lab 2: what each half computes, where it leaves it, and what crossed the link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.labs.compare import close_to, equal, near, predictions
from adamoffload.labs.grading import Lab, Task
from adamoffload.labs.student import Mistake, Student

__all__ = ["LAB"]

_BETA1, _BETA2, _EPS = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
_RATE = np.float32(0.01)
_NUMBERS = (_RATE, _BETA1, _BETA2, _EPS)
_SIZE = 101


def _arrays(count: int) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    rng = np.random.default_rng(2)
    return [rng.standard_normal(_SIZE).astype(np.float32) for _ in range(count)]


def _adam(g: Any, m: Any, v: Any) -> tuple[Any, Any, Any]:
    m = _BETA1 * m + (1 - _BETA1) * g
    v = _BETA2 * v + (1 - _BETA2) * g * g
    return -_RATE * m / (np.sqrt(v) + _EPS), m, v


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
    for design, expected in _BYTES.items():
        what = f"BYTES[{design!r}]"
        given = found[design]
        if not isinstance(given, list | tuple) or len(given) != 3:
            raise Mistake(f"{what} should be three numbers: down, up, kept by the host")
        swapped = (expected[1], expected[0], expected[2])
        if tuple(given) == swapped != expected:
            raise Mistake(f"{what}: down comes first, from the device to the host; then up")
        for part, number, right in zip(
            ("bytes down", "bytes up", "bytes kept"), given, expected, strict=True
        ):
            near(f"{what}, {part},", number, right, otherwise=_BYTES_HINTS[design])


def _host_half(student: Student) -> None:
    g, m, v = _arrays(3)
    v = np.abs(v)
    delta, new_m, new_v = _adam(g, m, v)
    scaled, old_delta = (1 - _BETA1) * g, -_RATE * m / (np.sqrt(v) + _EPS)
    found = student.scenario("host_step", g, m, v, *_NUMBERS)
    rebound = (
        "it is as it was; inside a function, `{0} = ...` only gives the name {0} to another array; "
        "write into the old one with `{0}[...] = ...` or `{0} *= ...`"
    )
    early = "the gradient had been overwritten already when {} was computed from it"
    close_to(
        "after `host_step`, m",
        found["m"],
        new_m,
        known={
            rebound.format("m"): m,
            early.format("m"): _BETA1 * m + (1 - _BETA1) * g * g,
            early.format("m") + " (it held delta)": _BETA1 * m + (1 - _BETA1) * old_delta,
        },
    )
    close_to(
        "after `host_step`, v",
        found["v"],
        new_v,
        known={
            rebound.format("v"): v,
            early.format("v"): _BETA2 * v + (1 - _BETA2) * scaled * scaled,
            early.format("v") + " (it held delta)": _BETA2 * v + (1 - _BETA2) * delta * delta,
            "it averages the gradient; average its square": _BETA2 * v + (1 - _BETA2) * g,
        },
    )
    root = np.sqrt(new_v)
    close_to(
        "after `host_step`, g",
        found["g"],
        delta,
        known={
            "the gradient is still there; delta has to take its place: `g[...] = ...`": g,
            "the sign: delta goes against the gradient": -delta,
            "that is computed with the moments from before this step": old_delta,
            "delta uses m from before this step": -_RATE * m / (root + _EPS),
            "delta uses the gradient in the place of m": -_RATE * g / (root + _EPS),
            "the learning rate is missing": delta / _RATE,
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
    w, delta = _arrays(2)
    found = student.scenario("device_step", w, delta)
    close_to(
        "after `device_step`, w",
        found["w"],
        w + delta,
        rtol=0,
        known={
            "it is as it was; `w = w + delta` gives the name w to a new array; write into the old "
            "one with `w += delta`": w,
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
    w, g, m, v = _arrays(4)
    v = np.abs(v)
    for steps in (1, 3):
        found = student.scenario("offload_step", steps, w, g, m, v, *_NUMBERS)
        expected, new_m, new_v = w, m, v
        for _ in range(steps):
            delta, new_m, new_v = _adam(g, new_m, new_v)
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
                f"expected 4 and 4: {hint}"
            )


def _decay_and_scale(student: Student) -> None:
    w, g = _arrays(2)
    decay, scale = np.float32(0.1), np.float32(64)
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
        changed = {"`prepare` wrote into it; return a new array": found[name]}
        close_to(f"after `prepare`, {name}", found[name], before, rtol=0, known=changed)
    if found["down"] or found["up"]:
        raise Mistake("`prepare` copied over the link; everything that it needs is on the device")


_BITS_HINTS = {
    "plain": "both add the same two float32 numbers and round once; does it matter where?",
    "chunks": "each weight is added to by itself; does it matter when?",
    "half": "rounding delta to 11 binary digits changes it, and the sum sees the difference",
    "double": "here delta itself is not rounded to float32, only the sum is: one rounding, not two",
}


def _same_bits(student: Student) -> None:
    rng = np.random.default_rng(7)
    w = rng.standard_normal(10_000).astype(np.float32)
    exact = 0.01 * rng.standard_normal(10_000)
    delta = exact.astype(np.float32)
    pieces = zip(np.split(w, 10), np.split(delta, 10), strict=True)
    device = {
        "plain": w + delta,
        "chunks": np.concatenate([a + b for a, b in pieces]),
        "half": w + delta.astype(np.float16).astype(np.float32),
        "double": (w.astype(np.float64) + exact).astype(np.float32),
    }
    found = predictions(student, "SAME_BITS", tuple(device))
    for case, result in device.items():
        _truth(f"SAME_BITS[{case!r}]", found[case])
        if bool(found[case]) != np.array_equal(result, w + delta):
            raise Mistake(f"not so for {case!r}: {_BITS_HINTS[case]}")


def _lost(student: Student) -> None:
    rng = np.random.default_rng(8)
    w = rng.uniform(0.5, 2, 2000).astype(np.float32)
    delta = (rng.choice([-1, 1], 2000) * 10 ** rng.uniform(-9, -2, 2000)).astype(np.float32)
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
        Task("Who sends what", 2, _bytes),
        Task("The host half", 3, _host_half),
        Task("Two memories", 1, _two_memories),
        Task("The device half", 1, _device_half),
        Task("The whole step", 3, _whole_step),
        Task("Decay and loss scale", 2, _decay_and_scale),
        Task("The same bits?", 2, _same_bits),
        Task("Lost updates", 1, _lost),
    ),
    forbidden=("adamoffload", "torch", "jax", "optax", "tensorflow", "mindspore"),
)
