"""Which block size is best for the NumPy engine: ns a parameter by block size and threads.

Run it with ``python tests/benchmarks/block_size.py [PARAMETERS]``. Rounds are interleaved.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

from adamoffload.engine.kernel import NumpyKernel
from adamoffload.engine.program import trace
from adamoffload.engine.team import Workers, available_cores
from adamoffload.rules.adam import adam, step_size

size = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10_000_000
rng = np.random.default_rng(0)
original = rng.standard_normal(size, np.float32)
g, m, v = original.copy(), np.zeros_like(original), np.zeros_like(original)
beta1, beta2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
scalars = {
    "lr_t": step_size(np.float32(1e-3), beta1, beta2),
    "beta1": beta1,
    "beta2": beta2,
    "eps": eps,
}
program = trace(adam, ("g", "m", "v"), tuple(scalars))
teams = [Workers(threads) for threads in sorted({1, available_cores()})]
blocks = [1 << 13, 1 << 14, 1 << 15, 48 << 10, 1 << 16, 96 << 10, 1 << 17, 1 << 18, 1 << 19]
seconds: dict[tuple[int, int], list[float]] = {}
for _ in range(9):
    for block in blocks:
        kernel = NumpyKernel(program)
        kernel.block_size = block
        for team in teams:
            np.copyto(g, original)
            for _ in range(2):  # the first fills caches and scratch
                began_s = time.perf_counter()
                team.update(kernel, (g, m, v), [(0, size, program.bind(scalars))])
                taken_s = time.perf_counter() - began_s
            seconds.setdefault((block, team.threads), []).append(taken_s)
print(f"{'block':>8}" + "".join(f"{team.threads:>8}t" for team in teams))
for block in blocks:
    medians = [statistics.median(seconds[block, team.threads]) / size * 1e9 for team in teams]
    print(f"{block:>8}" + "".join(f"{median:>9.3f}" for median in medians))
