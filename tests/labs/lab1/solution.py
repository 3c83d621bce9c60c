"""Lab 1: Adam by hand. The solution.

You need NumPy alone. All arrays are float32, of shape (n,); never change an argument in place.
"""

import numpy as np

# Task 1: the size of Adam's very first step, for each of these three gradients, with a learning
# rate of 0.01. Think before you compute: replace None by a list of three positive numbers.
GRADIENTS = [0.001, 5.0, -700.0]
FIRST_STEP_SIZES = [0.01, 0.01, 0.01]


# Task 2
def first_moment(g, m, beta1):
    """Return the new first moment, a running average of the gradient."""
    return beta1 * m + (1 - beta1) * g


# Task 3
def second_moment(g, v, beta2):
    """Return the new second moment, a running average of the squared gradient."""
    return beta2 * v + (1 - beta2) * g * g


# Task 4
def step_size(lr, beta1_power, beta2_power):
    """Return the learning rate with both bias corrections, a float32.

    beta1_power is beta1 to the power of the step's number, counted from 1; so is beta2_power.
    """
    return lr * np.sqrt(1 - beta2_power) / (1 - beta1_power)


# Task 5
def update(m, v, lr_t, eps):
    """Return what is added to the weights; lr_t comes from step_size, m and v are new."""
    return -lr_t * m / (np.sqrt(v) + eps)


# Task 6
def train(gradient, w, steps, lr, beta1, beta2, eps):
    """Return the weights after some steps of Adam, which begin with moments of zero.

    gradient is a function that takes the weights and returns their gradient. The four numbers are
    float32 and so is all arithmetic: also the powers of beta1 and beta2, which you multiply up step
    by step.
    """
    m = v = np.zeros_like(w)
    beta1_power = beta2_power = np.float32(1)
    for _ in range(steps):
        g = gradient(w)
        m = first_moment(g, m, beta1)
        v = second_moment(g, v, beta2)
        beta1_power, beta2_power = beta1_power * beta1, beta2_power * beta2
        w = w + update(m, v, step_size(lr, beta1_power, beta2_power), eps)
    return w


# Task 7
def torch_eps(eps, beta2, t):
    """Return the epsilon with which PyTorch's Adam does the same step t as ours with eps.

    PyTorch divides by sqrt(v / (1 - beta2**t)) + eps: it corrects v before epsilon is added, where
    we correct the learning rate. See the statement.
    """
    return eps / np.sqrt(1 - beta2**t)


# Task 8: a gradient of size 1 changes its sign at every step. With beta1 = 0.9, which size does
# Adam's step tend to, in learning rates? Replace None by a number, to three digits.
ALTERNATING = 0.1 / 1.9
