"""One step's timeline as text: who worked on which chunk, and when."""

from __future__ import annotations

from collections.abc import Sequence

from adamoffload.ledger import Event, Hop, Ledger

__all__ = ["LANES", "timeline_text"]

LANES: dict[str, tuple[Hop, ...]] = {
    "device": ("prepare", "apply"),
    "d2h": ("d2h",),
    "host": ("update",),
    "h2d": ("h2d",),
}
"""Who can work at the same time, and the hops that each does."""

_MARKS = "0123456789abcdefghijklmnopqrstuvwxyz"


def timeline_text(ledger: Ledger, step: int, *, width: int = 64) -> str:
    """Draw the hops of one step, a line for each lane.

    Parameters
    ----------
    ledger : Ledger
        Where they were recorded; hops in flight are waited for.
    step : int
        Which step, counted from 1.
    width : int
        Characters for the whole step.

    Returns
    -------
    str
        The last digit of a chunk's index, in base 36, where a lane works on it, and a dot where it
        is idle; then the lane's busy time. A hop shorter than a character gets one.

    Raises
    ------
    ValueError
        If there is no such step in the ledger, or `width` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> from adamoffload_sim import Device, Link
    >>> device = ao.get_backend(
    ...     "sim", link=Link(4), device=Device(48, 1e9), host_ns_per_parameter=4e9
    ... )
    >>> w = ao.Parameter(device.asarray(np.zeros(4, np.float32)), name="w")
    >>> g = device.asarray(np.ones(4, np.float32))
    >>> ledger = ao.Ledger()
    >>> opt = ao.AdamOffload([w], ledger=ledger, chunk_bytes=4)
    >>> opt([g])
    (True,)
    >>> print(timeline_text(ledger, 1, width=73))
    step 1: 18.25 s
    device |........................0...............1...............2...............3| 1 s busy
    d2h    |000011112222.............3333............................................| 4 s busy
    host   |....0000000000000000111111111111111122222222222222223333333333333333.....| 16 s busy
    h2d    |....................0000............1111............2222............3333.| 4 s busy
    """
    if width < 1:
        raise ValueError(f"timeline_text: width must be at least 1, got {width}")
    events = [event for event in ledger.events if event.step == step]
    if not events:
        raise ValueError(f"timeline_text: the ledger has no hops of step {step!r}")
    begin = min(event.start_s for event in events)
    total = max(event.stop_s for event in events) - begin
    label = max(map(len, LANES))
    lines = [f"step {step}: {total:.6g} s"]
    for lane, hops in LANES.items():
        mine = [event for event in events if event.hop in hops and event.seconds > 0]
        busy = sum(event.seconds for event in mine)
        lines.append(f"{lane:{label}} |{_draw(mine, begin, total, width)}| {busy:.6g} s busy")
    return "\n".join(lines)


def _draw(events: Sequence[Event], begin_s: float, total_s: float, width: int) -> str:
    line = ["."] * width
    for event in events:
        first = min(int((event.start_s - begin_s) / total_s * width), width - 1)
        last = max(round((event.stop_s - begin_s) / total_s * width), first + 1)
        mark = _MARKS[(event.chunk or 0) % len(_MARKS)]
        line[first:last] = [mark] * (min(last, width) - first)
    return "".join(line)
