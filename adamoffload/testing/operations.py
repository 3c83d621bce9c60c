"""What a device computes: every array operation that a model, its gradients and a step are made of.

The tape, the functions of `adamoffload.autodiff.functions` and the optimizers use these on device
arrays, and no others. So a backend that passes can train.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from adamoffload.autodiff.functions import gelu, layer_norm, softmax_cross_entropy
from adamoffload.autodiff.tape import value_and_grad
from adamoffload.device.backend import Array, Backend, HostArray
from adamoffload.device.half import HALVES
from adamoffload.device.parameter import Parameter
from adamoffload.device.registry import get_backend
from adamoffload.offload.faces import AdamOffload
from adamoffload.testing.promises import NewDevice, Promises, refused, same


class Operands(NamedTuple):
    """What the operations take, all on one side of the link; small whole numbers."""

    x: Any  # (3, 4), float32
    batch: Any  # (2, 3, 4), float32
    rows: Any  # (3,), int64: 2, 0, 2
    columns: Any  # (3, 1), int64
    mask: Any  # (3, 4), bool


class Operations(Promises):
    """``np.*`` runs where its operands are, and computes what it computes on the host."""

    def test_results_stay_on_the_device(self, new_device: NewDevice) -> None:
        """What small whole numbers make exact equals the host's result to the bit."""
        device, host = new_device(), _operands()
        there = Operands(*map(device.asarray, host))
        for what, compute in _EXACT.items():
            result, expected = _done(what, compute, there), np.asarray(compute(host))
            assert device.owns(result), f"the result of {what} left the device"
            same(device.asnumpy(result), expected, f"{what} differs")

    def test_functions_agree_with_numpy(self, new_device: NewDevice) -> None:
        """Libraries round a logarithm differently, so that a few units in the last place pass."""
        device, host = new_device(), _operands()
        there = Operands(*map(device.asarray, host))
        for what, compute in _ROUNDED.items():
            result, expected = _done(what, compute, there), compute(host)
            assert device.owns(result), f"the result of {what} left the device"
            assert result.dtype == expected.dtype, f"{what} returns {result.dtype}"
            found = device.asnumpy(result)
            assert np.allclose(found, expected, rtol=1e-5, atol=1e-6), f"{what} differs"

    def test_writes_reach_their_array(self, new_device: NewDevice) -> None:
        """``out=``, assignments and operators in place write where they are told, also in views."""
        device, host = new_device(), _operands()
        for what, write in _IN_PLACE.items():
            there, here = Operands(*map(device.asarray, host)), _operands()
            target, expected = device.asarray(np.full((3, 4), 7, "f")), np.full((3, 4), 7, "f")
            _done(what, lambda args: write(*args), (target, there))  # noqa: B023
            write(expected, here)
            same(device.asnumpy(target), expected, f"{what} differs")
            same(device.asnumpy(there.x), here.x, f"{what} writes its operand")

    def test_slices_are_views(self, new_device: NewDevice) -> None:
        """What is written into one shows in the array: slots are cut out of one allocation."""
        device = new_device()
        for what, view in _VIEWS.items():
            host = np.zeros((3, 4), np.float32)
            x = device.asarray(host)
            part = view(x)
            _add_one(part)
            _add_one(view(host))
            same(device.asnumpy(x), host, f"{what} is not a view")
            assert np.may_share_memory(part, x), f"np.may_share_memory denies {what}"

    def test_sixteen_bits(self, new_device: NewDevice) -> None:
        """float16 and bfloat16 stay what they are; what they sum up is rounded at the end only."""
        for name in HALVES:
            device = new_device()
            try:
                ones = device.zeros((1, 4096), name) + 1
            except TypeError as error:
                pytest.skip(str(error))
            for what, total in _TOTALS.items():
                found = _done(f"{what} in {name}", total, ones)
                assert found.dtype == ones.dtype, f"{what} of {name} returns {found.dtype}"
                value = device.asnumpy(found).item()
                assert value == 4096, f"{what} of 4096 ones in {name} is {value}"
            host = _operands()
            x, batch = (device.asarray(array).astype(name) for array in host[:2])
            there = Operands(x, batch, *map(device.asarray, host[2:]))
            for what, compute in {**_EXACT, **_ROUNDED}.items():
                result = _done(f"{what} in {name}", compute, there)
                expected = np.asarray(compute(host))
                kind = x.dtype if expected.dtype == np.float32 else expected.dtype
                kind = expected.dtype if what in _WIDER else kind
                assert result.dtype == kind, f"{what} of {name} returns {result.dtype}"
                found = device.asnumpy(result).astype(np.float32)
                close = np.allclose(found, expected, rtol=2**-6, atol=0.25)
                assert close, f"{what} differs in {name}"

    def test_reverse_views_are_what_the_backend_says(self, new_device: NewDevice) -> None:
        """They are views where it declares `negative_strides`, and refused where it does not."""
        device, host = new_device(), np.zeros((3, 4), np.float32)
        x = device.asarray(host)
        for what, view in _REVERSE_VIEWS.items():
            if not device.negative_strides:
                with refused(ValueError, f"{what} is not refused by a device without such views"):
                    view(x)
                continue
            _add_one(view(x))
            _add_one(view(host))
            same(device.asnumpy(x), host, f"{what} is not a view, though the device has such")

    def test_a_model_trains(self, new_device: NewDevice) -> None:
        """Words are looked up, normalised, multiplied and told apart: as on the numpy backend."""
        ours, theirs = _model(new_device()), _model(get_backend("numpy"))
        assert theirs[-1] < theirs[0] / 2, "the model does not learn on the numpy backend"
        assert np.allclose(ours, theirs, rtol=1e-3), f"a model trains differently: {ours}"


