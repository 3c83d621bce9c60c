"""Bad numbers: what `on_nonfinite` stops, what it says, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adamoffload as ao
from adamoffload.observe.timeline import step_timeline, timeline_text
from adamoffload.offload.finite import _batches
from adamoffload.reports.summary import totals

from lazy_backend import LazyBackend

Float32 = np.ndarray[Any, np.dtype[np.float32]]
KINDS = [ao.AdamOffload, ao.Adam]
DEVICES: dict[str, Callable[[], ao.Backend]] = {
    "numpy": lambda: ao.get_backend("numpy"),
    "sim": lambda: ao.get_backend("sim"),
    "lazy": LazyBackend,
}
LARGEST = np.finfo(np.float32).max
ROOT = np.nextafter(np.float32(2**64), np.float32(0))  # the largest whose square is finite
BAD = [np.nan, np.inf, -np.inf, LARGEST, -(2.0**64)]


class Run:
    """An optimizer and its device, with gradients by seed and the state on the host."""

    def __init__(self, kind: Any, device: ao.Backend, shapes: Any, **options: Any) -> None:
        rng = np.random.default_rng(0)
        self.device = device
        self.parameters = [
            ao.Parameter(device.asarray(rng.standard_normal(shape, np.float32)), f"p{i}")
            for i, shape in enumerate(shapes)
        ]
        self.optimizer = kind(self.parameters, **options)

    def gradients(self, seed: int) -> list[Float32]:
        rng = np.random.default_rng(seed)
        return [np.asarray(rng.standard_normal(p.shape), np.float32) for p in self.parameters]

    def step(self, gradients: list[Float32]) -> tuple[bool, ...]:
        result: tuple[bool, ...] = self.optimizer([self.device.asarray(g) for g in gradients])
        return result

    def state(self) -> list[bytes]:
        moments = [*self.optimizer.moment1.values(), *self.optimizer.moment2.values()]
        arrays = [*(p.data for p in self.parameters), *moments]
        host = [self.device.asnumpy(x) if self.device.owns(x) else x for x in arrays]
        counters = self.optimizer.beta1_power, self.optimizer.beta2_power
        return [*(x.tobytes() for x in host), repr((counters, self.optimizer.global_step)).encode()]


# -- what is stopped ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_number_is_named_and_nothing_changes(kind: Any, name: str, bad: float) -> None:
    run = Run(kind, DEVICES[name](), [(3,), (2, 3)], on_nonfinite="raise")
    run.step(run.gradients(0))
    before, given = run.state(), run.gradients(1)
    given[1][1, 0] = bad
    told = rf"^{kind.__name__}: step 2: the gradient of 'p1' is {str(np.float32(bad))[:5]}.* at "
    with pytest.raises(FloatingPointError, match=told + r"index \(1, 0\)[.,].*[Nn]othing has ch"):
        run.step(given)
    assert run.state() == before
    assert run.optimizer.nonfinite_steps == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_step_returns_false_and_the_next_is_as_if_it_had_not_been(kind: Any) -> None:
    options = {"learning_rate": [0.1, 0.2, 0.3], "on_nonfinite": "skip"}
    runs = [Run(kind, ao.get_backend("numpy"), [(5,), ()], **options) for _ in range(2)]
    for seed in range(3):
        bad = runs[0].gradients(9)
        bad[1][()] = np.nan
        assert runs[0].step(bad) == (False, False)
        for run in runs:
            assert run.step(run.gradients(seed)) == (True, True)
    assert runs[0].state() == runs[1].state()
    assert runs[0].optimizer.nonfinite_steps == 3
    assert runs[1].optimizer.nonfinite_steps == 0


def test_the_last_element_of_the_last_chunk_counts() -> None:
    run = Run(ao.AdamOffload, ao.get_backend("numpy"), [(7,), (50,)], on_nonfinite="raise")
    small = Run(
        ao.AdamOffload, run.device, [(7,), (50,)], on_nonfinite="raise", chunk_bytes=12, threads=2
    )
    for each in (run, small):
        given = each.gradients(0)
        given[1][-1] = np.nan
        before = each.state()
        with pytest.raises(FloatingPointError, match=r"'p1' is nan at index \(49,\)"):
            each.step(given)
        assert each.state() == before


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_parameter_of_one_element_is_looked_at(shape: tuple[int, ...]) -> None:
    run = Run(ao.AdamOffload, ao.get_backend("numpy"), [shape], on_nonfinite="skip")
    assert run.step([np.full(shape, np.inf, np.float32)]) == (False,)
    assert run.step([np.full(shape, ROOT, np.float32)]) == (True,)
    assert np.isfinite(run.optimizer.moment2["p0"])


@pytest.mark.parametrize(
    ("element", "weight", "options", "passes"),
    [
        (ROOT, 1, {}, True),
        (LARGEST / 2, 1, {"loss_scale": 1e30}, True),
        (1e10, 1, {"loss_scale": 1e-10}, False),  # what was scaled down too far
        (1.0, 1, {"weight_decay": 1e30}, False),
        (-1e30, 1e10, {"weight_decay": 1e20}, True),  # the bound overflows, the sum does not
        (-1e30, 1e10, {"weight_decay": 1e20, "loss_scale": 2.0}, False),
        (1.0, np.inf, {"weight_decay": 0.5}, False),
        (1.0, np.inf, {}, True),  # the parameter itself is nobody's gradient
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_counts_is_what_reaches_adam(
    kind: Any, element: float, weight: float, options: dict[str, Any], passes: bool
) -> None:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.full(3, weight, np.float32)), "w")
    optimizer = kind([w], on_nonfinite="skip", **options)
    assert optimizer([device.asarray(np.full(3, element, np.float32))]) == (passes,)


def test_a_value_that_overflows_on_its_way_is_shown_on_both_ends() -> None:
    run = Run(
        ao.AdamOffload, ao.get_backend("numpy"), [(2,)], loss_scale=1e-30, on_nonfinite="raise"
    )
    with pytest.raises(FloatingPointError, match=r"is 1e\+20 at index \(0,\), and inf with weight"):
        run.step([np.full(2, 1e20, np.float32)])


def test_centralized_gradients_are_looked_at_as_they_reach_adam() -> None:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones((2, 2), np.float32)), "w")
    optimizer = ao.AdamOffload([{"params": [w], "grad_centralization": True}], on_nonfinite="skip")
    even = np.full((2, 2), 1e25, np.float32)
    assert optimizer([device.asarray(even)]) == (True,)  # the mean is all of it
    assert optimizer([device.asarray(np.array([[1e25, -1e25]] * 2, np.float32))]) == (False,)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    st.data(),
    st.sampled_from(KINDS),
    st.sampled_from([0.0, 0.5, 1e19, lambda step: 1e20]),
    st.sampled_from([1.0, 8.0, 1e-15, 1e15]),
)
def test_it_stops_exactly_what_has_no_finite_square(
    data: st.DataObject, kind: Any, decay: Any, scale: float
) -> None:
    numbers = st.floats(width=32) | st.sampled_from([1.0, ROOT, -1e19, 1e20, 3e38])
    g, w = (
        np.array(data.draw(st.lists(numbers, min_size=4, max_size=4)), np.float32) for _ in "gw"
    )
    device = ao.get_backend("numpy")
    optimizer = kind(
        [ao.Parameter(device.asarray(w), "w")],
        weight_decay=decay,
        loss_scale=scale,
        on_nonfinite="skip",
    )
    with np.errstate(all="ignore"):
        wd = np.float32(float(np.float32(decay(0) if callable(decay) else decay)) * scale)
        seen = (g + w * wd if wd else g) * np.float32(1 / scale)
        expected = bool(np.isfinite(seen * seen).all())
    assert optimizer([device.asarray(g)]) == (expected,)
    if expected:
        v = optimizer.moment2["w"]
        assert np.isfinite(device.asnumpy(v) if device.owns(v) else v).all()


def test_the_default_lets_through_what_the_reference_does() -> None:
    run = Run(ao.AdamOffload, ao.get_backend("numpy"), [(3,)])
    assert run.step([np.array([1, np.nan, 1e25], np.float32)]) == (True,)
    assert np.isnan(run.optimizer.moment1["p0"][1])
    assert np.isinf(run.optimizer.moment2["p0"][2])
    assert run.optimizer.nonfinite_steps == 0


# -- what it costs --------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_check_is_a_hop_of_its_own_with_its_bytes(decay: float) -> None:
    ledger, device = ao.Ledger(), ao.get_backend("sim")
    run = Run(
        ao.AdamOffload, device, [(30,), (2, 3)], ledger=ledger, on_nonfinite="skip",
        weight_decay=decay, chunk_bytes=64,
    )  # fmt: skip
    given = run.gradients(0)
    before = device.traffic()
    run.step(given)
    check, *others = (event for event in ledger.events if event.step == 1)
    bytes_ = 8 * (2 if decay else 1)  # two small gradients, looked at together
    assert (check.hop, check.chunk, check.nbytes) == ("check", None, bytes_)
    assert check.start_s < check.stop_s <= min(event.stop_s for event in others)
    assert ledger.bytes("check") == bytes_
    assert ledger.bytes("d2h") == device.traffic().d2h - before.d2h == bytes_ + 4 * 36


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_the_check_of_a_call_that_took_no_step_is_an_event_of_its_own(policy: str) -> None:
    ledger, device = ao.Ledger(), ao.get_backend("sim")
    run = Run(ao.AdamOffload, device, [(30,)], ledger=ledger, on_nonfinite=policy)
    good = run.gradients(0)
    run.step(good)
    bad = [np.full((30,), np.nan, np.float32)]
    for _ in range(2):
        with contextlib.suppress(FloatingPointError):
            run.step(bad)
    device.synchronize()
    run.step(good)
    assert ledger.steps.tolist() == [1, 2]
    first, second = ledger.step_times()
    assert second[1] - second[0] == pytest.approx(first[1] - first[0])
    skipped = [event for event in ledger.events if event.step is None]
    assert {event.hop for event in skipped} == {"check"}
    assert first[1] <= skipped[0].start_s < skipped[-1].stop_s <= second[0]
    assert sum(event.nbytes for event in skipped) == 2 * (8 + 4 * 30)  # and the host looked, too


def test_a_timeline_a_trace_and_a_report_show_the_check(tmp_path: Path) -> None:
    ledger, device = ao.Ledger(), ao.get_backend("sim")
    run = Run(ao.AdamOffload, device, [(300,)], ledger=ledger, on_nonfinite="skip", chunk_bytes=400)
    run.step(run.gradients(0))
    lane = timeline_text(ledger, 1).splitlines()[1]
    assert lane.startswith("device |*")
    assert step_timeline(ledger, 1).chunks == 3
    assert totals(ledger).rows[0][:4] == ("check", "device", "1", "8")
    ao.write_trace(tmp_path / "trace.json", ledger)
    assert '"check"' in (tmp_path / "trace.json").read_text()


def test_without_it_nothing_is_looked_at() -> None:
    ledger = ao.Ledger()
    run = Run(ao.AdamOffload, ao.get_backend("numpy"), [(30,)], ledger=ledger)
    run.step(run.gradients(0))
    assert ledger.bytes("check") == 0
    assert not [event for event in ledger.events if event.hop == "check"]


@pytest.mark.parametrize(
    ("shapes", "limit"),
    [([(100_000,)] * 3, 100), ([(5_000,)] * 200, 4 << 18), ([(60_000,), (70_000,)] * 3, 100)],
)
def test_the_check_takes_no_large_temporary(shapes: Any, limit: int) -> None:
    run = Run(ao.AdamOffload, ao.get_backend("numpy"), shapes, on_nonfinite="raise")
    given = [run.device.asarray(g) for g in run.gradients(0)]
    before = run.device.memory()
    run.optimizer(given)
    assert run.device.memory().used == before.used
    assert run.device.memory().peak - before.used <= limit + 100


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.lists(st.sampled_from([1, 30_000, 65_536, 65_537]), min_size=1, max_size=12),
    st.data(),
)
def test_small_gradients_are_looked_at_together_and_none_is_left_out(
    sizes: list[int], data: st.DataObject
) -> None:
    batches = _batches(sizes)
    assert [i for batch in batches for i in batch] == [*range(len(sizes))]
    for batch in batches:
        together = [sizes[i] for i in batch]
        assert len(batch) == 1 or (max(together) <= 1 << 16 and sum(together) <= 1 << 18)
    run = Run(ao.AdamOffload, ao.get_backend("numpy"), [(n,) for n in sizes], on_nonfinite="raise")
    given = run.gradients(0)
    i = data.draw(st.integers(0, len(sizes) - 1))
    k = data.draw(st.integers(0, sizes[i] - 1))
    given[i][k] = np.nan
    with pytest.raises(FloatingPointError, match=rf"'p{i}' is nan at index \({k},\)"):
        run.step(given)


# -- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "exception"), [("ignore", ValueError), (True, TypeError), (None, TypeError)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_policy_is_refused(kind: Any, value: Any, exception: type[Exception]) -> None:
    with pytest.raises(exception, match=rf"^{kind.__name__}: on_nonfinite must be"):
        Run(kind, ao.get_backend("numpy"), [(1,)], on_nonfinite=value)


@pytest.mark.parametrize("first", [0, 1])
def test_the_largest_decay_of_a_batch_decides(first: int) -> None:
    """Both parameters are looked at together; only one of them is decayed into an overflow."""
    device = ao.get_backend("numpy")
    values = [np.full(4, 1e19, np.float32), np.full(4, 1e19, np.float32)]
    p, q = (ao.Parameter(device.asarray(x), f"p{i}") for i, x in enumerate(values))
    decays = [0.0, 10.0] if first else [10.0, 0.0]
    groups = [{"params": [w], "weight_decay": wd} for w, wd in zip((p, q), decays, strict=True)]
    optimizer = ao.AdamOffload(groups, on_nonfinite="raise")
    small = [device.asarray(np.ones(4, np.float32)) for _ in range(2)]
    with pytest.raises(FloatingPointError, match=f"gradient of 'p{first}'.*square overflows"):
        optimizer(small)
    assert optimizer.global_step == 0
