"""What ours is compared with: recorded runs (see oracle/README.md for their format), plain Adam."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import adamoffload as ao

ORACLE = Path(__file__).parent / "oracle"
CASES: list[dict[str, Any]] = json.loads((ORACLE / "cases.json").read_text())["cases"]
BETTER = {
    "lr_tensor0_negative": "a negative rate is refused",
    "lr_list_negative": "a negative entry is refused",
    "grp_list_and_fixed": "a fixed rate beside a table stays exact",
    "grp_sched_and_fixed": "a fixed rate beside a schedule stays exact",
    "grp_fixed_tiny_and_sched": "a tiny fixed rate beside a schedule stays exact",
    "grp_grad_centralization_ignored": "gradient centralization is applied",
    "beta2_rounds_to_one": "a beta that is 1 in float32 is refused",
    "eps_underflow": "an eps that is 0 in float32 is refused",
    "eps_underflow_zero_grad": "an eps that is 0 in float32 is refused",
}
"""Recordings in which the reference misbehaves, and what happens here instead."""

U = 2.0**-23
IGNORED = 1.2e-37  # denormal range: the reference flushes it in some of its threads
Float64 = np.ndarray[Any, np.dtype[np.float64]]


class PlainAdam:
    """Kingma and Ba's algorithm 1, with epsilon outside of the correction, an operation a line.

    In float64, what exact arithmetic would nearly give; in float32, the rule bit by bit.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        lr: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        *,
        nesterov: bool = False,
        dtype: Any = np.float64,
    ) -> None:
        self.lr, self.beta1, self.beta2, self.eps = map(dtype, (lr, beta1, beta2, eps))
        self.power1 = self.power2 = dtype(1)
        self.m, self.v = np.zeros(shape, dtype), np.zeros(shape, dtype)
        self.nesterov = nesterov

    def step(self, g: Any) -> Any:
        """Return what is added to the weights."""
        beta1, beta2 = self.beta1, self.beta2
        self.power1 = self.power1 * beta1
        self.power2 = self.power2 * beta2
        self.m = np.asarray(beta1 * self.m + (1 - beta1) * g)
        self.v = np.asarray(beta2 * self.v + (1 - beta2) * g * g)
        u = beta1 * self.m + (1 - beta1) * g if self.nesterov else self.m
        return np.asarray(-self.lr_t * u / (np.sqrt(self.v) + self.eps))

    @property
    def lr_t(self) -> Any:
        """The learning rate of the last step, with both corrections."""
        return self.lr * np.sqrt(1 - self.power2) / (1 - self.power1)

    @property
    def rate(self) -> Any:
        """What the last step multiplied m by."""
        return self.lr_t / (np.sqrt(self.v) + self.eps)


class Worst(NamedTuple):
    """Largest errors as fractions of the recorded tolerance."""

    p: float
    m: float
    v: float
    lr: float


class _Linear(ao.LearningRateSchedule):
    def __init__(self, a: float, b: float) -> None:
        self.a, self.b = np.float32(a), np.float32(b)

    def __call__(self, step: int) -> float:
        return float(self.a + self.b * np.float32(step))


class _Inverse(ao.LearningRateSchedule):
    def __init__(self, a: float) -> None:
        self.a = np.float32(a)

    def __call__(self, step: int) -> float:
        return float(self.a / np.float32(step + 1))


def learning_rate(spec: dict[str, Any]) -> Any:
    """Build what a recording passed as a learning rate."""
    kind = spec["kind"]
    if kind in ("float", "int"):
        return spec["value"]
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](spec["values"])
    if kind == "generator":
        return (value for value in spec["values"])
    if kind in ("ndarray", "tensor"):
        return np.array(spec["values"], spec["dtype"])
    if kind in ("schedule", "dynamic_lr"):
        return getattr(ao, spec.get("class") or spec["func"])(**spec["args"])
    assert kind == "custom_schedule"
    return {"linear": _Linear, "inverse": _Inverse}[spec["formula"]](**spec["args"])


def weight_decay(spec: dict[str, Any]) -> Any:
    """Build what a recording passed as a weight decay."""
    return spec["value"] if spec["kind"] in ("float", "int") else _Linear(**spec["args"])


def construct(
    case: dict[str, Any], arrays: Any, kind: Any = ao.AdamOffload, **options: Any
) -> tuple[Any, ao.Backend]:
    """Build the optimizer of a case, an instance of `kind`, on a new device."""
    device = ao.get_backend("numpy")
    parameters = {
        entry["name"]: ao.Parameter(device.asarray(arrays[f"p0_{i}"]), entry["name"])
        for i, entry in enumerate(case["params"])
    }
    arguments = dict(case["ctor"])
    if "learning_rate" in arguments:
        arguments["learning_rate"] = learning_rate(arguments["learning_rate"])
    if "weight_decay" in arguments:
        arguments["weight_decay"] = weight_decay(arguments["weight_decay"])
    if "loss_scale" in arguments:
        arguments["loss_scale"] = arguments["loss_scale"]["value"]
    params: list[Any] = list(parameters.values())
    if case["groups"]:
        params = [_group(group, parameters) for group in case["groups"]]
    return kind(params, **arguments, **options), device


