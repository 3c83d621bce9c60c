"""Whatever a student's file does when it is run, there is a sentence for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from submissions import graded, quick_lab, reasons, solution

MISBEHAVIOUR: dict[str, tuple[str | bytes, str]] = {
    "does not parse": ("def first_moment(:\n", "Python cannot read the file"),
    "is no text": (b"\xff\xfe\x00", "Python cannot read the file"),
    "raises when loaded": ("1 / 0\n", "line 1: your code raised ZeroDivisionError"),
    "imports what is missing": ("import no_such_thing\n", "No module named 'no_such_thing'"),
    "never ends": ("while True:\n    pass\n", "still running after"),
    "ends the process": ("import os\nos._exit(3)\n", "ended the Python process"),
    "exits": ("raise SystemExit\n", "ends the Python process"),
    "asks for input": ("x = input()\n", "EOFError"),
    "writes into the answers": ("import os\nos.write(1, b'{}\\n')\n", "keep the names"),
    "is nested too deeply": ("x = " + "-" * 100_000 + "1\n", "nested too deeply"),
    "is far too long": (b"#" * (1 << 20) + b"\n", "longer than 1 MiB"),
    "takes all memory": ("x = bytearray(1 << 40)\n", "MemoryError"),
}


@pytest.mark.parametrize("what", MISBEHAVIOUR)
def test_a_file_that_misbehaves_gets_a_sentence(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adamoffload.labs.grading.lab", quick_lab)
    source, words = MISBEHAVIOUR[what]
    score = graded(tmp_path, 1, source)
    assert score.score == 0
    assert all(words in reason for reason in reasons(score).values())
    assert "Traceback" not in str(score)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("while True: pass", "was still running after"),
        ("raise KeyError('x')", "raised KeyError"),
        ("import os; os._exit(0)", "ended the Python process"),
        ("return None", "is None; expected an array; did you forget `return`?"),
        ("return m[:3]", "has shape (3,)"),
        ("return object()", "an object of type object"),
        ("return lambda: 0", "an object of type function"),
        ("g[:] = 0; return m", "changed its argument 1"),
        ("import no_such_thing", "No module named"),
    ],
)
def test_a_function_that_misbehaves_costs_only_its_own_task(
    body: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adamoffload.labs.grading.lab", quick_lab)
    right = "return beta1 * m + (1 - beta1) * g"
    found = reasons(graded(tmp_path, 1, solution(1).replace(right, body)))
    assert words in found.pop("The first moment")
    assert set(found) <= {"Training"}  # which calls it


def test_files_beside_a_lab_are_not_taken_for_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("numpy", "adamoffload"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    assert reasons(graded(tmp_path, 1, solution(1))) == {}


@pytest.mark.parametrize(
    "theft",
    [
        "import adamoffload.labs.lab1.grader",
        "from importlib import import_module as f; f('adamoffload' + '.labs.lab1.grader')",
        "import sys, os; open(os.path.join(os.path.dirname(sys.modules['adamoffload.labs.wire']"
        ".__file__), 'lab1', 'grader.py')).read()",
        "try:\n    __import__('adamoffload.labs.lab1.grader')\nexcept BaseException:\n    pass",
    ],
)
def test_reading_the_grader_is_worth_nothing(theft: str, tmp_path: Path) -> None:
    score = graded(tmp_path, 1, f"{theft}\n{solution(1)}")
    assert score.score == 0
    assert all("grader" in r or "solves the lab" in r for r in reasons(score).values())