def _operands() -> Operands:
    return Operands(
        np.arange(12, dtype=np.float32).reshape(3, 4) - 4,
        np.arange(24, dtype=np.float32).reshape(2, 3, 4) % 7,
        np.array([2, 0, 2]),
        np.array([[1], [3], [0]]),
        np.arange(12).reshape(3, 4) % 3 == 0,
    )


def _done(what: str, compute: Callable[[Any], Any], operands: Any) -> Any:
    """Return what was computed; an operation that is missing is a fault with a name."""
    try:
        return compute(operands)
    except Exception as error:
        raise AssertionError(f"{what} does not run on the device: {error!r}") from error


def _scattered(o: Operands) -> Any:
    zeros = np.zeros_like(o.x, shape=(5, 4), order="C")
    np.add.at(zeros, o.rows, o.x)
    return zeros


def _scattered_to_places(o: Operands) -> Any:
    zeros = np.zeros_like(o.x, shape=(12,), order="C")
    np.add.at(zeros, o.rows * 4 + o.columns[:, 0], o.x[:, 0])  # CuPy takes no pairs
    return zeros


_EXACT: dict[str, Callable[[Operands], Any]] = {
    # arithmetic and comparisons
    "arithmetic": lambda o: 2 * o.x - np.square(o.x) + o.x * o.x / 2,
    "arithmetic with numpy scalars": lambda o: o.x * np.float32(0.5) + np.float32(3),
    "np.sqrt": lambda o: np.sqrt(o.x * o.x),
    "np.maximum, np.minimum and abs": lambda o: np.maximum(o.x, 3) - np.minimum(abs(-o.x), 2),
    "np.sign and np.positive": lambda o: np.sign(o.x) + np.positive(o.x),
    "np.power": lambda o: o.x**3 + np.power(o.x, 2),
    "np.reciprocal": lambda o: np.reciprocal(o.x * 0 + 4),
    "a product with a comparison": lambda o: o.x * (o.x > 1) + o.x * (o.x == o.x),
    "logic": lambda o: np.logical_and(o.x > 0, o.mask) | ~(o.x <= 5),
    "np.isfinite": lambda o: np.isfinite(o.x) | np.isnan(o.x) | np.isinf(o.x),
    "rounding": lambda o: np.floor(o.x / 2) + np.ceil(o.x / 4) + np.rint(o.x / 8) + np.trunc(o.x),
    "np.floor_divide": lambda o: o.x // 4,
    "broadcasting": lambda o: o.batch * o.x + o.x[:, None, 0],
    # reductions
    "np.sum to one number": lambda o: np.sum(o.x),
    "np.sum along an axis": lambda o: np.sum(o.x, axis=0, keepdims=True) + o.x,
    "np.sum along two axes": lambda o: np.sum(o.batch, axis=(0, 2)),
    "np.sum of a comparison": lambda o: np.sum(o.mask, axis=1, keepdims=True, dtype=np.float32),
    "np.mean": lambda o: np.mean(o.x, axis=1),
    "np.mean along two axes": lambda o: np.mean(o.batch, axis=(0, 2), keepdims=True),
    "np.max and np.min": lambda o: np.max(o.x, axis=1) - np.min(o.x, axis=-1),
    "np.max and np.min to one element": lambda o: (
        np.min(o.x, keepdims=True) - np.max(o.x, keepdims=True)
    ),
    "np.argmax": lambda o: np.argmax(o.batch, axis=-1),
    "np.any and np.all": lambda o: np.any(o.mask, axis=0) & np.all(o.x < 100),
    "np.argsort": lambda o: np.argsort(-o.batch * 10 + o.x, axis=-1),
    "np.argmin": lambda o: np.argmin(o.batch, axis=1),
    "np.count_nonzero": lambda o: np.count_nonzero(o.x, axis=1),
    "np.linalg.norm": lambda o: np.linalg.norm(o.x - o.x + 2, axis=1),
    "np.cumsum of all elements": lambda o: np.cumsum(o.columns),
    "np.cumsum": lambda o: np.cumsum(o.rows, axis=0) + np.cumsum(o.columns, axis=1),
    # products
    "a matrix product": lambda o: o.x @ o.x.T,
    "a product of batches": lambda o: o.batch @ np.swapaxes(o.batch, -1, -2),
    "a product of a batch and a matrix": lambda o: o.batch @ o.x.T,
    "a product with a vector": lambda o: o.x @ o.x[0],
    "np.dot": lambda o: np.dot(o.x[0], o.x[1]),
    "np.einsum": lambda o: np.einsum("ij,kj->ik", o.x, o.x),
    # shapes
    "np.reshape": lambda o: np.reshape(o.x, (2, 6)),
    "np.reshape of a transposed array": lambda o: np.reshape(o.x.T, (-1,)),
    "np.ravel": lambda o: np.ravel(o.batch),
    "np.transpose": lambda o: np.transpose(o.batch, (1, 2, 0)),
    "np.swapaxes and np.moveaxis": lambda o: np.moveaxis(np.swapaxes(o.batch, 0, 1), 2, 0),
    "np.expand_dims and np.squeeze": lambda o: np.squeeze(np.expand_dims(o.x, 1), 1),
    "np.broadcast_to": lambda o: np.broadcast_to(o.x[0], (5, 4)) + 1,
    "a copy of a broadcast array": lambda o: np.broadcast_to(o.x[0], (5, 4)).copy(),
    "np.flip": lambda o: np.flip(o.x, 1),
    "np.flip of all axes": lambda o: np.flip(o.batch),
    "np.pad": lambda o: np.pad(o.x, ((1, 2), (0, 3))),
    "np.repeat": lambda o: np.repeat(o.rows, 2),
    "np.repeat of each as often as told": lambda o: np.repeat(o.rows, (1, 3, 0)),
    "np.tril and np.triu": lambda o: np.tril(o.x, 1) - np.triu(o.x),
    "np.concatenate": lambda o: np.concatenate([o.x, o.x[1:]]),
    "np.concatenate along an axis": lambda o: np.concatenate([o.x, o.x[:, 1:]], 1),
    # gather and scatter
    "one element": lambda o: o.x[1, 2],
    "an index of numbers": lambda o: o.x[o.rows],
    "an index of numbers in the last axis": lambda o: o.x[:, o.rows],
    "an index of pairs": lambda o: o.x[o.rows, o.columns[:, 0]],
    "an index of bools": lambda o: o.x[o.mask],
    "a new axis": lambda o: o.x[..., None] * o.x[:, None, :],
    "np.take_along_axis": lambda o: np.take_along_axis(o.x, o.columns, -1),
    "np.add.at of rows": _scattered,
    "np.add.at of places": _scattered_to_places,
    # choice
    "np.where": lambda o: np.where(o.x > 4, o.x, 0),
    "np.where of two arrays": lambda o: np.where(o.mask, o.x, -o.x),
    "np.clip": lambda o: np.clip(o.x, -2, 3),
    # new arrays
    "np.zeros_like and astype": lambda o: np.zeros_like(o.x) + o.x.astype(np.float64),
    "np.ones_like": lambda o: np.ones_like(o.rows) + np.ones_like(o.columns),
    "astype to half and back": lambda o: o.x.astype(np.float16).astype(np.float32),
    "np.copy": lambda o: np.copy(o.x.T, order="C"),
    "np.transpose and copy": lambda o: np.transpose(o.x).copy(),
}

