"""What lets a command run in no time: its words are the real ones, its work is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import adamoffload as ao
from adamoffload.autodiff.data import load_digits
from adamoffload.cli import bench


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in; benchmarks measure nothing there."""

    def measure(size: int, *_: object) -> list[bench.Result]:
        return [bench.Result(name, size, [1.0]) for name in ("floor", "textbook")]

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes the time and prints nothing: pictures, and most of the images."""

    def save(figure: Figure, file: Any, save: Any = Figure.savefig, **options: Any) -> None:
        if options["format"] == "rgba":  # a frame of an animation
            save(figure, file, **options)
        else:
            file.write(b"picture")

    digits = load_digits()
    few = digits._replace(
        train_images=digits.train_images[:64], train_labels=digits.train_labels[:64]
    )
    monkeypatch.setattr("adamoffload.cli.demo.load_digits", lambda: few)
    monkeypatch.setattr(Figure, "savefig", save)
    monkeypatch.setattr(ao, "report", lambda path, *_, **__: Path(path).write_text("page"))
