r"""Adam, as in the paper, for an optimizer whose parameters live elsewhere.

Kingma and Ba, "Adam: A Method for Stochastic Optimization" (arXiv:1412.6980), Algorithm 1, in the
order of computation that ends its section 2, where the bias corrections are folded into the step
size and :math:`\epsilon` is *not* corrected:

.. math::

    \alpha_t &= \alpha \sqrt{1 - \beta_2^t} \,/\, (1 - \beta_1^t) \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 \\
    \delta_t &= -\alpha_t\, m_t \,/\, (\sqrt{v_t} + \epsilon)

The rule returns the update :math:`\delta_t` instead of a new parameter: the parameter is on the
device, the rule runs on the host, and the device adds :math:`\delta_t` itself.

PyTorch corrects :math:`\epsilon` as well; the two agree when
:math:`\epsilon_{\text{torch}} = \epsilon / \sqrt{1 - \beta_2^t}`.

This is the only place where Adam is written down. It is plain NumPy on whatever arrays it is given,
and every executor derives from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["FLUSH_INTERVAL", "adam", "step_size"]

FLUSH_INTERVAL = 64
"""Steps between two flushes of denormal moments to zero."""

SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal


def step_size(lr: Any, beta1_power: Any, beta2_power: Any) -> Any:
    r"""Return :math:`\alpha_t`, the learning rate with both bias corrections.

    Parameters
    ----------
    lr : float32
        The learning rate of this step.
    beta1_power, beta2_power : float32
        :math:`\beta_1^t` and :math:`\beta_2^t`, with t counted from 1.

    Examples
    --------
    The first step of the default optimizer is about 0.316 learning rates, times m / sqrt(v), which
    is then about 3.16: the first update has the size of the learning rate.

    >>> import numpy as np
    >>> step_size(np.float32(1.0), np.float32(0.9), np.float32(0.999)).round(4)
    np.float32(0.3162)
    """
    return lr * np.sqrt(1 - beta2_power) / (1 - beta1_power)


def adam(
    g: Any,
    m: Any,
    v: Any,
    *,
    lr_t: Any,
    beta1: Any,
    beta2: Any,
    eps: Any,
    nesterov: bool = False,
    flush: bool = False,
) -> tuple[Any, Any, Any]:
    r"""Return the update and the new moments: one step of Adam, elementwise.

    Parameters
    ----------
    g, m, v : array, shape (n,), float32
        Gradient, first moment and second moment; not modified.
    lr_t : float32
        :math:`\alpha_t`, from `step_size`.
    beta1, beta2, eps : float32
        Decay rates of the moments, and the term that keeps the denominator from 0. Round them to
        float32 *before*: :math:`1 - \beta_2` is then exact, and differs from 0.001.
    nesterov : bool
        Look ahead: the update uses :math:`\beta_1 m_t + (1 - \beta_1)\, g_t` in the place of
        :math:`m_t` (Dozat, "Incorporating Nesterov Momentum into Adam", 2016).
    flush : bool
        Also set moments below the smallest normal float32 to 0. Where the gradient stays 0, m
        shrinks until it stalls among the denormals, which many processors compute with slowly.

    Returns
    -------
    delta, m, v : array, shape (n,), float32
        What to add to the parameters, and the moments after this step.

    Examples
    --------
    >>> import numpy as np
    >>> g = np.array([1.0, -4.0], np.float32)
    >>> zero = np.zeros_like(g)
    >>> beta1, beta2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
    >>> lr_t = step_size(np.float32(0.1), beta1, beta2)
    >>> delta, m, v = adam(g, zero, zero, lr_t=lr_t, beta1=beta1, beta2=beta2, eps=eps)
    >>> delta.round(4)  # the first step has the size of the learning rate, whatever the gradient's
    array([-0.1,  0.1], dtype=float32)
    >>> m.round(4)
    array([ 0.1, -0.4], dtype=float32)
    """
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    u = beta1 * m + (1 - beta1) * g if nesterov else m
    delta = -lr_t * u / (np.sqrt(v) + eps)
    if flush:
        m = m * (np.abs(m) >= SMALLEST_NORMAL)
        v = v * (v >= SMALLEST_NORMAL)
    return delta, m, v
