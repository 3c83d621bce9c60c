"""The grader of lab 8: the promises of a backend, one after the other, and a training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from adamoffload.device.registry import get_backend
from adamoffload.labs.compare import Partly, close_to, same
from adamoffload.labs.draw import random
from adamoffload.labs.grading import Lab, Task, halves
from adamoffload.labs.lab8.scenarios import train
from adamoffload.labs.predictions import Answer, predicted
from adamoffload.labs.reasons import Mistake
from adamoffload.labs.student import Student

__all__ = ["LAB"]


def _asked(student: Student, name: str, *args: Any) -> dict[str, Any]:
    found = student.scenario(name, *args)
    if not isinstance(found, dict):
        raise Mistake("what your code did to the device left no result")
    if "fault" in found:
        raise Mistake(str(found["fault"]))
    return found


def _values(student: Student, task: str) -> Any:
    return random(student, task).standard_normal((4, 6)).astype(np.float32)


def _predicted(student: Student) -> None:
    predicted(
        student,
        "PREDICTED",
        (
            Answer(
                "the 1st number",
                12_000,
                "which arrays are alive while + 1 is computed?",
                {8000.0: "2 * x is an array as well, until y is there"},
            ),
            Answer(
                "the 2nd number",
                4000,
                "what does a view need to stay alive?",
                {40.0: "a view has no memory of its own; it keeps all of x"},
            ),
            Answer("the 3rd number", 40, "only what is copied is counted: ten float32"),
            Answer(
                "the 4th number",
                4000,
                "what goes down in a step, and how many bytes has each element?",
                {8000.0: "the gradient goes down, the update goes up: that is h2d"},
            ),
        ),
        rtol=0,
    )


_WORK = (
    ("reserve", 80),
    ("reserve", 0),
    ("release", 30),
    ("reserve", 40),
    ("reserve", 11),
    ("reserve", 10),
    ("release", 60),
    ("reserve", 5),
)


def _pool(student: Student) -> None:
    rng = random(student, "pool")
    _pool_with(student, None, _WORK)
    try:
        for limit, calls in ((100, _WORK), (0, _WORK[:2])):
            _pool_with(student, limit, calls)
        for _ in range(2):
            _pool_with(student, int(rng.integers(50, 200)), _drawn_work(rng))
    except Mistake as mistake:  # without a limit it is right
        raise Mistake(str(mistake), kept=1) from None


def _drawn_work(rng: np.random.Generator) -> tuple[tuple[str, int], ...]:
    """Return what is done with a pool in which more than 40 bytes fit at any time."""
    work = []
    for nbytes in map(int, rng.integers(1, 40, 8)):
        work += [("reserve", nbytes), ("reserve", 300), ("release", nbytes)][: rng.integers(1, 4)]
        if work[-1][0] != "release":
            work.append(("release", nbytes))
    return tuple(work)


def _pool_with(student: Student, limit: int | None, calls: tuple[tuple[str, int], ...]) -> None:
    used = peak = begin = 0
    done = ""
    seen = _asked(student, "pool", limit, calls)
    for (what, nbytes), result, memory in zip(
        calls, seen["results"], seen["memories"], strict=True
    ):
        done += f"{', ' if done else ''}{what}({nbytes})"
        where = f"Pool({limit}) after {done}:"
        right: Any = None
        if what == "release":
            used -= nbytes
        elif limit is not None and used + nbytes > limit:
            right = ("refused", nbytes, used, limit)
            if result != right:
                raise Mistake(
                    f"{where} expected a DeviceMemoryError that says {nbytes} bytes requested, "
                    f"{used} used, {limit} allowed; got {_told(result)}"
                )
        else:
            right, begin, used = begin, begin + nbytes, used + nbytes
            peak = max(peak, used)
            if (
                isinstance(result, bool)
                or not isinstance(result, int | np.integer)
                or result != right
            ):
                raise Mistake(f"{where} expected the address {right}, got {_told(result)}")
        if memory is None:
            raise Mistake(f"{where} memory() should return Memory(used, peak, limit)")
        _compare_memory(where, memory, (used, peak, limit))


def _told(result: Any) -> str:
    if isinstance(result, tuple) and result[:1] == ("refused",):
        return f"a DeviceMemoryError that says {result[1:]}"
    return repr(result)


def _compare_memory(where: str, found: Any, right: Any) -> None:
    hints = (
        "bytes in use: what was reserved, less what was released; a refusal changes nothing",
        "peak: the most that was in use at once, not the sum of all; a release does not lower it",
        "limit: what the pool was made with",
    )
    for value, expected, hint in zip(found, right, hints, strict=True):
        if value != expected:
            raise Mistake(f"{where} memory() says {value}, expected {expected} ({hint})")


def _owns(student: Student) -> None:
    for what, said in _asked(student, "owns").items():
        right = what in ("an array of the device", "a view of an array of the device")
        if isinstance(said, str):
            raise Mistake(f"`owns` {said} for {what}; it must answer, whatever it is asked about")
        if not isinstance(said, bool | np.bool_):
            raise Mistake(f"`owns` returned {type(said).__name__} for {what}; expected a bool")
        if said != right:
            raise Mistake(f"`owns` {'denies' if right else 'claims'} {what}")


def _new_arrays(student: Student) -> None:
    found = _asked(student, "new_arrays")
    taken = 48 + 4 + 0 + 20
    if found["before"] != (taken, taken, 1000):
        raise Mistake(
            f"after arrays of 48, 4, 0 and 20 bytes, with a limit of 1000, memory() says "
            f"{found['before']}; does each DeviceArray get the device's pool?"
        )
    first, row, last = found["addresses"]
    if row - first != 16:
        raise Mistake(
            f"_address of the second row of four float32 is {row - first} bytes after the array's; "
            f"expected 16"
        )
    if last - first < 48:
        raise Mistake("_address says that two arrays overlap")
    if not found["refused"]:
        raise Mistake("_empty gave out 4,000 bytes of 1,000; where is the limit checked?")
    if found["afterwards"] != taken:
        raise Mistake(
            f"an array of 4,000 bytes was refused, and then {found['afterwards']:,} bytes were in "
            f"use instead of {taken}: a refusal changes nothing"
        )
    if found["held"] != 48:
        raise Mistake(
            f"while a view is alive, its array is: expected 48 bytes, not {found['held']}"
        )
    if found["freed"] != 0:
        raise Mistake(f"all arrays are dead, and {found['freed']} bytes are in use")


_OTHER = "another layout is not copied as it should be: source and target may be any views"


def _whole(student: Student, host: Any) -> int:
    """Return 1 if at least a whole array gets there and back."""
    try:
        (found,) = _asked(student, "copies", host, True).values()
    except Mistake:
        return 0
    return int(same(np.asarray(found), host, rtol=0))


def _copies(student: Student) -> None:
    wide = random(student, "copies").standard_normal((4, 6))
    for host in (_values(student, "copies"), np.arange(24, dtype=np.int8).reshape(4, 6), wide):
        try:
            found = _asked(student, "copies", host)
        except Mistake as mistake:
            raise Mistake(str(mistake), kept=_whole(student, host)) from None
        row = host.copy()
        row[1] = 0
        columns = row.copy()
        columns[:, ::3] = 0
        view = np.full_like(host, 77)
        view[::2] = host[::2]
        expected = {
            "a whole array": host,
            "every other row, backwards": host[::-2],
            "some columns": host[:, 1:3],
            "a transposed array": host.T,
            "one element": np.asarray(host[1, 2]),
            "an empty part": host[:, 6:],
            "a view into a view": view,
            "an array, then one row of zeros into it": row,
            "an array, then some columns of zeros into it": columns,
        }
        for what, right in expected.items():
            untouched = {
                "nothing came down: `_d2h` writes into the target that it is given": (
                    np.full_like(right, 77)
                ),
                "nothing went up: `_h2d` writes into storage(target)": np.full_like(right, 55),
            }
            if not same(np.asarray(found[what]), right, rtol=0):
                first = next(iter(expected))  # whole arrays alone are worth a point
                whole = same(np.asarray(found[first]), expected[first], rtol=0)
                untouched = {Partly(int(whole), text): a for text, a in untouched.items()}
                close_to(
                    f"the copy of {what}, of {host.dtype}, up and down,",
                    np.asarray(found[what]),
                    right,
                    rtol=0,
                    known={**untouched, Partly(int(whole), _OTHER): np.asarray(found[what])},
                )


def _after(student: Student) -> None:
    values = _values(student, "after")
    _ordered(_asked(student, "after", "MyBackend", values), values)
    found = _asked(student, "fails", "MyBackend", values)
    for name in ("_d2h", "_h2d"):
        if not found[name]["raised"]:
            raise Mistake(f"a ticket in after of `{name}` raised, and nobody heard of it")
        if found[name]["copied"]:
            raise Mistake(f"a ticket in after of `{name}` raised, and it copied all the same")


def _ordered(found: dict[str, Any], values: Any) -> None:
    """Require that both copies waited for all tickets, and when they say that they were made."""
    first, second = values.copy(), values.copy()
    first[2:] = second[:2] = 0
    early = {
        "the copy does not wait for the tickets in after": 0 * values,
        "the copy waits for the first of the tickets in after alone": first,
        "the copy waits for the last of the tickets in after alone": second,
        "nothing arrived in storage(target)": np.full_like(values, 55),
    }
    close_to("what `_h2d` copied", found["up"], values, rtol=0, known=early)
    first, second = values.copy(), values.copy()
    first[:2] *= 2
    second[2:] *= 2
    early = {
        "the copy does not wait for all of the tickets in after, or for none": values,
        "the copy does not wait for all of the tickets in after": first,
        "the copy waits for the last of the tickets in after alone": second,
        "nothing arrived in target": np.full_like(values, 77),
    }
    close_to("what `_d2h` copied", found["down"], 2 * values, rtol=0, known=early)
    if found["times"] != sorted(found["times"]) or not found["took"]:
        raise Mistake(
            "the times of the tickets are not in the order of what happened: start_s is when the "
            "copy begins, after all that it had to wait for, and stop_s when it has ended",
            kept=2,
        )


def _background(student: Student) -> None:
    values = _values(student, "background")
    found = _asked(student, "background", values)
    for name in ("_d2h", "_h2d"):
        if found[name]["early"]:
            raise Mistake(f"`{name}` copies before what is in after is done")
        late = {"the copy is not made when wait() returns": 0 * values}
        close_to(
            f"after wait(), the target of `{name}`",
            found[name]["values"],
            values,
            rtol=0,
            known=late,
        )
    _ordered(_asked(student, "after", "Background", values), values)
    for name in ("_d2h", "_h2d"):
        if found[name]["blocked"]:
            raise Mistake(
                f"`{name}` itself waits for what is in after; leave that to the thread", kept=1
            )
    late = {Partly(2, "not all copies are made when it returns"): 0 * values}
    close_to("after synchronize(), the target", found["synchronized"], values, rtol=0, known=late)
    for name, in_order in found["times"].items():
        if not in_order:
            raise Mistake(
                f"{name} of a copy that has not been made yet should wait for it, and say when it "
                f"began or ended",
                kept=2,
            )


def _errors(student: Student) -> None:
    values = _values(student, "errors")
    found = _asked(student, "errors", values)
    said = found["said"]
    for name in ("wait()", "start_s", "stop_s"):
        if not said[name]:
            raise Mistake(f"what a copy had to wait for failed, and {name} of its ticket is silent")
    if said["copied"]:
        raise Mistake("what a copy had to wait for failed, and it was made all the same")
    if not said["synchronize"]:
        raise Mistake("synchronize() raised what a copy raised; that belongs to the copy's ticket")
    close_to("the copy after a failed one", found["values"], values, rtol=0)
    failed = _asked(student, "fails", "Background", values)
    for name in ("_d2h", "_h2d"):
        if not failed[name]["raised"]:
            raise Mistake(f"a ticket in after of `{name}` raised, and nobody heard of it")
        if failed[name]["copied"]:
            raise Mistake(f"a ticket in after of `{name}` raised, and it copied all the same")


def _training(kind: str) -> Callable[[Student], None]:
    def check(student: Student) -> None:
        right = train(get_backend("numpy", memory_bytes=1 << 16))
        found = _asked(student, "trained", kind)
        for name, expected in right["state"].items():
            close_to(f"on {kind}, {name} after ten steps", found["state"][name], expected, rtol=0)
        if found["traffic"] != right["traffic"]:
            raise Mistake(f"on {kind}, {found['traffic']} bytes were moved, not {right['traffic']}")
        if found["events"] != right["events"]:
            raise Mistake(f"on {kind}, the ledger has seen other events than on the numpy backend")

    return check


_NEW = ("MyBackend.memory", "MyBackend._empty", "MyBackend._address")
_COPIES = ("MyBackend._d2h", "MyBackend._h2d")

LAB = Lab(
    "Write a backend",
    (
        Task("Bytes", 1, _predicted, ("PREDICTED",)),
        Task("The pool", 2, _pool, ("Pool",)),
        Task("Whose is it?", 2, _owns, ("MyBackend.owns",), ("Pool",)),
        Task("New arrays", 1, _new_arrays, _NEW, ("Pool", "MyBackend.owns")),
        Task("Copies", 2, _copies, _COPIES, ("Pool", "MyBackend.owns", *_NEW)),
        Task("After", 1, _after, _COPIES, ("Pool", "MyBackend.owns", *_NEW)),
        Task(
            "In the background",
            3,
            _background,
            ("Copy", "Background"),
            ("Pool", "MyBackend.owns", *_NEW),
        ),
        Task("Errors", 1, _errors, ("Copy", "Background"), ("Pool", "MyBackend.owns", *_NEW)),
        Task(
            "Training",
            2,
            halves((1, _training("MyBackend")), (1, _training("Background"))),
            needs=("Pool", "MyBackend.owns", *_NEW, *_COPIES, "Background"),
            most=2,
        ),
    ),
    forbidden=(
        "adamoffload_numpy",
        "adamoffload_sim",
        "adamoffload_cupy",
        "adamoffload.get_backend",
        "adamoffload.device.registry",
        "adamoffload.device.array.MemoryPool",
    ),
)
