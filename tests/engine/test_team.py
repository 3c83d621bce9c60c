"""Blocks and threads: every element once, the same bits, and no thread left behind."""

from __future__ import annotations

import os
import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adamoffload as ao
from adamoffload.engine.kernel import NumpyKernel, kernel_type
from adamoffload.engine.program import trace
from adamoffload.engine.team import Workers, _Worker, available_cores
from adamoffload.rules.adam import adam

SCALARS: Any = {
    "lr_t": np.float32(0.01),
    "beta1": np.float32(0.9),
    "beta2": np.float32(0.999),
    "eps": np.float32(1e-8),
}
ADAM = trace(adam, ["g", "m", "v"], list(SCALARS))
COUNT = trace(lambda x, *, a: (x + a,), ["x"], ["a"])


class SmallBlocks(NumpyKernel):
    """Blocks small enough that a short array has many."""

    block_size = 100


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.integers(0, 500), max_size=6), st.integers(1, 4), st.integers(1, 200))
def test_every_element_of_the_spans_is_computed_once(
    sizes: list[int], threads: int, block_size: int
) -> None:
    kernel = NumpyKernel(COUNT)
    kernel.block_size = block_size
    ends = np.cumsum([0, *sizes])
    spans = [
        (int(start), int(stop), COUNT.bind({"a": np.float32(i)}))
        for i, (start, stop) in enumerate(pairwise(ends), start=1)
    ]
    x = np.zeros(int(ends[-1]) + 3, np.float32)
    Workers(threads).update(kernel, [x], spans)
    expected = np.concatenate([np.repeat(np.arange(1, len(sizes) + 1), sizes), np.zeros(3)])
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_result_does_not_depend_on_threads(threads: int) -> None:
    rng = np.random.default_rng(0)
    rows = [row.copy() for row in rng.standard_normal((3, 200_003)).astype(np.float32)]
    rows[2] = np.abs(rows[2])
    expected = adam(*rows, **SCALARS)
    Workers(threads).update(NumpyKernel(ADAM), rows, [(0, 200_003, ADAM.bind(SCALARS))])
    for row, wanted in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row, wanted)


def test_team_keeps_its_threads_and_scratch() -> None:
    team, kernel = Workers(3), NumpyKernel(COUNT)
    x = np.zeros(200_000, np.float32)
    values = COUNT.bind({"a": np.float32(1)})
    team.update(kernel, [x], [(0, x.size, values)])
    before = threading.active_count()
    for _ in range(50):
        team.update(kernel, [x], [(0, x.size, values)])
    assert threading.active_count() <= max(before, 3)
    assert np.all(x == 51)


def test_threads_of_a_forgotten_team_end() -> None:
    before = set(threading.enumerate())
    team = Workers(3)
    x = np.zeros(200_000, np.float32)
    team.update(NumpyKernel(COUNT), [x], [(0, x.size, COUNT.bind({"a": np.float32(1)}))])
    helpers = set(threading.enumerate()) - before
    assert helpers
    del team
    for thread in helpers:
        thread.join(timeout=10)
        assert not thread.is_alive()


@pytest.mark.parametrize("failing", ["caller", "helper"])
def test_error_in_any_thread_is_raised_when_all_have_stopped(failing: str) -> None:
    main = threading.current_thread()
    helping = threading.Event()
    running = 0

    class Failing(SmallBlocks):
        def __call__(self, arrays: Any, values: Any, scratch: Any) -> None:
            nonlocal running
            running += 1
            try:
                if threading.current_thread() is main:
                    assert helping.wait(timeout=30)  # or the caller might do it all by itself
                helping.set()
                super().__call__(arrays, values, scratch)
                if (threading.current_thread() is main) == (failing == "caller"):
                    raise ArithmeticError("as planned")
            finally:
                running -= 1

    x = np.zeros(1_000_000, np.float32)
    spans = [(0, x.size, COUNT.bind({"a": np.float32(1)}))]
    kernel = Failing(COUNT)
    kernel.block_size = 50_000
    with pytest.raises(ArithmeticError, match="as planned"):
        Workers(2).update(kernel, [x], spans)
    assert running == 0
    assert np.all(x <= 1)


