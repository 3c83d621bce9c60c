"""The report in a browser: no errors, and no request."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import adamoffload as ao

from browser import visit

SCRIPT = "<script>alert(1)</script>"
NAMES = (SCRIPT, "]]></svg><img src=x onerror=alert(1)>", "quote \" ' & &amp; \\", "line\nbreak\0")


def report(path: Path) -> Path:
    """Write a report of everything, with names that a page may trip over."""
    device = ao.get_backend("sim", memory_bytes=8 << 20)
    parameters = [ao.Parameter(device.asarray(np.ones(50, np.float32)), name) for name in NAMES]
    ledger, probe = ao.Ledger(), ao.Probe()
    rates = ao.CosineDecayLR(0.0, 1e-3, 3)
    optimizer = ao.AdamOffload(parameters, rates, ledger=ledger, probe=probe, chunk_bytes=100)
    for _ in range(3):
        optimizer([device.asarray(np.ones(50, np.float32)) for _ in NAMES])
    return ao.report(path, ledger, probe, optimizer, title=SCRIPT)


def test_a_browser_renders_it_without_a_word_and_asks_for_nothing(tmp_path: Path) -> None:
    seen = visit(report(tmp_path / "report.html"))
    assert seen.console == []
    assert seen.requests == []
    assert len(re.findall("<svg ", seen.answer)) == len(re.findall("<figure", seen.answer)) == 9
    assert "&lt;script&gt;alert(1)&lt;/script&gt;</th>" in seen.answer
    assert "<script" not in seen.answer


def test_the_browser_would_notice(tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<link rel="icon" href="data:,"><script>missing()</script><img src="picture.png">'
        '<link rel="stylesheet" href="https://style.invalid/a.css">'
    )
    seen = visit(bad)
    assert any("missing is not defined" in text for text in seen.console)
    assert {url.rpartition("/")[2] for url in seen.requests} == {"picture.png", "a.css"}
