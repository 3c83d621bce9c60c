"""`report`: everything recorded of a training run on one page.

This module says what the page shows. The numbers come from `adamoffload.reports.summary`, the
sentences from `adamoffload.reports.sentences`, the figures from `adamoffload.plots`, the HTML from
`adamoffload.reports.markup`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from adamoffload.arguments import instance
from adamoffload.files import replacing
from adamoffload.observe.ledger import NO_LEDGER, Ledger
from adamoffload.observe.probes import NO_PROBE, Probe
from adamoffload.offload.faces import AdamOffload, ResidentMemory
from adamoffload.offload.optimizer import Optimizer
from adamoffload.plan.hops import bytes_by_lane
from adamoffload.reports import summary
from adamoffload.reports.markup import WIDE, Drawing, Section, page
from adamoffload.reports.sentences import sentences, typical_step

__all__ = ["report"]


def report(
    path: str | os.PathLike[str],
    ledger: Ledger | None = None,
    probe: Probe | None = None,
    optimizer: Optimizer | None = None,
    *,
    title: str = "Training with Adam",
) -> Path:
    """Write everything that was recorded as one HTML file: figures, tables, and what they say.

    The file holds its figures (SVG) and asks for nothing from elsewhere. Pass what there is; a
    section without data is left out.

    Parameters
    ----------
    path : path-like
        Where to write. An existing file is replaced when the new one is complete.
    ledger : Ledger, optional
        For bytes, times and memory.
    probe : Probe, optional
        For moments and step sizes.
    optimizer : Optimizer, optional
        For the settings, the learning rates, and memory beside what `Adam` would need.
    title : str
        The heading.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TypeError
        If an argument is something else.
    ValueError
        If neither a ledger nor a probe is given, or one that is has recorded nothing; but a probe
        of an optimizer whose every step was skipped is left out.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("sim", link="pcie4x16")
    >>> w = ao.Parameter(device.asarray(np.ones(1000, np.float32)), name="w")
    >>> ledger, probe = ao.Ledger(), ao.Probe()
    >>> opt = ao.AdamOffload([w], ledger=ledger, probe=probe)
    >>> opt((device.asarray(np.ones(1000, np.float32)),))
    (True,)
    >>> path = ao.report(Path(tempfile.mkdtemp()) / "report.html", ledger, probe, opt)
    >>> "4,000 bytes crossed the link each way, exactly as predicted" in path.read_text("utf-8")
    True
    """
    for name, value, kind, wanted in (
        ("ledger", ledger, Ledger, ""),
        ("probe", probe, Probe, ""),
        ("optimizer", optimizer, Optimizer, "an optimizer of adamoffload"),
        ("title", title, str, ""),
    ):
        if value is not None:
            instance("report", name, value, kind, wanted)
    if ledger is None and probe is None:
        raise ValueError("report: pass a ledger, a probe, or both: there is nothing to show")
    for name, recorded in (("ledger", ledger), ("probe", probe)):
        skipped = isinstance(recorded, Ledger) and len(recorded)
        if ledger is not None and isinstance(recorded, Probe):
            skipped = len(recorded.names)
        if recorded is not None and not len(recorded.steps) and not skipped:
            raise ValueError(
                f"report: the {name} has recorded no step; pass it to AdamOffload(..., "
                f"{name}={name}) and take one"
            )
    ledger, probe = ledger or NO_LEDGER, probe or NO_PROBE
    sections = list(_sections(ledger, probe, optimizer))
    text = "".join(page(title, sentences(ledger, probe), sections, simulated=ledger.simulated))
    with replacing(path) as file:
        file.write(text.encode())
    return Path(path)


def _sections(ledger: Ledger, probe: Probe, optimizer: Optimizer | None) -> Iterator[Section]:
    from adamoffload import plots  # here, since it draws: `import adamoffload` stays light

    simulated = " Times are simulated." if ledger.simulated else ""
    if len(ledger.steps):
        step = typical_step(ledger).step
        yield Section(
            "What waited for what",
            (
                Drawing(
                    partial(plots.timeline, ledger, step),
                    f"Step {step}, whose duration is the median: each bar is a chunk on its way "
                    f"from gradient to parameter.{simulated}",
                    WIDE,
                ),
            ),
            (summary.steps(ledger),),
        )
    if len(ledger.steps) and ledger.bytes():
        yield Section(
            "Where the bytes went",
            (
                Drawing(
                    partial(plots.transfers, ledger, _size(ledger)),
                    "Bytes over the link since the first step, and what was predicted.",
                ),
                Drawing(
                    partial(plots.transfers, ledger, show="bandwidth"),
                    f"How fast each direction was while it moved.{simulated}",
                ),
            ),
            (summary.totals(ledger), summary.bytes_by_parameter(ledger)),
        )
    yield from _memory_section(ledger, optimizer)
    if len(probe.steps):
        yield Section(
            "What the optimizer did",
            (
                Drawing(partial(plots.moments, probe), "First moment m, and √v, over the steps."),
                Drawing(partial(plots.step_sizes, probe), "How far a coordinate moves in a step."),
                Drawing(
                    partial(plots.step_sizes, probe, show="update_ratio"),
                    "How large an update is beside the weights that it changes.",
                ),
                *_schedule(optimizer),
            ),
            (summary.moments_by_parameter(probe),),
        )
    settings = () if optimizer is None else (summary.settings(optimizer),)
    yield Section("Settings and versions", (), (*settings, summary.versions()))


def _memory_section(ledger: Ledger, optimizer: Optimizer | None) -> Iterator[Section]:
    from adamoffload import plots

    drawings, tables = [], []
    bars: dict[str, Any] = {}
    if isinstance(optimizer, AdamOffload):
        memory = optimizer.memory()
        resident = ResidentMemory(memory.parameters, memory.gradients, memory.moments)
        bars = {"Adam on the device": resident, "Adam on the host": memory}
    elif optimizer is not None and any(optimizer.bytes_per_step.values()):
        bars = {"resident": _resident(optimizer), optimizer.strategy.label: optimizer.memory()}
    if optimizer is not None and bars:
        rule = type(optimizer.rule).__name__
        drawings.append(
            Drawing(
                partial(plots.memory, bars, ledger.memory_limit),
                f"What {rule} needs, computed: with its state on the device, and offloaded.",
            )
        )
    if len(ledger.memory()):
        drawings.append(
            Drawing(
                partial(plots.memory_over_time, ledger),
                "What lay on the device, measured at the begin and the end of each step.",
            )
        )
        tables.append(summary.memory(ledger))
    if drawings:
        yield Section("What lies where", tuple(drawings), tuple(tables))


def _resident(optimizer: Optimizer) -> dict[str, int]:
    """Return the bytes on the device, by kind, if everything were there."""
    nbytes = 4 * sum(p.size for p in optimizer.parameters)
    slots = len(optimizer.rule.slots)
    return {"parameters": nbytes, "gradients": nbytes, "moments": slots * nbytes}


def _schedule(optimizer: Optimizer | None) -> Iterator[Drawing]:
    from adamoffload import plots

    if optimizer is not None and optimizer.global_step and len(optimizer.current_rates()) <= 7:
        yield Drawing(
            partial(plots.schedule, optimizer, optimizer.global_step),
            "The learning rate of each step so far.",
        )


def _size(ledger: Ledger) -> int | None:
    """Return of how many numbers something was copied in the first step, if of any."""
    for share in ledger.declared:
        for lane, nbytes in bytes_by_lane(share.hops).items():
            if nbytes:
                return int(ledger.expected_per_step(lane)[0]) // nbytes or None
    return None
