"""Slides for lab 4: chunking and overlap."""

from __future__ import annotations

from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import adamoffload as ao
from adamoffload.plots.style import COLORS, LINES
from adamoffload_sim.presets import LINKS

from slides import Slide
from slides.drawing import axes, lanes, machine, seconds, step, worked

QUESTION = "Four workers share one step. Who keeps whom waiting?"
DISCUSS = (
    "With three slots and four workers, when does a fourth slot help?",
    "The host is the busiest worker. What does a link that is twice as fast gain, per chunk?",
    "Which rule would you change to model that the host has to ask for every copy?",
)
SHOWN = 4_000_000
HOPS = (2.0, 2.0, 1.0)  # seconds a parameter on the link, on the host, on the device
PARAMETERS, CHUNK = 6_000_000, 500_000


@cache
def alone() -> ao.Ledger:
    return step(machine(HOPS), 4, 4)


@cache
def cut() -> ao.Ledger:
    return step(machine(HOPS), 4, 1)


def one_chunk() -> Any:
    return lanes(worked(alone()))


def two_ways() -> Any:
    stop = seconds(alone())
    figure, (first, second) = plt.subplots(
        2, 1, figsize=(8, 3.6), layout="constrained", sharex=True
    )
    for ax, ledger, title in (
        (first, alone(), "one chunk of 4"),
        (second, cut(), "four chunks of 1"),
    ):
        lanes(worked(ledger), stop=stop, unit="", ax=ax)
        ax.set_title(f"{title}: {seconds(ledger):.0f} s", fontsize=14)
        ax.set_xlim(0, stop)
    second.set_xlabel("seconds, simulated")
    return figure


def link() -> Any:
    pcie, ax = LINKS["pcie4x16"], axes()
    sizes = np.logspace(3, 8, 200)
    rates = [b / pcie.seconds(int(b), pinned=True) / 1e9 for b in sizes]
    ax.plot(sizes, rates, color=COLORS["d2h"], linewidth=3)
    ax.axhline(pcie.bandwidth_bytes_per_s / 1e9, color=COLORS["limit"], linestyle="--")
    ax.text(
        1.3e3,
        pcie.bandwidth_bytes_per_s / 1e9 - 0.8,
        "the link's bandwidth",
        va="top",
        fontsize=13,
        color=COLORS["limit"],
    )
    ax.set(
        xscale="log",
        xlim=(1e3, 1e8),
        ylim=(0, 34),
        xlabel="bytes in one copy",
        ylabel="GB/s, simulated\nPCIe 4.0 x16",
    )
    return ax


def few_slots() -> Any:
    """Five chunks through one slot and through three, by the three rules of the lab."""
    hops = (1, 2, 1, 1)
    figure, both = plt.subplots(2, 1, figsize=(8, 3.7), layout="constrained", sharex=True)
    ends = [ringed(hops, 4, slots) for slots in (1, 3)]
    stop = max(end for spans in ends for lane in spans.values() for _, end, _ in lane)
    for ax, spans, title in zip(both, ends, ("one slot", "three slots"), strict=True):
        lanes(spans, stop=stop, unit="", ax=ax)
        last = max(end for lane in spans.values() for _, end, _ in lane)
        ax.set_title(f"{title}: {last:g} s", fontsize=14)
        ax.set_xlim(0, stop)
    both[1].set_xlabel("seconds")
    return figure


def ringed(
    hops: tuple[int, ...], chunks: int, slots: int
) -> dict[str, list[tuple[float, float, str]]]:
    """Return the lanes of a step that is asked for at once, for slots that are few."""
    spans: dict[str, list[tuple[float, float, str]]] = {
        lane: [] for lane in ("d2h", "host", "h2d", "device")
    }
    free, slot = dict.fromkeys(spans, 0.0), [0.0] * slots
    for chunk in range(chunks):
        at = slot[chunk % slots]
        for (lane, pieces), took in zip(spans.items(), hops, strict=True):
            begin = max(at, free[lane])
            at = free[lane] = begin + took
            pieces.append((begin, at, str(chunk)))
        slot[chunk % slots] = at
    return spans


@cache
def faster() -> dict[str, ao.Ledger]:
    """A step whose host is the slowest, over a link and over one twice as fast."""
    ledgers = {}
    for name in ("pcie3x16", "pcie4x16"):
        device = ao.get_backend("sim", link=name, host_ns_per_parameter=1.2)
        ledgers[name] = step(device, PARAMETERS, CHUNK)
    return ledgers


