"""`Software`: what a system's own code makes of a machine.

That is why data sheets alone are off by 1.7: how many bytes an update moves through the host's
memory, how fast its threads let it, and what overlaps with what, are facts about the program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from adamoffload.estimates.machines import Figure

__all__ = ["SOFTWARE", "Software", "software_of"]


@dataclass(frozen=True, kw_only=True)
class Software:
    """How a program carries a strategy out.

    Attributes
    ----------
    gradients : str
        When they leave for the host: one by one during ``"backward"``, or at the ``"step"``.
    overlap : bool
        Whether chunks flow through the hops; else all come down, then all are updated, then all go
        up, and a device's updates wait for their copies.
    during : bool
        Whether the host updates a chunk as soon as its gradient is there, in backward; that allows
        neither clipping nor a check for NaN.
    waits : bool
        Whether the host waits for all gradients before its first update, as clipping and a look for
        NaN do.
    frees : bool
        Whether gradients leave the device's memory as they leave for the host; else the whole of
        them lies there at the end of backward.
    host_bytes : float
        What an update moves through the host's memory, for each parameter, with two slots in
        float32; 28 for one fused pass.
    host_rate : Figure or None
        What its threads reach at most, in bytes a second, whatever the machine.
    rate_of : str
        Whether that is for a ``"host"``, however many ranks, or for each ``"rank"``.
    host_pace : float
        Share of the machine's host bandwidth that it gets.
    pinned : bool
        Whether its copies are from and to pinned memory.
    tensor_s : float
        What it does for each tensor on the host.
    device_bytes : float
        What it takes of the device's memory beside what the strategy says: context and buckets.
    host_extra : mapping from str to float
        Bytes for each parameter on the host, beside what the strategy says, by thing; those under
        ``"accumulator"`` only with micro-steps.
    source : str
        Where that is from.
    """

    gradients: Literal["backward", "step"] = "step"
    overlap: bool = True
    during: bool = False
    waits: bool = False
    frees: bool = False
    host_bytes: float = 28.0
    host_rate: Figure | None = None
    rate_of: Literal["host", "rank"] = "host"
    host_pace: float = 1.0
    pinned: bool = True
    tensor_s: float = 0.0
    device_bytes: float = 0.8e9
    host_extra: Mapping[str, float] = field(default_factory=dict)
    source: str = "this package: chunks of 4 MiB, at the step"


DEEPSPEED_RATE = Figure(69e9, 77e9, 79e9, "0.55 s per 1e9 parameters and host, on five set-ups")
TORCH_RATE = Figure(20e9, 25e9, 30e9, "torch's Adam in one rank: 21.7, 21.3 and 29.9 GB/s")

_PAPER = Software(
    gradients="backward",
    waits=True,
    frees=True,
    host_extra={"gradient": 2},
    source="as published: gradients leave in backward, weights go up while the next are updated",
)
_DEEPSPEED = Software(
    overlap=False,
    frees=True,
    host_bytes=42.0,
    host_rate=DEEPSPEED_RATE,
    device_bytes=2.3e9,
    host_extra={"gradient": 4, "staging": 2, "accumulator": 2},
    source="DeepSpeed as shipped: nothing overlaps; unscaling and casts are passes of their own",
)

SOFTWARE: dict[str, Software] = {
    "zero-offload": _PAPER,
    "zero-offload-delayed": replace(_PAPER, host_extra={}),
    "deepspeed-zero1": _DEEPSPEED,
    "deepspeed-zero2": _DEEPSPEED,
    "torchao": Software(
        gradients="backward",
        host_extra={"gradient": 2},
        source="torchao: a fused optimizer for each tensor, copies beside it",
    ),
    "megatron-hybrid": Software(
        overlap=False,
        host_rate=TORCH_RATE,
        rate_of="rank",
        tensor_s=40e-6,
        host_extra={"gradient": 4, "staging": 4},
        source="Megatron Core without its overlap option; torch's Adam on the host",
    ),
    "gemini": Software(
        gradients="backward",
        frees=True,
        source="ColossalAI Gemini: a chunk goes down in backward, and up when it is needed",
    ),
}
"""The programs behind the strategies of real systems; any other strategy is this package's."""


def software_of(strategy: str) -> Software:
    """Return the program that a strategy's numbers are for."""
    return SOFTWARE.get(strategy, Software())
