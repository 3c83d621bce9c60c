r"""AdamW: Adam with a decay of its own, and an epsilon that is corrected.

Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (arXiv:1711.05101), Algorithm 2, as
PyTorch computes it:

.. math::

    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 \\
    \delta_t &= -\frac{\alpha}{1 - \beta_1^t}\,
        m_t \,\Big/ \left(\frac{\sqrt{v_t}}{\sqrt{1 - \beta_2^t}} + \epsilon\right) \\
    w_t &= (1 - \alpha \lambda)\, w_{t-1} + \delta_t

Two things differ from the rule of `adamoffload.rules.adam`. *Decay*: there :math:`\lambda w` is
added to the gradient and then divided by :math:`\sqrt v` as everything else, so that elements with
large gradients decay less; here all decay at the same rate (in the paper that of the schedule, in
PyTorch and here times :math:`\alpha`). *Epsilon*: it is added to the corrected
root, so that it means the same in step 1 as later (:doc:`/concepts/epsilon`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import numpy as np

from adamoffload.rules.adam import read_constants
from adamoffload.rules.rule import Rule

__all__ = ["AdamW"]


@dataclass(frozen=True)
class AdamW(Rule):
    r"""Adam with decoupled weight decay.

    Parameters
    ----------
    learning_rate : float, iterable of float, LearningRateSchedule or callable
        See `Rule`.
    beta1, beta2 : float
        Decay rates of the moments, in (0, 1).
    eps : float
        Added to the square root of the corrected second moment; > 0.
    weight_decay : float or callable
        Decoupled decay: the parameter is multiplied by 1 - learning rate x this.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong.

    Notes
    -----
    Slots: m and v, the first and second moment. It agrees with ``torch.optim.AdamW``. What depends
    on the betas alone is computed in float64 and rounded once: 1 - 0.999 is 0.001 here.

    Examples
    --------
    >>> import numpy as np
    >>> rule = AdamW(learning_rate=0.1)
    >>> g, zero = np.array([1, -4], np.float32), np.zeros(2, np.float32)
    >>> delta, m, v = rule.update(g, zero, zero, **rule.scalars(0.1, 1))
    >>> delta.round(4), m.round(4)
    (array([-0.1,  0.1], dtype=float32), array([ 0.1, -0.4], dtype=float32))
    """

    learning_rate: Any = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: Any = 0.01

    slots: ClassVar[tuple[str, ...]] = ("m", "v")
    squares: ClassVar[tuple[str, ...]] = ("v",)
    decay = "decoupled"

    def __post_init__(self) -> None:
        super().__post_init__()
        read_constants(type(self).__name__, self.beta1, self.beta2, self.eps)

    def scalars(self, lr: Any, t: int) -> Mapping[str, Any]:
        """Return the corrected learning rate, betas, epsilon, and the root's correction."""
        lr, beta1, beta2 = float(lr), float(self.beta1), float(self.beta2)
        return {
            "lr_t": lr / (1 - beta1**t),
            "beta1": beta1,
            "new1": 1 - beta1,
            "beta2": beta2,
            "new2": 1 - beta2,
            "root": sqrt(1 - beta2**t),
            "eps": self.eps,
        }

    def update(
        self,
        g: Any,
        m: Any,
        v: Any,
        *,
        lr_t: Any,
        beta1: Any,
        new1: Any,
        beta2: Any,
        new2: Any,
        root: Any,
        eps: Any,
    ) -> tuple[Any, ...]:
        """Return the update and the new moments; `new1` and `new2` are 1 - beta1 and 1 - beta2."""
        m = beta1 * m + new1 * g
        v = beta2 * v + new2 * g * g
        delta = -lr_t * m / (np.sqrt(v) / root + eps)
        return delta, m, v
