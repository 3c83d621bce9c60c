"""The process in which a student's code runs: it loads the file, calls functions, answers.

Run as ``python -m adamoffload.labs.sandbox FILE``. Requests come on standard input and answers go
to standard output, one `adamoffload.labs.wire` line each; what the student's code prints goes to
standard error. The expected results are in the grader's process and never in this one, and the
files of the graders cannot be opened here.
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

from adamoffload.labs.wire import Unsendable, decode, encode

__all__ = ["main"]

_LABS = Path(__file__).resolve().parent
_MEMORY_BYTES = 8 << 30


_peeked: list[str] = []
"""The graders' files that the student's code tried to open: it may hide the error, but not this."""


class Sandbox:
    """A student's module, and what is done with it.

    Parameters
    ----------
    path : Path
        The student's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._module = types.ModuleType("student")
        self._module.__file__ = str(path)
        sys.modules["student"] = self._module  # dataclasses and typing look modules up

    def load(self) -> None:
        """Run the file."""
        source = self._path.read_bytes()
        exec(compile(source, str(self._path), "exec"), self._module.__dict__)

    def value(self, name: str) -> Any:
        """Return something that the file defines."""
        return getattr(self._module, name)

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Call a function of the file; return its result and which arguments it changed."""
        function = getattr(self._module, name)
        before = encode([args, kwargs])
        result = function(*args, **kwargs)
        named = {str(i): value for i, value in enumerate(args)} | kwargs
        old_args, old_kwargs = decode(before)
        old = {str(i): value for i, value in enumerate(old_args)} | old_kwargs
        changed = [key for key in named if encode(named[key]) != encode(old[key])]
        return {"result": result, "changed": changed}

    def scenario(self, module: str, name: str, args: tuple[Any, ...]) -> Any:
        """Run a scenario of the lab, which uses the student's module."""
        return getattr(importlib.import_module(module), name)(self._module, *args)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked, whatever comes of it."""
        do: Callable[..., Any] = getattr(self, request["do"])
        try:
            return {"answer": _checked(do(*request["with"]))}
        except Unsendable as error:
            return {"unsendable": str(error)}
        except SystemExit:
            return {"raised": "SystemExit", "message": "it ends the Python process", "line": 0}
        except BaseException as error:
            return self._failure(error)

    def _failure(self, error: BaseException) -> dict[str, Any]:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno or 0 for f in frames if f.filename == str(self._path)]
        if isinstance(error, SyntaxError) and error.filename == str(self._path):
            lines = [error.lineno or 0]
            message = error.msg
        else:
            message = str(error)
        return {
            "raised": type(error).__name__,
            "message": " ".join(message.split())[:500],  # one line, whatever it was
            "line": lines[-1] if lines else 0,
        }


def _checked(value: Any) -> Any:
    encode(value)
    return value


def _guard(event: str, args: tuple[Any, ...]) -> None:
    """Refuse to open a grader's file; an audit hook cannot be taken out again."""
    if event != "open" or not isinstance(args[0], str | bytes):
        return
    path = Path(os.path.abspath(os.fsdecode(args[0])))
    if path.name.startswith("grader.") and _LABS in path.parents:
        _peeked.append(str(path))
        raise PermissionError("the graders' files are not for reading")


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


def main() -> None:
    """Answer requests until there are no more."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # who asks for input gets none
    os.dup2(2, 1)  # prints go where they cannot be taken for an answer
    _limit_memory()
    np.seterr(all="ignore")
    sandbox = Sandbox(Path(sys.argv[1]))
    sys.addaudithook(_guard)
    for line in requests:
        answer = sandbox.answer(decode(line))
        answers.write(encode({"peeked": True} if _peeked else answer))
        answers.flush()


if __name__ == "__main__":
    main()
