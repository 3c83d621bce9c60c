"""What a training run comes to, in tables: from the ledger, the probe and the optimizer.

The cells are text, made of numbers that public methods return; nothing here knows in which format
they are shown. `adamoffload.reports.sentences` says in sentences what they mean, and
`adamoffload.reports.page` makes a page of both.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from adamoffload.engine.team import available_cores
from adamoffload.observe.ledger import HOPS, Ledger
from adamoffload.observe.probes import LEVELS, Probe
from adamoffload.offload.optimizer import Optimizer
from adamoffload.plan.hops import LANE_OF

__all__ = [
    "Table",
    "bytes_by_parameter",
    "memory",
    "moments_by_parameter",
    "number",
    "scaled",
    "settings",
    "steps",
    "sums_by_sample",
    "totals",
    "versions",
]

SHOWN = 20
"""Rows of a table that could have thousands."""

_COPIES = {"d2h": "link", "h2d": "link", "read": "disk", "write": "disk"}
_NOT_ALWAYS = ("accumulate", "check", "read", "write")
"""Hops that most runs do not have."""


class Table(NamedTuple):
    """A table as text, cell by cell.

    Attributes
    ----------
    caption : str
        What it shows.
    columns : tuple of str
        The header; the first column names the rows.
    rows : sequence of tuple of str
        As many cells each as there are columns.
    note : str
        What is left out, or how to read it.
    """

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def scaled(value: float, unit: str) -> str:
    """Return a quantity with three digits and a decimal prefix.

    Examples
    --------
    >>> scaled(4_194_304, "B"), scaled(0.00025, "s"), scaled(0, "s"), scaled(float("nan"), "B/s")
    ('4.19 MB', '250 µs', '0 s', '–')
    """
    if not math.isfinite(value):
        return "–"
    power = 0 if value == 0 else math.floor(math.log10(abs(value)) / 3)
    power = max(-4, min(4, power))
    if abs(float(f"{value / 1000.0**power:.3g}")) >= 1000 and power < 4:
        power += 1
    return f"{value / 1000.0**power:.3g} {'pnµm kMGT'[power + 4].strip()}{unit}"


# -- tables ---------------------------------------------------------------------------------------


def totals(ledger: Ledger) -> Table:
    """Return the sums by hop, over all steps.

    Examples
    --------
    >>> import adamoffload as ao
    >>> from adamoffload_sim import Link
    >>> device = ao.get_backend("sim", link=Link(1e9))
    >>> w = ao.Parameter(device.asarray(np.ones(1000, np.float32)), name="w")
    >>> ledger = ao.Ledger()
    >>> opt = ao.AdamOffload([w], ledger=ledger)
    >>> opt((device.asarray(np.ones(1000, np.float32)),))
    (True,)
    >>> totals(ledger).rows[1]
    ('d2h', 'link', '1', '4,000', '4 µs', '1 GB/s')
    """
    table = ledger.to_array()
    rows = []
    for hop in HOPS:
        of_hop = table[table["hop"] == hop]
        if hop in _NOT_ALWAYS and not len(of_hop):
            continue
        rows.append(
            (
                hop,
                _COPIES.get(hop, LANE_OF[hop]),
                f"{len(of_hop):,}",
                f"{of_hop['nbytes'].sum():,}",  # a lane's would count the check's, too
                scaled(ledger.seconds(hop), "s"),
                scaled(ledger.bandwidth(hop), "B/s") if hop in _COPIES else "–",
            )
        )
    columns = ("hop", "where", "times", "bytes", "time in all", "rate")
    return Table("Totals by hop", columns, rows, _clock(ledger))


def bytes_by_parameter(ledger: Ledger) -> Table:
    """Return the bytes that were copied for each parameter, by lane; the most moved first."""
    found = {lane: ledger.bytes_by_parameter(lane) for lane in _COPIES}
    lanes = [lane for lane in found if lane in ("d2h", "h2d") or any(found[lane].values())]
    moved = {
        name: [found[lane].get(name, 0) for lane in lanes]
        for name in dict.fromkeys(name for lane in lanes for name in found[lane])
    }
    names = sorted(moved, key=lambda name: -sum(moved[name]))
    rows = [(name, moved[name]) for name in names[:SHOWN]]
    if len(names) > SHOWN:
        others = [moved[name] for name in names[SHOWN:]]
        rows.append(
            (f"and {len(others):,} more", [sum(column) for column in zip(*others, strict=True)])
        )
    total = sum(map(sum, moved.values()))
    return Table(
        "Bytes by parameter",
        ("parameter", *(f"bytes {lane}" for lane in lanes), "share"),
        [(name, *(f"{n:,}" for n in each), _share(sum(each), total)) for name, each in rows],
    )


def steps(ledger: Ledger) -> Table:
    """Return the time of each step; of many, the first, the slowest and the last."""
    numbers, times = ledger.steps, ledger.step_times()
    durations = times[:, 1] - times[:, 0]
    begins = times[:, 0] - times[0, 0]
    waits, moved = ledger.seconds_per_step("wait"), ledger.bytes_per_step()
    shown: Sequence[int] = range(len(numbers))
    note = _clock(ledger)
    if len(numbers) > SHOWN:
        few = SHOWN // 4
        slowest = np.argsort(-durations.round(9), kind="stable")[: SHOWN - 2 * few].tolist()
        shown = sorted({*range(few), *slowest, *range(len(numbers) - few, len(numbers))})
        left = len(numbers) - len(shown)
        note = f"The first {few}, the last {few} and the slowest; {left:,} more. {note}"
    rows = [
        (
            f"{numbers[i]:,}",
            scaled(begins[i], "s"),
            scaled(durations[i], "s"),
            scaled(waits[i], "s"),
            f"{moved[i]:,}",
        )
        for i in shown
    ]
    columns = ("step", "begins at", "takes", "host waits", "bytes")
    return Table("Time of the steps", columns, rows, note)


def memory(ledger: Ledger) -> Table:
    """Return the bytes by place and kind, at the end and at most, beside the limit."""
    table = ledger.memory()
    rows = []
    for place in dict.fromkeys(table["place"].tolist()):
        here = table[table["place"] == place]
        for kind in dict.fromkeys(here["kind"].tolist()):
            nbytes = here["nbytes"][here["kind"] == kind]
            rows.append((place, kind, f"{nbytes[-1]:,}", f"{nbytes.max():,}"))
        sums = sums_by_sample(here)
        rows.append((place, "in all", f"{sums[-1]:,}", f"{sums.max():,}"))
        if place == "device" and ledger.memory_limit is not None:
            rows.append((place, "limit", *2 * [f"{ledger.memory_limit:,}"]))
    note = "In bytes, sampled at the begin and the end of each step."
    return Table("Memory by place and kind", ("place", "kind", "last", "at most"), rows, note)


def moments_by_parameter(probe: Probe) -> Table:
    """Return gradients, moments and updates at the last sampled step; the largest first."""
    sizes = probe.sizes
    names = sorted(probe.names, key=lambda name: -sizes[name])
    median = LEVELS.index(0.5)
    roots = {what[5:]: what for what in probe.norm_quantities if what.startswith("sqrt_")}
    shown = ["gradient", *(roots.get(slot, slot) for slot in probe.slots)]
    limited = [what for what in probe.numbers if what == "eps_limited"]
    rows = [
        (
            name,
            f"{sizes[name]:,}",
            *(number(probe.rms(quantity, name)[-1]) for quantity in shown),
            number(probe.quantiles("step_size", name)[-1, median]),
            number(probe.series("update_ratio", name)[-1]),
            *[_share(probe.series(what, name)[-1], 1) for what in limited],
        )
        for name in names[:SHOWN]
    ]
    columns = (
        "parameter" if probe.by == "parameter" else "group",
        "elements",
        *(f"RMS of {what.replace('sqrt_', '√')}" for what in shown),
        "median step size",
        "update / weight",
        *("√v < ε" for _ in limited),
    )
    note = f"The {SHOWN} largest; {len(names) - SHOWN:,} more." if len(names) > SHOWN else ""
    step = int(probe.steps[-1])
    return Table(f"Moments and updates at step {step:,}", columns, rows, note)


def settings(optimizer: Optimizer) -> Table:
    """Return what the optimizer was constructed with."""
    own = optimizer.settings
    size = sum(p.size for p in optimizer.parameters)
    constants = own.description()["constants"].items()
    rows = [
        ("optimizer", type(optimizer).__name__),
        ("rule", type(own.rule).__name__),
        ("strategy", optimizer.strategy.label),
        ("parameters", f"{len(optimizer.parameters):,}, {size:,} elements"),
        ("device", repr(optimizer.backend)),
        ("learning rate", _source(optimizer.learning_rate)),
        *((name, _source(value)) for name, value in constants),
        ("weight decay", f"{_source(own.rule.weight_decay)}, {own.rule.decay}"),
        ("loss scale", f"{own.loss_scale:g}"),
        ("groups", f"{len(own.groups):,}"),
        ("steps done", f"{optimizer.global_step:,}"),
        ("engine", f"{optimizer.engine}, {optimizer.threads} threads"),
    ]
    held = [h for h in optimizer.memory().holdings if h.kind == "staging" and h.nbytes]
    rows += [(f"staging, {h.place}", f"{h.nbytes:,} bytes") for h in held]
    return Table("Settings of the optimizer", ("setting", "value"), rows)


def versions() -> Table:
    """Return what it ran with; neither the host's nor the user's name."""
    rows = [
        ("adamoffload", version("adamoffload")),
        ("Python", platform.python_version()),
        ("NumPy", np.__version__),
        ("matplotlib", version("matplotlib")),
        ("platform", f"{platform.system()} {platform.machine()}, {available_cores()} cores"),
    ]
    return Table("Versions", ("what", "version"), rows)


# -- text -----------------------------------------------------------------------------------------


def _clock(ledger: Ledger) -> str:
    return "Times are simulated." if ledger.simulated else ""


def number(value: float) -> str:
    """Return three digits, or that there are none."""
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole and math.isfinite(part) else "–"


def sums_by_sample(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bytes of one place in all, at each time it was sampled."""
    sample = np.cumsum(rows["kind"] == rows["kind"][0]) - 1  # each sample has each kind once
    return np.bincount(sample, rows["nbytes"]).astype(np.int64)


def _source(value: Any) -> str:
    """Return a number, a table or a schedule as a line of text."""
    if isinstance(value, np.ndarray):
        return f"a table of {value.size:,}: {value[0]:g} to {value[-1]:g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:g}"
    text = repr(value)
    return f"{type(value).__name__}, called with the step" if " at 0x" in text else text
