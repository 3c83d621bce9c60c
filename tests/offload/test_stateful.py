"""The public API in any order, against a model of a few lines of NumPy.

Hypothesis invents sequences of steps, good and bad gradients, rates, saves, loads, moves to another
device, devices that fail or are full, and threads; after each, the optimizer equals the model.
"""

from __future__ import annotations

import tempfile
import threading
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import adamoffload as ao

import faults
from lazy_backend import LazyBackend
from reference import PlainAdam

ONE = np.float32(1)
SHAPES = [[(3,)], [(2, 3), ()], [(7,), (1,), (2, 2)]]
REST = 1 << 16  # bytes of a device that are free at first


class Model:
    """Adam as the reference has it, a parameter at a time, in float32."""

    def __init__(self, weights: list[Any], rate: float, decay: float, scale: float) -> None:
        self.w = weights
        self.adam = [PlainAdam(w.shape, rate, dtype=np.float32) for w in weights]
        self.decay, self.unscale = np.float32(decay * scale), np.float32(1 / scale)
        self.steps = 0

    def step(self, gradients: list[Any]) -> None:
        self.steps += 1
        for i, g in enumerate(gradients):
            g = np.asarray((g + self.w[i] * self.decay if self.decay else g) * self.unscale)
            self.w[i] = np.asarray(self.w[i] + self.adam[i].step(g))

    def take(self, other: Model, *, weights: bool) -> None:
        """Become another one, with its weights or with one's own."""
        kept = self.w
        vars(self).update(deepcopy(vars(other)))
        self.w = self.w if weights else kept


