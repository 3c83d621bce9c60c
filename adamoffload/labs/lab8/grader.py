"""The grader of lab 8: the promises of a backend, one after the other, and a training run."""

from __future__ import annotations

from typing import Any

import numpy as np

from adamoffload.device.registry import get_backend
from adamoffload.labs.compare import close_to
from adamoffload.labs.grading import Lab, Task
from adamoffload.labs.lab8.scenarios import train
from adamoffload.labs.predictions import Answer, predicted
from adamoffload.labs.student import Mistake, Student

__all__ = ["LAB"]


def _asked(student: Student, name: str, *args: Any) -> dict[str, Any]:
    found = student.scenario(name, *args)
    if not isinstance(found, dict):
        raise Mistake("what your code did to the device left no result")
    if "fault" in found:
        raise Mistake(str(found["fault"]))
    return found


def _values() -> Any:
    return np.random.default_rng(8).standard_normal((4, 6)).astype(np.float32)


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


def _pool(student: Student) -> None:
    work = (
        ("reserve", 80),
        ("reserve", 0),
        ("release", 30),
        ("reserve", 40),
        ("reserve", 11),
        ("reserve", 10),
        ("release", 60),
        ("reserve", 5),
    )
    for limit, calls in ((100, work), (None, work), (0, work[:2])):
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
                if type(result) is not int or result != right:
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


def _copies(student: Student) -> None:
    for host in (_values(), np.arange(24, dtype=np.int8).reshape(4, 6)):
        found = _asked(student, "copies", host)
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
            close_to(
                f"the copy of {what}, of {host.dtype}, up and down,",
                np.asarray(found[what]),
                right,
                rtol=0,
                known=untouched,
            )


def _after(student: Student) -> None:
    values = _values()
    found = _asked(student, "after", "MyBackend", values)
    early = {
        "the copy does not wait for the tickets in after": 0 * values,
        "nothing arrived in storage(target)": np.full_like(values, 55),
    }
    close_to("what `_h2d` copied", found["up"], values, rtol=0, known=early)
    early = {
        "the copy does not wait for all of the tickets in after": values,
        "nothing arrived in target": np.full_like(values, 77),
    }
    close_to("what `_d2h` copied", found["down"], 2 * values, rtol=0, known=early)
    times = found["times"]
    if times != sorted(times):
        raise Mistake(
            "the times of the tickets are not in the order of what happened: start_s and stop_s "
            "are device.now() right before and right after the copy"
        )


def _background(student: Student) -> None:
    values = _values()
    found = _asked(student, "background", values)
    for name in ("_d2h", "_h2d"):
        if found[name]["blocked"]:
            raise Mistake(f"`{name}` itself waits for what is in after; leave that to the thread")
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
    late = {"not all copies are made when it returns": 0 * values}
    close_to("after synchronize(), the target", found["synchronized"], values, rtol=0, known=late)
    if not found["start"]:
        raise Mistake("start_s, stop_s and device.now() are not in order")
    found = _asked(student, "after", "Background", values)
    early = {"the thread reads the source before what is in after is done": 0 * values}
    close_to("what `_h2d` copied", found["up"], values, rtol=0, known=early)
    close_to("what `_d2h` copied", found["down"], 2 * values, rtol=0)
    if found["times"] != sorted(found["times"]):
        raise Mistake("start_s is when the copy begins, after all that it had to wait for")


def _errors(student: Student) -> None:
    values = _values()
    found = _asked(student, "errors", values)
    said = found["said"]
    for name in ("wait()", "stop_s"):
        if not said[name]:
            raise Mistake(f"what a copy had to wait for failed, and {name} of its ticket is silent")
    if said["copied"]:
        raise Mistake("what a copy had to wait for failed, and it was made all the same")
    if not said["synchronize"]:
        raise Mistake("synchronize() raised what a copy raised; that belongs to the copy's ticket")
    close_to("the copy after a failed one", found["values"], values, rtol=0)


def _training(student: Student) -> None:
    right = train(get_backend("numpy", memory_bytes=1 << 16))
    for kind in ("MyBackend", "Background"):
        found = _asked(student, "trained", kind)
        for name, expected in right["state"].items():
            close_to(f"on {kind}, {name} after ten steps", found["state"][name], expected, rtol=0)
        if found["traffic"] != right["traffic"]:
            raise Mistake(f"on {kind}, {found['traffic']} bytes were moved, not {right['traffic']}")
        if found["events"] != right["events"]:
            raise Mistake(f"on {kind}, the ledger has seen other events than on the numpy backend")


LAB = Lab(
    "Write a backend",
    (
        Task("Bytes", 1, _predicted),
        Task("The pool", 2, _pool),
        Task("Whose is it?", 2, _owns),
        Task("New arrays", 1, _new_arrays),
        Task("Copies", 2, _copies),
        Task("After", 1, _after),
        Task("In the background", 3, _background),
        Task("Errors", 1, _errors),
        Task("Training", 2, _training),
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
