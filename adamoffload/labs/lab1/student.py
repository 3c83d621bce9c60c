"""Lab 1: Adam by hand. Your file: replace each ``raise NotImplementedError`` by your solution.

The statement is in lab1.rst. Check your work, as often as you like, with

    adamoffload lab check 1 lab1.py

You need NumPy alone. All arrays are float32, of shape (n,); never change an argument in place.
"""

import numpy as np

# Task 1: the size of Adam's very first step, for each of these three gradients, with a learning
# rate of 0.01. Think before you compute: replace None by a list of three positive numbers.
GRADIENTS = [0.001, 5.0, -700.0]
FIRST_STEP_SIZES = None


# Task 2
def first_moment(g, m, beta1):
    """Return the new first moment, a running average of the gradient."""
    raise NotImplementedError


# Task 3
def second_moment(g, v, beta2):
    """Return the new second moment, a running average of the squared gradient."""
    raise NotImplementedError


# Task 4
def step_size(lr, beta1_power, beta2_power):
    """Return the learning rate with both bias corrections, a float32.

    beta1_power is beta1 to the power of the step's number, counted from 1; so is beta2_power.
    """
    raise NotImplementedError


# Task 5
def update(m, v, lr_t, eps):
    """Return what is added to the weights; lr_t comes from step_size, m and v are new."""
    raise NotImplementedError


# Task 6
def train(gradient, w, steps, lr, beta1, beta2, eps):
    """Return the weights after some steps of Adam, which begin with moments of zero.

    gradient is a function that takes the weights and returns their gradient. The four numbers are
    float32 and so is all arithmetic: also the powers of beta1 and beta2, which you multiply up step
    by step.
    """
    raise NotImplementedError


# Task 7
def torch_eps(eps, beta2, t):
    """Return the epsilon with which PyTorch's Adam does the same step t as ours with eps.

    PyTorch divides by sqrt(v / (1 - beta2**t)) + eps: it corrects v before epsilon is added, where
    we correct the learning rate. See the statement.
    """
    raise NotImplementedError


# Task 8: a gradient of size 1 changes its sign at every step. With beta1 = 0.9, which size does
# Adam's step tend to, in learning rates? Replace None by a number, to three digits.
ALTERNATING = None
