"""Steps in time: gradients that leave early or are late, scales; and what goes wrong."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import adamoffload as ao
from adamoffload.offload.transfer import on_host

import faults
from plain import Plain

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SIZES = (30, 7, 24)
RULE = ao.rules.AdamW(learning_rate=0.125, weight_decay=0.25)
LATE = ao.strategies["zero-offload-delayed"]


class Training:
    """An optimizer, and what its weights and gradients are on the host."""

    def __init__(
        self, strategy: Any, dtype: Any = np.float32, backend: str = "numpy", **options: Any
    ) -> None:
        self.device, self.rng, self.dtype = ao.get_backend(backend), np.random.default_rng(0), dtype
        values = {f"p{i}": self.drawn(n) for i, n in enumerate(SIZES)}
        self.parameters = [ao.Parameter(self.device.asarray(x), n) for n, x in values.items()]
        self.plain = Plain(RULE, values)
        options = {"rule": RULE, "chunk_bytes": 48, **options}
        self.optimizer = ao.Optimizer(self.parameters, strategy=strategy, **options)

    def drawn(self, size: int) -> Any:
        return self.rng.standard_normal(size, np.float32).astype(self.dtype)

    def gradients(self) -> dict[str, Any]:
        return {p.name: self.drawn(p.size) for p in self.parameters}

    def apply(self, gradients: dict[str, Any]) -> None:
        numbers = [dict.fromkeys(gradients, x) for x in (RULE.learning_rate, RULE.weight_decay)]
        self.plain.step(gradients, *numbers)

    def give(self, gradients: dict[str, Any]) -> tuple[bool, ...]:
        given = {name: self.device.asarray(g) for name, g in gradients.items()}
        return self.optimizer(given)

    def check(self) -> None:
        for p in self.parameters:
            np.testing.assert_array_equal(self.device.asnumpy(p.data), self.plain.weights[p.name])
        for slot in RULE.slots:
            for name, x in self.optimizer.state[slot].items():
                np.testing.assert_array_equal(on_host(self.device, x), self.plain.slots[slot][name])


@pytest.mark.parametrize("backend", ["numpy", "sim"])
@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16], ids=str)
@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_a_delayed_step_applies_the_gradient_before(warmup: int, dtype: Any, backend: str) -> None:
    """J. Ren et al., arXiv:2101.06840, section 5.2: the table of its figure 6."""
    run = Training(replace(LATE, warmup_steps=warmup), dtype, backend)
    held = None
    for i in range(6):
        g = run.gradients()
        moved = run.give(g)
        if i < warmup:
            run.apply(g)
        else:
            assert moved == (held is not None,) * 3
            if held is not None:
                run.apply(held)
            held = g
            assert run.optimizer.pending == 1
        run.check()
        assert run.optimizer.global_step == run.plain.steps
    assert run.optimizer.flush() == (True,) * 3
    assert held is not None
    run.apply(held)
    run.check()
    assert run.optimizer.pending == 0
    assert run.optimizer.flush() == (False,) * 3
    assert run.optimizer.global_step == 6


def test_a_delayed_gradient_is_clipped_by_its_own_norm() -> None:
    run = Training(replace(LATE, warmup_steps=0), max_norm=0.5)
    run.plain = Plain(RULE, run.plain.weights, max_norm=0.5)
    first, second = run.gradients(), {n: 100 * g for n, g in run.gradients().items()}
    run.give(first)
    run.give(second)
    run.apply(first)
    run.check()
    run.optimizer.flush()
    run.apply(second)
    run.check()


def test_a_gradient_that_is_still_to_be_applied_is_not_forgotten_by_a_checkpoint() -> None:
    run = Training(replace(LATE, warmup_steps=0))
    run.give(run.gradients())
    with pytest.raises(RuntimeError, match="a gradient is still to be applied; flush"):
        run.optimizer.state_dict()
    run.optimizer.flush()
    assert run.optimizer.state_dict()["global_step"] == 1


class Moody(ao.LearningRateSchedule):
    """The rule's learning rate, or an error."""

    bad = False

    def __call__(self, step: int) -> Any:
        if self.bad:
            raise ZeroDivisionError
        return RULE.learning_rate


