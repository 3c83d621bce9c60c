"""Published measurements: on which machine, with which inputs, and where they are from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["Row", "Site", "rows", "sites"]


@dataclass(frozen=True)
class Site:
    """A machine that something was published about, as its data sheets say.

    Attributes
    ----------
    title : str
        Its cards and its host.
    flops_per_s, device_bytes_per_s : float
        A card's dense 16-bit peak, and its memory, nominal.
    link_bytes_per_s, link_total_bytes_per_s : float
        In one direction, pinned: one card alone, and all at once.
    dram_bytes_per_s : float
        The host's memory, nominal.
    server : bool
        Whether it has two sockets, rather than a desktop's one.
    group : str
        Machines that share fitted constants.
    host : str
        Whether the source states it, or it is assumed.
    """

    title: str
    flops_per_s: float
    device_bytes_per_s: float
    link_bytes_per_s: float
    dram_bytes_per_s: float
    server: bool
    group: str
    host: str
    link_total_bytes_per_s: float = 1e18


@dataclass(frozen=True)
class Row:
    """A published measurement.

    Attributes
    ----------
    name, machine, source : str
        What, on which machine, and where it is from.
    published, unit
        The figure as published.
    kind : str
        Which system.
    fits : str
        Which constant is fitted on it; it is then no prediction. ``"base"``: the step without
        offload, in all rounds, where only ratios are published.
    step : bool
        Whether it is a whole step rather than a part of one.
    reason : str
        Why it may be far off.
    inputs : dict
        Parameters, tokens, micro-steps, cards and what else the system needs.
    """

    name: str
    machine: str
    published: float
    unit: str
    kind: str
    source: str
    step: bool = True
    fits: str = ""
    reason: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The published figure in seconds, or as a ratio; TFLOPS count recomputation."""
        if not self.unit.startswith("TFLOPS"):
            return self.published
        tokens = self.inputs["tokens"] / self.inputs.get("cards", 1)
        return float(8 * self.inputs["parameters"] * tokens / (self.published * 1e12))


@cache
def _read() -> tuple[dict[str, Site], tuple[Row, ...]]:
    text = Path(__file__).with_name("published.json").read_text(encoding="utf-8")
    document, known = json.loads(text), set(Row.__dataclass_fields__)
    found = []
    for given in document["rows"]:
        inputs = {name: value for name, value in given.items() if name not in known}
        found.append(Row(**{k: v for k, v in given.items() if k in known}, inputs=inputs))
    return {key: Site(**site) for key, site in document["machines"].items()}, tuple(found)


def rows() -> tuple[Row, ...]:
    """Return the published measurements."""
    return _read()[1]


def sites() -> dict[str, Site]:
    """Return the machines that they were made on, by the key that rows give."""
    return _read()[0]
