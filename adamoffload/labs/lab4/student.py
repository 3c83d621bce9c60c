"""Lab 4: Chunking and overlap. Your file: replace each ``raise NotImplementedError`` and ``None``.

The statement is in lab4.rst. Check your work, as often as you like, with

    adamoffload lab check 4 lab4.py

Plain Python is enough. Times are in seconds, sizes in parameters unless the name says bytes. A
chunk goes through four hops, in this order: down, host, up, apply.
"""


# Task 1
def transfer_s(nbytes, latency_s, bytes_per_s):
    """Return how long one copy over the link takes, in seconds."""
    raise NotImplementedError


# Task 2: a link has a latency of 10 microseconds and a bandwidth of 25e9 bytes per second. How many
# bytes does a copy need to reach half of this bandwidth, and to reach nine tenths of it? Think
# before you compute: replace each None by a number.
ENOUGH_BYTES = {
    "half": None,
    "nine tenths": None,
}


# Task 3
def plan(sizes, chunk_size):
    """Return the chunks: a list with, for each chunk, a list of its pieces (index, start, stop).

    sizes holds the number of elements of each parameter, at least 1. A piece is a part of one
    parameter: index says which one, start and stop which of its elements (as in a slice, counted
    from its own beginning). All parameters follow each other, in order; every chunk_size elements
    make a chunk. So a large parameter spans several chunks, small ones share one, and only the last
    chunk may have fewer elements.
    """
    raise NotImplementedError


# Task 4
def sequential_s(hops_s, chunks):
    """Return the seconds of a step in which one hop is done after the other.

    hops_s holds the seconds of the four hops of one chunk; all chunks are equal.
    """
    raise NotImplementedError


def overlapped_s(hops_s, chunks):
    """Return the seconds of a step in which each hop has a worker of its own, and slots abound."""
    raise NotImplementedError


# Task 5: five chunks, whose hops take 2, 3, 2 and 1 seconds. How long does the step take with one
# slot, two, three, four? Draw it on squared paper: replace each None by a number of seconds.
RING_SECONDS = {
    "1": None,
    "2": None,
    "3": None,
    "4": None,
}


# Task 6
def schedule(durations_s, slots):
    """Return when each hop begins and ends: for each chunk a list of four pairs (start, stop).

    durations_s holds, for each chunk, the seconds of its four hops; chunks may differ. Everything
    begins as early as the rules of the statement allow; the first hop begins at 0.
    """
    raise NotImplementedError


# Task 7
def step_seconds(size, chunk_size, latency_s, bytes_per_s, device_bytes_per_s, host_s):
    """Return the seconds of one step of AdamOffload on the simulated machine, with three slots.

    size parameters go in chunks of chunk_size, the last of which may be smaller. The link has the
    latency and bandwidth of task 1, in each direction by itself. The host takes host_s for each
    parameter. To apply an update, the device reads it, reads the weight, and writes the weight, at
    device_bytes_per_s. A float32 has 4 bytes.
    """
    raise NotImplementedError


# Task 8
def best_chunk(candidates, size, latency_s, bytes_per_s, device_bytes_per_s, host_s):
    """Return that one of the candidates, a list of chunk sizes, with which the step is shortest.

    The other arguments are those of step_seconds.
    """
    raise NotImplementedError