def _group(group: dict[str, Any], parameters: dict[str, ao.Parameter]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in group.items():
        if key in ("params", "order_params"):
            result[key] = [parameters[name] for name in value]
        elif key == "lr":
            result[key] = learning_rate(value)
        elif key == "weight_decay":
            result[key] = weight_decay(value)
        else:
            result[key] = value
    return result


def replay(case: dict[str, Any], kind: Any = ao.AdamOffload, **options: Any) -> Worst:
    """Run a case on a `kind`; return the worst errors as fractions of the tolerance."""
    with np.load(ORACLE / case["file"]) as data:
        arrays = {key: data[key] for key in data.files}
    optimizer, device = construct(case, arrays, kind, **options)
    index = {entry["name"]: i for i, entry in enumerate(case["params"])}
    names = [parameter.name for parameter in optimizer.parameters]
    assert names == case["param_order"]
    events = {event["before_step"]: event["set_lr"] for event in case["events"]}
    scale = case["ctor"].get("loss_scale", {"value": 1.0})["value"]

    worst = dict.fromkeys(Worst._fields, 0.0)
    sizes = {n: np.abs(arrays[f"p0_{index[n]}"]).astype(np.float64) for n in names}
    averages = {name: np.zeros_like(size) for name, size in sizes.items()}
    travelled = dict.fromkeys(names, 0.0)
    for step in range(case["completed_steps"]):
        if step in events:
            optimizer.learning_rate = events[step]
        rates = dict(zip(names, np.broadcast_to(optimizer.get_lr(), len(names)), strict=True))
        decays = dict(
            zip(names, np.broadcast_to(optimizer.get_weight_decay(), len(names)), strict=True)
        )
        before = {p.name: device.asnumpy(p.data) for p in optimizer.parameters}
        gradients = [arrays[f"g_{index[name]}"][step] for name in names]
        optimizer([device.asarray(gradient) for gradient in gradients])
        after = {p.name: device.asnumpy(p.data) for p in optimizer.parameters}
        beta1 = case["ctor"].get("beta1", 0.9)
        for name, gradient in zip(names, gradients, strict=True):
            i = index[name]
            recorded = float(arrays[f"lr_{i}"].ravel()[step])
            largest = float(np.max(np.abs(arrays[f"lr_{i}"])))
            if largest:
                worst["lr"] = max(worst["lr"], abs(rates[name] - recorded) / (4 * U * largest))
            travelled[name] += abs(recorded)
            size = np.abs(gradient.astype(np.float64))
            size += np.abs(before[name] * np.float64(decays[name]) * scale)
            averages[name] = beta1 * averages[name] + (1 - beta1) * size / scale
            sizes[name] = np.maximum(sizes[name], np.abs(after[name]))
            if step + 1 not in case["saved_steps"]:
                continue
            row = case["saved_steps"].index(step + 1)
            p, m, v = (arrays[f"{kind}_{i}"][row] for kind in "pmv")
            moments = optimizer.moment1[name], optimizer.moment2[name]
            ours = after[name], *(device.asnumpy(x) if device.owns(x) else x for x in moments)
            limits = (
                4 * U * (sizes[name] + travelled[name]),
                8 * U * averages[name],
                10 * U * np.abs(v.astype(np.float64)),
            )
            for key, theirs, mine, limit in zip("pmv", (p, m, v), ours, limits, strict=True):
                worst[key] = max(worst[key], _fraction(theirs, mine, limit))
        np.testing.assert_allclose(
            [optimizer.beta1_power, optimizer.beta2_power],
            [arrays["b1p"].ravel()[step], arrays["b2p"].ravel()[step]],
            rtol=2 * U,
        )
        assert optimizer.global_step == arrays["gs"].ravel()[step]
    return Worst(**worst)


def _fraction(theirs: Any, mine: Any, limit: Float64) -> float:
    """Return the largest |mine - theirs| / limit; inf where one alone is not finite."""
    finite = np.isfinite(theirs)
    same = np.isfinite(mine) == finite
    infinite = np.isinf(theirs)
    same &= ~infinite | (theirs == mine)
    if not np.all(same):
        return float("inf")
    difference = np.abs(mine[finite].astype(np.float64) - theirs[finite].astype(np.float64))
    matters = difference > IGNORED
    if not np.any(matters):
        return 0.0
    with np.errstate(divide="ignore"):
        return float(np.max(difference[matters] / limit[finite][matters]))