def raced() -> Any:
    figure, both = plt.subplots(2, 1, figsize=(8, 3.6), layout="constrained", sharex=True)
    for ax, (name, ledger) in zip(both, faster().items(), strict=True):
        spans = {
            lane: [(1e3 * a, 1e3 * b, label) for a, b, label in pieces]
            for lane, pieces in worked(ledger).items()
            if lane != "device"
        }
        lanes(spans, unit="", ax=ax)
        for text in ax.texts:
            text.set_visible(text.get_position()[1] == 1)
        ax.set_title(f"PCIe {name[4]}.0 x16: {1e3 * seconds(ledger):.2f} ms", fontsize=14)
    both[1].set_xlabel("milliseconds, simulated")
    return figure


@cache
def sizes() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    chunks = np.unique(np.logspace(4, np.log10(SHOWN), 14).astype(int))
    taken = [
        seconds(
            step(ao.get_backend("sim", link="pcie4x16", host_ns_per_parameter=0.3), SHOWN, int(c))
        )
        for c in chunks
    ]
    return 4 * chunks, np.array(taken) * 1e3


def best() -> Any:
    chunks, taken = sizes()
    ax = axes()
    ax.plot(chunks, taken, "-o", color=LINES[0], linewidth=3)
    ax.set(xscale="log", xlabel="bytes in a chunk", ylabel="ms a step,\nsimulated", ylim=(0, None))
    ax.text(chunks[0] * 1.05, taken.max() * 0.12, "latency, again and again", fontsize=13)
    ax.text(chunks[-1], taken.max() * 0.12, "nothing to overlap", fontsize=13, ha="right")
    return ax


def slides() -> list[Slide]:
    slow, fast = (seconds(ledger) for ledger in faster().values())
    gain = 100 * (1 - fast / slow)
    if not 1 < gain < 15:
        raise ValueError(f"the question's right answer would not be a few per cent, but {gain:.1f}")
    return [
        Slide(
            "One chunk, four hops",
            "The gradient comes down, Adam runs on the host, the update goes up, the device adds it. "
            "Three workers of four stand idle.",
            one_chunk,
            "Four lanes, down, host, up and device, each with one piece of work, one after the other.",
            notes="On the board: four workers, one chunk, then two.",
        ),
        Slide(
            "Cut it, and they work at once",
            "The same work, the same bytes: while chunk 1 is on the host, chunk 2 comes down and "
            "chunk 0 goes up.",
            two_ways,
            f"Two timelines. One chunk of four parameters takes {seconds(alone()):.0f} s; four chunks "
            f"of one take {seconds(cut()):.0f} s.",
            notes="Run the statement's example and read its picture together.",
        ),
        Slide(
            "A copy costs a latency, and its bytes",
            "<var>t</var>₀: what every copy takes, however small. <var>B</var>: bytes a second.",
            equation=(r"t(b)\ =\ t_0 + \dfrac{b}{B}",),
            alt="t of b is t zero plus b over B.",
            notes="“Latency for each byte”? Ask how often one waits for a bus with a hundred people "
            "in it.",
        ),
        Slide(
            "Small copies waste the link",
            f"Here <var>t</var>₀ = {LINKS['pcie4x16'].latency_s * 1e6:.0f} µs. For which size is "
            "half of the bandwidth reached? Task 2 asks you, without a calculator.",
            link,
            "Bandwidth of one copy against its bytes, on a logarithmic axis: near 0 for a kilobyte, "
            "rising in an S to the link's own bandwidth.",
        ),
        Slide(
            "The best chunk is in the middle",
            "A step of 4,000,000 parameters on one machine. Another machine has another best chunk.",
            best,
            "Milliseconds a step against the bytes in a chunk: long for small chunks, shortest in "
            "between, long again for one chunk.",
        ),
        Slide(
            "Memory is a worker, too",
            "A chunk keeps its slot from its first hop to the end of its last. The next chunk in that "
            "slot has to wait.",
            few_slots,
            "Two timelines of four chunks whose hops take 1, 2, 1 and 1 seconds: with one slot the "
            "chunks follow each other, with three the host never rests.",
            notes="A slot is not free when the update has gone up: it lies there until it has been "
            "added to the weights. The task has other durations.",
        ),
        Slide(
            "The link becomes twice as fast",
            f"<p>A step of {PARAMETERS:,} parameters in {PARAMETERS // CHUNK} chunks. The host is the "
            "busiest worker. How much shorter does the step get?</p>",
            choices=("half", "a quarter", "a few per cent", "nothing at all"),
        ),
        Slide(
            f"C: {gain:.0f} per cent",
            "Only the first way down and the last way up get shorter. All between is the host.",
            raced,
            f"Two timelines with a host that never rests: {1e3 * slow:.2f} ms over PCIe 3.0 and "
            f"{1e3 * fast:.2f} ms over PCIe 4.0.",
            kind="answer",
            notes="Both simulated: nominal links, a host of 1.2 ns a parameter. Then ask: what if the "
            "host becomes twice as fast?",
        ),
    ]
