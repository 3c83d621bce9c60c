"""The tutorials run on their own, as a script and as the notebook that the site offers."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))
NEEDED = ("sphinx_gallery.notebook", "nbclient", "nbformat", "ipykernel")


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_says_what_it_needs_and_what_it_gives(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    title, underline, *rest = text.splitlines()
    assert set(underline) == {"="}
    assert len(underline) == len(title)
    assert "You need" in " ".join(rest)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_asks_before_it_tells(path: Path) -> None:
    assert "**Predict.**" in path.read_text()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_as_a_notebook(path: Path, tmp_path: Path) -> None:
    for name in NEEDED:
        if os.environ.get("ADAMOFFLOAD_REQUIRE_DOCS") != "1":
            pytest.importorskip(name, reason="needs the extra 'docs'")
    run = subprocess.run(
        [sys.executable, str(Path(__file__)), str(path)],
        cwd=tmp_path,
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,  # against one that hangs: a busy machine must not end it
    )
    assert run.returncode == 0, run.stderr[-3000:]


def execute(path: Path) -> Any:
    """Make the notebook as the site does, and run it in a kernel."""
    import nbclient
    import nbformat
    from sphinx_gallery.gen_gallery import DEFAULT_GALLERY_CONF
    from sphinx_gallery.notebook import jupyter_notebook
    from sphinx_gallery.py_source_parser import split_code_and_text_blocks

    _, blocks = split_code_and_text_blocks(str(path))
    notebook = jupyter_notebook(blocks, DEFAULT_GALLERY_CONF, str(path.parent))
    notebook = nbformat.reads(json.dumps(notebook), as_version=4)
    return nbclient.NotebookClient(notebook, timeout=500).execute()


if __name__ == "__main__":
    execute(Path(sys.argv[1]))
