"""Progress in a terminal: a pseudo-terminal reads what is drawn, a fake clock says when."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator

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


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def shown(text: str) -> list[str]:
    """Return the lines as they were redrawn."""
    return [line for line in re.sub("[\r\n]", "", text).split("\x1b[K") if line]


def test_a_terminals_line_is_redrawn_at_most_ten_times_a_second(
    terminal: Terminal, clock: Clock
) -> None:
    with Live(100, stream=terminal.stream, clock=clock) as live:
        for _ in range(100):
            clock.now_s += 1 / 128
            live.update()
    lines = shown(terminal.read())
    assert len(lines) == 9  # after 13 steps each, from the first to the 92nd; and the last line
    assert lines[0].startswith("step 1/100 | ")
    assert lines[-1] == "step 100/100 | took 00:00"


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
    assert parts[:4] == ["step 1/10", "loss 0.125", "step size 0.001", "phase warm up"]
    moved, of, *rest = parts[4:]
    found = re.fullmatch(r"moved 2\.00MB, on average ([\d.]+)([MG])B/s, simulated", moved)
    assert found
    assert float(found[1]) * {"M": 1.0, "G": 1e3}[found[2]] == pytest.approx(rate, rel=0.05)
    assert of == "device 2.00MB of 4.19MB"
    assert rest == ["2 steps/s", "00:04 left"]


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
    assert ("loss 0.1235" in lines[0]) == (columns >= 40)
    assert ("16:39 left" in lines[0]) == (columns >= 31)


def test_text_cannot_break_the_line(terminal: Terminal, clock: Clock) -> None:
    with Live(stream=terminal.stream, clock=clock) as live:
        live.update(phase="one\n two\x1b[2J\ttürkis")
    assert "phase one two[2J türkis" in shown(terminal.read())[0]


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
    assert lines[1] == "step 81/300 | loss 0.5 | 8 steps/s | 00:27 left"


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
    with pytest.raises(TypeError, match=r"progress: device must be a Backend, got 'sim' \(str\)"):
        progress([], device="sim")  # type: ignore[arg-type]


def test_a_loop_that_fails_leaves_its_last_line_whole(terminal: Terminal, clock: Clock) -> None:
    def train() -> None:
        with Live(3, stream=terminal.stream, clock=clock) as live:
            live.update()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert terminal.read().endswith("step 1/3 | took 00:00\r\n")


def test_nothing_done_is_nothing_said() -> None:
    stream = io.StringIO()
    with Live(3, stream=stream):
        pass
    assert stream.getvalue() == ""


@pytest.mark.parametrize("columns", [12, 50, 120])
def test_progress_yields_the_items_and_fits_the_terminal(columns: int) -> None:
    script = (
        "import sys, adamoffload as ao\n"
        "bar = ao.progress('abc', mininterval=0)\n"
        "for item in bar: bar.set_postfix(loss=0.5); print(item)\n"
    )
    terminal = Terminal(columns)
    done = subprocess.run(
        [sys.executable, "-c", script],
        stderr=terminal.stream,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = re.split("[\r\n]+", terminal.read())
    terminal.close()
    assert done.stdout.split() == ["a", "b", "c"]
    assert all(len(line) <= columns for line in lines)
    assert any("loss=0.5" in line for line in lines) == (columns >= 50)


def test_progress_shows_what_a_device_counts() -> None:
    device, stream = ao.get_backend("sim", memory_bytes=4 << 20), io.StringIO()
    bar = progress(range(2), device=device, file=stream)
    kept = [device.asarray(np.zeros(250_000, np.float32)) for _ in bar]
    assert len(kept) == 2
    assert stream.getvalue().splitlines()[-1].split("\r")[-1].startswith("100%")
    assert ", moved 2.00MB, device 2.00MB of 4.19MB]" in stream.getvalue()
