"""Figures of what the optimizer does: moments and step sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adamoffload.plots.style import LINES, axes_or_new
from adamoffload.probes import Probe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["moments", "step_sizes"]


def moments(probe: Probe, names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw the RMS of m (solid) and sqrt(v) (dashed) of some parameters over the steps."""
    ax = axes_or_new(ax)
    for name, color in zip(names or probe.names, LINES, strict=False):
        ax.plot(probe.steps, probe.rms("m", name), color=color, label=name)
        ax.plot(probe.steps, probe.rms("sqrt_v", name), color=color, linestyle="--")
    ax.plot([], [], color="#555555", label="m")
    ax.plot([], [], color="#555555", linestyle="--", label=r"$\sqrt{v}$")
    ax.set(title="Moments, on the host", xlabel="step", ylabel="RMS (loss / unit of weight)")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend above the curves
    ax.legend(loc="upper right", ncols=2)
    return ax


def step_sizes(probe: Probe, names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw the RMS of the updates of some parameters over the steps."""
    ax = axes_or_new(ax)
    for name, color in zip(names or probe.names, LINES, strict=False):
        ax.plot(probe.steps, probe.rms("step_size", name), color=color, label=name)
    ax.set(title="Step sizes", xlabel="step", ylabel="RMS of the update (unit of weight)")
    ax.set_yscale("log")
    ax.legend()
    return ax
