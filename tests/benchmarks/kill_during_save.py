"""Kill a process that saves in a loop, 200 times: the file loads, and is the old or the new one.

Run it with ``python tests/benchmarks/kill_during_save.py [TIMES [PARAMETERS]]``. The process says a
step's number before and after it saves it, and is killed with SIGKILL at a random moment. Its w is
the number of the step, everywhere, so that a file of two saves would show.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import adamoffload as ao

SAVER = """
import sys
import numpy as np
import adamoffload as ao
device = ao.get_backend("numpy")
w = ao.Parameter(device.asarray(np.zeros(int(sys.argv[2]), np.float32)), "w")
opt = ao.AdamOffload([w], engine="numpy", threads=1)
state = opt.state_dict()
powers = np.float32(1), np.float32(1)
for step in range(1, 1_000_000):
    powers = powers[0] * np.float32(0.9), powers[1] * np.float32(0.999)
    state |= {"global_step": step, "beta1_power": powers[0], "beta2_power": powers[1]}
    state["moment1"]["w"][:] = state["moment2"]["w"][:] = step
    opt.load_state_dict(state)
    device.h2d(np.full(w.size, step, np.float32), w.data).wait()
    print(f"saving {step}", flush=True)  # in one piece: the end may come at any moment
    ao.save(sys.argv[1], opt)
    print(f"saved {step}", flush=True)
"""

times = int(sys.argv[1]) if len(sys.argv) > 1 else 200
size = int(float(sys.argv[2])) if len(sys.argv) > 2 else 300_000
rng = random.Random(0)
device = ao.get_backend("numpy")
w = ao.Parameter(device.asarray(np.zeros(size, np.float32)), "w")
optimizer = ao.AdamOffload([w])
found: Counter[str] = Counter()
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "run.npz"
    for _ in range(times):
        arguments = [sys.executable, "-c", SAVER, str(path), str(size)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            time.sleep(rng.random() * 0.02)
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        word, number = lines[-1].split()
        ao.load(path, optimizer)  # raises if the file is neither
        step = optimizer.global_step
        for array in (device.asnumpy(w.data), optimizer.moment1["w"], optimizer.moment2["w"]):
            assert np.all(array == step)
        assert step in ((int(number),) if word == "saved" else (int(number) - 1, int(number)))
        between = word == "saved"
        found["between saves" if between else "new" if step == int(number) else "old"] += 1
        for temporary in Path(folder).glob(".adamoffload-*"):
            temporary.unlink()
print(f"killed {times} times, the file was whole each time: {dict(found)}")
