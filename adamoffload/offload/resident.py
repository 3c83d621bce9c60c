"""`Adam`: the optimizer that keeps everything on the device.

What `AdamOffload` is compared with: the same rule, the same arguments and, bitwise, the same
parameters after every step, at 16 bytes a parameter on the device instead of 8 and without any
traffic on the link. The rule is the plain NumPy of `adamoffload.rules.adam`, which NumPy's
protocols take to the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from adamoffload.arguments import instance
from adamoffload.device.backend import Array, Backend, DeviceMemoryError
from adamoffload.observe.ledger import NO_LEDGER, Holding, Ledger
from adamoffload.offload.abstract import AbstractAdam
from adamoffload.offload.integrity import Issued, Loss
from adamoffload.plan.step import Step
from adamoffload.rules.adam import adam
from adamoffload.rules.rule import with_flush

__all__ = ["Adam", "ResidentMemory"]


class ResidentMemory(NamedTuple):
    """Where the bytes of a training run with `Adam` are, by kind: all on the device.

    Attributes
    ----------
    parameters, gradients : int
        One float32 each for every parameter.
    moments : int
        Two float32 for every parameter.
    """

    parameters: int
    gradients: int
    moments: int

    @property
    def device(self) -> int:
        """Bytes on the device."""
        return sum(self)

    @property
    def host(self) -> int:
        """Bytes on the host: none."""
        return 0

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """The same by place and kind, as a ledger records it."""
        return tuple(Holding("device", kind, nbytes) for kind, nbytes in self._asdict().items())


class Adam(AbstractAdam):
    """Adam with moments and arithmetic on the device, beside parameters and gradients.

    The nine arguments, their meaning, the attributes and the results are those of `AdamOffload`:
    one can take the place of the other. `moment1` and `moment2` hold device arrays, and `target` is
    the device.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        What to optimize: float32, on one device; or groups.
    learning_rate : float, iterable of float, or LearningRateSchedule
        A number >= 0, a table with one number a step, or a schedule.
    beta1, beta2, eps : float
        Constants of the rule.
    use_locking, use_nesterov : bool
        Serialise calls from several threads; use the look-ahead variant of the rule.
    weight_decay : float or callable
        L2 decay, a number >= 0 or a callable of the 0-based step.
    loss_scale : float
        What the loss was multiplied by; > 0.
    on_nonfinite : str
        ``"propagate"``, ``"raise"`` or ``"skip"``; see `AdamOffload`.
    ledger : Ledger, optional
        Records where the bytes are, and the whole update of each parameter as its ``apply``.

    Raises
    ------
    TypeError, ValueError, KeyError, RuntimeError, AttributeError
        If an argument is wrong; nothing is constructed.
    ResidencyError
        If a parameter is not on a device, or they are on several.
    DeviceMemoryError
        If the moments do not fit on the device; a note says which was being allocated. In a step,
        if the temporaries do not fit: each parameter needs a few times its own size.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.array([1.0, 2.0], np.float32)), name="w")
    >>> opt = ao.Adam([w], learning_rate=0.1)
    >>> opt((device.asarray(np.array([0.5, -3.0], np.float32)),))
    (True,)
    >>> device.asnumpy(w.data).round(4)
    array([0.9, 2.1], dtype=float32)
    >>> opt.moment1["w"]
    DeviceArray(shape=(2,), dtype=float32, device='numpy')
    >>> opt.memory(), device.memory().used
    (ResidentMemory(parameters=8, gradients=8, moments=16), 24)
    """

    def __init__(
        self,
        params: Any,
        learning_rate: Any = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        use_locking: bool = False,
        use_nesterov: bool = False,
        weight_decay: Any = 0.0,
        loss_scale: float = 1.0,
        *,
        on_nonfinite: str = "propagate",
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(
            params,
            learning_rate,
            beta1,
            beta2,
            eps,
            use_locking,
            use_nesterov,
            weight_decay,
            loss_scale,
            on_nonfinite,
        )
        if ledger is not None:
            instance(self._owner, "ledger", ledger, Ledger)
        moment1, moment2 = {}, {}
        for p in self.parameters:
            moment1[p.name] = _zeros(p.data, f"moment1 of {p.name}")
            moment2[p.name] = _zeros(p.data, f"moment2 of {p.name}")
        self._moment1, self._moment2 = MappingProxyType(moment1), MappingProxyType(moment2)
        self._flat = [  # the same memory, as the gradients come
            tuple(x.reshape(-1) for x in (p.data, moment1[p.name], moment2[p.name]))
            for p in self.parameters
        ]
        self._issued: list[Issued] = []  # in the last step
        self._ledger = ledger or NO_LEDGER
        self._ledger.attach(self._backend)
        self._holdings = self.memory().holdings

    @property
    def moment1(self) -> Mapping[str, Array]:
        """First moments by parameter name: device arrays of the parameters' shapes."""
        return self._moment1

    @property
    def moment2(self) -> Mapping[str, Array]:
        """Second moments by parameter name: device arrays of the parameters' shapes."""
        return self._moment2

    def memory(self) -> ResidentMemory:
        """Return where the bytes are; gradients are counted as if all of them exist."""
        weights = 4 * self._size
        return ResidentMemory(weights, weights, 2 * weights)

    @property
    def _place(self) -> Backend:
        return self._backend

    def _advance(self, step: Step) -> None:
        for issued in self._issued:
            issued.ticket.wait()  # the step before is long done, unless it failed on the device
        self._issued = []
        self._ledger.sample_memory(step.number, self._backend, self._holdings)
        for i, p in enumerate(self.parameters):
            updated = self._backend.run_on_device(partial(self._update, step, i))
            self._issued.append(Issued(step.number, (i,), updated))
            self._ledger.at(step.number, i, ((p.name, p.size),))("apply", p.size, 0, updated)
        self._ledger.sample_memory(step.number, self._backend, self._holdings)

    def _update(self, step: Step, i: int) -> None:
        w, m, v = self._flat[i]
        g, decay = step.gradients[i], step.decays[i]
        if decay:
            g = g + w * decay
        if self._unscale != 1:
            g = g * self._unscale
        delta, new_m, new_v = with_flush(
            partial(adam, nesterov=self._nesterov),
            step.flush,
            g,
            m,
            v,
            lr_t=step.step_sizes[i],
            beta1=self._beta1,
            beta2=self._beta2,
            eps=self._eps,
        )
        step.touched.append(i)  # memory is all taken by now: what raised so far changed nothing
        np.copyto(m, new_m)
        np.copyto(v, new_v)
        np.add(w, delta, out=w)

    def _settle(self) -> list[Loss]:
        self._backend.synchronize()
        return [loss for issued in self._issued for loss in issued.lost()]

    def _forget(self) -> None:
        self._issued = []


def _zeros(like: Array, what: str) -> Array:
    try:
        return np.zeros_like(like)
    except DeviceMemoryError as error:
        error.add_note(what)
        raise
