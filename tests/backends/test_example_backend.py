"""A stranger's backend: what the guide shows is what is installed, and it keeps the contract."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import adamoffload as ao

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "example_backend"
MODULE = EXAMPLE / "adamoffload_background.py"
GUIDE = (ROOT / "backends" / "README.md").read_text()


class Environment:
    """A virtual environment that sees what is installed here, and has packages of its own."""

    def __init__(self, folder: Path) -> None:
        # The links keep the interpreter's libraries found. pip is not copied: ours can install
        # there, and ensurepip would take most of this test's time.
        venv.create(folder, with_pip=False, symlinks=os.name != "nt")
        scripts = folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = scripts / Path(sys.executable).name
        self.work = folder / "work"
        self.work.mkdir()
        (self.work / "pytest.ini").write_text("[pytest]\n")  # no settings from further up
        self.site = Path(self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
        # Not system-site-packages, which would be those of the interpreter that *we* came from;
        # and as site directories, since an editable install of ours is a .pth file there.
        ours = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        lines = [f"import site; site.addsitedir({path!r})" for path in ours]
        (self.site / "ours.pth").write_text("\n".join(lines))

    def run(self, *arguments: str) -> str:
        """Run Python there, away from our sources, and return its output."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
        kept["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        done = subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            text=True,
            cwd=self.work,
            env=kept,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment in which the example, and nothing else, has been installed."""
    pytest.importorskip("hatchling", reason="builds the example: install adamoffload[test]")
    pytest.importorskip("pip", reason="installs the example")
    folder = tmp_path_factory.mktemp("stranger")
    there = Environment(folder / "environment")
    shutil.copytree(EXAMPLE, folder / "source")  # where a build may leave files
    there.run(
        *("-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet"),
        *("--no-index", "--no-deps", "--no-build-isolation", str(folder / "source")),
    )
    return there


def test_the_guide_shows_the_files_of_the_example() -> None:
    shown = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert shown == [MODULE.read_text(), (EXAMPLE / "test_background.py").read_text()]
    (entry,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    assert entry in (EXAMPLE / "pyproject.toml").read_text()


def test_the_guides_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", GUIDE):
        assert (ROOT / "backends" / target).exists(), target


def test_a_backend_fits_in_80_lines() -> None:
    assert len(MODULE.read_text().splitlines()) < 80


def test_a_strangers_backend_is_listed_where_it_is_installed(environment: Environment) -> None:
    listed = environment.run("-m", "adamoffload", "backends").splitlines()
    assert [line.split() for line in listed if "background" in line] == [
        ["background", "available"]
    ]
    assert "background" not in ao.available_backends(), "it is installed there, not here"


def test_a_strangers_backend_comes_through_its_entry_point_only(environment: Environment) -> None:
    script = (
        "import sys, adamoffload as ao; assert 'adamoffload_background' not in sys.modules; "
        "device = ao.get_backend('background', memory_bytes=64); "
        "print(sys.modules['adamoffload_background'].__file__)"
    )
    assert Path(environment.run("-c", script)).parent == environment.site


def test_a_strangers_backend_keeps_the_contract(environment: Environment) -> None:
    shutil.copy(EXAMPLE / "test_background.py", environment.work)
    report = environment.run("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider")
    tests = [name for name in dir(ao.testing.BackendContract) if name.startswith("test_")]
    assert f"{len(tests)} passed" in report
