"""The benchmark: that it measures what it says, not how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adamoffload.cli import bench, main
from adamoffload.cli.peers import peers


def test_bench_writes_a_table_numbers_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", "--sizes", "1e3", "--rounds", "2", "--output", str(tmp_path)]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    document = json.loads((tmp_path / "bench.json").read_text())
    results = {result["name"]: result for result in document["results"]}
    assert set(results) == set(peers())
    for name, result in results.items():
        assert name in table
        assert bool(result["missing"]) != (len(result["seconds"]) == 2)
    assert not results["floor"]["missing"]
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_result_is_the_median_a_parameter() -> None:
    result = bench.Result("x", 10, [1e-6, 9e-6, 2e-6])
    assert result.ns == pytest.approx(200)
    assert result.quartiles_ns == pytest.approx(tuple(np.quantile([100, 900, 200], [0.25, 0.75])))
