"""How long a dashboard takes: seconds to draw and to save 1,000 steps of 20 parameters.

Run it with ``python tests/benchmarks/dashboard.py [STEPS]``. Nothing is cached between rounds; the
first round, which also looks for fonts, is shown but not counted.
"""

from __future__ import annotations

import io
import statistics
import sys
import time

import matplotlib as mpl
import numpy as np

import adamoffload as ao

mpl.use("Agg")
import matplotlib.pyplot as plt

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
rng = np.random.default_rng(0)
device = ao.get_backend("sim", link="pcie4x16")
parameters = [
    ao.Parameter(device.asarray(rng.standard_normal(5_000, np.float32)), f"layer{i}.weight")
    for i in range(20)
]
gradients = [device.asarray(rng.standard_normal(5_000, np.float32)) for _ in parameters]
ledger, probe = ao.Ledger(), ao.Probe()
optimizer = ao.AdamOffload(parameters, ledger=ledger, probe=probe, chunk_bytes=20_000)
began_s = time.perf_counter()
for _ in range(steps):
    optimizer(gradients)
print(f"{steps} steps of {len(parameters)} parameters: {len(ledger):,} hops, ", end="")
print(f"trained in {time.perf_counter() - began_s:.1f} s")
seconds = []
for turn in range(6):
    began_s = time.perf_counter()
    figure = ao.plots.dashboard(ledger, probe)
    drawn_s = time.perf_counter() - began_s
    figure.savefig(io.BytesIO(), format="png")
    seconds.append(time.perf_counter() - began_s)
    print(f"  round {turn}: {drawn_s:.2f} s, with saving {seconds[-1]:.2f} s")
    plt.close(figure)
print(f"median of rounds 1 to 5: {statistics.median(seconds[1:]):.2f} s")
