"""`Student`: a student's file as a grader sees it, from the safe side of a process boundary."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from adamoffload.labs.reasons import Cheating, Mistake, printable
from adamoffload.labs.source import Source
from adamoffload.labs.wire import decode, encode

__all__ = ["Student"]

_LONGEST_ANSWER_BYTES = 64 << 20
_OUTPUT_KEPT_BYTES = 4000
_START_S = 20.0
_PASSED_ON = (
    *("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH"),
    *("SYSTEMROOT", "TZ", "USERPROFILE", "VIRTUAL_ENV"),
)
"""What the student's process sees of the environment, in which there may be secrets."""


class Student:
    """Runs a student's file in a process of its own, with a limit on the time of each call.

    Whatever the file does becomes a `Mistake` with a sentence for the student: it does not parse,
    imports what is missing, loops for ever, ends the process, returns what is no data.

    Parameters
    ----------
    source : Source
        What the student handed in, ready to be run.
    limit_s : float
        Seconds that loading the file, or one call, may take.
    scenarios : str
        The module with the lab's scenarios, for `scenario`.
    seed : int
        What graders draw their numbers from.
    total_s : float
        Seconds for all of the file.
    parts : mapping from str to callable
        What stands in for functions of the file, see `standing_in`.
    """

    def __init__(
        self,
        source: Source,
        limit_s: float,
        scenarios: str = "",
        *,
        seed: int = 0,
        total_s: float = 45.0,
        parts: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.seed = seed
        self._source = source
        self._limit_s = limit_s
        self._scenarios = scenarios
        self._total_s = total_s
        self._end_s = time.monotonic() + total_s
        self._parts = parts or {}
        self._standing_in: list[str] = []
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
        return self._ask("", "scenario", name, args)

    @contextlib.contextmanager
    def standing_in(self, names: Sequence[str]) -> Iterator[None]:
        """Let the grader's own functions stand in for the student's, for a while.

        So a mistake costs the points of its own task, and not those of what builds on it.

        Parameters
        ----------
        names : sequence of str
            Which functions.
        """
        self._standing_in = list(names)
        self._replace("stand_in", self._standing_in)
        try:
            yield
        finally:
            self._standing_in = []
            self._replace("restore")

    @property
    def output(self) -> str:
        """What the student's code printed, shortened."""
        text = printable(self._output.decode(errors="replace"))
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
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {
            "MPLBACKEND": "agg",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONIOENCODING": "utf-8:backslashreplace",
            "PYTHONUNBUFFERED": "1",  # what it has printed is seen, however it ends
            "TMPDIR": self._folder.name,
        }
        module = ("-P", "-m", "adamoffload.labs.sandbox")  # -P: files beside it are no libraries
        self._process = subprocess.Popen(
            [sys.executable, *module, self._scenarios, str(int(self._total_s) + 1)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd=self._folder.name,
            env=environment,
        )
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=read, args=(self._process, self._answers), daemon=True)
            for read in (_read_answers, self._read_output)
        ]
        for reader in self._readers:
            reader.start()
        try:
            self._exchange("", "ready", limit_s=_START_S)
            self._load()
        except Mistake as mistake:
            self._broken = mistake
            self._stop()
            raise

    def _replace(self, do: str, *names: Any) -> None:
        if self._process is None:
            return
        try:
            done = self._exchange("", do, *names)
        except Mistake:
            done = False
        if not done:  # a new process has the right ones
            self._stop()

    def _load(self) -> None:
        code = np.frombuffer(self._source.code, np.uint8)
        self._exchange("", "load", code, self._source.name)
        if self._standing_in:
            self._exchange("", "stand_in", self._standing_in)

    def _exchange(self, name: str, do: str, *details: Any, limit_s: float | None = None) -> Any:
        what = f"`{name}`" if name else "your code"
        answer = self._answer(what, {"do": do, "with": details}, limit_s or self._limit_s)
        if "answer" in answer:
            return answer["answer"]
        raise self._complaint(what, answer)

    def _answer(self, what: str, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        end_s = min(time.monotonic() + limit_s, self._end_s)
        nonce = secrets.token_hex(8)
        self._send({**request, "nonce": nonce})
        while True:
            line = self._line(what, limit_s, end_s)
            if not line:
                how = self._ended()
                self._stop()
                raise Mistake(f"{what} ended the Python process before it was done{how}")
            try:
                answer = decode(line)
            except ValueError:
                continue
            if not isinstance(answer, dict) or answer.pop("nonce", None) != nonce:
                continue  # nobody was asked for it
            if "part" not in answer:
                return answer
            self._send(self.part(answer["part"], answer["with"]))

    def _line(self, what: str, limit_s: float, end_s: float) -> bytes:
        assert self._process is not None
        while (left_s := end_s - time.monotonic()) > 0:
            ended = self._process.poll() is not None
            with contextlib.suppress(queue.Empty):
                return self._answers.get(timeout=min(left_s, 0.2))
            if ended:  # another process holds the pipe
                return b""
        self._stop()
        if end_s < self._end_s:
            raise Mistake(
                f"{what} was still running after {limit_s:g} s and was stopped; does a loop never "
                f"end?"
            )
        raise Mistake(
            f"not graded: the whole file has {self._total_s:g} s, and they are over; what takes so "
            f"long?"
        )

    def part(self, name: str, args: Sequence[Any]) -> dict[str, Any]:
        """Return what the grader's own function of a name returns, and its arguments afterwards."""
        sizes = {arg.size for arg in args if isinstance(arg, np.ndarray)} - {1}
        arguments = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in args]
        try:
            if len(sizes) > 1:
                raise ValueError(f"arrays of {len(sizes)} sizes")
            result = self._parts[name](*arguments)
        except Exception:  # it was called with anything
            return {"result": None, "arguments": list(args)}
        return {"result": result, "arguments": arguments}

    def _send(self, message: dict[str, Any]) -> None:
        process = self._process
        assert process is not None
        thread = threading.Thread(target=_write, args=(process, encode(message)), daemon=True)
        thread.start()  # it may be that nobody reads

    def _ended(self) -> str:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1.0)
            if code < 0:
                return f" (signal {signal.Signals(-code).name})"
        return ""

    def _complaint(self, what: str, answer: dict[str, Any]) -> Exception:
        if "peeked" in answer:
            return Cheating("the code opens the grader's files instead of solving the tasks")
        if "unsendable" in answer:
            return Mistake(f"{what} returned {answer['unsendable']}; return numbers or arrays")
        raised, message, line = answer["raised"], answer["message"], answer["line"]
        where = f"{self._source.where(line)}: " if line else ""
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
        with process.stderr, contextlib.suppress(OSError):
            while part := os.read(process.stderr.fileno(), 65536):
                self._printed_bytes += len(part)
                self._output += part[: max(0, _OUTPUT_KEPT_BYTES - len(self._output))]

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
        assert process.stdin is not None
        process.stdin.close()
        for reader in self._readers:
            reader.join(0.5)  # a process that has left the group may hold the pipe for ever
        self._folder.cleanup()


def _read_answers(process: subprocess.Popen[bytes], answers: queue.SimpleQueue[bytes]) -> None:
    assert process.stdout is not None
    held = bytearray()
    with process.stdout, contextlib.suppress(OSError):
        while len(held) <= _LONGEST_ANSWER_BYTES:
            if not (part := os.read(process.stdout.fileno(), 1 << 20)):
                break
            *lines, rest = part.split(b"\n")
            for line in lines:
                answers.put(bytes(held + line) or b" ")
                held.clear()
            held += rest
    answers.put(b"")  # the process has ended


def _write(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError):  # it has ended
        while data:
            data = data[os.write(process.stdin.fileno(), data) :]
