r"""Stochastic gradient descent, with momentum or without: the rule that all others start from.

.. math::

    m_t &= \mu\, m_{t-1} + g_t \\
    \delta_t &= -\alpha\, m_t

With Nesterov's momentum the update is :math:`-\alpha\, (g_t + \mu\, m_t)`. Without momentum it is
:math:`-\alpha\, g_t`, and nothing is kept.

Momentum is from Polyak, "Some methods of speeding up the convergence of iteration methods" (1964),
the look-ahead from Nesterov (1983), both in the form of Sutskever et al., "On the importance of
initialization and momentum in deep learning" (ICML 2013), equations 1 to 4, but with the learning
rate outside of :math:`m`, as in PyTorch: a new rate then acts on old gradients too.

All of its updates are proportional to the learning rate *and* to the gradient. The rules that
follow keep the first and give up the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adamoffload.arguments import flag, number
from adamoffload.rules.rule import Rule

__all__ = ["SGD"]


@dataclass(frozen=True)
class SGD(Rule):
    r"""Gradient descent; with momentum, along a sum of gradients that fades.

    Parameters
    ----------
    learning_rate : float, iterable of float, LearningRateSchedule or callable
        See `Rule`.
    momentum : float
        :math:`\mu`, how much of the sum stays from step to step, in [0, 1). The sum of equal
        gradients grows to 1 / (1 - momentum) of them.
    nesterov : bool
        Look ahead by one step; needs momentum.
    weight_decay : float or callable
        L2 decay: this times the parameter is added to its gradient.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, or `nesterov` has no momentum.

    Notes
    -----
    Slots: m, the sum, with momentum; none without. It agrees with ``torch.optim.SGD`` with a
    dampening of 0. There the first m is the first gradient; here that follows, since m starts at 0.

    Examples
    --------
    >>> import numpy as np
    >>> rule = SGD(0.1, momentum=0.5)
    >>> m = np.zeros(2, np.float32)
    >>> for t in (1, 2):
    ...     delta, m = rule.update(np.array([1, -4], np.float32), m, **rule.scalars(0.1, t))
    ...     print(delta)
    [-0.1  0.4]
    [-0.15  0.6 ]
    """

    learning_rate: Any = field()  # no default: `Rule` has one, which would be taken otherwise
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: Any = 0.0

    decay = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        momentum = number("SGD", "momentum", self.momentum, at_least=0)
        if np.float32(momentum) >= 1:
            raise ValueError(f"SGD: momentum must be < 1, also in float32, got {self.momentum}")
        if flag("SGD", "nesterov", self.nesterov) and not self.momentum:
            raise ValueError("SGD: nesterov=True needs a momentum > 0, got 0; try momentum=0.9")

    @property
    def slots(self) -> tuple[str, ...]:
        """The sum of gradients, if there is momentum."""
        return ("m",) if self.momentum else ()

    def scalars(self, lr: Any, t: int) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the learning rate, and the momentum if there is one."""
        return {"lr": lr, "mu": self.momentum} if self.momentum else {"lr": lr}

    def update(self, g: Any, m: Any = None, *, lr: Any, mu: Any = None) -> tuple[Any, ...]:
        """Return the update and the new sum, if one is kept."""
        if not self.momentum:
            return (-lr * g,)
        m = mu * m + g
        return -lr * (g + mu * m if self.nesterov else m), m