class Training(RuleBasedStateMachine):
    """An optimizer and its model; ``None`` on disk until something is saved."""

    @initialize(
        shapes=st.sampled_from(SHAPES),
        rate=st.sampled_from([0.001, 0.5]),
        decay=st.sampled_from([0.0, 0.25]),
        scale=st.sampled_from([1.0, 8.0]),
    )
    def begin(self, shapes: Any, rate: float, decay: float, scale: float) -> None:
        self.rng = np.random.default_rng(0)
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "run"
        self.shapes = shapes
        self.arguments = {"learning_rate": rate, "weight_decay": decay, "loss_scale": scale}
        weights = [np.asarray(self.rng.standard_normal(s), np.float32) for s in shapes]
        self.model = Model(weights, rate, decay, scale)
        self.saved: Model | None = None
        self.kept: tuple[dict[str, Any], Model] | None = None
        self.build(ao.AdamOffload, "numpy", "propagate", threads=1)

    def build(self, kind: Any, device: str, policy: str, *, threads: int) -> None:
        """Make an optimizer at the beginning of a run, with the model's weights."""
        size = 16 * sum(w.size for w in self.model.w) + REST
        self.device = (
            LazyBackend(size) if device == "lazy" else ao.get_backend(device, memory_bytes=size)
        )
        self.parameters = [
            ao.Parameter(self.device.asarray(w), f"p{i}") for i, w in enumerate(self.model.w)
        ]
        options: dict[str, Any] = {"on_nonfinite": policy, "use_locking": True, **self.arguments}
        if kind is ao.AdamOffload:
            options |= {"chunk_bytes": 16, "threads": threads}
        self.policy = policy
        self.optimizer = kind(self.parameters, **options)

    def gradients(self) -> list[Any]:
        return [np.asarray(self.rng.standard_normal(s), np.float32) for s in self.shapes]

    def call(self, gradients: list[Any]) -> Any:
        return self.optimizer([self.device.asarray(g) for g in gradients])

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    # -- steps ------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 3))
    def step(self, count: int) -> None:
        for _ in range(count):
            gradients = self.gradients()
            assert self.call(gradients) == (True,) * len(self.shapes)
            with np.errstate(all="ignore"):
                self.model.step(gradients)

    @rule(bad=st.sampled_from([np.nan, -np.inf]))
    def bad_numbers(self, bad: float) -> None:
        gradients = self.gradients()
        gradients[-1][...] = bad
        found = self.optimizer.nonfinite_steps
        if self.policy == "raise":
            with pytest.raises(FloatingPointError, match=f"'p{len(self.shapes) - 1}'"):
                self.call(gradients)
        elif self.policy == "skip":
            assert self.call(gradients) == (False,) * len(self.shapes)
        assert self.optimizer.nonfinite_steps == found + (self.policy != "propagate")

    @rule()
    def bad_gradients(self) -> None:
        with pytest.raises(ValueError, match="shape"):
            self.call([g.reshape(*g.shape, 1) for g in self.gradients()])

    @rule(rate=st.sampled_from([0.0, 0.001, 0.25]))
    def assign_a_rate(self, rate: float) -> None:
        self.optimizer.learning_rate = rate
        for adam in self.model.adam:
            adam.lr = np.float32(rate)

    @rule(count=st.integers(2, 3))
    def threads(self, count: int) -> None:
        gradients = self.gradients()
        given = [self.device.asarray(g) for g in gradients]
        threads = [threading.Thread(target=self.optimizer, args=(given,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            self.model.step(gradients)

    # -- saving and loading -----------------------------------------------------------------------

    @rule()
    def keep_the_state(self) -> None:
        self.kept = self.optimizer.state_dict(), deepcopy(self.model)

    @precondition(lambda self: self.kept is not None)
    @rule()
    def load_the_state(self) -> None:
        assert self.kept is not None
        self.optimizer.load_state_dict(self.kept[0])
        self.model.take(self.kept[1], weights=False)

    @rule()
    def save(self) -> None:
        ao.save(self.path, self.optimizer)
        self.saved = deepcopy(self.model)

    @precondition(lambda self: self.saved is not None)
    @rule()
    def load(self) -> None:
        assert self.saved is not None
        ao.load(self.path, self.optimizer)
        self.model.take(self.saved, weights=True)

    @rule(
        kind=st.sampled_from([ao.AdamOffload, ao.Adam]),
        device=st.sampled_from([*faults.DEVICES]),
        policy=st.sampled_from(["propagate", "raise", "skip"]),
        threads=st.integers(1, 2),
    )
    def move(self, kind: Any, device: str, policy: str, threads: int) -> None:
        self.save()
        used = self.device.memory().used
        weights = 4 * sum(w.size for w in self.model.w)
        old = self.device
        self.build(kind, device, policy, threads=threads)
        assert old.memory().used == 0 < weights <= used  # the old optimizer is gone
        ao.load(self.path, self.optimizer)

    # -- failure ----------------------------------------------------------------------------------

    @rule(
        hook=st.sampled_from(["_d2h", "_h2d", "run_on_device", "run_on_host"]),
        mode=st.sampled_from(["issue", "done"]),
        k=st.integers(0, 4),
    )
    def the_device_fails(self, hook: str, mode: str, k: int) -> None:
        gradients = self.gradients()
        given = [self.device.asarray(g) for g in gradients]
        device = self.device
        broken = faults.Broken(hook, mode, k, SimpleNamespace(device=device))  # type: ignore[arg-type]
        try:
            with broken.armed():
                self.optimizer(given)
        except faults.Fault:
            delattr(device, hook)
            self.after_a_failure()
        else:
            delattr(device, hook)
            self.model.step(gradients)

    @rule()
    def the_device_is_full(self) -> None:
        gradients = self.gradients()
        given = [self.device.asarray(g) for g in gradients]
        memory = self.device.memory()
        assert memory.limit is not None
        filler = self.device.asarray(np.zeros(memory.limit - memory.used, np.int8))
        try:
            self.optimizer(given)
            self.device.synchronize()
            lost = (
                self.optimizer._pipeline.settle()
            )  # a lazy device has not been asked for memory yet
            if lost:
                raise lost[0].error
        except ao.DeviceMemoryError:
            del filler
            self.after_a_failure()
        else:
            self.model.step(gradients)

    def after_a_failure(self) -> None:
        """See whether the optimizer goes on; if it refuses, take what was saved, or begin anew."""
        with suppress(RuntimeError):
            self.optimizer.state_dict()
            return
        for refused in (
            lambda: self.call(self.gradients()),
            lambda: ao.save(self.path, self.optimizer),
        ):
            with pytest.raises(RuntimeError, match="no longer belong together"):
                refused()
        if self.saved is not None:
            self.load()
            return
        a = self.arguments
        self.model = Model(self.model.w, a["learning_rate"], a["weight_decay"], a["loss_scale"])
        self.build(type(self.optimizer), "numpy", self.policy, threads=1)
        self.kept = None

    @invariant()
    def it_equals_the_model(self) -> None:
        model, optimizer = self.model, self.optimizer
        assert optimizer.global_step == model.steps
        for p, w, adam in zip(self.parameters, model.w, model.adam, strict=True):
            assert (optimizer.beta1_power, optimizer.beta2_power) == (adam.power1, adam.power2)
            assert optimizer.learning_rate == adam.lr
            for ours, theirs in (
                (p.data, w),
                (optimizer.moment1[p.name], adam.m),
                (optimizer.moment2[p.name], adam.v),
            ):
                host = self.device.asnumpy(ours) if self.device.owns(ours) else ours
                assert host.tobytes() == theirs.tobytes()


TestTraining = Training.TestCase
TestTraining.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, derandomize=True
)
