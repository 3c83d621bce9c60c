"""The command line: ``adamoffload`` or ``python -m adamoffload``.

Each command is a function that takes the parsed arguments and returns the exit code. What it needs
is imported when it runs. A mistake of the user's, or a result that cannot be written, is one line
on standard error and exit code 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

import adamoffload as ao
from adamoffload.cli import estimate, lab, measuring, streams, training, trajectory
from adamoffload.cli.text import UsageError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name. If left out, this is the program: it takes those of
        the process, and its standard streams.

    Returns
    -------
    int
        The exit code: 0 for success, 1 for a run that failed, 2 for a wrong argument or a result
        that cannot be written.

    Examples
    --------
    >>> main(["backends"])
    cupy      ...
    dpnp      ...
    numpy     available
    sim       available
    torch     ...
    0
    """
    if argv is None:
        streams.secure()
    try:
        try:
            arguments = _parser().parse_args(argv)
            return int(arguments.run(arguments))
        finally:
            print(end="", flush=True)  # here, where a full disk can be told
    except UsageError as error:
        print(f"adamoffload: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except MemoryError as error:
        print(f"adamoffload: error: not enough memory: {error}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="adamoffload",
        description="Optimizer offload that one can run, measure and see.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {ao.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (training, trajectory, estimate, measuring, lab):
        module.add(commands)
    return parser
