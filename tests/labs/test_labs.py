"""The labs' graders: full marks for the solution, none for the empty file, the right reasons."""

from __future__ import annotations

import ast
import io
import itertools
import json
import re
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adamoffload.cli import main
from adamoffload.labs.grading import NUMBERS, Score, Task, check, lab, start
from adamoffload.labs.grading import graded as grade
from adamoffload.labs.sandbox import Sandbox
from adamoffload.labs.student import Student
from adamoffload.labs.wire import Unsendable, decode, encode

LABS = Path(__file__).parent


def wrong_solutions() -> Iterator[Any]:
    for number in NUMBERS:
        for wrong in tomllib.loads((LABS / f"lab{number}" / "wrong.toml").read_text())["wrong"]:
            yield pytest.param(number, wrong, id=f"{number}: {wrong['mistake']}")


def solution(number: int) -> str:
    return (LABS / f"lab{number}" / "solution.py").read_text()


def graded(tmp_path: Path, number: int, source: str | bytes) -> Score:
    path = tmp_path / f"lab{number}.py"
    path.write_bytes(source.encode() if isinstance(source, str) else source)
    return check(number, path)


def reasons(score: Score) -> dict[str, str]:
    return {result.task: result.reason for result in score.results if result.score < result.points}


@pytest.mark.parametrize("number", NUMBERS)
def test_the_solution_gets_full_marks(number: int, tmp_path: Path) -> None:
    score = graded(tmp_path, number, solution(number))
    assert reasons(score) == {}
    assert score.score == score.points


@pytest.mark.parametrize("number", NUMBERS)
def test_the_file_with_gaps_gets_none_and_is_told_what_to_do(number: int, tmp_path: Path) -> None:
    start(number, tmp_path)
    score = check(number, tmp_path / f"lab{number}.py")
    assert score.score == 0
    assert all("not done yet" in reason for reason in reasons(score).values())


@pytest.mark.parametrize("number", NUMBERS)
def test_an_empty_file_gets_none(number: int, tmp_path: Path) -> None:
    score = graded(tmp_path, number, "")
    assert score.score == 0
    assert all("keep the names" in reason for reason in reasons(score).values())


def test_a_counter_may_hand_out_its_own_dict(tmp_path: Path) -> None:
    copied, itself = "return dict(moved)", "return moved"
    assert solution(3).count(copied) == 1
    score = graded(tmp_path, 3, solution(3).replace(copied, itself))
    assert reasons(score) == {}


def test_a_truth_that_numpy_has_found_counts(tmp_path: Path) -> None:
    found = solution(7) + "\nSAME_BITS = [np.bool_(answer) for answer in SAME_BITS]\n"
    assert reasons(graded(tmp_path, 7, found)) == {}


