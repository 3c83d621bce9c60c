"""The figure of learning rates before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import StrMethodFormatter

from adamoffload.arguments import positive_integer
from adamoffload.offload.optimizer import Optimizer
from adamoffload.plots.frame import frame, shown_name, step_axis
from adamoffload.plots.style import COLORS, LINES, MARKERS, styled
from adamoffload.rules.rates import FixedRate, Rate, TableRate, read_rate

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["schedule"]

_DASHES = ("-", "--", "-.", ":")


def schedule(rates: Any, steps: int | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw learning rates over the steps.

    Parameters
    ----------
    rates : learning rate, optimizer, or dict
        A number, a table with one number a step, a `LearningRateSchedule`, or an optimizer, for
        its rate or the rates of its groups; or a dict from label to any of these.
    steps : int, optional
        How many steps; if left out, those of the longest table.
    ax : Axes, optional
        What to draw on; new axes, if left out.

    Returns
    -------
    Axes
        The rate that each step uses, as the optimizer does, in float32; steps are counted from 1,
        so a schedule's value at 0 stands at step 1. The line of a table ends where the table does.

    Raises
    ------
    TypeError, ValueError
        If a rate is none, or there is none, or more than seven; or `steps` is left out and nothing
        is a table.

    Examples
    --------
    >>> import adamoffload as ao
    >>> ax = ao.plots.schedule(
    ...     {"cosine": ao.CosineDecayLR(0.0, 1.0, 4), "warm-up": ao.WarmUpLR(1.0, 2)}, steps=5
    ... )
    >>> [line.get_ydata().round(3).tolist() for line in ax.lines]
    [[1.0, 0.854, 0.5, 0.146, 0.0], [0.0, 0.5, 1.0, 1.0, 1.0]]
    """
    named = dict(rates) if isinstance(rates, Mapping) else {"": rates}
    read = {
        f"{label} {group}".strip(): rate
        for label, value in named.items()
        for group, rate in _rates_of(value).items()
    }
    if not 0 < len(read) <= len(LINES):
        raise ValueError(
            f"schedule: between 1 and {len(LINES)} rates can be told apart, got {len(read)}"
        )
    tables = [len(rate.source) for rate in read.values() if isinstance(rate, TableRate)]
    if steps is None and not tables:
        raise ValueError("schedule: pass steps, how many to draw: only a table has an end")
    last = max(tables) if steps is None else positive_integer("schedule", "steps", steps)
    with styled(ax) as ax:
        entries: list[tuple[Artist, str]] = []
        for i, (label, rate) in enumerate(read.items()):
            end = min(last, len(rate.source)) if isinstance(rate, TableRate) else last
            at = np.arange(1, end + 1)
            (line,) = ax.plot(
                at,
                [float(rate.at(step)) for step in range(end)],
                _DASHES[i % len(_DASHES)],
                drawstyle="steps-mid",  # a rate holds for its step: a stair is no slope
                color=COLORS["lr"] if len(read) == 1 else LINES[i],
                marker=MARKERS[i],
                markevery=(i * max(1, end // 6) // len(LINES), max(1, end // 6)),
                label=label,
            )
            entries.append((line, shown_name(label)))
        ax.set_ylim(bottom=0)
        ax.set_ylabel("learning rate")
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        step_axis(ax, np.array([1, last]))
        frame(ax, "Learning rate", entries=entries if len(entries) > 1 else ())
    return ax


def _rates_of(value: Any) -> dict[str, Rate]:
    """Return a rate, or those of an optimizer; groups with equal numbers share one."""
    if not isinstance(value, Optimizer):
        return {"": read_rate("schedule", value)}
    groups: dict[object, list[int]] = {}
    rates = value.current_rates()
    for i, rate in enumerate(rates):
        same = float(rate.source) if isinstance(rate, FixedRate) else id(rate)
        groups.setdefault(same, []).append(i)
    if len(groups) == 1:
        return {"": rates[0]}
    return {
        f"group{'s'[: len(members) > 1]} {', '.join(map(str, members))}": rates[members[0]]
        for members in groups.values()
    }
