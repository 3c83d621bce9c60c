"""The optimizer playground: several optimizers, one surface, every number of every step.

`run` lets each contestant descend from the same start under the same noise, and returns a
`Trajectory` for each. Parameters and gradients live on a device, as in training; who steps is in
`adamoffload.playground.descent`, what is descended in `adamoffload.playground.surfaces`, and
`adamoffload.plots` draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adamoffload.arguments import integer, number, positive_integer
from adamoffload.autodiff.tape import value_and_grad
from adamoffload.device.backend import Backend
from adamoffload.device.parameter import Parameter
from adamoffload.device.registry import get_backend
from adamoffload.playground.descent import BEST, OPTIMIZERS, Contestant
from adamoffload.playground.surfaces import Surface, find

__all__ = ["RATES", "Trajectory", "run"]

_OWNER = "playground.run"

RATES = (*(float(f"{digit}e{power}") for power in range(-4, 0) for digit in (1, 2, 5)), 1.0)
"""The learning rates that ``lr="best"`` tries: 1, 2 and 5 in each decade from 1e-4 to 1."""

Floats32 = np.ndarray[Any, np.dtype[np.float32]]
Floats64 = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Trajectory:
    r"""Where an optimizer went, and with what moments: ``n`` steps have ``n + 1`` points.

    Attributes
    ----------
    contestant : Contestant
        Who, with its settings.
    surface : Surface
        Where.
    noise, seed : float, int
        Standard deviation of what was added to each gradient, and the seed it came from.
    points : ndarray, shape (n + 1, 2), float32
        The parameters: at the start, and after each step.
    values : ndarray, shape (n + 1,), float64
        The loss there, without noise, in float64.
    gradients : ndarray, shape (n, 2), float32
        What the optimizer was given in each step.
    m, v : ndarray, shape (n, 2), float32
        Moments after each step; zeros where the optimizer has none.
    rate : ndarray, shape (n, 2), float32
        How far each coordinate would move for a first moment of 1: for Adam
        :math:`\alpha_t / (\sqrt{v} + \epsilon)`, for gradient descent the learning rate.
    diverged_at : int or None
        The step after which the parameters or the loss, in float32, were no longer finite; it is
        the last one here.
    tried : tuple of float
        The learning rates among which this run's was found; empty if it was given.
    """

    contestant: Contestant
    surface: Surface
    noise: float
    seed: int
    points: Floats32
    values: Floats64
    gradients: Floats32
    m: Floats32
    v: Floats32
    rate: Floats32
    diverged_at: int | None
    tried: tuple[float, ...] = ()

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return len(self.rate)

    @property
    def delta(self) -> Floats64:
        """How far each step moved the parameters: shape (n, 2), float64."""
        return np.diff(self.points.astype(np.float64), axis=0)

    @property
    def outcome(self) -> str:
        """What became of it, in few words."""
        if self.diverged_at is not None:
            return f"diverged at step {self.diverged_at}"
        return f"{self.excess[-1]:.2g}"

    @property
    def excess(self) -> Floats64:
        """The loss above the surface's lowest: shape (n + 1,), float64."""
        return np.maximum(self.values - self.surface.lowest, 0.0)


