"""Who can descend a surface: the real `AdamOffload`, and what it is compared with.

``adam`` and ``nesterov`` are no imitations: they are `AdamOffload` on a backend, stepped like any
training run. The others compute in float32 on the host; what is Adam in them is the one rule of
`adamoffload.rules.adam`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from adamoffload.arguments import describe, number
from adamoffload.device.parameter import Parameter
from adamoffload.offload.faces import AdamOffload
from adamoffload.playground.surfaces import suggestion
from adamoffload.rules.adam import adam, step_size

__all__ = ["BEST", "OPTIMIZERS", "Contestant", "Optimizer", "Taken"]

BEST = "best"
"""What stands for a learning rate that is still to be found."""

Pair = np.ndarray[Any, np.dtype[np.float32]]
"""One number for each coordinate: shape (2,), float32."""


class Taken(NamedTuple):
    """What one step did: moments after it, and the rate of each coordinate."""

    m: Pair
    v: Pair
    rate: Pair


Step = Callable[[Any], Taken]
"""Takes one step of an optimizer with a gradient on the device."""

Rule = Callable[[Pair, Pair, Pair], tuple[Pair, Pair, Pair, Pair]]
"""Takes gradient and moments on the host; returns the update, the new moments and the rates."""


def _offloaded(nesterov: bool, point: Parameter, options: Mapping[str, float]) -> Step:
    optimizer = AdamOffload(
        [point],
        options["lr"],
        options["beta1"],
        options["beta2"],
        options["eps"],
        use_nesterov=nesterov,
        threads=1,
    )
    lr, eps = np.float32(options["lr"]), np.float32(options["eps"])

    def step(gradient: Any) -> Taken:
        optimizer((gradient,))
        v = optimizer.moment2[point.name].copy()
        lr_t = step_size(lr, optimizer.beta1_power, optimizer.beta2_power)
        return Taken(optimizer.moment1[point.name].copy(), v, lr_t / (np.sqrt(v) + eps))

    return step


def _on_host(point: Parameter, rule: Rule) -> Step:
    """Let the host step with `rule`."""
    device = point.backend
    assert device is not None, "run makes it on a device"
    m = v = np.zeros(2, np.float32)

    def step(gradient: Any) -> Taken:
        nonlocal m, v
        delta, m, v, rate = rule(device.asnumpy(gradient), m, v)
        np.add(point.data, device.asarray(delta), out=point.data)
        return Taken(m, v, rate)

    return step


def _corrected_eps(point: Parameter, options: Mapping[str, float]) -> Step:
    """Run the rule of `adamoffload.rules.adam` with the epsilon that makes it PyTorch's."""
    lr, beta1, beta2, eps = _float32(options, "lr", "beta1", "beta2", "eps")
    powers = np.ones(2, np.float32)

    def rule(g: Pair, m: Pair, v: Pair) -> tuple[Pair, Pair, Pair, Pair]:
        powers[:] *= (beta1, beta2)
        lr_t, eps_t = step_size(lr, *powers), eps * np.sqrt(1 - powers[1])
        delta, m, v = adam(g, m, v, lr_t=lr_t, beta1=beta1, beta2=beta2, eps=eps_t)
        return delta, m, v, lr_t / (np.sqrt(v) + eps_t)

    return _on_host(point, rule)


def _rmsprop(point: Parameter, options: Mapping[str, float]) -> Step:
    """Run the same rule without momentum and without bias correction."""
    lr, beta2, eps = _float32(options, "lr", "beta2", "eps")

    def rule(g: Pair, m: Pair, v: Pair) -> tuple[Pair, Pair, Pair, Pair]:
        delta, m, v = adam(g, m, v, lr_t=lr, beta1=np.float32(0), beta2=beta2, eps=eps)
        return delta, m, v, lr / (np.sqrt(v) + eps)

    return _on_host(point, rule)


def _momentum(point: Parameter, options: Mapping[str, float]) -> Step:
    """Add up decaying gradients, and step against the sum."""
    lr, beta = _float32({"beta": 0.0, **options}, "lr", "beta")

    def rule(g: Pair, m: Pair, v: Pair) -> tuple[Pair, Pair, Pair, Pair]:
        m = beta * m + g
        return -lr * m, m, v, np.full(2, lr)

    return _on_host(point, rule)


