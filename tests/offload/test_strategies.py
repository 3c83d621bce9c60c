"""Where a thing runs never changes what it computes: strategies, rules, devices, programs."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adamoffload as ao
from adamoffload.offload.transfer import on_host
from adamoffload.plan.formats import dtype_of

from plain import Plain

RULES = {name: getattr(ao.rules, name) for name in ao.rules.__all__}
UNSHIPPED = (
    ao.Strategy(name="every second", state="host", every=2),
    ao.Strategy(name="disk to device", state="disk", arithmetic="device"),
)
IN_16_BITS = ("bf16-only", "bf16-stochastic", "bf16-kahan")
OTHER_NUMBERS = ("zero-offload-delayed", "resident-8bit", *IN_16_BITS)
STRATEGIES = {
    **{name: strategy for name, strategy in ao.strategies.items() if name not in OTHER_NUMBERS},
    **{strategy.name: strategy for strategy in UNSHIPPED},
}
LANES = ("d2h", "h2d", "read", "write")


@dataclass(frozen=True)
class HalvesTheSign(ao.Rule):
    """A stranger's rule: two slots, one of them used only now and then."""

    learning_rate: Any = 1e-2
    beta: float = 0.5
    weight_decay: Any = 0.0

    slots = ("mean", "peak")
    squares = ("peak",)
    decay = "decoupled"

    def scalars(self, lr: Any, t: int) -> dict[str, Any]:
        return {"lr": lr / math.sqrt(t), "beta": self.beta}

    def update(self, g: Any, mean: Any, peak: Any, *, lr: Any, beta: Any) -> Any:
        mean = beta * mean + (1 - beta) * g
        peak = np.maximum(peak, g * g)
        return -lr * np.sign(mean) * peak, mean, peak


ALL_RULES = {**RULES, "a stranger's": HalvesTheSign}


def on_disk(strategy: ao.Strategy, rule: ao.Rule, directory: str) -> dict[str, str]:
    """Return the options that a strategy needs for the disk."""
    uses = any(home == "disk" for _, home, _ in strategy.kept(rule))
    return {"directory": directory} if uses else {}


class Run:
    """An optimizer under a strategy, and what it should do."""

    def __init__(
        self,
        rule: ao.Rule,
        shapes: list[tuple[int, ...]],
        strategy: str | ao.Strategy,
        backend: str = "numpy",
        groups: list[dict[str, Any]] | None = None,
        weights: Any = np.float32,
        accumulate: int = 1,
        **options: Any,
    ) -> None:
        self.device = ao.get_backend(backend)
        self.rng = np.random.default_rng(0)
        self.dtype, self.accumulate = np.dtype(weights), accumulate
        values = [self.drawn(shape) for shape in shapes]
        self.parameters = [
            ao.Parameter(self.device.asarray(x), f"p{i}") for i, x in enumerate(values)
        ]
        self.ledger = ao.Ledger()
        params: list[Any] = list(self.parameters)
        self.lr = {p.name: rule.learning_rate for p in self.parameters}
        self.decay = {p.name: rule.weight_decay for p in self.parameters}
        if groups:
            params = [dict(group, params=[]) for group in groups]
            for i, p in enumerate(self.parameters):
                group = params[i % len(params)]
                group["params"].append(p)
                self.lr[p.name] = group.get("lr", self.lr[p.name])
                self.decay[p.name] = group.get("weight_decay", self.decay[p.name])
            params = [group for group in params if group["params"]]
            params.append({"order_params": self.parameters})
        named = STRATEGIES[strategy] if isinstance(strategy, str) else strategy
        self.folder = tempfile.TemporaryDirectory()
        options |= on_disk(named, rule, self.folder.name)
        self.optimizer = ao.Optimizer(
            params, rule, strategy=named, ledger=self.ledger, accumulate=accumulate, **options
        )
        form: Any = self.dtype.name
        rounded = named.master_home(form) is None or named.master_as == "weights"
        self.plain = Plain(
            rule,
            {p.name: x for p, x in zip(self.parameters, values, strict=True)},
            loss_scale=options.get("loss_scale", 1.0),
            max_norm=options.get("max_norm"),
            master=form == "float32" or not rounded,
            scaled=named.holds_back(accumulate),
        )
        self.moved = 0
        self.before = self.device.traffic()

    def drawn(self, shape: tuple[int, ...]) -> Any:
        return np.asarray(self.rng.standard_normal(shape, np.float32)).astype(self.dtype)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.optimizer.close()
        assert not os.listdir(self.folder.name)
        self.folder.cleanup()

    def step(self, absent: frozenset[int] = frozenset(), *, submit: bool = False) -> None:
        total: dict[str, Any] = {}
        for _ in range(self.accumulate):
            given = {
                p.name: self.drawn(p.shape)
                for i, p in enumerate(self.parameters)
                if i not in absent and p.name not in self.optimizer.counters.frozen
            }
            for name, g in given.items():
                total[name] = (total[name] + g).astype(self.dtype) if name in total else g
            on_device = {name: self.device.asarray(g) for name, g in given.items()}
            if submit and given:
                for name in self.rng.permutation([*given]):
                    self.optimizer.submit(str(name), on_device[str(name)])
                moved = self.optimizer.step()
            else:
                moved = self.optimizer(on_device)
        given = total
        assert moved == tuple(p.name in given for p in self.parameters)
        if given:
            self.plain.step(given, self.lr, self.decay)
        chosen = self.optimizer.strategy.chosen([p.size for p in self.parameters])
        self.moved += sum(
            self.parameters[i].size for i in chosen if self.parameters[i].name in given
        )

    def check(self) -> None:
        """Compare every bit, and every byte."""
        found = {key: on_host(self.device, x) for key, x in self.optimizer.state.arrays().items()}
        for key, expected in self.plain.arrays().items():
            np.testing.assert_array_equal(found[key], expected, err_msg=str(key))
            nan, bits = np.isnan(expected), f"i{expected.dtype.itemsize}"
            assert found[key].dtype == expected.dtype
            np.testing.assert_array_equal(
                found[key][~nan].view(bits), expected[~nan].view(bits), err_msg=str(key)
            )
        for name, master in self.optimizer.master.items():
            np.testing.assert_array_equal(on_host(self.device, master), self.plain.master[name])
        predicted = self.optimizer.strategy.bytes_per_parameter(
            self.optimizer.rule,
            self.dtype.name,
            self.accumulate,
        )
        for lane in LANES:
            counted = sum(e.nbytes for e in self.ledger.events if e.hop == lane and e.step)
            assert counted == predicted[lane] * self.moved, lane


