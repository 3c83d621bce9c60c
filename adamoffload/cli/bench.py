"""``adamoffload bench``: how fast the host's step is, beside its peers and the memory floor.

Every peer (see `adamoffload.cli.peers`) has a process of its own; in each round all of them
take a few steps, in a new random order, so that whatever disturbs the machine disturbs all alike.
What is reported are medians, quartiles, and ratios of medians within that one run.
"""

from __future__ import annotations

import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from adamoffload.cli.peers import peers
from adamoffload.cli.results import prepare, save_figure, save_json, writing
from adamoffload.cli.text import UsageError
from adamoffload.engine.team import available_cores
from adamoffload.reports.summary import scaled

__all__ = ["CORE", "Result", "measure", "run"]

CORE = ("floor", "numpy update", "numba update", "torch fused", "deepspeed")
"""What is run at sizes where all peers together would not fit in memory."""

LARGE = 50_000_000
PAUSE_S = 0.01
"""Between two steps: the threads of the last peer may still be spinning."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of one peer at one size.

    Attributes
    ----------
    name : str
        The peer.
    size : int
        Number of parameters.
    seconds : list of float
        One value a round.
    missing : str
        Why it could not run, empty if it did.
    """

    name: str
    size: int
    seconds: list[float]
    missing: str = ""

    @property
    def ns(self) -> float:
        """Median, in nanoseconds a parameter."""
        return statistics.median(self.seconds) / self.size * 1e9

    @property
    def quartiles_ns(self) -> tuple[float, float]:
        """First and third quartile, in nanoseconds a parameter."""
        low, high = np.quantile(self.seconds, [0.25, 0.75]) / self.size * 1e9
        return float(low), float(high)


def run(sizes: Sequence[int], rounds: int, output: Path) -> int:
    """Measure, print a table for each size, and write JSON and a picture; return 0.

    Raises
    ------
    UsageError
        If this machine cannot hold a size, or a result cannot be written.
    """
    for size in sizes:
        _check_fits(size)
    numbers, picture = output / "bench.json", output / "bench.png"
    prepare(output, numbers, picture)
    machine = _machine()
    print("\n".join(f"{key:<10}{value}" for key, value in machine.items()))
    results = []
    for size in sizes:
        measured = measure(size, rounds, print)
        if measured[0].missing:
            raise UsageError(f"--sizes {size:g}: no memory floor, {measured[0].missing}")
        results += measured
        _print_table([result for result in results if result.size == size])
    document = {"machine": machine, "rounds": rounds, "results": [asdict(r) for r in results]}
    with writing(output):
        save_json(document, numbers)
        _draw(results, machine, picture)
    print(f"\nNumbers: {numbers}\nPicture: {picture}")
    return 0


def measure(size: int, rounds: int, tell: Callable[[str], object]) -> list[Result]:
    """Let all peers take turns, `rounds` each, interleaved.

    Parameters
    ----------
    size : int
        Number of parameters.
    rounds : int
        Turns of each peer that count; three more are taken first to warm up.
    tell : callable
        Is told, in a line, what happens.

    Returns
    -------
    list of Result
        In the order of `peers`.
    """
    names = _names(size)
    tell(f"\n{size:,} parameters: starting {len(names)} peers")
    processes: list[_Process] = []
    try:
        processes += (_Process(name, size) for name in names)
        shuffle = random.Random(0).shuffle
        for turn in range(-3, rounds):
            running = [process for process in processes if not process.missing]
            shuffle(running)
            for process in running:
                time.sleep(PAUSE_S)
                process.step(counts=turn >= 0)
    finally:
        for process in processes:
            process.stop()
    return [Result(p.name, size, [] if p.missing else p.seconds, p.missing) for p in processes]


def _names(size: int) -> list[str]:
    """Return who is measured at a size."""
    return [n for n in peers() if size < LARGE or n.startswith(CORE)]


def _check_fits(size: int) -> None:
    """Refuse what would bring the machine down: each peer holds four arrays at least."""
    if not hasattr(os, "sysconf"):  # on Windows a peer that is too large ends, and says so
        return
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    count = len(_names(size))
    if 4 * 4 * size * count > memory_bytes:
        raise UsageError(
            f"--sizes {size:g}: {count} peers, at 16 bytes a parameter, do not fit into the "
            f"{scaled(memory_bytes, 'B')} of this machine"
        )


class _Process:
    """A peer in its own process."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.seconds: list[float] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "adamoffload.cli.peers", name, str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        self.missing = ""
        if self._read() != "ready":
            self._explain()

    def step(self, *, counts: bool) -> None:
        """Let it take its turn; if it has ended instead, `missing` says why."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        answer = self._read()
        if not answer:
            self._explain()
        elif counts:
            self.seconds.append(float(answer))

    def stop(self) -> None:
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _explain(self) -> None:
        _, errors = self._process.communicate()
        code = self._process.returncode
        ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        self.missing = (errors.strip().splitlines() or [ended])[-1]


