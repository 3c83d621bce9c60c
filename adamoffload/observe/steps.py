"""`StepRecord`: what a step did, in the plain numbers that loggers take; and who is told.

The norm of the gradients is computed on the device: 8 bytes for each tensor come down, in one copy,
recorded as the hop ``check``. Where nobody asks, nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from adamoffload.device.backend import Backend
from adamoffload.plan.step import Step

__all__ = ["NO_REPORT", "NoReport", "Report", "StepRecord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What a step did.

    Attributes
    ----------
    step : int
        The optimizer's ``global_step`` when it was over.
    taken : bool
        False for a step that ``on_nonfinite="skip"`` left out.
    loss : float or None
        What was passed as ``loss=``, over accumulated calls the sum; None where nothing was.
    gradient_norm : float
        Euclidean norm of all gradients together, divided by the loss scale, before decay and
        clipping.
    clip_factor : float
        What ``max_norm`` multiplied them by; 1 for nothing.
    learning_rate, learning_rate_min : float
        The largest and the smallest of the parameters that had a gradient.
    loss_scale : float
        What the loss was multiplied by.
    d2h_bytes, h2d_bytes : int
        What crossed the link from the call to its return, what was looked at for this record
        included.
    seconds : float
        From the call to its return, on the device's clock. Work may still be under way then.
    """

    step: int
    taken: bool
    loss: float | None
    gradient_norm: float
    clip_factor: float
    learning_rate: float
    learning_rate_min: float
    loss_scale: float
    d2h_bytes: int
    h2d_bytes: int
    seconds: float

    def numbers(self) -> dict[str, float]:
        """Return every field but ``step`` by name, as a float; without a loss, none for it.

        Examples
        --------
        >>> record = StepRecord(
        ...     step=7, taken=True, loss=None, gradient_norm=2.5, clip_factor=1.0,
        ...     learning_rate=0.1, learning_rate_min=0.1, loss_scale=1.0, d2h_bytes=8,
        ...     h2d_bytes=4, seconds=0.5,
        ... )
        >>> record.numbers()["gradient_norm"], "loss" in record.numbers()
        (2.5, False)
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: float(x) for k, x in values.items() if k != "step" and x is not None}


class NoReport:
    """Tells nobody: what an optimizer has without ``on_step``."""

    wanted = False
    """Whether somebody is told, so that the norm is computed."""

    def begin(self, *, first: bool) -> None:
        """Do nothing."""

    def add(self, loss: Any) -> None:
        """Do nothing."""

    def decided(self, step: Step, norm: float, clip_factor: float, loss_scale: float) -> None:
        """Do nothing."""

    def end(self, loss: Any, global_step: int, *, taken: bool) -> None:
        """Do nothing."""


NO_REPORT = NoReport()


class Report(NoReport):
    """Tells somebody of each step.

    Parameters
    ----------
    callback : callable
        Is called with a `StepRecord` when a step is over.
    backend : Backend
        The device.
    """

    wanted = True

    def __init__(self, callback: Callable[[StepRecord], object], backend: Backend) -> None:
        self._callback = callback
        self._backend = backend
        self._begun = (0.0, 0, 0)
        self._losses: list[Any] = []
        self._decided: tuple[Step, float, float, float] | None = None

    def begin(self, *, first: bool) -> None:
        """Begin a call; with the first one a step begins."""
        self._decided = None
        if first:
            self._begun = (self._backend.now(), *self._backend.traffic())
            self._losses = []

    def add(self, loss: Any) -> None:
        """Add the loss of a call, if there is one."""
        if loss is not None:
            self._losses.append(loss)

    def decided(self, step: Step, norm: float, clip_factor: float, loss_scale: float) -> None:
        """Take note of a step that may be taken."""
        self._decided = step, norm, clip_factor, loss_scale

    def end(self, loss: Any, global_step: int, *, taken: bool) -> None:
        """Tell of the step, if there was one; what the callback raises is raised."""
        if self._decided is None:
            return
        (step, norm, clip_factor, loss_scale), self._decided = self._decided, None
        self.add(loss)
        losses = [self._number(loss) for loss in self._losses]
        rates = [float(step.of(i).lr) for i, g in enumerate(step.gradients) if g is not None]
        now, traffic = self._backend.now(), self._backend.traffic()
        begun_s, d2h_bytes, h2d_bytes = self._begun
        self._callback(
            StepRecord(
                step=global_step,
                taken=taken,
                loss=sum(losses) if losses else None,
                gradient_norm=norm,
                clip_factor=clip_factor,
                learning_rate=max(rates),
                learning_rate_min=min(rates),
                loss_scale=loss_scale,
                d2h_bytes=traffic.d2h - d2h_bytes,
                h2d_bytes=traffic.h2d - h2d_bytes,
                seconds=now - begun_s,
            )
        )

    def _number(self, loss: Any) -> float:
        owned = self._backend.owns(loss)
        return float(self._backend.asnumpy(loss).item() if owned else loss)
