"""`on_step`: what a step did, in plain numbers, as an independent count has them."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np
import pytest

import adamoffload as ao

from lazy_backend import LazyBackend

SHAPES = {"a": (7,), "b": (2, 3), "c": ()}


def build(device: Any = None, **options: Any) -> tuple[Any, list[ao.StepRecord]]:
    device = device or ao.get_backend("numpy")
    parameters = [
        ao.Parameter(device.asarray(np.ones(shape, np.float32)), name)
        for name, shape in SHAPES.items()
    ]
    records: list[ao.StepRecord] = []
    options = dict[str, Any](strategy="adam-offload", on_step=records.append) | options
    return ao.Optimizer(parameters, ao.rules.SGD(0.5), **options), records


def gradients(optimizer: Any, seed: int = 0, scale: float = 1.0) -> list[Any]:
    rng = np.random.default_rng(seed)
    shapes = [p.shape for p in optimizer.parameters]
    arrays = [scale * rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return [optimizer.backend.asarray(array.astype(np.float32)) for array in arrays]


def norm_of(optimizer: Any, *arrays: Any) -> float:
    total = sum(np.sum(np.float64(optimizer.backend.asnumpy(x)) ** 2) for x in arrays)
    return math.sqrt(total)


@pytest.mark.parametrize("device", [lambda: ao.get_backend("sim"), LazyBackend, None])
def test_the_numbers_of_a_step(device: Any) -> None:
    ledger = ao.Ledger()
    optimizer, records = build(device and device(), loss_scale=4.0, ledger=ledger)
    optimizer.set_learning_rate(0.125, "b")
    g, loss = gradients(optimizer), optimizer.backend.asarray(np.array(3.5, np.float32))
    before = optimizer.backend.traffic()
    optimizer(g, loss=loss)
    after = optimizer.backend.traffic()
    (record,) = records
    assert (record.step, record.taken, record.loss, record.loss_scale) == (1, True, 3.5, 4.0)
    assert record.gradient_norm == pytest.approx(norm_of(optimizer, *g) / 4, rel=1e-6)
    assert (record.learning_rate, record.learning_rate_min) == (0.5, 0.125)
    loss_bytes = 4
    assert record.d2h_bytes == after.d2h - before.d2h == ledger.bytes("d2h") + loss_bytes
    assert record.h2d_bytes == after.h2d - before.h2d == 4 * 14
    assert ledger.bytes("check", step=1) == 8 * len(SHAPES)
    assert record.seconds > 0
    assert all(type(value) is float for value in record.numbers().values())


def test_a_long_tensor_is_summed_up_in_pieces() -> None:
    device = ao.get_backend("numpy")
    w, ledger = ao.Parameter(device.zeros((1 << 20) + 5), "w"), ao.Ledger()
    records: list[ao.StepRecord] = []
    own = ao.Optimizer([w], ao.rules.SGD(0.0), ledger=ledger, on_step=records.append)
    own([device.asarray(np.full((1 << 20) + 5, 2, np.float32))])
    assert records[0].gradient_norm == pytest.approx(2 * math.sqrt((1 << 20) + 5), rel=1e-6)
    assert ledger.bytes("check") == 8


def test_only_what_has_a_gradient_counts() -> None:
    optimizer, records = build()
    optimizer.set_learning_rate(0.125, "c")
    optimizer.freeze("b")
    g = gradients(optimizer)
    optimizer([None, g[1], g[2]])
    assert records[0].gradient_norm == pytest.approx(norm_of(optimizer, g[2]), rel=1e-6)
    assert records[0].learning_rate == 0.125
    assert records[0].loss is None
    optimizer([None, None, None])
    optimizer.flush()
    assert len(records) == 1  # neither was a step


def test_a_step_that_was_left_out_is_told() -> None:
    ledger = ao.Ledger()
    optimizer, records = build(on_nonfinite="skip", ledger=ledger)
    g = gradients(optimizer)
    optimizer(g)
    g[1][0, 0] = np.inf
    optimizer(g, loss=math.nan)
    optimizer(gradients(optimizer))
    assert [(r.step, r.taken) for r in records] == [(1, True), (1, False), (2, True)]
    assert records[1].gradient_norm == math.inf
    assert math.isnan(records[1].loss or 0)
    assert records[1].h2d_bytes == 0
    assert ledger.steps.tolist() == [1, 2]


def test_over_accumulated_calls_losses_add_up_as_gradients_do() -> None:
    optimizer, records = build(accumulate=3)
    calls = [gradients(optimizer, seed) for seed in range(6)]
    for k, g in enumerate(calls):
        optimizer(g, loss=k)
        assert len(records) == (k + 1) // 3
    assert [(r.step, r.loss) for r in records] == [(1, 0 + 1 + 2), (2, 3 + 4 + 5)]
    total = [sum(optimizer.backend.asnumpy(g[i]) for g in calls[:3]) for i in range(3)]
    expected = math.sqrt(sum(np.sum(np.float64(x) ** 2) for x in total))
    assert records[0].gradient_norm == pytest.approx(expected, rel=1e-5)
    assert records[0].h2d_bytes == 4 * 14


def test_a_call_that_raises_leaves_no_loss_behind() -> None:
    optimizer, records = build(on_nonfinite="raise", accumulate=2)
    g = gradients(optimizer)
    bad = [*g[:2], optimizer.backend.asarray(np.array(np.nan, np.float32))]
    optimizer(g, loss=1)
    with pytest.raises(FloatingPointError):
        optimizer(bad, loss=10)  # the step begins anew
    optimizer(g, loss=100)
    optimizer(g, loss=1000)
    assert [(r.step, r.loss) for r in records] == [(1, 1100)]


def test_submitted_gradients_are_a_step_too() -> None:
    optimizer, records = build()
    optimizer.submit("a", gradients(optimizer)[0])
    optimizer.step(loss=2)
    assert (records[0].loss, records[0].step) == (2.0, 1)


def test_the_callback_may_use_the_optimizer_and_raise() -> None:
    def callback(record: ao.StepRecord) -> None:
        optimizer.learning_rate = record.learning_rate / 2
        optimizer.state_dict()
        if record.step == 2:
            raise ZeroDivisionError

    optimizer, _ = build(on_step=callback, use_locking=True)
    optimizer(gradients(optimizer))
    with pytest.raises(ZeroDivisionError):
        optimizer(gradients(optimizer))
    optimizer(gradients(optimizer))
    assert optimizer.global_step == 3
    assert optimizer.learning_rate == 0.0625


def test_the_faces_have_it_and_bits_do_not_depend_on_it() -> None:
    device, results = ao.get_backend("numpy"), []
    for on_step in (None, lambda record: None):
        w = ao.Parameter(device.asarray(np.ones(5, np.float32)), "w")
        for kind in (ao.Adam, ao.AdamOffload):
            kind([w], on_step=on_step)([device.asarray(np.full(5, 3, np.float32))])
        results.append(device.asnumpy(w.data).tobytes())
    assert results[0] == results[1]


def test_a_wrong_callback() -> None:
    with pytest.raises(TypeError, match="on_step must be a callable that takes a StepRecord, got"):
        build(on_step=3)


def test_a_csv_writer_takes_a_record() -> None:
    file = io.StringIO()
    writer: Any = None

    def callback(record: ao.StepRecord) -> None:
        nonlocal writer
        row = {"step": record.step, **record.numbers()}
        if writer is None:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
        writer.writerow(row)

    optimizer, _ = build(on_step=callback)
    for _ in range(3):
        optimizer(gradients(optimizer), loss=0.5)
    rows = [*csv.DictReader(io.StringIO(file.getvalue()))]
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert float(rows[0]["loss"]) == 0.5