_WIDER = frozenset(
    [
        "arithmetic with numpy scalars",
        "np.sum of a comparison",
        "np.zeros_like and astype",
        "astype to half and back",
    ]
)
"""What says itself, or by a scalar of NumPy, which type its result has."""

_TOTALS: dict[str, Callable[[Any], Any]] = {
    "np.sum": lambda ones: np.sum(ones),
    "a product": lambda ones: ones @ np.transpose(ones),
    "np.einsum": lambda ones: np.einsum("ij,ij->", ones, ones),
    "np.mean": lambda ones: np.mean(ones * 4096),
}

_ROUNDED: dict[str, Callable[[Operands], Any]] = {
    "np.exp": lambda o: np.exp(o.x),
    "np.exp2": lambda o: np.exp2(o.x),
    "np.expm1": lambda o: np.expm1(o.x / 8),
    "np.log": lambda o: np.log(o.x + 5),
    "np.log2 and np.log10": lambda o: np.log2(o.x + 5) + np.log10(o.x + 5),
    "np.log1p": lambda o: np.log1p(o.x + 4),
    "np.logaddexp": lambda o: np.logaddexp(o.x, 1 - o.x),
    "np.sin and np.cos": lambda o: np.sin(o.x) + np.cos(o.x),
    "np.tan and np.arctan": lambda o: np.tan(o.x / 8) + np.arctan(o.x),
    "np.sinh, np.cosh and np.tanh": lambda o: np.sinh(o.x / 8) - np.cosh(o.x / 8) + np.tanh(o.x),
    "np.power of a fraction": lambda o: np.power(np.abs(o.x), 0.3),
    "np.var and np.std": lambda o: np.var(o.x, axis=0) + np.std(o.x, axis=0),
    "division": lambda o: 1 / (3 + o.x * o.x),
}

