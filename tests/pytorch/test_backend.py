"""The torch backend: the contract on every device of PyTorch's that is here; tensors as arrays."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import adamoffload as ao
from adamoffload.testing import BackendContract, NewDevice

from rounding import rounds_as_the_host_does

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'adamoffload[torch]'")

from adamoffload_torch.functions import ON_THE_CPU  # noqa: E402

DTYPES = "?bBhiqefdFD"


class TestOnTheCpu(BackendContract):
    dtypes = DTYPES

    @pytest.fixture
    def new_device(self) -> NewDevice:
        return partial(ao.get_backend, "torch", device="cpu")


@pytest.mark.gpu
class TestOnAGpu(BackendContract):
    dtypes = DTYPES
    clock_resolution_s = 1e-3
    elements = 1 << 24

    @pytest.fixture
    def new_device(self) -> NewDevice:
        if not torch.cuda.is_available() and os.environ.get("ADAMOFFLOAD_REQUIRE_GPU") != "1":
            pytest.skip("PyTorch finds no GPU; check the driver with nvidia-smi")
        return partial(ao.get_backend, "torch", device="cuda")


@pytest.fixture
def device() -> Any:
    return ao.get_backend("torch", device="cpu")


# -- tensors --------------------------------------------------------------------------------------


def test_a_tensor_and_its_array_are_one_memory(device: Any) -> None:
    tensor = torch.zeros(2, 3)
    x = device.wrap(tensor)
    before = device.traffic(), device.memory()
    x += 1
    np.multiply(x[0], 3, out=x[0])
    assert tensor.tolist() == [[3, 3, 3], [1, 1, 1]]
    assert x.tensor.data_ptr() == tensor.data_ptr()
    assert (device.traffic(), device.memory()) == before
    assert device.wrap(x) is x


def test_what_is_written_raises_the_version_of_the_tensor(device: Any) -> None:
    parameter = torch.nn.Parameter(torch.ones(4))
    x, host = device.wrap(parameter), np.zeros(4, np.float32)
    writes: list[Callable[[], object]] = [
        lambda: np.add(x, 1, out=x),
        lambda: np.sqrt(x, out=x),
        lambda: np.isnan(x, out=device.wrap(torch.zeros(4, dtype=torch.bool))),
        lambda: np.copyto(x, 2),
        lambda: x.fill(3),
        lambda: x[1:].__setitem__(0, 4),
        lambda: np.concatenate([x[:2] + 0, x[2:] + 0], out=x),
        lambda: device.h2d(host, x).wait(),
        lambda: device.h2d(host[::-1], x).wait(),
        lambda: np.add.at(x, device.asarray(np.array([1])), 1.0),
    ]
    versions = [parameter._version]
    for write in writes:
        write()
        versions.append(parameter._version)
    rose = [after > before for before, after in pairwise(versions)]
    assert rose == [i != 2 for i in range(len(writes))]  # the third writes elsewhere
    assert parameter.requires_grad
    assert not x.tensor.requires_grad


def test_dlpack_goes_both_ways(device: Any) -> None:
    x = device.asarray(np.arange(3, dtype=np.float32))
    torch.from_dlpack(x)[0] = 7
    assert device.asnumpy(x)[0] == 7
    other = ao.get_backend("numpy").asarray(np.zeros(3, np.float32))
    y = device.wrap(other)
    y += 2
    assert ao.get_backend("numpy").memory().used == 0
    np.testing.assert_array_equal(other.device.asnumpy(other), [2, 2, 2])


def test_what_cannot_be_wrapped_is_refused_in_a_sentence(device: Any) -> None:
    with pytest.raises(TypeError, match="expected a tensor, got a list"):
        device.wrap([1.0])
    with pytest.raises(TypeError, match=r"expected a dense tensor, got torch.sparse_coo"):
        device.wrap(torch.zeros(3).to_sparse())
    with pytest.raises(ao.ResidencyError, match="'meta', this device is 'cpu'; move it with"):
        device.wrap(torch.zeros(3, device="meta"))
    with pytest.raises(TypeError, match=r"a tensor of torch.uint16 has no element type here"):
        device.wrap(torch.zeros(3, dtype=torch.uint16))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("cuda", RuntimeError, "finds no GPU"),
        ("mps", RuntimeError, "finds no Apple GPU"),
        ("meta", ValueError, "must be 'cpu', 'cuda' or 'mps', got 'meta'"),
        ("gpu", ValueError, "must be one of PyTorch's, got 'gpu'"),
    ],
)
def test_a_device_that_is_not_here_is_refused(name: str, error: Any, message: str) -> None:
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("it is here")
    with pytest.raises(error, match=message):
        ao.get_backend("torch", device=name)


def test_types_that_pytorch_does_not_compute_with_are_refused(device: Any) -> None:
    with pytest.raises(TypeError, match="there are no tensors of uint16"):
        device.asarray(np.zeros(3, np.uint16))


# -- functions ------------------------------------------------------------------------------------

X = np.array([[1.5, -2.0, 0.25], [3.0, 0.5, -1.0]], np.float32)
I = np.array([[0, 2, 1], [1, 0, 2]])  # noqa: E741

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "array_split": lambda x, i: np.array_split(x, 2, 1)[1],
    "clip from below": lambda x, i: np.clip(x, 0, None),
    "clip from above": lambda x, i: np.clip(x, None, x * 0 + 1),
    "cumprod": lambda x, i: np.cumprod(x, axis=1),
    "cumsum in float64": lambda x, i: np.cumsum(x, dtype=np.float64),
    "diagonal": lambda x, i: np.diagonal(x, 1),
    "dot of matrices": lambda x, i: np.dot(x, x.T),
    "full_like": lambda x, i: np.full_like(x, 3),
    "full_like of a transposed array": lambda x, i: np.full_like(x.T, 3),
    "hstack and vstack": lambda x, i: np.hstack([x, x]) + np.vstack([x, x])[:2, :1],
    "isclose": lambda x, i: np.isclose(x, x + 1e-7),
    "allclose": lambda x, i: np.allclose(x, x),
    "array_equal": lambda x, i: np.array_equal(x, x.T),
    "mean of whole numbers": lambda x, i: np.mean(i),
    "moveaxis": lambda x, i: np.moveaxis(x, 0, 1),
    "nonzero": lambda x, i: np.nonzero(i)[1],
    "outer": lambda x, i: np.outer(x, i),
    "pad by a number": lambda x, i: np.pad(x, 1, constant_values=2.0),
    "prod": lambda x, i: np.prod(x, axis=(0, 1)),
    "roll": lambda x, i: np.roll(x, 1, 1),
    "round": lambda x, i: np.round(x, 1),
    "sort": lambda x, i: np.sort(x),
    "split": lambda x, i: np.split(x, [1], axis=1)[0],
    "stack": lambda x, i: np.stack([x, i], axis=1),
    "take": lambda x, i: np.take(x, i, axis=1),
    "take of all": lambda x, i: np.take(x, i),
    "take_along_axis of all": lambda x, i: np.take_along_axis(x, i[0], None),
    "take_along_axis from the end": lambda x, i: np.take_along_axis(x, i - 3, 1),
    "tensordot": lambda x, i: np.tensordot(x, x, ([1], [1])),
    "tile": lambda x, i: np.tile(x, (2, 1)),
    "trace": lambda x, i: np.trace(x),
    "var of whole numbers": lambda x, i: np.var(i, axis=0, ddof=1),
    "where of a condition": lambda x, i: np.where(x > 0)[0],
    "where of float and int": lambda x, i: np.where(x > 0, x, i),
    "a sum of whole numbers": lambda x, i: np.sum(i.astype(np.int32)),
    "an index of bytes": lambda x, i: x[:, i[0].astype(np.uint8)],
    "a quotient of whole numbers": lambda x, i: i / 2,
    "a remainder": lambda x, i: np.remainder(x, 0.75) + np.fmod(x, 0.75),
    "bits": lambda x, i: (i & 1) | (i ^ 2) + (i << 1) + ~i,
    "hypot and arctan2": lambda x, i: np.hypot(x, 2.0) + np.arctan2(x, 1.0),
    "logaddexp": lambda x, i: np.logaddexp(x, i),
}


@pytest.mark.parametrize("what", CALLS)
def test_functions_return_what_numpys_return(device: Any, what: str) -> None:
    expected = np.asarray(CALLS[what](X, I))
    found = CALLS[what](device.asarray(X), device.asarray(I))
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(device.asnumpy(found), expected, rtol=1e-6)


def test_numbers_of_numpy_choose_the_type(device: Any) -> None:
    x = device.asarray(X)
    assert (x * 2.0).dtype == (2 + x).dtype == np.float32
    assert (x * np.float64(2)).dtype == (x + device.asarray(I)).dtype == np.float64


def test_bfloat16_takes_the_part_of_float16(device: Any) -> None:
    half = torch.tensor([1.5, 2.0], dtype=torch.bfloat16)
    pytest.importorskip("ml_dtypes", reason="NumPy has bfloat16 from ml_dtypes")
    x, y, z = (device.wrap(half.to(kind)) for kind in (torch.bfloat16, torch.float16, torch.float))
    assert (x + x).dtype == (x * 2.5).dtype == (x @ x).dtype == np.sqrt(x).dtype == x.dtype
    assert (x + y).dtype == (x + z).dtype == (x * np.float32(2)).dtype == np.float32
    assert (x > 1).dtype == bool
    assert device.asnumpy(x * 2.5).tolist() == [3.75, 5.0]
    device.h2d(device.asnumpy(x)[::-1], x).wait()
    assert x.tensor.tolist() == [2.0, 1.5]


def test_a_root_has_the_bits_that_numpys_has(device: Any) -> None:
    numbers = np.random.default_rng(0).random(10_000, np.float32)
    np.testing.assert_array_equal(
        device.asnumpy(np.sqrt(device.asarray(numbers))), np.sqrt(numbers)
    )


def test_the_table_has_each_function_that_has_a_derivative() -> None:
    from adamoffload.autodiff.derivatives import DERIVATIVES, erf

    assert not {f for f in DERIVATIVES if f is not erf} - {*ON_THE_CPU}


@pytest.mark.parametrize("start", [5, 2**32 - 100])  # there, the bits come from two keys
def test_stochastic_rounding_has_the_bits_of_the_host(start: int) -> None:
    rounds_as_the_host_does(ao.get_backend("torch", device="cpu"), start)


def test_a_run_with_stochastic_rounding_is_that_of_numpy() -> None:
    def trained(backend: str) -> Any:
        device, rng = ao.get_backend(backend), np.random.default_rng(0)
        values = rng.standard_normal(1000).astype(ml_dtypes.bfloat16)
        p = ao.Parameter(device.asarray(values), "w")
        optimizer: Any = ao.Optimizer(
            [p], ao.rules.AdamW(0.01), strategy="bf16-stochastic", chunk_bytes=512, seed=3
        )
        for _ in range(3):
            gradient = rng.standard_normal(1000).astype(ml_dtypes.bfloat16)
            optimizer([device.asarray(gradient)])
        return device.asnumpy(p.data).view(np.uint16)

    np.testing.assert_array_equal(trained("torch"), trained("numpy"))


def test_bytes_seen_as_another_type_are_one_memory() -> None:
    device = ao.get_backend("torch", device="cpu")
    x: Any = device.asarray(np.ones((2, 3), np.float32))
    bits = x[:, 1:].view(np.int32)
    bits += 1
    assert device.asnumpy(x)[1].tolist() == [1, *[float(np.nextafter(np.float32(1), 2))] * 2]
    with pytest.raises(TypeError, match="view: int64 takes other bytes than float32"):
        x.view(np.int64)
    with pytest.raises(TypeError, match="no tensors of uint32"):
        x.view(np.uint32)
