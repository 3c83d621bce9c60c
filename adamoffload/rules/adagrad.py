r"""Adagrad: a learning rate for each element, which falls with what it has seen.

Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
Optimization" (JMLR 12, 2011), Figure 1, with the diagonal matrix:

.. math::

    v_t &= v_{t-1} + g_t^2 \\
    \delta_t &= -\alpha\, g_t \,/\, (\sqrt{v_t} + \epsilon)

The first step has the size of the learning rate, whatever the gradient's: an element that is seldom
touched, such as a rare word's embedding, takes steps as large as one that always is. From then on
:math:`v` only grows, and with equal gradients step t is :math:`\alpha / \sqrt{t}`. Adam replaces
the sum by an average that forgets, and adds momentum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adamoffload.rules.adam import read_eps
from adamoffload.rules.rule import Rule

__all__ = ["Adagrad"]


@dataclass(frozen=True)
class Adagrad(Rule):
    r"""The gradient, divided by the root of the sum of all squared gradients so far.

    Parameters
    ----------
    learning_rate : float, iterable of float, LearningRateSchedule or callable
        See `Rule`.
    eps : float
        Added to the root; > 0.
    weight_decay : float or callable
        L2 decay: this times the parameter is added to its gradient.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong.

    Notes
    -----
    Slots: v, the sum of squares. It agrees with ``torch.optim.Adagrad``, where the sum starts at 0
    and the learning rate has no decay of its own: pass a schedule.

    Examples
    --------
    >>> import numpy as np
    >>> rule = Adagrad(learning_rate=0.1)
    >>> v = np.zeros(2, np.float32)
    >>> for t in (1, 2, 3, 4):
    ...     delta, v = rule.update(np.array([1, -9], np.float32), v, **rule.scalars(0.1, t))
    ...     print(delta.round(4))
    [-0.1  0.1]
    [-0.0707  0.0707]
    [-0.0577  0.0577]
    [-0.05  0.05]
    """

    learning_rate: Any = 1e-2
    eps: float = 1e-10
    weight_decay: Any = 0.0

    slots = ("v",)
    squares = ("v",)
    decay = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        read_eps("Adagrad", self.eps)

    def scalars(self, lr: Any, t: int) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the learning rate and epsilon."""
        return {"lr": lr, "eps": self.eps}

    def update(self, g: Any, v: Any, *, lr: Any, eps: Any) -> tuple[Any, Any]:
        """Return the update and the new sum."""
        v = v + g * g
        delta = -lr * g / (np.sqrt(v) + eps)
        return delta, v
