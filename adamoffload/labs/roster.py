"""Finds what a class has handed in: files in a folder, and whose they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Submission", "owner", "submissions"]

_CANVAS = re.compile(r"(?P<name>[^_]+?)(_LATE)?_(?P<id>\d+)_\d+_.+")
_MOODLE = re.compile(r"(?P<name>[^_]+)_(?P<id>\d+)_assignsubmission_file")
_ENDS = (".py", ".ipynb")


@dataclass(frozen=True, slots=True)
class Submission:
    """A file that was handed in, and by whom.

    Attributes
    ----------
    student : str
        The name, as the file or its folder says it.
    path : Path
        The file.
    note : str
        What a teacher should know, such as that there is a second file; or nothing.
    """

    student: str
    path: Path
    note: str = ""


def owner(path: Path) -> str:
    """Return whose file it is.

    Canvas puts name and numbers in front of a file's name, Moodle into that of its folder. Else it
    is the file's name, or the folder's, if the file has the name that all of them have.

    Parameters
    ----------
    path : Path
        The file, below the folder of the class.

    Examples
    --------
    >>> owner(Path("doeada_LATE_4711_99_lab3-1.py")), owner(Path("class/Ada Doe/lab3.py"))
    ('doeada (4711)', 'Ada Doe')
    >>> owner(Path("Ada Doe_12_assignsubmission_file_/lab3.py")), owner(Path("ada.py"))
    ('Ada Doe (12)', 'ada')
    """
    for text in (path.name, path.parent.name):
        found = _MOODLE.match(text) or _CANVAS.fullmatch(text)
        if found:
            return f"{found['name']} ({found['id']})"
    common = re.fullmatch(r"lab\d+([ _-]\(?\d+\)?)?", path.stem)
    return path.parent.name if common and path.parent.name else path.stem


def submissions(folder: Path) -> list[Submission]:
    """Return what is in a folder and in the folders in it, by student.

    Parameters
    ----------
    folder : Path
        Where the files are. What is neither Python nor a notebook, and what is hidden, is left out.

    Raises
    ------
    NotADirectoryError
        If it is no folder.
    OSError
        If it cannot be read.
    """
    if not folder.is_dir():
        raise NotADirectoryError(folder)
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in _ENDS
        and path.is_file()
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    ]
    owners = {path: owner(path) for path in files}
    count = {name: list(owners.values()).count(name) for name in owners.values()}
    found = [
        Submission(name, path, f"one of {count[name]} files of this name" * (count[name] > 1))
        for path, name in owners.items()
    ]
    return sorted(found, key=lambda submission: (submission.student, submission.path))