def _machine() -> dict[str, str]:
    """Describe what the figures were measured on."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    libraries = ["adamoffload", "numpy", "numba", "torch", "deepspeed", "jax", "optax"]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f" {model}, {available_cores()} of {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {_version(name)}" for name in libraries),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _print_table(results: Sequence[Result]) -> None:
    by_name = {result.name: result for result in results if not result.missing}
    floor, fused = by_name["floor"].ns, by_name.get("torch fused")
    print(
        f"{'ns a parameter':<22}{'median':>9}{'quartiles':>17}{'x floor':>9}{'x torch fused':>15}"
    )
    for result in results:
        if result.missing:
            print(f"{result.name:<22}  missing: {result.missing}")
            continue
        low, high = result.quartiles_ns
        beside = f"{fused.ns / result.ns:.2f}" if fused else "-"
        print(
            f"{result.name:<22}{result.ns:>9.3f}{f'{low:.3f} - {high:.3f}':>17}"
            f"{result.ns / floor:>9.2f}{beside:>15}"
        )
    print("x floor: time over the floor's; x torch fused: how many times as fast")


def _label(name: str) -> str:
    """Spell a peer's name out for the figure.

    Examples
    --------
    >>> _label("numba step 200, 2t"), _label("deepspeed")
    ('Numba step, 200 tensors, 2 threads', 'DeepSpeedCPUAdam')
    """
    others = {
        "textbook": "textbook, whole arrays",
        "copies": "the four copies of a step",
        "torch fused": "PyTorch, fused",
        "torch foreach": "PyTorch, foreach",
        "deepspeed": "DeepSpeedCPUAdam",
        "optax": "Optax, jitted",
    }
    if name in others:
        return others[name]
    what, threads = name.removesuffix("t").split(", ")
    engine, kind, *tensors = what.split()
    parts = [f"{engine.replace('num', 'Num').replace('py', 'Py')} {kind}"]
    parts += [f"{count} tensors" for count in tensors]
    return ", ".join([*parts, "1 thread" if threads == "1" else f"{threads} threads"])


def _draw(results: Sequence[Result], machine: dict[str, str], path: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from adamoffload import plots

    def color(name: str) -> str:
        if not name.startswith(("numpy", "numba")):
            return "#777777"
        return plots.LINES[0] if "update" in name else plots.LINES[5]

    sizes = sorted({result.size for result in results})
    with mpl.rc_context(plots.STYLE):
        columns = min(2, len(sizes))
        rows = -(-len(sizes) // columns)
        figure = Figure(figsize=(7.5 * columns, 0.8 + 4.6 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, size in zip(axes, sizes, strict=False):
            shown = [r for r in results if r.size == size and not r.missing]
            floor = shown[0].ns
            ax.axvline(floor, color=plots.COLORS["limit"], linestyle="--", label="memory floor")
            for y, r in enumerate(shown[1:]):
                low, high = r.quartiles_ns
                ax.hlines(y, floor, r.ns, color=color(r.name), linewidth=1, alpha=0.5)
                ax.hlines(y, low, high, color=color(r.name), linewidth=6, alpha=0.5)
                ax.plot(r.ns, y, "o", color=color(r.name), markersize=8)
                below = r.ns < floor  # there the value would lie on the floor's line
                ax.annotate(
                    f"{r.ns:.2f}",
                    (min(r.ns, low) if below else max(r.ns, high), y),
                    (-9 if below else 9, -4),
                    textcoords="offset points",
                    ha="right" if below else "left",
                )
            ax.set_yticks(range(len(shown) - 1), [_label(r.name) for r in shown[1:]])
            ax.invert_yaxis()
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_xlim(
                min(r.quartiles_ns[0] for r in shown) / 1.6,
                max(r.quartiles_ns[1] for r in shown) * 1.5,
            )
            ax.set(title=f"{size:,} parameters", xlabel="ns a parameter, median and quartiles")
            ax.grid(visible=False, axis="y")
        for ax in axes[len(sizes) :]:
            ax.set_axis_off()
        for label, shade in (
            ("ours: the update on the host", plots.LINES[0]),
            ("ours: a whole step, with all copies", plots.LINES[5]),
            ("others", "#777777"),
        ):
            axes[0].plot([], [], "o", color=shade, markersize=8, label=label)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.suptitle(f"One step of Adam: {machine['processor'].strip()}, {machine['date']}")
        save_figure(figure, path)
