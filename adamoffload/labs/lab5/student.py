"""Lab 5: A missing wait. Your file: repair the functions that are given, and fill the gaps.

The statement is in lab5.rst. Check your work, as often as you like, with

    adamoffload lab check 5 lab5.py

All arrays are float32 and of shape (n,), with one n. Host arrays are pinned, but for two in task 3.
When a function is called, its arguments are ready to be used; other copies may still be on their
way.
"""

import numpy as np

from adamoffload_sim import Device, Link, SimBackend


def machine():
    """Return the simulated machine on which everything here is run: play with it.

    An element takes 1 s down the link, 1 s up the link, 1 s in Adam on the host, and 1 s when an
    update is added on the device. Those four work at the same time; only issuing is free. Host
    memory that is not pinned takes 3 s an element on the link.
    """
    return SimBackend(
        link=Link(bandwidth_bytes_per_s=4, pageable_penalty=3),
        device=Device(bandwidth_bytes_per_s=12, flops_per_s=1e12),
        host_ns_per_parameter=1e9,
    )


# Task 1: what does device.now() say, in seconds, after each of these on a new machine()? down() is
# a d2h of ten elements, up() an h2d of ten others, host(6) Adam on the host for six elements; each
# begins at 0. Think before you run it: replace each None by a number.
PREDICTED = [
    None,  # down()
    None,  # down().wait()
    None,  # a, b = down(), up(); a.wait(); b.wait()
    None,  # a, b = down(), down(); a.wait(); b.wait()
    None,  # a = down(); host(6); a.wait()
]


# Task 2: this reads too early.
def norm(device, g, host, other_work):
    """Return the sum of squares of g, a device array; the host does other work meanwhile.

    host is where g comes down to. other_work() keeps the host busy and does not look at host.
    """
    device.d2h(g, host)
    other_work()
    return float(np.sum(host * host))


# Task 3: this overwrites what is on its way.
def send_two(device, first, second, staging, x, y):
    """Send two host arrays to the device arrays x and y; return the ticket of the last copy.

    first and second are not pinned. staging is the one pinned array there is, so both go over it.
    """
    staging[...] = first
    device.h2d(staging, x)
    staging[...] = second
    return device.h2d(staging, y)


# Task 4: this sends down what is not there yet.
def gradient_down(device, w, g, host):
    """Compute 2 w into the device array g, bring it down to host, return the copy's ticket."""
    np.multiply(w, 2, out=g)
    return device.d2h(g, host, after=())


# Task 5: this adds what is not there yet.
def apply(device, w, update, slot):
    """Send the host array update up into slot, add it to w; return the addition's ticket."""
    device.h2d(update, slot)
    return device.run_on_device(lambda: np.add(w, slot, out=w))


# Task 6: this takes a slot while somebody still needs it.
def apply_two(device, weights, updates, slot):
    """Add two updates (host arrays) to two weights (device arrays), over one slot of the device.

    Return the ticket of the last addition.
    """
    for w, update in zip(weights, updates, strict=True):
        sent = device.h2d(update, slot)
        added = device.run_on_device(lambda w=w: np.add(w, slot, out=w), after=(sent,))
    return added


# Task 7
def train_step(device, gradients, weights, hosts, slots, adam):
    """Bring every gradient down, run Adam on it, send the update up and add it to its weight.

    gradients, weights : lists of as many device arrays; gradient i is ready, and is for weight i.
    hosts, slots : lists of as many host and device arrays (one, two or more): chunk i uses number
        i % len(hosts) of each, and nothing else may be allocated.
    adam : adam(host) overwrites the gradient in a host array by the update. It takes its time on
        the virtual clock only if you run it as
        device.run_on_host(lambda: adam(host), elements=host.size).

    Return the ticket of the last addition.
    """
    raise NotImplementedError


# Task 8: chunks of ten elements, many of them, and train_step as good as it can be. How many
# seconds does it take for each further chunk, with one slot, with two and with three?
SECONDS_PER_CHUNK = [None, None, None]