@pytest.mark.parametrize("flush", [False, True])
def test_a_gradient_that_is_late_stays_when_its_step_fails(flush: bool) -> None:
    moody = Moody()
    run = Training(replace(LATE, warmup_steps=0), rule=replace(RULE, learning_rate=moody))
    first, second = run.gradients(), run.gradients()
    run.give(first)
    moody.bad = True
    act = run.optimizer.flush if flush else partial(run.give, second)
    with pytest.raises(ZeroDivisionError):
        act()
    assert run.optimizer.pending == 1
    run.check()
    moody.bad = False
    run.give(second)
    run.apply(first)
    run.check()
    run.optimizer.flush()
    run.apply(second)
    run.check()


def test_what_cannot_be_combined_is_refused() -> None:
    no_master = ao.Strategy(state="host", arithmetic="host", delay=1)
    w = ao.Parameter(ao.get_backend("numpy").zeros(3), "w")
    with pytest.raises(ValueError, match="no master on the host by which they could be scaled"):
        ao.Optimizer([w], ao.rules.Adam(weight_decay=0.1), strategy=no_master)
    for options in ({"max_norm": 1.0}, {"on_nonfinite": "skip"}):
        with pytest.raises(ValueError, match="keeps the sum of micro-steps on the host"):
            Training("deepspeed-zero2", accumulate=2, **options)
        run = Training("resident", accumulate=2, **options)
        with pytest.raises(ValueError, match="keeps the sum of micro-steps on the host"):
            run.optimizer.to("deepspeed-zero2")


def test_a_submitted_gradient_leaves_and_its_memory_is_free() -> None:
    run = Training("zero-offload", chunk_bytes=1 << 20)
    alone = Training("zero-offload", chunk_bytes=4 * 30)
    before = alone.device.memory().used
    g = alone.gradients()
    for name in ("p0",):
        alone.optimizer.submit(name, alone.device.asarray(g[name]))
    alone.optimizer._pipeline.around.leaving.clear()  # it is down
    assert alone.device.memory().used == before
    for name in ("p1", "p2"):
        alone.optimizer.submit(name, alone.device.asarray(g[name]))
    alone.optimizer.step()
    alone.apply(g)
    alone.check()
    assert run.optimizer.global_step == 0


def test_memory_counts_gradients_that_rest_on_the_host() -> None:
    run = Training("zero-offload", BFLOAT16)
    before = run.optimizer.memory().host
    run.optimizer.submit("p0", run.device.asarray(run.gradients()["p0"]))
    assert run.optimizer.memory().host - before == 2 * sum(SIZES)


def test_a_failed_submission_is_never_half_a_step() -> None:
    run = Training("zero-offload", chunk_bytes=4 * 30)
    g = {name: run.device.asarray(x) for name, x in run.gradients().items()}
    run.optimizer.submit("p0", g["p0"])
    pipeline: Any = run.optimizer._pipeline
    down = pipeline._down

    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    pipeline._down = broken
    run.optimizer.submit("p1", g["p1"])  # it waits for its neighbour
    with pytest.raises(KeyboardInterrupt):
        run.optimizer.submit("p2", g["p2"])
    pipeline._down = down
    run.optimizer.submit("p1", g["p1"])
    with pytest.raises(RuntimeError, match=r"with it were dropped p0, p2; submit them again"):
        run.optimizer.step()
    for name in ("p0", "p2"):
        run.optimizer.submit(name, g[name])
    assert run.optimizer.step() == (True,) * 3
    run.apply({name: run.device.asnumpy(x) for name, x in g.items()})
    run.check()


def test_an_interrupted_submission_is_taken_or_dropped_and_never_forgotten() -> None:
    setting = faults.Setting(
        ao.Optimizer,
        "numpy",
        ((4,),),
        (("rule", RULE), ("strategy", "zero-offload"), ("engine", "numpy")),
    )
    for k in (*range(30, 100), *range(100, 10_000, 29)):
        subject = setting.build()
        optimizer, (gradient,) = subject.optimizer, subject.gradients[0]
        interrupt = faults.Interrupt(k, subject=subject)
        with suppress(KeyboardInterrupt), interrupt.armed():
            optimizer.submit("p0", gradient)
        with suppress(ValueError):  # it was submitted already
            optimizer.submit("p0", gradient)
        assert optimizer.step() == (True,), k
        if interrupt.lines <= k:  # it came to its end
            break
    assert 100 < k < 9_900


