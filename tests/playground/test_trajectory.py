"""The playground: trajectories against plain float64 loops, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.playground.surfaces import find
from adamoffload.playground.trajectory import RATES, run

from reference import PlainAdam

STEPS = 40

# Textbook optimizers in float64: each is sent gradients and yields update, moments and rates.
Loop = Generator[tuple[Any, Any, Any, Any], Any, None]


def adam(lr: float, *settings: float, **how: bool) -> Loop:
    plain, delta, rate = PlainAdam((2,), lr, *settings, **how), np.zeros(2), np.zeros(2)
    while True:
        g = yield delta, plain.m, plain.v, rate
        delta, rate = plain.step(g), plain.rate


def corrected(lr: float, eps: float) -> Loop:
    """torch.optim.Adam as documented at docs.pytorch.org: m_hat / (sqrt(v_hat) + eps)."""
    plain, delta, rate = PlainAdam((2,), lr), np.zeros(2), np.zeros(2)
    while True:
        g = yield delta, plain.m, plain.v, rate
        plain.step(g)
        rate = lr / (1 - plain.power1) / (np.sqrt(plain.v / (1 - plain.power2)) + eps)
        delta = -rate * plain.m


def momentum(lr: float, beta: float = 0.0) -> Loop:
    m = delta = np.zeros(2)
    while True:
        g = yield delta, m, np.zeros(2), np.full(2, lr)
        m = beta * m + g
        delta = -lr * m


def rmsprop(lr: float, beta2: float = 0.9, eps: float = 1e-8) -> Loop:
    g = v = delta = rate = np.zeros(2)
    while True:
        g = yield delta, g, v, rate
        v = beta2 * v + (1 - beta2) * g**2
        rate = lr / (np.sqrt(v) + eps)
        delta = -rate * g


EXPECTED = {
    "adam:lr=0.05": adam(0.05),
    "adam:lr=0.05:beta1=0.5:beta2=0.9:eps=0.1": adam(0.05, 0.5, 0.9, 0.1),
    "nesterov:lr=0.05": adam(0.05, nesterov=True),
    "adam-corrected-eps:lr=0.05:eps=1": corrected(0.05, 1.0),
    "rmsprop:lr=0.05": rmsprop(0.05),
    "sgd:lr=0.02": momentum(0.02),
    "momentum:lr=0.01": momentum(0.01, 0.9),
}


@pytest.mark.parametrize("text", EXPECTED)
def test_a_trajectory_is_that_of_a_plain_float64_loop(text: str) -> None:
    (found,) = run("booth", [text], steps=STEPS)
    loop = EXPECTED[text]
    next(loop)
    point = np.array(find("booth").start)
    for t in range(STEPS):
        x, y = point
        g = np.array([10 * x + 8 * y - 34, 8 * x + 10 * y - 38])  # of Booth, by hand
        delta, m, v, rate = loop.send(g)
        np.testing.assert_allclose(found.points[t], point, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(found.gradients[t], g, rtol=2e-4, atol=2e-2)
        np.testing.assert_allclose(found.delta[t], delta, rtol=2e-3, atol=2e-5)
        np.testing.assert_allclose(found.m[t], m, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(found.v[t], v, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(found.rate[t], rate, rtol=2e-3)
        assert found.values[t] == pytest.approx(find("booth")(x, y), rel=2e-3, abs=1e-3)
        point = point + delta
    assert len(found.points) == found.steps + 1 == STEPS + 1


def test_corrected_eps_differs_from_adam_where_eps_matters() -> None:
    same, corrected = run("booth", ["adam:eps=1", "adam-corrected-eps:eps=1"], lr=0.1, steps=1)
    assert abs(same.delta[0, 0]) < 0.99 * abs(corrected.delta[0, 0])


@pytest.mark.parametrize(("name", "nesterov"), [("adam", False), ("nesterov", True)])
@pytest.mark.parametrize("backend", ["numpy", "sim"])
def test_adam_is_adam_offload_bitwise(name: str, nesterov: bool, backend: str) -> None:
    (found,) = run("beale", [name], lr=0.1, steps=STEPS, noise=0.5, seed=3, backend=backend)
    device = ao.get_backend("numpy")
    point = ao.Parameter(device.asarray(np.array(find("beale").start, np.float32)), "w")
    optimizer = ao.AdamOffload([point], 0.1, use_nesterov=nesterov)
    for t in range(STEPS):
        optimizer([device.asarray(found.gradients[t])])
        np.testing.assert_array_equal(found.points[t + 1], device.asnumpy(point.data))
        np.testing.assert_array_equal(found.m[t], optimizer.moment1["w"])
        np.testing.assert_array_equal(found.v[t], optimizer.moment2["w"])


def test_everyone_meets_the_same_noise_and_the_seed_decides_which() -> None:
    runs = [run("booth", ["sgd", "sgd"], lr=0.0, steps=9, noise=0.5, seed=s) for s in (0, 0, 1)]
    x, y = find("booth").start
    exact = np.array([10 * x + 8 * y - 34, 8 * x + 10 * y - 38])
    noise = 0.5 * np.random.default_rng(0).standard_normal((9, 2))
    for one in (*runs[0], *runs[1]):  # a learning rate of 0 stays at the start
        np.testing.assert_allclose(one.gradients - exact, noise, atol=1e-4)
        np.testing.assert_array_equal(one.points, np.tile(one.points[0], (10, 1)))
    assert not np.allclose(runs[2][0].gradients - exact, noise, atol=1e-2)


def test_values_are_without_noise() -> None:
    (one,) = run("booth", ["sgd"], lr=0.01, steps=5, noise=3.0)
    expected = [find("booth")(float(x), float(y)) for x, y in one.points]
    np.testing.assert_array_equal(one.values, expected)
    np.testing.assert_array_equal(one.excess, one.values)  # its lowest is 0


def test_gradient_descent_turns_with_the_surface_and_adam_does_not() -> None:
    names = ["sgd:lr=0.01", "adam:lr=0.1"]
    straight, turned = run("quadratic", names, steps=30), run("rotated", names, steps=30)
    half = math.sqrt(0.5)
    back = [one.points @ np.array([[half, -half], [half, half]]) for one in turned]
    np.testing.assert_allclose(back[0], straight[0].points, atol=1e-3)
    assert np.abs(back[1] - straight[1].points).max() > 0.5


def test_who_diverges_is_stopped_there() -> None:
    sgd, adam = run("rosenbrock", ["sgd", "adam"], lr=0.1, steps=50)
    assert sgd.diverged_at is not None
    assert sgd.steps == len(sgd.points) - 1 == sgd.diverged_at < 10
    with np.errstate(all="ignore"):
        assert not np.isfinite(find("rosenbrock")(*sgd.points[-1]))
        assert np.isfinite(find("rosenbrock")(*sgd.points[-2]))
    assert adam.diverged_at is None
    assert (adam.steps, sgd.outcome) == (50, f"diverged at step {sgd.diverged_at}")


def test_the_best_rate_is_the_one_that_ends_lowest() -> None:
    (best,) = run("beale", ["adam"], steps=60)
    ends = {
        lr: np.mean(one.excess[-6:])
        for lr in RATES
        for one in run("beale", ["adam"], lr=lr, steps=60)
    }
    assert best.contestant.options["lr"] == min(ends, key=lambda lr: ends[lr])
    assert best.tried == RATES
    (given,) = run("beale", ["adam:lr=0.5"], steps=2)
    assert given.tried == ()


def test_the_best_rate_never_diverges() -> None:
    (best,) = run("rosenbrock", ["sgd"], steps=30)
    assert best.diverged_at is None
    assert best.excess[-1] < best.excess[0]


def test_one_step_is_enough() -> None:
    (one,) = run("saddle", ["adam"], lr=0.1, steps=1)
    np.testing.assert_allclose(np.abs(one.delta), 0.1, rtol=1e-2)


def test_a_start_far_away_overflows_and_says_so() -> None:
    (one,) = run("beale", ["adam"], lr=0.1, start=(1e6, 1e6), steps=5)
    assert one.diverged_at == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"function": "rosenbrok"}, ValueError, "did you mean 'rosenbrock'"),
        ({"compare": []}, ValueError, "at least one optimizer"),
        ({"compare": "adam"}, ValueError, "must list at least one optimizer, got 'adam'"),
        ({"compare": [3]}, TypeError, "compare must hold strings"),
        ({"compare": ["adm"]}, ValueError, "no optimizer is called 'adm'; did you mean 'adam'"),
        ({"lr": -1.0}, ValueError, "lr must be a number >= 0"),
        ({"lr": "fast"}, ValueError, "lr must be a number >= 0, or 'best', got 'fast'"),
        ({"lr": math.nan}, ValueError, "lr must be finite"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"start": (1.0,)}, ValueError, "start must be two numbers"),
        ({"start": (1.0, math.inf)}, ValueError, "start\\[1\\] must be finite"),
        ({"start": (1.0, 1e7)}, ValueError, "at most a million, got 1e\\+07"),
        ({"noise": -1.0}, ValueError, "noise must be >= 0"),
        ({"noise": 1e30}, ValueError, "noise must be at most a million"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"backend": "nunpy"}, ValueError, "did you mean 'numpy'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(**{"lr": 0.1, **arguments})
