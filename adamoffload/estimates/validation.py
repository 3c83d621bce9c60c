"""Published measurements beside what is estimated of them, in three rounds that are told apart.

``sheet``
    Data sheets alone: 45 % of a card's peak, 0.7 of the host's nominal memory bandwidth, and no
    limits of software. Written down before anything was compared.
``fitted``
    At most two constants for each machine, and one for unfused updates, each on one named row,
    which then counts no longer. They predict all others.
``left out``
    Nothing of the machine itself is used: geometric means of the other machines' constants.

Strategies that are declared are estimated as `adamoffload.estimate` does; the other systems by the
same lanes written out, in ``_CLOSED``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from adamoffload.estimates.estimate import answer, estimate
from adamoffload.estimates.machines import Figure, Machine, machines
from adamoffload.estimates.published import Row, rows, sites
from adamoffload.estimates.software import software_of

__all__ = ["ROUNDS", "Compared", "Constants", "constants", "error", "mean", "score", "validate"]

Round = Literal["sheet", "fitted", "left out", "null"]
_NULL: Round = "null"
ROUNDS: tuple[Round, ...] = ("sheet", "fitted", "left out")
"""The rounds; ``null`` is a model in which host and link are free, with the fitted compute."""

_FREE = 1e18
_TENSOR_S = 40e-6
_PAGEABLE = 5.0
_WINDOW = 4  # micro-steps that ZenFlow collects
_CHUNKS = 200
_ORDER = ("efficiency", "host", "unfused", "deepspeed", "torch")
"""Of the fits: a later one may need those before it."""


@dataclass(frozen=True)
class Constants:
    """What is known of a machine and the software on it: bytes a second, and a share of the peak.

    Attributes
    ----------
    efficiency : float
        Share of the peak.
    host : float
        What a fused update gets of the host's memory.
    deepspeed : float
        DeepSpeed's host step, of all ranks of a node together.
    torch : float
        torch's host step, of each rank.
    unfused : float
        An update that is not fused.
    free : bool
        Whether host and link cost nothing.
    """

    efficiency: float
    host: float
    deepspeed: float = _FREE
    torch: float = _FREE
    unfused: float = _FREE
    free: bool = False


@dataclass(frozen=True)
class Compared:
    """A row with what each round says of it, in seconds; None where the row is fitted on."""

    row: Row
    estimates: dict[Round, float | None]

    def factor(self, round_: Round) -> float | None:
        """Return by which factor an estimate is off, in either direction."""
        found = self.estimates[round_]
        return None if found is None else error(found, self.row.seconds)

    @property
    def sensitive(self) -> bool:
        """Whether offload is more than a fifth of the time, by the fitted model or its fit."""
        found = self.estimates["fitted"] or self.row.seconds
        null = self.estimates["null"]
        return null is not None and self.row.step and found > 1.25 * null


def error(estimated: float, published: float) -> float:
    """Return by which factor an estimate is off, in either direction."""
    return max(estimated / published, published / estimated)


def mean(factors: Iterable[float | None]) -> float:
    """Return the geometric mean; what is None does not count."""
    logs = [math.log(factor) for factor in factors if factor is not None]
    return math.exp(sum(logs) / len(logs))


def score(compared: Iterable[Compared], round_: Round) -> tuple[float, float, int]:
    """Return the geometric mean and the worst of the error factors, and of how many."""
    found = [factor for each in compared if (factor := each.factor(round_)) is not None]
    return mean(found), max(found), len(found)


# -- constants ---------------------------------------------------------------------------------


def constants(machine: str, round_: Round) -> Constants:
    """Return what a round knows of a machine."""
    site = sites()[machine]
    sheet = 0.7 * site.dram_bytes_per_s
    if round_ == "sheet":
        return Constants(0.45, sheet, unfused=sheet)
    own = {} if round_ == "left out" else _fits().get(site.group, {})
    others = {group: fits for group, fits in _fits().items() if group != site.group}

    def known(name: str) -> float:
        return own.get(name) or mean(fits[name] for fits in others.values() if name in fits)

    shares = [
        fits["host"] / sites()[g].dram_bytes_per_s for g, fits in others.items() if "host" in fits
    ]
    host = mean(shares) * site.dram_bytes_per_s if site.server else sheet  # no other is a desktop
    host = own.get("host", host)
    if round_ == "null":
        return Constants(known("efficiency"), _FREE, free=True)
    return Constants(
        known("efficiency"), host, known("deepspeed"), known("torch"), own.get("unfused", host)
    )


@cache
def _fits() -> dict[str, dict[str, float]]:
    """Return the constants of each machine, each fitted on its one row."""
    found: dict[str, dict[str, float]] = {}
    fitting = [row for row in rows() if row.fits in _ORDER]
    for row in sorted(fitting, key=lambda row: _ORDER.index(row.fits)):
        site = sites()[row.machine]
        fits = found.setdefault(site.group, {})
        start = replace(Constants(0.45, 0.7 * site.dram_bytes_per_s), **fits)  # type: ignore[arg-type]
        fits[row.fits] = _solve(row, start)
    return found


def _solve(row: Row, start: Constants) -> float:
    """Return the constant with which a row is as published; more of it never takes longer."""
    low, high = (1e-3, 1.0) if row.fits == "efficiency" else (1e8, 1e13)
    for _ in range(40):
        middle = math.sqrt(low * high)
        slow = predict(row, replace(start, **{row.fits: middle})) > row.seconds  # type: ignore[arg-type]
        low, high = (middle, high) if slow else (low, middle)
    return high


# -- estimates ---------------------------------------------------------------------------------


@cache
def validate() -> tuple[Compared, ...]:
    """Estimate every row in every round.

    Examples
    --------
    >>> found = validate()
    >>> len(found)
    113
    """
    every = (*ROUNDS, _NULL)
    return tuple(Compared(row, {name: _compared(row, name) for name in every}) for row in rows())


def _compared(row: Row, round_: Round) -> float | None:
    """Return what a round predicts; None if the row is what it is fitted on."""
    if row.fits == "base" or (row.fits and round_ == "fitted"):
        return None
    return predict(row, constants(row.machine, round_))


def predict(row: Row, known: Constants) -> float:
    """Return what is estimated of a row, in seconds or as a ratio."""
    lanes = _Lanes(row, known)
    return _CLOSED[row.kind](lanes) if row.kind in _CLOSED else _declared(lanes)


_DECLARED = {
    "bf16 resident": "resident",
    "pageable deepspeed-zero2": "deepspeed-zero2",
    "unfused zero-offload": "zero-offload",
}


def _declared(at: _Lanes) -> float:
    """Estimate a system whose strategy is declared."""
    kind, known = at.row.kind, at.known
    name = _DECLARED.get(kind, kind)
    software = software_of(name)
    rate = Figure(known.deepspeed, known.deepspeed, known.deepspeed, "of this round")
    if name == "deepspeed-zero2":
        software = replace(software, host_rate=rate, pinned=not kind.startswith("pageable"))
    if kind.startswith("unfused"):
        share = min(1.0, known.unfused / known.host)
        software = replace(software, host_bytes=80.0, host_pace=share)
    inputs = at.row.inputs
    asked = estimate(
        inputs["parameters"],
        strategy=name,
        software=software,
        machine=at.machine,
        tokens_per_step=inputs["tokens"],
        accumulate=inputs.get("accumulate", 1),
        cards=at.cards,
        recompute=at.recompute,
    ).question
    return answer(asked, _CHUNKS).step_s


class _Lanes:
    """A row's machine, and seconds of what its lanes do."""

    def __init__(self, row: Row, known: Constants) -> None:
        self.row, self.known = row, known
        self.site = sites()[row.machine]
        self.cards = int(row.inputs.get("cards", 1))
        self.recompute = bool(row.inputs.get("recompute", True))
        self.size = float(row.inputs.get("parameters", 0))
        self.each = self.size / self.cards  # parameters that a rank updates
        self.link = _FREE if known.free else self.site.link_bytes_per_s
        self.dram = self.site.device_bytes_per_s * 0.8

    @property
    def machine(self) -> Machine:
        """The machine for `adamoffload.estimate`: the whole host for the cards of the row."""
        site, known = self.site, self.known
        total = _FREE if known.free else min(site.link_total_bytes_per_s, self.cards * self.link)
        changes: dict[str, Any] = {
            "name": self.row.machine,
            "title": site.title,
            "cards": self.cards,
            "cores": 1000,
            "flops_per_s": site.flops_per_s,
            "efficiency": known.efficiency,
            "half_tokens": 0,
            "device_bytes_per_s": self.dram,
            "link_bytes_per_s": self.link,
            "link_total_bytes_per_s": total,
            "host_bytes_per_s": known.host,
            "core_bytes_per_s": _FREE,
        }
        return replace(machines["dgx2"], **changes)

    @property
    def passes(self) -> float:
        """Forward and backward of a step."""
        if "base_s" in self.row.inputs:
            return float(self.row.inputs["base_s"])
        tokens = self.row.inputs["tokens"] / self.cards
        flops = (8 if self.recompute else 6) * self.size * tokens
        return float(flops / (self.site.flops_per_s * self.known.efficiency))

    @property
    def forward(self) -> float:
        """The forward pass."""
        return self.passes / (4 if self.recompute else 3)

    def copy(self, nbytes: float) -> float:
        """Return the seconds of a copy of so many bytes for each parameter of a rank."""
        return nbytes * self.each / self.link

    def host(self, nbytes: float, limit: float = _FREE) -> float:
        """Return the seconds of all ranks' update, which moves so many bytes a parameter."""
        nodes = float(self.row.inputs.get("nodes", 1))
        return nbytes * self.size / nodes / min(self.known.host, limit)

    def rank(self, nbytes: float, ranks: int = 1) -> float:
        """Return the seconds of torch's update in one of a node's ranks."""
        return nbytes * self.each / min(self.known.host / ranks, self.known.torch)

    def hybrid(self, share: float, *, overlap: bool) -> float:
        """Megatron's hybrid optimizer, for a share of the parameters."""
        copies, ranks = share * self.copy(4), min(8, self.cards)
        host = share * self.rank(28, ranks)
        return max(copies, host) if overlap else 2 * copies + host


