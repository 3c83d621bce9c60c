"""The demo from end to end: it fails where predicted, and then learns."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adamoffload.cli import main
from adamoffload.device.array import MemoryPool
from adamoffload.device.backend import DeviceMemoryError


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the demo once, as a user does."""
    output = tmp_path_factory.mktemp("demo")
    run = subprocess.run(
        [sys.executable, "-m", "adamoffload", "demo", "--output", str(output)],
        check=True,
        capture_output=True,
        text=True,
    )
    return output, run.stdout


def test_demo_fails_where_predicted_and_then_learns(demo: tuple[Path, str]) -> None:
    output, text = demo
    predicted, happened = (
        line.split(maxsplit=1)[1]
        for line in text.splitlines()
        if line.strip().startswith(("predicted", "happened"))
    )
    assert predicted == happened
    assert "out of memory for v of 301,066 parameters" in happened
    numbers = json.loads((output / "demo.json").read_text())
    assert numbers["test_accuracy"][-1] >= 0.97
    assert numbers["device_peak_bytes"] <= numbers["device_memory_bytes"] == 4 << 20
    assert numbers["d2h_bytes"] == numbers["h2d_bytes"] == 4 * 301_066 * numbers["steps"]
    assert "NOT" not in text


def test_demo_draws_a_picture(demo: tuple[Path, str]) -> None:
    output, text = demo
    assert (output / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert str(output / "demo.png") in text


def test_demo_is_the_same_every_time(demo: tuple[Path, str], tmp_path: Path) -> None:
    assert main(["demo", "--epochs", "1", "--output", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "demo.json").read_text())
    first = json.loads((demo[0] / "demo.json").read_text())
    assert again["loss"] == first["loss"][: len(again["loss"])]


def test_demo_in_bfloat16_learns_as_much_on_a_quarter_of_the_memory(
    demo: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--weights", "bfloat16", "--epochs", "3", "--output", str(tmp_path)]
    assert main(["demo", *options]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^ +per parameter +16 +4$", text, re.MULTILINE)
    assert "happened  out of memory for master of 301,066 parameters" in text
    assert "NOT" not in text
    halved = json.loads((tmp_path / "demo.json").read_text())
    whole = json.loads((demo[0] / "demo.json").read_text())
    assert abs(halved["test_accuracy"][2] - whole["test_accuracy"][2]) < 0.01
    assert halved["loss"] != whole["loss"][: halved["steps"]]
    assert halved["d2h_bytes"] == halved["h2d_bytes"] == 2 * 301_066 * halved["steps"]
    assert halved["device_peak_bytes"] < 0.6 * whole["device_peak_bytes"]


def test_demo_predicts_also_where_allocations_are_rounded_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounded(nbytes: int) -> int:
        return -(-nbytes // 512) * 512

    reserve, release = MemoryPool.reserve, MemoryPool.release

    def reserve_rounded(pool: MemoryPool, nbytes: int) -> int:
        try:
            return reserve(pool, rounded(nbytes))
        except DeviceMemoryError as error:
            error.requested_bytes = nbytes
            raise

    monkeypatch.setattr(MemoryPool, "reserve", reserve_rounded)
    monkeypatch.setattr(MemoryPool, "release", lambda pool, n: release(pool, rounded(n)))
    assert main(["demo", "--epochs", "1", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "3,631,616 in use" in text
    assert "NOT" not in text


def test_demo_with_plenty_of_memory_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--epochs", "1", "--memory", "16M", "--output", str(tmp_path)]) == 0
    assert "no need to offload" in capsys.readouterr().out
