"""The command line: ``adamoffload`` or ``python -m adamoffload``.

Each command is a function that takes the parsed arguments and returns the exit code. A mistake of
the user's is one line on standard error and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from adamoffload.registry import available_backends

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process if left out.

    Returns
    -------
    int
        The exit code: 0 for success, 1 for a run that failed, 2 for a wrong argument.

    Examples
    --------
    >>> main(["backends"])
    cupy      ...
    numpy     available
    sim       available
    0
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except _UsageError as error:
        print(f"adamoffload: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _UsageError(Exception):
    """A wrong argument that only the command itself could recognise."""


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="adamoffload",
        description="Optimizer offload that one can run, measure and see.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train a network on a device that is too small for Adam",
        description="Train a digit classifier on a device whose memory cannot hold Adam's state: "
        "resident Adam fails, offloaded Adam succeeds. Writes a picture.",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("adamoffload-demo"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    demo.add_argument(
        "--epochs",
        type=_positive,
        default=12,
        metavar="N",
        help="passes over the training images (default: %(default)s)",
    )
    demo.add_argument(
        "--seed",
        type=_natural,
        default=0,
        metavar="N",
        help="seed of the weights and of the batches (default: %(default)s)",
    )
    demo.add_argument(
        "--backend",
        default="numpy",
        metavar="NAME",
        help="where parameters live; see 'adamoffload backends' (default: %(default)s)",
    )
    demo.add_argument(
        "--memory",
        type=_size,
        default=_size("4M"),
        metavar="BYTES",
        help="memory of the device, such as 4M or 4500K (default: 4M)",
    )
    demo.set_defaults(run=_demo)

    bench = commands.add_parser(
        "bench",
        help="measure the host's step beside its peers and the memory floor",
        description="Measure one optimizer step on the host: our engines, the memory floor, and "
        "every peer that is installed, interleaved. Writes a table, JSON and a picture.",
    )
    bench.add_argument(
        "--sizes",
        type=_sizes,
        default=_sizes("1e4,1e6,1e7"),
        metavar="N,N,...",
        help="numbers of parameters (default: 1e4,1e6,1e7)",
    )
    bench.add_argument(
        "--rounds",
        type=_positive,
        default=21,
        metavar="N",
        help="turns of each contender that count (default: %(default)s)",
    )
    bench.add_argument(
        "--output",
        type=Path,
        default=Path("adamoffload-bench"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    bench.set_defaults(run=_bench)

    lab = commands.add_parser("lab", help="start or check a lab of the course")
    labs = lab.add_subparsers(required=True, metavar="COMMAND")
    begin = labs.add_parser("start", help="put a lab's statement and the file with gaps somewhere")
    begin.add_argument("number", type=int, metavar="N", help="which lab, from 1")
    begin.add_argument("directory", type=Path, metavar="DIR", help="folder for the files")
    begin.set_defaults(run=_start_lab)
    check = labs.add_parser("check", help="grade a file: points, and a reason for each one lost")
    check.add_argument("number", type=int, metavar="N", help="which lab, from 1")
    check.add_argument("file", type=Path, metavar="FILE", help="your file")
    check.add_argument("--json", action="store_true", help="print the score as JSON")
    check.set_defaults(run=_check_lab)
    _add_trajectory(commands)

    report = commands.add_parser(
        "report",
        help="train for a few steps, and write all that can be recorded of it",
        description="Train the demo's network for a few steps and write a report (HTML), a trace "
        "for https://ui.perfetto.dev (JSON), and the recorded numbers (.npz, .csv).",
    )
    report.add_argument(
        "--output",
        type=Path,
        default=Path("adamoffload-report"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    report.add_argument(
        "--backend",
        default="sim",
        metavar="NAME",
        help="where parameters live; see 'adamoffload backends' (default: %(default)s)",
    )
    report.add_argument(
        "--link",
        metavar="NAME",
        help="link of the sim backend, such as pcie4x16 (its default)",
    )
    report.add_argument(
        "--steps",
        type=_positive,
        default=60,
        metavar="N",
        help="steps to take (default: %(default)s)",
    )
    report.add_argument(
        "--seed",
        type=_natural,
        default=0,
        metavar="N",
        help="seed of the weights and of the batches (default: %(default)s)",
    )
    report.add_argument(
        "--memory",
        type=_size,
        default=_size("4M"),
        metavar="BYTES",
        help="memory of the device, such as 4M or 4500K (default: 4M)",
    )
    report.set_defaults(run=_report)

    backends = commands.add_parser("backends", help="list the installed backends")
    backends.set_defaults(run=_backends)
    return parser


def _add_trajectory(commands: Any) -> None:
    command = commands.add_parser(
        "trajectory",
        help="watch optimizers descend a surface",
        description="Let optimizers descend a loss surface of two parameters, from one start and "
        "under the same noise. Writes a picture or an animation.",
    )
    command._negative_number_matcher = re.compile(r"-[\d.]")  # --start -1.5,2 is no option
    command.add_argument(
        "--function",
        type=_surface,
        default="rosenbrock",
        metavar="NAME",
        help="the surface: rosenbrock, beale, himmelblau, ... (default: %(default)s)",
    )
    command.add_argument(
        "--compare",
        type=_contestants,
        default="adam,nesterov,sgd",
        metavar="NAME,...",
        help="who descends: adam, nesterov, sgd, momentum, ...; with settings of its own as in "
        "adam:lr=0.01:beta2=0.9 (default: %(default)s)",
    )
    command.add_argument(
        "--lr",
        type=_learning_rate,
        default="best",
        metavar="LR",
        help="learning rate, or 'best': for each the best of 13 (default: %(default)s)",
    )
    command.add_argument(
        "--steps",
        type=_positive,
        default=200,
        metavar="N",
        help="how many (default: %(default)s)",
    )
    command.add_argument(
        "--start", type=_point, metavar="X,Y", help="where from (default: the surface's own)"
    )
    command.add_argument(
        "--noise",
        type=_deviation,
        default=0.0,
        metavar="S",
        help="standard deviation of noise on the gradients (default: %(default)g)",
    )
    command.add_argument(
        "--seed",
        type=_natural,
        default=0,
        metavar="N",
        help="seed of the noise (default: %(default)s)",
    )
    command.add_argument(
        "--backend",
        default="numpy",
        metavar="NAME",
        help="where parameters live; see 'adamoffload backends' (default: %(default)s)",
    )
    command.add_argument("--panels", action="store_true", help="give each path its own panel")
    command.add_argument(
        "--output",
        type=_picture,
        default=Path("adamoffload-trajectory.png"),
        metavar="FILE",
        help=".png, .svg or .pdf; .gif or .html for an animation (default: %(default)s)",
    )
    command.set_defaults(run=_trajectory)


def _demo(arguments: argparse.Namespace) -> int:
    from adamoffload import demo  # here, since it draws: `import adamoffload` stays light

    try:
        return demo.run(
            output=arguments.output,
            epochs=arguments.epochs,
            seed=arguments.seed,
            backend=arguments.backend,
            memory_bytes=arguments.memory,
        )
    except demo.SettingError as error:
        raise _UsageError(error) from None


def _bench(arguments: argparse.Namespace) -> int:
    from adamoffload import bench

    return bench.run(arguments.sizes, arguments.rounds, arguments.output)


def _start_lab(arguments: argparse.Namespace) -> int:
    from adamoffload.labs import grading

    try:
        files = grading.start(arguments.number, arguments.directory)
    except (OSError, ValueError) as error:
        raise _UsageError(error) from None
    for path in files:
        print(path)
    return 0


def _check_lab(arguments: argparse.Namespace) -> int:
    from adamoffload.labs import grading

    try:
        score = grading.check(arguments.number, arguments.file)
    except (OSError, ValueError) as error:
        raise _UsageError(error) from None
    print(json.dumps(score.as_dict(), indent=2) if arguments.json else score)
    return 0 if score.score == score.points else 1


def _report(arguments: argparse.Namespace) -> int:
    from adamoffload import demo, sample_run

    try:
        return sample_run.run(
            output=arguments.output,
            backend=arguments.backend,
            link=arguments.link,
            steps=arguments.steps,
            seed=arguments.seed,
            memory_bytes=arguments.memory,
        )
    except demo.SettingError as error:
        raise _UsageError(error) from None


def _trajectory(arguments: argparse.Namespace) -> int:
    import matplotlib as mpl

    from adamoffload import playground, plots
    from adamoffload.live import Live

    mpl.use("agg")  # no window, wherever this runs
    output = arguments.output
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        trajectories = playground.run(
            arguments.function,
            arguments.compare,
            lr=arguments.lr,
            steps=arguments.steps,
            start=arguments.start,
            noise=arguments.noise,
            seed=arguments.seed,
            backend=arguments.backend,
        )
    except OSError as error:
        raise _UsageError(f"--output {output}: {error.strerror}") from None
    except (ImportError, RuntimeError, ValueError) as error:
        raise _UsageError(error) from None
    for one in trajectories:
        print(f"{one.contestant.label:<36} {one.outcome}")
    try:
        if output.suffix in _ANIMATED:
            animation = plots.animate_trajectory(trajectories, panels=arguments.panels)
            with Live() as live:
                plots.save_animation(
                    animation, output, progress=lambda i, n: live.update(frame=f"{i + 1}/{n}")
                )
        else:
            plots.playground(trajectories, panels=arguments.panels).savefig(output)
    except OSError as error:
        raise _UsageError(f"--output {output}: {error.strerror}") from None
    print(f"Picture: {output}")
    return 0


def _backends(_: argparse.Namespace) -> int:
    infos = available_backends()
    width = max(9, *map(len, infos))
    for name, info in infos.items():
        print(f"{name:<{width}} {'available' if info.available else info.reason}")
    return 0


def _positive(text: str) -> int:
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def _sizes(text: str) -> list[int]:
    try:
        sizes = [float(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(size >= 1 and size.is_integer() for size in sizes):
        raise argparse.ArgumentTypeError(f"expected sizes, such as 1e6,1e7, got {text!r}")
    return [int(size) for size in sizes]


def _surface(text: str) -> str:
    from adamoffload.surfaces import find

    return str(_checked(find, text).name)


def _contestants(text: str) -> list[str]:
    from adamoffload.descent import Contestant

    names = text.split(",")
    for name in names:
        _checked(Contestant.parse, name)
    return names


def _learning_rate(text: str) -> float | str:
    from adamoffload.descent import BEST

    return BEST if text == BEST else _real(text, f"a number, or {BEST!r}", at_least=0.0)


def _deviation(text: str) -> float:
    return _real(text, "a number of at least 0", at_least=0.0)


def _point(text: str) -> tuple[float, float]:
    wanted = "two numbers, such as -1.5,2"
    if text.count(",") != 1:
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
    x, y = (_real(part, wanted) for part in text.split(","))
    return x, y


def _real(text: str, wanted: str, at_least: float = -math.inf) -> float:
    """Read a number that is within the playground's bounds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value >= at_least and abs(value) <= 1e6):
        raise argparse.ArgumentTypeError(f"expected {wanted}, up to a million, got {text!r}")
    return value


def _checked(read: Callable[[str], Any], text: str) -> Any:
    """Let `read` check the text; its message is for the user."""
    try:
        return read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_ANIMATED = (".gif", ".html")


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".png", ".svg", ".pdf", *_ANIMATED):
        raise argparse.ArgumentTypeError(
            f"expected a file that ends in .png, .svg, .pdf, .gif or .html, got {text!r}"
        )
    return path


def _natural(text: str) -> int:
    value = _whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def _size(text: str) -> int:
    """Read a number of bytes, with K, M or G for powers of 1024."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    digits, unit = (
        (text[:-1], units[text[-1:].upper()]) if text[-1:].upper() in units else (text, 1)
    )
    if not digits.isascii() or not digits.isdigit() or int(digits) == 0:
        raise argparse.ArgumentTypeError(
            f"expected bytes, such as 4194304, 4096K or 4M, got {text!r}"
        )
    return int(digits) * unit
