"""What a `Probe` can say of a rule, which follows from what the rule keeps.

Of every rule: gradients, each slot by its name, the roots of those that hold squares
(``Rule.squares``), and the size of the steps. What else there is to say of Adam and its kin follows
from how they compute an update. Of a rule of one's own that is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from adamoffload.plan.step import Coefficients
from adamoffload.rules.adagrad import Adagrad
from adamoffload.rules.adam import Adam, beta_power
from adamoffload.rules.adamw import AdamW
from adamoffload.rules.amsgrad import AMSGrad
from adamoffload.rules.rule import Rule

__all__ = ["Quantities", "Rates", "rates"]

_DIVIDING: tuple[type[Rule], ...] = (Adam, AdamW, AMSGrad, Adagrad)


@dataclass(frozen=True, slots=True)
class Quantities:
    """The names of what can be sampled of a rule.

    Attributes
    ----------
    slots : tuple of str
        What the rule keeps.
    squares : tuple of str
        Which of them hold squares of gradients.
    divides : bool
        Whether it is known to divide by the root of the last of these and an epsilon.
    corrected : bool
        Whether it is known to correct the bias of its moments.
    """

    slots: tuple[str, ...] = ()
    squares: tuple[str, ...] = ()
    divides: bool = False
    corrected: bool = False

    @classmethod
    def of(cls, rule: Rule) -> Quantities:
        """Return those of a rule."""
        kind = type(rule)
        divides = any(
            kind.update is known.update and kind.scalars is known.scalars for known in _DIVIDING
        )
        return cls(tuple(rule.slots), tuple(rule.squares), divides, divides and "m" in rule.slots)

    @property
    def read(self) -> tuple[str, ...]:
        """What stands in the arrays of an update: gradient, slots, and at last the step."""
        return "gradient", *self.slots, "step_size"

    @property
    def roots(self) -> tuple[int, ...]:
        """Where in `read` squares are."""
        return tuple(self.read.index(slot) for slot in self.squares)

    @property
    def norms(self) -> tuple[str, ...]:
        """What norms are taken of."""
        return *self.read, *(f"sqrt_{slot}" for slot in self.squares)

    @property
    def quantiles(self) -> tuple[str, ...]:
        """What quantiles are taken of."""
        return *self.norms, *["rate"] * self.divides, *["ratio"] * self.corrected

    @property
    def series(self) -> tuple[str, ...]:
        """What is one number a sampled step."""
        corrections = ("lr_t", "bias1", "bias2") if self.corrected else ()
        shares = ("eps_limited", "frozen") if self.divides else ()
        return "lr", *corrections, "update_ratio", *shares


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


def rates(rule: Rule, names: Quantities, coefficients: Coefficients) -> Rates:
    """Return the rates of a step; `names` are those of the rule.

    The powers of `Adam` are float32, and its epsilon is not corrected. The others divide by
    ``sqrt(v / bias2) + eps``, which is the same with a smaller epsilon.
    """
    lr, t = float(coefficients.lr), coefficients.t
    eps = getattr(rule, "eps", 0.0) if names.divides else 0.0
    if not names.corrected:
        return Rates(lr, lr, 1.0, 1.0, eps)
    betas = [getattr(rule, name) for name in ("beta1", "beta2")]
    if isinstance(rule, Adam):
        bias1, bias2 = (1 - beta_power(np.float32(beta), t) for beta in betas)
        return Rates(lr, coefficients.scalars["lr_t"], bias1, bias2, eps)
    bias1, bias2 = (1 - beta**t for beta in betas)
    return Rates(lr, lr * sqrt(bias2) / bias1, bias1, bias2, eps * sqrt(bias2))
