"""The script of the GPU checks runs to its end where there is no GPU."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any


def test_the_script_runs_to_its_end_without_a_gpu(tmp_path: Path, monkeypatch: Any) -> None:
    spec = spec_from_file_location("gpu_run", Path(__file__).with_name("run.py"))
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "contract", lambda names, pretend: dict.fromkeys(names, "passed"))
    results = script.run(tmp_path / "results", pretend=True)
    assert not [key for key, found in results.items() if str(found).startswith("failed")]
    assert results["adam-offload on numpy"]["lanes_s"]["d2h"] > 0
    assert json.loads((tmp_path / "results" / "results.json").read_text()) == results
    for name in ("trace.json", "report.html"):
        assert (tmp_path / "results" / name).stat().st_size > 1000
