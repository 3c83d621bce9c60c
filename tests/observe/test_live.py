"""Progress in a terminal: a pseudo-terminal reads what is drawn, a fake clock says when."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.observe.live import Live, progress

pty = pytest.importorskip("pty", reason="pseudo-terminals are a thing of POSIX")


MARK = "\x1b]mark"


class Clock:
    """Goes only when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal:
    """A terminal of so many columns, and what was written to it."""

    def __init__(self, columns: int = 80) -> None:
        import fcntl
        import struct
        import termios

        self.reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = open(writer, "w", encoding="utf-8")  # noqa: SIM115  (closed below)

    def read(self) -> str:
        """Return what was written since; a mark tells when all of it has come through."""
        self.stream.write(MARK)
        self.stream.flush()
        text = b""
        while not text.endswith(MARK.encode()):
            text += os.read(self.reader, 1 << 16)
        return text.decode().removesuffix(MARK)

    def close(self) -> None:
        self.stream.close()
        os.close(self.reader)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def shown(text: str) -> list[str]:
    """Return the lines as they were redrawn, without colours."""
    for code in ("\x1b[1m", "\x1b[2m", "\x1b[0m", "\x1b[?25l", "\x1b[?25h", "\n"):
        text = text.replace(code, "")
    return [line for line in text.replace("\r", "").split("\x1b[K") if line]


def test_a_terminals_line_is_redrawn_at_most_ten_times_a_second(
    terminal: Terminal, clock: Clock
) -> None:
    with Live(100, stream=terminal.stream, clock=clock) as live:
        for _ in range(100):
            clock.now_s += 1 / 128
            live.update()
    lines = shown(terminal.read())
    assert len(lines) == 9  # after 13 steps each, from the first to the 92nd; and the last line
    assert lines[0].startswith("step 1/100 [..........]")
    assert "step 100/100 [##########] | took 0:01" in lines[-1]


def test_a_slow_drawing_is_drawn_more_seldom(terminal: Terminal, clock: Clock) -> None:
    class Slow(float):
        def __float__(self) -> float:
            clock.now_s += 0.1
            return 1.0

    with Live(stream=terminal.stream, clock=clock) as live:
        for _ in range(100):
            clock.now_s += 0.1
            live.update(loss=Slow())
    assert len(shown(terminal.read())) <= 7  # in 10 s, each takes 0.1 s; and the last


def test_everything_is_on_the_line(clock: Clock) -> None:
    terminal = Terminal(200)
    device = ao.get_backend("sim", memory_bytes=4 << 20)
    with Live(10, device=device, stream=terminal.stream, clock=clock) as live:
        before_s = device.now()
        kept = device.asarray(np.zeros(500_000, np.float32))
        clock.now_s += 0.5
        live.update(loss=0.125, step_size=1e-3, phase="warm up")
        rate = 2.0 / (device.now() - before_s)
        line = shown(terminal.read())[-1]
    terminal.close()
    assert kept.shape == (500_000,)
    parts = line.split(" | ")
    assert parts[:4] == ["step 1/10 [#.........]", "loss 0.125", "step size 0.001", "phase warm up"]
    moved, of, *rest = parts[4:]
    assert moved.startswith("moved 2.0 MB, on average ")
    assert moved.endswith(", simulated")
    value, unit = moved.split(" on average ")[1].removesuffix("/s, simulated").split()
    in_mb = {"MB": 1.0, "GB": 1e3}[unit] * float(value)
    assert in_mb == pytest.approx(rate, rel=0.05)
    assert of == "device 2.0 MB of 4.2 MB"
    assert rest == ["2 steps/s", "0:04 left"]


def test_the_step_size_is_that_of_the_probes_last_sample(terminal: Terminal, clock: Clock) -> None:
    device, probe = ao.get_backend("numpy"), ao.Probe(every=2)
    shapes = {"a": (3,), "b": (5, 2)}
    params = [ao.Parameter(device.asarray(np.ones(s, np.float32)), n) for n, s in shapes.items()]
    optimizer = ao.AdamOffload(params, learning_rate=0.25, probe=probe)
    rng = np.random.default_rng(0)
    updates = []
    with Live(probe=probe, stream=terminal.stream, clock=clock) as live:
        live.update()
        assert "step size" not in terminal.read()  # nothing is sampled yet
        for _ in range(4):
            before = np.concatenate([device.asnumpy(p.data).ravel() for p in params])
            optimizer([device.asarray(rng.standard_normal(p.shape, np.float32)) for p in params])
            after = np.concatenate([device.asnumpy(p.data).ravel() for p in params])
            updates.append(np.sqrt(np.mean((after - before) ** 2)))
        clock.now_s += 1
        live.update()
        (line,) = shown(terminal.read())
    size = float(line.split("step size ")[1].split(" | ")[0])
    assert size == pytest.approx(updates[2], rel=1e-3)  # step 3 is the last one sampled


def test_a_device_value_is_read_when_drawn(terminal: Terminal, clock: Clock) -> None:
    device = ao.get_backend("numpy")
    with Live(stream=terminal.stream, clock=clock) as live:
        live.update(loss=np.mean(device.asarray(np.array([1.0, 2.0], np.float32))))
    assert "loss 1.5" in shown(terminal.read())[0]


