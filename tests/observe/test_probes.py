"""The probe: what it samples equals a plain NumPy run of Adam, however the arena is cut."""

from __future__ import annotations

import copy
import csv
import errno
import math
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.engine.kernel import kernel_type
from adamoffload.engine.program import trace
from adamoffload.engine.team import Workers
from adamoffload.observe.probes import LEVELS
from adamoffload.observe.rows import Watched
from adamoffload.plan.step import Coefficients

Float32 = np.ndarray[Any, np.dtype[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]
SHAPES: Shapes = {"a": (40, 50), "b": (7,), "c": (), "d": (130,)}
NORMS = ("gradient", "m", "v", "step_size", "sqrt_v")
QUANTITIES = (*NORMS, "rate", "ratio")
SERIES = ("lr", "lr_t", "bias1", "bias2", "update_ratio", "eps_limited", "frozen")
BETA1, BETA2, EPS = np.float32(0.9), np.float32(0.999), np.float32(1e-3)
# Squares are added in float32 by blocks of at most 131,072, in another order than NumPy's float64.
SUM_RTOL = 1e-5


def draw(step: int, shapes: Shapes = SHAPES) -> dict[str, Float32]:
    rng = np.random.default_rng(step)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


class Plain:
    """Adam of one parameter, in float32 as written in the paper, for the expected values."""

    def __init__(self, w: Float32, lr: float) -> None:
        self.w = w.ravel().copy()
        self.m = self.v = np.zeros_like(self.w)
        self.lr, self.power1, self.power2 = np.float32(lr), np.float32(1), np.float32(1)

    def step(self, g: Float32) -> dict[str, Any]:
        one = np.float32(1)
        self.g = g.ravel()
        self.power1, self.power2 = self.power1 * BETA1, self.power2 * BETA2
        lr_t = self.lr * np.sqrt(one - self.power2) / (one - self.power1)
        self.m = BETA1 * self.m + (one - BETA1) * self.g
        self.v = BETA2 * self.v + (one - BETA2) * self.g * self.g
        delta = -lr_t * self.m / (np.sqrt(self.v) + EPS)
        before, self.w = self.w, self.w + delta
        m, v, d = (x.astype(np.float64) for x in (self.m, self.v, delta))
        bias1, bias2 = float(one - self.power1), float(one - self.power2)
        with np.errstate(all="ignore"):
            ratio = (m / bias1) / np.sqrt(v / bias2)
        ratio[m == 0] = 0
        return {
            "gradient": self.g.astype(np.float64),
            "m": m,
            "v": v,
            "sqrt_v": np.sqrt(v),
            "step_size": np.abs(d),
            "rate": float(lr_t) / (np.sqrt(v) + float(EPS)),
            "ratio": ratio,
            "delta": delta,
            "lr": float(self.lr),
            "lr_t": float(lr_t),
            "bias1": bias1,
            "bias2": bias2,
            "update_ratio": np.linalg.norm(d) / np.linalg.norm(before.astype(np.float64)),
            "eps_limited": np.mean(np.sqrt(self.v) < EPS),
            "frozen": np.mean(np.isinf(self.v)),
        }


def train(
    probe: ao.Probe | None,
    steps: int = 6,
    shapes: Shapes = SHAPES,
    gradients: Any = draw,
    groups: list[dict[str, Any]] | None = None,
    **options: Any,
) -> ao.AdamOffload:
    device = ao.get_backend(options.pop("backend", "numpy"))
    start = draw(0, shapes)
    parameters = {n: ao.Parameter(device.asarray(x), n) for n, x in start.items()}
    params: Any = list(parameters.values())
    if groups is not None:
        params = [{**g, "params": [parameters[n] for n in g["params"]]} for g in groups]
    optimizer = ao.AdamOffload(params, 0.01, eps=float(EPS), probe=probe, **options)
    for step in range(1, steps + 1):
        given = gradients(step, shapes)
        optimizer([device.asarray(given[p.name]) for p in optimizer.parameters])
    return optimizer


def expected(
    steps: int = 6,
    shapes: Shapes = SHAPES,
    gradients: Any = draw,
    lr: Any = 0.01,
) -> dict[str, list[dict[str, Any]]]:
    plain = {name: Plain(w, lr) for name, w in draw(0, shapes).items()}
    with np.errstate(all="ignore"):
        return {
            name: [adam.step(gradients(t, shapes)[name]) for t in range(1, steps + 1)]
            for name, adam in plain.items()
        }


def sampled(size: int, sample: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The coordinates of a row of `size` that a probe samples."""
    stride = next(s for s in range(math.ceil(size / sample), size + 2) if math.gcd(s, size) == 1)
    return np.arange(0, size, stride)


def everything(probe: ao.Probe) -> list[Any]:
    """All that must be bitwise the same however the arena is cut."""
    found: list[Any] = [probe.quantiles(q, n) for q in QUANTITIES for n in probe.names]
    found += [probe.series(s, n) for s in SERIES if s != "update_ratio" for n in probe.names]
    return found + [probe.trace(*pair) for pair in probe.coordinates]


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("sample", [4096, 100])
def test_quantiles_are_those_of_a_plain_run(quantity: str, sample: int) -> None:
    probe = ao.Probe(sample=sample)
    train(probe)
    for name, steps in expected().items():
        size = math.prod(SHAPES[name])
        at = np.arange(size) if size <= sample else sampled(size, sample)
        for row, step in zip(probe.quantiles(quantity, name), steps, strict=True):
            wanted = np.quantile(step[quantity][at], LEVELS, method="inverted_cdf")
            # rate, ratio and sqrt_v are computed in float32: three roundings
            np.testing.assert_allclose(row, wanted, rtol=4e-7, atol=0)


@pytest.mark.parametrize("quantity", ["gradient", "m", "v", "sqrt_v", "step_size"])
def test_norms_are_over_all_coordinates(quantity: str) -> None:
    probe = ao.Probe(sample=10)
    train(probe)
    for name, steps in expected().items():
        norms = [np.linalg.norm(step[quantity]) for step in steps]
        np.testing.assert_allclose(probe.norm(quantity, name), norms, rtol=SUM_RTOL)
        root = math.sqrt(math.prod(SHAPES[name]))
        np.testing.assert_allclose(probe.rms(quantity, name), np.array(norms) / root, rtol=SUM_RTOL)


@pytest.mark.parametrize("what", SERIES)
def test_series_are_those_of_a_plain_run(what: str) -> None:
    probe = ao.Probe()
    train(probe)
    for name, steps in expected().items():
        wanted = [step[what] for step in steps]
        rtol = SUM_RTOL if what == "update_ratio" else 0
        np.testing.assert_allclose(probe.series(what, name), wanted, rtol=rtol, atol=0)


def test_the_first_ratio_is_the_sign_of_the_gradient() -> None:
    probe = ao.Probe()
    train(probe, steps=1)
    ends = probe.quantiles("ratio", "a")[0, [0, -1]]
    np.testing.assert_allclose(ends, [-1, 1], rtol=4e-7)  # the moments are rounded to float32
    zeros = ao.Probe()
    train(zeros, 1, gradients=lambda *_: {n: np.zeros(s, np.float32) for n, s in SHAPES.items()})
    assert not zeros.quantiles("ratio", "a").any()


def test_traces_hold_every_step_bitwise() -> None:
    probe = ao.Probe(4, coordinates=[("d", 129), ("a", 0), ("c", 0)])
    train(probe)
    for name, index in probe.coordinates:
        trace, steps = probe.trace(name, index), expected()[name]
        assert trace["step"].tolist() == [1, 2, 3, 4, 5, 6]
        for field in ("gradient", "m", "v", "delta"):
            wanted = np.array([step[field][index] for step in steps], np.float32)
            np.testing.assert_array_equal(trace[field], wanted)
    assert probe.steps.tolist() == [1, 5]


@pytest.mark.parametrize("backend", ["numpy", "sim"])
@pytest.mark.parametrize(
    "options",
    [
        {"chunk_bytes": 4},
        {"chunk_bytes": 400},
        {"chunk_bytes": 400, "threads": 1},
        {"engine": "numpy"},
        {"chunk_bytes": 4 * 130},
    ],
    ids=str,
)
def test_results_do_not_depend_on_the_chunks(options: dict[str, Any], backend: str) -> None:
    probes = [ao.Probe(2, sample=50, coordinates=[("a", 1999), ("b", 3)]) for _ in range(2)]
    train(probes[0])
    train(probes[1], backend=backend, **options)
    for one, other in zip(*map(everything, probes), strict=True):
        np.testing.assert_array_equal(one, other)
    for name in SHAPES:  # float32 sums of other blocks: their last digits differ
        for quantity in ("gradient", "m", "v", "sqrt_v", "step_size"):
            one, other = (probe.norm(quantity, name) for probe in probes)
            np.testing.assert_allclose(one, other, rtol=SUM_RTOL)


@pytest.mark.parametrize("engine", ["numpy", "auto"])
def test_blocks_and_threads_change_nothing(engine: str) -> None:
    shapes = {"large": (700_001,), "small": (3,)}
    probes = [ao.Probe(coordinates=[("large", 700_000)]) for _ in range(2)]
    train(probes[0], 2, shapes, engine=engine, threads=1)
    train(probes[1], 2, shapes, engine=engine, threads=3, chunk_bytes=1 << 20)
    for one, other in zip(*map(everything, probes), strict=True):
        np.testing.assert_array_equal(one, other)
    steps = expected(2, shapes)["large"]
    for quantity in ("gradient", "m", "v", "sqrt_v", "step_size"):
        norms = [np.linalg.norm(step[quantity]) for step in steps]
        for probe in probes:
            np.testing.assert_allclose(probe.norm(quantity, "large"), norms, rtol=SUM_RTOL)
    at = sampled(700_001, 512)
    wanted = np.quantile(steps[1]["v"][at], LEVELS, method="inverted_cdf")
    np.testing.assert_array_equal(probes[0].quantiles("v", "large")[1], wanted)


def test_the_sample_meets_every_column_of_a_matrix() -> None:
    columns = sampled(1024 * 1024, 4096) % 1024
    assert len(set(columns.tolist())) == 1024


def test_watching_changes_no_bit_and_no_recorded_byte() -> None:
    ledger = ao.Ledger()
    watched = train(ao.Probe(2, coordinates=[("a", 7)]), ledger=ledger, chunk_bytes=400)
    plain = train(None)
    for one, other in zip(watched.parameters, plain.parameters, strict=True):
        device, reference = one.backend, other.backend
        assert device is not None
        assert reference is not None
        left, right = device.asnumpy(one.data), reference.asnumpy(other.data)
        np.testing.assert_array_equal(left, right)
    size = sum(math.prod(shape) for shape in SHAPES.values())
    assert ledger.bytes("d2h") == ledger.bytes("h2d") == 4 * size * 6


# -- groups ---------------------------------------------------------------------------------------


def test_a_group_is_one_row() -> None:
    probe = ao.Probe(by="group")
    groups: list[dict[str, Any]] = [
        {"params": ["a", "c"], "lr": 0.5},
        {"params": ["d"]},
        {"params": ["b"]},
    ]
    train(probe, groups=groups)
    assert probe.names == ("group 0", "group 1", "group 2")
    assert probe.sizes == {"group 0": 2001, "group 1": 130, "group 2": 7}
    steps = expected(lr=0.5)
    joined = [np.concatenate([steps[n][t]["m"] for n in "ac"]) for t in range(6)]
    np.testing.assert_allclose(
        probe.norm("m", "group 0"), [np.linalg.norm(m) for m in joined], rtol=SUM_RTOL
    )
    at = sampled(2001, 512)
    wanted = [np.quantile(m[at], LEVELS, method="inverted_cdf") for m in joined]
    np.testing.assert_array_equal(probe.quantiles("m", "group 0"), wanted)
    assert probe.series("lr", "group 0").tolist() == [0.5] * 6
    delta = [np.concatenate([steps[n][t]["delta"] for n in "ac"]) for t in range(6)]
    start = np.concatenate([draw(0)[n].ravel() for n in "ac"])
    ratio = np.linalg.norm(delta[0]) / np.linalg.norm(start)
    np.testing.assert_allclose(probe.series("update_ratio", "group 0")[0], ratio, rtol=SUM_RTOL)


def test_a_group_of_which_a_part_is_resident_is_one_row() -> None:
    device, probe = ao.get_backend("numpy"), ao.Probe(by="group", sample=5)
    sizes, given = (30, 7, 40, 9), np.random.default_rng(0).standard_normal((4, 40))
    gradients = [g[:size].astype(np.float32) for g, size in zip(given, sizes, strict=True)]
    params = [ao.Parameter(device.asarray(g), f"p{i}") for i, g in enumerate(gradients)]
    strategy = replace(ao.strategies["adam-offload"], minimum_size=10)  # 30 and 40 come first
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5}]
    opt = ao.Optimizer(groups, ao.rules.SGD(0.1), strategy=strategy, probe=probe)
    opt([device.asarray(g) for g in gradients])
    assert probe.sizes == {"group 0": 37, "group 1": 49}
    for name, parts in (("group 0", gradients[:2]), ("group 1", gradients[2:])):
        row = np.concatenate(parts)
        norm = np.linalg.norm(row.astype(np.float64))
        np.testing.assert_allclose(probe.norm("gradient", name), [norm], rtol=SUM_RTOL)
        wanted = np.quantile(row[sampled(row.size, 5)], LEVELS, method="inverted_cdf")
        np.testing.assert_array_equal(probe.quantiles("gradient", name)[0], wanted)


# -- limits of float32 ----------------------------------------------------------------------------


def constant(value: float) -> Any:
    return lambda _, shapes: {n: np.full(s, value, np.float32) for n, s in shapes.items()}


@pytest.mark.parametrize("engine", ["numpy", "auto"])
@pytest.mark.parametrize("value", [1e-30, 1e-12, 0.1, 1e15, 1e19, 1e25])
def test_norms_neither_overflow_nor_underflow(value: float, engine: str) -> None:
    probe, shapes = ao.Probe(), {"w": (300_000,)}
    train(probe, 1, shapes, constant(value), engine=engine)
    (step,) = expected(1, shapes, constant(value))["w"]
    for quantity in ("gradient", "m", "v", "sqrt_v", "step_size"):
        (norm,) = probe.norm(quantity, "w")
        np.testing.assert_allclose(norm, np.linalg.norm(step[quantity]), rtol=SUM_RTOL)


def test_shares_of_limited_and_of_frozen_coordinates() -> None:
    g = np.array([0, 1e-3, 0.03, 1, 1e25, 1e25, -1e25, 1], np.float32)
    probe = ao.Probe()
    train(probe, 1, {"w": (8,)}, lambda *_: {"w": g})
    assert probe.series("eps_limited", "w").tolist() == [3 / 8]  # sqrt(0.001) g < 0.001
    assert probe.series("frozen", "w").tolist() == [3 / 8]
    assert probe.quantiles("rate", "w")[0, 0] == 0
    assert probe.quantiles("v", "w")[0, -1] == np.inf
    assert not np.isnan(probe.quantiles("v", "w")).any()


def test_the_first_nonfinite_is_the_earliest_quantity_and_the_first_coordinate() -> None:
    def gradients(step: int, shapes: Any) -> dict[str, Float32]:
        given = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        if step == 3:
            given["a"].flat[1500] = 1e30  # its square overflows: v
            given["b"][5] = np.nan
            given["d"][[100, 3]] = np.inf
        return given

    for chunk in (4, 400, 1 << 20):
        probe = ao.Probe()
        train(probe, 4, gradients=gradients, chunk_bytes=chunk)
        assert probe.first_nonfinite == ao.NonFinite(3, "b", 5, "gradient")
    only = ao.Probe()

    def overflow(step: int, shapes: Any) -> dict[str, Float32]:
        given = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        given["a"].flat[[1500, 1501]] = 1e30 if step == 2 else 1
        return given

    train(only, 3, gradients=overflow, chunk_bytes=400)
    assert only.first_nonfinite == ao.NonFinite(2, "a", 1500, "v")
    fine = ao.Probe()
    train(fine)
    assert fine.first_nonfinite is None


def test_nan_passes_through_without_a_warning() -> None:
    probe = ao.Probe()
    train(
        probe,
        2,
        {"w": (5,), "z": (2,)},
        lambda *_: {"w": np.array([1, np.nan, 1, 1, 1], np.float32), "z": np.ones(2, np.float32)},
    )
    for quantity in QUANTITIES:
        assert np.isnan(probe.quantiles(quantity, "w")).all()
        assert np.isfinite(probe.quantiles(quantity, "z")).all()
    assert np.isnan(probe.norm("m", "w")).all()
    assert np.isnan(probe.series("update_ratio", "w")).all()


def test_zero_parameters_have_an_infinite_update_ratio() -> None:
    device, probe = ao.get_backend("numpy"), ao.Probe()
    w = ao.Parameter(device.asarray(np.zeros(3, np.float32)), "w")
    ao.AdamOffload([w], probe=probe)([device.asarray(np.ones(3, np.float32))])
    assert probe.series("update_ratio", "w").tolist() == [np.inf]


# -- life -----------------------------------------------------------------------------------------


def test_nothing_sampled_gives_empty_arrays() -> None:
    probe = ao.Probe(coordinates=[("a", 1)])
    assert (probe.names, probe.sizes, probe.steps.shape) == ((), {}, (0,))
    train(probe, steps=0)
    assert probe.names == ("a", "b", "c", "d")
    assert probe.quantiles("m", "a").shape == (0, 7)
    assert probe.norm("m", "a").shape == probe.series("lr", "a").shape == (0,)
    assert probe.trace("a", 1).shape == (0,)


def test_a_step_that_fails_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ao.Probe(coordinates=[("a", 1)])
    optimizer = train(probe, 2)
    device: Any = optimizer.parameters[0].backend
    gradients = [device.asarray(draw(3)[p.name]) for p in optimizer.parameters]

    def broken(*_: Any) -> Any:
        raise OSError("the link is down")

    monkeypatch.setattr(device, "_h2d", broken)
    with pytest.raises(OSError, match="link is down"):
        optimizer(gradients)
    assert probe.steps.tolist() == probe.trace("a", 1)["step"].tolist() == [1, 2]


def test_a_failure_before_the_first_chunk_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = train(ao.Probe(), 2)
    device: Any = optimizer.parameters[0].backend
    gradients = [device.asarray(draw(3)[p.name]) for p in optimizer.parameters]
    with monkeypatch.context() as broken:
        broken.setattr(device, "_d2h", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            optimizer(gradients)
    assert optimizer(gradients) == (True,) * 4


def test_a_probe_watches_one_optimizer() -> None:
    probe = ao.Probe()
    train(probe, 1)
    with pytest.raises(ValueError, match="watches an optimizer already"):
        train(probe, 1)


def test_a_probe_is_free_when_no_optimizer_came_of_it() -> None:
    probe, ledger = ao.Probe(), ao.Ledger()

    def build(device: ao.Backend, ledger: ao.Ledger | None = None) -> ao.AdamOffload:
        w = ao.Parameter(device.asarray(np.ones(4, np.float32)), "w")
        return ao.AdamOffload([w], ledger=ledger, probe=probe)

    ledger.attach(ao.get_backend("sim"))
    with pytest.raises(ValueError, match="times of another clock"):
        build(ao.get_backend("sim"), ledger)
    with pytest.raises(ao.DeviceMemoryError):
        build(
            ao.get_backend("numpy", memory_bytes=16 + 16)
        )  # parameter and ring, no room for norms
    build(ao.get_backend("numpy"))


def test_a_sampled_step_keeps_no_gradient_alive() -> None:
    device, probe = ao.get_backend("numpy"), ao.Probe()
    w = ao.Parameter(device.asarray(np.zeros(1000, np.float32)), "w")
    optimizer = ao.AdamOffload([w], probe=probe)
    used = device.memory().used
    optimizer([device.asarray(np.ones(1000, np.float32))])
    assert device.memory().used == used


def test_samples_are_summed_up_before_they_take_much_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, bounded, free = ao.Probe(), ao.Probe(), ao.Probe()
    train(one, 1)
    monkeypatch.setattr("adamoffload.observe.probes._PENDING_BYTES", 4 * one._pending[0].nbytes)
    train(bounded, 6)
    assert len(bounded._pending) == 1  # the fifth was too much
    monkeypatch.undo()
    train(free, 6)
    for some, all_of_it in zip(everything(bounded), everything(free), strict=True):
        np.testing.assert_array_equal(some, all_of_it)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "every"),
        ({"by": "layer"}, ValueError, "by must be one of parameter, group, got 'layer'"),
        ({"sample": 1.5}, TypeError, "sample"),
        ({"coordinates": ["a"]}, TypeError, "pairs of a parameter's name and a flat index"),
        ({"coordinates": [("a", -1)]}, TypeError, "flat index >= 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ao.Probe(**arguments)


@pytest.mark.parametrize(("name", "index"), [("a", 2000), ("x", 0)])
def test_a_coordinate_that_does_not_exist_is_refused(name: str, index: int) -> None:
    with pytest.raises(ValueError, match="coordinates has"):
        train(ao.Probe(coordinates=[(name, index)]), 0)


def test_unknown_names_are_answered_with_the_known() -> None:
    probe = ao.Probe()
    train(probe, 1)
    with pytest.raises(ValueError, match=r"no parameter 'x' was seen; seen: a, b, c, d"):
        probe.norm("m", "x")
    with pytest.raises(ValueError, match=r"quantity must be one of gradient, .* got 'u'"):
        probe.quantiles("u", "a")
    with pytest.raises(ValueError, match=r"quantity must be one of .* got 'rate'"):
        probe.norm("rate", "a")
    with pytest.raises(ValueError, match=r"what must be one of lr, .* got 'beta'"):
        probe.series("beta", "a")
    with pytest.raises(ValueError, match=r"\('a', 3\) is not traced"):
        probe.trace("a", 3)


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
def test_a_save_that_fails_leaves_the_old_file(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, path = ao.Probe(), tmp_path / f"p{suffix}"
    train(probe, 2)
    probe.save(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("adamoffload.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        probe.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


ODD = ('=1+1,"x"', "line\nbreak\r\n", "Größe 損失 🙂", "<b>&amp;'", " ../\\ ")


def test_odd_names_survive_in_both_files(tmp_path: Path) -> None:
    shapes = dict.fromkeys(ODD, (3,))
    probe = ao.Probe(coordinates=[(ODD[0], 1)])
    train(probe, 2, shapes)
    probe.save(tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as data:
        assert tuple(data["names"].tolist()) == ODD
        for i, name in enumerate(ODD):
            for k, quantity in enumerate(data["norm_quantities"]):
                np.testing.assert_array_equal(
                    data["norms"][:, i, k], probe.norm(str(quantity), name)
                )
            for k, quantity in enumerate(data["quantities"]):
                np.testing.assert_array_equal(
                    data["quantiles"][:, i, k], probe.quantiles(str(quantity), name)
                )
            for k, what in enumerate(data["series_names"]):
                np.testing.assert_array_equal(
                    data["series"][:, i, k], probe.series(str(what), name)
                )
        np.testing.assert_array_equal(data["traces"][0], probe.trace(ODD[0], 1))
    probe.save(str(tmp_path / "p.csv"))
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows} == set(ODD)
    found = [
        float(row["value"])
        for row in rows
        if (row["name"], row["quantity"], row["statistic"]) == (ODD[1], "v", "quantile 0.5")
    ]
    assert found == probe.quantiles("v", ODD[1])[:, 3].tolist()
    with pytest.raises(ValueError, match=r"must end in \.npz or \.csv, got .*p\.txt"):
        probe.save(tmp_path / "p.txt")


def test_ten_thousand_parameters_are_sampled() -> None:
    shapes = {f"p{i}": (2,) for i in range(10_000)}
    probe = ao.Probe()
    train(probe, 2, shapes)
    assert len(probe.names) == 10_000
    wanted = np.sort(draw(2, shapes)["p9999"])
    assert probe.quantiles("gradient", "p9999")[1, [0, -1]].tolist() == wanted.tolist()


# -- other rules, and parameters without a gradient ------------------------------------------------


class Squares(ao.Rule):
    """A rule whose slots gather squares of gradients."""

    def scalars(self, lr: Any, t: int) -> Mapping[str, Any]:
        return {"lr": lr}

    def update(self, g: Any, /, *slots: Any, lr: Any) -> tuple[Any, ...]:
        return -lr * g, *(g * g + slot for slot in slots)


def keeping(*slots: str, **constants: float) -> Any:
    """Return a rule with these slots and constants."""
    squares = tuple(slot for slot in slots if slot.startswith("v"))
    return type("Keeping", (Squares,), {"slots": slots, "squares": squares, **constants})()


def watch(rule: ao.Rule, probe: ao.Probe, engine: str = "numpy", absent: bool = False) -> None:
    """Have a probe observe one step of two parameters, or of the second alone."""
    device = ao.get_backend("numpy")
    sizes, lr = {"a": 3, "b": 4}, np.float32(0.5)
    arrays = ["g", *rule.slots]
    scalars = {name: np.float32(x) for name, x in rule.scalars(lr, 3).items()}
    kernel = kernel_type("test", engine)(trace(rule.update, arrays, list(scalars)))
    flat = [device.asarray(np.ones(size, np.float32)) for size in sizes.values()]
    probe.attach(Watched(device, tuple(sizes), flat, [0, 1], [0, 0], rule, [kernel]))
    coefficients = Coefficients(lr, np.float32(0), np.float32(1), 3, scalars)
    gradients = [None if absent else flat[0], flat[1]]
    step: Any = SimpleNamespace(
        number=1, gradients=gradients, classes=[0, 0], coefficients=[coefficients]
    )
    observer = probe.observe(step)
    start = 3 if absent else 0
    chunk = [np.arange(1, 8, dtype=np.float32)[start:] for _ in arrays]
    values = kernel.program.bind(scalars)
    observer.update(Workers(2), kernel, start, chunk, [(0, 7 - start, values)])
    observer.close()


@pytest.mark.parametrize("engine", ["numpy", "auto"])
@pytest.mark.parametrize(
    ("rule", "quantities", "numbers"),
    [
        (keeping(), "gradient step_size", "lr update_ratio"),
        (keeping("m", beta1=0.9, beta2=0.99), "gradient m step_size", "lr update_ratio"),
        (
            keeping("v", eps=1e-10),
            "gradient v step_size sqrt_v",
            "lr update_ratio",
        ),
        (
            keeping("m", "v", "v_max", beta1=0.9, beta2=0.99, eps=1e-8),
            "gradient m v v_max step_size sqrt_v sqrt_v_max",
            "lr update_ratio",
        ),
    ],
    ids=["none", "m", "v", "m, v, v_max"],
)
def test_a_probe_shows_what_a_rule_keeps(
    rule: ao.Rule, quantities: str, numbers: str, engine: str
) -> None:
    probe = ao.Probe(coordinates=[("b", 1)])
    watch(rule, probe, engine)
    assert probe.quantities == tuple(quantities.split())
    assert probe.numbers == tuple(numbers.split())
    assert probe.slots == rule.slots
    g = np.array([4.0, 5, 6, 7])
    kept = g * g + g
    for quantity in probe.norm_quantities:
        roots = np.sqrt(kept) if quantity.startswith("sqrt") else kept
        wanted = {"gradient": g, "step_size": g / 2}.get(quantity, roots)
        np.testing.assert_allclose(probe.norm(quantity, "b"), [np.linalg.norm(wanted)], rtol=1e-6)
        np.testing.assert_allclose(probe.quantiles(quantity, "b")[0, [0, -1]], wanted[[0, -1]])
    assert probe.trace("b", 1).dtype.names == ("step", "gradient", *rule.slots, "delta")
    assert probe.trace("b", 1).tolist() == [(1, 5.0, *[30.0] * len(rule.slots), -2.5)]


def test_rates_of_a_rule_that_corrects_epsilon() -> None:
    probe = ao.Probe()
    watch(ao.rules.AdamW(beta1=0.9, beta2=0.5, eps=1.8), probe)
    bias1, bias2 = 1 - 0.9**3, 1 - 0.5**3
    g = np.array([1.0, 2, 3])
    roots = np.sqrt((g + g * g) / 2 / bias2)  # v was g
    assert probe.series("lr_t", "a")[0] == pytest.approx(0.5 * bias2**0.5 / bias1)
    assert probe.series("eps_limited", "a")[0] == np.mean(roots < 1.8) == 1 / 3
    assert probe.series("eps_limited", "b")[0] == 0
    ends = probe.quantiles("rate", "a")[0, [0, -1]]
    rates = 0.5 / bias1 / (roots + 1.8)
    np.testing.assert_allclose(ends, rates[[2, 0]], rtol=4e-7)  # three roundings to float32


def test_a_parameter_that_a_step_leaves_alone_has_nan_in_its_row() -> None:
    probe = ao.Probe(coordinates=[("a", 1), ("b", 0)])
    watch(ao.rules.AdamW(), probe, absent=True)
    for quantity in probe.quantities:
        assert np.isnan(probe.quantiles(quantity, "a")).all()
        assert np.isfinite(probe.quantiles(quantity, "b")).all()
    for quantity in probe.norm_quantities:
        assert np.isnan(probe.norm(quantity, "a")).all()
        assert np.isfinite(probe.norm(quantity, "b")).all()
    for what in probe.numbers:
        assert np.isnan(probe.series(what, "a")).all()
        assert np.isfinite(probe.series(what, "b")).all()
    assert np.isnan(probe.trace("a", 1)["delta"]).all()
    assert probe.trace("b", 0)["gradient"].tolist() == [4.0]
    assert probe.first_nonfinite is None


# -- as a value -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
def test_a_probe_pickles_with_all_that_it_has_read(copied: Any) -> None:
    probe = ao.Probe(2, coordinates=[("a", 7)])
    train(probe)
    again = copied(probe)
    for one, other in zip(everything(again), everything(probe), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (again.names, again.sizes) == (probe.names, probe.sizes)
    with pytest.raises(ValueError, match="watches an optimizer already"):
        train(again, 1)


def test_a_probe_says_what_it_has_sampled() -> None:
    probe = ao.Probe(2)
    assert repr(probe) == "Probe(every=2, by='parameter', sample=512): 0 samples of 0 parameters"
    assert "0 samples" in probe._repr_html_()
    train(probe, 3, {"<w>": (4,), **{f"p{i}": (1,) for i in range(30)}})
    assert repr(probe).endswith("2 samples of 31 parameters")
    page = probe._repr_html_()
    assert f"<td>&lt;w&gt;</td><td>4</td><td>{probe.rms('gradient', '<w>')[-1]:.3g}</td>" in page
    assert "step 3, the last of 2 sampled" in page
    assert "and 11 more" in page


def test_a_table_holds_all_samples() -> None:
    probe = ao.Probe(2)
    train(probe, 3)
    table = probe.to_array()
    chosen = table[(table["name"] == "d") & (table["quantity"] == "v")]
    norms = chosen[chosen["statistic"] == "norm"]
    assert norms["step"].tolist() == [1, 3]
    assert norms["value"].tolist() == probe.norm("v", "d").tolist()
    medians = chosen[chosen["statistic"] == "quantile 0.5"]
    assert medians["value"].tolist() == probe.quantiles("v", "d")[:, 3].tolist()


def test_the_bytes_of_a_pending_sample_are_those_of_its_arrays() -> None:
    few, many = ao.Probe(), ao.Probe()
    train(few, 1, {"w": (100,)})
    train(many, 1, {"w": (300,)})
    added = many._pending[0].nbytes - few._pending[0].nbytes
    assert added == 4 * 200 * 4  # gradient, m, v and update of 200 more coordinates, in float32
    assert few._pending[0].nbytes > 4 * 100 * 4 + 8 * (5 + 7)  # and norms and series
