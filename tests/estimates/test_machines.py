"""Machines: presets that hold together, and machine files that are checked."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import adamoffload as ao
from adamoffload.estimates.machines import Figure, find_machine, load_machine

NAMES = ["laptop", "rtx4090", "a100", "h100", "gh200", "dgx2"]


def test_there_are_the_machines_of_the_docs() -> None:
    assert [*ao.machines] == NAMES
    assert len(ao.machines) == 6


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_a_range_and_a_source(name: str) -> None:
    machine = ao.machines[name]
    assert machine.name == name
    for figure in machine.figures.values():
        assert figure.low <= figure.typical <= figure.high
        assert len(figure.source) > 5


@pytest.mark.parametrize("name", NAMES)
def test_a_card_sees_its_share_of_the_host(name: str) -> None:
    machine = ao.machines[name]
    alone = replace(machine, cards=1)
    assert alone.host().memory_bytes_per_s == machine.host().memory_bytes_per_s * machine.cards
    assert alone.link().bandwidth_bytes_per_s == machine.link_bytes_per_s.typical
    assert machine.link().bandwidth_bytes_per_s <= alone.link().bandwidth_bytes_per_s


def test_the_dgx2_is_that_of_its_papers() -> None:
    machine = ao.machines["dgx2"]
    assert machine.link().bandwidth_bytes_per_s == 3e9  # ZeRO-Infinity, figure 2b
    assert replace(machine, cards=1).link().bandwidth_bytes_per_s == 12e9
    assert machine.host().memory_bytes_per_s == pytest.approx(6.8e9, rel=0.01)


def test_an_unknown_machine_is_answered_with_the_nearest() -> None:
    with pytest.raises(KeyError, match=r"no machine 'a10' \(near 'a100'\); there are laptop"):
        ao.machines["a10"]
    with pytest.raises(ValueError, match=r"estimate: machine must be .* got 'h10' \(near 'h100'\)"):
        find_machine("estimate", "h10")
    with pytest.raises(TypeError, match=r"machine must be a name or an adamoffload\.Machine"):
        find_machine("estimate", 3)


def test_some_figures_can_be_put_at_one_end() -> None:
    machine = ao.machines["a100"].at(efficiency="low", host_bytes_per_s="high")
    assert machine.efficiency.typical == ao.machines["a100"].efficiency.low
    assert machine.host_bytes_per_s == Figure(290e9, 290e9, 290e9, machine.host_bytes_per_s.source)
    assert machine.link_bytes_per_s == ao.machines["a100"].link_bytes_per_s


def test_a_machine_file_makes_the_round_trip(tmp_path: Path) -> None:
    for machine in ao.machines.values():
        machine.save(tmp_path / "machine.json")
        assert load_machine(tmp_path / "machine.json") == machine


def test_a_bare_number_is_a_figure_without_a_range() -> None:
    machine = replace(ao.machines["a100"], host_bytes_per_s=109e9)  # type: ignore[arg-type]  # read
    assert machine.host_bytes_per_s == Figure(109e9, 109e9, 109e9)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"cores": None}, "it lacks 'cores'"),
        ({"core": 3}, "has the unexpected 'core'"),
        ({"cores": 0}, r"cores must be in \[1, 1e18\], got 0"),
        ({"cards": 1.5}, "cards must be a whole number, got 1.5"),
        ({"name": 3}, "name must be a text"),
        ({"efficiency": 1.5}, "efficiency must be at most 1"),
        ({"pageable_penalty": 0.5}, "pageable_penalty must be at least 1"),
        ({"flops_per_s": 0}, "flops_per_s must have 0 < low <= typical <= high"),
        ({"flops_per_s": -1}, "flops_per_s must have 0 < low"),
        ({"flops_per_s": float("nan")}, "flops_per_s must have 0 < low"),
        ({"flops_per_s": float("inf")}, "flops_per_s must have 0 < low"),
        ({"flops_per_s": "fast"}, "flops_per_s must be a number or low, typical, high"),
        ({"flops_per_s": {"low": 1}}, "flops_per_s lacks 'typical', 'high'"),
        ({"flops_per_s": {"low": 3, "typical": 2, "high": 4}}, "low <= typical"),
        ({"flops_per_s": {"low": "1", "typical": 2, "high": 4}}, "must have numbers"),
    ],
)
def test_a_wrong_machine_file_is_told_by_its_field(
    change: dict[str, Any], match: str, tmp_path: Path
) -> None:
    path = tmp_path / "machine.json"
    ao.machines["a100"].save(path)
    document = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))
    with pytest.raises((ValueError, TypeError), match=match):
        load_machine(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_what_is_no_json_is_said_to_be_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="is no JSON"):
        load_machine(tmp_path / "machine.json")


def test_json_that_is_no_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text("[1]")
    with pytest.raises(TypeError, match="it must be a dict"):
        load_machine(tmp_path / "machine.json")
    with pytest.raises(FileNotFoundError):
        load_machine(tmp_path / "none.json")


def test_the_docs_name_all_fields() -> None:
    assert all(field.name in (ao.Machine.__doc__ or "") for field in fields(ao.Machine))
