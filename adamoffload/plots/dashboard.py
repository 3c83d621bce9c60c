"""Everything that was recorded, on one page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.pyplot as plt

from adamoffload.arguments import instance
from adamoffload.observe.ledger import Ledger
from adamoffload.observe.probes import Probe
from adamoffload.observe.timeline import step_timeline
from adamoffload.plots.device import memory_over_time
from adamoffload.plots.lanes import timeline
from adamoffload.plots.link import transfers
from adamoffload.plots.optimizer import moments, step_sizes
from adamoffload.plots.style import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["dashboard"]


def dashboard(ledger: Ledger, probe: Probe, *, step: int | None = None, device: str = "") -> Figure:
    """Draw what a training run did, on one page for a projector: 16 by 9.

    Parameters
    ----------
    ledger : Ledger
        What crossed the link and when.
    probe : Probe
        What the optimizer did.
    step : int, optional
        Whose timeline to draw; the last one's, if left out.
    device : str
        What the device is called in the title.

    Returns
    -------
    Figure
        Of ``pyplot``, so that a notebook shows it. Its axes, in order: `moments`, `step_sizes`, the
        effective rates, `timeline`, `transfers` and `memory_over_time`.

    Raises
    ------
    ValueError
        If ledger or probe is empty, or there is no such step.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("sim", link="pcie4x16")
    >>> w = ao.Parameter(device.asarray(np.zeros(1000, np.float32)), name="w")
    >>> ledger, probe = ao.Ledger(), ao.Probe()
    >>> opt = ao.AdamOffload([w], ledger=ledger, probe=probe)
    >>> opt([device.asarray(np.ones(1000, np.float32))])
    (True,)
    >>> figure = ao.plots.dashboard(ledger, probe, device="sim, PCIe 4.0 x16")
    >>> figure.get_suptitle()
    '1,000 parameters, 1 step, on sim, PCIe 4.0 x16'
    """
    instance("dashboard", "ledger", ledger, Ledger)
    instance("dashboard", "probe", probe, Probe)
    size, steps = sum(probe.sizes.values()), len(ledger.steps)
    shown = step_timeline(ledger, step).step  # what is missing is said before a figure is made
    if not len(probe.steps):
        raise ValueError(
            "dashboard: the probe has sampled nothing; pass it to AdamOffload(..., probe=probe) "
            "and take a step"
        )
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(16, 9), layout="constrained")
        rows = figure.add_gridspec(2, 1)
        above = rows[0].subgridspec(1, 3)
        left, middle, right = (figure.add_subplot(above[i]) for i in range(3))
        below = rows[1].subgridspec(1, 3, width_ratios=(5, 4, 4))
        lanes, link, memory = (figure.add_subplot(below[i]) for i in range(3))
        moments(probe, ax=left)
        step_sizes(probe, ax=middle)
        step_sizes(probe, show="rate", ax=right)
        timeline(ledger, shown, ax=lanes)
        transfers(ledger, size, ax=link)
        memory_over_time(ledger, ax=memory)
        where = f", on {device}" if device else ""
        figure.suptitle(f"{size:,} parameters, {steps:,} step{'s'[: steps != 1]}{where}")
    return figure
