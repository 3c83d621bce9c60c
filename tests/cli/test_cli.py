"""The command line: what it prints, what it refuses, and the demo from end to end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adamoffload.cli import main
from adamoffload.device.array import MemoryPool
from adamoffload.device.backend import DeviceMemoryError
from adamoffload.device.registry import BackendInfo
from adamoffload.playground.descent import OPTIMIZERS
from adamoffload.playground.surfaces import SURFACES


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
    assert "out of memory for moment2 of layer2.weight" in happened
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
    assert "3,741,696 in use" in text
    assert "NOT" not in text


def test_demo_with_plenty_of_memory_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--epochs", "1", "--memory", "16M", "--output", str(tmp_path)]) == 0
    assert "no need to offload" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--epochs", "0"], "--epochs: expected a whole number of at least 1, got '0'"),
        (["demo", "--epochs", "x"], "--epochs: expected a whole number, got 'x'"),
        (["demo", "--seed", "-1"], "--seed: expected a whole number of at least 0, got '-1'"),
        (["demo", "--memory", "4X"], "--memory: expected bytes, such as 4194304, 4096K or 4M"),
        (["demo", "--memory", "0"], "--memory: expected bytes"),
        (["demo", "--memory", "1M"], "--memory 1048576: too little, even with Adam on the host"),
        (["demo", "--memory", "3000K"], "--memory 3072000: too little, even with Adam"),
        (["demo", "--backend", "nunpy"], "did you mean 'numpy'?"),
        (["demo", "--output", __file__], "--output"),
        (
            ["trajectory", "--function", "rosenbrok"],
            "called 'rosenbrok'; did you mean 'rosenbrock'",
        ),
        (["trajectory", "--compare", "adm"], "no optimizer is called 'adm'; did you mean 'adam'?"),
        (["trajectory", "--compare", "adam,"], "no optimizer is called ''. There are: adam, "),
        (["trajectory", "--compare", "sgd:beta=1"], "sgd has no setting 'beta'"),
        (["trajectory", "--compare", "sgd:lr=1:lr=2"], "sgd is given lr twice; give it once"),
        (["trajectory", "--lr", "x"], "--lr: expected a number, or 'best', up to a million, got"),
        (["trajectory", "--lr", "-1"], "--lr: expected a number, or 'best'"),
        (["trajectory", "--start", "1"], "--start: expected two numbers, such as -1.5,2, got '1'"),
        (["trajectory", "--start", "-1.5,x"], "--start: expected two numbers"),
        (["trajectory", "--start", "1,nan"], "--start: expected two numbers"),
        (["trajectory", "--noise", "-1"], "--noise: expected a number of at least 0"),
        (["trajectory", "--noise", "inf"], "--noise: expected a number of at least 0"),
        (["trajectory", "--steps", "0"], "--steps: expected a whole number of at least 1"),
        (["trajectory", "--output", "x.bmp"], "--output: expected a file that ends in .png, .svg"),
        (["trajectory", "--output", f"{__file__}/x.png"], "test_cli.py/x.png: "),
        (["trajectory", "--backend", "nunpy"], "did you mean 'numpy'?"),
        (["demo", "--colour"], "unrecognized arguments: --colour"),
        (["report", "--steps", "0"], "--steps: expected a whole number of at least 1, got '0'"),
        (["report", "--link", "string"], "--backend sim: sim: link 'string' is unknown"),
        (["report", "--backend", "numpy", "--link", "x"], "backend 'numpy' has no option 'link'"),
        (["report", "--memory", "1M"], "--memory 1048576: too little, even with Adam on the host"),
        (["report", "--output", __file__], "--output"),
        (["dance"], "invalid choice: 'dance'"),
        ([], "required: COMMAND"),
    ],
)
def test_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_backend_that_cannot_run_here_is_a_mistake_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["demo", "--backend", "cupy", "--output", str(tmp_path)]) == 2
    assert "--backend cupy: backend 'cupy' cannot run here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "begin"), [("a.png", b"\x89PNG"), ("b.svg", b"<?xml"), ("new/c.html", b"<!DOCTYPE")]
)
def test_trajectory_draws_what_it_is_told(
    name: str, begin: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "--function rosenbrock --lr 0.1 --steps 2 --start -1.5,2 --noise 0.1".split()
    output = tmp_path / name
    compare = ["--compare", "adam,sgd,adam:beta2=0.9:lr=0.01"]
    assert main(["trajectory", *arguments, *compare, "--output", str(output)]) == 0
    assert output.read_bytes().startswith(begin)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:-1]] == [
        "adam, lr=0.1",
        "sgd, lr=0.1",
        "adam, lr=0.01, beta2=0.9",
    ]
    assert lines[-1] == f"Picture: {output}"


def test_trajectory_does_no_work_for_a_picture_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adamoffload.playground.run", lambda *_, **__: pytest.fail("it ran"))
    folder = tmp_path / "a.png"
    folder.mkdir()
    assert main(["trajectory", "--output", str(folder)]) == 2
    assert f"--output {folder}: Is a directory" in capsys.readouterr().err


def test_trajectory_help_names_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["trajectory", "--help"])
    text = re.sub(r"-\n\s+", "-", capsys.readouterr().out)  # lines break after hyphens, too
    words = {word.strip(",;") for word in text.split()}
    assert {*SURFACES, *OPTIMIZERS} <= words


def test_trajectory_says_what_its_numbers_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "x.png")
    assert main(["trajectory", "--compare", "sgd", "--lr", "0", "--output", output]) == 0
    header, row = capsys.readouterr().out.splitlines()[:2]
    assert header.split(maxsplit=1) == ["optimizer", "loss above the minimum, after 200 steps"]
    # Rosenbrock at (-1.2, 1), 24.2, where a rate of 0 leaves it
    assert row.split() == ["sgd,", "lr=0", "24"]


def test_trajectory_says_who_diverged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "a.png")
    assert main(["trajectory", "--compare", "sgd", "--lr", "0.1", "--output", output]) == 0
    assert "diverged at step" in capsys.readouterr().out


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for option in ("--output", "--epochs", "--seed", "--backend", "--memory"):
        assert option in text


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


def test_a_result_that_cannot_be_written_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trace.json").mkdir()
    assert main(["report", "--steps", "1", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("adamoffload: error: --output")
    assert str(tmp_path / "trace.json") in error
    assert len(error.splitlines()) == 1


def test_backends_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends"]) == 0
    assert "numpy     available" in capsys.readouterr().out


def test_a_backends_name_may_be_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = {"numpy": BackendInfo("numpy", True), "background": BackendInfo("x", False, "asleep")}
    monkeypatch.setattr("adamoffload.cli.measuring.available_backends", lambda: infos)
    assert main(["backends"]) == 0
    assert capsys.readouterr().out == "numpy      available\nbackground asleep\n"
