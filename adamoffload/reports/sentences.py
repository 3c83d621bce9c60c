"""What the numbers of a training run say, in sentences: bytes, time, memory, and what went wrong.

Each sentence is derived from the ledger and the probe alone; where a prediction is possible, what
was recorded is compared with it.
"""

from __future__ import annotations

import numpy as np

from adamoffload.observe.ledger import Ledger
from adamoffload.observe.probes import Probe
from adamoffload.observe.timeline import LANES, StepTimeline, step_timeline
from adamoffload.reports.summary import number, scaled, sums_by_sample

__all__ = ["sentences", "typical_step"]

_BUSY = 0.8
"""A lane that works for this share of the time is what limits a step."""

_REMEDY = {
    "device": "The device's own work is what takes the time; a faster link or host would not help.",
    "d2h": "The link limits it, on the way down; a faster host would not help.",
    "host": "Adam on the host limits it: more threads or the compiled engine would shorten it, a "
    "faster link would not.",
    "h2d": "The link limits it, on the way up; a faster host would not help.",
}


def typical_step(ledger: Ledger) -> StepTimeline:
    """Return the step whose duration is the median, the upper one of two."""
    times = ledger.step_times()
    # To the nanosecond: what differs by rounding alone is equal, and the middle one is taken.
    order = np.argsort((times[:, 1] - times[:, 0]).round(9), kind="stable")
    return step_timeline(ledger, int(ledger.steps[order[len(order) // 2]]))


def sentences(ledger: Ledger, probe: Probe) -> list[str]:
    """Return, as sentences, what the numbers say.

    Parameters
    ----------
    ledger, probe
        Either may be empty; then it has nothing to say.

    Examples
    --------
    >>> import adamoffload as ao
    >>> device = ao.get_backend("sim", link="pcie4x16")
    >>> w = ao.Parameter(device.asarray(np.ones(1000, np.float32)), name="w")
    >>> ledger = ao.Ledger()
    >>> opt = ao.AdamOffload([w], ledger=ledger)
    >>> opt((device.asarray(np.ones(1000, np.float32)),))
    (True,)
    >>> print(sentences(ledger, ao.Probe())[0])
    4,000 bytes crossed the link each way, exactly as predicted:
    4 bytes × 1,000 parameters × 1 step.
    """
    said: list[str] = []
    if len(ledger.steps):
        said += [_about_bytes(ledger), *_about_time(ledger), *_about_memory(ledger)]
    if len(probe.steps):
        said += _about_updates(probe)
    return said


def _about_bytes(ledger: Ledger) -> str:
    table = ledger.to_array()
    updates = table[(table["hop"] == "update") & (table["step"] >= 0)]
    elements, count = int(updates["elements"].sum()), len(ledger.steps)
    down, up = ledger.bytes("d2h"), ledger.bytes("h2d")
    if not (down or up or elements):
        if "apply" not in table["hop"]:
            return "Nothing crossed the link: each step was skipped, or raised."
        return "Nothing crossed the link: the moments lie on the device, and Adam runs there."
    prediction = (
        f"4 bytes × {elements / count:,.10g} parameters × {count:,} step{'s'[: count != 1]}"
    )
    if down == up == 4 * elements:
        return f"{down:,} bytes crossed the link each way, exactly as predicted: {prediction}."
    return (
        f"{down:,} bytes came down and {up:,} went up; predicted were {4 * elements:,} each way: "
        f"{prediction}. A copy outside a step, or a step that failed, makes such a difference."
    )


def _about_time(ledger: Ledger) -> list[str]:
    step = typical_step(ledger)
    if step.seconds <= 0:
        return ["The steps took no time that the clock could tell."]
    clock = " of simulated time" if step.simulated else ""
    lane, share = step.bottleneck, step.busy_s(step.bottleneck) / step.seconds
    work = sum(map(step.busy_s, LANES)) / step.seconds
    said = (
        f"A typical step takes {scaled(step.seconds, 's')}{clock}; {_the(lane)} is the "
        f"bottleneck, busy for {share:.0%} of it."
    )
    if share >= _BUSY:
        said += f" {_REMEDY[lane]}"
    elif 0 < step.chunks < 3:
        said += (
            f" With {step.chunks} chunk{'s'[: step.chunks != 1]} a step, the lanes take turns: "
            f"smaller chunks would let them work at the same time."
        )
    else:
        said += f" The lanes together do {work:.2g} s of work in a second of the step."
    return [said]


def _about_memory(ledger: Ledger) -> list[str]:
    table = ledger.memory()
    device, limit = table[table["place"] == "device"], ledger.memory_limit
    if not len(device):
        return []
    most = int(sums_by_sample(device).max())
    moments = table["nbytes"][(table["place"] == "host") & (table["kind"] == "moments")]
    kept = int(moments.max()) if len(moments) else 0
    said = f"The device held at most {most:,} bytes"
    if limit is None:
        return [f"{said}{f'; the moments, {kept:,} bytes, stayed on the host' if kept else ''}."]
    if not kept:
        return [f"{said} of its {limit:,} ({most / limit:.0%}), the moments among them."]
    would = "would" if most + kept <= limit else "would not"
    return [
        f"{said} of its {limit:,} ({most / limit:.0%}); the moments, {kept:,} bytes on the host, "
        f"{would} have fitted beside that."
    ]


def _about_updates(probe: Probe) -> list[str]:
    said = []
    bad = probe.first_nonfinite
    if bad is not None:
        said.append(
            f"The first number that is NaN or infinite: {bad.quantity} of {bad.name}, element "
            f"{bad.index:,}, in step {bad.step:,}."
        )
    watched = probe.names if "frozen" in probe.numbers else ()
    frozen = [name for name in watched if probe.series("frozen", name)[-1] > 0]
    if frozen:
        said.append(
            f"In {len(frozen):,} of {len(probe.names):,} parameters some coordinates have an "
            f"infinite v, and will never move again."
        )
    ratios = np.array([probe.series("update_ratio", name)[-1] for name in probe.names])
    ratios = ratios[np.isfinite(ratios)]
    if len(ratios):
        said.append(
            f"At step {int(probe.steps[-1]):,} an update is {number(float(np.median(ratios)))} "
            f"times as large as the weights it changes (ratio of norms, median over "
            f"{len(ratios):,} parameters)."
        )
    return said


def _the(lane: str) -> str:
    return f"the {lane}" if lane in ("device", "host") else f"the link's {lane}"
