"""The files that a command writes: each is whole or not there, and a failure is one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adamoffload.cli.text import UsageError
from adamoffload.files import check_writable, replacing

__all__ = ["prepare", "save_figure", "save_json", "writing"]


def prepare(output: Path, *files: Path) -> None:
    """Make the folders of results, and see that each can be written before it is computed.

    Raises
    ------
    UsageError
        If a folder cannot be made, or a file not be written.
    """
    with writing(output):
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            check_writable(file)


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turn an error of the system in the block into one of the argument ``--output``."""
    try:
        yield
    except OSError as error:
        file = "" if error.filename in (None, str(output)) else f"{error.filename}: "
        raise UsageError(f"--output {output}: {file}{error.strerror}") from None


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib's, in the format that the path's suffix names."""
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix("."))


def save_json(document: Any, path: Path) -> None:
    """Write plain data."""
    with replacing(path) as file:
        file.write(json.dumps(document, indent=2).encode() + b"\n")
