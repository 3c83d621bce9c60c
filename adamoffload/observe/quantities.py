"""What a `Probe` can say of a rule, which follows from what the rule keeps.

Of every rule: gradients, each slot by its name, and the size of the steps. A rule with an ``eps``
and slots that hold squares (``Rule.squares``), as Adam and its kin, divides by the root of the last
of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from adamoffload.plan.step import Coefficients
from adamoffload.rules.adam import Adam, beta_power
from adamoffload.rules.rule import Rule

__all__ = ["Quantities", "Rates", "rates"]


@dataclass(frozen=True, slots=True)
class Quantities:
    """The names of what can be sampled of a rule.

    Attributes
    ----------
    slots : tuple of str
        What the rule keeps.
    squares : tuple of str
        Which of them hold squares of gradients.
    corrected : bool
        Whether the rule corrects the bias of its moments: it has m, v, beta1 and beta2.
    """

    slots: tuple[str, ...] = ()
    squares: tuple[str, ...] = ()
    corrected: bool = False

    @classmethod
    def of(cls, rule: Rule) -> Quantities:
        """Return those of a rule."""
        slots = tuple(rule.slots)
        squares = tuple(rule.squares) if hasattr(rule, "eps") else ()
        betas = hasattr(rule, "beta1") and hasattr(rule, "beta2")
        return cls(slots, squares, betas and "m" in slots and "v" in squares)

    @property
    def read(self) -> tuple[str, ...]:
        """What stands in the arrays of an update: gradient, slots, and at last the step."""
        return "gradient", *self.slots, "step_size"

    @property
    def norms(self) -> tuple[str, ...]:
        """What norms are taken of."""
        return *self.read, *(f"sqrt_{slot}" for slot in self.squares)

    @property
    def quantiles(self) -> tuple[str, ...]:
        """What quantiles are taken of."""
        return *self.norms, *["rate"] * bool(self.squares), *["ratio"] * self.corrected

    @property
    def series(self) -> tuple[str, ...]:
        """What is one number a sampled step."""
        corrections = ("lr_t", "bias1", "bias2") if self.corrected else ()
        shares = ("eps_limited", "frozen") if self.squares else ()
        return "lr", *corrections, "update_ratio", *shares

    def root(self, number: int) -> int:
        """Return where in `norms` the root is of what is at `number` in `read`; 0 if nowhere."""
        name = self.read[number]
        return len(self.read) + self.squares.index(name) if name in self.squares else 0


class Rates(NamedTuple):
    """How an update is made of m and v: as ``lr_t * m / (sqrt(v) + eps)``.

    Attributes
    ----------
    lr, lr_t : float
        The learning rate, and the same with bias corrections.
    bias1, bias2 : float
        1 minus the t-th powers of beta1 and beta2.
    eps : float
        What is added to the root of v, which is not corrected.
    """

    lr: Any
    lr_t: Any
    bias1: Any
    bias2: Any
    eps: Any


def rates(rule: Rule, coefficients: Coefficients) -> Rates:
    """Return the rates of a step.

    The powers of `Adam` are float32, and its epsilon is not corrected. The others divide by
    ``sqrt(v / bias2) + eps``, which is the same with a smaller epsilon.
    """
    lr, t, eps = coefficients.lr, coefficients.t, getattr(rule, "eps", 0.0)
    if not Quantities.of(rule).corrected:
        return Rates(lr, lr, 1.0, 1.0, eps)
    betas = [getattr(rule, name) for name in ("beta1", "beta2")]
    if isinstance(rule, Adam):
        bias1, bias2 = (1 - beta_power(np.float32(beta), t) for beta in betas)
        return Rates(lr, coefficients.scalars["lr_t"], bias1, bias2, eps)
    bias1, bias2 = (1 - beta**t for beta in betas)
    return Rates(lr, lr * sqrt(bias2) / bias1, bias1, bias2, eps * sqrt(bias2))