class InThisProcess(Student):
    """Runs a file that is known to do no harm, in a third of the time."""

    def _start(self) -> None:
        self.sandbox = Sandbox(self._path)
        self._exchange("", "load")
        self._ask = self._exchange  # type: ignore[method-assign]  # it is running

    def _answer(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            answer: dict[str, Any] = decode(encode(self.sandbox.answer(decode(encode(request)))))
        return answer


@pytest.mark.parametrize(("number", "wrong"), list(wrong_solutions()))
def test_a_wrong_solution_loses_the_right_points_for_the_right_reason(
    number: int, wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adamoffload.labs.grading.Student", InThisProcess)
    right = solution(number)
    assert right.count(wrong["replace"]) == 1
    found = reasons(graded(tmp_path, number, right.replace(wrong["replace"], wrong["by"])))
    assert set(found) == set(wrong["lost"])
    for task, words in wrong["lost"].items():
        assert words in found[task]


@pytest.mark.parametrize("number", NUMBERS)
def test_each_lab_knows_six_plausible_mistakes(number: int) -> None:
    assert sum(case.values[0] == number for case in wrong_solutions()) >= 6


@pytest.mark.parametrize("number", NUMBERS)
def test_students_get_no_solution(number: int, tmp_path: Path) -> None:
    files = start(number, tmp_path)
    assert sorted(path.name for path in files) == [f"lab{number}.py", f"lab{number}.rst"]
    assert "NotImplementedError" in files[0].read_text()


@pytest.mark.parametrize("number", NUMBERS)
def test_the_statement_names_every_task_with_its_points(number: int, tmp_path: Path) -> None:
    statement = " ".join(start(number, tmp_path)[1].read_text().split())
    for task in lab(number).tasks:
        points = f"{task.points} point{'s' if task.points > 1 else ''}"
        assert f"**{task.name}** ({points})" in statement


@pytest.mark.parametrize("number", NUMBERS)
def test_what_the_statement_asks_to_try_runs_beside_the_solution(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    statement = start(number, tmp_path)[1].read_text()
    (tmp_path / f"lab{number}.py").write_text(solution(number))
    monkeypatch.syspath_prepend(tmp_path)
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", statement)
    for block in blocks:
        exec(textwrap.dedent(block), {})
    monkeypatch.delitem(sys.modules, f"lab{number}", raising=False)
    assert bool(capsys.readouterr().out) == bool(blocks)


# -- files that misbehave -------------------------------------------------------------------------

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


def quick_lab(number: int) -> Any:
    from dataclasses import replace

    return replace(lab(number), limit_s=1.5)


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


ODD = ("[]", "'text'", "{}", "1j", "numpy.zeros((2, 0))", "(None, [1, 'x'])", "print")


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("number", NUMBERS)
def test_whatever_a_file_defines_there_is_a_score(
    number: int, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adamoffload.labs.grading.Student", InThisProcess)
    (given,) = (p for p in start(number, tmp_path) if p.suffix == ".py")
    odd = itertools.cycle(ODD[first:] + ODD[:first])
    source = ["import numpy"]
    for node in ast.parse(given.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            source.append(f"def {node.name}(*_, **__): return {next(odd)}")
        elif isinstance(node, ast.Assign):
            source.append(f"{ast.unparse(node.targets[0])} = {next(odd)}")
    score = graded(tmp_path, number, "\n".join(source))
    assert score.score == 0
    assert all(len(reason) > 10 for reason in reasons(score).values())


def test_files_beside_a_lab_are_not_taken_for_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("numpy", "adamoffload"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    assert reasons(graded(tmp_path, 1, solution(1))) == {}


def test_a_reason_that_all_tasks_share_is_given_once(tmp_path: Path) -> None:
    score = graded(tmp_path, 1, "1 / 0")
    assert len(reasons(score)) == 8
    assert str(score).count("ZeroDivisionError") == 1
    assert str(graded(tmp_path, 1, solution(1))).endswith("\n\n15 of 15 points")


def test_a_reason_is_one_line(tmp_path: Path) -> None:
    score = graded(tmp_path, 1, "raise ValueError('one\\n\\ntwo')")
    assert set(reasons(score).values()) == {"line 1: your code raised ValueError: one two"}


def test_what_a_file_prints_is_kept_in_part(tmp_path: Path) -> None:
    score = graded(tmp_path, 1, "for i in range(300_000):\n    print('noise')\n" + solution(1))
    assert score.score == score.points
    assert "noise" in score.output
    assert "bytes more" in score.output
    assert len(score.output) < 5000


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


@pytest.mark.parametrize("number", NUMBERS)
def test_the_graders_side_may_not_be_imported(number: int, tmp_path: Path) -> None:
    source = f"{solution(number)}\nfrom adamoffload.labs.lab{number} import scenarios\n"
    assert graded(tmp_path, number, source).score == 0


def test_importing_what_solves_the_lab_is_worth_nothing(tmp_path: Path) -> None:
    score = graded(tmp_path, 1, "from adamoffload.rules.adam import adam\n" + solution(1))
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
    score = graded(tmp_path, 8, f"{solution(8)}\n{line}\n")
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


def test_what_a_file_prints_is_shown_before_the_points(tmp_path: Path) -> None:
    shown = str(graded(tmp_path, 1, "print('here')\n" + solution(1)))
    assert shown.index("Your code printed:\nhere\n") < shown.index("The first step")
    assert "printed" not in str(graded(tmp_path, 1, solution(1)))


def test_a_result_that_a_grader_cannot_make_sense_of_is_no_points() -> None:
    def fail(_: Student) -> None:
        raise KeyError("surprise")

    anybody: Any = None
    result = grade(Task("x", 2, fail), anybody)
    assert (result.score, result.points) == (0, 2)
    assert "nothing that can be graded (KeyError: 'surprise')" in result.reason


# -- the command line -----------------------------------------------------------------------------


def test_a_lab_is_started_solved_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "start", "1", str(tmp_path / "here")]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path / "here" / "lab1.rst") in out
    assert f"adamoffload lab check 1 {tmp_path / 'here' / 'lab1.py'}" in out
    shutil.copyfile(LABS / "lab1" / "solution.py", tmp_path / "here" / "lab1.py")
    assert main(["lab", "check", "1", str(tmp_path / "here" / "lab1.py")]) == 0
    assert "15 of 15 points" in capsys.readouterr().out


def test_a_folder_stands_for_the_file_that_was_put_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(LABS / "lab1" / "solution.py", tmp_path / "lab1.py")
    assert main(["lab", "check", "1", str(tmp_path)]) == 0
    assert "15 of 15 points" in capsys.readouterr().out


def test_the_labs_are_listed_with_their_titles_and_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["lab", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(number) for number in NUMBERS]
    for number, line in zip(NUMBERS, lines, strict=True):
        assert lab(number).title in line
        assert re.search(r"\d+ minutes$", line)


def test_a_score_below_the_maximum_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = (p for p in start(1, tmp_path) if p.suffix == ".py")
    assert main(["lab", "check", "1", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["lab"], report["score"], report["points"]) == (1, 0, 15)


def test_starting_twice_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(1, tmp_path)
    (tmp_path / "lab1.py").write_text("my work")
    assert main(["lab", "start", "1", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "lab1.py").read_text() == "my work"


@pytest.mark.parametrize("arguments", [["start", "99", "x"], ["check", "0", "x"]])
def test_an_unknown_lab_is_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", *arguments]) == 2
    assert "there is no lab" in capsys.readouterr().err


def test_a_missing_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "check", "1", "no/such/file.py"]) == 2
    assert "there is no file no/such/file.py; adamoffload lab start" in capsys.readouterr().err


def test_a_device_that_never_ends_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "check", "1", "/dev/zero"]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_a_file_where_the_folder_should_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").touch()
    for directory in ("taken", "taken/below"):
        assert main(["lab", "start", "1", str(tmp_path / directory)]) == 2
        assert f"{directory} cannot be a folder" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_a_terminal_cannot_show_is_escaped(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = "print('\u03b1')\ndef first_moment(*_):\n    raise ValueError('\\udcff')\n"
    (tmp_path / "lab1.py").write_text(odd, "utf-8")
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["lab", "check", "1", str(tmp_path)]) == 1
    terminal.seek(0)
    shown = terminal.read()
    assert {"ascii": "\\u03b1", "utf-8": "\u03b1"}[encoding] in shown
    assert "line 3: `first_moment` raised ValueError: \\udcff" in shown


def test_a_name_that_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "start", "1", str(tmp_path / ("x" * 300))]) == 2
    assert "(File name too long); choose another folder" in capsys.readouterr().err
    assert main(["lab", "check", "1", "x" * 300]) == 2
    assert capsys.readouterr().err.rstrip().endswith("File name too long")


# -- the wire -------------------------------------------------------------------------------------


def test_only_data_crosses_the_wire() -> None:
    with pytest.raises(Unsendable):
        encode(object())
    with pytest.raises(Unsendable):
        encode([[print]])
    for line in (b"", b"{}", b'{"array": "AAAA"}', b'{"a": 1, "b": 2}', b"nonsense"):
        with pytest.raises(ValueError):
            decode(line)