def test_what_waits_for_its_neighbours_is_dropped_with_its_step() -> None:
    moody = Moody()
    run = Training("zero-offload", rule=replace(RULE, learning_rate=moody), chunk_bytes=1 << 20)
    g = run.gradients()
    run.optimizer.submit("p0", run.device.asarray(g["p0"]))
    moody.bad = True
    with pytest.raises(ZeroDivisionError):
        run.optimizer.step()
    moody.bad = False
    run.give(g)
    run.apply(g)
    run.check()


def test_what_was_submitted_can_be_discarded() -> None:
    run = Training("zero-offload")
    g = run.gradients()
    run.optimizer.submit("p0", run.device.asarray(g["p0"]))
    with pytest.raises(RuntimeError, match="step\\(\\) must end this step, not a call"):
        run.give(g)
    run.optimizer.discard()
    run.give(g)
    run.apply(g)
    run.check()


def test_a_dynamic_scale_skips_backs_off_and_grows() -> None:
    scale = ao.DynamicLossScale(init_scale=8.0, growth_interval=2)
    run = Training("zero-offload", np.float16, loss_scale=scale)
    assert run.optimizer.loss_scale == 8.0
    for bad, expected in ((True, 4.0), (False, 4.0), (False, 8.0)):
        g = run.gradients()
        factor = np.float16(run.optimizer.loss_scale)
        scaled = {name: x * factor for name, x in g.items()}
        if bad:
            scaled["p1"][3] = np.inf
        assert run.give(scaled) == (not bad,) * 3
        if not bad:
            run.apply({n: (x / factor).astype(np.float16) for n, x in scaled.items()})
        assert run.optimizer.loss_scale == expected
    run.check()
    state = run.optimizer.state_dict()
    other = Training("zero-offload", np.float16, loss_scale=ao.DynamicLossScale())
    other.optimizer.load_state_dict(state)
    assert other.optimizer.loss_scale == 8.0


def test_the_quirk_halves_the_step_in_which_the_scale_grows() -> None:
    """DeepSpeed doubles the scale before gradients are divided by it."""
    device, moved = ao.get_backend("numpy"), []
    scale = ao.DynamicLossScale(init_scale=8.0, growth_interval=2, grows_first=True)
    w = ao.Parameter(device.zeros(1), "w")
    optimizer = ao.Optimizer([w], ao.rules.SGD(learning_rate=1.0), loss_scale=scale)
    for _ in range(4):
        before = device.asnumpy(w.data)
        g = np.full(1, 0.0625 * optimizer.loss_scale, np.float32)
        optimizer([device.asarray(g)])
        moved.append(float((before - device.asnumpy(w.data))[0]))
    assert moved == [0.0625, 0.03125, 0.0625, 0.03125]


# -- a device that fails late ---------------------------------------------------------------------


def lazily(strategy: Any, **options: Any) -> faults.Subject:
    """Return an optimizer on a device that does everything as late as it may."""
    options = {"rule": RULE, "strategy": strategy, "chunk_bytes": 16, "engine": "numpy", **options}
    return faults.Setting(ao.Optimizer, "lazy", ((4,), (4,)), tuple(options.items())).build()


def submit(subject: faults.Subject) -> None:
    for p, g in zip(subject.parameters, subject.gradients[0], strict=True):
        subject.optimizer.submit(p, g)


