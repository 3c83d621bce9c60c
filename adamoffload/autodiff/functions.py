"""Functions that models are made of, as plain ``np.*`` code.

They take and return arrays of any backend, on the host or on a device, and have derivatives inside
`adamoffload.value_and_grad` because everything that they are composed of has.
"""

from __future__ import annotations

import math

import numpy as np

from adamoffload.autodiff import derivatives
from adamoffload.autodiff.tape import call, stop_gradient
from adamoffload.device.backend import Array

__all__ = ["erf", "gelu", "layer_norm", "softmax", "softmax_cross_entropy"]


def softmax(x: Array, axis: int = -1) -> Array:
    """Return ``exp(x)``, scaled to sum to 1 along `axis`.

    Parameters
    ----------
    x : array, any shape
        Logits.
    axis : int
        Where the classes are.

    Returns
    -------
    array, same shape

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.array([1000.0, 1000.0]))
    array([0.5, 0.5])
    """
    # Shifting by a constant changes nothing but the range, so the maximum needs no derivative.
    exponentials = np.exp(x - np.max(stop_gradient(x), axis=axis, keepdims=True))
    return exponentials / np.sum(exponentials, axis=axis, keepdims=True)


def softmax_cross_entropy(logits: Array, labels: Array) -> Array:
    """Return the mean of ``-log(softmax(logits)[label])`` over the batch.

    Parameters
    ----------
    logits : array, shape (..., classes)
        Unscaled log-probabilities.
    labels : integer array, shape (...)
        The right class of each row, on the same device.

    Returns
    -------
    array, shape ()

    Examples
    --------
    >>> import numpy as np
    >>> softmax_cross_entropy(np.array([[0.0, 0.0], [0.0, 1000.0]]), np.array([0, 1]))
    np.float64(0.34657359027997264)
    """
    shifted = logits - np.max(stop_gradient(logits), axis=-1, keepdims=True)
    picked = np.take_along_axis(shifted, np.expand_dims(labels, -1), axis=-1)
    return np.mean(np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True)) - picked)


def erf(x: Array) -> Array:
    """Return the error function, ``2 / sqrt(pi)`` times the integral of ``exp(-t**2)`` from 0 to x.

    Parameters
    ----------
    x : array, any shape
        On any device; not a Python number, which ``math.erf`` takes.

    Returns
    -------
    array, same shape

    Notes
    -----
    Gauss's quadrature with 24 nodes, in plain ``np.*``: off by at most 4e-15 in float64 and 6e-7 in
    float32, and as slow as 24 exponentials. Where there is SciPy, and arrays on the host,
    ``scipy.special.erf`` is faster; `adamoffload.value_and_grad` takes its derivative by
    ``derivatives=``.

    Examples
    --------
    >>> import numpy as np
    >>> np.round(erf(np.array([-1.0, 0.0, 0.5])), 6)
    array([-0.842701,  0.      ,  0.5205  ])
    """
    return call(derivatives.erf, x)


def gelu(x: Array) -> Array:
    """Return the Gaussian error linear unit, by its tanh formula.

    Exactly it is ``0.5 * x * (1 + erf(x / math.sqrt(2)))``; the two differ by at most 5e-4.

    References
    ----------
    D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> np.round(gelu(np.array([-1.0, 0.0, 1.0])), 4)
    array([-0.1588,  0.    ,  0.8412])
    """
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def layer_norm(x: Array, gain: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Shift and scale each row to mean 0 and variance 1, then apply `gain` and `bias`.

    Parameters
    ----------
    x : array, shape (..., n)
        Rows to normalise along the last axis.
    gain, bias : array, shape (n,)
        Scale and shift of each feature.
    eps : float
        Added to the variance.

    Returns
    -------
    array, shape (..., n)

    References
    ----------
    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", arXiv:1607.06450, equation 4.

    Examples
    --------
    >>> import numpy as np
    >>> layer_norm(np.array([1.0, 3.0]), np.ones(2), np.zeros(2), eps=0.0)
    array([-1.,  1.])
    """
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(np.square(centred), axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * gain + bias
