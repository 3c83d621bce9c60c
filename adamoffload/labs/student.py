"""`Student`: a student's file as a grader sees it, from the safe side of a process boundary."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from adamoffload.labs.wire import decode, encode

__all__ = ["Cheating", "Mistake", "Student"]

_LONGEST_ANSWER_BYTES = 256 << 20
_OUTPUT_KEPT_BYTES = 4000


class Mistake(Exception):
    """What is wrong with a student's code, in a sentence for the student."""


class Cheating(Exception):
    """The student's code tried to read the grader."""


class Student:
    """Runs a student's file in a process of its own, with a limit on the time of each call.

    Whatever the file does becomes a `Mistake` with a sentence for the student: it does not parse,
    imports what is missing, loops for ever, ends the process, returns what is no data.

    Parameters
    ----------
    path : Path
        The student's file.
    limit_s : float
        Seconds that loading the file, or one call, may take.
    scenarios : str
        The module with the lab's scenarios, for `scenario`.
    """

    def __init__(self, path: Path, limit_s: float, scenarios: str = "") -> None:
        self._path = path
        self._limit_s = limit_s
        self._scenarios = scenarios
        self._process: subprocess.Popen[bytes] | None = None
        self._broken: Mistake | None = None
        self._readers: list[threading.Thread] = []
        self._output = bytearray()
        self._printed_bytes = 0

    # -- what graders call --------------------------------------------------------------------

    def call(self, name: str, *args: Any, may_change: bool = False, **kwargs: Any) -> Any:
        """Call one of the student's functions and return its result.

        Parameters
        ----------
        name : str
            The function's name.
        may_change : bool
            Whether it may write into its arguments.

        Raises
        ------
        Mistake
            If it is missing, raises, takes too long, changes its arguments, or returns anything
            but plain data and arrays.
        Cheating
            If it tries to read the grader.
        """
        done = self._ask(name, "call", name, args, kwargs)
        if done["changed"] and not may_change:
            which = " and ".join(
                f"argument {int(key) + 1}" if key.isdigit() else f"`{key}`"
                for key in done["changed"]
            )
            raise Mistake(f"`{name}` changed its {which} in place; compute new arrays instead")
        return done["result"]

    def value(self, name: str) -> Any:
        """Return a constant that the student's file defines; raises as `call` does."""
        return self._ask(name, "value", name)

    def scenario(self, name: str, *args: Any) -> Any:
        """Run one of the lab's scenarios on the student's module; raises as `call` does."""
        return self._ask("", "scenario", self._scenarios, name, args)

    @property
    def output(self) -> str:
        """What the student's code printed, shortened."""
        text = self._output.decode(errors="replace")
        more = self._printed_bytes - len(self._output)
        return f"{text}\n[... {more:,} bytes more]" if more > 0 else text

    # -- the process --------------------------------------------------------------------------

    def __enter__(self) -> Student:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _ask(self, name: str, do: str, *details: Any) -> Any:
        if self._process is None:
            self._start()
        return self._exchange(name, do, *details)

    def _start(self) -> None:
        if self._broken is not None:  # it will not load a second time either
            raise self._broken
        # -P: no file in the working directory is taken for NumPy, or for a module of ours.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "adamoffload.labs.sandbox", str(self._path.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "MPLBACKEND": "agg", "PYTHONIOENCODING": "utf-8:backslashreplace"},
        )
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=read, args=(self._process, self._answers), daemon=True)
            for read in (_read_answers, self._read_output)
        ]
        for reader in self._readers:
            reader.start()
        try:
            self._exchange("", "load")
        except Mistake as mistake:
            self._broken = mistake
            self._stop()
            raise

    def _exchange(self, name: str, do: str, *details: Any) -> Any:
        what = f"`{name}`" if name else "your code"
        answer = self._answer(what, {"do": do, "with": details})
        if "answer" in answer:
            return answer["answer"]
        raise self._complaint(what, answer)

    def _answer(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(encode(request))
            self._process.stdin.flush()
        try:
            line = self._answers.get(timeout=self._limit_s)
        except queue.Empty:
            self._stop()
            raise Mistake(
                f"{what} was still running after {self._limit_s:g} s and was stopped; does a loop "
                f"never end?"
            ) from None
        try:
            answer: dict[str, Any] = decode(line)
        except ValueError:
            self._stop()
            raise Mistake(f"{what} ended the Python process before it was done") from None
        return answer

    def _complaint(self, what: str, answer: dict[str, Any]) -> Exception:
        if "peeked" in answer:
            return Cheating("the code opens the grader's files instead of solving the tasks")
        if "unsendable" in answer:
            return Mistake(f"{what} returned {answer['unsendable']}; return numbers or arrays")
        raised, message, line = answer["raised"], answer["message"], answer["line"]
        where = f"line {line}: " if line else ""
        if raised == "NotImplementedError":
            return Mistake(f"{where}not done yet")
        missing = re.match(r"module 'student' has no attribute '(\w+)'", message)
        if raised == "AttributeError" and missing:
            return Mistake(f"there is no `{missing[1]}` in your file; keep the names it came with")
        if raised in ("SyntaxError", "IndentationError", "TabError"):
            return Mistake(f"{where}Python cannot read the file: {message}")
        if raised == "ModuleNotFoundError":
            return Mistake(f"{where}{message}; the lab needs only what the file imports already")
        return Mistake(f"{where}{what} raised {raised}{message and f': {message}'}")

    def _read_output(self, process: subprocess.Popen[bytes], _: object) -> None:
        assert process.stderr is not None
        while part := process.stderr.read1(65536):  # type: ignore[attr-defined]
            self._printed_bytes += len(part)
            self._output += part[: max(0, _OUTPUT_KEPT_BYTES - len(self._output))]
        process.stderr.close()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if os.name == "posix":  # and whatever it has started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for reader in self._readers:
            reader.join()


def _read_answers(process: subprocess.Popen[bytes], answers: queue.SimpleQueue[bytes]) -> None:
    assert process.stdout is not None
    while line := process.stdout.readline(_LONGEST_ANSWER_BYTES):
        answers.put(line)
    answers.put(b"")  # the process has ended
    process.stdout.close()