def same(subject: faults.Subject, twin: faults.Subject) -> None:
    for p, q in zip(subject.parameters, twin.parameters, strict=True):
        x, y = on_host(subject.device, p.data), on_host(twin.device, q.data)
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("fails", ["submit", "step"])
def test_a_gradient_whose_copy_fails_can_be_submitted_again(fails: str) -> None:
    subject, twin = lazily("zero-offload", slots=1 if fails == "submit" else 3), lazily("resident")
    broken = faults.Broken("_d2h", "wait", 0, subject)
    if fails == "step":
        with broken.armed():
            submit(subject)
        with pytest.raises(faults.Fault):
            subject.optimizer.step()
    else:
        with broken.armed(), pytest.raises(faults.Fault):
            submit(subject)
    submit(subject)
    assert subject.optimizer.step() == (True, True)
    twin.step(0)
    same(subject, twin)


def test_an_update_that_was_lost_is_told_after_a_discarded_step() -> None:
    subject = lazily("zero-offload")
    subject.step(0)
    broken = faults.Broken("run_on_device", "wait", 3, subject)  # behind two that prepare
    with broken.armed():
        subject.step(1)
    assert broken.calls == 4
    subject.optimizer.discard()
    with pytest.raises(RuntimeError, match=r"the update of 'p1' in step 2 was lost"):
        subject.optimizer.state_dict()


@pytest.mark.parametrize("options", [{}, {"max_norm": 0.5}])
def test_a_late_gradient_that_is_lost_is_told(options: dict[str, Any]) -> None:
    subject = lazily(replace(LATE, warmup_steps=0), **options)
    hook = "run_on_device" if options else "_d2h"  # the look at it, or its way down
    with faults.Broken(hook, "wait", 0, subject).armed():
        subject.step(0)
    with pytest.raises(faults.Fault):
        subject.step(1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"step 1 failed half-way \(Fault: late\).*'p0'"):
            subject.step(1)


# -- micro-steps ----------------------------------------------------------------------------------


def micro_step(subject: faults.Subject, number: int, *, early: bool) -> None:
    if early:
        for p, g in zip(subject.parameters, subject.gradients[number], strict=True):
            with suppress(ValueError):  # it was submitted already
                subject.optimizer.submit(p, g)
        subject.optimizer.step()
    else:
        subject.step(number)


def one_of_three(strategy: Any, *, early: bool) -> faults.Subject:
    options = {"strategy": strategy, "accumulate": 3, "rule": RULE, "engine": "numpy"}
    shapes = ((4,), (3,))
    subject = faults.Setting(ao.Optimizer, "numpy", shapes, tuple(options.items())).build()
    micro_step(subject, 0, early=early)
    return subject


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("strategy", ["zero-offload", "deepspeed-zero2"])
def test_a_gradient_is_never_added_twice_after_an_interrupt(strategy: Any, early: bool) -> None:
    twin, outcomes = one_of_three(strategy, early=early), set()
    for number in (1, 2):
        micro_step(twin, number, early=early)
    for k in range(0, 10_000, 13):
        subject = one_of_three(strategy, early=early)
        optimizer, interrupt = subject.optimizer, faults.Interrupt(k, subject=subject)
        with suppress(KeyboardInterrupt), interrupt.armed():
            micro_step(subject, 1, early=early)
        if interrupt.lines <= k:  # it came to its end
            break
        if optimizer._integrity._verdict:
            outcomes.add("refused")
            continue
        outcomes.add("dropped" if optimizer._dropped else "pending")
        if optimizer._dropped:
            optimizer.discard()
        for number in range(optimizer.pending, 3):
            micro_step(subject, number, early=early)
        same(subject, twin)
    assert outcomes == {"pending", "dropped" if early else "refused"}


def test_a_flush_that_is_interrupted_makes_no_micro_steps() -> None:
    for k in range(12):
        subject = one_of_three("zero-offload", early=False)
        interrupt = faults.Interrupt(k, subject=subject)
        with pytest.raises(KeyboardInterrupt), interrupt.armed():
            subject.optimizer.flush()
        assert subject.optimizer.pending in (0, 1), k


def test_a_notebook_shows_where_the_bytes_are() -> None:
    run = Training("zero-offload")
    page = run.optimizer._repr_html_()
    assert "<caption>Optimizer(3 parameters, 61 elements" in page
    for held in run.optimizer.memory().holdings:
        cells = (held.place, held.kind, f"{held.nbytes:,}")
        assert "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" in page
