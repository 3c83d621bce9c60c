"""Progress of a training loop in a terminal: `Live`, and `progress` for a plain ``for``.

`progress` is tqdm's bar. `Live` also shows what a loop tells it, what a device counts anyway, and
what a probe has sampled: on a terminal in a line that is redrawn, elsewhere (a file, a pipe, a
notebook) in a plain line now and then.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from adamoffload.arguments import instance, integer
from adamoffload.device.backend import Backend
from adamoffload.observe.probes import Probe

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["Live", "progress"]

T = TypeVar("T")

_REDRAW_S, _PLAIN_S = 0.1, 10.0
"""Seconds between two lines: on a terminal, and elsewhere."""

_CLEAR = "\r\x1b[K"


class Live:
    """Shows how far a loop has come, in one line.

    Step, whatever numbers `update` was given, bytes over the link and their rate, device memory,
    steps a second, and how long it will still take. What does not fit in the terminal's width is
    left out, from the right.

    Parameters
    ----------
    total : int, optional
        Number of steps; without it there is no remaining time.
    device : Backend, optional
        Whose traffic and memory to show. The rate is an average over all the time that has passed,
        by the device's own clock; how fast the link is while it moves, says `Ledger.bandwidth`.
    probe : Probe, optional
        Whose step size to show: the RMS of the last update that it sampled, over all parameters.
    stream : text file, optional
        Where to write; standard error if left out, so that results can be piped away.
    clock : callable, optional
        Seconds, as from `time.perf_counter`.

    Raises
    ------
    TypeError, ValueError
        If `total` is no whole number of at least 0, `device` no backend, or `probe` no probe.

    Examples
    --------
    >>> import sys
    >>> with Live(3, stream=sys.stdout, clock=lambda: 0.0) as live:
    ...     for step in range(3):
    ...         live.update(loss=1 / (step + 1))
    step 1/3 | loss 1
    step 3/3 | loss 0.3333 | took 00:00
    """

    def __init__(
        self,
        total: int | None = None,
        *,
        device: Backend | None = None,
        probe: Probe | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._total = None if total is None else integer("Live", "total", total, at_least=0)
        if device is not None:
            instance("Live", "device", device, Backend)
        if probe is not None:
            instance("Live", "probe", probe, Probe)
        self._device, self._probe, self._clock = device, probe, clock
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._step = 0
        self._values: dict[str, object] = {}
        self._began_s = self._next_s = clock()
        if device is not None:
            self._moved, self._device_began_s = sum(device.traffic()), device.now()

    def __enter__(self) -> Live:
        """Write nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write the last line, if a step was done."""
        if self._step:
            self._write(f"took {_duration(self._clock() - self._began_s)}", end="\n")

    def update(self, steps: int = 1, **values: object) -> None:
        """Say that steps are done, and what is worth showing.

        Parameters
        ----------
        steps : int
            How many since the last call.
        **values : float or str
            By name, in this order; a value stays until there is a new one. Arrays of one element,
            also on a device, are read only when the line is redrawn.
        """
        self._step += steps
        self._values.update(values)
        if self._clock() >= self._next_s:
            self._write(*self._pace())
            self._next_s = self._clock() + (_REDRAW_S if self._terminal else _PLAIN_S)

    def print(self, text: str) -> None:
        """Write lines to standard output, above the one that is redrawn."""
        if self._terminal:
            self._stream.write(_CLEAR)
            self._stream.flush()
        print(text, flush=True)
        if self._terminal:
            self._write(*self._pace())

    def _write(self, *last: str, end: str = "") -> None:
        count = f"{self._step}" if self._total is None else f"{self._step}/{self._total}"
        parts = [f"step {count}", *self._facts(), *last]
        if not self._terminal:
            self._stream.write(" | ".join(parts) + "\n")
        else:
            room = _columns(self._stream) - 1  # a full line would wrap
            while len(parts) > 1 and len(" | ".join(parts)) > room:
                del parts[-2 if len(parts) > 2 else -1]  # the time stays longest
            self._stream.write(f"{_CLEAR}{' | '.join(parts)[:room]}{end}")
        self._stream.flush()

    def _facts(self) -> list[str]:
        parts = [f"{name.replace('_', ' ')} {_shown(x)}" for name, x in self._values.items()]
        if self._probe is not None and len(self._probe.steps):
            parts.append(f"step size {_last_step_size(self._probe):.4g}")
        if self._device is not None:
            moved, device = sum(self._device.traffic()) - self._moved, self._device
            seconds = device.now() - self._device_began_s
            simulated = ", simulated" if device.simulated else ""
            rate = f", on average {_bytes(moved / seconds)}/s{simulated}" if seconds > 0 else ""
            parts += [f"moved {_bytes(moved)}{rate}", _memory(device)]
        return parts

    def _pace(self) -> list[str]:
        seconds = self._clock() - self._began_s
        if not self._step or seconds <= 0:
            return []
        left_s = seconds * (self._total / self._step - 1) if self._total else 0.0
        left = [f"{_duration(left_s)} left"] if left_s > 0 else []
        return [f"{self._step / seconds:.4g} steps/s", *left]


def progress(iterable: Iterable[T], *, device: Backend | None = None, **options: Any) -> tqdm[T]:
    """Return tqdm's bar around an iterable, with what a device counts.

    Parameters
    ----------
    iterable : iterable
        Its length, if it has one, is the total.
    device : Backend, optional
        Whose traffic, from now on, and memory to show.
    **options
        For ``tqdm.tqdm``, such as ``total``, ``desc``, ``file``.

    Returns
    -------
    tqdm.tqdm
        Iterate over it; its ``set_postfix(loss=...)`` shows numbers in the place of the device's.

    Raises
    ------
    TypeError
        If `device` is no backend.

    Examples
    --------
    >>> bar = progress(range(3))
    >>> for step in bar:
    ...     bar.set_postfix(loss=1 / (step + 1))
    """
    from tqdm import tqdm

    if device is not None:
        instance("progress", "device", device, Backend)
        options["postfix"] = _Counts(device)
    return tqdm(iterable, **{"dynamic_ncols": True, **options})


class _Counts:
    """A device's traffic and memory, read when they are written."""

    def __init__(self, device: Backend) -> None:
        self._device, self._before = device, sum(device.traffic())

    def __str__(self) -> str:
        moved = sum(self._device.traffic()) - self._before
        return f", moved {_bytes(moved)}, {_memory(self._device)}"


# -- numbers as people read them ------------------------------------------------------------------


def _last_step_size(probe: Probe) -> float:
    squares = sum(float(probe.norm("step_size", name)[-1]) ** 2 for name in probe.names)
    return math.sqrt(squares / sum(probe.sizes.values()))


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):  # a terminal that does not say, or no file beneath
        return 80


def _shown(value: object) -> str:
    if not isinstance(value, str):
        try:
            return f"{float(value):.4g}"  # type: ignore[arg-type]  # if not, its text will do
        except (TypeError, ValueError):
            value = str(value)
    return "".join(c for c in " ".join(value.split()) if c.isprintable())


def _memory(device: Backend) -> str:
    used, _, limit = device.memory()
    return f"device {_bytes(used)}" + ("" if limit is None else f" of {_bytes(limit)}")


def _bytes(count: float) -> str:
    from tqdm import tqdm

    return tqdm.format_sizeof(count, "B")


def _duration(seconds: float) -> str:
    from tqdm import tqdm

    return tqdm.format_interval(seconds)
