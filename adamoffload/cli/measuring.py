"""``adamoffload bench`` and ``adamoffload backends``: what is here, and how fast it is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from adamoffload.cli.text import positive, sizes
from adamoffload.device.registry import available_backends

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add both commands to the command line."""
    bench = commands.add_parser(
        "bench",
        help="measure the host's step beside its peers and the memory floor",
        description="Measure one optimizer step on the host: our engines, the memory floor, and "
        "every peer that is installed, interleaved. Writes a table, JSON and a picture.",
    )
    bench.add_argument(
        "--sizes",
        type=sizes,
        default=sizes("1e4,1e6,1e7"),
        metavar="N,N,...",
        help="numbers of parameters (default: 1e4,1e6,1e7)",
    )
    bench.add_argument(
        "--rounds",
        type=positive(1_000_000),
        default=21,
        metavar="N",
        help="turns of each peer that count (default: %(default)s)",
    )
    bench.add_argument(
        "--output",
        type=Path,
        default=Path("adamoffload-bench"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    bench.add_argument(
        "--machine",
        action="store_true",
        help="measure this machine instead, write a machine file for 'adamoffload estimate', and "
        "compare estimates of --sizes with steps",
    )
    bench.set_defaults(run=_bench)

    backends = commands.add_parser("backends", help="list the installed backends")
    backends.set_defaults(run=_backends)


def _bench(arguments: argparse.Namespace) -> int:
    if arguments.machine:
        from adamoffload.cli import machine

        return machine.run(arguments.sizes, arguments.rounds, arguments.output)
    from adamoffload.cli.bench import run

    return run(arguments.sizes, arguments.rounds, arguments.output)


def _backends(_: argparse.Namespace) -> int:
    infos = available_backends()
    width = max(9, *map(len, infos))
    for name, info in infos.items():
        print(f"{name:<{width}} {'available' if info.available else info.reason}")
    return 0
