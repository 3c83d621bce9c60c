"""Saves what was recorded: arrays to ``.npz``, a table to ``.csv``.

Names of parameters may hold any character. They stand in arrays and in quoted fields, never in the
names of an archive's members. A cell may begin with ``=``, which spreadsheets take for a formula:
with a quote before it, every other reader would find a name that no parameter has, and the names
are chosen by whoever writes the file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np

from adamoffload.files import replacing

__all__ = ["save"]


def save(
    owner: str,
    path: str | PathLike[str],
    arrays: Callable[[], dict[str, Any]],
    header: Sequence[str],
    rows: Callable[[], Iterable[Sequence[Any]]],
) -> None:
    """Write arrays or a table, as the path's suffix says.

    Parameters
    ----------
    owner : str
        Whose they are, for the message.
    path : str or path
        Ends in ``.npz`` or ``.csv``.
    arrays : callable
        Returns the archive's arrays by name.
    header : sequence of str
        The table's columns.
    rows : callable
        Returns the table's rows.

    Raises
    ------
    ValueError
        For another suffix; nothing is written.
    OSError
        If it cannot be written; a file that was there stays as it was.
    """
    name = fspath(path)
    if name.endswith(".npz"):
        with replacing(name) as file:
            np.savez_compressed(file, **arrays())
    elif name.endswith(".csv"):
        with replacing(name) as file:
            # Half of a surrogate pair, which a name may hold, is no UTF-8.
            text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
            writer = csv.writer(text)
            writer.writerow(header)
            writer.writerows(rows())
            text.detach()  # flushes; the file is closed by who opened it
    else:
        raise ValueError(f"{owner}.save: path must end in .npz or .csv, got {name!r}")
