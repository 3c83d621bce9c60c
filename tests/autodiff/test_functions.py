"""The composed functions, plain and traced, against their textbook formulas in HIPS autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import pytest

import adamoffload as ao
from adamoffload.autodiff.functions import erf, gelu, layer_norm, softmax, softmax_cross_entropy
from adamoffload.autodiff.tape import value_and_grad
from adamoffload.device.parameter import Parameter

import fake_cupy

Array = Any


def softmax_of_the_textbook(x: Array) -> Array:
    return anp.exp(x) / anp.sum(anp.exp(x), axis=-1, keepdims=True)


def cross_entropy_of_the_textbook(logits: Array, labels: Array) -> Array:
    classes = np.eye(logits.shape[-1])[labels]
    return -anp.sum(classes * anp.log(softmax_of_the_textbook(logits))) / labels.size


def gelu_of_the_textbook(x: Array) -> Array:
    return 0.5 * x * (1 + anp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm_of_the_textbook(x: Array, gain: Array, bias: Array) -> Array:
    mean, var = anp.mean(x, axis=-1, keepdims=True), anp.var(x, axis=-1, keepdims=True)
    return (x - mean) / anp.sqrt(var + 1e-5) * gain + bias


def compare(ours: Callable[..., Array], textbook: Callable[..., Array], *arrays: Array) -> None:
    parameters = [Parameter(array, f"p{i}") for i, array in enumerate(arrays)]
    loss, grads = value_and_grad(lambda: ours(*parameters), parameters)()
    slopes = autograd.grad(lambda xs: textbook(*xs))(tuple(arrays))
    # The same formulas in float64, rounded in another order: some units in the last place.
    np.testing.assert_allclose(loss, textbook(*arrays), rtol=1e-12)
    np.testing.assert_allclose(loss, ours(*arrays), rtol=0)  # traced and plain: the same code
    for mine, slope in zip(grads, slopes, strict=True):
        np.testing.assert_allclose(mine, slope, rtol=1e-10, atol=1e-12)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_softmax(rng: np.random.Generator) -> None:
    x, weights = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4))
    compare(
        lambda x: np.sum(softmax(x) * weights),
        lambda x: anp.sum(softmax_of_the_textbook(x) * weights),
        x,
    )
    np.testing.assert_allclose(np.sum(softmax(x, axis=1), axis=1), 1, rtol=1e-15)  # 3 roundings


@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_softmax_cross_entropy(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    logits, labels = rng.standard_normal((*shape, 4)), rng.integers(0, 4, shape)
    compare(
        lambda x: softmax_cross_entropy(x, labels),
        lambda x: cross_entropy_of_the_textbook(x, labels),
        logits,
    )


def test_softmax_cross_entropy_is_stable() -> None:
    logits = Parameter(np.array([[1e4, 0.0, -1e4]], np.float32), "logits")
    loss, (grad,) = value_and_grad(softmax_cross_entropy, [logits])(logits, np.array([1]))
    assert loss == np.float32(1e4)
    assert grad.tolist() == [[1.0, -1.0, 0.0]]


def test_erf_is_as_exact_as_it_says() -> None:
    x = np.concatenate([np.linspace(-8, 8, 4001), [0.0, -0.0, 1e-8, 30.0, -np.inf, np.inf]])
    exact = np.array([math.erf(value) for value in x])
    assert np.max(np.abs(erf(x) - exact)) < 4e-15
    single = erf(x.astype(np.float32))
    assert single.dtype == np.float32
    exact = np.array([math.erf(value) for value in x.astype(np.float32)])
    assert np.max(np.abs(single - exact)) < 6e-7
    assert np.isnan(erf(np.array([np.nan]))[0])


@pytest.mark.parametrize(("name", "last"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_erf_rounds_16_bits_once(name: str, last: float) -> None:
    device = ao.get_backend("numpy")
    x = device.asarray(np.linspace(-3, 3, 101), name)
    exact = np.array([math.erf(value) for value in device.asnumpy(x).astype(float)])
    result = device.asnumpy(erf(x))
    assert result.dtype == x.dtype
    assert np.max(np.abs(result.astype(float) - exact)) <= last / 2 + 1e-6


def test_erf_has_its_textbook_derivative_everywhere(rng: np.random.Generator) -> None:
    x = rng.uniform(-7, 7, (3, 5))
    for place in (None, ao.get_backend("numpy"), ao.get_backend("sim"), fake_cupy.device()):
        put = place.asarray if place else lambda array: array
        w = Parameter(put(x), "w")
        loss, (g,) = value_and_grad(lambda w=w: np.sum(erf(w * 1.0) + erf(w)), [w])()
        if place is not None:
            loss, g = place.asnumpy(loss), place.asnumpy(g)
        h = 1e-6
        values = np.array([math.erf(value) for value in (*(x + h).flat, *(x - h).flat)])
        slopes = (values[: x.size] - values[x.size :]).reshape(x.shape) / (2 * h)
        # The difference's own error: eps / h.
        np.testing.assert_allclose(g, 2 * slopes, atol=1e-9)
        np.testing.assert_allclose(loss, 2 * sum(map(math.erf, x.flat)), atol=1e-13)


def test_gelu(rng: np.random.Generator) -> None:
    compare(
        lambda x: np.sum(gelu(x)),
        lambda x: anp.sum(gelu_of_the_textbook(x)),
        rng.standard_normal((3, 4)),
    )


def test_layer_norm(rng: np.random.Generator) -> None:
    weights = rng.standard_normal((2, 3, 4))
    compare(
        lambda x, gain, bias: np.sum(layer_norm(x, gain, bias) * weights),
        lambda x, gain, bias: anp.sum(layer_norm_of_the_textbook(x, gain, bias) * weights),
        rng.standard_normal((2, 3, 4)),
        rng.standard_normal(4),
        rng.standard_normal(4),
    )


def test_float32_stays_float32(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4), np.float32)
    labels = np.array([0, 3, 1])
    for result in (
        softmax(x),
        gelu(x),
        layer_norm(x, x[0], x[1]),
        softmax_cross_entropy(x, labels),
    ):
        assert result.dtype == np.float32


# A transformer block, small enough to be read: 2 heads of width 3, 5 tokens, 7 words.

HEADS, WIDTH, TOKENS, WORDS, BATCH = 2, 6, 5, 7, 2

SHAPES = {
    "words": (WORDS, WIDTH),
    "places": (TOKENS, WIDTH),
    "gain1": (WIDTH,),
    "bias1": (WIDTH,),
    "qkv": (WIDTH, 3 * WIDTH),
    "out": (WIDTH, WIDTH),
    "gain2": (WIDTH,),
    "bias2": (WIDTH,),
    "up": (WIDTH, 4 * WIDTH),
    "up_bias": (4 * WIDTH,),
    "down": (4 * WIDTH, WIDTH),
    "down_bias": (WIDTH,),
}


def transformer(
    xp: Any,
    parts: tuple[Callable[..., Array], ...],
    p: dict[str, Array],
    ids: Array,
    causal: Array,
    labels: Array,
) -> Array:
    norm, attend, activate, loss = parts
    x = p["words"][ids] + p["places"]
    h = norm(x, p["gain1"], p["bias1"]) @ p["qkv"]
    q, k, v = (
        xp.transpose(xp.reshape(part, (BATCH, TOKENS, HEADS, -1)), (0, 2, 1, 3))
        for part in xp.split(h, 3, axis=-1)
    )
    scores = q @ xp.swapaxes(k, -1, -2) / math.sqrt(WIDTH / HEADS)
    mixed = attend(xp.where(causal, scores, -1e9)) @ v
    mixed = xp.reshape(xp.transpose(mixed, (0, 2, 1, 3)), (BATCH, TOKENS, WIDTH))
    x = x + mixed @ p["out"]
    h = activate(norm(x, p["gain2"], p["bias2"]) @ p["up"] + p["up_bias"])
    x = x + h @ p["down"] + p["down_bias"]
    return loss(x @ p["words"].T, labels)  # the embedding is used twice: its gradients add up


OURS = (layer_norm, softmax, gelu, softmax_cross_entropy)
TEXTBOOK = (
    layer_norm_of_the_textbook,
    softmax_of_the_textbook,
    gelu_of_the_textbook,
    cross_entropy_of_the_textbook,
)


def test_a_transformer_block_on_host_and_device(rng: np.random.Generator) -> None:
    arrays = {name: rng.standard_normal(shape) / 2 for name, shape in SHAPES.items()}
    ids, labels = rng.integers(0, WORDS, (2, BATCH, TOKENS))
    data = (ids, np.tri(TOKENS, dtype=bool), labels)

    def ours(put: Callable[[Any], Any]) -> tuple[Array, tuple[Array, ...]]:
        p = {name: Parameter(put(array), name) for name, array in arrays.items()}
        step = value_and_grad(lambda *args: transformer(np, OURS, p, *args), list(p.values()))
        return step(*map(put, data))

    loss, grads = ours(lambda x: x)
    expected, slopes = autograd.value_and_grad(lambda p: transformer(anp, TEXTBOOK, p, *data))(
        arrays
    )
    # A few hundred float64 operations, rounded in another order.
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    for name, grad in zip(arrays, grads, strict=True):
        np.testing.assert_allclose(grad, slopes[name], rtol=1e-9, atol=1e-11, err_msg=name)

    for device in (ao.get_backend("numpy"), ao.get_backend("sim"), fake_cupy.device()):
        there_loss, there_grads = ours(device.asarray)
        assert device.asnumpy(there_loss) == loss
        for grad, there in zip(grads, there_grads, strict=True):
            assert np.array_equal(grad, device.asnumpy(there))
