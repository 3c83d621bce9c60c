"""Progress of a training loop in a terminal: `Live`, and `progress` for a plain ``for``.

On a terminal one line is redrawn, some ten times a second at most; elsewhere (a file, a pipe) a
plain line is written now and then. It shows what it is told, what a device counts anyway, and what
a probe has sampled.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from types import TracebackType
from typing import TextIO, TypeVar

from adamoffload.arguments import instance, integer
from adamoffload.device.backend import Backend
from adamoffload.observe.probes import Probe

__all__ = ["Live", "progress"]

T = TypeVar("T")

_REDRAW_S = 0.1
_PLAIN_S = 10.0
_SHARE = 20
"""At least this many times as long as a redraw takes passes until the next one."""

_HIDE, _SHOW, _CLEAR = "\x1b[?25l", "\x1b[?25h", "\r\x1b[K"
_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_BAR = 10


class Live:
    """Shows how far a loop has come, in one line.

    Step, a bar, whatever numbers `update` was given, bytes over the link and their rate, device
    memory, steps a second, and how long it will still take. What does not fit in the terminal's
    width is left out, from the right.

    Parameters
    ----------
    total : int, optional
        Number of steps; without it there are no bar and no remaining time.
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
    step 3/3 | loss 0.3333 | took 0:00
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
        self._device, self._probe = device, probe
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        colors = terminal and not os.environ.get("NO_COLOR")  # https://no-color.org
        self._bold, self._dim, self._plain = (_BOLD, _DIM, _PLAIN) if colors else ("", "", "")
        self._terminal = terminal
        self._step = 0
        self._values: dict[str, object] = {}
        self._began_s = self._next_s = clock()
        if device is not None:
            self._moved, self._device_began_s = sum(device.traffic()), device.now()

    def __enter__(self) -> Live:
        """Hide the cursor, on a terminal."""
        if self._terminal:
            self._write(_HIDE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write the last line, if a step was done, and give the cursor back, come what may."""
        try:
            if self._step:
                self._draw(self._line(final=True) + "\n")
        finally:
            if self._terminal:
                self._write(_SHOW)

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
        now = self._clock()
        if now < self._next_s:
            return
        self._draw(self._line() + ("" if self._terminal else "\n"))
        took_s = self._clock() - now
        self._next_s = now + max(_REDRAW_S if self._terminal else _PLAIN_S, _SHARE * took_s)

    def print(self, text: str) -> None:
        """Write lines to standard output, above the one that is redrawn."""
        if self._terminal:
            self._write(_CLEAR)
        print(text, flush=True)
        if self._terminal:
            self._draw(self._line())

    # -- the line -----------------------------------------------------------------------------

    def _line(self, final: bool = False) -> str:
        elapsed_s = self._clock() - self._began_s
        total = self._total
        count = f"{self._step}/{total}" if total is not None else f"{self._step}"
        parts = [f"step {count}"]
        parts += [f"{_words(name)} {_shown(value)}" for name, value in self._values.items()]
        if self._probe is not None and len(self._probe.steps):
            parts.append(f"step size {_number(_last_step_size(self._probe))}")
        if self._device is not None:
            parts += self._of_device(self._device)
        if final:
            parts.append(f"took {_duration(elapsed_s)}")
        elif elapsed_s > 0 and self._step:
            parts.append(f"{_number(self._step / elapsed_s)} steps/s")
            if total is not None and self._step < total:
                parts.append(f"{_duration(elapsed_s * (total / self._step - 1))} left")
        if not self._terminal:
            return " | ".join(parts)
        return self._fitted(parts, _width(self._stream) - 1)  # a full line would wrap

    def _fitted(self, parts: list[str], width: int) -> str:
        """Join the parts; what is too much goes: the bar, then what comes last but the time."""
        bar = ""
        if self._total:
            done = min(_BAR, _BAR * self._step // self._total)
            bar = f" [{'#' * done}{'.' * (_BAR - done)}]"
        if len(" | ".join(parts)) + len(bar) > width:
            bar = ""
        while len(parts) > 1 and len(" | ".join(parts)) > width:
            del parts[-2 if len(parts) > 2 else -1]
        head, separator, rest = " | ".join(parts)[:width].partition(" | ")
        if bar:
            bar = f"{self._dim}{bar}{self._plain}"
        return f"{self._bold}{head}{self._plain}{bar}{separator}{rest}"

    def _of_device(self, device: Backend) -> list[str]:
        moved = sum(device.traffic()) - self._moved
        used, _, limit = device.memory()
        elapsed_s = device.now() - self._device_began_s
        simulated = ", simulated" if device.simulated else ""
        rate = f", on average {_bytes(moved / elapsed_s)}/s{simulated}" if elapsed_s > 0 else ""
        of = f" of {_bytes(limit)}" if limit is not None else ""
        return [f"moved {_bytes(moved)}{rate}", f"device {_bytes(used)}{of}"]

    def _draw(self, line: str) -> None:
        self._write(f"{_CLEAR}{line}" if self._terminal else line)

    def _write(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()


def progress(
    iterable: Iterable[T],
    *,
    device: Backend | None = None,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[T]:
    """Yield what `iterable` yields, and show in a terminal how far it has come.

    Parameters
    ----------
    iterable : iterable
        Its length, if it has one, is the total.
    device, stream, clock
        As for `Live`, which also shows a loss.

    Yields
    ------
    object
        The items, unchanged.

    Examples
    --------
    >>> import sys
    >>> for step in progress(range(2), stream=sys.stdout, clock=lambda: 0.0):
    ...     pass
    step 1/2
    step 2/2 | took 0:00
    """
    total = len(iterable) if isinstance(iterable, Sized) else None
    with Live(total, device=device, stream=stream, clock=clock) as live:
        for item in iterable:
            yield item
            live.update()


# -- numbers as people read them ------------------------------------------------------------------


def _last_step_size(probe: Probe) -> float:
    squares = sum(float(probe.norm("step_size", name)[-1]) ** 2 for name in probe.names)
    return math.sqrt(squares / sum(probe.sizes.values()))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):  # a terminal that does not say, or no file beneath
        return shutil.get_terminal_size().columns


def _shown(value: object) -> str:
    if not isinstance(value, str):
        try:
            return _number(float(value))  # type: ignore[arg-type]  # if not, its text will do
        except (TypeError, ValueError):
            value = str(value)
    return "".join(c for c in " ".join(value.split()) if c.isprintable())


def _number(value: float) -> str:
    return f"{value:.4g}"


def _bytes(count: float) -> str:
    """Write 4194304 as 4.2 MB.

    Examples
    --------
    >>> _bytes(999), _bytes(4194304), _bytes(999_960)
    ('999 B', '4.2 MB', '1.0 MB')
    """
    if round(count) < 1000:
        return f"{count:.0f} B"
    exponent = 1
    while round(count / 1000**exponent, 1) >= 1000 and exponent < 4:
        exponent += 1
    return f"{count / 1000**exponent:.1f} {' kMGT'[exponent]}B"


def _duration(seconds: float) -> str:
    """Write 3725 seconds as 1:02:05.

    Examples
    --------
    >>> _duration(59.7), _duration(3725)
    ('1:00', '1:02:05')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