def _float32(options: Mapping[str, float], *names: str) -> Iterator[np.float32]:
    return (np.float32(options[name]) for name in names)


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Something that descends: how to begin, and its settings with their defaults (but lr)."""

    begin: Callable[[Parameter, Mapping[str, float]], Step]
    options: Mapping[str, float]
    about: str


_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}

OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer(partial(_offloaded, False), _ADAM, "AdamOffload"),
    "nesterov": Optimizer(partial(_offloaded, True), _ADAM, "AdamOffload with use_nesterov=True"),
    "adam-corrected-eps": Optimizer(_corrected_eps, _ADAM, "Adam with PyTorch's epsilon"),
    "rmsprop": Optimizer(
        _rmsprop,
        {"beta2": 0.9, "eps": 1e-8},
        "Adam without momentum and bias correction (Tieleman and Hinton, Coursera, 2012, "
        "lecture 6.5)",
    ),
    "sgd": Optimizer(_momentum, {}, "gradient descent"),
    "momentum": Optimizer(
        _momentum,
        {"beta": 0.9},
        "gradient descent with heavy-ball momentum (Polyak, 1964)",
    ),
}
"""What can be compared, by name; the first two are the real `AdamOffload`."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """An optimizer with its settings.

    Attributes
    ----------
    optimizer : str
        A name in `OPTIMIZERS`.
    options : mapping of str to float
        Its settings. Without ``lr``, the learning rate is still to be found.
    """

    optimizer: str
    options: Mapping[str, float]

    @classmethod
    def parse(cls, text: str, lr: float | str = BEST) -> Contestant:
        """Read ``NAME`` or ``NAME:SETTING=VALUE:...``.

        Parameters
        ----------
        text : str
            Such as ``"adam"`` or ``"adam:lr=0.01:beta2=0.9"``.
        lr : float or ``"best"``
            The learning rate, unless the text has one.

        Raises
        ------
        TypeError, ValueError
            For an unknown name or setting, or a value out of its range.

        Examples
        --------
        >>> Contestant.parse("sgd:lr=0.5")
        Contestant(optimizer='sgd', options={'lr': 0.5})
        >>> Contestant.parse("adam:epsilon=1e-6")
        Traceback (most recent call last):
        ValueError: adam has no setting 'epsilon'; did you mean 'eps'? There are: lr, beta1, ...
        """
        if not isinstance(text, str):
            raise TypeError(f"compare must hold strings such as 'adam', got {describe(text)}")
        name, *settings = text.strip().split(":")
        if name not in OPTIMIZERS:
            raise ValueError(f"no optimizer is called {name!r}{suggestion(name, OPTIMIZERS)}")
        known = ("lr", *OPTIMIZERS[name].options)
        given: dict[str, Any] = {"lr": lr}
        for i, setting in enumerate(settings):
            key, _, value = setting.partition("=")
            if key not in known:
                raise ValueError(f"{name} has no setting {key!r}{suggestion(key, known)}")
            if any(other.partition("=")[0] == key for other in settings[:i]):
                raise ValueError(f"{name} is given {key} twice; give it once")
            given[key] = value
        read = {key: _read(name, key, value) for key, value in given.items() if value != BEST}
        return cls(name, {**OPTIMIZERS[name].options, **read})

    @property
    def label(self) -> str:
        """The name, the learning rate, and what differs from the defaults.

        Examples
        --------
        >>> Contestant.parse("adam:beta2=0.9:lr=0.5").label
        'adam, lr=0.5, beta2=0.9'
        """
        defaults = OPTIMIZERS[self.optimizer].options
        keys = [key for key in ("lr", *defaults) if self.options.get(key) != defaults.get(key)]
        return ", ".join([self.optimizer, *(f"{key}={self.options[key]:g}" for key in keys)])


def _read(owner: str, key: str, given: Any) -> float:
    try:
        value = float(given) if isinstance(given, str) else given
    except ValueError:
        value = math.nan
    value = number(owner, key, value) if not isinstance(given, str) else value
    rounded = np.float32(value) if abs(value) < 1e38 else np.float32(np.nan)
    if key == "lr" and not rounded >= 0:
        raise ValueError(f"{owner}: lr must be a number >= 0, or {BEST!r}, got {given!r}")
    if key == "eps" and not rounded > 0:
        raise ValueError(f"{owner}: eps must be a number > 0, such as eps=1e-8, got {given!r}")
    if key not in ("lr", "eps") and not 0 < rounded < 1:
        raise ValueError(f"{owner}: {key} must be in (0, 1), such as {key}=0.9, got {given!r}")
    return float(value)
