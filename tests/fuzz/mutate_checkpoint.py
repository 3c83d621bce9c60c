"""Judge many mutated checkpoints: ``PYTHONPATH=tests python tests/fuzz/mutate_checkpoint.py``.

Arguments are their number, the first seed, and the names of the states, rows of
``checkpoints.STATES``; without one all are tried in turn. Each mutant is a crash (anything but a
refusal), a wrong accept (a value that is not what NumPy reads, or a change although it was
refused), or neither; the first of either kind ends the run, with its seed.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter

from checkpoints import STATES, Judge, mutate

count = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10_000
first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
judges = [(STATES[name].data(), Judge(STATES[name])) for name in sys.argv[3:] or STATES]
verdicts: Counter[str] = Counter()
began_s = time.perf_counter()
for seed in range(first, first + count):
    original, judge = judges[seed % len(judges)]
    mutant = mutate(original, random.Random(seed))
    try:
        verdict = judge(mutant)
    except BaseException:
        print(f"seed {seed}", flush=True)
        raise
    verdicts["the original" if mutant == original else verdict] += 1
    if (seed - first + 1) % 100_000 == 0:
        print(
            seed - first + 1, dict(verdicts), f"{time.perf_counter() - began_s:.0f} s", flush=True
        )
print(f"{count} mutants in {time.perf_counter() - began_s:.0f} s: {dict(verdicts)}")
print("0 crashes, 0 wrong accepts")
