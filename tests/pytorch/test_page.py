"""The code on the page about PyTorch runs, from its beginning to its end."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'adamoffload[torch]'")

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "torch.rst"


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", PAGE.read_text())
    assert len(blocks) == 7
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec("\n".join(map(textwrap.dedent, blocks)), names)
    size = sum(p.numel() for p in names["model"].parameters())
    printed = capsys.readouterr().out
    assert printed.startswith(f"{4 * size} ('0.weight', ")
    assert printed.endswith("tensor([2., 2., 2.])\n")
