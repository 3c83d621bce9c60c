"""Lab 3: The byte ledger. The solution.

Plain Python is enough: ledgers are handed to your functions. A parameter is a float32 number, of 4
bytes, unless it says otherwise. "Down" is from device to host (d2h), "up" is from host to device
(h2d).
"""


# Task 1
def device_bytes(parameters, chunk_bytes, activation_bytes, offloaded):
    """Return the bytes on the device while it trains, an int.

    parameters is their number (at least 1), chunk_bytes a multiple of 4. Without offload (offloaded
    is False) there is no ring.
    """
    if not offloaded:
        return 16 * parameters + activation_bytes
    slot = min(chunk_bytes, 4 * parameters)
    chunks = -(-4 * parameters // slot)
    return 8 * parameters + activation_bytes + min(3, chunks) * slot


# Task 2: what fits, with activations of 1 GiB and chunks of 4 MiB? Replace each None by
# "resident" (all of Adam fits on the device), "offloaded" (it fits if the moments are on the host),
# or "neither". A GiB is 2**30 bytes.
FITS = {
    "0.9e9 parameters, 16 GiB": "resident",
    "1.5e9 parameters, 16 GiB": "offloaded",
    "2.0e9 parameters, 16 GiB": "offloaded",
    "2.1e9 parameters, 16 GiB": "neither",
    "7.0e9 parameters, 80 GiB": "offloaded",
}


# Task 3
def largest_model(memory_bytes, chunk_bytes, activation_bytes, offloaded):
    """Return how many parameters fit at most into memory_bytes, an int.

    The model is large: it fills all three slots of the ring.
    """
    if offloaded:
        return (memory_bytes - activation_bytes - 3 * chunk_bytes) // 8
    return (memory_bytes - activation_bytes) // 16


# Task 4
def run_bytes(parameters, steps, batch_bytes):
    """Return the bytes that cross the link in a whole run with offload: (down, up).

    The weights go up once, before the first step. In each step a batch goes up, the loss (one
    float32) comes down, and the optimizer moves what it has to. After the last step, the weights
    come down.
    """
    down = steps * (4 * parameters + 4) + 4 * parameters
    up = 4 * parameters + steps * (4 * parameters + batch_bytes)
    return down, up


# Task 5
def per_step(ledger):
    """Return the bytes of each optimizer step: a list of pairs (down, up), from step 1 to the last.

    ledger.events holds one event for each hop. An event has a hop (a str), a step (an int counted
    from 1, or None for a copy outside of any step), elements and nbytes. Copies outside of any step
    do not count here.
    """
    steps = {}
    for event in ledger.events:
        if event.step is not None:
            moved = steps.setdefault(event.step, {"d2h": 0, "h2d": 0})
            if event.hop in moved:
                moved[event.hop] += event.nbytes
    return [(steps[step]["d2h"], steps[step]["h2d"]) for step in sorted(steps)]


# Task 6
def bandwidth(ledger, hop):
    """Return the bytes per second that a hop ("d2h" or "h2d") has reached while it was at work.

    Each event also has start_s and stop_s. Copies of one hop do not overlap each other.
    """
    mine = [event for event in ledger.events if event.hop == hop]
    return sum(e.nbytes for e in mine) / sum(e.stop_s - e.start_s for e in mine)


# Task 7
def counter():
    """Return two functions, record and totals: a ledger of your own.

    record(hop, elements, nbytes, ticket) is called for each copy, when it is issued; the ticket
    would say when the copy was done, and whoever asks it waits until then. So do not. It may be
    called for hops that move nothing, such as "update", with nbytes = 0.

    totals() returns a dict with the bytes so far: {"d2h": ..., "h2d": ...}.

    Each call of counter starts a new ledger, at 0.
    """
    moved = {"d2h": 0, "h2d": 0}

    def record(hop, elements, nbytes, ticket):
        if hop in moved:
            moved[hop] += nbytes

    def totals():
        return dict(moved)

    return record, totals


# Task 8
def intruder(events, sizes):
    """Return (step, hop, name): in which step, and where to, which whole parameter was copied.

    events is a list of (step, hop, nbytes) from a run in which every step should move the same,
    4 bytes down and up for each parameter. In one step, something else has copied one parameter.
    sizes maps the name of each parameter to its number of elements; no two are of one size.
    """
    usual = 4 * sum(sizes.values())
    moved = {}
    for step, hop, nbytes in events:
        moved[step, hop] = moved.get((step, hop), 0) + nbytes
    for (step, hop), nbytes in moved.items():
        for name, size in sizes.items():
            if nbytes - usual == 4 * size:
                return step, hop, name
    raise ValueError("no step moved more than it should")


# Task 9
def design_bytes(design, k):
    """Return (down, up): bytes for each parameter and optimizer step of k micro-steps, k >= 1.

    design is "delta", "states", "torchao-bf16" or "zero-2"; see the table in the statement.
    """
    if design == "zero-2" and k > 1:
        return 2 * k + 4, 2 * (k - 1) + 2
    return {"delta": (4, 4), "states": (8, 8), "torchao-bf16": (2 * k, 2), "zero-2": (4, 2)}[design]


# Task 9: for which smallest k does "zero-2" move more bytes than "states", down and up together?
# Think before you compute: replace None by a number.
CROSSOVER = 4
