"""``bench --machine``: what it measures becomes a machine file that gives the same step back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import adamoffload as ao
from adamoffload.cli import main
from adamoffload.cli.machine import Stepper, _estimated, measure

HOPS = {"d2h": 0.2e-9, "update": 0.4e-9, "h2d": 0.1e-9, "apply": 0.15e-9, "between": 0.05e-9}


@pytest.fixture(scope="module")
def machine() -> ao.Machine:
    return measure([{hop: 2 * seconds for hop, seconds in HOPS.items()}, HOPS])


def test_rates_are_those_of_the_best_round(machine: ao.Machine) -> None:
    assert machine.host_bytes_per_s.typical == pytest.approx(28 / 0.4e-9)
    assert machine.host_bytes_per_s.low == pytest.approx(28 / 0.8e-9)
    assert machine.link_bytes_per_s.typical == pytest.approx(8 / 0.3e-9)
    assert machine.device_bytes_per_s.typical == pytest.approx(12 / 0.15e-9)


@pytest.mark.parametrize("chunks", [1, 8])
def test_an_estimate_gives_back_what_was_measured(chunks: int, machine: ao.Machine) -> None:
    size = chunks << 20
    expected = size * sum(HOPS.values())
    assert _estimated(size, machine) == pytest.approx(expected, rel=0.02)


def test_a_step_is_split_into_its_hops() -> None:
    hops = Stepper(10_000).hops()
    assert set(hops) == set(HOPS)
    assert all(seconds >= 0 for seconds in hops.values())
    assert hops["update"] > 0


def test_it_writes_a_machine_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "--machine", "--sizes", "1e3,1e4", "--rounds", "2"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    path = tmp_path / "machine.json"
    machine = ao.load_machine(path)
    assert machine.cards == 1
    said = capsys.readouterr().out
    assert "     1,000" in said
    assert f"adamoffload estimate --machine {path}" in said
    asked = ["estimate", "--model", "1e6", "--machine", str(path), "--strategy", "resident"]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["machine"] == "this machine"
