"""Figures of what was recorded: memory, moments, step sizes, bytes moved.

Each function draws on ``ax``, or on new axes, and returns them. Everything drawn was measured; the
numbers are those of the `Ledger` and the `Probe`. Only this package imports matplotlib, and nothing
of the framework imports it except the commands that draw.
"""

from adamoffload.plots.device import memory
from adamoffload.plots.link import transfers
from adamoffload.plots.optimizer import moments, step_sizes
from adamoffload.plots.style import COLORS, LINES, STYLE

__all__ = ["COLORS", "LINES", "STYLE", "memory", "moments", "step_sizes", "transfers"]
