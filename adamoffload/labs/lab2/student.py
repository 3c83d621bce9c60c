"""Lab 2: The delta trick. Your file: replace each ``raise NotImplementedError`` and each ``None``.

The statement is in lab2.rst. Check your work, as often as you like, with

    adamoffload lab check 2 lab2.py

You need NumPy alone: devices are handed to your functions. All arrays are float32, of shape (n,);
lr_t, beta1, beta2 and eps are float32 numbers.
"""

import numpy as np

# Task 1: bytes for each parameter and step. Think before you compute: replace each None by three
# numbers (bytes down, bytes up, bytes that the host keeps from one step to the next).
BYTES = {
    "weights": None,  # w and g go down, the host computes the new w, which goes up
    "weights, host copy": None,  # the same, but the host keeps a w of its own
    "states": None,  # Adam on the device: m and v go up before the step, down after
    "delta": None,  # g goes down, delta goes up, the device adds it
    "delta, 16-bit gradient": None,  # the same, with a gradient of 2 bytes
}


# Task 2
def host_step(g, m, v, lr_t, beta1, beta2, eps):
    """Take one step of Adam on the host, in place.

    g, m and v are host arrays. Afterwards m and v hold the new moments, and g holds delta, what is
    to be added to the weights. The arrays may be parts of larger ones, which others read: whatever
    you compute has to end up in these three. Temporary arrays are allowed. Return nothing.
    """
    raise NotImplementedError


# Task 3: w and u are on a device, d is a host array, other is a second device; all have one shape.
# Which of these lines raise a ResidencyError? Replace each None by True or False.
RAISES = {
    "w + u": None,
    "w + d": None,
    "w + device.asarray(d)": None,
    "w + other.asarray(d)": None,
    "w * 2.0": None,
    "np.sqrt(w * w)": None,
    "np.asarray(w)": None,
    "device.asnumpy(w) + d": None,
}


# Task 4
def device_step(w, delta):
    """Add delta to the weights, in place; both are on the device. Return nothing."""
    raise NotImplementedError


# Task 5
def offload_step(device, w, g, m, v, lr_t, beta1, beta2, eps):
    """Take one offloaded step: afterwards w, m and v are new, each where it was. Return nothing.

    w and g are on the device, m and v on the host. Send g down and delta up, and nothing else:

    device.asnumpy(x) returns a copy, on the host, of a device array;
    device.asarray(x) returns a copy, on the device, of a host array.
    """
    raise NotImplementedError


# Task 6
def prepare(w, g, decay, scale):
    """Return the gradient that goes down: unscaled and with decay, in a new array on the device.

    w and g are on the device and stay as they are; decay and scale are float32 numbers. The loss
    was multiplied by scale before g was computed. The result is the gradient of
    loss + decay / 2 * sum(w**2), where loss is not multiplied by anything.
    """
    raise NotImplementedError


# Task 7: the host has computed delta, in float32. In which of these cases does the device end with
# the same bits, for every weight, as if the host had added the float32 delta to an exact float32
# copy of w and sent that? Replace each None by True or False.
SAME_BITS = {
    "plain": None,  # the float32 delta goes up, and the device adds it to its float32 w
    "chunks": None,  # the same, but delta goes up in ten pieces, and each is added when it is there
    "half": None,  # delta is rounded to float16, goes up, becomes float32 again, and is added
}


# Task 8
def lost(w, delta, dtype):
    """Return how many weights do not move although they should, an int.

    w and delta are float32 host arrays; dtype is the name of a type, such as "float16". Round both
    to dtype and add them in dtype: a weight is lost if delta was not 0 (before rounding), but the
    sum is the rounded weight.
    """
    raise NotImplementedError
