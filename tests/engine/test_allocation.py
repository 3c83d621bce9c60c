"""What a step allocates: nothing after the first; and what an optimizer holds on the host."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.engine.kernel import NumpyKernel

SIZE = 1_000_000
OBJECTS = 100_000  # bytes of Python objects: views, tickets, lists of blocks


def make(
    shapes: list[tuple[int, ...]], **options: object
) -> tuple[ao.AdamOffload, list[object], ao.Backend]:
    device = ao.get_backend("numpy")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    parameters = [ao.Parameter(device.asarray(a), f"p{i}") for i, a in enumerate(arrays)]
    gradients: list[object] = [device.asarray(array) for array in arrays]
    return ao.AdamOffload(parameters, **options), gradients, device  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["numpy", "auto"])
@pytest.mark.parametrize(
    "shapes", [[(SIZE,)], [(1000, 1000)], [(5000,)] * 200], ids=["one", "matrix", "200 tensors"]
)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_no_array_is_allocated_after_the_first_step(
    shapes: list[tuple[int, ...]], engine: str, decay: float
) -> None:
    optimizer, gradients, device = make(
        shapes, engine=engine, weight_decay=decay, chunk_bytes=1 << 20, threads=2
    )
    for _ in range(3):
        optimizer(gradients)
    peak_on_device = device.memory().peak
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(3):
            optimizer(gradients)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < OBJECTS + 1000 * len(shapes)
    assert device.memory().peak == peak_on_device


@pytest.mark.parametrize("chunk_bytes", [1 << 18, 4 << 20])
def test_host_holds_eight_bytes_a_parameter_the_ring_and_scratch(chunk_bytes: int) -> None:
    tracemalloc.start()
    try:
        optimizer, gradients, device = make(
            [(SIZE,)], engine="numpy", chunk_bytes=chunk_bytes, threads=2
        )
        on_device = device.memory().used  # the numpy backend's device memory is the host's, too
        without, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(2):
            optimizer(gradients)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    ring = optimizer.memory().ring
    scratch = 2 * 2 * NumpyKernel.block_size * 4  # for each thread and program
    # numpy's zeros of this size are traced when they are made, whether touched or not
    expected = 8 * SIZE + ring + on_device
    assert without - expected < OBJECTS
    assert peak - expected < scratch + OBJECTS