def test_settle_waits_for_helpers_that_an_interrupt_has_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main, go_on, helping = threading.current_thread(), threading.Event(), threading.Event()
    original = _Worker.finish

    class Slow(NumpyKernel):
        def __call__(self, arrays: Any, values: Any, scratch: Any) -> None:
            if threading.current_thread() is not main:
                helping.set()
                assert go_on.wait(30)
            else:
                assert helping.wait(30)
            super().__call__(arrays, values, scratch)

    def interrupted(helper: _Worker) -> None:
        if helper._work is not None:
            raise KeyboardInterrupt
        original(helper)

    team, kernel, x = Workers(2), Slow(COUNT), np.zeros(400_000, np.float32)
    spans = [(0, x.size, COUNT.bind({"a": np.float32(1)}))]
    monkeypatch.setattr(_Worker, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        team.update(kernel, [x], spans)
    monkeypatch.undo()
    threading.Timer(0.05, go_on.set).start()
    team.settle()
    assert go_on.is_set()
    assert np.all(x == 1)
    team.update(NumpyKernel(COUNT), [x], spans)  # and the helper can be used again
    assert np.all(x == 2)


def test_runs_from_several_threads_do_not_disturb_each_other() -> None:
    team, kernel = Workers(2), NumpyKernel(ADAM)
    rng = np.random.default_rng(0)
    rows = [np.abs(rng.standard_normal((3, 200_000))).astype(np.float32) for _ in range(4)]
    expected = [adam(*row.copy(), **SCALARS) for row in rows]
    spans = [(0, 200_000, ADAM.bind(SCALARS))]
    threads = [threading.Thread(target=team.update, args=(kernel, row, spans)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row, wanted in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row, np.stack(wanted))


def test_infinities_in_threads_give_no_warning() -> None:
    rows = [np.full(100_000, np.inf, np.float32) for _ in range(3)]
    with np.errstate(all="ignore"):
        Workers(2).update(NumpyKernel(ADAM), rows, [(0, 100_000, ADAM.bind(SCALARS))])
    assert np.all(np.isnan(rows[0]))


def test_every_block_of_plain_work_is_done_once() -> None:
    done: list[str] = []
    blocks = [f"block {i}" for i in range(100)]
    Workers(3).run(done.append, iter(blocks))
    assert sorted(done) == sorted(blocks)
    Workers(3).run(done.append, [])
    assert len(done) == 100


def test_blocks_join_small_spans_and_stop_at_gaps() -> None:
    values: Any = ()
    spans = [(0, 3, values), (3, 9, values), (10, 12, values), (12, 12, values), (12, 40, values)]
    found = [[(a, b) for a, b, _ in block] for block in Workers(1).blocks(spans, 20)]
    assert found == [[(0, 3), (3, 9)], [(10, 12), (12, 30)], [(30, 40)]]


def test_fewer_threads_do_it_if_the_system_gives_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers, x = Workers(3), np.zeros(200_000, np.float32)
    spans = [(0, x.size, COUNT.bind({"a": np.float32(1)}))]
    monkeypatch.setattr(threading.Thread, "start", refused)
    workers.update(NumpyKernel(COUNT), [x], spans)
    assert np.all(x == 1)
    assert workers._workers == []
    monkeypatch.undo()
    workers.update(NumpyKernel(COUNT), [x], spans)
    assert np.all(x == 2)
    assert len(workers._workers) == 2


def test_the_numpy_kernel_runs_on_device_arrays() -> None:
    device = ao.get_backend("numpy")
    rng = np.random.default_rng(0)
    rows = np.abs(rng.standard_normal((3, 1000))).astype(np.float32)
    arrays = [device.asarray(row) for row in rows]
    kernel = NumpyKernel(ADAM)
    kernel.block_size = 1000
    scratch = kernel.scratch(lambda size, dtype: device.asarray(np.empty(size, dtype)))
    kernel(arrays, ADAM.bind(SCALARS), scratch)
    for array, wanted in zip(arrays, adam(*rows, **SCALARS), strict=True):
        np.testing.assert_array_equal(device.asnumpy(array), wanted)


def test_affinity_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert available_cores() == 1
    assert Workers().threads == 1


@pytest.mark.parametrize(
    ("threads", "exception"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)],
)
def test_number_of_threads_is_checked(threads: Any, exception: type[Exception]) -> None:
    with pytest.raises(exception, match="threads"):
        Workers(threads)


def test_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, numpy, numba, got 'gpu'"):
        kernel_type("AdamOffload", "gpu")
    with pytest.raises(TypeError, match="engine must be a string"):
        kernel_type("AdamOffload", None)


def test_missing_numba_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "adamoffload.engine.fused", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'adamoffload\[fast\]'"):
        kernel_type("AdamOffload", "numba")
    assert kernel_type("AdamOffload", "auto") is NumpyKernel
