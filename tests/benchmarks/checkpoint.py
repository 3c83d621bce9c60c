"""What a checkpoint costs beside `numpy.save` and `numpy.load` of the same bytes.

Run it with ``python tests/benchmarks/checkpoint.py [PARAMETERS [FOLDER]]``. Rounds are interleaved;
printed are minima and medians in ms, and the ratio of save + load. NumPy writes a ``.npy`` file for
each of the three arrays. With fsync, both put their files on the disk; without, neither does. For
comparison also `numpy.savez`, and the checksum alone.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

import adamoffload as ao

size = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10_000_000
folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
rounds = 15
device = ao.get_backend("numpy")
really_sync = os.fsync


def build() -> ao.AdamOffload:
    values = np.random.default_rng(0).standard_normal(size, np.float32)
    return ao.AdamOffload([ao.Parameter(device.asarray(values), "w")])


saved, loaded = build(), build()
saved([device.asarray(np.random.default_rng(1).standard_normal(size, np.float32))])
arrays = [device.asnumpy(saved.parameters[0].data), saved.moment1["w"], saved.moment2["w"]]


def numpy_save() -> None:
    for i, array in enumerate(arrays):
        with open(folder / f"{i}.npy", "wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())


def numpy_savez() -> None:
    with open(folder / "all.npz", "wb") as file:
        np.savez(file, *arrays)
        file.flush()
        os.fsync(file.fileno())


contenders: dict[str, Callable[[], object]] = {
    "numpy.save": numpy_save,
    "numpy.load": lambda: [np.load(folder / f"{i}.npy") for i in range(3)],
    "ao.save": lambda: ao.save(folder / "run.npz", saved),
    "ao.load": lambda: ao.load(folder / "run.npz", loaded),
    "numpy.savez": numpy_savez,
    "numpy.load of it": lambda: list(np.load(folder / "all.npz").values()),
    "CRC-32": lambda: [zlib.crc32(array.data) for array in arrays],
}
for name, sync in (("without fsync", lambda handle: None), ("with fsync", really_sync)):
    os.fsync = sync
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender, act in contenders.items():
            began_s = time.perf_counter()
            act()
            seconds[contender].append(time.perf_counter() - began_s)
    print(f"{size:,} parameters, {12 * size / 1e6:,.0f} MB, {name}")
    for contender, each in seconds.items():
        print(f"  {contender:<18}{min(each) * 1e3:>8.1f}{statistics.median(each) * 1e3:>8.1f}")
    for which, of in (("minima", min), ("medians", statistics.median)):
        ours = of(seconds["ao.save"]) + of(seconds["ao.load"])
        theirs = of(seconds["numpy.save"]) + of(seconds["numpy.load"])
        print(f"  save + load, ratio of {which}: {ours / theirs:.2f}")
for path in folder.glob("*.np[yz]"):
    path.unlink()
