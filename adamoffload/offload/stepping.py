"""`Stepping`: how an optimizer takes a step, and what it holds back until then.

Gradients come together, with a call, or one by one, with `submit`; of a step of several micro-steps
they are added up first; with a delay they are applied a step later. Everything is checked before
anything changes, and a failure half-way is never silent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from adamoffload.device.backend import Array
from adamoffload.device.parameter import Claim, Parameter
from adamoffload.observe.probes import Probe
from adamoffload.observe.steps import NoReport
from adamoffload.offload.chunk import Arriving, Kind, Underway
from adamoffload.offload.decide import StepDecays, decide
from adamoffload.offload.finite import FiniteCheck, NoCheck
from adamoffload.offload.gradients import Gradients
from adamoffload.offload.integrity import StepUnderway
from adamoffload.offload.kept import Kept
from adamoffload.offload.norm import GlobalNorm, clip_factor
from adamoffload.offload.pipeline import ONLY
from adamoffload.plan.step import DOWN

__all__ = ["Stepping"]


class Stepping(Kept):
    """The part of an `Optimizer` that takes steps."""

    _gradients: Gradients
    _check: FiniteCheck | NoCheck
    _norm: GlobalNorm
    _probe: Probe
    _report: NoReport
    _claim: Claim

    @property
    def pending(self) -> int:
        """How many gradients of each parameter are held back.

        Micro-steps of a step that is not complete; and, with a delay, the one that the next step
        applies. `flush` applies them.
        """
        return self._micro_step + (self._late is not None)

    def __call__(self, gradients: Any, *, loss: Any = None) -> tuple[bool, ...]:
        """Take one step, updating the parameters in place.

        Parameters
        ----------
        gradients : sequence of device array or None, or mapping from name to device array
            One for each of `parameters`, in that order; of the parameter's shape and type. Any
            layout; one that is not C-contiguous is copied first, on the device. None, or a name
            that is missing: no gradient this time.
        loss : float or 0-D array, optional
            For ``on_step``, and read only if there is one.

        Returns
        -------
        tuple of bool
            For each parameter, whether it was moved: False for one without a gradient, in a
            micro-step that only adds up, in the first step that is delayed, and if
            ``on_nonfinite="skip"`` has left the step out.

        Raises
        ------
        FloatingPointError
            For a number that is not finite, or too large, with ``on_nonfinite="raise"``; parameter,
            index and value are named. Nothing has changed.
        ValueError
            For a wrong number of gradients, a wrong name or shape, or a gradient that shares
            memory with a parameter. Nothing has changed.
        TypeError
            For a wrong container, object or dtype; `ResidencyError` for one that is elsewhere.
            Nothing has changed.
        RuntimeError
            If a table of learning rates has run out, or a schedule has loaded a state (nothing else
            has changed), or an earlier step failed half-way.

        Notes
        -----
        Whatever else is raised, `KeyboardInterrupt` included: either nothing has changed, and the
        next call works, or every further call raises `RuntimeError` and says which parameters had
        been touched. An interrupt in the last moment may also find the step done; `global_step`
        tells. With ``accumulate``, a step that raises when it is complete drops its micro-steps:
        begin with the first again.
        """
        with self._lock:
            if self._submitted:
                raise RuntimeError(
                    f"{self._settings.owner}: gradients were submitted, so that step() must end "
                    f"this step, not a call; discard() drops them"
                )
            return self._ended(self._gradients.flat(gradients), loss)

    def submit(self, parameter: Parameter | str, gradient: Array) -> None:
        """Hand over one gradient of this step, as soon as it exists; `step` ends the step.

        Where the arithmetic is on the host, it begins to go down at once, beside the rest of the
        backward pass, and its memory on the device is free when it is there; gradients then rest
        on the host, in pinned memory, until the step. Small neighbours leave together, when the
        last of them has come. Until then, and where nothing can leave early, the optimizer keeps
        the gradient: where decay is computed on the device behind a clipping, with gradient
        centralization, and where the arithmetic is on the device.

        Parameters
        ----------
        parameter : Parameter or str
            Whose, or its name.
        gradient : device array
            Of its shape and type; neither it nor its memory may be written to before `step`
            returns.

        Raises
        ------
        ValueError
            If it was submitted already, is of another shape, or of no parameter of this optimizer.
        TypeError
            For a wrong object or dtype; `ResidencyError` for one that is elsewhere.
        RuntimeError
            If an earlier step failed half-way, or another optimizer has taken a parameter over.
        """
        with self._lock:
            index, flat = self._gradients.one(parameter, gradient)
            name = self._settings.names[index]
            if index in self._submitted:
                raise ValueError(
                    f"{self._settings.owner}: a gradient of {name!r} was submitted already in this "
                    f"step; call step() first, or discard() what was submitted"
                )
            self._integrity.check()
            self._claim.check(self._settings.owner)
            if not self._submitted and not self._micro_step:
                self._report.begin(first=True)
            try:
                self._submitted.add(index)
                if name not in self._state.counters.frozen:
                    self._arrived(index, flat)
            except BaseException:
                self._drop(name)
                raise
            self._dropped.discard(name)

    def _arrived(self, index: int, gradient: Array) -> None:
        with np.errstate(all="ignore"):
            if self._underway is None:
                self._underway = self._begun()
                self._underway.early = True
            self._collect(self._underway, index, gradient, self._underway.again, early=True)

    def step(self, *, loss: Any = None) -> tuple[bool, ...]:
        """Take a step with the gradients that were submitted; see `__call__`.

        Raises
        ------
        RuntimeError
            If none was submitted, or one that was dropped was not submitted again.
        """
        with self._lock:
            if self._dropped:
                raise RuntimeError(
                    f"{self._settings.owner}: a submission has failed, and with it were dropped "
                    f"{', '.join(sorted(self._dropped))}; submit them again, or discard() the step"
                )
            if not self._submitted:
                raise RuntimeError(
                    f"{self._settings.owner}: no gradient was submitted; call submit(parameter, "
                    f"gradient) before step(), or call the optimizer itself with all gradients"
                )
            return self._ended([], loss)

    def flush(self) -> tuple[bool, ...]:
        """Apply what is held back: the micro-steps so far, and a gradient that is late.

        Returns
        -------
        tuple of bool
            For each parameter, whether it was moved.
        """
        with self._lock:
            moved = (False,) * len(self._parameters)
            if self._micro_step:
                moved = self._ended([], last=True)
            if self._late is not None:
                late = self._guarded(self._apply_late)
                moved = tuple(a or b for a, b in zip(moved, late, strict=True))
            return moved

    def discard(self) -> None:
        """Drop the gradients that were submitted, and the micro-steps so far.

        For after an exception in a backward pass: nothing of the state had changed.
        """
        with self._lock:
            self._dropped = set()
            self._forget_step()
            self._pipeline.settle()  # what has been lost of earlier steps, the next one tells
            self._pipeline.renew(self._kept_rest, ())

    def _drop(self, *failed: str) -> None:
        """Drop what was submitted, when a submission has failed: its sum may be half done."""
        names = self._settings.names
        dropped = {names[i] for i in (*self._submitted, *self._summed)} | {*failed} | self._dropped
        if self._micro_step:
            dropped.add("the micro-steps before")
        try:
            self.discard()
        finally:
            self._dropped = dropped

    # -- collecting -----------------------------------------------------------------------------

    @property
    def _looks(self) -> bool:
        """Whether the norm of the gradients is wanted."""
        return self._settings.max_norm is not None or self._report.wanted

    def _begun(self) -> Underway:
        """Return a step that gradients are collected for."""
        late = self._late
        number = self._state.counters.global_step + 1 + (late is not None)
        rest = 0 if late is None else 1 - late.rest  # the place that it does not occupy
        decays = StepDecays(self._settings, number - 1)
        arriving = Arriving(
            [None] * len(self._parameters), decays.l2, self._unscale(), self._settings.scaled
        )
        return Underway(self._pipeline.around, arriving, number, decays, rest)

    def _unscale(self) -> np.float32:
        """Return what gradients that come now are multiplied by."""
        if self._scaler is None:
            return self._settings.unscale
        return np.float32(1 / self._scaler.scale)

    def _rescaled(self, unscale: np.float32, *, sound: bool) -> np.float32:
        """Let a dynamic loss scale learn from a step; return what is multiplied by."""
        if self._scaler is None:
            return unscale
        return np.float32(1 / self._scaler.update(not sound))

    def _collect(
        self,
        underway: Underway,
        index: int,
        gradient: Array,
        touched: list[int],
        *,
        early: bool = False,
    ) -> None:
        """Take a gradient of this micro-step."""
        share = self._pipeline.share_of[index]
        last = self._micro_step + 1 >= self._accumulate
        kind: Kind | None = ONLY
        if share.sums is not None:
            kind = (index not in self._summed, last, True)
            if index in self._summed:
                touched.append(index)
            self._summed[index] = self._summed.get(index)
        elif self._accumulate > 1:
            gradient = self._added(index, gradient, touched)
            if not last:
                kind = (True, False, True) if share.strategy.sum_in == "resent" else None
        if kind is None:
            return
        underway.arriving.gradients[index] = gradient
        if self._looks and last:
            underway.squares[index] = self._norm.of(gradient)
        underway.kinds[index] = kind
        if early and self._leaves_early(index):
            if self._pipeline.arrive(underway, index, kind) and isinstance(self._check, NoCheck):
                underway.arriving.gradients[index] = DOWN
                if last:
                    self._summed[index] = None
            underway.kinds[index] = None  # the pipeline knows

    def _added(self, index: int, gradient: Array, touched: list[int]) -> Array:
        """Add a gradient to the sum on the device, and return that."""
        total = self._summed.get(index)
        if total is None:
            total = self._summed[index] = gradient.copy()
        else:
            touched.append(index)
            np.add(total, gradient, out=total)
        return total

    def _leaves_early(self, index: int) -> bool:
        settings, share = self._settings, self._pipeline.share_of[index]
        centralized = settings.groups[settings.group_of[index]].centralize
        # Behind a barrier, the device scales and decays when that has been passed.
        behind = settings.scaled and not share.scales_late
        return not (share.on_device or centralized or behind)

    @property
    def _kept_rest(self) -> int | None:
        """The place on the host where a gradient that is late lies."""
        return None if self._late is None else self._late.rest

    def _forget_step(self) -> None:
        self._submitted, self._summed, self._micro_step = set(), {}, 0
        self._underway = None
        self._pipeline.drop()

    # -- ending a step --------------------------------------------------------------------------

    def _ended(
        self, flat: Sequence[Array | None], loss: Any = None, *, last: bool = False
    ) -> tuple[bool, ...]:
        if flat:
            self._report.begin(first=not self._micro_step)
        before, underway = (dict(self._summed), self._micro_step), self._underway
        last = last or self._micro_step + 1 >= self._accumulate
        try:
            if last:
                self._micro_step = self._accumulate - 1
            moved = self._guarded(lambda mark: self._end(flat, mark), () if last else before[0])
        except BaseException:
            taken = self._micro_step > before[1]  # interrupted in the last moment
            if underway is not None and underway.again and not (last or taken):
                self._drop()  # what was submitted is in the sums
                raise
            kept = (self._summed, self._micro_step) if taken else before
            self._forget_step()  # one that was complete drops its micro-steps
            if not last:
                self._summed, self._micro_step = kept
            raise
        if last:
            self._report.end(loss, self._state.counters.global_step, taken=any(moved))
        else:
            self._report.add(loss)
        return moved

    def _guarded(
        self, work: Callable[[StepUnderway], tuple[bool, ...]], kept: Collection[int] = ()
    ) -> tuple[bool, ...]:
        """Run a step, and judge it if it fails; then the sums of some parameters are kept."""
        mark = StepUnderway(self._state.counters.global_step + 1)
        scale, late = self.scale_state, self._late
        with np.errstate(all="ignore"):  # inf and NaN pass through, as numbers do
            try:
                self._integrity.begin(mark)
                self._claim.check(self._settings.owner)
                moved = work(mark)
                self._integrity.end(mark)
            except BaseException as error:
                counters = self._state.counters
                settle = partial(self._pipeline.settle, late)
                if self._integrity.conclude(mark, error, counters, settle):
                    self._late = late
                    self._pipeline.renew(self._kept_rest, kept)
                    self.take_scale(scale)
                raise
        return moved

    def _end(self, flat: Sequence[Array | None], mark: StepUnderway) -> tuple[bool, ...]:
        """End a micro-step, and if it is the last, the step."""
        names, frozen = self._settings.names, self._state.counters.frozen
        underway = self._underway or self._begun()
        for i, gradient in enumerate(flat):
            if gradient is not None and not (frozen and names[i] in frozen):
                self._collect(underway, i, gradient, mark.touched)
        if self._micro_step + 1 < self._accumulate:
            self._pipeline.arrived(underway)
            self._pipeline.send(underway, underway.kinds)
            self._submitted, self._underway = set(), None
            self._micro_step += 1
            mark.touched.clear()
            return (False,) * len(names)
        mark.touched.clear()  # sums that are dropped with the step
        self._take_sums(underway)
        moved = self._taken(underway, mark)
        self._forget_step()
        return moved

    def _take_sums(self, underway: Underway) -> None:
        """Take the parameters in, in the last micro-step, that had gradients in earlier ones."""
        for i, total in self._summed.items():
            if underway.kinds[i] is None and underway.arriving.gradients[i] is None:
                share = self._pipeline.share_of[i]
                underway.kinds[i] = (False, True, False) if share.sums is not None else ONLY
                underway.arriving.gradients[i] = DOWN if total is None else total
                if total is not None and self._looks:
                    underway.squares[i] = self._norm.of(total)

    def _taken(self, underway: Underway, mark: StepUnderway) -> tuple[bool, ...]:
        """Apply the gradients of a step, now or a step later."""
        arriving, pipeline, strategy = underway.arriving, self._pipeline, self._strategy
        gradients, unmoved = arriving.gradients, (False,) * len(self._parameters)
        if all(g is None for g in gradients):
            return unmoved
        if not strategy.delay or self._state.counters.global_step < strategy.warmup_steps:
            return self._applied(underway, mark)
        sound = self._check.passes(
            underway.number, gradients, arriving.l2, arriving.unscale, self._ledger
        )
        unscale = self._rescaled(arriving.unscale, sound=sound)
        underway.arriving = replace(arriving, unscale=unscale)
        if sound:
            pipeline.arrived(underway)
            pipeline.send(underway, underway.kinds)
            for i, gradient in enumerate(gradients):
                if gradient is not None:
                    resident = pipeline.share_of[i].on_device
                    gradients[i] = gradient.copy() if resident else DOWN
        before, self._late = self._late, underway if sound else None
        return unmoved if before is None else self._applied(before, mark, late=True)

    def _apply_late(self, mark: StepUnderway) -> tuple[bool, ...]:
        late, self._late = self._late, None
        assert late is not None, "whoever asks has looked"
        return self._applied(late, mark, late=True)

    def _applied(
        self, underway: Underway, mark: StepUnderway, *, late: bool = False
    ) -> tuple[bool, ...]:
        """Decide a step and carry it out; return what was moved."""
        arriving, settings = underway.arriving, self._settings
        step = decide(
            settings,
            self._state.counters,
            self._parameters,
            arriving.gradients,
            mark,
            arriving.unscale,
            underway.decays,
        )
        self._integrity.confirm(mark)
        sound = late or self._check.passes(
            step.number, step.gradients, lambda i: step.of(i).l2, arriving.unscale, self._ledger
        )
        if not late:
            step = replace(step, unscale=self._rescaled(step.unscale, sound=sound))
        if self._looks:
            scale, clip = 1 / float(step.unscale), 1.0
            record = self._ledger.at(step.number if sound else None)
            norm = self._norm.total(underway.squares, scale, record)
            if settings.max_norm is not None:
                clip = clip_factor(norm, settings.max_norm)
                step = replace(step, unscale=np.float32(clip / scale))
            self._report.decided(step, norm, clip, scale)
        if not sound:
            return (False,) * len(step.gradients)
        observer = self._probe.observe(step)
        self._ledger.sample_memory(step.number, self._backend, self._holdings)
        underway.decided(step, observer)
        self._pipeline.arrived(underway)
        self._pipeline.finish(underway)
        if not late:
            self._pipeline.run(underway, underway.kinds)
        self._ledger.sample_memory(step.number, self._backend, self._holdings)
        observer.close()
        counters = self._state.counters  # a schedule may have assigned a rate
        missed = tuple(
            k + (g is None) for k, g in zip(counters.missed, step.gradients, strict=True)
        )
        mark.after = counters._replace(global_step=step.number, missed=missed)
        self._state.counters = mark.after
        return tuple(g is not None for g in step.gradients)
