"""Lab 7: Rounding. The solution.

The statement is in lab7.rst. Check your work, as often as you like, with

    adamoffload lab check 7 lab7.py

You need NumPy alone. All arrays are float32, of shape (n,), and so is all arithmetic, unless it
says otherwise; never change an argument in place. Overflow and underflow are no errors here.
"""

import numpy as np


# Task 1
def ulp_distance(a, b):
    """Return how many steps from one float32 to the next lead from a to b, int64, shape (n,).

    a and b hold finite float32 of any sign. 0.0 and -0.0 are one number: their distance is 0.
    """
    distance = _ordinal(a) - _ordinal(b)
    return np.abs(distance)


def _ordinal(x):
    bits = x.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits + 2**31), bits)


# Task 2: how many such steps lie between 1 - beta, computed with beta in float32, and the float32
# next to the true 1 - beta? First guess which of the three is largest; then compute.
ULPS_APART = [
    0,  # beta = 0.5
    3,  # beta = 0.9
    111,  # beta = 0.999
]


# Task 3: predict STUCK, then write stuck_at, and compare. All numbers are float32.
STUCK = [
    2**26,  # a counter starts at 0 and adds 4, again and again: at which number does it stop?
    24,  # the smallest whole k for which 1 + 2**-k is 1
    25,  # the smallest whole k for which 1 - 2**-k is 1
]


def stuck_at(delta):
    """Return the smallest power of two p, a np.float32, for which p + delta is p again.

    delta is a np.float32 other than 0, of either sign, with a size from 2**-90 to 2**90.
    """
    p = np.float32(2.0**-120)
    while p + delta != p:
        p = p * np.float32(2)
    return p


# Task 4
def stall(beta):
    """Multiply a power of beta up, from 1, until it no longer changes.

    beta is a np.float32 between 0 and 1. Return a tuple of two ints: how many multiplications
    changed it, and how many times the smallest denormal, 2**-149, it is in the end.
    """
    power, steps = np.float32(1), 0
    while power * beta != power:
        power = power * beta
        steps += 1
    return steps, int(power / np.float32(2.0**-149))


# Task 5
def flush(x):
    """Return x with every denormal replaced by 0, and everything else as it is."""
    return np.where(np.abs(x) < np.finfo(np.float32).smallest_normal, np.float32(0), x)


# Task 6: beta2 = 0.999, and g is a power of ten. Replace each None by a whole number.
OVERFLOW = [
    20,  # the largest exponent e for which (1 - beta2) * g * g is finite, g = 10**e
    19,  # the same for (1 - beta2) * (g * g)
    0,  # Adam's update of a coordinate whose v is inf, and whose m is 1
]


# Task 7
def truncate(x):
    """Return x with the lower 16 of its 32 bits set to 0, in NaN as well; what was NaN is NaN."""
    short = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isnan(x), np.float32(np.nan), short)


# Task 8
def sum_forward(x):
    """Return the sum, a np.float32: element after element, from the first to the last."""
    total = np.float32(0)
    for element in x:
        total = total + element
    return total


def sum_pairwise(x):
    """Return the sum, a np.float32: that of the first n // 2 elements plus that of the others.

    Both are computed in the same way; the sum of one element is that element.
    """
    half = len(x) // 2
    if half == 0:
        return x[0]
    return sum_pairwise(x[:half]) + sum_pairwise(x[half:])


def sum_compensated(x):
    """Return the sum, a np.float32: forward, but carrying what each addition has lost.

    Begin with total = lost = 0. For each element: y = element - lost; new = total + y;
    lost = (new - total) - y; total = new.
    """
    total = lost = np.float32(0)
    for element in x:
        y = element - lost
        new = total + y
        lost = (new - total) - y
        total = new
    return total


# Task 9: do the two give equal bits, for all float32 arrays of this length? Replace each None by
# True or False. a, b, c are arrays of moderate numbers; Adam is elementwise, as in lab 1.
SAME_BITS = [
    True,  # Adam on the whole array; Adam on its first and on its second half
    False,  # the sum of an array; the sum of its first half plus the sum of its second half
    True,  # a * 1024 * (1 / 1024); a
    False,  # a * 1000 * (1 / 1000); a
    False,  # (a + b) + c; (c + b) + a
    True,  # (a + b) + c; c + (b + a)
]
