"""Lab 4: Chunking and overlap. The solution.

Plain Python is enough. Times are in seconds, sizes in parameters unless the name says bytes. A
chunk goes through four hops, in this order: down, host, up, apply.
"""


# Task 1
def transfer_s(nbytes, latency_s, bytes_per_s):
    """Return how long one copy over the link takes, in seconds."""
    return latency_s + nbytes / bytes_per_s


# Task 2: a link has a latency of 10 microseconds and a bandwidth of 25e9 bytes per second. How many
# bytes does a copy need to reach half of this bandwidth, and to reach nine tenths of it? Think
# before you compute: replace each None by a number.
ENOUGH_BYTES = {
    "half": 250_000,
    "nine tenths": 2_250_000,
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
    chunks, pieces, filled = [], [], 0
    for index, size in enumerate(sizes):
        start = 0
        while start < size:
            stop = min(size, start + chunk_size - filled)
            pieces.append((index, start, stop))
            filled += stop - start
            start = stop
            if filled == chunk_size:
                chunks.append(pieces)
                pieces, filled = [], 0
    if pieces:
        chunks.append(pieces)
    return chunks


# Task 4
def sequential_s(hops_s, chunks):
    """Return the seconds of a step in which one hop is done after the other.

    hops_s holds the seconds of the four hops of one chunk; all chunks are equal.
    """
    return chunks * sum(hops_s)


def overlapped_s(hops_s, chunks):
    """Return the seconds of a step in which each hop has a worker of its own, and slots abound."""
    return sum(hops_s) + (chunks - 1) * max(hops_s)


# Task 5: five chunks, whose hops take 2, 3, 2 and 1 seconds. How long does the step take with one
# slot, two, three, four? Draw it on squared paper: replace each None by a number of seconds.
RING_SECONDS = {
    "1": 40,
    "2": 24,
    "3": 20,
    "4": 20,
}


# Task 6
def schedule(durations_s, slots):
    """Return when each hop begins and ends: for each chunk a list of four pairs (start, stop).

    durations_s holds, for each chunk, the seconds of its four hops; chunks may differ. Everything
    begins as early as the rules of the statement allow; the first hop begins at 0.
    """
    times = []
    worker_free = [0, 0, 0, 0]
    for i, hops in enumerate(durations_s):
        ready = times[i - slots][3][1] if i >= slots else 0
        row = []
        for hop in range(4):
            start = max(ready, worker_free[hop])
            stop = start + hops[hop]
            row.append((start, stop))
            ready = worker_free[hop] = stop
        times.append(row)
    return times


# Task 7
def step_seconds(size, chunk_size, latency_s, bytes_per_s, device_bytes_per_s, host_s):
    """Return the seconds of one step of AdamOffload on the simulated machine, with three slots.

    size parameters go in chunks of chunk_size, the last of which may be smaller. The link has the
    latency and bandwidth of task 1, in each direction by itself. The host takes host_s for each
    parameter. To apply an update, the device reads it, reads the weight, and writes the weight, at
    device_bytes_per_s. A float32 has 4 bytes.
    """
    durations_s = []
    for begin in range(0, size, chunk_size):
        count = min(chunk_size, size - begin)
        copy_s = transfer_s(4 * count, latency_s, bytes_per_s)
        apply_s = 12 * count / device_bytes_per_s
        durations_s.append((copy_s, count * host_s, copy_s, apply_s))
    return schedule(durations_s, 3)[-1][3][1]


# Task 8
def best_chunk(candidates, size, latency_s, bytes_per_s, device_bytes_per_s, host_s):
    """Return that one of the candidates, a list of chunk sizes, with which the step is shortest.

    The other arguments are those of step_seconds.
    """
    machine = (latency_s, bytes_per_s, device_bytes_per_s, host_s)
    return min(candidates, key=lambda chunk_size: step_seconds(size, chunk_size, *machine))
