"""``adamoffload demo`` and ``adamoffload report``: train, and show what happened."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from adamoffload.cli.text import natural, positive, size

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add both commands to the command line."""
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
        type=positive(10_000),  # of which the record takes 9 GB
        default=12,
        metavar="N",
        help="passes over the training images (default: %(default)s)",
    )
    demo.add_argument(
        "--seed",
        type=natural,
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
        type=size,
        default=size("4M"),
        metavar="BYTES",
        help="memory of the device, such as 4M or 4500K (default: 4M)",
    )
    demo.add_argument(
        "--weights",
        choices=("float32", "bfloat16"),
        default="float32",
        help="type of the parameters; bfloat16 ones have float32 master weights on the host "
        "(default: %(default)s)",
    )
    demo.set_defaults(run=_demo)

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
        type=positive(100_000),  # of which the record takes 7 GB
        default=60,
        metavar="N",
        help="steps to take (default: %(default)s)",
    )
    report.add_argument(
        "--seed",
        type=natural,
        default=0,
        metavar="N",
        help="seed of the weights and of the batches (default: %(default)s)",
    )
    report.add_argument(
        "--memory",
        type=size,
        default=size("4M"),
        metavar="BYTES",
        help="memory of the device, such as 4M or 4500K (default: 4M)",
    )
    report.set_defaults(run=_report)


def _demo(arguments: argparse.Namespace) -> int:
    import adamoffload.cli.demo as demo  # here, since it draws: `import adamoffload` stays light

    return demo.run(
        output=arguments.output,
        epochs=arguments.epochs,
        seed=arguments.seed,
        backend=arguments.backend,
        memory_bytes=arguments.memory,
        weights=arguments.weights,
    )


def _report(arguments: argparse.Namespace) -> int:
    import adamoffload.cli.report as report

    return report.run(
        output=arguments.output,
        backend=arguments.backend,
        link=arguments.link,
        steps=arguments.steps,
        seed=arguments.seed,
        memory_bytes=arguments.memory,
    )
