"""The command ``estimate``: its table, one strategy in detail, and what it complains of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import adamoffload as ao
from adamoffload.cli import main

from commands import one_sentence

SMALL = ["estimate", "--model", "1e8"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 0
    return capsys.readouterr().out


def test_all_strategies_stand_in_the_table_the_best_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = said(capsys, *SMALL).splitlines()
    rows = [line.split() for line in lines if " yes " in line or " no " in line]
    assert [row[1] for row in rows] == ["yes"] * len(rows)
    assert {row[0] for row in rows} >= set(ao.strategies) - {"adam-offload"}
    steps = [float(row[5]) for row in rows]
    assert steps == sorted(steps)
    assert any(line.startswith("adam-offload: bfloat16 weights need a master") for line in lines)
    assert lines[-1].startswith("bf16-only is the fastest that fits: ")
    assert "Of those that do not, resident is the fastest: " in lines[-1]


def test_the_table_of_7e9_parameters_on_24_gb_says_what_would_be_faster(
    capsys: pytest.CaptureFixture[str],
) -> None:
    why = said(capsys, "estimate", "--model", "7e9").splitlines()[-1]
    assert why.startswith("zero-offload-delayed is the fastest that fits: ")
    assert "It comes a step late, so it computes something else" in why
    assert "Of those that do not, zero-offload is the fastest: " in why
    assert "bf16-only would take" in why
    assert "but does not fit (device: " in why


def test_if_nothing_fits_it_says_what_comes_closest(capsys: pytest.CaptureFixture[str]) -> None:
    why = said(capsys, "estimate", "--model", "1e12").splitlines()[-1]
    assert why.startswith("Nothing fits. ")
    assert "it lacks device: " in why


def test_one_strategy_is_told_in_detail(capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, *SMALL, "--strategy", "zero-offload")
    assert "device |f" in shown
    assert "host   |" in shown
    assert "m 0.4, v 0.4, master 0.4" in shown
    assert "overhead" in shown


def test_the_work_is_shown_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, *SMALL, "--strategy", "deepspeed-zero2", "--show-work")
    assert "gradient down: 4 B x 1e+08 / 24 GB/s = 0.017 s" in shown
    assert "efficiency: 0.45" in shown
    assert "DeepSpeed as shipped" in shown


def test_a_fraction_is_given_or_searched(capsys: pytest.CaptureFixture[str]) -> None:
    half = said(capsys, *SMALL, "--strategy", "zero-offload", "--fraction", "0.5", "--json")
    assert json.loads(half)["fraction"] == 0.5
    best = said(capsys, *SMALL, "--strategy", "zero-offload", "--fraction", "best")
    assert "the smallest that fits is 0.00" in best


def test_json_has_the_numbers_of_the_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = json.loads(said(capsys, *SMALL, "--strategy", "disk", "--json"))
    found = ao.estimate(1e8, strategy="disk")
    assert numbers["memory"] == found.memory
    assert numbers["step_s"]["typical"] == found.step_s
    assert len(json.loads(said(capsys, *SMALL, "--json"))) >= 11


def test_a_machine_file_is_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    ao.machines["laptop"].save(path)
    shown = said(capsys, *SMALL, "--machine", str(path), "--strategy", "resident")
    assert "on laptop" in shown


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--model", "lama-2-7b"], "near 'llama-2-7b'"),
        (["--model", "-7e9"], "parameters must be in [1, 1e+15], got -7000000000.0"),
        (["--model", "0"], "parameters must be in"),
        (["--model", "nan"], "parameters must be in"),
        (["--model", "inf"], "parameters must be in"),
        (["--machine", "rtx4080"], "near 'rtx4090'"),
        (["--machine", "none.json"], "none.json: No such file"),
        (["--strategy", "zero-ofload"], "near 'zero-offload'"),
        (["--strategy", "adam-offload"], "bfloat16 weights need a master"),
        (["--tokens", "0"], "tokens_per_step must be in"),
        (["--rule", "Adm"], "rule must be"),
        (["--weights", "int8"], "weights must be"),
        (["--cards", "9"], "cards must be at most 1"),
        (["--fraction", "0.5"], "add --strategy"),
        (["--strategy", "disk", "--fraction", "half"], "--fraction must be a number or best"),
        (["--strategy", "disk", "--fraction", "2"], "fraction must be in [0, 1], got 2.0"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    options = {"--model": "1e8", **given}
    assert main(["estimate", *[f"{name}={value}" for name, value in options.items()]]) == 2
    assert match in one_sentence(capsys)


def test_a_broken_machine_file_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.json").write_text('{"name": "mine"}')
    assert main([*SMALL, "--machine", str(tmp_path / "mine.json")]) == 2
    assert "lacks 'title', 'cards'" in one_sentence(capsys)


def test_a_deepspeed_configuration_is_told_key_by_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "ds.json"
    emitted = said(capsys, *SMALL, "--strategy", "deepspeed-zero2", "--emit", "deepspeed")
    document = json.loads(emitted)
    document["zero_optimization"]["offload_optimizer"]["ratio"] = 0.5
    path.write_text(json.dumps({**document, "steps_per_print": 3}))
    shown = said(capsys, *SMALL, "--config", str(path))
    assert "deepspeed-zero2 on rtx4090" in shown
    assert "note    ratio has an effect in stage 3 only" in shown
    assert "ignored steps_per_print" in shown
    numbers = json.loads(said(capsys, *SMALL, "--config", str(path), "--json"))
    assert numbers["ignored"] == ["steps_per_print"]


@pytest.mark.parametrize(
    ("text", "match"), [("{", "is no JSON"), ("[]", "configuration must be a dict")]
)
def test_a_broken_configuration_is_one_sentence(
    text: str, match: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "ds.json").write_text(text)
    assert main([*SMALL, "--config", str(tmp_path / "ds.json")]) == 2
    assert match in one_sentence(capsys)
    assert main([*SMALL, "--config", str(tmp_path / "none.json")]) == 2
    assert "No such file" in one_sentence(capsys)
