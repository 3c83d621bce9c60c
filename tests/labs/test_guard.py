"""What a student's process may not do: the tries of a curious program, and what they gain."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from adamoffload.labs import grading
from adamoffload.labs.grading import check
from adamoffload.labs.student import Student

from submissions import graded, quick_lab, reasons, solution

GRADER = Path(grading.__file__).parent / "lab1" / "grader.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc, sessions and limits")

READ = {
    "by its path": f"open({str(GRADER)!r}).read()",
    "through os": f"import os; os.open({str(GRADER)!r}, os.O_RDONLY)",
    "relative to a folder": f"import os; d = os.open({str(GRADER.parent)!r}, os.O_RDONLY); "
    "os.open('grader.py', os.O_RDONLY, dir_fd=d)",
    "in the cache": "import importlib.util as u; "
    f"open(u.cache_from_source({str(GRADER)!r})).read()",
    "as a module": "import importlib; importlib.import_module('adamoffload.' + 'labs.lab1.grader')",
    "and hides it": f"try:\n    open({str(GRADER)!r})\nexcept OSError:\n    pass",
}


@pytest.mark.parametrize("how", READ)
def test_who_reads_the_grader_gets_nothing(how: str, tmp_path: Path) -> None:
    score = graded(tmp_path, 1, f"{READ[how]}\n{solution(1)}")
    assert score.score == 0
    assert "grader" in score.results[0].reason


def test_a_link_to_the_grader_is_the_grader(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").symlink_to(GRADER)
    source = f"open({str(tmp_path / 'notes.txt')!r}).read()\n{solution(1)}"
    score = graded(tmp_path, 1, source)
    assert score.score == 0
    assert "opens the grader's files" in score.results[0].reason


REFUSED = {
    "another process": "import subprocess; subprocess.run(['true'])",
    "a shell": "import os; os.system('true')",
    "a fork": "import os; os.fork()",
    "the end of the grader": "import os; os.kill(os.getppid(), 9)",
    "the grader's output": "import os; open(f'/proc/{os.getppid()}/fd/1', 'w').write('15 of 15')",
    "the grader's memory": "import os; open(f'/proc/{os.getppid()}/mem', 'rb')",
    "somebody's file": "open({file!r}, 'w').write('mine')",
    "to remove a file": "import os; os.remove({file!r})",
    "to rename a file": "import os; os.rename({file!r}, {file!r} + '2')",
    "the scenarios": "import sys; sys.modules['adamoffload.' + 'labs.lab1.scenarios']",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_lab_needs_is_refused(what: str, tmp_path: Path) -> None:
    file = tmp_path / "grades.csv"
    file.write_text("theirs")
    line = REFUSED[what].replace("{file!r}", repr(str(file)))
    body = f"    {line.replace('; ', chr(10) + '    ')}\n    return beta1 * m + (1 - beta1) * g"
    source = solution(1).replace("    return beta1 * m + (1 - beta1) * g", body)
    found = reasons(graded(tmp_path, 1, source))
    assert set(found) == {"The first moment"}  # and what builds on it is graded all the same
    assert "PermissionError" in found["The first moment"] or "KeyError" in found["The first moment"]
    assert file.read_text() == "theirs"


def test_a_forged_answer_has_not_the_number_that_was_asked_for(tmp_path: Path) -> None:
    forged = (
        "import os\n"
        "for fd in range(3, 30):\n"
        "    try:\n"
        '        os.write(fd, b\'{"dict": {"answer": null, "nonce": "0"}}\\n\')\n'
        "    except OSError:\n"
        "        pass\n"
    )
    assert reasons(graded(tmp_path, 1, forged + solution(1))) == {}


def test_a_process_that_holds_the_pipe_does_not_hold_the_grader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves the group, by a way round the audit hook."""
    monkeypatch.setattr("adamoffload.labs.grading.lab", quick_lab)
    lock = tmp_path / "lock"
    lock.touch()
    source = (
        "import ctypes, os, time\n"
        "if ctypes.CDLL(None).fork() == 0:\n"
        "    os.setsid()\n"
        f"    while os.path.exists({str(lock)!r}):\n"
        "        time.sleep(0.05)\n"
        "    os._exit(0)\n"
        "os._exit(0)\n"
    )
    before = {*threading.enumerate()}
    score = graded(tmp_path, 1, source)
    assert "ended the Python process" in score.results[0].reason
    readers = {*threading.enumerate()} - before
    assert readers  # somebody still reads, and nobody waits for it
    lock.unlink()
    for thread in readers:
        thread.join(10)


@pytest.mark.parametrize("number", [6, 11])
def test_a_signal_is_named(number: int, tmp_path: Path) -> None:
    die = f"import signal\nsignal.raise_signal({number})\n"
    name = {6: "SIGABRT", 11: "SIGSEGV"}[number]
    assert f"(signal {name})" in graded(tmp_path, 1, die).results[0].reason


def test_a_whole_file_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(Student):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options, total_s=3.0)

    monkeypatch.setattr("adamoffload.labs.grading.Student", Short)
    body = "    import time\n    time.sleep(1.6)\n    return beta1 * m + (1 - beta1) * g"
    source = solution(1).replace("    return beta1 * m + (1 - beta1) * g", body)
    found = reasons(graded(tmp_path, 1, source))
    assert "the whole file has 3 s" in found["The first moment"]
    assert "the whole file has 3 s" in found["Disagreement"]
    assert "The first step" not in found


def test_there_are_no_secrets_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COURSE_TOKEN", "s3cret")
    score = graded(
        tmp_path, 1, "import os\nprint(*os.environ.values(), os.listdir())\n" + solution(1)
    )
    assert "s3cret" not in score.output
    assert score.output.endswith("[]\n")  # a folder of its own


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lab1.py")
    with pytest.raises(FileNotFoundError):
        check(1, tmp_path / "lab1.py")
