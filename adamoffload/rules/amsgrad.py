r"""AMSGrad: AdamW whose step sizes never grow again.

Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond" (arXiv:1904.09237), Algorithm 2, with
bias corrections and decay as in AdamW, as PyTorch computes it:

.. math::

    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 \\
    \hat v_t &= \max(\hat v_{t-1}, v_t) \\
    \delta_t &= -\frac{\alpha}{1 - \beta_1^t}\,
        m_t \,\Big/ \left(\frac{\sqrt{\hat v_t}}{\sqrt{1 - \beta_2^t}} + \epsilon\right) \\
    w_t &= (1 - \alpha \lambda)\, w_{t-1} + \delta_t

Adam forgets: where a large gradient comes seldom, :math:`v` has decayed when it is needed, and the
many small gradients between count for more than the large one; the paper's section 3 has a problem
on which Adam therefore goes the wrong way. The maximum does not forget. It costs a third slot: half
as much again to keep.

The maximum is that of the *uncorrected* :math:`v`, as in PyTorch. The paper has no corrections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from adamoffload.rules.adamw import AdamW

__all__ = ["AMSGrad"]


@dataclass(frozen=True)
class AMSGrad(AdamW):
    r"""AdamW, divided by the largest second moment so far.

    The parameters are those of `AdamW`.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong.

    Notes
    -----
    Slots: m, v, and v_max, the largest v so far. It agrees with ``torch.optim.AdamW`` with
    ``amsgrad=True``.

    Examples
    --------
    After one large gradient, a small one: the root still has the large one's size.

    >>> import numpy as np
    >>> state = np.zeros((3, 1), np.float32)
    >>> rule = AMSGrad(learning_rate=0.1, beta2=0.5)
    >>> for t, g in enumerate([8.0, 0.0, 0.0], 1):
    ...     _, *state = rule.update(np.array([g], np.float32), *state, **rule.scalars(0.1, t))
    ...     print(state[1], state[2])
    [32.] [32.]
    [16.] [32.]
    [8.] [32.]
    """

    slots = ("m", "v", "v_max")
    squares = ("v", "v_max")

    def update(  # type: ignore[override]  # it takes a slot more than that of AdamW
        self,
        g: Any,
        m: Any,
        v: Any,
        v_max: Any,
        *,
        lr_t: Any,
        beta1: Any,
        new1: Any,
        beta2: Any,
        new2: Any,
        root: Any,
        eps: Any,
    ) -> tuple[Any, ...]:
        """Return the update, the new moments and the new maximum."""
        m = beta1 * m + new1 * g
        v = beta2 * v + new2 * g * g
        v_max = np.maximum(v_max, v)
        delta = -lr_t * m / (np.sqrt(v_max) / root + eps)
        return delta, m, v, v_max
