"""The loss surfaces: their values, gradients and minima, against what is known of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.playground.surfaces import SURFACES, Surface, find, quadratic, rotated

EVERY = pytest.mark.parametrize("surface", SURFACES.values(), ids=SURFACES)


def gradient(surface: Surface, x: float, y: float) -> Any:
    point = ao.Parameter(np.array([x, y]), "point")
    _, (found,) = ao.value_and_grad(lambda: surface(point[0], point[1]), [point])()
    return found


@EVERY
def test_value_at_the_minima_is_the_lowest(surface: Surface) -> None:
    for minimum in surface.minima:
        assert surface(*minimum) == pytest.approx(surface.lowest, abs=1e-12)


@EVERY
def test_gradient_vanishes_at_the_minima(surface: Surface) -> None:
    for minimum in surface.minima:
        np.testing.assert_allclose(gradient(surface, *minimum), 0, atol=1e-11)


@EVERY
def test_nothing_in_the_window_is_lower(surface: Surface) -> None:
    left, right, bottom, top = surface.window
    x, y = np.meshgrid(np.linspace(left, right, 301), np.linspace(bottom, top, 301))
    assert surface(x, y).min() >= surface.lowest - 1e-12


@EVERY
def test_gradient_is_that_of_finite_differences(surface: Surface) -> None:
    left, right, bottom, top = surface.window
    rng = np.random.default_rng(0)
    for x, y in rng.uniform((left, bottom), (right, top), (20, 2)):
        h = 1e-5  # the error of central differences is about h ** 2
        expected = (
            (surface(x + h, y) - surface(x - h, y)) / (2 * h),
            (surface(x, y + h) - surface(x, y - h)) / (2 * h),
        )
        np.testing.assert_allclose(gradient(surface, x, y), expected, rtol=1e-6, atol=1e-5)


@EVERY
def test_start_and_minima_are_in_the_window(surface: Surface) -> None:
    left, right, bottom, top = surface.window
    for x, y in (surface.start, *surface.minima):
        assert left < x < right
        assert bottom < y < top


@EVERY
def test_a_surface_is_evaluated_elementwise(surface: Surface) -> None:
    x, y = np.array([[0.5, -1.0], [2.0, 0.25]]), np.array([[1.5, 0.5], [-0.75, 1.0]])
    expected = [[surface(x[i, j], y[i, j]) for j in (0, 1)] for i in (0, 1)]
    np.testing.assert_allclose(surface(x, y), expected, rtol=1e-14)


@EVERY
def test_a_device_computes_the_same(surface: Surface) -> None:
    device = ao.get_backend("numpy")
    x, y = surface.start
    point = ao.Parameter(device.asarray(np.array([x, y], np.float32)), "point")
    value, (found,) = ao.value_and_grad(lambda: surface(point[0], point[1]), [point])()
    scale = 1 + np.abs(gradient(surface, x, y)).max()
    assert float(value) == pytest.approx(surface(x, y), rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(
        device.asnumpy(found) / scale, gradient(surface, x, y) / scale, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [  # computed by hand from the formulas of the sources
        ("rosenbrock", (-1.2, 1.0), 24.2),
        ("beale", (0.0, 0.0), 14.203125),
        ("booth", (0.0, 0.0), 74.0),
        ("himmelblau", (0.0, 0.0), 170.0),
        ("rastrigin", (0.5, 0.0), 20.25),
        ("styblinski-tang", (1.0, 1.0), -10.0),
        ("saddle", (2.0, 2.0), 4.0),
        ("quadratic", (1.0, 1.0), 50.5),
    ],
)
def test_known_values(name: str, at: tuple[float, float], value: float) -> None:
    assert find(name)(*at) == pytest.approx(value, rel=1e-12)


def test_rotated_is_the_quadratic_turned_by_45_degrees() -> None:
    angle = math.pi / 4
    x, y = np.random.default_rng(1).standard_normal((2, 50))
    u, w = math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y
    np.testing.assert_allclose(rotated(u, w), quadratic(x, y), rtol=1e-12)
    start = find("quadratic").start
    turned = (start[0] - start[1]) * math.sqrt(0.5), (start[0] + start[1]) * math.sqrt(0.5)
    assert find("rotated").start == pytest.approx(turned)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match="'himelblau'; did you mean 'himmelblau'"):
        find("himelblau")
    with pytest.raises(ValueError, match=r"'xyz'\. There are: quadratic, "):
        find("xyz")
    with pytest.raises(TypeError, match="must be a string"):
        find(3)  # type: ignore[arg-type]
