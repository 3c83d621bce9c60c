"""The Numba engine: the bits of the NumPy engine, from the same rule."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import adamoffload as ao
from adamoffload.engine.kernel import NumpyKernel
from adamoffload.engine.program import trace
from adamoffload.engine.team import Workers
from adamoffload.rules.adam import adam
from adamoffload.rules.rule import with_flush

pytest.importorskip("numba", reason="needs the extra 'fast'")
from adamoffload.engine.fused import NumbaKernel, source

SCALARS = {
    "lr_t": np.float32(0.01),
    "beta1": np.float32(0.9),
    "beta2": np.float32(0.999),
    "eps": np.float32(1e-8),
}
VARIANTS = [(nesterov, flush) for nesterov in (False, True) for flush in (False, True)]
PROGRAMS = {
    (nesterov, flush): trace(
        partial(with_flush, partial(adam, nesterov=nesterov), flush), ["g", "m", "v"], list(SCALARS)
    )
    for nesterov, flush in VARIANTS
}
KERNELS = {variant: NumbaKernel(program) for variant, program in PROGRAMS.items()}
Float32 = np.ndarray[Any, np.dtype[np.float32]]


def assert_same_bits(rows: list[Float32], variant: tuple[bool, bool], scalars: Any) -> None:
    program = PROGRAMS[variant]
    size = rows[0].size
    numpy_rows, numba_rows = ([row.copy() for row in rows] for _ in range(2))
    with np.errstate(all="ignore"):
        Workers(1).update(NumpyKernel(program), numpy_rows, [(0, size, program.bind(scalars))])
        Workers(2).update(KERNELS[variant], numba_rows, [(0, size, program.bind(scalars))])
    for left, right in zip(numpy_rows, numba_rows, strict=True):
        nan = np.isnan(left)
        np.testing.assert_array_equal(np.isnan(right), nan)
        np.testing.assert_array_equal(right.view(np.uint32)[~nan], left.view(np.uint32)[~nan])


@pytest.mark.parametrize("variant", VARIANTS)
def test_random_bit_patterns_give_the_same_bits(variant: tuple[bool, bool]) -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, (3, 300_001), dtype=np.uint32)
    assert_same_bits(list(bits.view(np.float32)), variant, SCALARS)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    hnp.arrays(np.float32, (3, 9), elements=st.floats(width=32)),
    st.sampled_from(VARIANTS),
    st.sampled_from([1e-3, 0.0, 3e38, 1e-45]),
    st.sampled_from([0.9, 0.5, 1e-40]),
)
def test_chosen_values_give_the_same_bits(
    rows: Float32, variant: tuple[bool, bool], lr_t: float, beta1: float
) -> None:
    scalars = {**SCALARS, "lr_t": np.float32(lr_t), "beta1": np.float32(beta1)}
    assert_same_bits([row.copy() for row in rows], variant, scalars)


def test_training_gives_the_same_bits_and_says_which_engine() -> None:
    results = []
    for engine, chunk_bytes, threads in (("numpy", 4 << 20, 1), ("numba", 4096, 2)):
        device = ao.get_backend("numpy")
        rng = np.random.default_rng(0)
        w = ao.Parameter(device.asarray(rng.standard_normal(5000, np.float32)), "w")
        optimizer = ao.AdamOffload(
            [w], engine=engine, chunk_bytes=chunk_bytes, threads=threads, weight_decay=0.1
        )
        for _ in range(66):  # past the flush at step 64
            optimizer([device.asarray(rng.standard_normal(5000).astype(np.float32))])
        assert f"engine {engine!r} in {threads}" in repr(optimizer)
        results.append((device.asnumpy(w.data), optimizer.moment1["w"], optimizer.moment2["w"]))
    for left, right in zip(*results, strict=True):
        np.testing.assert_array_equal(left, right)


def test_auto_takes_numba() -> None:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(3, np.float32)), "w")
    assert "engine 'numba'" in repr(ao.AdamOffload([w]))


def test_wider_arithmetic_is_refused() -> None:
    program = trace(lambda x: (np.less(x * np.float64(0.1), 1) * x,), ["x"], [])
    with pytest.raises(TypeError, match="float32 only"):
        NumbaKernel(program)


def test_steps_from_several_threads_do_not_disturb_each_other() -> None:
    program = PROGRAMS[False, False]
    rng = np.random.default_rng(0)
    rows = [np.abs(rng.standard_normal((3, 200_000))).astype(np.float32) for _ in range(4)]
    expected = [row.copy() for row in rows]
    spans = [(0, 200_000, program.bind(SCALARS))]
    for row in expected:
        Workers(1).update(NumpyKernel(program), list(row), spans)
    kernel, team = KERNELS[False, False], Workers(2)
    threads = [
        threading.Thread(target=team.update, args=(kernel, list(row), spans)) for row in rows
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.stack(rows), np.stack(expected))


def test_source_is_the_program_line_by_line() -> None:
    text = source(PROGRAMS[False, False])
    body = [line for line in text.splitlines() if line.startswith("        r")]
    assert len(body) == 3 + PROGRAMS[False, False].passes  # three loads, then the program


@pytest.mark.parametrize(
    ("slot", "number"), [("i", "np"), ("np", "c2"), ("lambda", "i"), ("i_", "i"), ("r0", "r1")]
)
def test_slots_and_numbers_may_have_any_name(slot: str, number: str) -> None:
    def rule(g: Any, m: Any, **numbers: Any) -> Any:
        m = np.sqrt(numbers[number] * g * g + 3)
        return numbers[number] * m, m

    program = trace(rule, ["g", slot], [number])
    one, other = (np.tile(np.arange(5, dtype=np.float32), (2, 1)) for _ in range(2))
    spans = [(0, 5, program.bind({number: np.float32(0.3)}))]
    Workers(1).update(NumpyKernel(program), list(one), spans)
    Workers(1).update(NumbaKernel(program), list(other), spans)
    np.testing.assert_array_equal(one, other)


COUNT_COMPILATIONS = """
import numpy as np
from adamoffload.rules.adam import adam
from adamoffload.rules.rule import with_flush
from adamoffload.engine.fused import NumbaKernel
from adamoffload.engine.program import trace
kernel = NumbaKernel(trace(adam, ["g", "m", "v"], ["lr_t", "beta1", "beta2", "eps"]))
print(sum(kernel._loop.stats.cache_hits.values()), sum(kernel._loop.stats.cache_misses.values()))
"""


def compilations(cache: Path) -> tuple[int, int]:
    run = subprocess.run(
        [sys.executable, "-c", COUNT_COMPILATIONS],
        check=True,
        capture_output=True,
        text=True,
        env={"XDG_CACHE_HOME": str(cache), "PATH": ""},
    )
    hits, misses = run.stdout.split()
    return int(hits), int(misses)


def test_machine_code_is_cached_on_disk(tmp_path: Path) -> None:
    assert compilations(tmp_path) == (0, 1)
    assert compilations(tmp_path) == (1, 0)


FIRST_RUN = """
import gc
import numpy as np
import adamoffload as ao
from adamoffload.engine import fused
gc.disable()
device = ao.get_backend("numpy")
w = ao.Parameter(device.asarray(np.ones(1000, np.float32)), "w")
optimizer = ao.AdamOffload([w], probe=ao.Probe(), engine="numba")
fused.compiled = None  # whatever is not compiled yet would fail
used = device.memory().used
for _ in range(3):
    optimizer([device.asarray(np.ones(1000, np.float32))])
    print(device.memory().used - used)
"""


@pytest.mark.parametrize("cache", ["cold", "warm", "unwritable"])
def test_the_first_watched_step_keeps_no_gradient_alive(cache: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    if cache == "unwritable":
        home.write_text("a file, in which there is no folder")
    environment = {"HOME": str(home), "PATH": ""}
    for _ in range(1 + (cache == "warm")):
        run = subprocess.run(
            [sys.executable, "-c", FIRST_RUN],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
    assert run.stdout.split() == ["0", "0", "0"]
    assert home.is_dir() == (cache != "unwritable")
