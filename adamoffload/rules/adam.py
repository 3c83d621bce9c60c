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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adamoffload.arguments import flag, float32, floating, floating_type
from adamoffload.rules.rule import Rule

__all__ = [
    "Adam",
    "adam",
    "beta_power",
    "read_beta",
    "read_constants",
    "read_eps",
    "step_size",
]


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
    return delta, m, v


def beta_power(beta: np.float32, t: int) -> np.float32:
    """Return the product of t betas, rounded to float32 after each multiplication.

    Examples
    --------
    >>> beta_power(np.float32(0.9), 20), np.float32(0.9**20)
    (np.float32(0.12157659), np.float32(0.12157665))
    """
    power = _powers.get((beta, t - 1), np.float32(1))
    if t > 1 and (beta, t - 1) not in _powers:  # the first of a resumed run, or of a new class
        for start in range(0, t, _AT_ONCE):
            before, factors = power, np.full(min(_AT_ONCE, t - start), beta)
            power = np.multiply.accumulate(np.concatenate([[before], factors]))[-1]
            if power == before:  # it has come to rest, at 0 or above
                break
    elif t:
        power = power * beta
    if len(_powers) >= _KEPT:
        _powers.clear()
    _powers[beta, t] = power
    return power


_powers: dict[tuple[np.float32, int], np.float32] = {}  # a step asks for the next one
_KEPT, _AT_ONCE = 32, 1 << 16


def read_constants(
    owner: str, beta1: Any, beta2: Any, eps: Any
) -> tuple[np.float32, np.float32, np.float32]:
    """Return beta1, beta2 and eps in float32; types are checked first, then ranges.

    Raises
    ------
    TypeError, ValueError
        If one is no float, out of its range, or a beta is 1 or eps is 0 after rounding.

    Examples
    --------
    >>> read_constants("AdamOffload", 0.5, 0.25, 1.0)
    (np.float32(0.5), np.float32(0.25), np.float32(1.0))
    """
    floating_type(owner, "beta1", beta1, "a float in (0, 1)")
    floating_type(owner, "beta2", beta2, "a float in (0, 1)")
    floating_type(owner, "eps", eps, "a float > 0")
    return (
        read_beta(owner, "beta1", beta1),
        read_beta(owner, "beta2", beta2),
        read_eps(owner, eps),
    )


def read_beta(owner: str, name: str, value: object) -> np.float32:
    """Return a beta in float32: a float in (0, 1), which may round to 0 but not to 1.

    Raises
    ------
    TypeError, ValueError
        If it is something else.
    """
    beta = np.float32(floating(owner, name, value, above=0, below=1))
    if beta == 1:
        raise ValueError(f"{owner}: {name} must be < 1, also in float32, got {value}")
    return beta


def read_eps(owner: str, value: object) -> np.float32:
    """Return epsilon in float32: a float > 0, also after rounding.

    Raises
    ------
    TypeError, ValueError
        If it is something else.
    """
    eps = float32(owner, "eps", floating(owner, "eps", value, above=0))
    if eps == 0:
        raise ValueError(f"{owner}: eps must be > 0, also in float32, got {value}")
    return eps


@dataclass(frozen=True)
class Adam(Rule):
    r"""The rule of `AdamOffload`: Adam with an epsilon that is not corrected, and L2 decay.

    Parameters
    ----------
    learning_rate : float, iterable of float, LearningRateSchedule or callable
        See `Rule`.
    beta1, beta2 : float
        Decay rates of the moments, in (0, 1), also after rounding to float32 (which may give 0).
    eps : float
        Added to the square root of the second moment; > 0.
    nesterov : bool
        Use the look-ahead variant.
    weight_decay : float or callable
        L2 decay: this times the parameter is added to its gradient.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong.

    Notes
    -----
    Slots: m and v, the first and second moment. Numbers are those of the reference: betas and
    epsilon are rounded to float32 first, and their powers are accumulated in float32.

    Examples
    --------
    >>> rule = Adam(learning_rate=0.1)
    >>> rule.slots, rule.scalars(np.float32(0.1), 1)["lr_t"].round(4)
    (('m', 'v'), np.float32(0.0316))
    """

    learning_rate: Any = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    nesterov: bool = False
    weight_decay: Any = 0.0

    slots = ("m", "v")
    squares = ("v",)
    decay = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        read_constants("Adam", self.beta1, self.beta2, self.eps)
        flag("Adam", "nesterov", self.nesterov)

    def scalars(self, lr: Any, t: int) -> Mapping[str, Any]:
        """Return the bias-corrected learning rate, the betas and epsilon."""
        beta1, beta2, eps = np.float32(self.beta1), np.float32(self.beta2), np.float32(self.eps)
        lr_t = step_size(lr, beta_power(beta1, t), beta_power(beta2, t))
        return {"lr_t": lr_t, "beta1": beta1, "beta2": beta2, "eps": eps}

    def update(self, g: Any, m: Any, v: Any, **scalars: Any) -> tuple[Any, Any, Any]:
        """Return `adam` of them."""
        return adam(g, m, v, nesterov=self.nesterov, **scalars)
