"""What a student's file says before it is run: imports, and which lab it is of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adamoffload.labs.grading import NUMBERS, check, start
from adamoffload.labs.source import without_unused

from submissions import graded, reasons, solution


@pytest.mark.parametrize("number", NUMBERS)
def test_the_graders_side_may_not_be_imported(number: int, tmp_path: Path) -> None:
    source = f"{solution(number)}\nfrom adamoffload.labs.lab{number} import scenarios\n"
    assert graded(tmp_path, number, source).score == 0


def test_importing_what_solves_the_lab_is_worth_nothing(tmp_path: Path) -> None:
    score = graded(tmp_path, 1, "from adamoffload.rules.adam import adam\nadam\n" + solution(1))
    assert score.score == 0
    assert "line 1 imports adamoffload.rules.adam" in score.results[0].reason


@pytest.mark.parametrize(
    "line",
    [
        "from adamoffload.device.array import DeviceArray, MemoryPool",
        "from adamoffload import get_backend",
        "import adamoffload_numpy as anything",
    ],
)
def test_a_name_that_solves_the_lab_may_not_be_imported(line: str, tmp_path: Path) -> None:
    name = line.split()[-1]
    score = graded(tmp_path, 8, f"{solution(8)}\n{line}\n{name}\n")
    assert score.score == 0
    assert "which solves the lab" in score.results[0].reason


@pytest.mark.parametrize("number", NUMBERS)
def test_the_file_of_another_lab_is_named(number: int, tmp_path: Path) -> None:
    other = number % len(NUMBERS) + 1
    start(other, tmp_path)
    score = check(number, tmp_path / f"lab{other}.py")
    assert score.score == 0
    words = f"this is the file of lab {other}: adamoffload lab check {other} FILE"
    assert set(reasons(score).values()) == {words}


def test_what_is_of_two_labs_is_graded_as_either(tmp_path: Path) -> None:
    both = solution(1) + start(2, tmp_path)[0].read_text()
    assert reasons(graded(tmp_path, 1, both)) == {}


def notebook(*cells: str) -> str:
    made = [{"cell_type": "code", "source": cell.splitlines(True)} for cell in cells]
    text = {"cell_type": "markdown", "source": ["# Lab 1\n"]}
    return json.dumps({"cells": [text, *made], "nbformat": 4, "metadata": {"trusted": True}})


@pytest.mark.parametrize("name", ["lab1.ipynb", "lab1.py"])
def test_a_notebook_is_graded_as_its_code(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(notebook("%matplotlib inline\n!pip list\nimport math", solution(1)))
    assert reasons(check(1, path)) == {}


def test_a_reason_names_the_cell_of_a_notebook(tmp_path: Path) -> None:
    path = tmp_path / "lab1.ipynb"
    path.write_text(notebook("import math", "x = 1\n1 / 0"))
    assert "cell 2, line 2: your code raised ZeroDivisionError" in str(check(1, path))


@pytest.mark.parametrize("text", ["", "{", '{"cells": [7]}', '{"cells": [{"cell_type": "code"}]}'])
def test_a_damaged_notebook_is_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "lab1.ipynb"
    path.write_text(text)
    score = check(1, path)
    assert score.score == 0
    assert "the notebook cannot be read; save it again" in score.results[0].reason


@pytest.mark.parametrize(
    "line",
    [
        "import torch",
        "import torch as unused, math",
        "from torch import nn, optim",
        "from torch import (\n    nn,\n    optim,\n)",
        "try:\n    import torch\nexcept ImportError:\n    pass",
    ],
)
def test_an_import_that_nothing_uses_costs_nothing(line: str, tmp_path: Path) -> None:
    assert reasons(graded(tmp_path, 1, f"{line}\n{solution(1)}")) == {}


@pytest.mark.parametrize(
    "line",
    [
        "import torch\ntorch.ones(3)",
        "from torch import *",
        "import importlib\nimportlib.import_module('torch.optim')",
        "__import__('torch')",
        "import sys\nsys.modules['adamoffload']",
    ],
)
def test_an_import_that_is_used_is_worth_nothing(line: str, tmp_path: Path) -> None:
    score = graded(tmp_path, 1, f"{line}\n{solution(1)}")
    assert score.score == 0
    assert "which solves the lab; write it yourself" in score.results[0].reason


def test_lines_keep_their_numbers_where_an_import_is_left_out() -> None:
    code = b"from torch import (\n    nn,\n    optim,\n)\nx = 1\n"
    assert without_unused(code, ["torch"]) == b"pass\n\n\n\nx = 1\n"
