"""Figures of the link: what crossed it, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adamoffload.ledger import Ledger
from adamoffload.plots.style import BYTES, COLORS, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["transfers"]


def transfers(ledger: Ledger, expected_per_step: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the bytes that have crossed the link, by direction, over the steps.

    Parameters
    ----------
    ledger : Ledger
        The record.
    expected_per_step : int, optional
        Bytes that each direction should move in a step: drawn for comparison.
    """
    ax = axes_or_new(ax)
    events = [(e.step, e.hop, e.nbytes) for e in ledger.events if e.step is not None and e.nbytes]
    last = max((step for step, _, _ in events), default=0)
    steps = np.arange(1, last + 1)
    widths = {"d2h": 5.0, "h2d": 2.0}  # they move the same: the wider lies below
    for hop, width in widths.items():
        moved = np.zeros(last + 1)
        np.add.at(
            moved,
            [step for step, moved_by, _ in events if moved_by == hop],
            [nbytes for _, moved_by, nbytes in events if moved_by == hop],
        )
        label = {"d2h": "d2h: gradients", "h2d": "h2d: updates"}[hop]
        ax.plot(steps, np.cumsum(moved[1:]), color=COLORS[hop], linewidth=width, label=label)
    if expected_per_step is not None:
        ax.plot(
            steps,
            expected_per_step * steps,
            color="black",
            linestyle=":",
            linewidth=1.2,
            label="4 B x parameters x steps",
        )
    ax.set(title="Bytes moved", xlabel="step", ylabel="over the link, in all")
    ax.yaxis.set_major_formatter(BYTES)
    ax.legend()
    return ax
