"""All checks that need a GPU, in one run of at most eight minutes.

    python3 tests/gpu/run.py gpu-results

leaves in the folder what ``docs/gpu/`` shows: ``results.json`` with the link's speed, the versions,
the outcome of the contract, the time of whole steps beside that of their lanes, and of other
optimizers; ``trace.json`` and ``report.html`` of a run. ``--pretend`` does the same on the
processor, in small, so that the script can be tried without a GPU; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import adamoffload as ao

ROOT = Path(__file__).parents[2]
LIMIT_S = 480.0
CONTRACT_S = 240.0
"""What the contract may take of it, on all backends."""
TESTS = {
    "cupy": ["tests/backends/test_cupy.py"],
    "torch": ["tests/pytorch/test_backend.py", "tests/pytorch/test_optimizer.py"],
}
PACKAGES = ("adamoffload", "numpy", "numba", "torch", "cupy-cuda12x", "cupy-cuda13x", "torchao")
STRATEGIES = ("resident", "adam-offload", "zero-offload", "state-shuttle")
LANES = ("prepare", "d2h", "update", "h2d", "apply")


def backends(pretend: bool) -> dict[str, Any]:
    """Return the devices to look at, by name."""
    if pretend:
        return {"numpy": ao.get_backend("numpy")} | _there("torch", device="cpu")
    return _there("cupy") | _there("torch", device="cuda")


def _there(name: str, **options: Any) -> dict[str, Any]:
    try:
        return {name: ao.get_backend(name, **options)}
    except (RuntimeError, ImportError, ValueError) as error:
        print(f"{name}: left out, {error}")
        return {}


# -- checks ---------------------------------------------------------------------------------------


def contract(names: list[str], pretend: bool) -> dict[str, str]:
    """Run the contract and the oracles; return pytest's last line for each backend."""
    found = {}
    environment = os.environ | ({} if pretend else {"ADAMOFFLOAD_REQUIRE_GPU": "1"})
    for name in names:
        if name not in TESTS:
            continue
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider"]
        command += [*TESTS[name], *(["-k", "slices or round_trip"] if pretend else [])]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, text=True, capture_output=True,
                timeout=CONTRACT_S / len(names), check=False,
            )  # fmt: skip
            found[name] = (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]
        except subprocess.TimeoutExpired:
            found[name] = "not done in time"
    return found


def link(device: ao.Backend, nbytes: int) -> dict[str, float]:
    """Return what the link carries, in GB/s: the best of five copies of pinned memory."""
    x, host = device.empty(nbytes // 4), device.empty_pinned(nbytes // 4)
    host.fill(1)
    lanes = {"h2d": lambda: device.h2d(host, x), "d2h": lambda: device.d2h(x, host)}
    found = {}
    for lane, copy in lanes.items():
        found[f"{lane}_gb_per_s"] = nbytes / 1e9 / min(_seconds(copy) for _ in range(5))
    return found


def _seconds(copy: Callable[[], ao.Ticket]) -> float:
    ticket = copy()
    ticket.wait()
    return max(ticket.seconds, 1e-9)


def steps(device: ao.Backend, size: int, strategy: str, folder: Path | None = None) -> Any:
    """Return the time of a step, and of each lane in it, of the fastest of five."""
    ledger = ao.Ledger()
    parameters = [ao.Parameter(device.zeros(size // 16), f"layer{i}.weight") for i in range(16)]
    gradients = [device.zeros(size // 16) + np.float32(1) for _ in parameters]
    optimizer = ao.Optimizer(parameters, ao.rules.AdamW(), strategy=strategy, ledger=ledger)
    times = []
    for _ in range(6):
        device.synchronize()
        begun = time.perf_counter()
        optimizer(gradients)
        device.synchronize()
        times.append(time.perf_counter() - begun)
    fastest = int(np.argmin(times[1:])) + 2
    lanes = dict.fromkeys(LANES, 0.0)
    for event in ledger.events:
        if event.step == fastest and event.hop in lanes:
            lanes[event.hop] += event.stop_s - event.start_s
    if folder is not None:
        ao.write_trace(folder / "trace.json", ledger)
        ao.report(folder / "report.html", ledger=ledger, optimizer=optimizer)
    slowest = max(lanes.values())
    return {"step_s": times[fastest - 1], "lanes_s": lanes, "step_by_slowest_lane": (
        times[fastest - 1] / slowest if slowest else None
    )}  # fmt: skip


def others(size: int, pretend: bool) -> dict[str, float]:
    """Return the seconds of a step of other optimizers, those that are installed."""
    try:
        import torch
    except ImportError:
        return {}
    device = "cpu" if pretend else "cuda"
    found = {}

    def timed(name: str, make: Callable[[Any], Any]) -> None:
        parameters = [torch.nn.Parameter(torch.zeros(size // 16, device=device)) for _ in range(16)]
        optimizer = make(parameters)
        times = []
        for _ in range(6):
            for p in parameters:
                p.grad = torch.ones_like(p)
            begun = time.perf_counter()
            optimizer.step()
            if not pretend:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
        found[name] = min(times[1:])

    timed("torch fused, on the device", lambda p: torch.optim.AdamW(p, fused=True))
    try:
        from torchao.optim import CPUOffloadOptimizer
    except ImportError:
        return found
    if not pretend:
        timed("torchao CPUOffloadOptimizer", lambda p: CPUOffloadOptimizer(p, torch.optim.AdamW))
    return found


# -- all of them ----------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Return the version of each package that matters here and is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def run(folder: Path, pretend: bool) -> dict[str, Any]:
    """Do all checks that fit into the time, and write what came out after each."""
    began, results = time.monotonic(), dict[str, Any]()
    folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def check(what: str) -> Iterator[bool]:
        left = LIMIT_S - (time.monotonic() - began)
        print(f"{what}  ({left:.0f} s left)", flush=True)
        try:
            yield left > 0
        except Exception as error:  # the others are worth having all the same
            results[what] = f"failed: {type(error).__name__}: {error}"
        (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")

    devices = backends(pretend)
    size = 1 << 16 if pretend else 100_000_000 // 16 * 16
    results |= {"pretended": pretend, "versions": versions(), "parameters": size}
    for name, device in devices.items():
        with check(f"link of {name}") as in_time:
            results[f"link of {name}"] = link(device, 1 << 20 if pretend else 1 << 30)
        for strategy in STRATEGIES:
            with check(f"{strategy} on {name}") as in_time:
                keep = folder if strategy == "zero-offload" else None
                found = steps(device, size, strategy, keep) if in_time else "no time"
                results[f"{strategy} on {name}"] = found
    with check("others"):
        results["others"] = others(size, pretend)
    with check("contract") as in_time:
        results["contract"] = contract([*devices], pretend) if in_time else "no time"
    return results


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pretend", action="store_true", help="on the processor, in small")
    given = parser.parse_args()
    print(json.dumps(run(given.folder, given.pretend), indent=1))


if __name__ == "__main__":
    main()
