"""The compiled casts without a cache folder; what they compute is tested in test_casts.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adamoffload.device.half import bfloat16

fused_casts = pytest.importorskip("adamoffload.engine.fused_casts", reason="needs the extra fast")


def test_they_run_in_nobodys_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made in it
    x, y = np.array([1, 1 + 2**-8, np.nan], np.float32), np.empty(3, bfloat16())
    loop = fused_casts._loop.__wrapped__("narrow_bfloat16")
    loop(x, y.view(np.uint16))
    assert y.view(np.uint16).tolist() == [0x3F80, 0x3F80, 0x7FC0]
