"""Lets what a tutorial folds be folded in its notebook as well.

Sphinx-Gallery makes Markdown of a page's reStructuredText, and leaves ``raw`` directives as they
are.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

from sphinx.application import Sphinx

RAW = re.compile(r"^\.\. raw:: html\n\n {3,4}(.*)$", re.MULTILINE)


def markdown(text: str) -> str:
    """Return a cell's text with the HTML of ``raw`` directives in their places."""
    return RAW.sub(r"\1", text)


def mend(notebook: str) -> str:
    """Return a notebook's JSON with the HTML of its Markdown cells mended."""
    made = json.loads(notebook)
    for cell in made["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = [markdown("".join(cell["source"]))]
    return json.dumps(made, indent=2) + "\n"


def mend_all(folder: Path) -> None:
    """Mend each notebook of a folder, and in the archive beside it."""
    for path in sorted(folder.glob("*.ipynb")):
        path.write_text(mend(path.read_text("utf-8")), "utf-8")
        archive = path.with_suffix(".zip")
        if archive.exists():
            with zipfile.ZipFile(archive) as old:
                files = {name: old.read(name) for name in old.namelist()}
            with zipfile.ZipFile(archive, "w") as new:
                for name, content in files.items():
                    new.writestr(name, path.read_bytes() if name.endswith(".ipynb") else content)


def setup(app: Sphinx) -> dict[str, bool]:
    """Mend them when Sphinx-Gallery has made them, and before they are copied to the site."""
    app.connect(
        "builder-inited", lambda app: mend_all(Path(app.srcdir) / "tutorials"), priority=900
    )
    return {"parallel_read_safe": True}
