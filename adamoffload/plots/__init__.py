"""Figures of what was recorded: moments, step sizes, bytes moved, time, memory.

Each function draws on ``ax``, or on new axes, and returns them; `dashboard` draws all of it on one
page. Everything drawn was measured, or is said to be simulated: the numbers are those of the
`Ledger` and the `Probe`, and each function says which of their methods returns them. The style is
our own (`STYLE`), whatever the user's settings are, and a concept has one colour everywhere
(`COLORS`). Only this package imports matplotlib, and nothing of the framework imports it except the
commands that draw.
"""

from adamoffload.plots.animation import PageWriter, animate_trajectory, save_animation
from adamoffload.plots.critical import critical_path
from adamoffload.plots.dashboard import dashboard
from adamoffload.plots.device import memory, memory_over_time
from adamoffload.plots.estimates import fractions, training_step, validation
from adamoffload.plots.lanes import timeline
from adamoffload.plots.link import transfers
from adamoffload.plots.live import LiveFigure
from adamoffload.plots.optimizer import moments, step_sizes
from adamoffload.plots.rates import schedule
from adamoffload.plots.scene import descent, playground
from adamoffload.plots.strategy import strategy
from adamoffload.plots.style import COLORS, LINES, STYLE
from adamoffload.plots.surface import trajectory

__all__ = [
    "COLORS",
    "LINES",
    "STYLE",
    "LiveFigure",
    "PageWriter",
    "animate_trajectory",
    "critical_path",
    "dashboard",
    "descent",
    "fractions",
    "memory",
    "memory_over_time",
    "moments",
    "playground",
    "save_animation",
    "schedule",
    "step_sizes",
    "strategy",
    "timeline",
    "training_step",
    "trajectory",
    "transfers",
    "validation",
]
