"""Builds what a strategy needs: its shares of the parameters, their arenas, rings and kernels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from adamoffload.device.backend import Array, Backend
from adamoffload.device.disk import Directory
from adamoffload.device.parameter import Parameter
from adamoffload.engine.kernel import Kernel, NumpyKernel
from adamoffload.engine.program import Program
from adamoffload.engine.team import Workers
from adamoffload.observe.ledger import Holding, Ledger
from adamoffload.offload.arena import Arena
from adamoffload.offload.arithmetic import Arithmetic
from adamoffload.offload.pipeline import Pipeline
from adamoffload.offload.settings import Settings
from adamoffload.offload.share import Share
from adamoffload.offload.state import EXTRAS, State
from adamoffload.plan.formats import each
from adamoffload.plan.hops import Declared
from adamoffload.plan.strategy import Strategy

__all__ = ["Builder", "OptimizerMemory", "check_combination", "declared_by", "memory_of"]


def check_combination(settings: Settings, strategy: Strategy, accumulate: int, policy: str) -> None:
    """Refuse what a strategy cannot do together with what else was asked for.

    Raises
    ------
    ValueError
        If it cannot.
    """
    owner, name = settings.owner, strategy.label
    sums = accumulate > 1 and strategy.sum_in in ("round trip", "host")
    if sums and (settings.max_norm is not None or policy != "propagate"):
        what = f"on_nonfinite={policy!r}" if settings.max_norm is None else "max_norm"
        raise ValueError(
            f"{owner}: strategy {name!r} keeps the sum of micro-steps on the host, and so the "
            f"device never has the whole gradient that {what} must look at; use a strategy with "
            f"sum_in='device'"
        )
    decayed = settings.rule.decay == "l2" and any(
        callable(group.decay.source) or group.decay.source for group in settings.groups
    )
    beside = strategy.master_home(settings.weights) is not None
    if strategy.holds_back(accumulate) and not beside and (decayed or settings.unscale != 1):
        raise ValueError(
            f"{owner}: strategy {name!r} applies gradients when they have left the device, and has "
            f"no master on the host by which they could be scaled and decayed there; use a "
            f"strategy with master='host', or decoupled decay and no loss_scale"
        )


@dataclass(frozen=True, slots=True)
class OptimizerMemory:
    """Where the bytes of a training run are.

    Attributes
    ----------
    holdings : tuple of Holding
        Bytes by place and kind.
    """

    holdings: tuple[Holding, ...]

    def in_place(self, *places: str) -> int:
        """Return the bytes in some places."""
        return sum(held.nbytes for held in self.holdings if held.place in places)

    @property
    def device(self) -> int:
        """Bytes on the device."""
        return self.in_place("device")

    @property
    def host(self) -> int:
        """Bytes on the host, pinned or not."""
        return self.in_place("host", "pinned")

    @property
    def disk(self) -> int:
        """Bytes on the disk."""
        return self.in_place("disk")


@dataclass(frozen=True, slots=True, eq=False)
class Builder:
    """What an optimizer is built of, whatever its strategy.

    Attributes
    ----------
    backend : Backend
        The device.
    parameters : tuple of Parameter
        In update order.
    settings : Settings
        What the optimizer was constructed with.
    kernel : callable
        Makes a kernel for the host of a program.
    workers : Workers
        Who computes on the host.
    ledger : Ledger
        Where hops are recorded.
    chunk_size, slots : int
        Elements of a chunk; chunks on their way at once, at most.
    accumulate : int
        Micro-steps to a step.
    watched : bool
        Whether a probe will look on.
    """

    backend: Backend
    parameters: tuple[Parameter, ...]
    settings: Settings
    kernel: Callable[[Program], Kernel]
    workers: Workers
    ledger: Ledger
    chunk_size: int
    slots: int
    accumulate: int
    watched: bool

    def pipeline(self, strategy: Strategy, directory: str | os.PathLike[str] | None) -> Pipeline:
        """Allocate everything, and return what carries out steps.

        Raises
        ------
        ValueError
            If a directory is missing, or given where nothing is kept on the disk.
        DeviceMemoryError, OSError
            If there is no room. Nothing is left on the disk.

        Warns
        -----
        UserWarning
            If the host must hold more than it has free.
        """
        owner = self.settings.owner
        kept = [
            what
            for what, home, _ in strategy.kept(self.settings.rule, self.settings.weights)
            if home == "disk"
        ]
        if kept and directory is None:
            raise ValueError(
                f"{owner}: strategy {strategy.name!r} keeps {', '.join(kept)} on the disk; say "
                f"in which directory, with directory="
            )
        if not kept and directory is not None:
            raise ValueError(
                f"{owner}: directory is of no use, since strategy {strategy.name!r} keeps nothing "
                f"on the disk; leave it out, or use a strategy that does"
            )
        if directory is None:
            return self._pipeline(strategy, None)
        opened = Directory(owner, directory)
        try:
            return self._pipeline(strategy, opened)
        except BaseException:
            opened.close()
            raise

    def _pipeline(self, strategy: Strategy, directory: Directory | None) -> Pipeline:
        sizes = [p.size for p in self.parameters]
        chosen = strategy.chosen(sizes)
        others = [i for i in range(len(sizes)) if i not in chosen]
        self._check_memory(strategy, sum(sizes[i] for i in chosen))
        plan = [(strategy, sorted(chosen)), (strategy.all_resident(self.settings.weights), others)]
        shares = [self._share(how, members, directory) for how, members in plan if members]
        shown = None
        if self.watched and any(share.on_device for share in shares):
            shown = Arithmetic(self.settings.rule, self.kernel, master=False)
        return Pipeline(
            self.backend,
            [p.data.reshape(-1) for p in self.parameters],
            self.settings.names,
            shares,
            self.workers,
            shown,
            self.ledger,
            directory,
        )

    def _share(
        self, strategy: Strategy, members: Sequence[int], directory: Directory | None
    ) -> Share:
        rule, group_of, weights = self.settings.rule, self.settings.group_of, self.settings.weights
        kept, on_device = strategy.kept(rule, weights), strategy.arithmetic == "device"
        kernel = NumpyKernel if on_device else self.kernel
        master = strategy.master_home(weights) is not None
        arithmetic = Arithmetic(rule, kernel, master=master)
        arena = Arena(
            self.backend,
            self.parameters,
            sorted(members, key=group_of.__getitem__),  # groups are numbered as they first come
            kept,
            pinned=on_device,
            record=self.ledger.at(),
            directory=directory,
        )
        return Share(
            self.backend,
            strategy,
            rule,
            weights,
            arena,
            arithmetic,
            self.chunk_size,
            self.slots,
            self.accumulate,
        )

    def _check_memory(self, strategy: Strategy, size: int) -> None:
        settings = self.settings
        each = strategy.memory_per_parameter(settings.rule, settings.weights, self.accumulate)
        needed, free = int(each["host"] * size), _free_bytes()
        if free is not None and needed > free:
            warnings.warn(
                f"{settings.owner}: strategy {strategy.name!r} keeps {needed:,} bytes on the host, "
                f"which has {free:,} free",
                UserWarning,
                stacklevel=6,
            )

    def state(self, pipeline: Pipeline) -> State:
        """Return the state that a pipeline works on."""

        def views(thing: str) -> Mapping[str, Array]:
            found: dict[str, Array] = {}
            for share in pipeline.shares:
                if thing in share.arena.arrays:
                    found |= share.arena.views(thing)
            names = [name for name in self.settings.names if name in found]
            return MappingProxyType({name: found[name] for name in names})

        slots = {slot: views(slot) for slot in self.settings.rule.slots}
        return State(self.parameters, slots, {kind: views(kind) for kind in EXTRAS})


def declared_by(pipeline: Pipeline, settings: Settings) -> list[Declared]:
    """Return what the parameters of each share go through in a step: what a ledger expects."""
    rule, names = type(settings.rule).__name__, settings.names
    return [
        Declared(
            rule,
            share.hops(first=share.accumulate == 1),
            frozenset(names[i] for i in share.arena.indices),
            share.hops(last=False),
            share.hops(first=False, last=False),
            share.hops(),
        )
        for share in pipeline.shares
    ]


def memory_of(pipeline: Pipeline) -> OptimizerMemory:
    """Return where the bytes are; gradients are counted as if all of them exist."""
    kinds: dict[tuple[Any, str], int] = {}

    def add(place: str, kind: str, nbytes: int) -> None:
        kinds[place, kind] = kinds.get((place, kind), 0) + nbytes

    for share in pipeline.shares:
        size = each(share.weights) * share.arena.size
        sums = share.accumulate > 1 and share.strategy.sum_in in ("device", "resent")
        add("device", "parameters", int(size))
        add("device", "gradients", int(size) * (1 + sums))
        for thing, (home, _) in share.homes.items():
            kind = "master" if thing == "master" else "moments"
            pinned = share.on_device and home == "host"
            add("pinned" if pinned else home, kind, share.arena.arrays[thing].nbytes)
        waiting = [*share.rests, *([] if share.sums is None else [share.sums])]
        for array in waiting:
            add("pinned", "gradients", array.nbytes)
        for place, nbytes in share.ring.items():
            add("pinned" if place == "host" else place, "staging", nbytes)
    return OptimizerMemory(tuple(Holding(*key, n) for key, n in kinds.items() if n))


def _free_bytes() -> int | None:
    """Return how many bytes of memory the host can still give, where it can be told."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # Linux; free pages are not all
            lines = dict(line.split(":", 1) for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        return None
