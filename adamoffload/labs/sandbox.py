"""The process in which a student's code runs: it loads the file, calls functions, answers.

Run as ``python -m adamoffload.labs.sandbox SCENARIOS SECONDS``. Requests come on standard input and
answers go to a copy of standard output, one `adamoffload.labs.wire` line each, with the number that
came with the request; what the student's code prints goes to standard error. The expected results
are in the grader's process and never in this one.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adamoffload.device.array import DeviceArray, storage
from adamoffload.labs.guard import watch
from adamoffload.labs.wire import Unsendable, decode, encode

__all__ = ["Sandbox", "main"]

_MEMORY_BYTES = 4 << 30
_FILE_BYTES = 16 << 20

Ask = Callable[[str, list[Any]], dict[str, Any]]
"""Asks the grader's process for what its own function of a name returns, and does to arrays."""


class Sandbox:
    """A student's module, and what is done with it.

    Parameters
    ----------
    scenarios : module or None
        The lab's scenarios.
    ask : callable
        Takes the name of a function and arguments; the grader's own function answers.
    """

    def __init__(self, scenarios: types.ModuleType | None, ask: Ask) -> None:
        self._scenarios = scenarios
        self._ask = ask
        self._file = ""
        self._own: dict[str, Any] = {}
        self._module = types.ModuleType("student")
        sys.modules["student"] = self._module  # dataclasses and typing look modules up

    def ready(self) -> None:
        """Do nothing: this process has begun."""

    def load(self, code: Any, file: str) -> None:
        """Run the file."""
        self._file = self._module.__file__ = file
        exec(compile(code.tobytes(), file, "exec"), self._module.__dict__)

    def value(self, name: str) -> Any:
        """Return something that the file defines."""
        return getattr(self._module, name)

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Call a function of the file; return its result and which arguments it changed."""
        function = getattr(self._module, name)
        before = encode([args, kwargs])
        result = encode(function(*args, **kwargs))  # a generator runs here
        named = {str(i): value for i, value in enumerate(args)} | kwargs
        old_args, old_kwargs = decode(before)
        old = {str(i): value for i, value in enumerate(old_args)} | old_kwargs
        changed = [key for key in named if encode(named[key]) != encode(old[key])]
        return {"result": decode(result), "changed": changed}

    def scenario(self, name: str, args: tuple[Any, ...]) -> Any:
        """Run a scenario of the lab, which uses the student's module."""
        return getattr(self._scenarios, name)(self._module, *args)

    def stand_in(self, names: list[str]) -> bool:
        """Put the grader's own functions in the place of the student's."""
        special = getattr(self._scenarios, "stand_in", None)
        for name in names:
            if special is not None:
                special(self._module, name)
            else:
                self._own[name] = self._module.__dict__.get(name)
                setattr(self._module, name, self._part(name))
        return True

    def restore(self) -> bool:
        """Put the student's own functions back; return whether that could be done."""
        self._module.__dict__.update(self._own)
        self._own.clear()
        return not hasattr(self._scenarios, "stand_in")

    def _part(self, name: str) -> Callable[..., Any]:
        def part(*args: Any) -> Any:
            plain = [storage(arg) if isinstance(arg, DeviceArray) else arg for arg in args]
            answer = self._ask(name, plain)
            for array, new in zip(plain, answer["arguments"], strict=True):
                if isinstance(array, np.ndarray) and not np.array_equal(array, new, equal_nan=True):
                    array[...] = new
            return answer["result"]

        return part

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked, whatever comes of it."""
        do: Callable[..., Any] = getattr(self, request["do"])
        try:
            return {"answer": decode(encode(do(*request["with"])))}
        except Unsendable as error:
            return {"unsendable": str(error)}
        except SystemExit:
            return {"raised": "SystemExit", "message": "it ends the Python process", "line": 0}
        except BaseException as error:
            return self._failure(error)

    def _failure(self, error: BaseException) -> dict[str, Any]:
        frames = traceback.walk_tb(error.__traceback__)
        lines = [line for frame, line in frames if frame.f_code.co_filename == self._file]
        if isinstance(error, SyntaxError) and error.filename == self._file:
            lines = [error.lineno or 0]
            message = error.msg
        else:
            message = str(error)
        return {
            "raised": type(error).__name__,
            "message": " ".join(message.split())[:500],  # one line, whatever it was
            "line": lines[-1] if lines else 0,
        }


def _hidden(module: str) -> types.ModuleType:
    """Import a module, and leave no name by which the student's code could import it again."""
    found = importlib.import_module(module)
    package, _, name = module.rpartition(".")
    if sys.modules.pop(module, None) is found:
        vars(sys.modules[package]).pop(name, None)
    return found


def _limit(seconds: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for what, most in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def main() -> None:
    """Answer requests until there are no more."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # who asks for input gets none
    os.dup2(2, 1)  # prints go where they cannot be taken for an answer
    _limit(int(sys.argv[2]))
    np.seterr(all="ignore")
    now = ""

    def send(message: dict[str, Any]) -> None:
        answers.write(encode({**message, "nonce": now}))
        answers.flush()

    def ask(name: str, args: list[Any]) -> dict[str, Any]:
        send({"part": name, "with": args})
        answer: dict[str, Any] = decode(requests.readline())
        return answer

    sandbox = Sandbox(_hidden(sys.argv[1]) if sys.argv[1] else None, ask)
    peeked = watch(Path(__file__).resolve().parent, Path.cwd())
    for line in requests:
        request = decode(line)
        now = request["nonce"]
        answer = sandbox.answer(request)
        send({"peeked": True} if peeked() else answer)


if __name__ == "__main__":
    main()
