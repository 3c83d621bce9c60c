"""What was recorded, saved: arrays and tables, whatever their names hold."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.observe.tables import save

NAMES = ["w", 'quote " comma ,', "line\nbreak", "\u65e5\u672c", "../up.npy"]


def saved(path: Path) -> Path:
    save(
        "Ledger",
        path,
        lambda: {"names": np.array(NAMES), "bytes": np.arange(5)},
        ("name", "bytes"),
        lambda: zip(NAMES, range(5), strict=True),
    )
    return path


def test_arrays_come_back(tmp_path: Path) -> None:
    with np.load(saved(tmp_path / "a.npz")) as stored:
        assert sorted(stored.files) == ["bytes", "names"]
        assert stored["names"].tolist() == NAMES
        assert stored["bytes"].tolist() == [0, 1, 2, 3, 4]


def test_a_table_comes_back(tmp_path: Path) -> None:
    with saved(tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["name", "bytes"], *([name, str(i)] for i, name in enumerate(NAMES))]


def test_another_suffix_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Ledger\.save: path must end in \.npz or \.csv, got"):
        saved(tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())


def test_a_table_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.csv")
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        save("Ledger", path, dict, ("name",), lambda: [(1 // 0,)])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    ("name", "cell"),
    [("half a pair \udcff", "half a pair \\udcff"), ("=1+1", "=1+1"), ('a,"b"\nc', 'a,"b"\nc')],
)
def test_a_name_of_any_letters_stands_in_a_table(name: str, cell: str, tmp_path: Path) -> None:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(2, np.float32)), name)
    probe = ao.Probe()
    ao.AdamOffload([w], probe=probe)([device.asarray(np.ones(2, np.float32))])
    probe.save(tmp_path / "probe.csv")
    with (tmp_path / "probe.csv").open(newline="", encoding="utf-8") as file:
        assert {row["name"] for row in csv.DictReader(file)} == {cell}