@pytest.mark.parametrize("columns", [10, 20, 31, 40, 60, 100])
def test_a_line_never_wraps(columns: int, clock: Clock) -> None:
    terminal = Terminal(columns)
    with Live(1000, stream=terminal.stream, clock=clock) as live:
        clock.now_s += 1
        live.update(loss=0.123456789, step_size=1e-3, accuracy=0.5)
        lines = shown(terminal.read())
    terminal.close()
    assert all(len(line) < columns for line in lines)
    assert lines[0].startswith("step 1/10")
    assert ("loss" in lines[0]) == (columns >= 40)
    assert ("left" in lines[0]) == (columns >= 31)


def test_text_cannot_break_the_line(terminal: Terminal, clock: Clock) -> None:
    with Live(stream=terminal.stream, clock=clock) as live:
        live.update(phase="one\n two\x1b[2J\ttürkis")
    assert "phase one two[2J türkis" in shown(terminal.read())[0]


def test_no_color_is_obeyed(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with Live(3, stream=terminal.stream, clock=clock) as live:
        live.update()
    text = terminal.read()
    assert "\x1b[1m" not in text
    assert "\x1b[2m" not in text
    assert "\r\x1b[K" in text


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_cursor_comes_back_whatever_happens(
    error: type[BaseException], terminal: Terminal, clock: Clock
) -> None:
    def train() -> None:
        with Live(3, stream=terminal.stream, clock=clock) as live:
            live.update()
            raise error

    with pytest.raises(error):
        train()
    text = terminal.read()
    assert text.startswith("\x1b[?25l")
    assert text.endswith("took 0:00\r\n\x1b[?25h")


def test_the_cursor_comes_back_if_the_loop_is_left(terminal: Terminal, clock: Clock) -> None:
    steps: Any = progress(range(10), stream=terminal.stream, clock=clock)
    for step in steps:
        if step == 3:
            break
    steps.close()
    assert terminal.read().endswith("\x1b[?25h")


def test_a_line_printed_stands_above(
    terminal: Terminal, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Live(3, stream=terminal.stream, clock=clock) as live:
        live.update()
        terminal.read()
        live.print("epoch 1 done")
        assert terminal.read().startswith("\r\x1b[K")
    assert capsys.readouterr().out == "epoch 1 done\n"


def test_a_file_gets_a_plain_line_now_and_then(clock: Clock) -> None:
    stream = io.StringIO()
    with Live(300, stream=stream, clock=clock) as live:
        for _ in range(300):
            clock.now_s += 0.125
            live.update(loss=0.5)
    lines = stream.getvalue().splitlines()
    assert [line.split(" | ")[0] for line in lines] == [
        "step 1/300",
        "step 81/300",
        "step 161/300",
        "step 241/300",
        "step 300/300",
    ]
    assert "\x1b" not in stream.getvalue()
    assert lines[1] == "step 81/300 | loss 0.5 | 8 steps/s | 0:27 left"


def test_a_dumb_terminal_is_like_a_file(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with Live(3, stream=terminal.stream, clock=clock) as live:
        live.update()
    assert "\x1b" not in terminal.read()


def test_an_ascii_stream_gets_question_marks(clock: Clock) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Live(stream=stream, clock=clock) as live:
        live.update(größe=1)
    stream.seek(0)
    assert "gr??e 1" in stream.read()


def test_nothing_done_is_nothing_said() -> None:
    stream = io.StringIO()
    assert list(progress([], stream=stream)) == []
    assert stream.getvalue() == ""


def test_progress_yields_the_items_and_counts_them(clock: Clock) -> None:
    stream = io.StringIO()
    assert list(progress("abc", stream=stream, clock=clock)) == ["a", "b", "c"]
    assert stream.getvalue().splitlines()[-1] == "step 3/3 | took 0:00"
    stream = io.StringIO()
    assert list(progress((c for c in "ab"), stream=stream, clock=clock)) == ["a", "b"]
    assert stream.getvalue().splitlines()[-1] == "step 2 | took 0:00"


def test_the_rest_of_the_time_is_estimated(clock: Clock) -> None:
    stream = io.StringIO()
    with Live(7200, stream=stream, clock=clock) as live:
        clock.now_s += 3600
        live.update(1800)
    assert stream.getvalue().splitlines()[0] == "step 1800/7200 | 0.5 steps/s | 3:00:00 left"


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"total must be an integer, got 1\.5"):
        Live(1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="total must be at least 0"):
        Live(-1)
    with pytest.raises(TypeError, match=r"device must be a Backend, got 'numpy' \(str\)"):
        Live(device="numpy")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="probe must be a Probe, got 3"):
        Live(probe=3)  # type: ignore[arg-type]


def test_ctrl_c_in_a_real_process_leaves_the_terminal_as_it_was() -> None:
    script = (
        "import os, signal, adamoffload as ao\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job lacks it
        "for i in ao.progress(range(9)):\n"
        "    if i == 3: os.kill(os.getpid(), signal.SIGINT)\n"
    )
    terminal = Terminal()
    done = subprocess.run([sys.executable, "-c", script], stderr=terminal.stream, check=False)
    text = terminal.read()
    terminal.close()
    assert done.returncode != 0
    assert "KeyboardInterrupt" in text
    assert "\x1b[?25h" in text[text.rindex("took") :]