def run(
    function: str = "rosenbrock",
    compare: Sequence[str] = ("adam", "nesterov", "sgd"),
    *,
    lr: float | str = BEST,
    steps: int = 200,
    start: tuple[float, float] | None = None,
    noise: float = 0.0,
    seed: int = 0,
    backend: str = "numpy",
) -> tuple[Trajectory, ...]:
    """Let optimizers descend a surface, each from the same start and under the same noise.

    Parameters
    ----------
    function : str
        A name in `adamoffload.playground.surfaces.SURFACES`.
    compare : sequence of str
        Who descends: ``"adam"``, ``"adam:lr=0.01:beta2=0.9"``, ...; see `OPTIMIZERS`.
    lr : float or ``"best"``
        The learning rate of everyone that has none of its own. ``"best"`` gives each the one of
        `RATES` whose loss, averaged over the last tenth of the steps, is lowest. An
        optimizer is fairly compared only at a rate that suits it (Choi et al., "On Empirical
        Comparisons of Optimizers for Deep Learning", arXiv:1910.05446).
    steps : int
        How many.
    start : (float, float), optional
        Where from; the surface's own start if left out.
    noise : float
        Standard deviation of the normal noise on each coordinate of each gradient.
    seed : int
        Seed of that noise.
    backend : str
        The device that holds parameters and gradients.

    Returns
    -------
    tuple of Trajectory
        One for each of `compare`.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong.
    ImportError, RuntimeError
        If the backend cannot run here.

    Examples
    --------
    >>> adam, sgd = run("booth", ["adam", "sgd:lr=0.01"], lr=0.5, steps=100)
    >>> adam.points[:2].tolist(), adam.diverged_at
    ([[-6.0, 6.0], [-5.5, 6.5]], None)
    >>> bool(sgd.values[-1] < 0.01 * sgd.values[0])
    True
    """
    surface = find(function)
    if isinstance(compare, str) or not compare:
        raise ValueError(f"{_OWNER}: compare must list at least one optimizer, got {compare!r}")
    contestants = [Contestant.parse(text, lr) for text in compare]
    steps = positive_integer(_OWNER, "steps", steps)
    noise = _bounded("noise", number(_OWNER, "noise", noise, at_least=0))
    seed = integer(_OWNER, "seed", seed, at_least=0)
    origin = _start(surface.start if start is None else start)
    device = get_backend(backend)
    noises = noise * np.random.default_rng(seed).standard_normal((steps, 2))

    def go(contestant: Contestant) -> Trajectory:
        return _descend(contestant, surface, device, origin, noises.astype(np.float32), noise, seed)

    return tuple(
        go(contestant) if "lr" in contestant.options else _best(contestant, go)
        for contestant in contestants
    )


def _start(start: Sequence[float]) -> Floats32:
    if len(start) != 2:
        raise ValueError(f"{_OWNER}: start must be two numbers, got {start!r}")
    names = ("start[0]", "start[1]")
    values = [_bounded(name, number(_OWNER, name, x)) for name, x in zip(names, start, strict=True)]
    return np.array(values, np.float32)


def _bounded(name: str, value: float) -> float:
    if abs(value) > 1e6:  # beyond, float32 cannot hold the surfaces
        raise ValueError(f"{_OWNER}: {name} must be at most a million, got {value:g}")
    return value


def _best(contestant: Contestant, go: Callable[[Contestant], Trajectory]) -> Trajectory:
    def at(lr: float) -> Contestant:
        return replace(contestant, options={"lr": lr, **contestant.options})

    return replace(min((go(at(lr)) for lr in RATES), key=_score), tried=RATES)


def _score(trajectory: Trajectory) -> float:
    if trajectory.diverged_at is not None:
        return math.inf
    return float(np.mean(trajectory.excess[-max(1, trajectory.steps // 10) :]))


def _descend(
    contestant: Contestant,
    surface: Surface,
    device: Backend,
    origin: Floats32,
    noises: Floats32,
    noise: float,
    seed: int,
) -> Trajectory:
    point = Parameter(device.asarray(origin), "point")
    loss_and_gradients = value_and_grad(lambda: surface(point[0], point[1]), [point])
    step = OPTIMIZERS[contestant.optimizer].begin(point, contestant.options)
    points, gradients, taken = [origin], [], []
    diverged_at = None
    with np.errstate(all="ignore"):  # whoever diverges passes through inf and NaN
        for t, shake in enumerate(noises, 1):
            _, (gradient,) = loss_and_gradients()
            if noise:
                gradient = gradient + device.asarray(shake)
            received = device.asnumpy(gradient)
            taken.append(step(gradient))
            gradients.append(received)
            points.append(device.asnumpy(point.data))
            if not np.isfinite(surface(*points[-1])):
                diverged_at = t
                break
        path = np.array(points)
        values = surface(*path.astype(np.float64).T)
    m, v, rate = (np.array(column) for column in zip(*taken, strict=True))
    return Trajectory(
        contestant, surface, noise, seed, path, values, np.array(gradients), m, v, rate, diverged_at
    )
