"""A step as text: a line for each lane."""

from __future__ import annotations

from collections.abc import Sequence

from adamoffload.estimates.walk import Bar
from adamoffload.plan.hops import LANES, Lane

__all__ = ["drawn"]

_ALWAYS: tuple[Lane, ...] = ("device", "d2h", "host", "h2d")
_MARKS = {"forward": "f", "backward": "b", "micro-steps": "m", "update": "u", "prepare": "p"}
_LEGEND = {
    "m": "earlier micro-steps",
    "f": "forward",
    "b": "backward",
    "p": "prepare",
    "a": "apply",
    "u": "update",
    "-": "copy",
}


def drawn(bars: Sequence[Bar], step_s: float, width: int = 64) -> str:
    """Draw what the lanes did, each for so many characters.

    Examples
    --------
    >>> print(drawn([Bar("device", "forward", -1, 0, 1), Bar("d2h", "d2h", 0, 1, 2)], 2, width=8))
    device |ffff....| 1 s busy
    d2h    |....----| 1 s busy
    host   |........| 0 s busy
    h2d    |........| 0 s busy
    f forward, - copy
    """
    lines, used = [], set[str]()
    for lane in LANES:
        own = [bar for bar in bars if bar.lane == lane and bar.what != "wait"]
        if not own and lane not in _ALWAYS:
            continue
        line = ["."] * width
        for bar in own:
            mark = _MARKS.get(bar.what, "a" if bar.what == "apply" else "-")
            first = min(int(bar.start_s / step_s * width), width - 1)
            last = max(min(round(bar.stop_s / step_s * width), width), first + 1)
            if bar.stop_s > bar.start_s:
                line[first:last] = mark * (last - first)
        used.update(line)
        busy_s = sum(bar.stop_s - bar.start_s for bar in own)
        lines.append(f"{lane:6} |{''.join(line)}| {busy_s:.3g} s busy")
    legend = ", ".join(f"{mark} {word}" for mark, word in _LEGEND.items() if mark in used)
    return "\n".join([*lines, legend])