_IN_PLACE: dict[str, Callable[[Any, Operands], Any]] = {
    "np.add(..., out=)": lambda y, o: np.add(o.x, o.x, out=y),
    "np.add(y, ..., out=y)": lambda y, o: np.add(y, o.x, out=y),
    "np.multiply(..., out=) by a number": lambda y, o: np.multiply(o.x, np.float32(0.5), out=y),
    "np.multiply(..., out=) into a view": lambda y, o: np.multiply(o.x[1], 3, out=y[0]),
    "np.multiply(..., out=) into a flat view": lambda y, o: np.multiply(
        o.x.reshape(-1), 3, out=y.reshape(-1)
    ),
    "np.dot(..., out=) into one element": lambda y, o: np.dot(
        o.x[0], o.x[1], out=y[0, 2:3].reshape(())
    ),
    "np.copyto": lambda y, o: np.copyto(y[1:], 2 * o.x[:2]),
    "np.copyto of a number": lambda y, _: np.copyto(y[1:], 3),
    "np.copyto of a strided view": lambda y, o: np.copyto(y[0, :2], o.x[1, ::2]),
    "np.concatenate(..., out=)": lambda y, o: np.concatenate(
        [o.x[2], o.x[1], o.x[0]], out=y.reshape(-1)
    ),
    "y += x": lambda y, o: y.__iadd__(o.x),
    "y *= 2": lambda y, _: y.__imul__(2),
    "y[...] = x": lambda y, o: operator.setitem(y, np.s_[1:], o.x[:2]),
    "y[...] = 5": lambda y, _: operator.setitem(y, np.s_[:, 1], 5),
    "y[rows] = x": lambda y, o: operator.setitem(y, o.rows[:2], o.x[1:]),
    "y[mask] = x": lambda y, o: operator.setitem(y, o.mask, o.x[o.mask]),
}

_VIEWS: dict[str, Callable[[Any], Any]] = {
    "a slice of rows": lambda x: x[1:],
    "a slice of columns": lambda x: x[:, 1:3],
    "a row": lambda x: x[1],
    "x.reshape(-1)": lambda x: x.reshape(-1),
    "a slice of x.reshape(-1)": lambda x: x.reshape(-1)[5:9],
    "x.T": lambda x: x.T,
    "x.view(np.int32)": lambda x: x.view(np.int32),
}


_REVERSE_VIEWS: dict[str, Callable[[Any], Any]] = {
    "x[::-1]": lambda x: x[::-1],
    "x[..., ::-2]": lambda x: x[..., ::-2],
}


def _add_one(x: Any) -> None:
    np.add(x, 1, out=x)


def _model(device: Backend) -> HostArray:
    """Return the losses of a small network that learns to name five words, on a device."""
    random = np.random.default_rng(3)

    def weights(name: str, *shape: int) -> Parameter:
        return Parameter(device.asarray(random.normal(size=shape).astype(np.float32)), name)

    table, gain, bias = weights("table", 5, 8), weights("gain", 8), weights("bias", 8)
    hidden, output = weights("hidden", 8, 16), weights("output", 16, 5)
    words = device.asarray(np.array([[0, 1, 2], [3, 4, 0]]))

    def loss() -> Array:
        h = layer_norm(table[words], gain, bias)
        return softmax_cross_entropy(gelu(h @ hidden) @ output, words)

    parameters = [table, gain, bias, hidden, output]
    step, optimizer, losses = value_and_grad(loss, parameters), AdamOffload(parameters, 0.02), []
    for _ in range(20):
        value, gradients = step()
        losses.append(device.asnumpy(value))
        optimizer(gradients)
    return np.array(losses)
