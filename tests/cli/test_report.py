"""The command ``report``: page, trace and numbers of one run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adamoffload.cli import main


def test_report_writes_page_trace_and_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--steps", "25", "--link", "pcie3x16", "--output", str(tmp_path)]
    assert main(["report", *options]) == 0
    text = capsys.readouterr().out
    moved = 4 * 301_066 * 25  # bytes each way; an epoch has 23 batches
    assert f"{moved:,} bytes crossed the link each way, exactly as predicted" in text
    assert f"{moved:,}" in (tmp_path / "report.html").read_text("utf-8")
    trace = json.loads((tmp_path / "trace.json").read_text("utf-8"))
    steps = [r for r in trace["traceEvents"] if r["name"].startswith("step ")]
    assert sum(r["args"]["d2h_bytes"] for r in steps) == moved
    with np.load(tmp_path / "ledger.npz") as stored:
        assert stored["events"]["nbytes"].sum() == 2 * moved
    with np.load(tmp_path / "probe.npz") as stored:
        assert stored["steps"].tolist() == list(range(1, 26))
    for name in ("ledger.csv", "probe.csv"):
        assert (tmp_path / name).stat().st_size
    for name in ("report.html", "trace.json", "ledger.npz", "probe.npz"):
        assert str(tmp_path / name) in text