problems = st.fixed_dictionaries(
    {
        "shapes": st.lists(
            st.sampled_from([(), (1,), (7,), (3, 5), (64,), (2, 3, 4)]), min_size=1, max_size=6
        ),
        "strategy": st.sampled_from([*STRATEGIES]),
        "fraction": st.sampled_from([1.0, 0.5, 0.0]),
        "minimum_size": st.sampled_from([0, 10]),
        "chunk_bytes": st.sampled_from([4, 12, 100, 1 << 20]),
        "slots": st.integers(1, 4),
        "threads": st.integers(1, 2),
        "engine": st.sampled_from(["numpy", "auto"]),
        "backend": st.sampled_from(["numpy", "sim"]),
        "loss_scale": st.sampled_from([1.0, 1.0, 8.0]),
        "groups": st.none()
        | st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "lr": st.sampled_from([0.0, 0.5]),
                    "weight_decay": st.sampled_from([0.0, 0.25]),
                },
            ),
            min_size=1,
            max_size=3,
        ),
        "absent": st.lists(st.frozensets(st.integers(0, 5)), min_size=1, max_size=5),
        "submit": st.booleans(),
    }
)


@pytest.mark.parametrize("name", ALL_RULES)
@settings(deadline=None, max_examples=40, derandomize=True)
@given(problem=problems)
def test_every_strategy_computes_the_bits_and_moves_the_bytes(
    name: str, problem: dict[str, Any]
) -> None:
    problem = dict(problem)
    absent, submit = problem.pop("absent"), problem.pop("submit")
    strategy = replace(
        STRATEGIES[problem.pop("strategy")],
        fraction=problem.pop("fraction"),
        minimum_size=problem.pop("minimum_size"),
    )
    rule = ALL_RULES[name](learning_rate=0.125, weight_decay=0.25)
    with Run(rule, problem.pop("shapes"), strategy, **problem) as run:
        for gone in absent:
            run.step(gone, submit=submit)
        run.check()


IN_16_BITS_TOO = [name for name, strategy in STRATEGIES.items() if strategy.master is not None]

more = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from([*IN_16_BITS_TOO, "bf16-only"]),
        "weights": st.sampled_from(["bfloat16", "float16", "float32"]),
        "accumulate": st.integers(1, 3),
        "max_norm": st.sampled_from([None, 0.5, 100.0]),
        "loss_scale": st.sampled_from([1.0, 8.0]),
        "chunk_bytes": st.sampled_from([12, 100, 1 << 20]),
        "slots": st.integers(1, 3),
        "fraction": st.sampled_from([1.0, 0.5]),
        "minimum_size": st.sampled_from([0, 10]),
        "engine": st.sampled_from(["numpy", "auto"]),
        "backend": st.sampled_from(["numpy", "sim"]),
        "submit": st.booleans(),
        "absent": st.lists(st.frozensets(st.integers(0, 2)), min_size=1, max_size=3),
        "sum_in": st.sampled_from([None, "resent", "round trip", "host"]),
    }
)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "a stranger's"])
@settings(deadline=None, max_examples=40, derandomize=True)
@given(problem=more)
def test_16_bits_micro_steps_and_clipping_compute_the_bits_and_move_the_bytes(
    name: str, problem: dict[str, Any]
) -> None:
    problem = dict(problem)
    absent, submit = problem.pop("absent"), problem.pop("submit")
    strategy = {**STRATEGIES, **ao.strategies}[problem.pop("strategy")]
    weights, sum_in = dtype_of(problem.pop("weights")), problem.pop("sum_in")
    changed = {"fraction": problem.pop("fraction"), "minimum_size": problem.pop("minimum_size")}
    if sum_in and strategy.arithmetic == "host":
        changed["sum_in"] = sum_in
    strategy = replace(strategy, **changed)
    if strategy.holds_back(problem["accumulate"]):
        problem["max_norm"] = None  # refused
    if strategy.usual_weights != "float32":
        weights = dtype_of("bfloat16")
    rule = ALL_RULES[name](learning_rate=0.125, weight_decay=0.25)
    with Run(rule, [(3, 5), (7,), (2, 3, 4)], strategy, weights=weights, **problem) as run:
        for gone in absent:
            run.step(gone, submit=submit)
        run.check()


@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ALL_RULES)
def test_denormals_become_zero_under_every_strategy(name: str, strategy: str, engine: str) -> None:
    if engine == "numba":
        pytest.importorskip("numba")
    rule = ALL_RULES[name](learning_rate=0.125)
    with Run(rule, [(40,), (3,)], strategy, engine=engine, chunk_bytes=64) as run:
        for _ in range(66):
            run.rng = np.random.default_rng(1)
            run.step()
        run.check()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_memory_is_where_the_strategy_says(strategy: str) -> None:
    rule = ao.rules.Adam()
    with Run(rule, [(1000,), (24,)], strategy, chunk_bytes=400) as run:
        used, chosen = run.optimizer.memory(), STRATEGIES[strategy].chosen([1000, 24])
        size = sum((1000, 24)[i] for i in chosen)
        per_parameter = STRATEGIES[strategy].memory_per_parameter(rule, "float32")
        resident = ao.strategies["resident"].memory_per_parameter(rule, "float32")
        for place, nbytes in (("device", used.device), ("host", used.host), ("disk", used.disk)):
            staging = sum(
                h.nbytes
                for h in used.holdings
                if h.kind == "staging"
                and (h.place == place or (h.place, place) == ("pinned", "host"))
            )
            expected = per_parameter[place] * size + resident[place] * (1024 - size)
            assert nbytes - staging == expected, place
        gradients = 4 * 1024
        assert run.device.memory().used == used.device - gradients


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_moves_on_to_another_strategy_bitwise(strategy: str) -> None:
    rule = ao.rules.Adam(learning_rate=0.1, weight_decay=0.1)
    with Run(rule, [(30,), (5,)], "adam-offload", chunk_bytes=40) as run:
        for other in (strategy, "resident", "zero-offload", strategy):
            run.step(frozenset([1]))
            run.step()
            new = STRATEGIES[other]
            run.optimizer.to(new, **on_disk(new, rule, run.folder.name))
            run.moved, run.ledger = 0, ao.Ledger()  # the bytes are another test's
        run.check()
        assert str(run.optimizer.strategy.name) == strategy


def test_an_older_optimizer_of_a_parameter_is_refused() -> None:
    with Run(ao.rules.Adam(), [(3,), (2,)], "adam-offload") as run:
        newer = ao.Optimizer(run.parameters[1:], ao.rules.Adam())
        with pytest.raises(
            RuntimeError, match="another optimizer was constructed on parameter 'p1'"
        ):
            run.step()
        assert run.optimizer.global_step == 0
        assert newer([run.device.asarray(np.ones(2, np.float32))]) == (True,)
