"""What the numbers of a training run say, in sentences: bytes, time, memory, and what went wrong.

Each sentence is derived from the ledger and the probe alone; where a prediction is possible, what
was recorded is compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from adamoffload.observe.ledger import Ledger
from adamoffload.observe.probes import Probe
from adamoffload.observe.timeline import StepTimeline, step_timeline
from adamoffload.plan.hops import bytes_by_lane
from adamoffload.reports.summary import number, scaled, sums_by_sample

__all__ = ["sentences", "typical_step"]

_BUSY = 0.8
"""A lane that works for this share of the time is what limits a step."""

_WENT = {"d2h": "came down", "h2d": "went up", "read": "were read", "write": "were written"}

_REMEDY = {
    "device": "The device's own work limits it; a faster link or host would not help.",
    "d2h": "The link limits it, on the way down; a faster host would not help.",
    "host": "The arithmetic on the host limits it: more threads or the compiled engine would "
    "shorten it, a faster link would not.",
    "h2d": "The link limits it, on the way up; a faster host would not help.",
    "read": "The disk limits it, in reading; a faster link or host would not help.",
    "write": "The disk limits it, in writing; a faster link or host would not help.",
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
        said += [*_about_bytes(ledger), *_about_time(ledger), *_about_memory(ledger)]
    elif len(ledger):
        said.append("No step was taken: every call was skipped, or has raised.")
    if len(probe.steps):
        said += _about_updates(probe)
    return said


def _about_bytes(ledger: Ledger) -> list[str]:
    count = len(ledger.steps)
    checks = int(ledger.bytes_per_step("check").sum())
    in_steps = {lane: int(ledger.bytes_per_step(lane).sum()) for lane in _WENT}
    moved = in_steps | {"d2h": in_steps["d2h"] - checks}
    expected = {lane: int(ledger.expected_per_step(lane).sum()) for lane in _WENT}
    lanes = [lane for lane in _WENT if lane in ("d2h", "h2d") or moved[lane] or expected[lane]]
    if not any(moved.values()) and not any(expected.values()):
        return [f"Nothing crossed the link: all lies on the device, where {_rule(ledger)} runs."]
    if not ledger.declared:
        return [f"{_listed(moved, lanes)}."]
    prediction = _prediction(ledger, expected, count)
    if moved == expected and len(lanes) == 2 and len({moved[lane] for lane in lanes}) == 1:
        each = f"{moved['d2h']:,} bytes crossed the link each way"
        said = [f"{each}, exactly as predicted: {prediction}."]
    elif moved == expected:
        said = [f"{_listed(moved, lanes)}, exactly as predicted: {prediction}."]
    else:
        said = [
            f"{_listed(moved, lanes)}; predicted were {_shown(expected, lanes)}: {prediction}. A "
            f"step that failed makes such a difference."
        ]
    outside = {lane: ledger.bytes(lane) - in_steps[lane] for lane in lanes}
    if checks:
        said.append(f"Looking for NaN and infinities brought down {checks:,} bytes more.")
    if any(outside.values()):
        left = [lane for lane in lanes if outside[lane]]
        said.append(f"Outside of the steps, {_listed(outside, left)}.")
    return said


def _listed(nbytes: Mapping[str, int], lanes: Sequence[str]) -> str:
    """Return how many bytes went where, as a clause."""
    first, *others = lanes
    parts = [f"{nbytes[first]:,} bytes {_WENT[first]}"]
    parts += [f"{nbytes[lane]:,} {_WENT[lane]}" for lane in others]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if others else parts)


def _shown(nbytes: Mapping[str, int], lanes: Sequence[str]) -> str:
    return " and ".join(f"{nbytes[lane]:,} {lane}" for lane in lanes)


def _prediction(ledger: Ledger, expected: Mapping[str, int], count: int) -> str:
    """Return the product that is the prediction."""
    shares = [bytes_by_lane(share.hops) for share in ledger.declared]
    each = {lane: max(share[lane] for share in shares) for lane in _WENT}
    lane = max(_WENT, key=lambda lane: each[lane])
    if not each[lane]:
        return "nothing"
    distinct = sorted({n for n in each.values() if n})
    factor = " or ".join(f"{n}" for n in distinct)
    elements = expected[lane] / each[lane] / count
    return f"{factor} bytes × {elements:,.10g} parameters × {count:,} step{'s'[: count != 1]}"


def _rule(ledger: Ledger) -> str:
    return " and ".join(dict.fromkeys(share.rule for share in ledger.declared)) or "the rule"


def _about_time(ledger: Ledger) -> list[str]:
    step = typical_step(ledger)
    if step.seconds <= 0:
        return ["The steps took no time that the clock could tell."]
    clock = " of simulated time" if step.simulated else ""
    lane, share = step.bottleneck, step.busy_s(step.bottleneck) / step.seconds
    work = sum(map(step.busy_s, step.lanes)) / step.seconds
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
    away = table[(table["place"] != "device") & (table["kind"] == "moments")]
    where = "disk" if "disk" in away["place"] else "host"
    kept = int(away["nbytes"].max()) if len(away) else 0
    said = f"The device held at most {most:,} bytes"
    if limit is None:
        return [f"{said}{f'; the moments, {kept:,} bytes, stayed on the {where}' if kept else ''}."]
    if not kept:
        return [f"{said} of its {limit:,} ({most / limit:.0%}), the moments among them."]
    would = "would" if most + kept <= limit else "would not"
    return [
        f"{said} of its {limit:,} ({most / limit:.0%}); the moments, {kept:,} bytes on the "
        f"{where}, {would} have fitted beside that."
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
    if lane in ("device", "host"):
        return f"the {lane}"
    return f"the {'disk' if lane in ('read', 'write') else 'link'}'s {lane}"
