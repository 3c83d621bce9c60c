"""`Kept`: how an optimizer's state is taken away, brought back, and moved elsewhere.

Everything is checked before anything is replaced, and a failure half-way is never silent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np

from adamoffload.arguments import flag
from adamoffload.device.backend import Array, Backend, HostArray
from adamoffload.device.parameter import Parameter
from adamoffload.names import check_keys
from adamoffload.observe.ledger import Holding, Ledger
from adamoffload.offload.build import Builder, check_combination, declared_by, memory_of
from adamoffload.offload.chunk import Underway
from adamoffload.offload.finite import FiniteCheck, NoCheck
from adamoffload.offload.integrity import Integrity
from adamoffload.offload.loss_scale import DynamicLossScale
from adamoffload.offload.pipeline import Pipeline
from adamoffload.offload.settings import Settings
from adamoffload.offload.state import (
    EXTRAS,
    Counters,
    Key,
    State,
    adopt,
    read_arrays,
    read_counters,
)
from adamoffload.offload.transfer import on_host, transfer
from adamoffload.plan.strategy import Strategy, find_strategy

__all__ = ["Kept"]

_OPTIONAL_KEYS = (
    *("missed", "frozen", "learning_rates", "constants"),
    *("loss_scale", "master", "compensation"),
)
_STATE_KEYS = ("global_step", "learning_rate", "hyperparameters", "slots", *_OPTIONAL_KEYS)


class Kept:
    """The part of an `Optimizer` that keeps its state, and gives and takes it."""

    _backend: Backend
    _parameters: tuple[Parameter, ...]
    _settings: Settings
    _strategy: Strategy
    _builder: Builder
    _ledger: Ledger
    _pipeline: Pipeline
    _state: State
    _integrity: Integrity
    _lock: AbstractContextManager[Any]
    _holdings: tuple[Holding, ...]
    _scaler: DynamicLossScale | None
    _accumulate: int
    _check: FiniteCheck | NoCheck
    _submitted: set[int]
    """Indices of the parameters whose gradients were submitted in this micro-step."""
    _summed: dict[int, Array | None]
    """By index, the sums over the micro-steps of this step; None for one on the host."""
    _micro_step: int
    _dropped: set[str]
    """What must be submitted again, since a submission has failed."""
    _underway: Underway | None
    """The step that gradients are submitted for."""
    _late: Underway | None
    """A step that is applied with the next one."""

    def _forget_step(self) -> None:
        raise NotImplementedError

    @contextmanager
    def exclusive(self) -> Iterator[State]:
        """Let no step run in the block, and nothing be in flight: for who takes the state away.

        Raises
        ------
        RuntimeError
            If a step or a load failed half-way, or one is not complete: there is no state to keep.
        """
        with self._lock:
            self._integrity.settled(self._pipeline.settle)
            if self._late is not None:
                raise RuntimeError(
                    f"{self._settings.owner}: a gradient is still to be applied; flush() does it"
                )
            if self._submitted or self._micro_step:
                done = f"{self._micro_step} of {self._accumulate} micro-steps"
                raise RuntimeError(
                    f"{self._settings.owner}: a step is not complete ({done}); flush() takes it"
                )
            self._backend.synchronize()  # also what others have issued may write the parameters
            yield self._state

    @contextmanager
    def replacing(self, counters: Counters, what: str = "a load") -> Iterator[list[Key]]:
        """Guard a block that replaces arrays: it appends the key of each before it begins.

        If it ends well, the counters follow, and the optimizer is whole. If it fails with a key in
        the list, the optimizer refuses to go on.
        """
        with self._lock, self._integrity.replacing(what) as touched:
            self._pipeline.settle()  # nothing may still write there; what has failed is replaced
            self._backend.synchronize()
            yield touched
            self._pipeline.forget()
            self._forget_step()
            self._late, self._dropped = None, set()
            self._state.counters = counters

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that this optimizer needs to go on where it is now.

        The parameters' values are not in it: `adamoffload.save` keeps both. Arrays on a device are
        copied to the host, counted.

        Returns
        -------
        dict
            ``slots``: dict from slot to dict of ndarray, float32, by parameter name. ``master``:
            likewise, where there is one. ``global_step``: int. ``learning_rate``: float32, the
            default rate as last assigned; None if it is a table or a function. Where there is
            something to say, ``missed``, ``frozen`` and ``learning_rates``, by name.
            ``hyperparameters``: dict, as the optimizer was constructed. Numbers and tables stand
            there by value, schedules and other callables by name, ours also by their arguments.

        Raises
        ------
        RuntimeError
            If a step or a load failed half-way, or one is not complete.

        Warns
        -----
        UserWarning
            If an object that computes a rate or a decay has changed since construction.
        """
        self._settings.warn_of_unsaved("state_dict", 2)
        return self._plain_state()

    def _plain_state(self) -> dict[str, Any]:
        with self.exclusive() as state:
            kept = state.counters.plain(self._settings)
            kinds: dict[str, dict[str, HostArray]] = {kind: {} for kind in (*state, *EXTRAS)}
            for (kind, name), array in state.arrays().items():
                if kind != "parameter":
                    kinds[kind][name] = on_host(self._backend, array, self._ledger.at())
            extras = {kind: kinds.pop(kind) for kind in EXTRAS}
            if self._scaler is not None:
                kept["loss_scale"] = self._scaler.state_dict()
            kept["slots"] = kinds
            return kept | {kind: arrays for kind, arrays in extras.items() if arrays}

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Take over a state, of this or another optimizer with the same rule and parameters.

        Everything is checked before anything changes, and nothing of `state` is kept: arrays are
        copied. It does not matter on which backend, in which chunks, or under which strategy the
        state was made. The parameters' values stay as they are: where they must come back too, as
        after a step that failed half-way, use `adamoffload.load`, which does both.

        A fixed learning rate that was assigned in the run is assigned here too. It makes no
        difference whether the optimizer was constructed with the rate that the run began with, or
        with the one that it had last; a third one is a hyper-parameter that differs.

        Parameters
        ----------
        state : mapping
            From `state_dict`.
        strict : bool
            Refuse a state that was made with other hyper-parameters. If False, those of this
            optimizer stay, also its learning rate, and a warning lists what differs.

        Raises
        ------
        ValueError
            If something is missing, unknown, of another shape, out of range or negative where it
            cannot be, or hyper-parameters differ. Nothing has changed.
        TypeError
            If something is of the wrong kind or dtype; `ResidencyError` for an array on a device.
            Nothing has changed.

        Warns
        -----
        UserWarning
            If hyper-parameters differ and `strict` is False.

        Notes
        -----
        NaN and infinities are legal, as results of such gradients. If a copy to the device fails,
        what it held is copied back; if that fails too, the optimizer refuses to go on, as after a
        step that failed half-way, until a state is loaded.
        """
        with self._lock:
            owner = "load_state_dict"
            check_keys(owner, "the state", state, _STATE_KEYS, _OPTIONAL_KEYS)
            slots = state["slots"]
            check_keys(owner, "slots", slots, self._settings.rule.slots)
            self._load(state, slots, strict=flag(self._settings.owner, "strict", strict))

    def _load(
        self,
        state: Mapping[str, Any],
        slots: Mapping[str, Any],
        *,
        strict: bool,
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Check a state and take it over; `names` says what messages call a slot."""
        owner, rule = "load_state_dict", self._settings.rule
        saved = read_counters(owner, state, self._settings.names)
        new: dict[Key, HostArray] = {}
        for slot in rule.slots:
            squares = slot in rule.squares
            shown = names.get(slot, slot)
            arrays = read_arrays(owner, shown, slots[slot], self._parameters, squares=squares)
            new |= {(slot, name): array for name, array in arrays.items()}
        if "master" in state and self._state.master:
            masters = [p for p in self._parameters if p.name in self._state.master]
            arrays = read_arrays(owner, "master", state["master"], masters, squares=False)
            new |= {("master", name): array for name, array in arrays.items()}
        for name, lost in state.get("compensation", {}).items():
            if ("compensation", name) in self._state.arrays():
                new["compensation", name] = lost
        own = self._state.counters
        counters = adopt(owner, saved, self._settings, own, strict=strict, stacklevel=4)
        self._take_over(new, counters)
        self.take_scale(state.get("loss_scale"))

    def take_scale(self, state: Any) -> None:
        """Let a dynamic loss scale go on from a state, if there are both."""
        if self._scaler is not None and state is not None:
            self._scaler.load_state_dict(state)

    @property
    def scale_state(self) -> dict[str, float] | None:
        """The state of a dynamic loss scale; None without one."""
        return None if self._scaler is None else self._scaler.state_dict()

    def _take_over(self, new: Mapping[Key, HostArray], counters: Counters) -> None:
        """Replace arrays and counters.

        What is on the device or the disk comes first, since a copy there may fail. Then it is
        undone: what was there has been brought to the host before. Copies within the host do not
        fail.
        """
        targets = self._state.arrays()
        near = {key: targets[key] for key in new if isinstance(targets[key], np.ndarray)}
        away = {key: targets[key] for key in new if key not in near}
        own = self._pipeline.host_arrays()
        # A view of one array may come as the state of another.
        new = {
            key: x.copy() if any(np.may_share_memory(x, array) for array in own) else x
            for key, x in new.items()
        }
        with self.replacing(counters) as touched:
            before = {
                key: on_host(self._backend, array, self._ledger.at()) for key, array in away.items()
            }
            try:
                self._send(away, new, touched)
            except BaseException:
                self._pipeline.rest()  # an interrupt may have left a copy on its way
                self._send({key: away[key] for key in touched}, before, [])
                touched.clear()
                raise
            for key, array in near.items():
                touched.append(key)
                np.copyto(array, new[key])

    def _send(
        self, targets: Mapping[Key, Array], sources: Mapping[Key, HostArray], touched: list[Key]
    ) -> None:
        for key, target in targets.items():
            touched.append(key)
            transfer(self._backend, sources[key], target, self._ledger.at())

    def reload_master(self) -> None:
        """Make the master weights anew from the parameters, after these were changed by hand.

        Does nothing where there is no master.
        """
        with self.exclusive() as state:
            for (kind, name), array in state.arrays().items():
                if kind == "master":
                    parameter = state.arrays()["parameter", name]
                    transfer(self._backend, parameter, array, self._ledger.at())

    def to(
        self, strategy: str | Strategy, *, directory: str | os.PathLike[str] | None = None
    ) -> None:
        """Change the strategy between two steps; the state moves, and nothing else changes.

        Parameters
        ----------
        strategy : str or Strategy
            A name in `adamoffload.strategies`, or one of your own.
        directory : str or path-like, optional
            As for the constructor; another one than the optimizer has now, for a moment has both.

        Raises
        ------
        TypeError, ValueError
            If it is no strategy, lacks a directory, or cannot do what else was asked for, as in
            the constructor; or if a probe looks on, which was told
            where everything lies.
        RuntimeError
            If a step or a load failed half-way, or one is not complete.
        DeviceMemoryError, OSError
            If there is no room for both for a moment. Nothing has changed.
        """
        new = find_strategy(self._settings.owner, strategy)
        check_combination(self._settings, new, self._accumulate, self._check.policy)
        if self._builder.watched:
            raise ValueError(
                f"{self._settings.owner}: to() cannot move what a probe watches; construct an "
                f"optimizer with the other strategy, and load this one's state"
            )
        with self.exclusive() as state:
            pipeline = self._builder.pipeline(new, directory)
            try:
                moved, sources = self._builder.state(pipeline), state.arrays()
                for key, target in moved.arrays().items():
                    if key in sources and key[0] != "parameter":
                        transfer(self._backend, sources[key], target, self._ledger.at())
            except BaseException:
                pipeline.close()
                raise
            moved.counters, before = state.counters, self._pipeline
            self._pipeline, self._state, self._strategy = pipeline, moved, new
            self._holdings = memory_of(pipeline).holdings
            self._ledger.attach(self._backend, declared_by(pipeline, self._settings))
            before.close()