def _hybrid(at: _Lanes) -> float:
    share, tensors = at.row.inputs["fraction"], at.row.inputs["tensors"]
    saved = share * 28 * at.each / at.dram
    each = 0.0 if at.known.free else share * tensors * _TENSOR_S
    return float(at.passes - saved + at.hybrid(share, overlap=at.row.inputs["overlap"]) + each)


def _ratio(at: _Lanes) -> float:
    """Return a step over one without offload, which is what makes the row for all right."""
    whole = next(row for row in rows() if row.fits == "base")
    base = at.hybrid(1.0, overlap=False) / (whole.seconds - 1)
    return 1 + at.hybrid(at.row.inputs["fraction"], overlap=at.row.inputs["overlap"]) / base


def _zenflow(at: _Lanes) -> float:
    window = _WINDOW * (at.passes + at.copy(5))
    return max(window, at.host(42, at.known.deepspeed)) / _WINDOW


_CLOSED: dict[str, Callable[[_Lanes], float]] = {
    "host update": lambda at: at.host(at.row.inputs["bytes"]),
    "unfused update": lambda at: at.host(at.row.inputs["bytes"], at.known.unfused),
    "torch update": lambda at: at.rank(at.row.inputs["bytes"]),
    "deepspeed update": lambda at: at.host(42, at.known.deepspeed),
    "device update": lambda at: at.row.inputs["bytes"] * at.size / at.dram,
    "copy": lambda at: at.copy(at.row.inputs["bytes"]),
    "passes": lambda at: at.passes,
    "unfused resident": lambda at: at.passes + 80 * at.size / at.dram,
    "resident": lambda at: at.passes + 28 * at.each / at.dram,
    "bf16 resident": lambda at: at.passes + 14 * at.each / at.dram,
    "async shuttle": lambda at: max(at.passes, at.copy(at.row.inputs["bytes"])),
    "blocking shuttle": lambda at: at.passes + at.copy(at.row.inputs["bytes"]),
    "host master": lambda at: at.passes + at.rank(at.row.inputs["bytes"]) + at.copy(2),
    "during backward": lambda at: at.forward + max(at.passes - at.forward, at.host(28), at.copy(2)),
    "zero3": lambda at: (
        at.forward
        + max(at.passes - at.forward, at.copy(6))
        + at.host(42, at.known.deepspeed)
        + at.copy(4)
    ),
    "zero3 update": lambda at: at.host(42, at.known.deepspeed) + at.copy(2),
    "zero2 given": lambda at: at.passes + at.copy(6) + at.host(42, at.known.deepspeed),
    "pageable backward": lambda at: at.passes + _PAGEABLE * at.copy(at.row.inputs["bytes"]),
    "pinned backward": lambda at: at.passes + at.copy(at.row.inputs["bytes"]),
    "pageable difference": lambda at: (_PAGEABLE - 1) * at.copy(at.row.inputs["bytes"]),
    "backward after forward": lambda at: 3 * at.passes,
    "hybrid": _hybrid,
    "hybrid ratio": _ratio,
    "hybrid update": lambda at: at.hybrid(1.0, overlap=False),
    "zenflow": _zenflow,
}
"""Systems, and parts of steps, that no strategy declares."""
