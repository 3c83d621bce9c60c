"""What a page folds is folded in its notebook, and in the archive."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
RST = "text\n\n.. raw:: html\n\n   <details><summary>Answers</summary>\n\n1. It is 42.\n"


@pytest.fixture
def notebooks(monkeypatch: pytest.MonkeyPatch) -> Any:
    if os.environ.get("ADAMOFFLOAD_REQUIRE_DOCS") != "1":
        pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS)
    yield __import__("notebooks")
    del sys.modules["notebooks"]


def test_html_comes_into_the_markdown_and_nothing_else_changes(
    notebooks: Any, tmp_path: Path
) -> None:
    code = {"cell_type": "code", "source": ["print('.. raw:: html')"]}
    made = {"cells": [{"cell_type": "markdown", "source": RST.splitlines(keepends=True)}, code]}
    path = tmp_path / "page.ipynb"
    path.write_text(json.dumps(made))
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.write(path, "page.ipynb")
        archive.writestr("page.py", RST)
    for _ in range(2):  # a second time, there is nothing left to do
        notebooks.mend_all(tmp_path)
        text, same = json.loads(path.read_text())["cells"]
        assert "".join(text["source"]) == (
            "text\n\n<details><summary>Answers</summary>\n\n1. It is 42.\n"
        )
        assert same == code
    with zipfile.ZipFile(path.with_suffix(".zip")) as archive:
        assert archive.read("page.ipynb") == path.read_bytes()
        assert archive.read("page.py").decode() == RST
