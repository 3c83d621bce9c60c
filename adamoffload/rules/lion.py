r"""Lion: steps of one size, whatever the gradient's.

Chen et al., "Symbolic Discovery of Optimization Algorithms" (arXiv:2302.06675), Program 1; found by
a search over programs, hence the name, *evolved sign momentum*:

.. math::

    c_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    \delta_t &= -\alpha\, \operatorname{sign}(c_t) \\
    m_t &= \beta_2 m_{t-1} + (1 - \beta_2)\, g_t

Like SGD with momentum it keeps one average. Unlike it, each element moves by the learning rate, up
or down (or rests, where :math:`c_t` is 0), and the average that decides on the direction looks more
at the new gradient than the one that is kept: :math:`\beta_1 < \beta_2`.

Adam's first step has one size, too; its later ones shrink where gradients disagree. Lion's do not,
so that it wants a learning rate some 3 to 10 times smaller than AdamW's, and as much more decay
(the paper's section 5). Its state is half of Adam's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adamoffload.rules.adam import read_beta
from adamoffload.rules.rule import Rule

__all__ = ["Lion"]


@dataclass(frozen=True)
class Lion(Rule):
    r"""The sign of an average of gradients, times the learning rate.

    Parameters
    ----------
    learning_rate : float, iterable of float, LearningRateSchedule or callable
        See `Rule`.
    beta1 : float
        Weight of the past in the direction, in (0, 1).
    beta2 : float
        Weight of the past in what is kept, in (0, 1).
    weight_decay : float or callable
        Decoupled decay: the parameter is multiplied by 1 - learning rate x this.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong.

    Notes
    -----
    Slots: m, the average. Where it and the gradient are NaN the update is, too: a sign does not
    hide an error.

    Examples
    --------
    >>> import numpy as np
    >>> rule = Lion(learning_rate=0.1)
    >>> g, m = np.array([100.0, -0.01, 0.0], np.float32), np.zeros(3, np.float32)
    >>> delta, m = rule.update(g, m, **rule.scalars(0.1, 1))
    >>> delta, m.round(4)
    (array([-0.1,  0.1, -0. ], dtype=float32), array([ 1.e+00, -1.e-04,  0.e+00], dtype=float32))
    """

    learning_rate: Any = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: Any = 0.0

    slots = ("m",)
    decay = "decoupled"

    def __post_init__(self) -> None:
        super().__post_init__()
        read_beta("Lion", "beta1", self.beta1)
        read_beta("Lion", "beta2", self.beta2)

    def scalars(self, lr: Any, t: int) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the learning rate, and the weights of the past and of what is new."""
        beta1, beta2 = float(self.beta1), float(self.beta2)
        return {"lr": lr, "beta1": beta1, "new1": 1 - beta1, "beta2": beta2, "new2": 1 - beta2}

    def update(
        self, g: Any, m: Any, *, lr: Any, beta1: Any, new1: Any, beta2: Any, new2: Any
    ) -> tuple[Any, Any]:
        """Return the update and the new average; `new1` and `new2` are 1 - beta1 and 1 - beta2."""
        delta = -lr * np.sign(beta1 * m + new1 * g)
        m = beta2 * m + new2 * g
        return delta, m
