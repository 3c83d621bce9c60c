"""Figures of estimates: beside what was published, and over the fraction that is offloaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from adamoffload.arguments import choice, instance
from adamoffload.estimates.estimate import Estimate
from adamoffload.estimates.memory import limits
from adamoffload.estimates.search import Fractions
from adamoffload.estimates.validation import ROUNDS, Compared, score
from adamoffload.plan.hops import LANES
from adamoffload.plots.frame import frame
from adamoffload.plots.style import COLORS, LINES, MARKERS, styled

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["fractions", "training_step", "validation"]

_ALWAYS = ("device", "d2h", "host", "h2d")
_THIN = 100
"""Bars shorter than this part of a step have an edge of their own colour."""
_WORK = {
    "micro-steps": ("#B8B8B8", "earlier micro-steps"),
    "forward": ("#D0D0D0", "forward"),
    "backward": ("#8C8C8C", "backward"),
    "prepare": (COLORS["device"], ""),
    "d2h": (COLORS["d2h"], "copy down"),
    "update": (COLORS["host"], "update on the host"),
    "h2d": (COLORS["h2d"], "copy up"),
    "read": (COLORS["read"], "read"),
    "write": (COLORS["write"], "write"),
    "apply": (COLORS["device"], "apply, or update on the device"),
}
"""The colour of each kind of work, and its name in the legend."""

_WORDS = {
    "sheet": "From data sheets alone",
    "fitted": "Two constants fitted for each machine",
    "left out": "With constants of other machines only",
}


def training_step(found: Estimate, *, ax: Axes | None = None) -> Axes:
    """Draw a whole training step: forward, backward, copies, host, and what is applied.

    Parameters
    ----------
    found : Estimate
        From `adamoffload.estimate`; more than a few hundred chunks look like one.
    ax : Axes, optional
        What to draw on; new axes, if left out.

    Returns
    -------
    Axes
        With a lane for each that can work at the same time, over seconds; bars are those of
        ``found.simulated.bars``.

    Examples
    --------
    >>> import adamoffload as ao
    >>> found = ao.estimate("llama-2-7b", strategy="zero-offload", chunk_bytes=1 << 30)
    >>> ao.plots.training_step(found).get_title("left")
    'zero-offload: 12.7 s a step, 5.65 s beside forward and backward'
    """
    instance("training_step", "found", found, Estimate)
    bars = [bar for bar in found.simulated.bars if bar.what != "wait" and bar.stop_s > bar.start_s]
    lanes = [lane for lane in LANES if lane in _ALWAYS or any(bar.lane == lane for bar in bars)]
    with styled(ax, (10.0, 4.0)) as ax:
        entries: list[tuple[Artist, str]] = []
        for what, (color, label) in _WORK.items():
            own = [bar for bar in bars if bar.what == what]
            for lane in dict.fromkeys(bar.lane for bar in own):
                spans = [(b.start_s, b.stop_s - b.start_s) for b in own if b.lane == lane]
                thin = np.median([seconds for _, seconds in spans]) < found.step_s / _THIN
                ax.broken_barh(
                    spans,
                    (lanes.index(lane) - 0.36, 0.72),
                    facecolor=color,
                    edgecolor=color if thin else "white",
                    linewidth=0.75 if thin else 0.8,  # or it may fall between two pixels
                )
            if own and label:
                entries.append((Patch(color=color), label))
        ax.set_yticks(range(len(lanes)), lanes)
        ax.set_ylim(len(lanes) - 0.5, -0.5)
        ax.set_xlim(0, found.step_s)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("estimated time (s)")
        beside = found.step_s - found.compute_s
        notes = [f"{found.question.model.name} on {found.question.machine.name}"]
        title = (
            f"{found.question.strategy.label}: {found.step_s:.3g} s a step, {beside:.3g} s beside "
            "forward and backward"
        )
        frame(ax, title, notes=notes, entries=entries)
    return ax


def validation(
    compared: Sequence[Compared], which: str = "fitted", *, ax: Axes | None = None
) -> Axes:
    """Draw estimates over published measurements.

    Parameters
    ----------
    compared : sequence of Compared
        From `adamoffload.estimates.validation.validate`.
    which : str
        ``"sheet"``, ``"fitted"`` or ``"left out"``.
    ax : Axes, optional
        What to draw on; new axes, if left out.

    Returns
    -------
    Axes
        Published seconds on x, estimated ones on y; rows that a constant is fitted on are left out.

    Raises
    ------
    ValueError
        If there is no such round.

    Examples
    --------
    >>> from adamoffload.estimates.validation import validate
    >>> import adamoffload as ao
    >>> ax = ao.plots.validation(validate(), "left out")
    >>> ax.get_xlabel()
    'published (s)'
    """
    name = choice("validation", "which", which, ROUNDS)
    shown = [each for each in compared if each.factor(name) is not None]  # type: ignore[arg-type]
    groups = {
        "steps that offload changes": [each for each in shown if each.sensitive],
        "steps it hardly changes": [each for each in shown if each.row.step and not each.sensitive],
        "parts of steps": [each for each in shown if not each.row.step],
    }
    with styled(ax, (6.6, 6.2)) as ax:
        entries: list[tuple[Artist, str]] = []
        ends = np.array([0.05, 3000.0])
        ax.fill_between(ends, ends / 1.5, ends * 1.5, color=COLORS["wait"], linewidth=0)
        ax.plot(ends, ends, color=COLORS["expected"], linewidth=1)
        for i, (label, members) in enumerate(groups.items()):
            (points,) = ax.plot(
                [each.row.seconds for each in members],
                np.array([each.estimates[name] for each in members], float),  # type: ignore[index]
                MARKERS[i],
                color=LINES[i],
                markersize=5,
                alpha=0.8,
                label=label,
            )
            factor, _, count = score(members, name)  # type: ignore[arg-type]
            entries.append((points, f"{count} {label}: {factor:.2f}"))
        ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        ax.set(xlabel="published (s)", ylabel="estimated (s)", aspect="equal")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        notes = ["geometric mean of the error factor; grey: within 1.5"]
        frame(ax, _WORDS[name], notes=notes, entries=entries)
    return ax


def fractions(found: Fractions, *, ax: Axes | None = None) -> Axes:
    """Draw the time of a step and the device's memory over the fraction that is offloaded.

    Parameters
    ----------
    found : Fractions
        From `adamoffload.estimates.search.best_fraction`.
    ax : Axes, optional
        What to draw on; new axes, if left out.

    Returns
    -------
    Axes
        Seconds on the left; gigabytes on axes of their own on the right.

    Examples
    --------
    >>> import adamoffload as ao
    >>> from adamoffload.estimates.search import best_fraction
    >>> found = ao.estimate("gpt2-xl", strategy="zero-offload", machine="rtx4090")
    >>> ax = ao.plots.fractions(best_fraction(found.question))
    >>> ax.get_title("left")
    'gpt2-xl on rtx4090: offload 33 %, a step takes 2.09 s'
    """
    instance("fractions", "found", found, Fractions)
    at = [each.question.strategy.fraction for each in found.tried]
    best, question = found.fastest, found.fastest.question
    with styled(ax, (8.0, 4.4)) as ax:
        (steps,) = ax.plot(at, [each.step_s for each in found.tried], color=COLORS["host"])
        (point,) = ax.plot(question.strategy.fraction, best.step_s, "o", color=COLORS["host"])
        ax.set(xlabel="fraction that is offloaded", ylabel="seconds of a step", xlim=(0, 1))
        ax.set_ylim(bottom=0)
        right: Any = ax.twinx()
        memory = [each.memory["device"] / 1e9 for each in found.tried]
        (held,) = right.plot(at, memory, "--", color=COLORS["device"])
        limit = right.axhline(
            limits(question)["device"] / 1e9, color=COLORS["limit"], linestyle=":"
        )
        right.set_ylabel("device memory (GB)")
        right.set_ylim(bottom=0)
        right.grid(visible=False)
        right.spines["top"].set_visible(False)
        title = (
            f"{question.model.name} on {question.machine.name}: offload "
            f"{question.strategy.fraction:.0%}, a step takes {best.step_s:.3g} s"
        ).replace("%", " %")
        entries = [(steps, "step"), (point, "the fastest that fits"), (held, "device memory")]
        notes = [f"{question.strategy.label}, {question.tokens_per_step:,} tokens a step"]
        frame(ax, title, notes=notes, entries=[*entries, (limit, "what the device has")])
    return ax
